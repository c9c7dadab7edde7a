"""Every error Fleet raises on purpose.

    FleetError
    ├── InvalidRequest            bad input; carries one (location, message) pair per fault
    │   └── UnknownRole
    ├── Conflict                  the same id was used with other content
    ├── WrongState                it cannot be done with what is in this state
    ├── NotFound
    ├── Unavailable               a server Fleet needs does not answer; try again
    ├── NotAccepted               work cannot be accepted now; the same may be later
    │   ├── QueueFull             as many deliberations as may be are not final yet
    │   └── NotKept               ValKey answers, but could lose it
    ├── UnknownFormat             a later version of Fleet wrote it
    ├── Unreadable                what a model wrote is not the answer it was asked for
    ├── ModelUnavailable          a model file is missing or its checksum is wrong
    └── EngineError               an engine failed
        ├── EngineTimeout         no whole answer in time
        ├── EngineCancelled       nobody wants the answer any more
        ├── EndpointFailed        its server cannot be reached, is busy or broken
        └── EngineDied            it will never answer again; what it was asked goes back to its queue

Celery rebuilds exceptions from `args`: every constructor argument goes to `super().__init__`, the text is made in
`__str__`.
"""


class FleetError(Exception):
    """Base of all errors raised by Fleet."""


class InvalidRequest(FleetError):
    """Bad input: `faults` is a list of (location, message), a location being a path such as ("subtasks", 0, "role")."""

    def __init__(self, faults: list[tuple[tuple[str | int, ...], str]]):
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(f"{'.'.join(map(str, location)) or 'request'}: {message}" for location, message in self.faults)


class UnknownRole(InvalidRequest):
    """A role that is none of Fleet's."""


class UnknownFormat(FleetError):
    """Something is in the format `found`, of a later version of Fleet; this one knows those up to `known`."""

    def __init__(self, found: object, known: int):
        super().__init__(found, known)
        self.found, self.known = found, known

    def __str__(self) -> str:
        return f"its format is {self.found}, and this version of Fleet knows those up to {self.known}: upgrade Fleet"


class Conflict(FleetError):
    """The id `id` of a `kind` exists already with other content."""

    def __init__(self, kind: str, id: str):
        super().__init__(kind, id)
        self.kind, self.id = kind, id

    def __str__(self) -> str:
        return f"{self.kind} {self.id} exists with other content"


class WrongState(FleetError):
    """The `kind` with the id `id` is `state`, which rules out what was asked for."""

    def __init__(self, kind: str, id: str, state: str):
        super().__init__(kind, id, state)
        self.kind, self.id, self.state = kind, id, state

    def __str__(self) -> str:
        return f"{self.kind} {self.id} is {self.state}"


class NotFound(FleetError):
    """There is no `kind` with the id `id`."""

    def __init__(self, kind: str, id: str):
        super().__init__(kind, id)
        self.kind, self.id = kind, id

    def __str__(self) -> str:
        return f"there is no {self.kind} {self.id}"


class Unavailable(FleetError):
    """`server` (valkey, nats, neo4j) does not answer."""

    def __init__(self, server: str, reason: str):
        super().__init__(server, reason)
        self.server, self.reason = server, reason

    def __str__(self) -> str:
        return f"{self.server} is not available: {self.reason}"


class NotAccepted(FleetError):
    """Work cannot be accepted now; the same again later may be."""


class QueueFull(NotAccepted):
    """`limit` or more deliberations are not final yet."""

    def __init__(self, limit: int):
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.limit} deliberations are not final yet, which is the limit (FLEET_QUEUE_LIMIT)"


class NotKept(NotAccepted):
    """ValKey could lose what it would be given, or does not say that it has it on disk; `reason` says why."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Unreadable(FleetError):
    """What a model wrote cannot be read; `type` is "truncated", "not_json" or "schema"."""

    def __init__(self, type: str, reason: str):
        super().__init__(type, reason)
        self.type, self.reason = type, reason

    def __str__(self) -> str:
        return self.reason


class ModelUnavailable(FleetError):
    """A model cannot be loaded: missing, not readable or not the file it should be."""


class EngineError(FleetError):
    """The engine `engine` failed; `retryable` when the same request may succeed later."""

    def __init__(self, engine: str, reason: str, retryable: bool = False):
        super().__init__(engine, reason, retryable)
        self.engine, self.reason, self.retryable = engine, reason, retryable

    def __str__(self) -> str:
        return f"{self.engine}: {self.reason}"


class EngineTimeout(EngineError):
    """No whole answer within the time given."""


class EngineCancelled(EngineError):
    """The request was given up because its `Cancellation` was set."""


class EndpointFailed(EngineError):
    """The engine's server cannot be reached, is busy or broken: no fault of the request, unless the server had `taken`
    it. `retry_after_s` is how long the server wants to be left alone, 0 if it does not say.
    """

    def __init__(self, engine: str, reason: str, taken: bool = False, retry_after_s: float = 0.0):
        super().__init__(engine, reason, True)
        self.args = (engine, reason, taken, retry_after_s)
        self.taken, self.retry_after_s = taken, retry_after_s


class EngineDied(EngineError):
    """The engine is gone, with everything it was asked: that is no answer, and another is to be asked.

    `running` when this request was in it, and so may be what killed it.
    """

    def __init__(self, engine: str, reason: str, running: bool = True):
        super().__init__(engine, reason, True)
        self.args = (engine, reason, running)
        self.running = running
