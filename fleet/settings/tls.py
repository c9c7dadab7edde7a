"""TLS: which certificates Fleet trusts and which it shows, for each of its servers."""

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

if TYPE_CHECKING:
    from fleet.settings.tree import Settings

# Settings whose files only make sense with a URL that asks for TLS.
_SCHEMES = {"valkey": ("rediss",), "nats": ("tls",), "neo4j": ("bolt+s", "neo4j+s")}
_URLS = {"valkey": "valkey_url", "nats": "nats_url", "neo4j": "neo4j_uri"}


def _there(path: Path) -> Path:
    path = path.expanduser().absolute()
    try:
        there = path.is_file()
    except OSError as error:  # of a folder above it
        raise ValueError(f"{path} may not be read: {error.strerror}") from None
    if not there:
        raise ValueError(f"there is no file {path}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} may not be read")
    return path


def _trusted(path: Path) -> Path:
    found = _there(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(found)
    except ssl.SSLError:
        raise ValueError(f"there is no certificate in PEM in {path}") from None
    return found


def _seed(path: Path) -> Path:
    found = _there(path)
    if not re.fullmatch(r"\s*SU[A-Z2-7]{56}\s*", found.read_text(errors="replace")):
        raise ValueError(f"{path} is not the seed of a user's nkey, which begins with SU")
    return found


def _credentials(path: Path) -> Path:
    found = _there(path)
    text = found.read_text(errors="replace")
    if not all(re.search(rf"-BEGIN {part}-+\s+\S+\s", text) for part in ("NATS USER JWT", "USER NKEY SEED")):
        raise ValueError(f"{path} has not both a user's JWT and the seed of its nkey, as nsc writes them")
    return found


# All are checked as the settings are read, and are absolute from then on.
ReadableFile = Annotated[Path, AfterValidator(_there)]
CaFile = Annotated[Path, AfterValidator(_trusted)]
NkeyFile = Annotated[Path, AfterValidator(_seed)]
CredentialsFile = Annotated[Path, AfterValidator(_credentials)]


def faults(settings: "Settings") -> Iterator[str]:
    """What contradicts what."""
    for server, schemes in _SCHEMES.items():
        given = [name for kind in ("ca", "cert", "key") if getattr(settings, name := f"{server}_{kind}_file", None)]
        if given and not all(scheme in schemes for scheme in _schemes(settings, server)):
            wanted = " or ".join(f"{scheme}://" for scheme in schemes)
            yield f"{_variable(given[0])} is for {wanted}, and {_variable(_URLS[server])} has another scheme"
        yield from _unpaired(settings, server)
    if settings.nats_nkey_file and settings.nats_creds_file:
        yield "FLEET_NATS_NKEY_FILE and FLEET_NATS_CREDS_FILE are two ways to log in: set one of them"


def _schemes(settings: "Settings", server: str) -> list[str]:
    url = getattr(settings, _URLS[server])
    text = url if isinstance(url, str) else url.get_secret_value()
    return [one.partition("://")[0] for one in (text.split(",") if server == "nats" else [text])]


def _unpaired(settings: "Settings", server: str) -> Iterator[str]:
    cert, key = (getattr(settings, f"{server}_{kind}_file", None) for kind in ("cert", "key"))
    if key and not cert:
        yield f"{_variable(f'{server}_key_file')} needs {_variable(f'{server}_cert_file')}"
    elif cert:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
        except (ssl.SSLError, OSError):
            names = f"{_variable(f'{server}_cert_file')} and {_variable(f'{server}_key_file')}"
            yield f"{names} are not a certificate and its key, in PEM and without a passphrase"


def _variable(name: str) -> str:
    return f"FLEET_{name.upper()}"


def valkey_tls(settings: "Settings") -> Mapping[str, Any]:
    """What every client of ValKey is given besides the URL, by redis-py's names; empty without TLS.

    The server's certificate is verified, and its name, unless the URL itself says otherwise.
    """
    if _schemes(settings, "valkey") != ["rediss"]:
        return {}
    files = {
        "ssl_ca_certs": settings.valkey_ca_file,
        "ssl_certfile": settings.valkey_cert_file,
        "ssl_keyfile": settings.valkey_key_file,
    }
    given = {name: str(path) for name, path in files.items() if path}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **given}


def nats_tls(settings: "Settings") -> ssl.SSLContext:
    """What the connection to NATS trusts and shows; it is used when the URL or the server asks for TLS."""
    context = ssl.create_default_context(cafile=settings.nats_ca_file)
    if settings.nats_cert_file:
        context.load_cert_chain(settings.nats_cert_file, settings.nats_key_file)
    return context
