"""What the commands say about a server that engines ask and that fails."""

from fleet.store import Attempt, Part
from fleet.store.breakers import Limits
from tests.harness import wait_until
from tests.integration.cli.conftest import Served
from tests.integration.cli.test_doctor import examined, report_worker

HOST, REASON = "10.0.0.7:8000", "10.0.0.7:8000: cannot reach the server (4 tries)"
TRY = Attempt(Part("d", "propose:0", "agent-dev-001"), "w/1/a")


def test_a_server_that_fails_is_shown_and_named_with_a_remedy_until_it_is_back(served: Served) -> None:
    report_worker(served, "agents", "council")
    breakers = served.store.breakers
    breakers.failed(HOST, TRY, REASON, Limits(1, 1))
    id = served.pending()
    breakers.stand_still(HOST, Part(id, "propose:0", "agent-dev-001"), "agents", 0, 1000)
    shown = served.cli("cluster").stdout
    assert "Servers that failed" in shown
    assert HOST in shown.split("Servers that failed")[1]
    assert f"waits for the engine's server, {REASON}" in served.cli("deliberation", "show", id).stdout
    code, parts = examined(served)
    part = parts[f"server {HOST}"]
    assert (code, part["ok"], part["state"]) == (1, False, f"1 deliberation waits for it: {REASON}")
    assert "FLEET_ENGINE_URL" in part["remedy"]

    wait_until(lambda: breakers.ask(HOST, TRY).probes, what="it may be tried")
    breakers.answered(HOST, TRY)
    assert "Servers that failed" not in served.cli("cluster").stdout
    report_worker(served, "agents", "council")  # its first report is forgotten after 10 s
    code, parts = examined(served)
    assert (code, parts[f"server {HOST}"]["state"]) == (0, "answers")
