"""Why a worker ended, out of what it wrote."""

import json

# Python's own words after the reason.
NOISE = ("resource_tracker", "warnings.warn(")
LONGEST = 400


def last_words(text: str) -> str:
    """Returns the last line that can be a reason, at most 400 characters of it; "" when there is none.

    That is a record of an error, or a line that is no record; other records may follow while a process ends.
    """
    lines = [line.strip() for line in text.splitlines()]
    return next((words for line in reversed(lines) if (words := _words(line))), "")[:LONGEST]


def _words(line: str) -> str:
    if not line.startswith("{"):
        return "" if any(word in line for word in NOISE) else line
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if record.get("level") not in ("error", "critical"):
        return ""
    return ": ".join(str(record[key]) for key in ("event", "reason") if record.get(key))
