"""What a queue holds, read so that nothing in it can end whoever takes it."""

# mypy: disable-error-code="no-untyped-call"

import logging
from typing import Any

from kombu.transport import virtual
from kombu.utils.json import dumps, loads

logger = logging.getLogger(__name__)


class Message(virtual.Message):
    """A message, whatever it was made of: what kombu cannot read is one without headers, all of it being its body.

    Nothing is decompressed: Fleet never compresses, and a few bytes from somebody else could fill the memory.
    """

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        try:
            if headers := payload.get("headers"):
                headers.pop("compression", None)
            super().__init__(payload, channel=channel, **kwargs)
            if not isinstance(self.delivery_info, dict):
                raise TypeError("its delivery_info is no mapping")
        except Exception:
            logger.warning("A message is not one that kombu can read", exc_info=True)
            self.errors = []
            unread = _unread(dumps(payload).encode(), payload["properties"]["delivery_tag"])
            super().__init__(unread, channel=channel, **kwargs)


def tagged(raw: bytes, tag: str) -> dict[str, Any]:
    """The message with a tag of this delivery instead of its producer's, which all its deliveries would share."""
    try:
        payload: dict[str, Any] = loads(raw)
        payload["properties"]["delivery_tag"] = tag
    except Exception:
        logger.warning("What was in a queue is no message of kombu's", exc_info=True)
        return _unread(raw, tag)
    return payload


def _unread(raw: bytes, tag: str) -> dict[str, Any]:
    """What was found, as the body of a message that says nothing about it."""
    return {"body": raw, "content-type": "application/octet-stream", "properties": {"delivery_tag": tag}}
