"""What the API refuses, in one sentence with the next step."""

from typing import Any

import httpx2
import pytest

from fleet.cli.refusals import sentence


def answer(status: int, path: str, problem: Any = None, **headers: str) -> httpx2.Response:
    request = httpx2.Request("GET", f"http://fleet.example{path}")
    content = {"json": problem} if problem is not None else {"text": "<html>"}
    return httpx2.Response(status, request=request, headers=headers, **content)  # type: ignore[arg-type]


def problem(detail: str, *faults: tuple[list[str | int], str]) -> dict[str, Any]:
    return {"title": "t", "detail": detail, "errors": [{"loc": loc, "msg": message} for loc, message in faults]}


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (answer(401, "/v1/plans", problem("no")), "set FLEET_API_KEY"),
        (answer(403, "/v1/keys", problem("needs scope admin, this key has read")), "fleet keys create"),
        (answer(404, "/v1/plans/x", problem("there is no plan x")), "there is no plan x; `fleet plan list`"),
        (answer(404, "/v1/deadletters/x", problem("none")), "`fleet deadletter list`"),
        (answer(409, "/v1/plans", problem("plan p exists with other content")), "another plan_id"),
        (answer(413, "/v1/plans", problem("too large")), "1 MiB"),
        (answer(422, "/v1/plans", problem("2 faults", (["body", "roles", 0], "bad"))), "roles.0: bad"),
        (answer(503, "/v1/plans", problem("valkey is away"), **{"Retry-After": "5"}), "try again in 5 s"),
        (answer(500, "/v1/plans"), "http://fleet.example answered 500 to GET /v1/plans"),
        (answer(502, "/", ["not", "a", "problem"]), "answered 502"),
    ],
)
def test_a_refusal_says_what_to_do(refused: httpx2.Response, said: str) -> None:
    assert said in sentence(refused)
    assert "\n" not in sentence(refused)


def test_only_a_missing_scope_is_answered_with_how_to_get_a_key() -> None:
    assert "keys create" not in sentence(answer(403, "/v1/keys", problem("this machine only")))
