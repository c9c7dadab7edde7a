"""Whatever is typed, each verb answers with an exit code and a sentence, never with a traceback."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fleet.cli import main
from fleet.cli.documents import MOST_BYTES
from tests.integration.cli.conftest import Served

HOSTILE = ["", " ", ".", "..", "../../etc", "a/b?c=d#e", "%2e%2e%2f", "-1", "\udcff", "\x1b[2J", "'; DROP", "é" * 200]
LONG = "x" * 5000
BODIES = [
    "",
    "null",
    "[]",
    '"text"',
    "1",
    "{}",
    '{"plan_id": "p"}',
    '{"plan_id": NaN, "story_id": "s"}',
    '{"plan_id": "\\ud800", "story_id": "s"}',
    '{"plan_id": "p", "story_id": "s", "roles": ["WIZARD"]}',
    "? [a]\n: b",
    "plan_id: !!binary aGk=\nstory_id: s",
    "plan_id: .nan\nstory_id: s",
]


def verbs(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb with the words that lead to it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner
        yield from verbs(inner, *path, name)


VERBS = dict(verbs(main))
LOCAL = {("up",), ("listener",), ("demo",), ("doctor",), ("version",), ("models", "list"), ("models", "fetch"),
         ("completion",), ("config", "show")}  # fmt: skip
CALLING = {words: verb for words, verb in VERBS.items() if words not in LOCAL}
NAMES = {words: " ".join(words) for words in VERBS}


def arguments(words: tuple[str, ...], given: str) -> list[str]:
    """The verb with `given` for each argument, and for each option that it must have."""
    typed = list(words)
    for parameter in VERBS[words].params:
        if isinstance(parameter, click.Argument):
            typed.append(given)
        elif parameter.required:
            typed += [parameter.opts[0], given]
    return typed


def needs_arguments(words: tuple[str, ...]) -> bool:
    return any(parameter.required for parameter in VERBS[words].params)


@pytest.mark.parametrize("words", VERBS, ids=NAMES.values())
def test_every_verb_has_help_in_words(served: Served, words: tuple[str, ...]) -> None:
    done = served.cli(*words, "--help")
    assert done.exit_code == 0
    assert all(one.help for one in VERBS[words].params if isinstance(one, click.Option)), "an option without help"


@pytest.mark.parametrize("words", VERBS, ids=NAMES.values())
def test_an_unknown_option_is_bad_usage(served: Served, words: tuple[str, ...]) -> None:
    done = served.cli(*words, "--no-such-option")
    assert done.exit_code == 2
    assert "No such option" in done.stderr


@pytest.mark.parametrize("words", VERBS, ids=NAMES.values())
def test_too_much_is_bad_usage(served: Served, words: tuple[str, ...]) -> None:
    done = served.cli(*words, "a", "b", "c", "d")
    assert done.exit_code == 2


@pytest.mark.parametrize("words", [*filter(needs_arguments, VERBS)], ids=NAMES.get)
def test_too_little_is_bad_usage(served: Served, words: tuple[str, ...]) -> None:
    done = served.cli(*words)
    assert done.exit_code == 2
    assert "Missing" in done.stderr


@pytest.mark.parametrize("given", [*HOSTILE, LONG], ids=range(len(HOSTILE) + 1))
@pytest.mark.parametrize("words", [*filter(needs_arguments, CALLING)], ids=NAMES.get)
def test_hostile_arguments_are_refused_in_a_sentence(served: Served, words: tuple[str, ...], given: str) -> None:
    done = served.cli(*arguments(words, given))
    assert done.exit_code in (1, 2)
    assert done.stdout == ""
    assert done.stderr.count("\n") <= 4  # click says how to get help before its sentence
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", CALLING, ids=NAMES.get)
def test_a_server_that_is_not_there_is_exit_code_3(served: Served, words: tuple[str, ...], tmp_path: Path) -> None:
    known = {("plan", "submit"): str(tmp_path / "plan.json"), ("keys", "create"): "read"}
    (tmp_path / "plan.json").write_text("{}")
    given = known.get(words, "DEV")
    done = served.cli(*arguments(words, given), FLEET_URL="http://127.0.0.1:9")
    assert done.exit_code == 3
    assert "http://127.0.0.1:9" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "url", ["nonsense", "http://[", "http://h:99999999", "http://h:x", "ftp://127.0.0.1", "http://", "http://\x1b"]
)
def test_a_url_that_is_none_is_refused_in_a_sentence(served: Served, url: str) -> None:
    done = served.cli("council", "list", FLEET_URL=url)
    assert done.exit_code in (2, 3)
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("key", ["wrong", "", "é", "two\nlines"])
def test_a_key_that_is_none_is_refused_with_the_next_step(served: Served, key: str) -> None:
    done = served.cli("council", "list", FLEET_API_KEY=key)
    assert done.exit_code in (1, 2)
    assert "FLEET_API_KEY" in done.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"api_url": 1}'])
def test_a_fleet_json_that_is_none_is_exit_code_3(served: Served, tmp_path: Path, text: str) -> None:
    (tmp_path / "fleet.json").write_text(text)
    done = served.start("council", "list", FLEET_URL="", FLEET_DIR=str(tmp_path)).finished()
    assert done[0] == 3
    assert "fleet.json is not what `fleet up` writes" in done[2]


@pytest.mark.parametrize("text", BODIES)
def test_a_plan_that_is_none_is_bad_usage(served: Served, text: str) -> None:
    done = served.cli("plan", "submit", "-", stdin=text)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_plan_at_the_limit_is_sent_and_one_over_it_is_not(served: Served, tmp_path: Path) -> None:
    plan = json.dumps({"plan_id": "p", "story_id": "s", "roles": ["DEV"]})
    (tmp_path / "plan").write_text(plan + " " * (MOST_BYTES - len(plan)))
    assert served.cli("plan", "submit", str(tmp_path / "plan")).exit_code == 0
    (tmp_path / "plan").write_text(plan + " " * (MOST_BYTES - len(plan) + 1))
    assert served.cli("plan", "submit", str(tmp_path / "plan")).exit_code == 2


@pytest.mark.parametrize(
    "options",
    [("--rounds", "4"), ("--rounds", "x"), ("--agents", "0"), ("--agents", "11"), ("--timeout", "0"),
     ("--timeout", "1e9"), ("--requirement", ""), ("--requirement", "x" * 501), ("--story", "no id")],
)  # fmt: skip
def test_options_out_of_range_are_bad_usage(served: Served, options: tuple[str, str]) -> None:
    done = served.cli("deliberation", "run", "Write a function", "--role", "DEV", *options)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("plan", "list"), ("deliberation", "list"), ("deadletter", "list")])
@pytest.mark.parametrize("limit", ["0", "-1", "x", "1e3", "999999999"])
def test_a_limit_out_of_range_is_bad_usage(served: Served, words: tuple[str, ...], limit: str) -> None:
    assert served.cli(*words, "--limit", limit).exit_code == 2


@pytest.mark.parametrize("after", ["x", "-1", "1-2-3", "\udcff"])
def test_a_place_in_the_log_that_is_none_is_bad_usage(served: Served, after: str) -> None:
    assert served.cli("events", "--after", after).exit_code == 2


def test_unknown_verbs_are_bad_usage(served: Served) -> None:
    assert served.cli("fly").exit_code == 2
    assert served.cli("plan", "fly").exit_code == 2
