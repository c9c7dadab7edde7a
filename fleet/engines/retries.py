"""What of a server's failures heals by itself, and how long to wait for that. No I/O.

A failure of the server is no fault of the request: no connection, 429 or 5xx. Of these what is known to pass is tried
again, with full jitter (M. Brooker, "Exponential Backoff and Jitter", 2015), and nothing once text was heard.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
import openai

CONNECT_S = 5.0  # longer than that is no connection
FIRST_S, LONGEST_S = 0.5, 8.0  # of the pauses; what the server asks for may be longer
MOST_S = 3600.0  # that a server may ask for: some send milliseconds or a Unix time
# What passes, and of that what says that the server has not begun with the request.
_HEALING = frozenset({429, 500, 502, 503, 504, 529})
_NOT_TAKEN = frozenset({429, 503, 529})
_NEVER_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout)


@dataclass(frozen=True, slots=True)
class Fault:
    """A try that failed for a reason of the server's. `heals` when another one may help, `taken` when the server had
    the request, so that the request may be what it failed of; `retry_after_s` is how long it wants to be left alone.
    """

    reason: str
    heals: bool
    taken: bool
    retry_after_s: float = 0.0


def fault_of(error: BaseException, begun: bool) -> Fault | None:
    """None for what is no fault of the server's, or a timeout; `begun` when some of the answer was there."""
    if isinstance(error, openai.APIStatusError):
        return _refused(error)
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    if isinstance(cause, _NEVER_CONNECTED):
        return Fault(f"cannot reach the server: {_words(cause)}", heals=True, taken=False)
    if not isinstance(cause, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return None
    where = "before the answer" if isinstance(error, openai.APIConnectionError) else "in the answer"
    return Fault(f"the connection broke {where}: {_words(cause)}", heals=not begun, taken=True)


def pause_s(tries: int, fault: Fault) -> float:
    """Seconds until the next try, after so many."""
    return max(fault.retry_after_s, random.uniform(0, min(LONGEST_S, FIRST_S * 2 ** (tries - 1))))


def _refused(error: openai.APIStatusError) -> Fault | None:
    status = error.status_code
    if status != 429 and status < 500:
        return None
    reason = f"HTTP {status}: {error.message}"
    return Fault(reason, status in _HEALING, status not in _NOT_TAKEN, _retry_after_s(error.response.headers))


def _retry_after_s(headers: httpx2.Headers) -> float:
    """Seconds, or a date that the server's own clock is held against where it says what that shows; an hour at most."""
    asked = headers.get("retry-after", "").strip()
    if asked.isascii() and asked.isdigit():
        return min(float(asked), MOST_S)
    until, now = _date(asked), _date(headers.get("date", ""))
    return min(max(0.0, (until - (now or datetime.now(UTC))).total_seconds()), MOST_S) if until else 0.0


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _words(cause: BaseException) -> str:
    return str(cause) or type(cause).__name__
