"""The processes that the command line starts: `fleet up` and `fleet listener`."""

import sys
from pathlib import Path

import click

from fleet import stack
from fleet.cli.client import FAILED, fail, settings
from fleet.errors import FleetError
from fleet.stack import vllm


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    envvar="FLEET_DIR",
    default=".fleet",
    show_default=True,
    help="Data, logs and fleet.json; kept for the next start.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "scripted", "openai", "vllm"]),
    default="local",
    show_default=True,
    help="What the agents think with. local: SmolLM2-135M in the worker; openai: the server at FLEET_ENGINE_URL; "
    "vllm: FLEET_GPU_MODEL, or else SmolLM2-135M, in a worker with vLLM.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the HTTP API; a free one unless given.")
def up(folder: Path, engine: str, port: int | None) -> None:
    """Run everything on this machine, in the foreground.

    Ctrl-C stops it in seconds and gives work back to its queue; SIGTERM lets running work end first.
    When everything is ready, DIR/fleet.json says where; the other verbs read it.
    """
    settings(**(vllm.settings() if engine == "vllm" else {"engine": engine}))
    try:
        sys.exit(stack.up(folder, engine, port, lambda text: click.echo(text, err=True)))
    except FleetError as error:
        fail(str(error), FAILED)


@click.command()
def listener() -> None:
    """Run the process between Fleet and NATS.

    Plan events come in, the event log goes out. Run one or several; they share the work.
    """
    from fleet import bus

    sys.exit(bus.run(settings()))
