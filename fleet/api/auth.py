"""Who may call the API: the bearer of a key, for what its scopes cover.

Without a configured key, callers on this machine only: without any key to do everything, with one to do what that one
may. A proxy's callers are strangers even if the proxy is here, and so is a web page that gave this machine a name of
its own (DNS rebinding).
"""

import contextlib
import hashlib
import hmac
import ipaddress
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import request
from redis.exceptions import RedisError

from fleet.api import problems
from fleet.api.problems import Refused
from fleet.api.services import services
from fleet.settings import Settings
from fleet.store.keys import Keys, Scope

_FROM_PROXIES = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
_REALM = 'Bearer realm="fleet"'


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request: the id of the key, or what stands for it."""

    key_id: str
    scopes: tuple[Scope, ...]


CONFIGURED = Caller("configured", (Scope.ADMIN,))
LOCAL = Caller("local", (Scope.ADMIN,))


def authenticate(settings: Settings) -> Caller:
    """The caller. A key that is presented is always checked; the configured one needs no ValKey.

    Raises: Refused (401 no or wrong key, 403 no key configured and the caller may be on another machine).
    """
    configured = settings.api_key.get_secret_value()
    if not configured and not _from_here():
        detail = "without a configured key, the API answers callers on its own machine only, and no proxy's"
        raise Refused(problems.FORBIDDEN, detail)
    if configured or "Authorization" in request.headers:
        return _bearer(configured)
    return LOCAL


def _from_here() -> bool:
    through_proxy = any(header in request.headers for header in _FROM_PROXIES)
    return is_local(request.remote_addr or "") and is_local(_asked_host()) and not through_proxy


def _asked_host() -> str:
    try:
        return urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return "no host"


def _bearer(configured: str) -> Caller:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        if configured and hmac.compare_digest(_hash(given.strip()), _hash(configured)):
            return CONFIGURED
        if key := services().store.keys.find(given.strip()):
            return Caller(key.key_id, key.scopes)
    raise Refused(problems.UNAUTHORIZED, problems.UNAUTHORIZED.meaning, headers={"WWW-Authenticate": _REALM})


def authorize(caller: Caller, needed: Scope) -> None:
    """Raises: Refused (403) when none of the caller's scopes covers the one needed."""
    if not any(scope.covers(needed) for scope in caller.scopes):
        detail = f"needs scope {needed}, this key has {', '.join(caller.scopes)}"
        challenge = f'{_REALM}, error="insufficient_scope", scope="{needed}"'
        raise Refused(problems.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})


class Revoked:
    """Whether the caller's key was revoked; asks ValKey once in `every_s`, and while it is away nothing is revoked."""

    def __init__(self, caller: Caller, keys: Keys, every_s: float = 2.0):
        self._caller, self._keys, self._every_s = caller, keys, every_s
        self._ask_at = time.monotonic() + every_s

    def __call__(self) -> bool:
        if self._caller in (CONFIGURED, LOCAL) or time.monotonic() < self._ask_at:
            return False
        self._ask_at = time.monotonic() + self._every_s
        with contextlib.suppress(RedisError):
            return not self._keys.exists(self._caller.key_id)
        return False


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
