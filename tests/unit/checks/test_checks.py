import threading
import time
from typing import Any

import pytest

from fleet.checks import check, check_score
from fleet.checks.syntax import MAX_CHARS
from fleet.models import AdditionalCheck, Checks, Constraints, LintCheck
from tests.unit.deliberation.making import make_content, make_task

TASK = make_task(
    task_description="Lock an account for ten minutes after five failed logins within one minute.",
    constraints=Constraints(requirements=("the limit is per account", "a test shows the lock")),
)
CODE = "def allowed(failures: int) -> bool:\n    return failures < 5\n"


def file(content: str, language: str = "python", path: str = "src/limit.py") -> dict[str, str]:
    return {"path": path, "language": language, "content": content}


def checked(others: tuple[dict[str, Any], ...] = (), **fields: Any) -> Checks:
    return check(TASK, make_content(**fields), others)


def linted(content: str, language: str = "python", path: str = "x") -> LintCheck | None:
    return checked(artifacts=[file(content, language, path)]).lint


def additional(checks: Checks, kind: str) -> AdditionalCheck | None:
    return next((one for one in checks.additional_checks if one.check_type == kind), None)


def failed(checks: Checks) -> list[str]:
    return [one.check_type for one in checks.additional_checks if not one.passed]


# ── good and bad ──────────────────────────────────────────────────────────────────────────────────────────────────

BAD = {
    "broken code": {"artifacts": [file("def allowed(:")]},
    "empty texts": {"summary": " ", "approach": "", "steps": []},
    "placeholders": {"summary": "TODO", "approach": "...", "steps": ["string"]},
    "repetition": {"approach": "the limit " * 30},
    "escaping paths": {"artifacts": [file(CODE, path="../../etc/passwd")]},
    "the task copied": {
        "summary": TASK.task_description,
        "approach": "A test shows the lock",
        "steps": ["Lock an account"],
    },
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_proposal_scores_below_a_good_one(fault: str) -> None:
    good = check_score(checked(artifacts=[file(CODE)]))
    bad = check_score(check(TASK, make_content(**{"artifacts": [file(CODE)], **BAD[fault]}), []))
    assert good == 1.0
    assert 0 <= bad < good


def test_what_did_not_run_is_absent() -> None:
    checks = checked()
    assert checks.policy is checks.dryrun is checks.lint is None
    assert additional(checks, "artifact_path") is None


# ── lint ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "language", "path"),
    [
        (CODE, "python", "x"),
        (CODE, "Py", "x"),
        (CODE, "other", "a/b.py"),
        ('{"a": [1, "ü"]}', "json", "x"),
        ("a: 1\n---\nb: [2]\n", "yaml", "x"),
        ("Resource: !Ref Name\n", "text", "x.yml"),
    ],
)
def test_code_that_parses_passes(content: str, language: str, path: str) -> None:
    assert linted(content, language, path) == LintCheck(passed=True)


@pytest.mark.parametrize(
    ("content", "language", "path"),
    [
        ("def f(:", "python", "x"),
        ("```python\nx = 1\n```", "python", "x"),
        ("x = 1\n  y = 2", "text", "a.PY"),
        ("x = '\x00'", "python", "x"),
        ("x = " + "1" * 5_000, "python", "x"),
        ("{'a': 1}", "json", "x"),
        ('{"a": NaN}', "json", "x"),
        ("1" * 5_000, "json", "x"),
        ("a: [1", "yaml", "x"),
        ("a: *nobody", "yaml", "x"),
        ("a: 1\n---\nb: ]", "yaml", "x"),
        ("a: \x07", "yaml", "x"),
    ],
)
def test_code_that_does_not_parse_fails_and_says_where(content: str, language: str, path: str) -> None:
    lint = linted(content, language, path)
    assert lint is not None
    assert (lint.passed, lint.error_count) == (False, 1)
    assert lint.errors[0].startswith(f"{path}: ")
    assert len(lint.errors[0]) > len(path) + 5


@pytest.mark.parametrize(
    ("content", "language", "path"), [("a b c", "go", "x.go"), (" \n", "python", "x"), ("?", "", "x")]
)
def test_what_cannot_be_parsed_here_counts_as_nothing(content: str, language: str, path: str) -> None:
    assert linted(content, language, path) is None


def test_every_broken_file_is_an_error_and_the_sound_ones_are_none() -> None:
    lint = checked(
        artifacts=[file(CODE), file("(", path="b.py"), file("[", "json", "c.json"), file("?", "sql", "d.sql")]
    ).lint
    assert lint is not None
    assert (lint.error_count, len(lint.errors), lint.passed) == (2, 2, False)


def test_a_file_too_large_to_be_parsed_is_a_warning_never_a_pass() -> None:
    large = file("x = 1\n" * (MAX_CHARS["python"] // 6 + 1))
    assert checked(artifacts=[large]).lint is None
    lint = checked(artifacts=[large, file(CODE, path="b.py")]).lint
    assert lint == LintCheck(passed=True, warning_count=1)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "parentheses": ("(" * 50_000, "python"),
    "minuses": ("-" * 60_000 + "1", "python"),
    "sums": ("1" + "+1" * 30_000, "python"),
    "attributes": ("a" + ".b" * 30_000, "python"),
    "f-strings": ("f'{" * 5_000, "python"),
    "blocks": ("".join("\t" * depth + "if x:\n" for depth in range(200)), "python"),
    "lambdas": ("lambda:" * 8_000 + "0", "python"),
    "nots": ("not " * 15_000 + "x", "python"),
    "json": ("[" * 60_000, "json"),
    "yaml flow": ("[" * 20_000, "yaml"),
    "yaml blocks": ("- " * 20_000, "yaml"),
    "yaml keys": ("? " * 20_000, "yaml"),
    "yaml laughs": (LAUGHS, "yaml"),
    "yaml merges": (MERGES, "yaml"),
    "yaml object": ("!!python/object/apply:os.system ['false']", "yaml"),
    "yaml words": ("word " * 11_000, "yaml"),
    "surrogates": ("\ud800 = 1", "python"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_neither_raises_nor_hangs_even_in_a_thread(name: str) -> None:
    content, language = HOSTILE[name]
    found: list[LintCheck | None] = []
    thread = threading.Thread(target=lambda: found.append(linted(content, language)))
    started = time.process_time()
    thread.start()
    thread.join()
    assert len(found) == 1
    assert time.process_time() - started < 5


# ── content ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "summary",
    ["", " \n", "TODO", "tbd.", "...", "…", "<summary>", "[insert summary here]", "N/A", "lorem ipsum dolor sit amet",
     "!!! ???", "-" * 60_000, "1" * 300, "1.0",
     "ab" * 40, "yes yes yes yes yes yes yes", "The plan is the plan. " * 20],
)  # fmt: skip
def test_text_that_says_nothing_is_found(summary: str) -> None:
    content = additional(checked(summary=summary), "content")
    assert content is not None
    assert not content.passed
    assert 0.4 < content.score < 0.8
    assert content.message.startswith("summary ")


@pytest.mark.parametrize(
    "summary",
    ["Count.", "ログイン失敗を数えてアカウントを固定する", "Ограничить вход после пяти неудач", "🙂 Sperre das Konto",
     "x = [1, 2]", " ".join(f"Row {n} of table {n * 7} moves to part {n % 9}." for n in range(25))],
)  # fmt: skip
def test_short_foreign_and_regular_text_is_content(summary: str) -> None:
    assert failed(checked(summary=summary)) == []


def test_steps_that_repeat_each_other_are_found() -> None:
    assert failed(checked(steps=["Test it"] * 5)) == ["content"]
    assert failed(checked(steps=["Test it", "Ship it", "Test it"])) == []


def test_parts_that_repeat_each_other_with_small_changes_are_found() -> None:
    plan = "The plan is to add a limit to the login endpoint of the web shop"
    fields = {
        "summary": f"{plan}.",
        "approach": f"{plan} today.",
        "steps": [f"{n}. {plan}, step {n}" for n in range(4)],
    }
    content = additional(checked(**fields), "content")
    assert content is not None
    assert (content.passed, content.score, content.message) == (False, 0.75, "whole repeats itself")


def test_a_proposal_of_a_few_empty_words_is_found() -> None:
    content = additional(checked(summary="Do it. Do it. Do it.", approach="Just do it.", steps=["Go"]), "content")
    assert content is not None
    assert content.message == "whole says next to nothing"


def test_an_artifact_of_repetition_is_found() -> None:
    assert failed(checked(artifacts=[file("1, " * 300, "text", "a.txt")])) == ["content"]


def test_a_long_file_of_ordinary_code_is_not_repetition() -> None:
    code = "\n".join(f"def test_{n}() -> None:\n    assert total({n}, {n * n}) == {n + n * n}\n" for n in range(40))
    assert failed(checked(artifacts=[file(code)])) == []


@pytest.mark.parametrize(
    "content", [{}, {"summary": 1, "steps": "x", "artifacts": [1, {"path": None}]}, {"steps": None}]
)
def test_a_proposal_of_another_shape_fails_without_an_error(content: dict[str, Any]) -> None:
    checks = check(TASK, content, [content])
    assert "content" in failed(checks)
    assert check_score(checks) < 1


# ── original ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_copy_of_the_task_is_found_however_it_is_dressed() -> None:
    words = TASK.task_description.upper().replace(" ", " *")
    copy = {"summary": words, "approach": "", "steps": [], "artifacts": []}
    original = additional(check(TASK, copy, []), "original")
    assert original is not None
    assert (original.passed, original.score, original.message) == (False, 0.0, "it is a copy of the task")


def test_a_copy_of_another_proposal_is_found_in_both() -> None:
    one, other = (
        make_content("plain"),
        make_content("plain", confidence=99, summary="Count failed logins: THE PLAIN way!"),
    )
    for content, peer in ((one, other), (other, one)):
        original = additional(check(TASK, content, [peer]), "original")
        assert original is not None
        assert original.message == "it is a copy of another proposal"


def test_proposals_on_the_same_subject_are_originals() -> None:
    other = make_content("other", approach="A sliding window in the cache.", steps=["Write the window", "Lock at five"])
    assert failed(checked(others=(other,))) == []


def test_a_copy_in_a_script_without_spaces_is_found() -> None:
    text = "ログイン失敗を数えてアカウントを十分間固定する"
    copy = make_content(summary=text, approach=text, steps=[text])
    assert "original" in failed(check(make_task(task_description=text), copy, []))


def test_quoting_one_requirement_is_no_copy() -> None:
    assert failed(checked(summary="The limit is per account: count failed logins by account in one row")) == []


# ── paths ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x.py", "a/../../x.py", "C:\\x.py", "c:x.py", "\\\\host\\share", "..\\x.py", "~/x.py", "~root/x",
     "", " ", ".", "a\x00.py", "a\n.py", "a\u202e.py"],
)  # fmt: skip
def test_a_path_out_of_the_project_fails(path: str) -> None:
    paths = additional(checked(artifacts=[file(CODE, path="ok.py"), file(CODE, path=path)]), "artifact_path")
    assert paths is not None
    assert (paths.passed, paths.score) == (False, 0.5)


@pytest.mark.parametrize("path", ["x.py", "./a/b.py", "a..b/c.py", ".github/x.yml", "Dockerfile", "ü/登録.py"])
def test_a_path_inside_the_project_passes(path: str) -> None:
    paths = additional(checked(artifacts=[file(CODE, path=path)]), "artifact_path")
    assert paths is not None
    assert paths.passed


def test_two_files_of_one_path_fail_once() -> None:
    paths = additional(checked(artifacts=[file(CODE, path="a/x.py"), file(CODE, path="a/./x.py")]), "artifact_path")
    assert paths is not None
    assert paths.score == 0.5
    assert "twice" in paths.message
