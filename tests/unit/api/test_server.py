from typing import Any

import pytest

from fleet.api.auth import is_local
from fleet.api.problems import Refused
from fleet.api.server import check_exposure
from fleet.api.services import LongRequests

LOCAL = [("127.0.0.1", 8080), ("127.9.9.9", 1), ("::1", 8080, 0, 0), ("localhost", 80), "/run/fleet.sock", 3]
OPEN = [("0.0.0.0", 8080), ("::", 8080, 0, 0), ("", 8080), ("10.0.0.7", 80), ("fleet.example", 80)]


@pytest.mark.parametrize("address", OPEN)
def test_without_a_key_an_address_that_others_reach_ends_the_start_with_one_line(
    address: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        check_exposure([("127.0.0.1", 80), address], "")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "set FLEET_API_KEY" in said


def test_with_a_key_every_address_will_do() -> None:
    check_exposure(OPEN, "a key")


def test_without_a_key_addresses_of_this_machine_will_do() -> None:
    check_exposure(LOCAL, "")


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("::ffff:10.0.0.1", False), ("[::1]", True), ("1.2.3.4", False)],
)
def test_only_loopback_addresses_are_local(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_no_more_than_the_limit_of_long_requests_are_let_in() -> None:
    long = LongRequests(2)
    long.enter()
    with long.one(), pytest.raises(Refused) as refused:
        long.enter()
    assert refused.value.kind.status == 503
    with long.one():
        pass
