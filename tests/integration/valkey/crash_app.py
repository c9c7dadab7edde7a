"""`chord_app` whose processes kill themselves, once, at the point that the file `crash-at` names: `point group_id`."""

import contextlib
import os
import signal
from typing import Any

from fleet.valkey.backend import Backend
from fleet.valkey.records import Record

os.environ["TEST_BACKEND_CLASS"] = f"{__name__}:CrashingBackend"

from tests.integration.valkey import chord_app

app = chord_app.app


def crash_at(point: str, group_id: str) -> None:
    order = chord_app.FOLDER / "crash-at"
    if not order.exists() or order.read_text() != f"{point} {group_id}":
        return
    with contextlib.suppress(FileNotFoundError):
        order.rename(chord_app.FOLDER / f"crashed-{point}")  # only one process gets to rename it
        os.kill(os.getpid(), signal.SIGKILL)


class CrashingBackend(Backend):  # type: ignore[misc]
    def _report(self, request: Any, *args: Any, **kwargs: Any) -> bool:
        crash_at("before the part is counted", request.group)
        return super()._report(request, *args, **kwargs)

    def _finish_if_last(self, group_id: str, reply: Any) -> None:
        crash_at("after the part is counted", group_id)
        if isinstance(reply, list):
            crash_at("before the body is published", group_id)
        super()._finish_if_last(group_id, reply)

    def _finish(self, record: Record, producer: Any = None) -> None:
        super()._finish(record, producer)
        crash_at("after the body is published", record.group_id)

    def claim_body(self, group_id: str, *args: Any) -> tuple[int, Any]:
        crash_at("before the body is claimed", group_id)
        claimed = super().claim_body(group_id, *args)
        crash_at("after the body is claimed", group_id)
        return claimed

    def _complete(self, group_id: str, *args: Any) -> None:
        crash_at("before the body is completed", group_id)
        super()._complete(group_id, *args)
        crash_at("after the body is completed", group_id)
