"""Which parts may run at the same time in one process, after it died of one of them.

A death hits everything that ran, and does not say what it was of. What was in one death runs in small groups from then
on, and what is one death away from being given up runs alone: whatever dies then has itself to blame, and a part that
only stood by is not given up. That is group testing (R. Dorfman, "The Detection of Defective Members of Large
Populations", 1943) in two stages.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

GROUP = 8
LOOK_S = 1.0  # between two looks at whether a part that waits is still wanted


class Suspects:
    """One gate per process; every part goes through it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A forked child runs none of its parent's parts."""
        self._changed = threading.Condition()
        self._running = self._grouped = self._waiting_alone = 0
        self._alone = False

    @contextlib.contextmanager
    def admitted(self, deaths: int, most_deaths: int, wanted: Callable[[], bool]) -> Iterator[bool]:
        """Waits until a part that was in so many deaths may run, for the length of the block.

        False, and nothing is waited for any more, as soon as the part is not `wanted`.
        """
        alone, grouped = deaths > 0 and deaths >= most_deaths - 1, deaths > 0
        entered = self._enter(alone, grouped, wanted)
        try:
            yield entered
        finally:
            if entered:
                self._leave(alone, grouped)

    def _enter(self, alone: bool, grouped: bool, wanted: Callable[[], bool]) -> bool:
        with self._changed:
            self._waiting_alone += alone
            try:
                while not self._changed.wait_for(lambda: self._free(alone, grouped), LOOK_S):
                    if not wanted():
                        return False
                self._running += 1
                self._grouped += grouped
                self._alone = alone
                return True
            finally:
                self._waiting_alone -= alone
                self._changed.notify_all()

    def _free(self, alone: bool, grouped: bool) -> bool:
        if alone:
            return self._running == 0
        if self._alone or self._waiting_alone:  # else new parts would keep it waiting for ever
            return False
        return not grouped or self._grouped < GROUP

    def _leave(self, alone: bool, grouped: bool) -> None:
        with self._changed:
            self._running -= 1
            self._grouped -= grouped
            self._alone = self._alone and not alone
            self._changed.notify_all()


suspects = Suspects()
os.register_at_fork(after_in_child=suspects.reset)
