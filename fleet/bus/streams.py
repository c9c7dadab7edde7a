"""The JetStream streams: which subjects each keeps, and for how long."""

import re
from dataclasses import dataclass
from typing import Literal

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from fleet.models import FORMAT

DAY_S = 86_400.0
IN_FORMAT = {"Fleet-Format": str(FORMAT)}  # header of everything that goes out
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)+")

State = Literal["ok", "differs", "missing"]


@dataclass(frozen=True, slots=True)
class Check:
    """How something in NATS is compared with how it should be; `detail` says what differs or why it is missing."""

    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of all subjects under `prefix`; `max_messages` -1 is no limit."""

    name: str
    prefix: str
    max_age_s: float
    max_messages: int = -1

    def captures(self, subject: str) -> bool:
        """True when an event with that subject is kept here; False for a subject that NATS would not take."""
        return subject.startswith(f"{self.prefix}.") and _SUBJECT.fullmatch(subject) is not None

    def config(self) -> StreamConfig:
        return StreamConfig(
            name=self.name,
            subjects=[f"{self.prefix}.>"],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            max_age=self.max_age_s,
            max_msgs=self.max_messages,
            duplicate_window=min(self.max_age_s, DAY_S),
        )


STREAMS = (
    Stream("PLANNING_EVENTS", "planning", 30 * DAY_S, 1_000_000),
    Stream("ORCHESTRATOR_EVENTS", "orchestration", 7 * DAY_S, 50_000),
    Stream("CONTEXT_EVENTS", "context", 7 * DAY_S, 100_000),
    Stream("AGENT_RESULTS", "agent.results", 3600.0),
    Stream("VLLM_STREAMING", "vllm.streaming", 600.0),
    Stream("DEAD_LETTERS", "deadletter", 30 * DAY_S),
)


def stream_of(subject: str) -> str | None:
    """The name of the stream that keeps events with that subject, None if there is none."""
    return next((stream.name for stream in STREAMS if stream.captures(subject)), None)


async def ensure_stream(js: JetStreamContext, stream: Stream) -> Check:
    """Creates the stream when it is missing. One that is there with another configuration is left as it is.

    Safe to race. Raises: nats.errors.Error or OSError when NATS does not answer.
    """
    try:
        config = (await js.stream_info(stream.name)).config
    except NotFoundError:
        try:
            config = (await js.add_stream(stream.config())).config
        except APIError as error:  # its subjects belong to a stream of another name, or there is no room for it
            return Check("missing", error.description or str(error))
    return compare(stream.config(), config)


def compare(wanted: StreamConfig, found: StreamConfig) -> Check:
    """Compares the fields that Fleet cares about; replicas, placement and the like are the operator's."""
    fields = ("subjects", "storage", "retention", "discard", "max_age", "max_msgs", "duplicate_window")
    return differences(wanted, found, fields)


def differences(wanted: object, found: object, fields: tuple[str, ...]) -> Check:
    pairs = [(field, getattr(found, field), getattr(wanted, field)) for field in fields]
    detail = ", ".join(f"{field} is {is_!s} instead of {should!s}" for field, is_, should in pairs if is_ != should)
    return Check("differs" if detail else "ok", detail)
