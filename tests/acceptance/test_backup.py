"""A stopped fleet's folder is its backup: a copy of it goes on where the fleet was."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from fleet.store import Store
from fleet.store.eventlog import order
from tests.acceptance.conftest import start_fleet
from tests.acceptance.test_crashes import assert_each_completed_once
from tests.harness import wait_until


def test_a_copy_of_a_stopped_fleets_folder_has_its_decisions_and_finishes_its_work(
    tmp_path: Path, new_plan: Callable[..., dict[str, Any]]
) -> None:
    source, restored = tmp_path / "source", tmp_path / "restored"
    fleet = start_fleet(source, FLEET_SCRIPTED_LATENCY_S="0.5")
    try:
        old = fleet.submit(new_plan())
        before = [fleet.final(id) for id in old]
        queued = [id for _ in range(6) for id in fleet.submit(new_plan())]
        assert "PENDING" in {fleet.http.get(f"/v1/deliberations/{id}").json()["status"] for id in queued}
    finally:
        fleet.process.stop(90)
    shutil.copytree(source, restored)
    shutil.rmtree(source)

    again = start_fleet(restored, FLEET_SCRIPTED_LATENCY_S="0.1")
    try:
        assert [again.final(id) for id in old] == before
        assert_each_completed_once(again, old + queued)
        with redis.Redis.from_url(again.details["valkey_url"], decode_responses=True) as client:
            log = Store(client).events
            wait_until(lambda: order(log.cursor()) >= order(log.newest_id()), 60, "the relay goes on at its cursor")
    finally:
        again.process.stop(90)
