"""Who may call the API: the bearer of the key; without a configured key, this machine only."""

import hashlib
import hmac
import ipaddress

from flask import request

from fleet.api import problems
from fleet.api.problems import Refused
from fleet.settings import Settings


def authenticate(settings: Settings) -> None:
    """Raises: Refused (401 no or wrong key, 403 no key configured and the caller is on another machine)."""
    if key := settings.api_key.get_secret_value():
        _check_key(key)
    elif not is_local(request.remote_addr or ""):
        raise Refused(problems.FORBIDDEN, "without a configured key, the API answers callers on its own machine only")


def _check_key(key: str) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(_hash(given.strip()), _hash(key)):
        challenge = {"WWW-Authenticate": 'Bearer realm="fleet"'}
        raise Refused(problems.UNAUTHORIZED, problems.UNAUTHORIZED.meaning, headers=challenge)


def _hash(text: str) -> bytes:
    """Makes both sides equally long, so that the comparison's time tells nothing."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def is_local(host: str) -> bool:
    """True for a loopback address, `localhost`, and the empty host of a Unix socket's peer."""
    if host in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
