"""What becomes of work that a process dies of again and again: a dead letter with the history of its deaths."""

import contextlib
from collections.abc import Iterator, Sequence

import structlog

from fleet.models import Death, Task
from fleet.store import Attempt, Part
from fleet.tasks.cancellations import cancellations
from fleet.tasks.process import patient, runtime

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

    While the block lasts a death of this process is one of the deliberation's.
    """
    store = runtime().store
    verdict, deaths = store.deliberations.start_council(attempt, runtime().settings.part_deaths)
    if verdict != "run":
        yield ("run" if verdict == "over" else verdict), deaths
        return
    try:
        with cancellations.of(attempt, store):
            yield verdict, deaths
    finally:
        store.deliberations.give_back(attempt, died=False)
