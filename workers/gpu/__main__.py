"""`python -m workers.gpu`: every device of this node serves."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from fleet.settings import refuse, settings_or_exit
from workers.gpu import devices, launcher, status
from workers.gpu.devices import Group, NodeDevice, NoDevices, NoNvml, WrongDevices

PROGRAM = "python -m workers.gpu"
VISIBLE = "CUDA_VISIBLE_DEVICES"
NOTHING_RUNS = 3


def read_queues(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Raises: BadParameter."""
    queues = [queue.strip() for queue in text.split(",")]
    if wrong := [queue for queue in queues if not re.fullmatch(r"gpu(\.[a-z0-9][a-z0-9._-]*)?", queue)]:
        raise click.BadParameter(f"not gpu and not gpu.MODEL: {', '.join(map(repr, wrong))}")
    return list(dict.fromkeys(queues))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--devices",
    "named",
    metavar="GROUPS",
    help="Devices by NVML's number or by UUID: one worker per group, groups with semicolons between them, and the "
    'model spread over the devices of a group ("0,1;2,3": two workers, tensor_parallel_size 2). Without it one worker '
    "for each device there is, of those in CUDA_VISIBLE_DEVICES if that is set. Of a GPU in MIG mode the instances "
    "are the devices: 0:0, 0:1, or MIG-….",
)
@click.option("--cpu", is_flag=True, help="One worker without a device.")
@click.option(
    "--queues",
    default="gpu",
    show_default=True,
    callback=read_queues,
    help="What the workers take work from, with commas between: gpu for the default model, gpu.MODEL for another.",
)
@click.option("--status", "ask", is_flag=True, help="Print how the launcher in FLEET_DIR does, as JSON, and end.")
def main(named: str | None, cpu: bool, queues: list[str], ask: bool) -> None:
    """Run one vLLM worker per GPU of this node, each pinned to its device, in the foreground.

    Needs FLEET_VALKEY_URL and FLEET_GPU_MODEL. Status and logs are kept in FLEET_DIR (.fleet unless set): gpu.json,
    logs/gpu0.log. A worker that ends is started again, after a pause that grows to 30 s.

    SIGTERM lets running answers end first, for up to FLEET_REQUEST_TIMEOUT_S and 30 s; Ctrl-C and a second SIGTERM
    stop at once, and the work goes back to its queue.

    \b
    Exit codes: 0 stopped as asked
                1 there is no device, another launcher runs, or no worker starts
                2 wrong options or settings
                3 --status: none runs
    """
    settings = settings_or_exit(PROGRAM)
    if ask:
        return show_status(settings.dir.expanduser())
    if cpu and named is not None:
        raise click.UsageError("--cpu is for no device, and --devices for some")
    try:
        groups: Sequence[Group] = [()] if cpu else find_groups(named)
        sys.exit(launcher.run(settings, groups, queues, say))
    except NoDevices as error:
        say(str(error))
        sys.exit(1)
    except WrongDevices as error:
        refuse(PROGRAM, str(error))


def say(text: str) -> None:
    click.echo(text, err=True)


def show_status(folder: Path) -> None:
    if (document := status.read(folder)) is None:
        say(f"no launcher runs in {folder}; FLEET_DIR names another folder")
        sys.exit(NOTHING_RUNS)
    click.echo(document, nl=False)


def find_groups(named: str | None) -> Sequence[Group]:
    """Returns the devices of each worker. Raises: NoDevices, WrongDevices."""
    groups = devices.parse_groups(named) if named is not None else None
    try:
        there = devices.find(devices.nvml(), on_progress=say)
    except NoNvml as error:
        if groups is None:
            raise
        say(f"{error.reason}: the devices are taken as they are named")
        return devices.as_named(groups)
    return devices.choose(groups, there) if groups else each_alone(there, os.environ.get(VISIBLE))


def each_alone(there: Sequence[NodeDevice], visible: str | None) -> Sequence[Group]:
    """Returns one group for each device that may be used. Raises: NoDevices, WrongDevices."""
    if visible is None:
        return [(device,) for device in there]
    if not visible.strip():
        raise NoDevices(f"{VISIBLE} is empty", "unset it, name the devices with --devices, or start with --cpu")
    try:
        return devices.choose(devices.parse_groups(visible.replace(",", ";")), there)
    except WrongDevices as error:
        raise WrongDevices(f"{VISIBLE}: {error}") from None


if __name__ == "__main__":
    main(prog_name=PROGRAM)
