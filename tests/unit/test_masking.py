"""What is hidden, and what is left as it is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.masking import Mask, secrets_of, without_password
from fleet.settings import Settings

SECRET = 'hunter"2 ü/@'


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@h:1/0", "redis://:***@h:1/0"),
        ("redis://user:hunter2@h", "redis://user:***@h"),
        ("redis://user:hunt@er2@h", "redis://user:***@h"),
        ("nats://hunter2@a,nats://u:hunter2@b", "nats://***@a,nats://u:***@b"),
        ("redis://h/0?password=hunter2&x=1", "redis://h/0?password=***&x=1"),
        ("see http://h/a@b and http://h/", "see http://h/a@b and http://h/"),
    ],
)
def test_the_password_of_a_url_is_hidden_wherever_it_stands(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert Mask([]).text(f"cannot reach {url!r}") == f"cannot reach {shown!r}"


@pytest.mark.parametrize("written", [str, repr, json.dumps, lambda text: repr({"a": json.dumps(text)})])
def test_a_known_secret_is_hidden_however_it_is_escaped(written: object) -> None:
    text = written(SECRET)  # type: ignore[operator]
    assert "hunter" not in Mask([SECRET]).text(f"it was {text}.")


def test_what_carries_a_secret_by_its_name_is_hidden() -> None:
    mask = Mask([])
    headers = {"Authorization": "Bearer abc", "accept": "x"}
    assert mask.value({"headers": headers, "n": 1}) == {"headers": {"Authorization": "***", "accept": "x"}, "n": 1}
    assert mask.value(
        {"X-Api-Key": "abc", "neo4j_password": "abc", "tokens": 3, "key_id": "abc", b"token": b"abc"}
    ) == {
        "X-Api-Key": "***",
        "neo4j_password": "***",
        "tokens": 3,
        "key_id": "abc",
        b"token": "***",
    }
    assert "abc" not in mask.text(f"sent {headers}")
    assert "abc" not in mask.text("Authorization: Basic abc")
    assert mask.text("a Bearer 0123456789abcdef0") == "a Bearer ***"


KEY = f"fleet_{'0123456789ab'}_{'cd' * 32}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Token hunter2", "Authorization: Token ***"),
        ("authorization: ApiKey hunter2, x", "authorization: ApiKey *** x"),
        ("Proxy-Authorization: hunter2", "Proxy-Authorization: ***"),
        ("{'Authorization': 'Custom hunter2 hunter2', 'n': 1}", "{'Authorization': '***', 'n': 1}"),
        ("X-Api-Key: hunter2 and", "X-Api-Key: *** and"),
        ("X-Auth-Token: hunter2\nAccept: x", "X-Auth-Token: ***\nAccept: x"),
        ('{"password": "hunter2", "n": 1}', '{"password": "***", "n": 1}'),
        ('{"password":"two hunter2 \\" hunter2","n":1}', '{"password":"***","n":1}'),
        (r'"{\"api_key\": \"hunter2 x\", \"n\": 1}"', r'"{\"api_key\": \"***\", \"n\": 1}"'),
        ("{b'secret': b'hunter2'}", "{b'secret': b'***'}"),
        ('{"refresh_token": "hunter2', '{"refresh_token": "***'),
        ("Auth(user='x', neo4j_password='hunter2')", "Auth(user='x', neo4j_password='***')"),
        ("client_secret=hunter2&x=1", "client_secret=***&x=1"),
        ('{"password": 1234}', '{"password": ***'),
        (f"sent {KEY}.", "sent fleet_0123456789ab_***."),
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer ***"),
    ],
)
def test_what_a_text_calls_a_secret_is_hidden_in_it(text: str, shown: str) -> None:
    assert Mask([]).text(text) == shown
    assert Mask([]).text(shown) == shown


NAMES = (
    "password",
    "Secret",
    "TOKEN",
    "pa\u017f\u017fword",
    "to\u212aen",
    "apiKey",
    "Authorization",
    "Bearer",
    "://u",
    "fleet_",
)
BETWEEN = ("", ":", "=", ": ", "': b'", '\\": \\"', " ", ":p@", "0123456789ab_")
VALUES = ("hunter2", "'two words'", "0123456789abcdef", "cd" * 32, "known-secret")
TEXTS = st.tuples(*map(st.sampled_from, (NAMES, BETWEEN, VALUES))).map("".join)


@given(st.lists(TEXTS, max_size=3).map(" ".join))
@settings(max_examples=500, deadline=None)
def test_the_first_look_passes_over_nothing_that_would_be_hidden(text: str) -> None:
    mask, looked_at = Mask(["known-secret"]), "fleet_ :// bearer:\n"
    assert mask.text(looked_at + text) == looked_at + mask.text(text)


def test_an_exception_and_an_object_are_hidden_in_their_text() -> None:
    assert Mask(["hunter2"]).value([ValueError("no hunter2 here"), ("hunter2",)]) == [
        "ValueError('no *** here')",
        ["***"],
    ]


def test_ordinary_text_is_left_alone() -> None:
    assert Mask([]).text(r'{\"password\": \"\", "token": ""}') == r'{\"password\": \"\", "token": ""}'
    text = "the bearer of a basic token asks https://host/path?x=1#y, a@b.c for 3 tokens: fleet_1, key_id=fleet_2"
    assert Mask(["abc"]).text(text) == text


def test_many_backslashes_are_looked_at_in_no_more_than_linear_time() -> None:
    many = "\\" * 200_000
    assert Mask([]).text(f"password={many}'{many}") == f"password={many}'{many}"


def test_every_secret_of_the_settings_is_known() -> None:
    known = Settings(
        valkey_url="redis://:one%2F1@h",
        nats_url="nats://two@a,nats://u:three@b",
        neo4j_password="four",
        api_key="five",
        engine_key="six",
    )
    assert {"one%2F1", "one/1", "two", "three", "four", "five", "six"} <= secrets_of(known)
