"""Keeps secrets out of what is shown and logged: those that are known, and whatever looks like one."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from fleet.settings import Settings

HIDDEN = "***"
SHORTEST = 4  # characters; to hide what is shorter would hide half of every text
# Whatever has a name that ends like one of these is a secret.
_NAMES = (
    "authorization",
    *("password", "passwd", "secret", "token"),
    *("api_key", "api-key", "apikey", "engine_key", "signing_key"),
)
_USER_AND_PASSWORD = re.compile(r"://([^/?#\s@:'\"]*)(:[^/?#\s'\"]*)?@")
# The quotes may be escaped, for JSON is often inside a text. Of an Authorization header the scheme is shown if it is
# a known one; else it is hidden too, for it may be the secret.
_NAMED = re.compile(
    rf"""(?xai)
    (?P<shown>
        (?:{"|".join(_NAMES)}) (?P<header>(?<=authorization))?
        \\{{0,64}}['"]? [ \t]* [:=] [ \t]* (?:b? (?P<quote>\\{{0,64}}['"]))?
        (?(header) (?P<scheme>(?:bearer|basic|digest|token|apikey) [ \t]+)?)
    )
    (?(quote)
        (?: (?!(?P=quote)) (?:\\.|[^\\]) )+
    |
        (?(header) (?(scheme) | (?:[\w-]+ [ \t]+)?)) (?!\\+['"]) [^\s&'"]+
    )""",
    re.DOTALL,
)
_BEARER = re.compile(r"(?ai)(\bbearer\s+)[\w.~+/=-]{16,}")
_FLEETS = re.compile(r"(fleet_[0-9a-f]{12}_)[0-9a-f]{64}")  # fleet.store.keys
# One look for these, in lower case, tells of most texts that there is nothing to hide; a worker logs hundreds a second.
_SIGNS = (*_NAMES, "bearer", "fleet_", "://")


def without_password(text: str) -> str:
    """The text with the passwords of its URLs hidden, and the user of one without a password, for that is a token."""
    return _NAMED.sub(rf"\g<shown>{HIDDEN}", _USER_AND_PASSWORD.sub(_userinfo, text))


def _userinfo(found: "re.Match[str]") -> str:
    user, password = found.groups()
    return f"://{user}:{HIDDEN}@" if password else f"://{HIDDEN}@"


def secrets_of(settings: Settings) -> set[str]:
    """Every secret of the settings, those inside URLs too."""
    keys = (settings.api_key, settings.engine_key, settings.neo4j_password)
    urls = [*settings.nats_url.get_secret_value().split(","), settings.valkey_url.get_secret_value()]
    return (
        {key.get_secret_value() for key in keys}
        | set(settings.signing_keys)
        | {secret for url in urls for secret in _in_url(url)}
    )


def _in_url(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    secret = parts.password or parts.username or ""
    yield from (secret, unquote(secret))
    yield from (value for name, value in parse_qsl(parts.query) if _secret(name))


class Mask:
    """Hides `secrets`, however they are escaped, the passwords of URLs, Fleet's keys, and what has a secret's name."""

    def __init__(self, secrets: Iterable[str]):
        once = {form for secret in secrets if len(secret) >= SHORTEST for form in _forms(secret)}
        forms = {form for escaped in once for form in _forms(escaped)}
        longest_first = sorted(forms, key=len, reverse=True)
        known = "|".join(map(re.escape, longest_first))
        self._known = re.compile(known) if forms else None

    def text(self, text: str) -> str:
        if self._known:
            text = self._known.sub(HIDDEN, text)
        folded = text.lower()
        for sign in _SIGNS:  # in half the time of any()
            if sign in folded:
                return _BEARER.sub(rf"\1{HIDDEN}", without_password(_FLEETS.sub(rf"\1{HIDDEN}", text)))
        return text

    def value(self, value: Any) -> Any:
        """The same for whatever a log event may hold; other objects become their repr."""
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.entry(str(key), inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(inner) for inner in value]
        return self.text(repr(value))

    def entry(self, key: str, value: Any) -> Any:
        """The value under a key, whose name alone may tell that it is a secret."""
        return HIDDEN if value and _secret(key) else self.value(value)


@lru_cache(maxsize=1024)
def _secret(name: str) -> bool:
    return name.lower().rstrip("'\"").endswith(_NAMES)


def _forms(secret: str) -> set[str]:
    """How a secret may stand in a text: as it is, or escaped for JSON, Python or a URL."""
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret), quote(secret, safe="")}
