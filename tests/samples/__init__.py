"""What versions of Fleet keep in ValKey and send, as files: `v1/in_flight.json` and `v1/finished.json`."""

import json
from pathlib import Path
from typing import Any

import redis

FOLDER = Path(__file__).parent
_SECONDS, _MILLISECONDS = 1e9, 1e12  # below: no time

Snapshot = dict[str, Any]


def read(version: str, name: str) -> Snapshot:
    found: Snapshot = json.loads((FOLDER / version / f"{name}.json").read_text())
    return found


def write(snapshot: Snapshot, path: Path) -> None:
    path.write_text(json.dumps(snapshot, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def take(client: "redis.Redis", now_s: float) -> Snapshot:
    """Everything in a ValKey but what its workers say about themselves."""
    keys = sorted(key for key in client.scan_iter() if not key.startswith("fleet:worker:"))
    return {"taken_at_s": now_s, "keys": {key: _value(client, key) for key in keys}}


def put(snapshot: Snapshot, client: "redis.Redis", now_s: float) -> None:
    """Writes it to an empty ValKey, as if it had been taken now: what was to be done in a second is again."""
    later_s = now_s - snapshot["taken_at_s"]
    for key, (kind, value) in snapshot["keys"].items():
        if kind == "string":
            client.set(key, value)
        elif kind == "hash":
            client.hset(key, mapping={name: _later(name, text, later_s) for name, text in value.items()})
        elif kind == "list":
            client.rpush(key, *value)
        elif kind == "set":
            client.sadd(key, *value)
        elif kind == "zset":
            client.zadd(key, {member: _moved(score, later_s) for member, score in value})
        elif kind == "stream":
            for id, fields in value:
                client.xadd(key, fields, id=id)


def _value(client: "redis.Redis", key: str) -> list[Any]:
    kind: Any = client.type(key)
    readers = {
        "string": lambda: client.get(key),
        "hash": lambda: client.hgetall(key),
        "list": lambda: client.lrange(key, 0, -1),
        "set": lambda: sorted(client.smembers(key)),  # type: ignore[arg-type]
        "zset": lambda: client.zrange(key, 0, -1, withscores=True),
        "stream": lambda: client.xrange(key),
    }
    return [kind, readers[kind]()]


def _later(name: str, text: str, later_s: float) -> str:
    return str(_moved(float(text), later_s)) if name == "deadline" else text


def _moved(score: float, later_s: float) -> float:
    if score < _SECONDS:
        return score
    return score + later_s * (1000 if score > _MILLISECONDS else 1)
