"""Signatures of task messages: without a key nobody makes a worker run anything, whatever they write to the broker."""

# mypy: disable-error-code="no-untyped-call"

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from celery.signals import before_task_publish
from kombu.utils.json import dumps

#: Message header with the HMAC-SHA256, in hexadecimal, of what decides what runs.
HEADER = "signature"
# Celery's and this package's; the others are for people and for logs.
SIGNED = (
    *("task", "id", "root_id", "parent_id", "group", "group_index", "chord_body_of", "ignore_result"),
    *("eta", "expires", "retries", "timelimit", "replaced_task_nesting"),
)


class Signer:
    """Signs with the first of its keys and accepts what any of them signed, so that keys can be replaced one by one."""

    def __init__(self, keys: Sequence[str]):
        if not keys:
            raise ValueError("there is no key to sign with")
        self._keys = [key.encode() for key in keys]

    def sign(self, data: bytes) -> str:
        return _hmac(self._keys[0], data)

    def verifies(self, data: bytes, signature: Any) -> bool:
        if not isinstance(signature, str):
            return False
        given = signature.encode(errors="replace")
        return any(hmac.compare_digest(_hmac(key, data).encode(), given) for key in self._keys)

    def accepts(self, message: Any) -> bool:
        """Whether a message that was received, whose body is JSON, has a signature of one of the keys."""
        headers = message.headers
        return self.verifies(_canonical(headers, json.loads(message.body)), headers.get(HEADER))

    def install(self) -> None:
        """Signs every task message that this process publishes."""
        before_task_publish.connect(self._sign_message, weak=False)

    def _sign_message(self, body: Any, headers: dict[str, Any], **_: Any) -> None:
        headers[HEADER] = self.sign(_canonical(headers, json.loads(dumps(body))))


def _canonical(headers: Mapping[str, Any], body: Any) -> bytes:
    """The same for what is published and for what is received: tuples are lists by then, and keys are text."""
    signed = {name: headers.get(name) for name in SIGNED}
    return json.dumps([json.loads(dumps(signed)), body], sort_keys=True, separators=(",", ":")).encode()


def _hmac(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()
