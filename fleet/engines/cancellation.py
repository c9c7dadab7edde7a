"""How a running generation learns that nobody wants its answer any more."""

import threading
from collections.abc import Callable


class Cancellation:
    """Set once, from any thread; an engine that waits registers a callback or looks now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = threading.Event()
        self._callbacks: list[Callable[[], object]] = []

    def set(self) -> None:
        with self._lock:
            self._set.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def is_set(self) -> bool:
        return self._set.is_set()

    def when_set(self, callback: Callable[[], object]) -> None:
        """Calls `callback` once: from the thread that sets it, or now if it is set already."""
        with self._lock:
            if not self._set.is_set():
                self._callbacks.append(callback)
                return
        callback()
