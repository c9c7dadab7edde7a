"""An agent's part of a step: ask the engine, keep the answer in the store, return a reference to it."""

import contextlib
import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, NotRequired

import structlog
from celery import shared_task
from celery.exceptions import Reject
from pydantic import AfterValidator
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from fleet.deliberation import answers, labels, prompts, schemas, selection, steps
from fleet.dispatch import ANSWER, lane
from fleet.engines.base import Completion, Generation
from fleet.errors import (
    EndpointFailed,
    EngineCancelled,
    EngineDied,
    EngineError,
    EngineTimeout,
    FleetError,
    Unreadable,
)
from fleet.events import AgentResult, DeliberationStarted, Event, TaskCompleted, TaskFailed
from fleet.models import Answer, Failure, Generated, Message, Phase, Role, Task
from fleet.settings import Settings
from fleet.store import Attempt, Part, PartStart
from fleet.tasks.breaker import Endpoint
from fleet.tasks.cancellations import cancellations
from fleet.tasks.deaths import give_up
from fleet.tasks.process import hosted, leaving, patient, runtime
from fleet.tasks.suspects import suspects
from fleet.tasks.tokens import tokens

log = structlog.get_logger(__name__)

TEMPERATURE = 0.7
SPREAD = 1.3  # temperature of every agent but the first, for diversity


class About(TypedDict):
    """What the event of the first start says of the deliberation."""

    role: Annotated[str, AfterValidator(Role)]
    task_id: str
    story_id: NotRequired[str | None]
    plan_id: NotRequired[str | None]


@shared_task(name=ANSWER, ignore_result=True)  # type: ignore[untyped-decorator]
def answer(deliberation_id: str, step: str, agent_id: str, about: About, queue: str = "agents") -> str:
    """Answers one part and returns its id; an engine's failure is an answer too, never an exception.

    Raises: Reject when the engine has died, or the part waits for its server: the part goes back to its queue.
    """
    part = Part(deliberation_id, step, agent_id)
    structlog.contextvars.bind_contextvars(deliberation_id=deliberation_id, step=step, agent_id=agent_id)
    started = DeliberationStarted(deliberation_id=deliberation_id, status="IN_PROGRESS", **about)
    attempt = Attempt.here(part, answer.request.hostname, secrets.token_hex(8))
    endpoint = Endpoint(attempt, lane(queue, step))
    ended = _attempted(attempt, endpoint, functools.partial(_start, attempt, endpoint, started))
    if ended is None:
        log.info("part.unwanted")
        return part.id
    task, given = ended
    kept = _record(part, task, given)
    log.info("part.answered", ok=given.ok, kept=kept, failure=given.failure and given.failure.message)
    return part.id


def _attempted(attempt: Attempt, endpoint: Endpoint, start: Callable[[int], PartStart]) -> tuple[Task, Answer] | None:
    """The task and the answer, None when nobody wants it. Raises: Reject when the part goes back to its queue."""
    deaths = 0
    while True:
        with suspects.admitted(deaths, runtime().settings.part_deaths, lambda: _wanted(attempt.part)) as admitted:
            if not admitted or not endpoint.admits():
                return None
            found = start(deaths)
            if found.verdict != "suspect":
                with contextlib.suppress(EndpointFailed):
                    return _answered_or_given_back(attempt, endpoint, found)
        deaths = found.deaths


def _answered_or_given_back(attempt: Attempt, endpoint: Endpoint, start: PartStart) -> tuple[Task, Answer] | None:
    """Raises: EndpointFailed when the part is to wait and ask again; Reject when the engine has died."""
    if start.task is None:
        return None
    try:
        return start.task, _answer(attempt, endpoint, start.task, start)
    except EndpointFailed:
        _give_back(attempt, died=False)
        raise
    except EngineDied as error:
        _give_back(attempt, died=error.running and not leaving())
        log.warning("part.given_back", reason=str(error))
        raise Reject(str(error), requeue=True) from error


@patient
def _wanted(part: Part) -> bool:
    where = runtime().store.deliberations.where(part.deliberation_id)
    return where is not None and where.wants(part)


@patient
def _start(attempt: Attempt, endpoint: Endpoint, started: DeliberationStarted, deaths: int) -> PartStart:
    here, part = runtime(), attempt.part
    most = here.settings.part_deaths
    start = here.store.deliberations.start_part(attempt, endpoint.lane, most, started, deaths=deaths)
    if start.task and (start.sets_deadline or endpoint.stood):  # another part may have told the chord that it waits
        here.dispatcher.set_deadline(part.deliberation_id, part.step, start.deadline_s)
    return start


@patient
def _give_back(attempt: Attempt, *, died: bool) -> None:
    runtime().store.deliberations.give_back(attempt, died=died)


@patient  # an answer that cost GPU time is not to be lost to a restart of ValKey
def _record(part: Part, task: Task, given: Answer) -> bool:
    return runtime().store.deliberations.record_answer(part, given, _events(task, given))


def _answer(attempt: Attempt, endpoint: Endpoint, task: Task, start: PartStart) -> Answer:
    """What the engine says, or why it says nothing. Raises: EngineDied, or EndpointFailed when it is to ask again."""
    here, part = runtime(), attempt.part
    shown: dict[str, str] = {}
    began = time.monotonic()
    try:
        if start.verdict == "exhausted":
            raise EngineError("worker", give_up(part, task, start.history))
        generation, shown = _generation(part, task, start.remaining_s, here.settings)
        completion = endpoint.asked(lambda: _generated(attempt, task, generation))
        content = _read(completion, generation, shown)
    except EngineDied:
        raise
    except EndpointFailed as error:
        if endpoint.again(error, start.remaining_s - (time.monotonic() - began)):
            raise
        return _failed(part, Failure(type="engine", message=str(error)), began)
    except EngineTimeout as error:
        return _failed(part, Failure(type="timeout", message=str(error)), began)
    except EngineCancelled as error:
        return _failed(part, Failure(type="cancelled", message=str(error)), began)
    except Unreadable as error:
        failure = Failure(type=error.type, message=str(error), raw=completion.text)
        return _answered(part, generation, completion, shown, failure=failure)
    except FleetError as error:
        return _failed(part, Failure(type="engine", message=str(error)), began)
    except Exception as error:
        log.exception("part.crashed")
        return _failed(part, Failure(type="internal", message=repr(error)), began)
    return _answered(part, generation, completion, shown, content=content)


def _generated(attempt: Attempt, task: Task, generation: Generation) -> Completion:
    here = runtime()
    with (
        cancellations.of(attempt, here.store) as cancellation,
        tokens.stream(attempt.part, task, here.store, _model(task)) as on_text,
    ):
        return here.engine.generate(replace(generation, cancellation=cancellation, on_text=on_text))


def _model(task: Task) -> str | None:
    """What is asked, where that is known before the engine answers."""
    engine = hosted()
    return task.adapter or task.model or (engine.model if engine else None)


def _generation(part: Part, task: Task, remaining_s: float, settings: Settings) -> tuple[Generation, dict[str, str]]:
    """The request to the engine, and which author hides behind each label it shows."""
    messages, schema, shown, candidates = _prompt(part, task, settings)
    temperature = TEMPERATURE if task.temperature is None else task.temperature
    spread = 1.0 if part.agent_id == task.agents[0] else SPREAD
    tags: dict[str, Any] = {"deliberation_id": part.deliberation_id, "agent_id": part.agent_id, "role": task.role}
    tags |= {"phase": _phase(part), "round": steps.parse(part.step)[1], "task": task.task_description}
    tags |= {"requirements": task.constraints.requirements}
    generation = Generation(
        messages=messages,
        schema=schema,
        max_tokens=task.max_tokens or schemas.max_tokens(schema),
        temperature=temperature * spread,
        timeout_s=max(0.001, min(settings.request_timeout_s, remaining_s)),
        model=task.model,
        adapter=task.adapter,
        tags=tags | {"candidates": candidates},
    )
    return generation, shown


def _prompt(
    part: Part, task: Task, settings: Settings
) -> tuple[tuple[Message, ...], dict[str, Any], dict[str, str], dict[str, Any]]:
    """Messages, the answer's schema, label → author, label → proposal; by what the step asks for."""
    proposal = schemas.proposal_schema(settings.proposal_chars)
    phase = _phase(part)
    if phase is Phase.PROPOSE:
        return prompts.propose(task, part.agent_id, proposal), proposal, {}, {}
    before = _before(part)
    contents = {made.author_id: made.content for made in selection.proposals(task, before)}
    room = settings.shown_chars
    if phase is Phase.REVISE:
        critiques = steps.critiques_for(part.agent_id, part.step, before)
        own = contents[part.agent_id]
        return prompts.revise(task, part.agent_id, own, critiques, proposal, room), proposal, {}, {}
    shown = labels.shuffle(part.deliberation_id, part.step, part.agent_id, list(contents))
    candidates = {label: contents[author] for label, author in shown.items()}
    if phase is Phase.REVIEW:
        schema = schemas.review_schema(list(shown), settings.proposal_chars // 2)
        return prompts.review(task, part.agent_id, candidates, schema, room), schema, shown, candidates
    schema = schemas.ballot_schema(list(shown))
    return prompts.vote(task, part.agent_id, candidates, schema, room), schema, shown, candidates


@patient
def _before(part: Part) -> dict[str, dict[str, Answer]]:
    return runtime().store.deliberations.answers(part.deliberation_id)


def _read(completion: Completion, generation: Generation, shown: dict[str, str]) -> dict[str, Any]:
    content = answers.read(completion.text, completion.finish_reason, generation.schema)
    if generation.tags["phase"] == Phase.VOTE:  # a review without a ranking still has its critiques
        answers.read_ranking(content, list(shown))
    return content


def _answered(
    part: Part,
    generation: Generation,
    completion: Completion,
    shown: dict[str, str],
    *,
    content: dict[str, Any] | None = None,
    failure: Failure | None = None,
) -> Answer:
    return Answer(
        agent_id=part.agent_id,
        step=part.step,
        content=content,
        failure=failure,
        labels=shown,
        reasoning=completion.reasoning,
        model=completion.model,
        temperature=generation.temperature,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        cached_tokens=completion.cached_tokens,
        latency_ms=completion.latency_ms,
        queue_ms=completion.queue_ms,
        first_token_ms=completion.first_token_ms,
        created_at_ms=int(time.time() * 1000),
    )


def _failed(part: Part, failure: Failure, began: float) -> Answer:
    latency_ms = int((time.monotonic() - began) * 1000)
    return Answer(
        agent_id=part.agent_id,
        step=part.step,
        failure=failure,
        latency_ms=latency_ms,
        created_at_ms=int(time.time() * 1000),
    )


def _events(task: Task, given: Answer) -> list[Event]:
    about = task.model_dump(include={"deliberation_id", "story_id", "task_id", "role"}) | {"agent_id": given.agent_id}
    events: list[Event] = []
    if given.failure:
        failure = given.failure
        events.append(TaskFailed(step=given.step, error=failure.message, error_type=failure.type, **about))
    else:
        events.append(TaskCompleted(step=given.step, duration_ms=given.latency_ms, **about))
    if given.step.startswith((Phase.PROPOSE, Phase.REVISE)):
        measured = given.model_dump(include=set(Generated.model_fields), exclude_none=True)
        tokens = given.prompt_tokens + given.completion_tokens
        metadata = {"model": given.model, "tokens_used": tokens} | measured
        status = "completed" if given.ok else "failed"
        events.append(AgentResult(status=status, proposal=given.content, metadata=metadata, **about))
    return events


def _phase(part: Part) -> Phase:
    return steps.parse(part.step)[0]
