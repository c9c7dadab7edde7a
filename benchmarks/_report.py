"""What every benchmark writes: one JSON file of rows with the date and the machine that they were measured on."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The machine in the few words that a figure needs beside it."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def write(name: str, rows: Sequence[dict[str, Any]], **more: Any) -> Path:
    """Writes `benchmarks/results/<name>.json` and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    report = {"name": name, "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **more}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**report, "rows": list(rows)}, indent=2) + "\n")
    return path


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as an aligned text table; their common keys are its head."""
    head = list(rows[0])
    cells = [head, *([_text(row[name]) for name in head] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""
