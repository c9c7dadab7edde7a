import sys

import click

from fleet.cli.client import fail, settings
from fleet.cli.output import json_option, print_json, table
from fleet.engines.models import fetch, list_models
from fleet.errors import ModelUnavailable


@click.group()
def models() -> None:
    """Model files for the local engine."""


@models.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the models that Fleet can fetch."""
    known = [{"name": one.name, "size_bytes": one.file_bytes, "licence": one.licence} for one in list_models()]
    if as_json:
        print_json({"items": known})
    else:
        table("Models", ["name", "bytes", "licence"], [list(one.values()) for one in known])


@models.command("fetch")
@click.argument("name", default="smollm2-135m")
@json_option
def fetch_command(name: str, as_json: bool) -> None:
    """Fetch the model NAME into the cache and verify its checksum; quick when it is there."""
    try:
        path = fetch(name, settings().cache_dir, _progress)
    except ModelUnavailable as error:
        fail(str(error))
    print_json({"name": name, "path": str(path)}) if as_json else click.echo(path)


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done // 1_000_000} of {total // 1_000_000} MB", err=True, nl=done >= total)
