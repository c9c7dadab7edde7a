"""The kinds of values that settings have, each checked as it is read."""

import json
import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

T = TypeVar("T")

_ADDRESS = re.compile(r"unix:.+|(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")  # gunicorn's forms
SHORTEST_KEY = 32  # characters
Behaviour = Literal["normal", "excellent", "poor", "verbose", "concise", "error-prone", "slow", "silent"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def behaviours(value: Any) -> Any:
    """Reads "agent-dev-002=silent,*-003=poor" as a mapping of agent id pattern to behaviour."""
    if not isinstance(value, str):
        return value
    parts = [part for part in value.replace(" ", "").split(",") if part]
    if bad := [part for part in parts if "=" not in part]:
        raise ValueError(f"not pattern=behaviour: {', '.join(bad)}")
    return dict(part.split("=", 1) for part in parts)


def by_engine(local: T, other: T) -> Callable[[dict[str, Any]], T]:
    """A default for the small model on this machine's processor, and one for all other engines."""
    return lambda settings: local if settings.get("engine") == "local" else other


def _check_url(url: str, schemes: tuple[str, ...]) -> None:
    """Raises: ValueError, which does not show the URL, for it may hold a password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        raise ValueError("not a URL: its host or port cannot be read; is its password percent-encoded?") from None
    if parts.scheme not in schemes:
        raise ValueError(f"not a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not host or "," in host:
        raise ValueError("not a URL with one host, or one with port 0")


def secret_url(*schemes: str, several: bool = False) -> AfterValidator:
    """Checks a URL that may hold a password; with `several`, each of those that commas separate."""

    def check(value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        for url in text.split(",") if several else [text]:
            _check_url(url, schemes)
        return value

    return AfterValidator(check)


def open_url(*schemes: str) -> AfterValidator:
    """Checks a URL that is shown, and so must not hold a password."""

    def check(value: str) -> str:
        _check_url(value, schemes)
        if "@" in urlsplit(value).netloc:
            raise ValueError("a user or a password does not belong into this URL: there are settings for them")
        return value

    return AfterValidator(check)


def keys(value: SecretStr) -> SecretStr:
    """Checks the length of keys with commas between them; none is fine."""
    text = value.get_secret_value()
    if text and any(len(key.strip()) < SHORTEST_KEY for key in text.split(",")):
        raise ValueError(f"a key is shorter than {SHORTEST_KEY} characters: `openssl rand -hex 32` makes one")
    return value


def bind(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if not found or int(found[1] or 0) > 65535:
        raise ValueError("not host:port, such as 127.0.0.1:8080 or [::1]:8080, and not unix:PATH")
    return value


def word(case: Callable[[str], str], **synonyms: str) -> BeforeValidator:
    """Reads a word in any case, and what other programs call the same."""
    return BeforeValidator(lambda word: synonyms.get(case(word), case(word)) if isinstance(word, str) else word)


def document(value: Any) -> Any:
    """Reads a JSON object out of a variable; the file has mappings already."""
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(read, dict):
        raise ValueError("not a JSON object")
    return read


class Profile(BaseModel):
    """What a role's agents think with, where it differs from everybody's."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str | None = Field(None, min_length=1, description="A council's own model goes before it")
    adapter: str | None = Field(None, min_length=1, description="LoRA adapter of that model, by the name workers know")
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=16, description="Most tokens of one answer, thoughts included")
    reasoning_parser: str | None = Field(None, min_length=1, description="vLLM's parser for the model's thoughts")
