"""Writes docs/reference from the code: `python -m docs.generate`. A unit test fails when the files are out of date."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from fleet import events, settings
from fleet.api import create_app
from fleet.api.openapi import build
from fleet.bus.streams import STREAMS
from fleet.cli import main as command_line
from fleet.models import PlanRequest, Status, StoryTransition
from fleet.settings import Settings

FOLDER = Path(__file__).parent / "reference"
HEAD = "<!-- Made by `python -m docs.generate` from {source}. Do not edit. -->\n\n"
# What an event needs that a request does not (fleet.decode).
REQUIRED_OF_EVENTS = ("approved_by", "timestamp")
WIDTH = 110


def settings_page() -> str:
    """Every setting with its variables, values, default and description."""
    properties = Settings.model_json_schema(by_alias=False)["properties"]
    rows = [_setting(name, properties[name]) for name in Settings.model_fields]
    others = ", ".join(f"`{name}`" for name in settings.OTHER_VARIABLES)
    return f"""# Settings

A setting is read from its `FLEET_…` variable, else from the YAML file that `{settings.CONFIG}` names (there by the
name in the first column), else it has its default. The second variable, where there is one, means the same.
A process refuses to start with an unknown `FLEET_…` variable, an unknown key in the file, or two variables of one
setting that differ. `fleet config show` prints what is in force and where each value comes from.

{_table(("setting", "variables", "values", "default", "meaning"), rows)}
Two variables are no settings: {others}. `FLEET_URL` is read by the command line alone, with `FLEET_API_KEY`, to find a
fleet that is not in `FLEET_DIR`. gunicorn reads `WEB_CONCURRENCY` (processes of the API, 2).
"""


def events_page() -> str:
    """Every subject with its fields, and the streams."""
    streams = [(f"`{one.name}`", f"`{one.prefix}.>`", _age(one.max_age_s), _most(one.max_messages)) for one in STREAMS]
    coming = {
        events.PLAN_APPROVED: _fields(PlanRequest, {*_asked(PlanRequest), *REQUIRED_OF_EVENTS}),
        events.STORY_TRANSITIONED: _fields(StoryTransition, _asked(StoryTransition)),
    }
    parts = [
        "# Events",
        "Payloads are JSON objects. Consumers tolerate unknown fields, in both directions. A field marked * is always\n"
        "there; times are ISO 8601, durations ending in `_ms` are milliseconds.",
        "## Streams of NATS JetStream",
        _table(("stream", "subjects", "kept for", "most messages"), streams),
        "## What Fleet takes in",
        *(f"### `{subject}`\n\n{table}" for subject, table in coming.items()),
        "## What Fleet sends out",
        "All but `vllm.streaming` are also in the event log, in the API's Server-Sent Events and in `fleet events`.",
        *(_event(kind) for kind in _kinds(events.Event)),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def cli_page() -> str:
    """Every command's help."""
    parts = ["# Command line", *(_command(*found) for found in _commands(command_line, None, "fleet"))]
    return "\n\n".join(parts) + "\n"


def http_page() -> str:
    """Every operation of the API, and the fields of what it takes and gives."""
    document = build(create_app(Settings()))
    parts = [
        "# HTTP API",
        document["info"]["description"],
        document["components"]["securitySchemes"]["key"]["description"],
    ]
    parts.append("A running API has this as OpenAPI 3.1 at `/openapi.json`, and for people at `/docs`.")
    for tag in document["tags"]:
        found = [row for row in _operations(document) if row[0] == tag["name"]]
        rows = [row[1:] for row in found]
        parts += [f"## {tag['name']}", f"{tag['description']}."]
        parts.append(_table(("operation", "scope", "what", "query", "body", "answers"), rows))
    parts.append("## Objects")
    schemas = document["components"]["schemas"]
    parts += [f"### {name}\n\n{_schema(schema)}" for name, schema in schemas.items()]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


PAGES: Mapping[str, tuple[Callable[[], str], str]] = {
    "settings.md": (settings_page, "fleet/settings/tree.py"),
    "events.md": (events_page, "fleet/events.py, fleet/models.py and fleet/bus/streams.py"),
    "cli.md": (cli_page, "fleet/cli"),
    "http.md": (http_page, "the API's OpenAPI document"),
}


def page(name: str) -> str:
    """A page as it should be."""
    make, source = PAGES[name]
    return HEAD.format(source=source) + make()


def _setting(name: str, schema: Mapping[str, Any]) -> tuple[str, ...]:
    field = Settings.model_fields[name]
    variables = " ".join(f"`{variable}`" for variable in settings.variables(name))
    return f"`{name}`", variables, _values(schema), _default(field), _text(field.description or "")


def _default(field: FieldInfo) -> str:
    """Some defaults depend on other settings; then the description has them."""
    if field.default_factory_takes_validated_data:
        return "see meaning"
    value = field.get_default(call_default_factory=True)
    shown = value.get_secret_value() if isinstance(value, SecretStr) else value
    if shown in (None, "", {}):
        return "none"
    return f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"


def _values(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " ".join(f"`{value}`" for value in schema["enum"])
    if options := schema.get("anyOf"):
        return " or ".join(_values(one) for one in options if one != {"type": "null"})
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        items = _values(schema["items"]) if "items" in schema else "anything"
        return f"list of {items}" + _bounds(schema, "minItems", "maxItems")
    if schema.get("format") == "date-time":
        return "time"
    kind = {"string": "text", "object": "mapping"}.get(kind, kind)
    return kind + _bounds(schema, "minimum", "maximum") + _bounds(schema, "minLength", "maxLength", " characters")


def _bounds(schema: Mapping[str, Any], least: str, most: str, unit: str = "") -> str:
    low, high = schema.get(least), schema.get(most)
    if "exclusiveMinimum" in schema and least == "minimum":
        return f", more than {schema['exclusiveMinimum']}"
    if low is None and high is None:
        return ""
    if (low, high, unit) == (1, None, " characters"):
        return ", not empty"
    if low is None or high is None:
        return f", {'at most' if low is None else 'at least'} {high if low is None else low}{unit}"
    return f", {low} to {high}{unit}"


def _kinds(base: type[events.Event]) -> Iterator[type[events.Event]]:
    """The classes of events that have a subject, in the order in which they are defined."""
    for kind in base.__subclasses__():
        if "SUBJECT" in vars(kind):
            yield kind
        yield from _kinds(kind)


def _event(kind: type[events.Event]) -> str:
    headline = " · ".join(f"`{subject}`" for subject in _subjects(kind))
    return f"### {headline}\n\n{_fields(kind, _sent(kind))}"


def _subjects(kind: type[events.Event]) -> list[str]:
    """The subjects that events of this class have, whatever is in them."""
    ids = {name: f"{{{name}}}" for name in ("deliberation_id", "agent_id", "source")}
    made = [kind.model_construct(**ids, status=status) for status in Status if status.final]
    return list(dict.fromkeys(one.subject for one in made))


def _asked(model: type[BaseModel]) -> set[str]:
    """The fields that a sender must give."""
    return {name for name, field in model.model_fields.items() if field.is_required()}


def _sent(model: type[BaseModel]) -> set[str]:
    """The fields that are always there: only those that are None are left out."""
    return {name for name, field in model.model_fields.items() if field.is_required() or field.default is not None}


def _fields(model: type[BaseModel], always: Iterable[str]) -> str:
    schema = model.model_json_schema()
    return _schema({**schema, "required": list(always)}, schema.get("$defs", {}))


def _schema(schema: Mapping[str, Any], nested: Mapping[str, Any] | None = None) -> str:
    """An object's fields, a star at those that are always there."""
    if "enum" in schema:
        return (
            f"{' · '.join(f'`{value}`' for value in schema['enum'])}. {_text(schema.get('description', ''))}".rstrip()
        )
    rows = []
    for name, property in schema.get("properties", {}).items():
        mark = "*" if name in schema.get("required", ()) else ""
        rows.append((f"`{name}`{mark}", _value_of(property, nested), _text(property.get("description", ""))))
    said = _text(schema.get("description", ""))
    table = _table(("field", "values", "meaning"), rows) if rows else ""
    return "\n\n".join(part for part in (said, table) if part)


def _value_of(property: Mapping[str, Any], nested: Mapping[str, Any] | None) -> str:
    """With `nested`, objects are described in place, since the page has no section of theirs."""
    said = _values(property)
    for name, schema in (nested or {}).items():
        inner = " ".join(f"`{value}`" for value in schema.get("enum", schema.get("properties", {})))
        said = said.replace(f"[{name}](#{name.lower()})", inner if "enum" in schema else f"object of {inner}")
    return said


def _commands(
    command: click.Command, parent: click.Context | None, name: str
) -> Iterator[tuple[click.Command, click.Context, str]]:
    sizes: dict[str, Any] = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **sizes, **command.context_settings)
    yield command, context, context.command_path
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found and not found.hidden:
                yield from _commands(found, context, each)


def _command(command: click.Command, context: click.Context, path: str) -> str:
    return f"## {path}\n\n```text\n{command.get_help(context).rstrip()}\n```"


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            what = ". ".join(part.rstrip(".") for part in (one["summary"], one.get("description", "")) if part) + "."
            scope = " ".join(scope for needed in one["security"] for scope in needed["key"]) or "none"
            query = " ".join(f"`{found['name']}`" for found in one.get("parameters", ()) if found["in"] == "query")
            body = _content(one.get("requestBody", {}))
            answers = "; ".join(
                _answer(status, answer) for status, answer in one["responses"].items() if status != "default"
            )
            yield one["tags"][0], f"`{method.upper()} {path}`", scope, _text(what), query, body, answers


def _answer(status: str, answer: Mapping[str, Any]) -> str:
    """A success with its object; of a problem only the status."""
    return f"{status} {_content(answer)}".rstrip() if status.startswith("2") else status


def _content(holder: Mapping[str, Any]) -> str:
    found = [_values(one["schema"]) for one in holder.get("content", {}).values() if "$ref" in one["schema"]]
    return " ".join(found) or " ".join(f"`{kind}`" for kind in holder.get("content", {}))


def _age(seconds: float) -> str:
    return f"{seconds / 86_400:g} days" if seconds >= 86_400 else f"{seconds / 60:g} minutes"


def _most(count: int) -> str:
    return "no limit" if count < 0 else f"{count:,}"


def _text(text: str) -> str:
    """One line of Markdown in which a table's bars are escaped."""
    return re.sub(r"\s+", " ", text.replace("|", "\\|")).strip()


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Writes all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name in PAGES:
        (FOLDER / name).write_text(page(name))


if __name__ == "__main__":
    main()
