"""`fleet config`: what the settings are, and where each of them comes from."""

import os
from typing import Any

import click
from pydantic import SecretStr
from rich.markup import escape
from rich.table import Table

from fleet.cli.client import settings
from fleet.cli.output import console, json_option, print_json
from fleet.masking import HIDDEN, without_password
from fleet.settings import CONFIG, Settings, config_file, file_settings, origin, variables


@click.group()
def config() -> None:
    """Look at the settings.

    \b
    They come from FLEET_… variables, else from the YAML file that FLEET_CONFIG names, else they are defaults:
      echo 'agents_per_council: 5' > fleet.yaml
      FLEET_CONFIG=fleet.yaml fleet config show
    """


@config.command()
@json_option
def show(as_json: bool) -> None:
    """Print every setting with its value, secrets hidden, and where it comes from. Needs no running fleet."""
    items = _items(settings())
    if as_json:
        print_json({"items": items})
        return
    made = Table()
    for column in ("setting", "value", "source", "description"):
        made.add_column(column, overflow="fold", no_wrap=column == "setting")
    for item in items:
        cells = (item["name"], _text(item["value"]), item["source"], item["description"])
        made.add_row(*(escape(cell) for cell in cells))
    console.print(made)


def _items(found: Settings) -> list[dict[str, Any]]:
    from_file = file_settings()
    values = found.model_dump(mode="json")
    return [
        {
            "name": name,
            "variable": variables(name)[0],
            "value": _hidden(name, getattr(found, name)) if isinstance(getattr(found, name), SecretStr) else value,
            "source": _source(origin(name, os.environ, from_file)),
            "description": Settings.model_fields[name].description,
        }
        for name, value in values.items()
    ]


def _hidden(name: str, value: SecretStr) -> str:
    """A URL without its password; of any other secret, whether there is one."""
    secret = value.get_secret_value()
    if name.endswith("_url"):
        return without_password(secret)
    return HIDDEN if secret else ""


def _source(found: str | None) -> str:
    if found is None:
        return "default"
    return f"file {config_file()}" if found == CONFIG else f"environment {found}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={behaviour}" for key, behaviour in value.items())
    return "" if value is None else str(value)
