"""Why vLLM's processes could not start: they tell it to their log alone, not to the one that waits for them."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_VARIABLE = "WORKERS_GPU_FIRST_ERROR"


class FirstError(logging.Handler):
    """Keeps the first exception that a process logs, for the process that started it; `logging.json` names it."""

    def emit(self, record: logging.LogRecord) -> None:
        path = os.environ.get(_VARIABLE)
        error = record.exc_info[1] if record.exc_info else None
        if path and error is not None:
            with contextlib.suppress(OSError), Path(path).open("x") as file:
                file.write(str(error) or type(error).__name__)


@contextlib.contextmanager
def heard() -> Iterator[Callable[[], str]]:
    """What the block starts may say why it fails; gives what asks for that, "" for nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "error"
        os.environ[_VARIABLE] = str(path)
        try:
            yield lambda: path.read_text() if path.exists() else ""
        finally:
            del os.environ[_VARIABLE]
