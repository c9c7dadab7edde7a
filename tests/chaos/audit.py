"""Every accepted deliberation is looked at in ValKey, in Neo4j and on NATS."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import neo4j

from fleet.deliberation import steps
from fleet.dispatch import COUNCIL_QUEUE, lanes
from fleet.events import FINAL
from fleet.models import Deliberation
from fleet.store import Store
from fleet.store.base import DUE, UNACKED, connect, unstarted_key
from tests.chaos.load import TIMEOUT_S
from tests.chaos.witness import Seen

LATE_S = 10.0  # after its deadline, and after what was away was back
QUEUES = ("agents", COUNCIL_QUEUE)
_PARTS = re.compile(r"[:.{}]")


@dataclass
class Findings:
    """What is wrong, by kind, with an example of each in words; nothing when all is well."""

    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, detail: str) -> None:
        self.found[kind].append(detail)

    def count(self, kind: str) -> int:
        return len(self.found.get(kind, []))

    def __str__(self) -> str:
        return "\n".join(f"{kind}: {len(all_)}, e.g. {'; '.join(all_[:5])}" for kind, all_ in self.found.items())


def audit(
    details: dict[str, Any], ids: Sequence[str], seen: dict[str, list[Seen]], outages: Sequence[tuple[float, float]]
) -> Findings:
    """Looks at everything; `outages` says when a server was away, from and to, in Unix seconds."""
    findings = Findings()
    client = connect(details["valkey_url"])
    store = Store(client)
    live = {id: store.deliberations.get(id) for id in ids}
    graph = _graph(details, ids)
    for id, deliberation in live.items():
        if deliberation is None or not deliberation.status.final:
            findings.add("lost", f"{id} is {deliberation and deliberation.status} {deliberation and deliberation.step}")
            continue
        _look_at_graph(findings, deliberation, graph.get(id))
        _look_at_events(findings, deliberation, seen.get(id, []))
        _look_at_time(findings, deliberation, outages)
    _look_at_order(findings, [one for all_ in seen.values() for one in all_])
    _look_for_strangers(findings, details, ids, seen)
    for left in leftovers(details, ids):
        findings.add("left over", left)
    for letter in store.pages.dead_letters(1000).items:
        if not letter.history:  # a part that was running in three kills of its workers is one by right
            findings.add("dead letter", f"{letter.source}: {letter.reason}")
    store.close()
    return findings


def _graph(details: dict[str, Any], ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    query = (
        "MATCH (d:Deliberation) WHERE d.id IN $ids "
        "RETURN d.id AS id, count { (d)-[:DECIDED]->(:Decision) } AS decisions, "
        "count { (d)-[:RECEIVED]->(:Proposal) } AS proposals"
    )
    auth = (details["neo4j_user"], details["neo4j_password"])
    with neo4j.GraphDatabase.driver(details["neo4j_uri"], auth=auth) as driver:
        return {row["id"]: row.data() for row in driver.execute_query(query, ids=list(ids)).records}


def _look_at_graph(findings: Findings, deliberation: Deliberation, row: dict[str, Any] | None) -> None:
    id = deliberation.deliberation_id
    if row is None or row["decisions"] == 0:
        findings.add("lost", f"{id} has no decision in the graph")
    elif row["decisions"] > 1:
        findings.add("doubled", f"{id} has {row['decisions']} decisions in the graph")
    elif row["proposals"] != len(deliberation.results):
        findings.add("wrong", f"{id} has {row['proposals']} proposals in the graph, not {len(deliberation.results)}")


def _look_at_events(findings: Findings, deliberation: Deliberation, seen: Sequence[Seen]) -> None:
    id = deliberation.deliberation_id
    ends = [one for one in seen if one.subject in FINAL]
    if not ends:
        findings.add("lost", f"{id}: its end is not on NATS")
    elif len(ends) > 1:
        findings.add("doubled", f"{id}: {len(ends)} ends on NATS")
    elif ends[0].status != deliberation.status:
        findings.add("wrong", f"{id} is {deliberation.status}, and {ends[0].status} on NATS")
    for event_id, count in Counter(one.event_id for one in seen).items():
        if count > 1:
            findings.add("doubled", f"{id}: event {event_id} {count} times on NATS")
    in_order = sorted(seen, key=lambda one: one.place)
    if ends and in_order[-1].subject not in FINAL:
        findings.add("wrong", f"{id}: {in_order[-1].subject} after its end")
    entered = [one.step for one in in_order if one.step and one.subject.endswith("deliberation.stepped")]
    if entered != sorted(set(entered), key=_step_order):
        findings.add("wrong", f"{id}: steps {entered}")


def _step_order(step: str) -> tuple[int, int]:
    if step == "record":
        return (1_000, 0)
    phase, round = steps.parse(step)
    return (round, ["propose", "review", "revise", "vote"].index(phase.value))


def _look_at_time(findings: Findings, deliberation: Deliberation, outages: Sequence[tuple[float, float]]) -> None:
    if deliberation.started_at_ms is None or deliberation.finished_at_ms is None:
        return
    from_s, to_s = deliberation.started_at_ms / 1000, deliberation.finished_at_ms / 1000
    away_s = sum(max(0.0, min(to_s, end_s) - max(from_s, begin_s)) for begin_s, end_s in outages)
    if to_s - from_s > TIMEOUT_S + LATE_S + away_s:
        findings.add("late", f"{deliberation.deliberation_id} took {to_s - from_s:.0f} s, {away_s:.0f} s of it outages")


def _look_at_order(findings: Findings, seen: Iterable[Seen]) -> None:
    """The stream has the events in the log's order: then those of each story are in order as well."""
    in_order = sorted(seen, key=lambda one: one.place)
    ids = [tuple(int(part) for part in one.event_id.split("-")) for one in in_order]
    for before, after, one in zip(ids, ids[1:], in_order[1:], strict=False):
        if after < before:
            findings.add("wrong", f"event {one.event_id} stands after {'-'.join(map(str, before))} in the stream")


def _look_for_strangers(
    findings: Findings, details: dict[str, Any], ids: Sequence[str], seen: dict[str, list[Seen]]
) -> None:
    """What nobody handed in."""
    for id in sorted({id for id, all_ in seen.items() if id and all_} - set(ids)):
        findings.add("doubled", f"{id} was not handed in")
    auth = (details["neo4j_user"], details["neo4j_password"])
    with neo4j.GraphDatabase.driver(details["neo4j_uri"], auth=auth) as driver:
        count = driver.execute_query("MATCH (d:Deliberation) RETURN count(d) AS n").records[0]["n"]
    if count != len(ids):
        findings.add("wrong", f"the graph has {count} deliberations, {len(ids)} were handed in")


def leftovers(details: dict[str, Any], ids: Sequence[str]) -> list[str]:
    """What waits, is held, or would stay for ever although every deliberation has ended."""
    client = connect(details["valkey_url"])
    found = []
    for lane in [lane for queue in QUEUES for lane in lanes(queue)]:
        found += [f"{count} messages in {lane}" for count in [client.llen(lane)] if count]
        found += [f"{count} unstarted parts of {lane}" for count in [client.zcard(unstarted_key(lane))] if count]
    found += [f"{count} messages held by workers" for count in [client.hlen(UNACKED)] if count]
    found += [f"{count} deliberations that are due" for count in [client.zcard(DUE)] if count]
    known = set(ids)
    named = [key for key in client.scan_iter(count=1000) if known & set(_PARTS.split(key))]
    found += [f"{key} for ever" for key in named if client.ttl(key) == -1]
    client.close()
    return found
