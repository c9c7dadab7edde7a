"""What is wrong with certificates and credentials is refused at the start, in one line that names the setting."""

from pathlib import Path

import pytest

from fleet.settings import Settings, WrongSettings, load
from fleet.settings.tls import valkey_tls
from tests.integration.security.tls import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "own")


def refusal(monkeypatch: pytest.MonkeyPatch, **environment: object) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(f"FLEET_{name}", str(value))
    with pytest.raises(WrongSettings) as refused:
        load()
    return str(refused.value)


def test_a_path_that_the_system_refuses_is_refused_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ("x" * 300)
    said = refusal(monkeypatch, VALKEY_CA_FILE=file)
    assert said == f"FLEET_VALKEY_CA_FILE: {file} may not be read: File name too long"


@pytest.mark.parametrize("server", ["VALKEY", "NATS", "NEO4J"])
def test_a_file_with_authorities_has_to_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str) -> None:
    name = f"{server}_CA_FILE"
    assert refusal(monkeypatch, **{name: tmp_path / "x"}) == f"FLEET_{name}: there is no file {tmp_path}/x"
    (tmp_path / "x").write_text("no certificate")
    said = refusal(monkeypatch, **{name: tmp_path / "x"})
    assert said == f"FLEET_{name}: there is no certificate in PEM in {tmp_path}/x"


def test_a_certificate_needs_a_url_with_tls(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    said = refusal(monkeypatch, VALKEY_CA_FILE=authority.ca, VALKEY_URL="redis://h:1/0")
    assert said == "FLEET_VALKEY_CA_FILE is for rediss://, and FLEET_VALKEY_URL has another scheme"
    monkeypatch.delenv("FLEET_VALKEY_CA_FILE")
    said = refusal(monkeypatch, NATS_CA_FILE=authority.ca, NATS_URL="tls://h,nats://i")
    assert said == "FLEET_NATS_CA_FILE is for tls://, and FLEET_NATS_URL has another scheme"
    monkeypatch.delenv("FLEET_NATS_CA_FILE")
    said = refusal(monkeypatch, NEO4J_CA_FILE=authority.ca, NEO4J_URI="bolt+ssc://h")
    assert said == "FLEET_NEO4J_CA_FILE is for bolt+s:// or neo4j+s://, and FLEET_NEO4J_URI has another scheme"


def test_a_key_belongs_to_a_certificate(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    url = {"VALKEY_URL": "rediss://h:1/0"}
    said = refusal(monkeypatch, VALKEY_KEY_FILE=authority.key, **url)
    assert said == "FLEET_VALKEY_KEY_FILE needs FLEET_VALKEY_CERT_FILE"
    said = refusal(monkeypatch, VALKEY_CERT_FILE=authority.ca, VALKEY_KEY_FILE=authority.key, **url)
    assert said.startswith("FLEET_VALKEY_CERT_FILE and FLEET_VALKEY_KEY_FILE are not a certificate and its key")


def test_what_logs_in_to_nats_has_to_look_like_it(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    assert "is not the seed of a user's nkey" in refusal(monkeypatch, NATS_NKEY_FILE=authority.ca)
    monkeypatch.delenv("FLEET_NATS_NKEY_FILE")
    assert "has not both a user's JWT and the seed" in refusal(monkeypatch, NATS_CREDS_FILE=authority.ca)


@pytest.mark.parametrize("keys", ["hunter2", f"{'k' * 32},hunter2", f"{'k' * 32},"])
def test_a_key_for_signatures_has_a_length(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    said = refusal(monkeypatch, TASK_SIGNING_KEY=keys)
    assert said.startswith("FLEET_TASK_SIGNING_KEY: a key is shorter than 32 characters")
    assert keys not in said


def test_without_tls_no_client_is_told_of_it() -> None:
    assert valkey_tls(Settings.model_validate({"valkey_url": "redis://h:1/0"})) == {}
