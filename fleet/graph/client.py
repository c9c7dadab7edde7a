"""The connection to Neo4j."""

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import uniform
from typing import Any, Self, TypeVar

import neo4j
from neo4j import exceptions

from fleet.errors import Unavailable
from fleet.graph import reader, schema, writer
from fleet.graph.reader import PlanRecord
from fleet.models import Decision, Deliberation, StoredPlan, StoryPhase, StoryTransition
from fleet.settings import Settings

T = TypeVar("T")

OUTAGES = (
    exceptions.ServiceUnavailable,
    exceptions.ConnectionPoolError,
    exceptions.TransientError,
    exceptions.DatabaseError,
    exceptions.UnsupportedServerProduct,
)
# Login refused or limited, transaction longer than allowed, no such database.
OUTAGE_CODES = tuple(f"Neo.ClientError.{kind}." for kind in ("Security", "Transaction", "Database"))
INDEX_IN_THE_WAY = "Neo.ClientError.Schema.IndexWithNameAlreadyExists"


class Graph:
    """Fleet's permanent record in one Neo4j.

    Threads may share it, processes may not: make it after a fork. It connects when it is first used, and again after
    Neo4j was away. Every method raises Unavailable when Neo4j cannot be reached, refuses the login or fails; a write
    may have happened then, and writing it again is harmless.

    `connection_timeout_s` bounds the wait for a connection, `max_transaction_retry_s` how long transactions that met a
    deadlock or a lost connection are tried again. A transaction longer than `transaction_timeout_s` is ended by the
    server, so that a writer that froze does not hold its locks for ever. With a `ca_file` only what its certificates
    sign is trusted, and `uri` begins with bolt+s or neo4j+s.
    """

    def __init__(
        self,
        uri: str,
        user: str,
        password: str,
        *,
        ca_file: Path | None = None,
        connection_timeout_s: float = 5.0,
        max_transaction_retry_s: float = 2.0,
        transaction_timeout_s: float = 30.0,
    ):
        self._max_transaction_retry_s = max_transaction_retry_s
        self._bounded = neo4j.unit_of_work(timeout=transaction_timeout_s)
        self._driver = neo4j.GraphDatabase.driver(
            _plain(uri) if ca_file else uri,
            auth=(user, password),
            **_trusting(ca_file),
            connection_timeout=connection_timeout_s,
            connection_acquisition_timeout=connection_timeout_s,
            max_transaction_retry_time=max_transaction_retry_s,
            # An idle connection is tested before it is used: its server may have restarted, or hang.
            liveness_check_timeout=0,
            # A new database has not seen the names that are asked for, and warns of each.
            notifications_disabled_classifications=["UNRECOGNIZED"],
        )

    @classmethod
    def from_settings(cls, settings: Settings, **options: float) -> "Graph":
        return cls(
            settings.neo4j_uri,
            settings.neo4j_user,
            settings.neo4j_password.get_secret_value(),
            ca_file=settings.neo4j_ca_file,
            **options,
        )

    def close(self) -> None:
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ping(self) -> None:
        """Returns when Neo4j answers; does not try again."""
        with self._translated():
            self._driver.verify_connectivity()

    def ensure_schema(self) -> None:
        """Creates the constraints that are missing, and has Neo4j plan the writes, which takes a new one seconds.

        Each constraint commits by itself: Neo4j does not end a transaction with a change of the schema when its time
        is over, so a client that froze before its commit would hold up every other one for as long.
        """
        with self._translated(), self._driver.session() as session:
            for label in schema.Label:
                self._create_constraint(session, label)
        self._write(writer.prepare)

    def record_decisions(
        self, decisions: Sequence[Decision], plans: Mapping[str, StoredPlan] | None = None
    ) -> tuple[str, ...]:
        """Writes all of the decisions, with those of the `plans` (by plan id) that they belong to, or nothing.

        What is recorded already stays as it is. Returns the ids of the deliberations that were not.

        Raises: Conflict when a deliberation or a plan is recorded with other content; Unavailable.
        """
        return self._write(lambda tx: writer.record_decisions(tx, decisions, plans or {}))

    def record_transition(self, transition: StoryTransition) -> bool:
        """Writes a transition and, if it is the story's newest, the story's phase; False when it was recorded already.

        A timestamp without a zone is taken as UTC.
        """
        return self._write(lambda tx: writer.record_transition(tx, transition))

    def is_recorded(self, deliberation_id: str) -> bool:
        return self._read(lambda tx: reader.is_recorded(tx, deliberation_id))

    def decision(self, deliberation_id: str) -> Decision | None:
        """The frozen record, equal to the one that was written."""
        return next(iter(self._read(lambda tx: reader.decisions(tx, [deliberation_id]))), None)

    def deliberation(self, deliberation_id: str) -> Deliberation | None:
        """A recorded deliberation as the API shows it; `finished_at_ms` is the time of its decision."""
        decision = self.decision(deliberation_id)
        return reader.deliberation_of(decision) if decision else None

    def plan(self, plan_id: str) -> PlanRecord | None:
        """A plan with what was decided for it, oldest deliberation first."""
        return self._read(lambda tx: reader.plan(tx, plan_id))

    def transitions(self, story_id: str) -> tuple[StoryTransition, ...]:
        """Oldest first."""
        return self._read(lambda tx: reader.transitions(tx, story_id))

    def phase(self, story_id: str) -> StoryPhase | None:
        """Where the story's newest transition led; None when none is recorded."""
        return self._read(lambda tx: reader.phase(tx, story_id))

    def _create_constraint(self, session: neo4j.Session, label: schema.Label) -> None:
        """Tries again what the driver does only for explicit transactions: two that create it at once can deadlock.

        Neo4j makes the constraint's index first: if it dies between the two, the index stands in the way for ever.
        """
        give_up_at = time.monotonic() + self._max_transaction_retry_s
        while True:
            try:
                session.run(schema.constraint(label)).consume()
            except exceptions.Neo4jError as error:
                in_the_way = error.code == INDEX_IN_THE_WAY
                if not (in_the_way or isinstance(error, exceptions.TransientError)) or time.monotonic() > give_up_at:
                    raise
                if in_the_way:
                    _drop_orphan(session, label)
                time.sleep(uniform(0.05, 0.25))
            else:
                return

    def _write(self, work: Callable[[neo4j.ManagedTransaction], T]) -> T:
        with self._translated(), self._driver.session() as session:
            return session.execute_write(self._bounded(work))

    def _read(self, work: Callable[[neo4j.ManagedTransaction], T]) -> T:
        with self._translated(), self._driver.session() as session:
            return session.execute_read(self._bounded(work))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.DriverError, exceptions.Neo4jError) as error:
            if _is_outage(error):
                raise Unavailable("neo4j", _reason(error)) from error
            raise


def _drop_orphan(session: neo4j.Session, label: schema.Label) -> None:
    """Drops an index of the constraint's name for what the constraint is for, unless a constraint has it by now."""
    if session.run(schema.ORPHAN, label=label, name=schema.constraint_name(label)).single():
        with contextlib.suppress(exceptions.ClientError, exceptions.TransientError):  # another one is at it
            session.run(f"DROP INDEX {schema.constraint_name(label)} IF EXISTS").consume()


def _plain(uri: str) -> str:
    """The driver takes a trust of its own only for a URI that says nothing about TLS."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme.removesuffix('+s')}://{rest}"


def _trusting(ca_file: Path | None) -> dict[str, Any]:
    if ca_file is None:
        return {}
    return {"encrypted": True, "trusted_certificates": neo4j.TrustCustomCAs(str(ca_file))}


def _is_outage(error: Any) -> bool:
    """True for what can go away by itself or by Neo4j's operator; any other error is Fleet's own."""
    if isinstance(error, OUTAGES) or error.is_retryable():
        return True
    return isinstance(error, exceptions.ClientError) and error.code.startswith(OUTAGE_CODES)


def _reason(error: Exception) -> str:
    """The error's text in one line; of TLS only what went wrong, which the driver's text hides in advice."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"no TLS: {cause}"
        cause = cause.__cause__
    return " ".join((getattr(error, "message", None) or str(error) or type(error).__name__).split())
