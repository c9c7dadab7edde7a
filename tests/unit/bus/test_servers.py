"""How long a failure waits, and how often it is told."""

import random

import structlog.testing

from fleet.bus.servers import Servers, delay_s


def test_delays_grow_to_their_cap_and_differ_between_listeners() -> None:
    random.seed(1)
    for attempt in range(1, 200):
        longest = min(30.0, 0.5 * 2 ** (attempt - 1))
        delays = {delay_s(attempt) for _ in range(20)}
        assert longest / 2 <= min(delays) < max(delays) <= longest


def test_a_server_is_said_to_be_away_once_and_to_be_back_once() -> None:
    servers = Servers()
    with structlog.testing.capture_logs() as logs:
        servers.back("valkey")
        for _ in range(3):
            servers.away("valkey", ConnectionError("refused"))
        assert servers.is_away("valkey")
        servers.back("valkey")
        servers.back("valkey")
    assert [entry["event"] for entry in logs] == ["server_away", "server_back"]
    assert not servers.is_away("valkey")
