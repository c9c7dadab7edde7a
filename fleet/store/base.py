"""The connection to ValKey, the names of Fleet's keys and the Lua scripts."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

DELIBERATIONS = "fleet:deliberations"
PLANS = "fleet:plans"
COUNCILS = "fleet:councils"
DUE = "fleet:due"
FINISHED = "fleet:finished"
EVENTS = "fleet:events"
KEYS = "fleet:keys"
DEAD_LETTERS = "fleet:deadletters"
QUEUES = "fleet:queues"
BREAKERS = "fleet:breakers"
UNACKED = "unacked"  # kombu's own hash of the messages that workers hold


def deliberation_key(id: str) -> str:
    return f"fleet:deliberation:{id}"


def answers_key(id: str) -> str:
    return f"fleet:deliberation:{id}:answers"


def attempts_key(id: str) -> str:
    return f"fleet:deliberation:{id}:attempts"


def events_key(id: str) -> str:
    return f"fleet:deliberation:{id}:events"


def unstarted_key(lane: str) -> str:
    return f"fleet:unstarted:{lane}"


def watermark_key(lane: str) -> str:
    return f"fleet:watermark:{lane}"


def connect(url: str, tls: Mapping[str, Any] = MappingProxyType({})) -> "redis.Redis":
    """A client for the ValKey at `url`; short of a second of retries, then redis.exceptions.ConnectionError.

    `tls` is what `valkey_tls` says. Every script may be sent again after a lost answer: each of them changes the state
    once only.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=10,
        socket_connect_timeout=3,
        socket_keepalive=True,
        health_check_interval=25,
        retry=Retry(ExponentialBackoff(cap=0.3, base=0.05), retries=3),
        **tls,
    )


def connect_to_probe(url: str, tls: Mapping[str, Any], timeout_s: float) -> "redis.Redis":
    """A client that says soon whether the ValKey at `url` answers, and does not try again."""
    return redis.Redis.from_url(
        url, decode_responses=True, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=None, **tls
    )


def now_ms(client: "redis.Redis") -> int:
    """ValKey's clock in Unix milliseconds: the only one that all machines share, and the one that deadlines go by."""
    seconds, microseconds = cast(list[int], client.time())
    return int(seconds) * 1000 + int(microseconds) // 1000


@cache
def _source(name: str) -> str:
    folder = Path(__file__).parent / "lua"
    return (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()


class Scripts:
    """`scripts.run("finish", keys, args)` runs `lua/finish.lua`, by its hash when the server knows it."""

    def __init__(self, client: "redis.Redis"):
        self._client = client
        self._scripts: dict[str, Any] = {}

    def run(self, name: str, keys: list[str], args: list[Any], pipeline: Any = None) -> Any:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self._client.register_script(_source(name))
        return script(keys=keys, args=args, client=pipeline)
