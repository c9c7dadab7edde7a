"""`fleet events`, `queues`, `cluster`, `jobs` and `stats`: what happens in the fleet right now."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.text import Text

from fleet.cli.client import Client, at
from fleet.cli.output import console, json_option, print_json, table
from fleet.cli.parameters import ID
from fleet.cli.progress import event_line
from fleet.cli.stream import Event, Stream

_TOTALS = ("nodes", "cpus", "memory_mb", "gpus", "gpu_memory_mb", "jobs")


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option(
    "--after", metavar="ID", type=ID, help="Only what came after this event: 0 is the beginning of the log, $ its end."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document; with --follow one per event, each in a line.")
def events(follow: bool, after: str | None, as_json: bool) -> None:
    """Print the events of the fleet, as they happen with --follow.

    Without --follow all that the log has; with it what happens from now on, unless --after says otherwise.
    A lost connection is opened again where it ended, so that no event is missing or comes twice.

    \b
      fleet events --follow
      fleet events --follow --after 0 --json | jq .subject
    """
    path = Client(), at("events")
    stream = Stream(*path, after=after or ("$" if follow else "0"), follow=follow)
    found = (event for event in stream if event)
    if as_json and not follow:
        print_json({"items": [_document(event) for event in found]})
        return
    for event in found:
        if as_json:
            click.echo(json.dumps(_document(event), ensure_ascii=False))
        else:
            line = f"{event.id:<18} {event_line(event.subject, event.payload)}"
            console.print(line, markup=False, soft_wrap=True)


@click.command()
@json_option
def queues(as_json: bool) -> None:
    """Show what waits and runs per queue, and its workers."""
    answer = Client().get(at("queues"))
    _print(answer, as_json, "Queues", {"queue": "queue", "ready": "ready", "running": "running", "workers": "workers"})


@click.command()
@json_option
def jobs(as_json: bool) -> None:
    """Show what the workers run right now."""
    answer = Client().get(at("jobs"))
    if as_json:
        print_json(answer)
        return
    names = ("deliberation_id", "what", "agent_id", "worker", "runtime_s")
    jobs = [{"what": one.get("step") or one["name"], **one} for one in answer["items"]]
    rows = [[_text(one.get(name)) for name in names] for one in jobs]
    table("Jobs", ["deliberation", "what", "agent", "worker", "runs for s"], rows)


@click.command()
@json_option
def cluster(as_json: bool) -> None:
    """Show the workers and what they use, their engines and GPUs, and the work that nobody takes.

    Memory in MiB; 100 % of CPU is one core; what was not measured is a dash.
    """
    answer = Client().get(at("cluster"))
    if as_json:
        print_json(answer)
        return
    workers = [{**one, "jobs": f"{one['running']} of {one['slots']}"} for one in answer["workers"]]
    columns = {"worker": "worker", "queues": "queues", "engine": "engine", "model": "model", "jobs": "jobs"}
    columns |= {"done": "completed", "MB": "memory_mb", "CPU %": "cpu_percent"}
    _print({"items": workers}, False, "Workers", columns)
    _print_engines([one for one in workers if one.get("engine_state")])
    if unserved := answer.get("unserved"):
        columns = {"queue": "queue", "model": "model", "ready": "ready", "reason": "reason"}
        _print({"items": unserved}, False, "Waiting for a worker", columns)
    if away := [one for one in answer.get("breakers", ()) if one["state"] != "closed"]:
        columns = {"server": "endpoint", "breaker": "state", "since": "since", "failures": "failures"}
        columns |= {"next try": "next_probe", "waiting": "waiting", "reason": "reason"}
        _print({"items": away}, False, "Servers that failed", columns)
    totals = [[name, *_used(answer[name])] for name in _TOTALS if name in answer]
    table("Cluster", ["what", "figures"], totals)


@click.command()
@json_option
def stats(as_json: bool) -> None:
    """Show totals, and rates per minute."""
    answer = Client().get(at("stats"))
    if as_json:
        print_json(answer)
        return
    totals, rates = answer["totals"], answer["per_minute"]
    now = {"in progress": "in_progress", "pending": "pending", "events in the log": "events"}
    table("Deliberations", [*totals, *now], [[*totals.values(), *(answer[name] for name in now.values())]])
    rows = [[name, _text(rate["last_minute"]), _text(rate["last_10_minutes"])] for name, rate in rates.items()]
    table("Per minute", ["", "in the last minute", "in the last 10 minutes"], rows)


def _print_engines(workers: Sequence[Mapping[str, Any]]) -> None:
    """The engines inside the workers, and what they compute on."""
    if workers:
        columns = ["worker", "engine", "running", "waiting", "KV cache %", "tokens/s", "prefix hits %"]
        table("Engines", columns, [_engine(one["worker"], one["engine_state"]) for one in workers])
    gpus = [_gpu(one["worker"], device) for one in workers for device in one["engine_state"]["devices"]]
    if gpus:
        table("GPUs", ["worker", "GPU", "MB used", "MB", "busy %"], gpus)


def _engine(worker: str, engine: Mapping[str, Any]) -> list[Any]:
    queries, hits = engine.get("prefix_cache_queries"), engine.get("prefix_cache_hits")
    rate = hits / queries if queries and hits is not None else None
    return [
        worker,
        "answers" if engine["live"] else Text("does not answer", "red"),
        engine.get("running"),
        engine.get("waiting"),
        _percent(engine.get("kv_cache_usage")),
        _text(engine.get("tokens_per_s")),
        _percent(rate),
    ]


def _gpu(worker: str, device: Mapping[str, Any]) -> list[Any]:
    measured = ("memory_used_mb", "memory_total_mb", "utilization_percent")
    return [worker, device["name"], *(_text(device.get(name)) for name in measured)]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}".rstrip("%")


def _document(event: Event) -> dict[str, Any]:
    return {"id": event.id, "subject": event.subject, "payload": event.payload}


def _print(answer: Mapping[str, Any], as_json: bool, title: str, columns: Mapping[str, str]) -> None:
    """A list as a table; `columns` are the headings and the fields."""
    if as_json:
        print_json(answer)
    else:
        table(title, list(columns), [[_text(item.get(name)) for name in columns.values()] for item in answer["items"]])


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.1f}" if isinstance(value, float) else value


def _used(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [", ".join(f"{_text(amount)} {name}" for name, amount in value.items())]
    return [str(len(value) if isinstance(value, list) else value)]
