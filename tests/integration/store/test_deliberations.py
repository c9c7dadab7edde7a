"""The state machine of a deliberation, on a real Valkey."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleet.errors import Conflict
from fleet.events import DecisionAdded, DeliberationFinished, DeliberationStarted, DeliberationStepped, TaskCompleted
from fleet.models import Answer, Decision, PlanReceipt, PlanRequest, Role, Status, StoredPlan, Task
from fleet.store import RECORD, Attempt, Part, Store
from tests.harness import ValkeyServer

AGENTS = ("agent-dev-001", "agent-dev-002", "agent-dev-003")
PROPOSE = "propose:0"
QUEUE = "agents"


@pytest.fixture
def store(valkey_server: ValkeyServer) -> Store:
    return Store(valkey_server.client(), retention_s=3600)


def task(id: str = "d1", timeout_ms: int = 300_000) -> Task:
    return Task(
        deliberation_id=id, role=Role.DEV, task_id="t1", story_id="s1", plan_id="p1", task_description="Write it",
        agents=AGENTS, timeout_ms=timeout_ms, created_at_ms=1,
    )  # fmt: skip


def about(id: str = "d1") -> dict[str, str]:
    return {"deliberation_id": id, "task_id": "t1", "role": "DEV", "story_id": "s1", "plan_id": "p1"}


def answer(agent: str, step: str = PROPOSE) -> Answer:
    return Answer(agent_id=agent, step=step, content={"summary": agent}, created_at_ms=1)


def decision(id: str = "d1", winner: str = AGENTS[0]) -> Decision:
    return Decision(
        deliberation_id=id, task=task(id), status=Status.COMPLETED, winner_id=winner, reason="best", decided_at_ms=2
    )


def accepted(store: Store, id: str = "d1", timeout_ms: int = 300_000) -> None:
    assert store.submissions.add_deliberation(task(id, timeout_ms), "digest")
    assert store.deliberations.open_step(task(id), PROPOSE, AGENTS, QUEUE, QUEUE) == list(AGENTS)


def start(store: Store, agent: str = AGENTS[0], id: str = "d1", attempt: str = "a1", deaths: int = 0) -> str:
    started = DeliberationStarted(status="IN_PROGRESS", **about(id))
    one = Attempt(Part(id, PROPOSE, agent), attempt)
    return store.deliberations.start_part(one, QUEUE, 3, started, deaths=deaths).verdict


def record(store: Store, agent: str, step: str = PROPOSE) -> bool:
    event = TaskCompleted(
        agent_id=agent, step=step, duration_ms=1, **{k: about()[k] for k in ("deliberation_id", "task_id", "role")}
    )  # type: ignore[arg-type]
    return store.deliberations.record_answer(Part("d1", step, agent), answer(agent, step), [event])


def stepped(step: str) -> DeliberationStepped:
    return DeliberationStepped(status="IN_PROGRESS", step=step, **about())


def subjects(store: Store) -> list[str]:
    return [event.subject for event in store.events.read("0", 1000)]


def decide(store: Store, id: str = "d1") -> None:
    assert store.deliberations.seal_step(id, PROPOSE)
    assert store.deliberations.enter_step(id, PROPOSE, RECORD, stepped(RECORD), decision(id))


def finish(store: Store) -> bool:
    event = DeliberationFinished(status="COMPLETED", **about())
    return store.deliberations.finish(decision(), [event, DecisionAdded(decision_id="decision:d1")])


def test_the_first_start_of_a_part_starts_the_deliberation_and_says_so_once(store: Store) -> None:
    accepted(store)
    assert store.deliberations.where("d1").status is Status.PENDING  # type: ignore[union-attr]
    assert [start(store, agent) for agent in AGENTS] == ["run"] * 3
    assert store.deliberations.where("d1").status is Status.IN_PROGRESS  # type: ignore[union-attr]
    assert subjects(store).count("orchestration.deliberation.started") == 1


def test_the_clock_does_not_run_before_the_first_start(store: Store) -> None:
    accepted(store, timeout_ms=5_000)
    sealed = store.deliberations.seal_step("d1", PROPOSE)
    assert sealed is not None
    assert sealed.budget_ms == 5_000
    assert sealed.started_at_ms is None


def test_what_a_step_took_is_gone_from_the_time_of_the_next_ones(store: Store, valkey_server: ValkeyServer) -> None:
    accepted(store, timeout_ms=5_000)
    start(store)
    valkey_server.client().hincrby("fleet:deliberation:d1", "deadline_ms", -4_000)  # as if 4 s had passed
    sealed = store.deliberations.seal_step("d1", PROPOSE)
    assert sealed is not None
    assert 0 <= sealed.budget_ms <= 1_000
    assert store.deliberations.seal_step("d1", PROPOSE).budget_ms == sealed.budget_ms  # type: ignore[union-attr]


def test_of_two_answers_to_one_part_the_first_is_kept_with_one_event(store: Store) -> None:
    accepted(store)
    start(store)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda _: record(store, AGENTS[0]), range(16)))
    assert kept.count(True) == 1
    assert subjects(store).count("orchestration.task.completed") == 1
    assert store.deliberations.get("d1").current_count == 1  # type: ignore[union-attr]


def test_an_answer_after_the_step_was_sealed_is_kept_out(store: Store) -> None:
    accepted(store)
    start(store)
    store.deliberations.seal_step("d1", PROPOSE)
    assert not record(store, AGENTS[0])
    assert store.deliberations.answers("d1") == {}
    assert "orchestration.task.completed" not in subjects(store)


def test_an_answered_part_is_not_wanted_again(store: Store) -> None:
    accepted(store)
    start(store)
    record(store, AGENTS[0])
    assert start(store) == "unwanted"


def died(store: Store, attempt: str, *, of_it: bool = True) -> None:
    store.deliberations.give_back(Attempt(Part("d1", PROPOSE, AGENTS[0]), attempt), died=of_it)


def fall_silent(store: Store, attempt: str) -> None:
    """As if the attempt had been heard of seven seconds ago for the last time."""
    key, field = "fleet:deliberation:d1:attempts", f"{PROPOSE}.{AGENTS[0]}"
    attempts = json.loads(store.client.hget(key, field))  # type: ignore[arg-type]
    attempts["running"][attempt] -= 7_000
    store.client.hset(key, field, json.dumps(attempts))


def test_a_part_that_was_in_three_deaths_is_exhausted(store: Store) -> None:
    accepted(store)
    for deaths, attempt in enumerate(("a1", "a2", "a3")):
        assert start(store, attempt=attempt, deaths=deaths) == "run"
        died(store, attempt)
    assert start(store, attempt="a4") == "exhausted"


def test_a_part_that_is_exhausted_knows_each_of_its_deaths(store: Store) -> None:
    accepted(store)
    attempts = [f"agents@vm/{pid}/token" for pid in (11, 12, 13)]
    for deaths, attempt in enumerate(attempts):
        start(store, attempt=attempt, deaths=deaths)
        fall_silent(store, attempt)
    started = DeliberationStarted(status="IN_PROGRESS", **about())
    found = store.deliberations.start_part(Attempt(Part("d1", PROPOSE, AGENTS[0]), "a4"), QUEUE, 3, started)
    assert found.verdict == "exhausted"
    assert [(death.attempt, death.worker, death.pid) for death in found.history] == [
        (1, "agents@vm", 11), (2, "agents@vm", 12), (3, "agents@vm", 13),
    ]  # fmt: skip
    assert all(store.deliberations.now_ms() - death.at_ms >= 7_000 for death in found.history)


def test_what_the_first_format_said_about_attempts_is_no_death(store: Store) -> None:
    accepted(store)
    store.client.hset("fleet:deliberation:d1:attempts", f"{PROPOSE}.{AGENTS[0]}", "2")
    assert start(store) == "run"


def test_one_task_of_the_council_works_on_a_deliberation_until_it_dies_or_ends(store: Store) -> None:
    accepted(store)
    first, second = (Attempt(Part.of_council("d1"), f"council@vm/{pid}/token") for pid in (11, 12))
    begin = store.deliberations.start_council
    assert begin(first, 3)[0] == "run"
    assert begin(first, 3)[0] == "run"  # the same one, after a lost answer
    assert begin(second, 3)[0] == "busy"
    assert store.client.zscore("fleet:due", "d1") is not None
    store.deliberations.give_back(first, died=False)
    assert begin(second, 3) == ("run", 0, ())


def test_the_deaths_of_a_council_are_forgotten_with_the_step_that_they_were_in(store: Store) -> None:
    accepted(store)
    one = Attempt(Part.of_council("d1"), "council@vm/11/token")
    for known in range(3):
        assert store.deliberations.start_council(one, 3, deaths=known).verdict == "run"
        store.deliberations.give_back(one, died=True)
    start = store.deliberations.start_council(one, 3)
    assert (start.verdict, len(start.history)) == ("exhausted", 3)
    store.deliberations.seal_step("d1", PROPOSE)
    store.deliberations.enter_step("d1", PROPOSE, "vote:0", DeliberationStepped(status="x", step="vote:0", **about()))
    assert store.deliberations.start_council(one, 3) == ("run", 0, ())


def test_a_task_of_the_council_that_was_in_a_death_runs_only_where_that_is_known(store: Store) -> None:
    accepted(store)
    one = Attempt(Part.of_council("d1"), "council@vm/11/token")
    store.deliberations.start_council(one, 3)
    store.deliberations.give_back(one, died=True)
    found = store.deliberations.start_council(one, 3)
    assert (found.verdict, found.deaths) == ("suspect", 1)
    assert store.deliberations.start_council(one, 3, deaths=1).verdict == "run"


def test_a_part_that_was_in_a_death_runs_only_where_that_is_known(store: Store) -> None:
    accepted(store)
    start(store, attempt="a1")
    died(store, "a1")
    assert start(store, attempt="a2") == "suspect"
    assert start(store, attempt="a2", deaths=1) == "run"
    died(store, "a2")
    assert start(store, attempt="a3", deaths=1) == "suspect"
    assert start(store, attempt="a3", deaths=2) == "run"


def test_an_attempt_that_fell_silent_is_a_death_and_one_that_is_renewed_is_none(store: Store) -> None:
    accepted(store)
    for attempt in ("a1", "a2"):
        start(store, attempt=attempt)
    for attempt in ("a1", "a2"):
        fall_silent(store, attempt)
    store.deliberations.renew([Attempt(Part("d1", PROPOSE, AGENTS[0]), "a2")])
    assert start(store, attempt="a3") == "suspect"  # a1 died, a2 runs beside it
    assert start(store, attempt="a3", deaths=1) == "run"
    for attempt in ("a2", "a3"):
        fall_silent(store, attempt)
    assert start(store, attempt="a4", deaths=1) == "exhausted"


def test_what_was_given_back_or_left_in_order_is_no_death(store: Store) -> None:
    accepted(store)
    for attempt in ("a1", "a2", "a3"):
        assert start(store, attempt=attempt) == "run"
        died(store, attempt, of_it=False)
    for attempt in ("a4", "a5", "a6"):
        assert start(store, attempt=attempt) == "run"
        fall_silent(store, attempt)
        store.deliberations.renew([Attempt(Part("d1", PROPOSE, AGENTS[0]), attempt)], leaving=True)
    assert start(store, attempt="a7") == "run"


def test_a_death_is_counted_once_however_often_it_is_told(store: Store) -> None:
    accepted(store)
    start(store, attempt="a1")
    for _ in range(5):
        died(store, "a1")
    assert start(store, attempt="a2", deaths=1) == "run"


def test_only_one_of_many_opens_the_next_step(store: Store) -> None:
    accepted(store)
    start(store)
    store.deliberations.seal_step("d1", PROPOSE)
    with ThreadPoolExecutor(8) as pool:
        entered = list(
            pool.map(lambda _: store.deliberations.enter_step("d1", PROPOSE, "vote:0", stepped("vote:0")), range(16))
        )
    assert entered.count(True) == 1
    assert subjects(store).count("orchestration.deliberation.stepped") == 1


def test_a_step_that_is_still_open_cannot_be_left(store: Store) -> None:
    accepted(store)
    start(store)
    assert not store.deliberations.enter_step("d1", PROPOSE, "vote:0", stepped("vote:0"))


def test_the_first_decision_is_frozen(store: Store) -> None:
    accepted(store)
    start(store)
    decide(store)
    other = decision(winner=AGENTS[1])
    assert not store.deliberations.enter_step("d1", PROPOSE, RECORD, stepped(RECORD), other)
    assert store.deliberations.decision("d1") == decision()


def test_a_deliberation_without_a_decision_cannot_be_finished(store: Store) -> None:
    accepted(store)
    start(store)
    assert not finish(store)
    assert store.deliberations.where("d1").status is Status.IN_PROGRESS  # type: ignore[union-attr]


def test_a_deliberation_is_finished_once_with_its_events(store: Store) -> None:
    accepted(store)
    start(store)
    decide(store)
    with ThreadPoolExecutor(8) as pool:
        finished = list(pool.map(lambda _: finish(store), range(16)))
    assert finished.count(True) == 1
    assert subjects(store).count("orchestration.deliberation.completed") == 1
    assert subjects(store).count("context.decision.added") == 1


def test_a_final_deliberation_changes_no_more(store: Store) -> None:
    accepted(store)
    start(store)
    decide(store)
    finish(store)
    before = subjects(store)
    assert start(store, AGENTS[1]) == "unwanted"
    assert store.deliberations.seal_step("d1", RECORD) is None
    assert store.deliberations.open_step(task("d1"), RECORD, AGENTS, QUEUE, QUEUE) == []
    assert not record(store, AGENTS[1])
    assert subjects(store) == before


def test_the_outcome_is_shown_only_when_it_is_final(store: Store) -> None:
    accepted(store)
    start(store)
    decide(store)
    shown = store.deliberations.get("d1")
    assert shown is not None
    assert (shown.status, shown.step, shown.winner_id) == (Status.IN_PROGRESS, RECORD, None)
    finish(store)
    shown = store.deliberations.get("d1")
    assert shown is not None
    assert (shown.status, shown.step, shown.winner_id) == (Status.COMPLETED, None, AGENTS[0])


def test_what_was_accepted_and_never_dispatched_becomes_due(store: Store, valkey_server: ValkeyServer) -> None:
    store.submissions.add_deliberation(task(), "digest")
    assert store.deliberations.take_due() == []
    valkey_server.client().zincrby("fleet:due", -10_000, "d1")  # as if 10 s had passed
    assert store.deliberations.take_due() == ["d1"]
    assert store.deliberations.take_due() == []  # it is handed out with a lease
    store.deliberations.settle("d1")
    valkey_server.client().zincrby("fleet:due", 0, "d2")
    assert store.deliberations.take_due() == ["d2"]


def test_of_those_that_wait_for_the_graph_one_is_handed_out_while_it_is_away(
    store: Store, valkey_server: ValkeyServer
) -> None:
    waiting = ["d1", "d2", "d3"]
    for id in [*waiting, "d4"]:
        accepted(store, id)
        store.deliberations.due_at(id, 0)
    for id in waiting:
        decide(store, id)
        store.deliberations.due_at(id, 0)
    handed_out = store.deliberations.take_due(one_of=RECORD)
    assert "d4" in handed_out
    assert len(handed_out) == 2
    assert store.deliberations.take_due() == []
    valkey_server.client().eval(
        "for _, id in ipairs(ARGV) do redis.call('ZINCRBY', 'fleet:due', -5000, id) end", 0, *waiting
    )
    assert len(store.deliberations.take_due()) == 2, "the others are due again, the one that was handed out has a lease"


def test_a_part_that_neither_waits_nor_runs_is_lost_only_after_its_age(store: Store) -> None:
    accepted(store)
    assert store.deliberations.take_lost(QUEUE, age_ms=60_000) == []
    lost = store.deliberations.take_lost(QUEUE, age_ms=0)
    assert {part.agent_id for part in lost} == set(AGENTS)


def test_a_part_that_a_worker_holds_is_not_lost(store: Store, valkey_server: ValkeyServer) -> None:
    accepted(store)
    held, longer = Part("d1", PROPOSE, AGENTS[0]), Part("d1", PROPOSE, AGENTS[1] + "-b")
    messages = {part.agent_id: json.dumps([{"headers": {"id": part.id}}, "", QUEUE]) for part in (held, longer)}
    valkey_server.client().hset("unacked", mapping=messages)
    lost = store.deliberations.take_lost(QUEUE, age_ms=0)
    assert held not in lost
    assert Part("d1", PROPOSE, AGENTS[1]) in lost


def test_parts_in_a_long_queue_are_not_lost(store: Store, valkey_server: ValkeyServer) -> None:
    accepted(store)
    valkey_server.client().lpush(QUEUE, "a message")
    assert store.deliberations.take_lost(QUEUE, age_ms=0) == []


def test_a_part_overtaken_by_a_later_one_is_lost_though_the_queue_is_long(
    store: Store, valkey_server: ValkeyServer
) -> None:
    accepted(store, "d1")
    valkey_server.client().lpush(QUEUE, "a message")
    valkey_server.client().zincrby(f"fleet:unstarted:{QUEUE}", -1000, Part("d1", PROPOSE, AGENTS[0]).id)
    accepted(store, "d2")
    start(store, AGENTS[0], "d2")
    assert Part("d1", PROPOSE, AGENTS[0]) in store.deliberations.take_lost(QUEUE, age_ms=500)


def test_what_is_finished_is_forgotten_after_the_retention(valkey_server: ValkeyServer) -> None:
    store = Store(valkey_server.client(), retention_s=1)
    accepted(store)
    start(store)
    decide(store)
    finish(store)
    client = valkey_server.client()
    assert {client.ttl(key) for key in client.keys("fleet:deliberation:d1*")} <= {0, 1}
    client.zincrby("fleet:finished", -2_000, "d1")
    assert store.deliberations.forget_finished() == 1
    assert store.pages.deliberations(100).items == ()


def test_however_many_have_finished_are_forgotten_at_once(store: Store) -> None:
    ended = {f"d{number}": 1 for number in range(2500)}
    for index in ("fleet:deliberations", "fleet:finished"):
        store.client.zadd(index, ended)
    assert store.deliberations.forget_finished() == 2500
    assert not store.client.exists("fleet:deliberations", "fleet:finished")


def test_an_expired_plan_is_out_of_the_index_when_the_next_one_comes(store: Store) -> None:
    def add(id: str) -> None:
        receipt = PlanReceipt(plan_id=id, deliberations=())
        store.submissions.add_plan(StoredPlan(plan=plan(plan_id=id), receipt=receipt, created_at_ms=1), [])

    add("old")
    add("young")
    store.client.zincrby("fleet:plans", -store.client.ttl("fleet:plan:old") * 1000 - 2000, "old")
    add("new")
    assert sorted(store.client.zrange("fleet:plans", 0, -1)) == ["new", "young"]


def plan(**changes: object) -> PlanRequest:
    return PlanRequest.model_validate({"plan_id": "p1", "story_id": "s1", "description": "Do it", **changes})


def stored(plan: PlanRequest) -> StoredPlan:
    return StoredPlan(plan=plan, receipt=PlanReceipt(plan_id=plan.plan_id, deliberations=()), created_at_ms=1)


def test_the_same_plan_is_stored_once_and_answers_the_same(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: store.submissions.add_plan(stored(plan()), [task()]), range(16)))
    assert [created for _, created in answers].count(True) == 1
    assert len({known.dump() for known, _ in answers}) == 1


def test_who_approved_a_plan_and_when_does_not_make_it_another(store: Store) -> None:
    store.submissions.add_plan(stored(plan()), [task()])
    again = plan(approved_by="somebody else", timestamp="2026-01-01T00:00:00Z")
    assert store.submissions.add_plan(stored(again), [task()])[1] is False


def test_the_same_plan_id_with_other_content_is_a_conflict(store: Store) -> None:
    store.submissions.add_plan(stored(plan()), [task()])
    with pytest.raises(Conflict, match="p1"):
        store.submissions.add_plan(stored(plan(description="Do something else")), [task()])


def test_a_deliberation_of_a_plan_cannot_be_asked_for_as_another(store: Store) -> None:
    store.submissions.add_plan(stored(plan()), [task()])
    with pytest.raises(Conflict):
        store.submissions.add_deliberation(task(), "digest")


def cancel(store: Store, step: str = PROPOSE, answers: int = 0) -> bool:
    cancelled = decision().model_copy(update={"status": Status.CANCELLED, "winner_id": None, "reason": "cancelled"})
    deliberation = store.deliberations.get("d1")
    assert deliberation is not None
    cancelled = cancelled.model_copy(update={"started_at_ms": deliberation.started_at_ms})
    return store.deliberations.cancel(cancelled, step, answers, DeliberationFinished(status="CANCELLED", **about()))


def test_a_cancelled_deliberation_takes_no_answers_and_starts_no_parts(store: Store) -> None:
    accepted(store)
    start(store)
    assert cancel(store)
    assert not record(store, AGENTS[0])
    assert start(store, AGENTS[1]) == "unwanted"
    assert store.deliberations.seal_step("d1", PROPOSE) is None
    assert subjects(store)[-1] == "orchestration.deliberation.cancelled"


def test_of_many_cancellations_one_counts_and_says_so(store: Store) -> None:
    accepted(store)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: cancel(store), range(16)))
    assert any(done)
    assert subjects(store).count("orchestration.deliberation.cancelled") == 1


def test_what_is_decided_or_has_moved_on_cannot_be_cancelled(store: Store) -> None:
    accepted(store)
    assert not cancel(store, "review:1")
    decide(store)
    assert not cancel(store, RECORD)
    assert finish(store)
    assert not cancel(store, RECORD)
    assert store.deliberations.get("d1").status is Status.COMPLETED  # type: ignore[union-attr]


def test_a_cancelled_deliberation_is_due_until_the_graph_has_it_and_then_forgotten_in_time(
    store: Store, valkey_server: ValkeyServer
) -> None:
    accepted(store)
    cancel(store)
    own = [f"fleet:deliberation:d1{ending}" for ending in ("", ":events")]
    client = valkey_server.client()
    assert client.zscore("fleet:due", "d1")
    assert [client.ttl(key) for key in own] == [-1, -1]
    cancelled = store.deliberations.decision("d1")
    assert cancelled is not None
    logged = subjects(store)
    assert store.deliberations.finish(cancelled, [DeliberationFinished(status="CANCELLED", **about())])
    assert not store.deliberations.finish(cancelled, [])
    assert subjects(store) == logged
    assert client.zscore("fleet:due", "d1") is None
    assert all(client.ttl(key) > 0 for key in own)


def test_running_parts_are_unwanted_once_their_step_is_sealed_or_cancelled(store: Store) -> None:
    accepted(store)
    start(store)
    here, gone = (Attempt(Part(id, PROPOSE, AGENTS[0]), "a1") for id in ("d1", "gone"))
    assert store.deliberations.renew([here]) == set()
    store.deliberations.seal_step("d1", PROPOSE)
    assert store.deliberations.renew([here, gone]) == {here, gone}
    assert not store.client.exists("fleet:deliberation:gone:attempts")


def test_a_deliberation_has_its_events_in_the_log_and_by_itself_under_the_same_ids(store: Store) -> None:
    accepted(store, "d1")
    accepted(store, "d2")
    start(store)
    start(store, id="d2")
    decide(store)
    finish(store)
    logged = [event.id for event in store.events.read("0", 1000) if event.deliberation_id == "d1"]
    assert len(logged) == 4
    assert [event.id for event in store.events.read(deliberation_id="d1")] == logged


def test_a_cancellation_that_does_not_know_the_last_answer_does_not_count(store: Store) -> None:
    accepted(store)
    start(store)
    assert record(store, AGENTS[0])
    assert not cancel(store, answers=0)
    assert cancel(store, answers=1)


def test_what_was_settled_for_its_open_step_stays_due_when_it_was_cancelled_meanwhile(store: Store) -> None:
    accepted(store)
    cancel(store)
    store.deliberations.settle("d1", PROPOSE)
    assert store.client.zscore("fleet:due", "d1")
    store.deliberations.settle("d1")
    assert store.client.zscore("fleet:due", "d1") is None


def test_a_finished_deliberation_of_an_older_version_is_not_finished_again(store: Store) -> None:
    accepted(store)
    decide(store)
    assert finish(store)
    store.client.hdel("fleet:deliberation:d1", "recorded")
    logged = subjects(store)
    assert not finish(store)
    assert subjects(store) == logged
