"""One run, its table, and its rows in benchmarks/results/chaos-SEED.json; exit 1 when anything is wrong."""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from benchmarks import _report
from tests.chaos.run import Plan, Result, Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("-n", "--deliberations", type=int, default=200, help="how many at least (default: 200)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="default: another one each time")
    parser.add_argument("--rate", type=float, default=10.0, help="plans handed in per second (default: 10)")
    parser.add_argument("--in-flight", type=int, default=500, help="most deliberations that wait for their end")
    parser.add_argument("--gap", type=float, default=2.0, help="mean seconds between two faults (default: 2)")
    parser.add_argument("--dir", type=Path, help="for data and logs (default: a new folder, whose name is printed)")
    given = parser.parse_args()
    folder = given.dir or Path(tempfile.mkdtemp(prefix="fleet-chaos-"))
    plan = Plan(given.seed, given.deliberations, given.rate, given.in_flight, given.gap)
    print(f"seed {plan.seed}, logs in {folder}", flush=True)
    with Run(folder, plan) as run:
        result = run.result()
    print(summary(result))
    counts = {kind: result.findings.count(kind) for kind in ("lost", "doubled", "late")}
    tried = {"seed": plan.seed, "deliberations": result.deliberations, "seconds": round(result.seconds), **counts}
    tried |= {"faults": len(result.faults), "repeated": result.repeated, "misbehaved": result.misbehaved}
    tried |= {"gap_s": plan.gap_s, "rate": plan.rate}
    _report.write(f"chaos-{plan.seed}", result.rows(), **tried)
    return 1 if result.findings.found else 0


def summary(result: Result) -> str:
    """The table of faults and what was found."""
    lost, doubled, late = (result.findings.count(kind) for kind in ("lost", "doubled", "late"))
    return "\n".join([
        _report.table(result.rows()),
        f"seed {result.plan.seed}: {result.deliberations} deliberations in {result.seconds:.0f} s, "
        f"{len(result.faults)} faults, {result.repeated} plans repeated, "
        f"{result.misbehaved} answers of the engine spoilt: {lost} lost, {doubled} doubled, {late} late",
        str(result.findings) or "nothing else wrong",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
