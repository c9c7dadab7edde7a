"""Keeps secrets out of what is shown and logged: those that are known, and whatever looks like one."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from fleet.settings import Settings

HIDDEN = "***"
SHORTEST = 4  # characters; to hide what is shorter would hide half of every text
_USER_AND_PASSWORD = re.compile(r"://([^/?#\s@:'\"]*)(:[^/?#\s'\"]*)?@")
_NAMED = re.compile(r"(?i)([?&](?:password|passwd|token|secret|api_?key)=)[^&\s'\"]+")
_HEADER = re.compile(r"(?i)(\bauthorization\b['\"]?\s*[:=]\s*(?:b?['\"])?(?:(?:bearer|basic)\s+)?)[^\s'\",;}]+")
_BEARER = re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{16,}")
_KEYS = frozenset(("authorization", "password", "neo4j_password", "api_key", "engine_key", "secret", "token"))


def without_password(text: str) -> str:
    """The text with the passwords of its URLs hidden, and the user of one without a password, for that is a token."""
    return _NAMED.sub(rf"\1{HIDDEN}", _USER_AND_PASSWORD.sub(_userinfo, text))


def _userinfo(found: "re.Match[str]") -> str:
    user, password = found.groups()
    return f"://{user}:{HIDDEN}@" if password else f"://{HIDDEN}@"


def secrets_of(settings: Settings) -> set[str]:
    """Every secret of the settings, those inside URLs too."""
    keys = (settings.api_key, settings.engine_key, settings.neo4j_password)
    urls = [*settings.nats_url.get_secret_value().split(","), settings.valkey_url.get_secret_value()]
    return {key.get_secret_value() for key in keys} | {secret for url in urls for secret in _in_url(url)}


def _in_url(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    secret = parts.password or parts.username or ""
    yield from (secret, unquote(secret))
    yield from (value for name, value in parse_qsl(parts.query) if name in _KEYS)


class Mask:
    """Hides `secrets`, however they are escaped, the passwords of URLs, and what an Authorization header says."""

    def __init__(self, secrets: Iterable[str]):
        once = {form for secret in secrets if len(secret) >= SHORTEST for form in _forms(secret)}
        forms = {form for escaped in once for form in _forms(escaped)}
        longest_first = sorted(forms, key=len, reverse=True)
        known = "|".join(map(re.escape, longest_first))
        self._known = re.compile(known) if forms else None
        # One look tells of most texts that there is nothing to hide; a worker logs hundreds in a second.
        self._suspicious = re.compile("|".join(filter(None, (known, "://", "=", "(?i:authorization|bearer)"))))

    def text(self, text: str) -> str:
        if not self._suspicious.search(text):
            return text
        if self._known:
            text = self._known.sub(HIDDEN, text)
        text = without_password(text) if "://" in text or "=" in text else text
        return _BEARER.sub(rf"\1{HIDDEN}", _HEADER.sub(rf"\1{HIDDEN}", text))

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
        return HIDDEN if value and key.lower() in _KEYS else self.value(value)


def _forms(secret: str) -> set[str]:
    """How a secret may stand in a text: as it is, or escaped for JSON, Python or a URL."""
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret), quote(secret, safe="")}
