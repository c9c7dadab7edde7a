"""`fleet keys`: who may call the API."""

from collections.abc import Mapping
from typing import Any

import click

from fleet.cli.client import Client, at
from fleet.cli.output import json_option, print_json, print_page, when
from fleet.cli.parameters import ID


@click.group()
def keys() -> None:
    """Make and revoke keys of the API.

    Only a key with the scope admin may, such as that of fleet.json.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(["read", "submit", "admin"]),
    help="read: look at everything; submit: plans and deliberations too; admin: everything. May be repeated.",
)  # fmt: skip
@json_option
def create(name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Create a key for NAME and print it, once: the fleet keeps only its hash.

    \b
      export FLEET_URL=http://127.0.0.1:8080
      export FLEET_API_KEY=$(fleet keys create ci --scope submit)
    """
    made = Client().post(at("keys"), {"name": name, "scopes": list(scopes)})
    if as_json:
        print_json(made)
    else:
        click.echo(made["key"])
        click.echo(f"keep it, it is not shown again; `fleet keys revoke {made['key_id']}` revokes it", err=True)


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the keys, without the secrets."""
    found = Client().get(at("keys"))
    print_json(found) if as_json else print_page(found, "Keys", ["id", "name", "scopes", "since (UTC)"], _row)


@keys.command()
@click.argument("key_id", type=ID)
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Revoke a key: whoever has it is refused from now on."""
    Client().delete(at("keys", key_id))
    print_json({"key_id": key_id, "revoked": True}) if as_json else click.echo(f"{key_id} is revoked")


def _row(key: Mapping[str, Any]) -> list[Any]:
    return [key["key_id"], key["name"], ", ".join(key["scopes"]), when(key["created_at_ms"])]
