"""A chord's body: its options, the tasks it starts with, and their claim while they run."""

# mypy: disable-error-code="no-any-return"

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakSet

from billiard.exceptions import WorkerLostError
from celery import group, states
from celery.canvas import _chain, _chord, chunks, maybe_signature
from celery.exceptions import ChordError, Ignore, Reject, Retry
from celery.utils.nodenames import gethostname

from fleet.valkey.records import Record

logger = logging.getLogger(__name__)

#: Message header of a task that a chord's body starts with; its value is the chord's group id.
HEADER = "chord_body_of"
#: A body that took this many workers with it fails.
MAX_LOST = 5


@dataclass(frozen=True)
class ChordOptions:
    deadline: float | None
    partial: bool


def take_options(body: Any) -> ChordOptions:
    """Removes the chord's options from the body's, since to apply_async they would be unknown message properties."""
    taken: dict[str, Any] = {}
    node = body
    while node is not None:
        for name in ("chord_deadline", "chord_partial"):
            if name in node.options:
                taken.setdefault(name, node.options.pop(name))
        node = node.tasks[0] if isinstance(node, _chain) and node.tasks else None
    deadline = taken.get("chord_deadline")
    return ChordOptions(None if deadline is None else float(deadline), bool(taken.get("chord_partial")))


def entries(body: Any) -> list[Any] | None:
    """The tasks that a body starts with, each to be claimed; None if it starts with a chord, whose parts count once."""
    if isinstance(body, _chord | chunks):
        return None
    if isinstance(body, _chain):
        first = body.tasks[0] if body.tasks else None
        return None if first is None or isinstance(first, group) else entries(first)
    if isinstance(body, group):
        members = [entries(task) for task in body.tasks]
        return None if not members or None in members else [task for member in members for task in member or ()]
    return [body]


def mark(body: Any, record: Record) -> bool:
    """Makes the body's first tasks say which chord they belong to; False if publishing them is all there is to do."""
    first = entries(body) or []
    for task in first:
        task.options["headers"] = {**(task.options.get("headers") or {}), HEADER: record.group_id}
        retries = record.number(f"retries:{task.id}")
        if retries:
            task.options["retries"] = retries
    return bool(first)


def outcomes(body: Any) -> Iterator[Any]:
    """The tasks whose results are the body's, and which an enclosing chord waits for."""
    if isinstance(body, _chord):
        yield from outcomes(body.body)
    elif isinstance(body, _chain):
        yield from outcomes(maybe_signature(body.tasks[-1]))
    elif isinstance(body, group):
        for task in body.tasks:
            yield from outcomes(task)
    elif body.id:
        yield body


def innermost(body: Any) -> Any:
    """The body whose errbacks are to be called: a chord links its own to its body."""
    return innermost(body.body) if isinstance(body, _chord) else body


def body_of(request: Any) -> str | None:
    """The group id of the chord whose body this task belongs to."""
    return getattr(request, HEADER, None)


def claim_of(request: Any) -> "Claim | None":
    return getattr(request, "chord_body_claim", None)


def is_lost(app: Any, request: Any, error: BaseException) -> bool:
    """Whether a guarded body died with its process, so that a sweeper will start it again."""
    if not isinstance(error, WorkerLostError) or body_of(request) is None:
        return False
    return hasattr(app.tasks[request.task].run, "guards_chord_bodies")


class Claim:
    """One worker's right to run a body, by a lease that `keeper` renews; `epoch` outdates all claims before."""

    def __init__(self, backend: Any, group_id: str, task_id: str, epoch: int):
        self.backend, self.group_id, self.task_id, self.epoch = backend, group_id, task_id, epoch

    def renew(self) -> bool:
        return self.backend.renew_body(self.group_id, self.task_id, self.epoch)

    def fence(self) -> None:
        """Raises Ignore if another worker took over, so that this run has no effect."""
        if not self.renew():
            logger.warning("chord %s: another run of its body took over, this one has no effect", self.group_id)
            raise Ignore("another run took over")

    def release(self, retries: int, missed_after: float) -> None:
        self.backend.release_body(self.group_id, self.task_id, self.epoch, retries, missed_after)


class LeaseKeeper:
    """One thread per process that renews the claims of all its running bodies, from the first one on."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A forked child has none of its parent's threads and runs none of its bodies."""
        self._claims: WeakSet[Claim] = WeakSet()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, claim: Claim) -> None:
        with self._lock:
            self._claims.add(claim)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="chord-leases", daemon=True)
                self._thread.start()
        self._wake.set()

    def discard(self, claim: Claim) -> None:
        with self._lock:
            self._claims.discard(claim)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while claims := self._snapshot():
                threading.Event().wait(min(claim.backend.lease for claim in claims) / 3)
                for claim in self._snapshot():
                    self._renew(claim)

    def _snapshot(self) -> list[Claim]:
        with self._lock:
            return list(self._claims)

    def _renew(self, claim: Claim) -> None:
        try:
            if not claim.renew():
                self.discard(claim)
        except Exception:
            logger.warning("chord %s: its body's lease was not renewed", claim.group_id, exc_info=True)


keeper = LeaseKeeper()
os.register_at_fork(after_in_child=keeper.reset)


def guard(task: Any) -> None:
    """Makes a task claim the chord body that it is run as; for any other run it costs one attribute lookup."""
    if not hasattr(task.run, "guards_chord_bodies"):
        task.run = _guarded(task, task.run)


def _guarded(task: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        request = task.request_stack.top
        group_id = body_of(request)
        if group_id is None or claim_of(request) is not None:
            return run(*args, **kwargs)
        claim = _claim(task, request, group_id)
        return _run(claim, request, functools.partial(run, *args, **kwargs))

    guarded.guards_chord_bodies = True  # type: ignore[attr-defined]
    return guarded


def _claim(task: Any, request: Any, group_id: str) -> Claim:
    backend = task.backend
    epoch, detail = backend.claim_body(group_id, request.id, request.retries or 0)
    if not epoch:
        logger.info("chord %s: this copy of its body is not needed: %s", group_id, detail)
        raise Ignore(detail)
    request.chord_body_claim = claim = Claim(backend, group_id, request.id, epoch)
    if int(detail) >= MAX_LOST:
        raise ChordError(f"The body of chord {group_id} lost {detail} workers")
    keeper.add(claim)
    if task.track_started and not request.ignore_result:
        started = {"pid": os.getpid(), "hostname": gethostname()}
        backend.store_result(request.id, started, states.STARTED, request=request)
    return claim


def _run(claim: Claim, request: Any, run: Callable[[], Any]) -> Any:
    try:
        result = run()
    except Retry as retry:
        claim.release((request.retries or 0) + 1, _seconds(retry.when) + claim.backend.republish)
        raise
    except Reject as reject:
        if reject.requeue:
            claim.release(request.retries or 0, claim.backend.republish)
        else:
            claim.backend.complete_body(request)
        raise
    except Ignore:
        # Replaced by another task, or content with having no result.
        claim.backend.complete_body(request)
        raise
    except Exception:
        claim.fence()
        raise
    if request.callbacks or request.chain or request.chord:
        claim.fence()
    return result


def _seconds(when: Any) -> float:
    if isinstance(when, datetime):
        return max(0.0, (when - datetime.now(when.tzinfo)).total_seconds())
    return float(when or 0)
