"""The command line: one file per group of verbs. Exit codes: 0 ok, 1 failed, 2 bad usage, 3 cannot reach the fleet."""

import click

from fleet.cli import council, deadletter, deliberation, demo, doctor, models, plan, processes, version


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Councils of LLM agents as a durable task queue.

    \b
    Start a fleet on this machine:   fleet up
    Hand in a plan and wait for it:  fleet plan submit examples/password-reset.yaml --wait
    Look at one decision:            fleet deliberation show ID

    The verbs find a running fleet through FLEET_DIR (default .fleet), or FLEET_URL and FLEET_API_KEY.
    """


main.add_command(processes.up)
main.add_command(processes.listener)
main.add_command(demo.demo)
main.add_command(plan.plan)
main.add_command(deliberation.deliberation)
main.add_command(council.council)
main.add_command(deadletter.deadletter)
main.add_command(models.models)
main.add_command(doctor.doctor)
main.add_command(version.version)
