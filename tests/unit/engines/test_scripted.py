import hashlib
import itertools
import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleet.deliberation import schemas
from fleet.engines import EngineConfig, create_engine
from fleet.engines.base import Generation, Message
from fleet.engines.scripted import BEHAVIOURS, ScriptedEngine
from fleet.engines.scripted_artifacts import parses
from fleet.errors import EngineCancelled, EngineError, EngineTimeout, InvalidRequest

PROMPT = """<task>
Limit the login
Requirements:
- at most 5 tries a minute
- answer "429" with Retry-After
</task>

Fields: summary
- not a requirement"""
PROPOSAL = schemas.proposal_schema(6000)
WRITING = ("normal", "excellent", "poor", "verbose", "concise", "slow")


def engine(behaviour: str = "normal", **config: Any) -> ScriptedEngine:
    return ScriptedEngine(EngineConfig(name="scripted", behaviours={"*": behaviour}, slow_s=0.0, **config))


def ask(
    schema: dict[str, Any] = PROPOSAL, *, timeout_s: float = 30.0, max_tokens: int = 9999, **tags: Any
) -> Generation:
    tags = {
        "role": "DEV",
        "agent_id": "agent-dev-001",
        "phase": "propose",
        "round": 0,
        "task": "Limit the login",
    } | tags
    messages = (Message("system", "You are an expert."), Message("user", PROMPT))
    return Generation(messages, schema, max_tokens, timeout_s=timeout_s, tags=tags)


def answer(behaviour: str, request: Generation) -> Any:
    return json.loads(engine(behaviour).generate(request).text)


@pytest.mark.parametrize("chars", [600, 1800, 6000, 60_000])
@pytest.mark.parametrize("role", ["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"])
@pytest.mark.parametrize("behaviour", WRITING)
def test_a_proposal_is_valid_for_its_schema_and_only_a_poor_one_has_an_artifact_that_does_not_parse(
    behaviour: str, role: str, chars: int
) -> None:
    schema = schemas.proposal_schema(chars)
    proposal = answer(behaviour, ask(schema, role=role))
    Draft202012Validator(schema).validate(proposal)
    sound = [parses(file["language"], file["content"]) for file in proposal["artifacts"]]
    assert sound == [behaviour != "poor"]


def test_an_excellent_artifact_names_every_requirement_of_the_task_and_nothing_from_after_it() -> None:
    proposal = answer("excellent", ask())
    content = proposal["artifacts"][0]["content"]
    assert "at most 5 tries a minute" in content
    assert 'answer \\"429\\" with Retry-After' in content
    assert "not a requirement" not in json.dumps(proposal)


def test_requirements_in_the_tags_go_before_those_of_the_prompt() -> None:
    proposal = answer("excellent", ask(requirements=["works offline"]))
    assert "works offline" in proposal["artifacts"][0]["content"]
    assert "5 tries" not in json.dumps(proposal)


def test_confidence_and_length_follow_the_behaviour() -> None:
    made = {behaviour: answer(behaviour, ask()) for behaviour in WRITING}
    confidence = {behaviour: proposal["confidence"] for behaviour, proposal in made.items()}
    length = {behaviour: len(json.dumps(proposal)) for behaviour, proposal in made.items()}
    assert confidence["poor"] < confidence["normal"] < confidence["excellent"]
    assert length["poor"] < length["concise"] < length["normal"] < length["verbose"]


def test_the_same_question_gets_the_same_answer_from_another_engine_and_another_agent_another_one() -> None:
    once, again = (engine().generate(ask()).text for _ in range(2))
    assert once == again
    texts = {engine().generate(ask(agent_id=f"agent-dev-{number:03}")).text for number in range(5)}
    assert len(texts) == 5
    assert once != engine().generate(ask(round=1)).text
    assert once == engine().generate(ask(deliberation_id="another")).text


def test_a_review_criticises_each_candidate_under_its_own_label() -> None:
    labels = ["B", "A", "C"]
    schema = schemas.review_schema(labels, 6000)
    review = answer("normal", ask(schema, phase="review", candidates={label: {} for label in labels}))
    Draft202012Validator(schema).validate(review)
    assert [critique["label"] for critique in review["critiques"]] == labels
    assert all(critique["label"] in critique["flaw"] for critique in review["critiques"])


@pytest.mark.parametrize("order", list(itertools.permutations(["excellent", "normal", "poor"])))
def test_a_poor_proposal_ends_below_a_good_one_whatever_its_label(order: tuple[str, ...]) -> None:
    candidates = {label: answer(behaviour, ask()) for label, behaviour in zip("ABC", order, strict=True)}
    for phase in ("review", "vote"):
        ballot = answer("normal", ask(schemas.ballot_schema("ABC"), phase=phase, candidates=candidates))
        assert [order["ABC".index(label)] for label in ballot["ranking"].split(">")] == ["excellent", "normal", "poor"]


def test_five_candidates_are_ranked_in_an_array_with_every_label_once() -> None:
    labels = list("ABCDE")
    candidates = {label: answer("poor" if label == "A" else "normal", ask(agent_id=label)) for label in labels}
    ranking = answer("normal", ask(schemas.ballot_schema(labels), phase="vote", candidates=candidates))["ranking"]
    assert sorted(ranking) == labels
    assert ranking[-1] == "A"


def test_without_candidates_a_ballot_is_still_one_of_the_orders_allowed() -> None:
    schema = schemas.ballot_schema(["A", "B"])
    Draft202012Validator(schema).validate(answer("normal", ask(schema, phase="vote")))


def test_a_candidate_that_is_no_proposal_ends_last() -> None:
    candidates = {"A": {"artifacts": "nonsense", "steps": None}, "B": answer("normal", ask())}
    ballot = answer("normal", ask(schemas.ballot_schema(["A", "B"]), phase="vote", candidates=candidates))
    assert ballot["ranking"] == "B>A"


def test_an_error_prone_agent_fails_exactly_where_the_documented_seed_is_even() -> None:
    def fails(number: int) -> bool:
        parts = ["error-prone", "DEV", "agent-dev-001", "propose", str(number), "Limit the login"]
        return hashlib.sha256(json.dumps(parts).encode()).digest()[0] % 2 == 0

    failing = [number for number in range(100) if fails(number)]
    assert 35 <= len(failing) <= 65
    for number in failing:
        with pytest.raises(EngineError) as failure:
            engine("error-prone").generate(ask(round=number))
        assert not failure.value.retryable
    for number in set(range(100)) - set(failing):
        Draft202012Validator(PROPOSAL).validate(answer("error-prone", ask(round=number)))


@pytest.mark.parametrize("behaviour", ["silent", "slow"])
def test_an_agent_that_takes_too_long_ends_in_a_timeout(behaviour: str) -> None:
    late = ScriptedEngine(EngineConfig(name="scripted", behaviours={"*": behaviour}, slow_s=3600))
    with pytest.raises(EngineTimeout):
        late.generate(ask(timeout_s=0.01))


def test_closing_ends_the_wait_of_a_silent_agent() -> None:
    silent = engine("silent")
    errors: list[Exception] = []

    def wait() -> None:
        try:
            silent.generate(ask(timeout_s=3600))
        except EngineError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    silent.close()
    waiting.join(30)
    assert [type(error) for error in errors] == [EngineError]
    with pytest.raises(EngineError, match="closed"):
        silent.generate(ask())


@pytest.mark.parametrize("early", [True, False])
def test_a_cancelled_request_ends_the_wait_of_a_silent_agent(early: bool) -> None:
    request = ask(timeout_s=3600)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            engine("silent").generate(request)
        except EngineError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    if early:
        request.cancellation.set()
    waiting.start()
    request.cancellation.set()
    waiting.join(30)
    assert [type(error) for error in errors] == [EngineCancelled]


def test_the_first_pattern_that_matches_chooses_the_behaviour() -> None:
    scripted = ScriptedEngine(
        EngineConfig(name="scripted", behaviours={"agent-dev-002": "silent", "*-002": "poor", "agent-qa-*": "verbose"})
    )
    found = {agent: scripted.behaviour_of(agent) for agent in ("agent-dev-002", "agent-qa-002", "agent-qa-001", "else")}
    assert found == {"agent-dev-002": "silent", "agent-qa-002": "poor", "agent-qa-001": "verbose", "else": "normal"}


def test_an_unknown_behaviour_is_refused_before_any_request_and_the_known_ones_are_named() -> None:
    with pytest.raises(InvalidRequest, match="error-prone"):
        create_engine(EngineConfig(name="scripted", behaviours={"*": "brilliant"}))
    assert len(BEHAVIOURS) == 8


def test_an_answer_beyond_the_token_limit_is_cut_and_says_so() -> None:
    completion = engine().generate(ask(max_tokens=10))
    assert completion.finish_reason == "length"
    assert completion.completion_tokens == 10


def test_a_schema_that_cannot_be_filled_is_an_error_that_names_the_reason() -> None:
    with pytest.raises(EngineError, match="pattern"):
        engine().generate(ask({"type": "object", "properties": {"code": {"type": "string", "pattern": "^x$"}}}))


def test_an_agent_is_heard_in_a_few_pieces_that_are_its_answer() -> None:
    heard: list[tuple[str, int]] = []
    request = replace(ask(), on_text=lambda text, tokens: heard.append((text, tokens)))
    completion = engine(latency_s=0.05).generate(request)
    assert "".join(text for text, _ in heard) == completion.text
    assert sum(tokens for _, tokens in heard) == completion.completion_tokens
    assert 3 < len(heard) <= 8
    assert completion.first_token_ms is not None
    assert completion.first_token_ms < completion.latency_ms


def test_an_agent_is_heard_before_its_answer_is_whole() -> None:
    heard: list[str] = []
    request = ask(timeout_s=3600)
    request = replace(request, on_text=lambda text, _: (heard.append(text), request.cancellation.set()))
    with pytest.raises(EngineCancelled):
        engine(latency_s=0.1).generate(request)
    assert len(heard) == 1


def test_an_agent_that_fails_is_not_heard() -> None:
    failed = 0
    for number in range(10):
        heard: list[str] = []
        try:
            engine("error-prone").generate(replace(ask(round=number), on_text=lambda text, _: heard.append(text)))  # noqa: B023
        except EngineError:
            failed += 1
            assert heard == []
    assert failed


def test_an_adapter_is_refused() -> None:
    with pytest.raises(EngineError, match="no adapters: 'lora'"):
        engine().generate(replace(ask(), adapter="lora"))
