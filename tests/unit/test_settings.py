"""Settings: where they come from, and what is refused before anything starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from fleet.settings import CONFIG, ORIGINALS, Settings, WrongSettings, load, origin, variables

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller's shell has set is no part of these tests."""
    for name in set(os.environ) & {variable for field in Settings.model_fields for variable in variables(field)}:
        monkeypatch.delenv(name)


def refusal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WrongSettings) as refused:
        load()
    return str(refused.value)


def test_behaviours_are_read_from_one_line_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ENGINE", "scripted")
    monkeypatch.setenv("FLEET_SCRIPTED_BEHAVIOURS", " agent-dev-002=silent, *-003 = poor,")
    assert Settings().scripted_behaviours == {"agent-dev-002": "silent", "*-003": "poor"}


def test_a_behaviour_without_a_pattern_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_SCRIPTED_BEHAVIOURS", "agent-dev-002")
    with pytest.raises(ValidationError, match="not pattern=behaviour: agent-dev-002"):
        Settings()


VALUES = {
    "VALKEY_URL": "rediss://:pw@valkey:1/2",
    "NATS_URL": "tls://nats:1",
    "NEO4J_URI": "neo4j+s://graph",
    "NEO4J_USER": "someone",
    "NEO4J_PASSWORD": "pw",
    "VLLM_URL": "https://vllm/v1",
    "VLLM_MODEL": "a-model",
    "AGENT_TYPE": "local",
    "ENABLE_NATS": "false",
    "AUTO_INIT_COUNCILS": "false",
    "NUM_AGENTS_PER_COUNCIL": "5",
    "DELIBERATION_TIMEOUT": "120",
    "DELIBERATION_CLEANUP": "121",
    "CONTEXT_CACHE_TTL": "122",
    "LOG_LEVEL": "ERROR",
    "LOG_FORMAT": "console",
}


@pytest.mark.parametrize("field", ORIGINALS)
def test_a_variable_of_the_original_is_the_same_setting(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default, alias = load(), ORIGINALS[field]
    monkeypatch.setenv(alias, VALUES[alias])
    by_alias = load()
    monkeypatch.delenv(alias)
    monkeypatch.setenv(f"FLEET_{field.upper()}", VALUES[alias])
    assert by_alias == load() != default
    monkeypatch.setenv(alias, VALUES[alias])
    assert load() == by_alias


def test_every_variable_of_the_original_is_known() -> None:
    assert set(ORIGINALS.values()) == set(VALUES)


def test_a_setting_given_twice_with_different_values_is_refused_without_the_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = refusal(monkeypatch, FLEET_NEO4J_PASSWORD="hunter2", NEO4J_PASSWORD="hunter3")
    assert said == "FLEET_NEO4J_PASSWORD and NEO4J_PASSWORD are one setting and have different values"


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("log_level", "INFO", "info"),
        ("nats_enabled", "false", "0"),
        ("deliberation_timeout_s", "120", " 120"),
        ("neo4j_password", "hunter2", ""),
        ("neo4j_password", "", "hunter2"),
    ],
)
def test_a_setting_given_twice_may_be_spelt_in_two_ways(
    name: str, one: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, original = variables(name)
    monkeypatch.setenv(own, one or other)
    once = load()
    monkeypatch.setenv(own, one)
    monkeypatch.setenv(original, other)
    assert load() == once


def test_a_setting_given_twice_and_wrong_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, FLEET_DELIBERATION_TIMEOUT_S="120", DELIBERATION_TIMEOUT="long")
    assert said == "FLEET_DELIBERATION_TIMEOUT_S and DELIBERATION_TIMEOUT are one setting and have different values"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("engine_slots: 7\n")
    monkeypatch.setenv("FLEET_CONFIG", str(file))
    from_file = load()
    for name in (variable for field in Settings.model_fields for variable in variables(field)):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("FLEET_OF_ANOTHER_VERSION", "")
    assert load() == from_file
    assert origin("engine_slots", os.environ, {"engine_slots": 7}) == CONFIG
    assert origin("log_level", os.environ, {}) is None
    monkeypatch.setenv("FLEET_CONFIG", "")
    assert load().engine_slots == 6


def test_only_whole_names_count(monkeypatch: pytest.MonkeyPatch) -> None:
    default = load()
    for name in ("MODEL", "ENGINE", "dir", "log_level", "fleet_model", "API_BIND"):
        monkeypatch.setenv(name, "something else's")
    assert load() == default


def test_the_small_model_is_asked_for_less_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ENGINE", "openai")
    large = Settings()
    monkeypatch.setenv("FLEET_ENGINE", "local")
    small = Settings()
    assert small.proposal_chars < large.proposal_chars
    assert small.request_timeout_s > large.request_timeout_s
    monkeypatch.setenv("FLEET_PROPOSAL_CHARS", "700")
    assert Settings().proposal_chars == 700


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_VALKEY_URL", "redis://:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("FLEET_API_KEY", "hunter2")
    assert "hunter2" not in repr(Settings())


def test_a_comma_is_part_of_valkeys_password_and_separates_servers_of_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_VALKEY_URL", "redis://:hunt,er2@h:1/0")
    monkeypatch.setenv("FLEET_NATS_URL", "nats://a:1,tls://b")
    settings = load()
    assert settings.valkey_url.get_secret_value() == "redis://:hunt,er2@h:1/0"
    assert settings.nats_url.get_secret_value() == "nats://a:1,tls://b"


@pytest.mark.parametrize("bind", ["0.0.0.0:8080", "[::1]:8080", "[::]:0", "api.local:80", "unix:/run/f.sock", "unix:f"])
def test_the_api_may_listen_where_gunicorn_can(bind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_API_BIND", bind)
    assert load().api_bind == bind


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("log_level", "debug", "DEBUG"),
        ("log_level", "warn", "WARNING"),
        ("log_level", "Fatal", "CRITICAL"),
        ("log_level", "critical", "CRITICAL"),
        ("log_format", "text", "console"),
        ("log_format", "JSON", "json"),
        ("engine", "vllm", "openai"),
        ("engine", "OpenAI", "openai"),
    ],
)
def test_a_word_may_be_in_any_case_and_what_others_call_the_same(
    name: str, written: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in variables(name):
        monkeypatch.setenv(variable, written)
        assert getattr(load(), name) == meant


def test_the_environment_beats_the_file_and_the_file_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("agents_per_council: 5\nengine_slots: 7\nengine: scripted\nscripted_behaviours:\n  '*': poor\n")
    monkeypatch.setenv("FLEET_CONFIG", str(file))
    monkeypatch.setenv("NUM_AGENTS_PER_COUNCIL", "2")
    settings = load()
    assert (settings.agents_per_council, settings.engine_slots, settings.part_deaths) == (2, 7, 3)
    assert settings.scripted_behaviours == {"*": "poor"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("engin: local", "engin in {}: there is no such setting, did you mean engine?"),
        ("NATS_URL: nats://h", "NATS_URL in {}: there is no such setting, did you mean nats_url?"),
        ("engine_slots: many", "engine_slots in {}: Input should be a valid integer"),
        ("api_key: [hunter2]", "api_key in {}: Input should be a valid string"),
        ("api_key: 'hunter2", "FLEET_CONFIG: {}, line 1: not YAML"),
        ("api_key: *hunter2", "FLEET_CONFIG: {}, line 1: not YAML"),
        ("- hunter2", "FLEET_CONFIG: {} is not a YAML mapping of settings to values"),
        ("hunter2", "FLEET_CONFIG: {} is not a YAML mapping of settings to values"),
        ("\udcff: 1", "FLEET_CONFIG: {} is not a YAML mapping of settings to values"),
    ],
)
def test_a_file_that_is_wrong_is_refused(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    said = refusal(monkeypatch, FLEET_CONFIG=str(file))
    assert said.startswith(reason.format(file))
    assert "hunter2" not in said


def test_a_file_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (
        refusal(monkeypatch, FLEET_CONFIG=str(tmp_path / "none")) == f"FLEET_CONFIG: there is no file {tmp_path}/none"
    )


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("FLEET_NATS_UR", "x", "there is no such setting, did you mean FLEET_NATS_URL?"),
        ("FLEET_SOMETHING_QUITE_DIFFERENT", "x", "there is no such setting"),
        ("FLEET_VALKEY_URL", "valkey:6379", "not a URL that begins with redis:// or rediss://"),
        ("FLEET_VALKEY_URL", "http://:hunter2@h", "not a URL that begins with redis:// or rediss://"),
        ("FLEET_VALKEY_URL", "redis://:hunter2/x@h", "not a URL: its host or port cannot be read"),
        ("FLEET_VALKEY_URL", "redis:///0", "not a URL with one host"),
        ("FLEET_VALKEY_URL", "redis://a,redis://b", "not a URL with one host"),
        ("FLEET_VALKEY_URL", "redis://:hunter2@a:1,b:2", "not a URL: its host or port cannot be read"),
        ("FLEET_VALKEY_URL", "redis://:hunter2@a,b:2", "not a URL with one host"),
        ("FLEET_NATS_URL", "nats://a,http://:hunter2@b", "not a URL that begins with nats:// or tls://"),
        ("NEO4J_URI", "http://h", "not a URL that begins with bolt://"),
        ("FLEET_NEO4J_URI", "bolt://u:hunter2@h", "a user or a password does not belong into this URL"),
        ("FLEET_ENGINE_URL", "ftp://h", "not a URL that begins with http:// or https://"),
        ("FLEET_ENGINE_URL", "https://hunter2@h", "a user or a password does not belong into this URL"),
        ("AGENT_TYPE", "magic", "Input should be 'scripted', 'local' or 'openai'"),
        ("FLEET_AGENT_QUEUE", "council", "Input should be 'agents' or 'gpu'"),
        ("FLEET_QUEUE_TTL_S", "-1", "Input should be greater than or equal to 1"),
        ("FLEET_REQUEST_TIMEOUT_S", "inf", "Input should be a finite number"),
        ("FLEET_API_BIND", "8080", "not host:port"),
        ("FLEET_API_BIND", "127.0.0.1:70000", "not host:port"),
        ("FLEET_API_BIND", "::1:8080", "not host:port"),
        ("FLEET_API_BIND", "tcp://127.0.0.1:8080", "not host:port"),
        ("FLEET_API_BIND", "unix:", "not host:port"),
        ("FLEET_LOG_FORMAT", "xml", "Input should be 'console' or 'json'"),
        ("FLEET_SCRIPTED_BEHAVIOURS", "*=rude", "*: Input should be 'normal', 'excellent'"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_the_reason_and_no_secret(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(monkeypatch, **{name: value})
    assert said.startswith(f"{name}: {reason}")
    assert "hunter2" not in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        (
            {"FLEET_SCRIPTED_BEHAVIOURS": "*=poor"},
            "FLEET_SCRIPTED_BEHAVIOURS is for the engine scripted, and FLEET_ENGINE is openai",
        ),
        (
            {"FLEET_SCRIPTED_LATENCY_S": "1", "FLEET_ENGINE": "local"},
            "FLEET_SCRIPTED_LATENCY_S is for the engine scripted, and FLEET_ENGINE is local",
        ),
        (
            {"FLEET_SHOWN_CHARS": "1000"},
            "FLEET_SHOWN_CHARS (1000) has no room for one proposal of FLEET_PROPOSAL_CHARS (6000)",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(monkeypatch, **environment) == reason


def test_every_fault_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, FLEET_ENGINE="magic", FLEET_ENGIN_KEY="x", FLEET_PART_DEATHS="0")
    assert [fault.partition(":")[0] for fault in said.split("; ")] == [
        "FLEET_ENGIN_KEY",
        "FLEET_ENGINE",
        "FLEET_PART_DEATHS",
    ]


def test_variables_that_only_the_command_line_reads_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_URL", "http://127.0.0.1:1")
    load()


LINKS = {
    "FLEET_SERVICE_HOST": "10.0.0.1",
    "FLEET_SERVICE_PORT": "8080",
    "FLEET_API_SERVICE_HOST": "10.0.0.1",
    "FLEET_API_SERVICE_PORT_HTTP": "8080",
    "FLEET_PORT": "tcp://10.0.0.1:8080",
    "FLEET_API_PORT": "tcp://10.0.0.1:8080",
    "FLEET_API_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "FLEET_API_PORT_8080_TCP_ADDR": "10.0.0.1",
    "FLEET_PORT_53_UDP_PROTO": "udp",
}


def test_variables_that_kubernetes_and_docker_make_of_a_service_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default = load()
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    assert load() == default


def test_a_port_that_somebody_meant_as_a_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch, FLEET_API_PORT="9000").startswith("FLEET_API_PORT: there is no such setting")


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("fleet.cli", "council", "list"),
        ("fleet.cli", "listener"),
        ("celery", "-A", "fleet", "worker", "-Q", "agents"),
        ("celery", "-A", "fleet", "worker", "-Q", "council", "-P", "threads", "-c", "1"),
        ("celery", "-A", "fleet", "flower"),
        ("celery", "-A", "fleet", "inspect", "ping"),
        ("gunicorn", "-c", "gunicorn.conf.py", "fleet.api:create_app()"),
    ],
)
def test_no_process_starts_with_a_setting_that_is_wrong(arguments: tuple[str, ...]) -> None:
    environment = {**os.environ, "FLEET_NATS_UR": "nats://:hunter2@h", "FLEET_ENGINE": "magic"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "wrong settings: FLEET_NATS_UR: there is no such setting, did you mean FLEET_NATS_URL?; "
        "FLEET_ENGINE: Input should be 'scripted', 'local' or 'openai'"
    )
