"""What a GPU worker makes of the parts in its queue. One worker, one engine, for all of these tests."""

import json
from collections.abc import Iterator

import pytest

from fleet.deliberation.schemas import proposal_schema
from fleet.models import Answer
from tests.harness import ValkeyServer, wait_until
from tests.vllm.bench import Bench, open_bench
from tests.vllm.conftest import VllmWorker

pytestmark = pytest.mark.timeout(900)  # engines start in 20 to 60 s, some tests need several

# Longer than four blocks of 128 tokens, which is what the prefix cache shares on a processor.
LONG = "The service keeps the rates of currencies and answers in two milliseconds. " * 60


@pytest.fixture
def bench(gpu_worker: VllmWorker, vllm_valkey: ValkeyServer) -> Iterator[Bench]:  # noqa: ARG001
    with open_bench(vllm_valkey) as made:
        made.report(lambda one: "gpu" in one.queues)
        yield made


def whole(answers: list[Answer]) -> list[Answer]:
    """Those that are proposals; a model this small is cut short now and then, and says so."""
    assert all(one.ok or (one.failure and one.failure.type == "truncated") for one in answers)
    return [one for one in answers if one.ok]


def test_agents_answer_by_the_schema_and_say_what_it_took(bench: Bench) -> None:
    id = bench.submit(agents=3)
    answers = whole(bench.answered(id, 3))
    assert answers
    required = proposal_schema(1200)["required"]
    for one in answers:
        assert one.content is not None
        assert set(one.content) == set(required)
        assert one.model is not None
        assert one.model.endswith("SmolLM2-135M-Instruct")
        assert one.prompt_tokens > 100 < one.completion_tokens * 10
        assert one.queue_ms is not None
        assert one.first_token_ms is not None
        assert 0 <= one.queue_ms <= one.first_token_ms <= one.latency_ms
    told = [result["metadata"] for result in bench.results(id) if result["status"] == "completed"]
    assert {"model", "tokens_used", "queue_ms", "first_token_ms", "latency_ms", "cached_tokens"} <= told[0].keys()


def test_the_parts_of_a_council_are_one_batch_of_the_engine(bench: Bench) -> None:
    id = bench.submit(agents=6)
    assert bench.await_running(6).slots == 8
    bench.dispatcher.cancel(id)


def test_what_a_council_shares_is_computed_once(bench: Bench) -> None:
    id = bench.submit(LONG, agents=3)
    answers = sorted(bench.answered(id, 3), key=lambda one: one.cached_tokens or 0)
    assert answers[0].cached_tokens == 0
    assert all((one.cached_tokens or 0) >= 512 for one in answers[1:])
    state = bench.report(lambda one: one.engine_state and one.engine_state.prefix_cache_hits).engine_state
    assert state is not None
    assert state.prefix_cache_hits is not None
    assert state.prefix_cache_hits >= 1024


def test_a_cancelled_deliberation_leaves_the_engine_at_once(bench: Bench) -> None:
    id = bench.submit(agents=4)
    bench.await_running(4)
    bench.dispatcher.cancel(id)
    bench.await_running(0, within_s=20)
    assert bench.answers(id) == []


def test_a_part_whose_time_is_over_leaves_the_engine(bench: Bench) -> None:
    id = bench.submit(agents=2, timeout_seconds=3)
    answers = bench.answered(id, 2, within_s=30)
    assert {one.failure and one.failure.type for one in answers} == {"timeout"}
    bench.await_running(0, within_s=20)


def test_a_prompt_too_long_for_the_model_is_a_failed_proposal_with_both_lengths(bench: Bench) -> None:
    [one] = bench.answered(bench.submit("very " * 3900))
    assert one.failure is not None
    tokens, most = (int(word) for word in one.failure.message.split() if word.isdigit())
    assert (tokens > most, most) == (True, 4096)


def test_an_adapter_or_a_model_that_is_not_here_is_a_failed_proposal_that_names_it(vllm_valkey: ValkeyServer) -> None:
    for profile, named in (({"adapter": "mine"}, "adapter mine"), ({"model": "other/model"}, "other/model")):
        with open_bench(vllm_valkey, profiles={"DEV": profile}, gpu_model=profile.get("model")) as bench:
            [one] = bench.answered(bench.submit())
            assert one.failure is not None
            assert named in one.failure.message


def test_the_text_of_an_answer_is_heard_while_it_is_written(bench: Bench) -> None:
    client = bench.store.client
    with client.pubsub() as channel:
        id = bench.submit()
        channel.subscribe(f"fleet:tokens:{id}")
        messages: list[dict[str, object]] = []

        def complete() -> bool:
            heard = channel.get_message(ignore_subscribe_messages=True, timeout=1)
            if heard:
                messages.append(json.loads(heard["data"]))
            return bool(messages) and messages[-1]["type"] == "complete"

        wait_until(complete, 240, "the answer's end")
    [one] = bench.answered(id)
    text = "".join(str(message["text"]) for message in messages if message["type"] == "token")
    assert [message["type"] for message in messages][:2] == ["start", "token"]
    assert len(messages) > 5
    if one.ok:
        assert json.loads(text) == one.content


def test_the_worker_says_what_its_engine_does(bench: Bench) -> None:
    id = bench.submit(agents=2)
    busy = bench.report(lambda one: one.engine_state and one.engine_state.tokens_per_s).engine_state
    assert busy is not None
    assert busy.live
    assert busy.kv_cache_usage
    assert busy.devices == ()  # there is none here, and none is made up
    bench.answered(id, 2)
    idle = bench.await_running(0).engine_state
    assert idle is not None
    assert (idle.waiting, idle.kv_cache_usage) == (0, 0.0)
    assert idle.generation_tokens is not None
    assert idle.generation_tokens >= sum(one.completion_tokens for one in bench.answers(id))
