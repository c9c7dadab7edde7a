"""Reads a proposal's content without trusting its shape."""

from collections.abc import Mapping
from typing import Any


def text(content: Mapping[str, Any], name: str) -> str:
    """The field as text; empty if there is none."""
    value = content.get(name)
    return value if isinstance(value, str) else ""


def texts(content: Mapping[str, Any], name: str) -> list[str]:
    """The texts of an array."""
    value = content.get(name)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def artifacts(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files of a proposal."""
    value = content.get("artifacts")
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def prose(content: Mapping[str, Any]) -> list[str]:
    """What a proposal says in words."""
    return [text(content, "summary"), text(content, "approach"), *texts(content, "steps")]


def body(content: Mapping[str, Any]) -> list[str]:
    """What a proposal says in words and files."""
    return prose(content) + [text(file, "content") for file in artifacts(content)]
