"""ValKey, NATS and Neo4j themselves, where this machine knows where they are."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import redis
from nats.errors import AuthorizationError, SecureConnWantedError
from nats.js import JetStreamContext
from nats.js.errors import ServiceUnavailableError

from fleet.bus.client import Client
from fleet.bus.process import login
from fleet.bus.servers import NATS_ERRORS
from fleet.bus.streams import STREAMS, compare
from fleet.cli.checkup.part import Part
from fleet.errors import NotKept, Unavailable
from fleet.graph import Graph
from fleet.settings import Settings
from fleet.settings.tls import valkey_tls
from fleet.store.base import connect_to_probe, now_ms
from fleet.store.durability import Durability

_TIMEOUT_S = 3.0
_MOST_SKEW_S = 5.0
_OLDEST_REDIS = (7, 0)
_LOGIN = "the user and the password"


def servers(settings: Settings) -> Iterator[Part]:
    """Each server whose address was set: a default may be nobody's."""
    known = settings.model_fields_set
    if "valkey_url" in known:
        yield from _valkey(settings)
    if "nats_url" in known and settings.nats_enabled:
        yield from asyncio.run(_nats(settings))
    if "neo4j_uri" in known:
        yield _neo4j(settings)


def _valkey(settings: Settings) -> Iterator[Part]:
    url = settings.valkey_url.get_secret_value()
    with connect_to_probe(url, valkey_tls(settings), _TIMEOUT_S) as client:
        try:
            info: Any = client.info()
            skew_s = time.time() - now_ms(client) / 1000
        except redis.AuthenticationError as error:
            yield Part("valkey server", False, f"refuses the login: {error}", f"check {_LOGIN} in FLEET_VALKEY_URL")
            return
        except redis.exceptions.NoPermissionError as error:
            yield Part("valkey server", False, f"refuses: {error}", "give the user +info and +time")
            return
        except redis.RedisError as error:
            yield _unreached("valkey", _place(url), str(error))
            return
        if settings.durability == "fsync":
            yield _valkey_durability(client)
    yield from _valkey_settings(info)
    remedy = "set the clocks of all machines by NTP: events and logs carry this machine's times"
    yield Part("clock", abs(skew_s) <= _MOST_SKEW_S, f"{skew_s:+.0f} s from ValKey's", remedy)


def _valkey_settings(info: dict[str, Any]) -> Iterator[Part]:
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    spoken = tuple(map(int, str(info.get("redis_version", "0.0")).split(".")[:2]))
    name = "ValKey" if "valkey_version" in info else "Redis"
    yield Part("valkey server", spoken >= _OLDEST_REDIS, f"{name} {version}", "install ValKey, or Redis 7.0 or newer")
    kept = bool(info.get("aof_enabled"))
    remedy = "set `appendonly yes` in its configuration: a restart forgets accepted work otherwise"
    yield Part("valkey appendonly", kept, "yes" if kept else "no", remedy)
    policy = str(info.get("maxmemory_policy", "noeviction"))
    remedy = "set `maxmemory-policy noeviction`: a full server deletes work otherwise"
    yield Part("valkey maxmemory-policy", policy == "noeviction", policy, remedy)


def _valkey_durability(client: "redis.Redis") -> Part:
    remedy = "set `appendonly yes` and `appendfsync always` in ValKey's configuration, or FLEET_DURABILITY=everysec"
    try:
        Durability(client, wanted=True).check()
    except (NotKept, redis.RedisError) as error:
        return Part("valkey durability", False, str(error), remedy)
    return Part("valkey durability", True, "fsync", remedy)


async def _nats(settings: Settings) -> list[Part]:
    async def silent(_: Exception) -> None:
        """Else the client prints a traceback."""

    url = settings.nats_url.get_secret_value()
    try:
        client = Client()
        await client.connect(
            url.split(","),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=int(_TIMEOUT_S),
            error_cb=silent,
            **login(settings),
        )
    except (*NATS_ERRORS, OSError) as error:
        if isinstance(error, AuthorizationError) or "authorization" in str(error).lower():
            remedy = f"check {_LOGIN} in FLEET_NATS_URL, FLEET_NATS_NKEY_FILE or FLEET_NATS_CREDS_FILE"
            return [Part("nats server", False, f"refuses the login: {error}", remedy)]
        if isinstance(error, SecureConnWantedError):
            remedy = "set up TLS on the server; FLEET_NATS_URL with nats:// is without"
            return [Part("nats server", False, f"{_place(url)} has no TLS", remedy)]
        return [_unreached("nats", _place(url), str(error) or type(error).__name__)]
    try:
        there = Part("nats server", True, f"NATS {client.connected_server_version}")
        return [there, *await _streams(client.jetstream(timeout=_TIMEOUT_S))]
    finally:
        await client.close()


async def _streams(js: JetStreamContext) -> list[Part]:
    try:
        await js.account_info()
    except (ServiceUnavailableError, *NATS_ERRORS) as error:
        remedy = "start it with `-js`, or a block `jetstream {}` in its configuration"
        return [Part("jetstream", False, f"it is off: {error or type(error).__name__}", remedy)]
    return [Part("jetstream", True, "on"), *[part for stream in STREAMS if (part := await _stream(js, stream))]]


async def _stream(js: JetStreamContext, stream: Any) -> Part | None:
    """A stream that is not as it should be; the listener makes one that is missing, and says why it cannot look."""
    try:
        found = compare(stream.config(), (await js.stream_info(stream.name)).config)
    except NATS_ERRORS:
        return None
    remedy = f"`nats stream edit {stream.name}`, or `nats stream rm {stream.name}`: the listener makes it anew"
    return Part(f"stream {stream.name}", False, found.detail, remedy) if found.state != "ok" else None


def _neo4j(settings: Settings) -> Part:
    try:
        with Graph.from_settings(settings, connection_timeout_s=_TIMEOUT_S, max_transaction_retry_s=0.1) as graph:
            graph.ping()
    except Unavailable as error:
        if "unauthorized" in error.reason.lower() or "authentication" in error.reason.lower():
            remedy = "check FLEET_NEO4J_USER and FLEET_NEO4J_PASSWORD"
            return Part("neo4j server", False, f"refuses the login: {error.reason}", remedy)
        return _unreached("neo4j", settings.neo4j_uri, error.reason)
    return Part("neo4j server", True, f"answers at {settings.neo4j_uri}")


def _unreached(server: str, place: str, reason: str) -> Part:
    name = server.upper()
    remedy = f"start it, or check host and port in FLEET_{name}_{'URI' if server == 'neo4j' else 'URL'}"
    if "certificate" in reason.lower():
        own = "" if server == "neo4j" else f", and FLEET_{name}_CERT_FILE if it asks for a certificate"
        remedy = f"set FLEET_{name}_CA_FILE to the certificates of who signed its{own}"
    return Part(f"{server} server", False, f"{place} does not answer: {reason}", remedy)


def _place(url: str) -> str:
    """Where it is, without the password."""
    parts = urlsplit(url.split(",")[0])
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
