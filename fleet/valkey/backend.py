"""Celery's Redis result backend with chords that end exactly once, whatever dies. README.md has the whole story.

Name it in `result_backend` as `fleet.valkey.backend:Backend+redis://host:port/db` and call `fleet.valkey.install(app)`.
"""

# mypy: disable-error-code="misc, no-any-return, no-untyped-call"

import json
import logging
from collections.abc import Callable
from typing import Any

from celery import states
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from celery.canvas import maybe_signature
from celery.exceptions import ChordError, SecurityError
from celery.result import GroupResult
from celery.utils.functional import _regen
from kombu import serialization
from kombu.exceptions import OperationalError
from kombu.utils.encoding import bytes_to_str, str_to_bytes
from kombu.utils.objects import cached_property

from fleet.valkey import bodies, parts
from fleet.valkey.records import Record
from fleet.valkey.refusals import Refusal
from fleet.valkey.scripts import Scripts
from fleet.valkey.subscriptions import SubscribeWhileWaiting

logger = logging.getLogger(__name__)

#: Seconds. A chord without a deadline of its own fails after a week instead of lying there for ever.
DEFAULT_DEADLINE = 7 * 24 * 3600.0
#: Seconds a body's claim lasts unless renewed: how soon another worker starts the body of one that died.
LEASE = 15.0
#: Seconds until a sweeper publishes the body of a chord whose last header task should have done so.
GRACE = 3.0
#: Seconds from a sweeper's first copy of a body to its second; doubled each time, since the body may just be queued.
REPUBLISH, REPUBLISH_LIMIT = 15.0, 3600.0
#: Seconds a finished chord is remembered if results never expire.
REMEMBER = 24 * 3600
#: A header task has nothing better to do than to wait for ValKey: about ten minutes.
_PATIENCE = {"max_retries": 600}
_BATCH = 16


class Backend(SubscribeWhileWaiting, RedisBackend):
    """Durable chords for plain `chord(header)(body)`.

    Options of the body's signature: `body.set(chord_deadline=seconds, chord_partial=True)`. After the deadline the
    chord fails with ChordError. With `chord_partial` its body runs instead, with what is there: for each header entry,
    in order, `{"state": "SUCCESS", "result": …}` or
    `{"state": "FAILURE" | "MISSING", "error": {"type": str, "message": str}}`.

    `result_backend_transport_options` may hold `chord_lease`, `chord_grace` and `chord_republish`, all in seconds.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        options = self._transport_options
        self.lease = float(options.get("chord_lease", LEASE))
        self.grace = float(options.get("chord_grace", GRACE))
        self.republish = float(options.get("chord_republish", REPUBLISH))
        self._sizes: dict[str, int] = {}

    # -- what operators and applications call; they raise redis.exceptions.RedisError at once, and may wait as they like

    def open_chord(self, group_id: str, body: Any, size: int) -> None:
        """Opens a chord of `size` header tasks that the caller publishes, each with the group's id and its index.

        What `chord(header)(body)` does with the same ids, without making a signature of every task. Opening it again
        changes nothing.
        """
        keys, args = self._opening(group_id, body, {"size": size})
        self._scripts.open(keys=keys, args=args)

    def set_chord_deadline(self, group_id: str, at: float) -> bool:
        """Moves an open chord's deadline to `at`, unix seconds by ValKey's clock; False if it is closed or unknown."""
        return bool(self._scripts.move(keys=[*self._keys(group_id, ".chord"), self._due], args=[group_id, at]))

    def chord_state(self, group_id: str) -> dict[str, Any] | None:
        """The chord as stored, None if unknown or expired.

        `state` is OPEN (parts arrive), READY (the body is to run or runs) or DONE; `size` the parts expected, None if
        not known yet; `parts` those that arrived; `deadline` unix seconds; `partial` as asked for; `sweeps` how often a
        sweeper published the body. A DONE chord keeps its state and size only.
        """
        chord, arrived = self._keys(group_id, ".chord", ".parts")
        with self.client.pipeline() as pipe:
            fields, count = pipe.hgetall(chord).hlen(arrived).execute()
        return Record.parse(group_id, fields, {}).describe(count) if fields else None

    # -- what Celery calls in the producer

    def apply_chord(self, header_result_args: tuple[str, Any], body: Any, **_: Any) -> None:
        group_id, results = header_result_args
        header = {} if isinstance(results, _regen) else self._header_fields(group_id, results)
        self._open(*self._opening(group_id, body, header))

    def _open(self, keys: list[Any], args: list[Any]) -> None:
        """Waits for a server that is gone; of one that is full, the producer is told at once."""

        def attempt() -> Refusal | None:
            try:
                self._scripts.open(keys=keys, args=args)
            except Refusal as refusal:
                return refusal
            return None

        if refusal := self.ensure(attempt, (), **_PATIENCE):
            raise refusal

    def _opening(self, group_id: str, body: Any, header: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        options = bodies.take_options(body)
        fields = {"entries": len(bodies.entries(body) or ()), **self._packed(group_id, body), **header}
        if options.partial:
            fields["partial"] = 1
        flat = [item for pair in fields.items() for item in pair]
        deadline = DEFAULT_DEADLINE if options.deadline is None else options.deadline
        return [*self._keys(group_id, ".chord"), self._due], [group_id, deadline, *flat]

    def _header_fields(self, group_id: str, results: list[Any]) -> dict[str, Any]:
        """The size, if each result is one part, else the nesting; Celery tells the size of the latter later."""
        if any(isinstance(result, GroupResult) for result in results):
            return {"tree": json.dumps([_tree(result) for result in results])}
        self._sizes[group_id] = len(results)
        return {"size": len(results)}

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        if self._sizes.pop(group_id, None) != chord_size:
            self._resize(group_id, chord_size, 0)

    def add_to_chord(self, group_id: str, _result: Any) -> None:
        self._resize(group_id, "", 1)

    def _resize(self, group_id: str, size: int | str, added: int) -> None:
        keys = [*self._keys(group_id, ".chord", ".parts"), self._due]
        self._finish_if_last(group_id, self._call(self._scripts.resize, keys, [group_id, size, added, self.grace]))

    # -- what Celery calls when a task ends

    def store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None,
                     **kwargs: Any) -> Any:  # fmt: skip
        # Celery marks a task as started before its body can be claimed: a late copy must not hide the outcome.
        if state == states.STARTED and bodies.body_of(request) and not bodies.claim_of(request):
            return result
        return super().store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)

    def mark_as_done(self, task_id: str, result: Any, request: Any = None, store_result: bool = True,
                     state: str = states.SUCCESS) -> None:  # fmt: skip
        stored = store_result and not (request and request.ignore_result)
        meta = self._meta(task_id, result, state, request) if stored and request else ""
        if meta and request.chord and request.group:
            if self._report(request, state, result, meta):
                self.complete_body(request)
                return
            meta = ""
        if meta and bodies.body_of(request) and not request.chord:
            self.complete_body(request, meta)
            return
        super().mark_as_done(task_id, result, request, store_result, state)
        self.complete_body(request)

    def mark_as_failure(self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None,
                        **kwargs: Any) -> None:  # fmt: skip
        if bodies.is_lost(self.app, request, exc):
            logger.warning("chord body %s lost its worker; it starts again when its lease ends", task_id)
            return
        super().mark_as_failure(task_id, exc, traceback=traceback, request=request, **kwargs)
        self.complete_body(request)

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, **kwargs: Any) -> None:
        super().mark_as_revoked(task_id, reason, request=request, **kwargs)
        self.complete_body(request)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        if request.id and request.group:
            self._report(request, state, result)

    def _report(self, request: Any, state: str, result: Any, meta: Any = "") -> bool:
        """Counts a part and stores its task's result in one step; False if neither was done."""
        field = parts.part_field(request.group_index, request.id)
        payload = self.encode([1, request.id, state, self.encode_result(result, state)])
        keys = [*self._keys(request.group, ".chord", ".parts"), self._due, self.get_key_for_task(request.id)]
        args = [request.group, field, payload, self.grace, meta, self.expires or 0]
        reply = self._call(self._scripts.report, keys, args)
        self._finish_if_last(request.group, reply)
        return reply != -1

    def _meta(self, task_id: str, result: Any, state: str, request: Any) -> Any:
        encoded = self.encode_result(result, state)
        meta = self._get_result_meta(result=encoded, state=state, traceback=None, request=request)
        return self.encode({**meta, "task_id": task_id})

    # -- finishing a chord: the last header task does it, or a sweeper

    def sweep(self, producer: Any = None) -> int:
        """Publishes the bodies that are due, again if need be, and enforces deadlines; returns how many it acted on."""
        prefix = self.get_key_for_group("x")[:-1]
        args = [prefix, ".chord", ".parts", _BATCH, self.republish, REPUBLISH_LIMIT]
        taken = self._scripts.take(keys=[self._due], args=args)
        for group_id, snapshot in taken:
            self._try_to_finish(Record.parse(bytes_to_str(group_id), *snapshot), producer)
        return len(taken)

    def _finish_if_last(self, group_id: str, reply: Any) -> None:
        if isinstance(reply, list):
            self._try_to_finish(Record.parse(group_id, *reply))

    def _try_to_finish(self, record: Record, producer: Any = None) -> None:
        try:
            self._finish(record, producer)
        except Exception:
            logger.exception("chord %s: finishing failed, a sweeper will try again", record.group_id)

    def _finish(self, record: Record, producer: Any = None) -> None:
        body = maybe_signature(self._unpacked(record), app=self.app)
        try:
            arguments = self._arguments(record)
            marked = bodies.mark(body, record)
            self.app.amqp._retry_publish(body.apply_async, (arguments,), producer=producer)
        except OperationalError:
            logger.warning("chord %s: the broker did not take the body, a sweeper will publish it", record.group_id)
        except ChordError as error:
            self._fail(record, body, error)
        except Exception as error:
            logger.exception("chord %s: its body cannot be called", record.group_id)
            self._fail(record, body, ChordError(f"Callback error: {error!r}"))
        else:
            if not marked:
                self._complete(record.group_id)

    def _arguments(self, record: Record) -> list[Any]:
        """What the body is called with. Raises: ChordError if that is for its errbacks to hear."""
        arrived = [
            parts.parse_part(field, self.decode(payload), self.exception_to_python)
            for field, payload in record.parts.items()
        ]
        if record.partial:
            return parts.partial_results(arrived, record.tree, record.expected or len(arrived))
        if record.late:
            count = f"{len(arrived)} of {record.expected} parts"
            raise ChordError(f"Chord {record.group_id} passed its deadline with {count}")
        return parts.results(arrived, record.tree)

    def _fail(self, record: Record, body: Any, error: ChordError) -> None:
        try:
            raise error
        except ChordError:
            self.chord_error_from_stack(bodies.innermost(body), error)
        # Celery would leave what waits for the end of a nested canvas waiting for ever.
        for leaf in bodies.outcomes(body):
            if self.get_state(leaf.id) not in states.READY_STATES:
                self.store_result(leaf.id, error, states.FAILURE)
            if leaf.options.get("chord"):
                group_id, index = leaf.options.get("group_id"), leaf.options.get("group_index")
                self.on_chord_part_return(Context(id=leaf.id, group=group_id, group_index=index), states.FAILURE, error)
        self._complete(record.group_id)

    # -- a body's claim; bodies.py calls these around its run

    def claim_body(self, group_id: str, task_id: str, retries: int) -> tuple[int, Any]:
        """`(epoch, workers lost so far)`, or `(0, why not)`."""
        keys = [*self._keys(group_id, ".chord"), self._due]
        epoch, detail = self._call(self._scripts.claim, keys, [group_id, task_id, retries, self.lease])
        return epoch, bytes_to_str(detail)

    def renew_body(self, group_id: str, task_id: str, epoch: int) -> bool:
        keys = [*self._keys(group_id, ".chord"), self._due]
        return bool(self._call(self._scripts.renew, keys, [group_id, task_id, epoch, self.lease]))

    def release_body(self, group_id: str, task_id: str, epoch: int, retries: int, missed_after: float) -> None:
        keys = [*self._keys(group_id, ".chord"), self._due]
        self._call(self._scripts.release, keys, [group_id, task_id, epoch, retries, missed_after])

    def complete_body(self, request: Any, meta: Any = "") -> None:
        group_id = bodies.body_of(request)
        if group_id:
            claim = bodies.claim_of(request)
            self._complete(group_id, request.id, claim.epoch if claim else "", meta)

    def _complete(self, group_id: str, task_id: str = "", epoch: int | str = "", meta: Any = "") -> None:
        keys = [*self._keys(group_id, ".chord", ".parts"), self._due, self.get_key_for_task(task_id or group_id)]
        args = [group_id, task_id, epoch, self.chord_expires or REMEMBER, meta, self.expires or 0]
        if not self._call(self._scripts.complete, keys, args):
            logger.warning("chord %s: its body %s was completed by another run", group_id, task_id)

    # -- storage

    @cached_property
    def _scripts(self) -> Scripts:
        return Scripts(self.client)

    @property
    def _signer(self) -> Any:
        return getattr(self.app, "message_signer", None)

    @cached_property
    def _due(self) -> Any:
        return self.get_key_for_group("chords", ".due")

    def _keys(self, group_id: str, *suffixes: str) -> list[Any]:
        return [self.get_key_for_group(group_id, suffix) for suffix in suffixes]

    def _call(self, script: Callable[..., Any], keys: list[Any], args: list[Any]) -> Any:
        return self.ensure(lambda: script(keys=keys, args=args), (), **_PATIENCE)

    def _packed(self, group_id: str, body: Any) -> dict[str, Any]:
        kind, encoding, payload = serialization.dumps(body, serializer=self.app.conf.task_serializer)
        fields = {"body": payload, "body_type": kind, "body_encoding": encoding}
        if self._signer:
            fields["body_signature"] = self._signer.sign(_sealed(group_id, kind, encoding, payload))
        return fields

    def _unpacked(self, record: Record) -> Any:
        kind, encoding = record.text("body_type"), record.text("body_encoding")
        signature = bytes_to_str(record.fields.get("body_signature"))
        sealed = _sealed(record.group_id, kind, encoding, record.fields["body"])
        if self._signer and not self._signer.verifies(sealed, signature):
            raise SecurityError(f"The body of chord {record.group_id} is not signed by one of this worker's keys")
        accept = serialization.prepare_accept_content(self.app.conf.accept_content)
        return serialization.loads(record.fields["body"], kind, encoding, accept=accept)


def _sealed(group_id: str, kind: str, encoding: str, payload: Any) -> bytes:
    return b"\0".join(str_to_bytes(part) for part in (group_id, kind, encoding, payload))


def _tree(result: Any) -> Any:
    return [_tree(child) for child in result.results] if isinstance(result, GroupResult) else result.id
