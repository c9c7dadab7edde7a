"""What is hidden, and what is left as it is."""

import json

import pytest

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
    assert "abc" not in mask.text(f"sent {headers}")
    assert "abc" not in mask.text("Authorization: Basic abc")
    assert mask.text("a Bearer 0123456789abcdef0") == "a Bearer ***"


def test_an_exception_and_an_object_are_hidden_in_their_text() -> None:
    assert Mask(["hunter2"]).value([ValueError("no hunter2 here"), ("hunter2",)]) == [
        "ValueError('no *** here')",
        ["***"],
    ]


def test_ordinary_text_is_left_alone() -> None:
    text = "the bearer of a basic token=1 asks https://host/path?x=1#y, a@b.c"
    assert Mask(["abc"]).text(text) == text


def test_every_secret_of_the_settings_is_known() -> None:
    settings = Settings(
        valkey_url="redis://:one%2F1@h",
        nats_url="nats://two@a,nats://u:three@b",
        neo4j_password="four",
        api_key="five",
        engine_key="six",
    )
    assert {"one%2F1", "one/1", "two", "three", "four", "five", "six"} <= secrets_of(settings)
