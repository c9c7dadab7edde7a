"""What the API refuses, as one sentence with the next step."""

import httpx2

NO_KEY = "the fleet refuses this key: set FLEET_API_KEY, or FLEET_DIR to a folder with fleet.json"
_LISTS = {
    "plans": "plan list",
    "deliberations": "deliberation list",
    "councils": "council list",
    "deadletters": "deadletter list",
    "keys": "keys list",
}
_STEPS = {
    403: "a key with that scope is made by `fleet keys create NAME --scope …` with an admin's key",
    413: "a request has at most 1 MiB",
    429: "try again in {retry_after} s",
    503: "try again in {retry_after} s; `fleet doctor` says what is away",
}


def sentence(answer: httpx2.Response) -> str:
    """What was refused and why, with its faults; then what to do."""
    if answer.status_code == 401:
        return NO_KEY
    reason = _reason(answer)
    return "; ".join(filter(None, [reason, _next_step(answer, reason)]))


def _reason(answer: httpx2.Response) -> str:
    try:
        problem = answer.json()
        faults = [_fault(fault["loc"], fault["msg"]) for fault in problem.get("errors") or []]
        return "; ".join(faults) or str(problem.get("detail") or problem["title"]).rstrip(".")
    except (ValueError, KeyError, TypeError, AttributeError):
        url = answer.request.url
        return (
            f"{url.scheme}://{url.netloc.decode()} answered {answer.status_code} to {answer.request.method} {url.path}"
        )


def _fault(place: list[str | int], message: str) -> str:
    """A field of the body is named without "body", which nobody typed."""
    parts = place[1:] if place[:1] == ["body"] and len(place) > 1 else place
    return f"{'.'.join(map(str, parts))}: {message}"


def _next_step(answer: httpx2.Response, reason: str) -> str:
    section = (answer.request.url.path.split("/")[2:] or [""])[0]
    if answer.status_code == 404 and section in _LISTS:
        return f"`fleet {_LISTS[section]}` names those there are"
    if answer.status_code == 403 and "scope" not in reason:
        return ""
    if answer.status_code == 409 and section == "plans":
        return "give the changed plan another plan_id"
    if answer.status_code == 409 and section == "deliberations":
        return "`fleet deliberation show ID` shows where it stands"
    return _STEPS.get(answer.status_code, "").format(retry_after=answer.headers.get("Retry-After", "a few"))
