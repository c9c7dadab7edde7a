"""What `fleet up` gives to FLEET_DURABILITY."""

from pathlib import Path

import pytest

from fleet.stack.one_machine import make
from fleet.store import Store
from tests.harness import running


def test_where_acceptance_waits_for_the_disk_valkey_keeps_it_as_fleet_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_DURABILITY", "fsync")
    with running(make(tmp_path, "scripted", None).valkey) as server, server.client() as client:
        durability = Store(client, fsync=True).durability
        durability.check()
        durability.confirm()
