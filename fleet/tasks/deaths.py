"""What becomes of work that a process dies of again and again: a dead letter with the history of its deaths."""

import contextlib
from collections.abc import Iterator, Sequence

import structlog

from fleet.models import Death, Task
from fleet.store import Attempt, Part, Store
from fleet.tasks.cancellations import cancellations
from fleet.tasks.process import patient, runtime
from fleet.tasks.suspects import suspects

log = structlog.get_logger(__name__)


@patient
def give_up(part: Part, task: Task, deaths: Sequence[Death]) -> str:
    """Makes a dead letter of an agent's part; returns why it has no answer."""
    here = runtime()
    count = here.settings.part_deaths
    reason = f"{part.agent_id} in {part.step}: it was running in {count} deaths of its worker or engine"
    letter = here.store.dead_letters.add("agents", reason, task.dump(), count, history=deaths, message_id=part.id)
    log.error("part.given_up", deaths=count, dead_letter_id=letter.dead_letter_id)
    return f"it was running in {count} deaths of its worker or engine: dead letter {letter.dead_letter_id}"


@contextlib.contextmanager
def counted(attempt: Attempt) -> Iterator[tuple[str, tuple[Death, ...]]]:
    """Whether a task of the council is to run ("run", else "busy" or "exhausted"), and the deaths before it.

    While the block lasts a death of this process is one of the deliberation's. It waits until `suspects` lets it run.
    """
    store, most = runtime().store, runtime().settings.part_deaths
    deaths = 0
    while True:
        with suspects.admitted(deaths, most, lambda: True):
            start = store.deliberations.start_council(attempt, most, deaths=deaths)
            if start.verdict != "suspect":
                with _given_back(attempt, store) if start.verdict == "run" else contextlib.nullcontext():
                    yield ("run" if start.verdict == "over" else start.verdict), start.history
                return
        deaths = start.deaths


@contextlib.contextmanager
def _given_back(attempt: Attempt, store: Store) -> Iterator[None]:
    try:
        with cancellations.of(attempt, store):
            yield
    finally:
        store.deliberations.give_back(attempt, died=False)
