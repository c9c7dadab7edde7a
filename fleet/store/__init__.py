"""Fleet's own state in ValKey: submissions, deliberations, councils, keys, the event log and dead letters."""

import redis

from fleet.settings import Settings
from fleet.settings.tls import valkey_tls
from fleet.store.admission import RateLimits
from fleet.store.base import Scripts, connect
from fleet.store.breakers import Breakers
from fleet.store.councils import Councils
from fleet.store.deadletters import DeadLetters
from fleet.store.deliberations import GRAPH_RETRY_MS, RECORD, Attempt, Deliberations, Part, PartStart, Sealed
from fleet.store.durability import Durability
from fleet.store.eventlog import EventLog, LoggedEvent
from fleet.store.idempotency import Idempotency
from fleet.store.keys import Keys
from fleet.store.listeners import Listeners, ListenerState
from fleet.store.pages import Pages
from fleet.store.queues import Queues
from fleet.store.statistics import Statistics
from fleet.store.submissions import Submissions
from fleet.store.tokens import Tokens
from fleet.store.workers import Workers

__all__ = [
    "GRAPH_RETRY_MS",
    "RECORD",
    "Attempt",
    "ListenerState",
    "LoggedEvent",
    "Part",
    "PartStart",
    "Sealed",
    "Store",
]


class Store:
    """Everything of one ValKey; thread-safe. Its methods raise redis.exceptions.RedisError when ValKey is away.

    `queue_limit` deliberations may be open at once, 0 is no limit; `fsync` is for `durability`.
    """

    def __init__(self, client: "redis.Redis", retention_s: int = 3600, queue_limit: int = 0, fsync: bool = False):
        scripts = Scripts(client)
        self.client = client
        self.submissions = Submissions(client, scripts, queue_limit)
        self.durability = Durability(client, fsync)
        self.rate_limits = RateLimits(scripts)
        self.events = EventLog(client, scripts)
        self.deliberations = Deliberations(client, scripts, self.events, retention_s)
        self.councils = Councils(client, scripts)
        self.dead_letters = DeadLetters(client, scripts)
        self.listeners = Listeners(client)
        self.workers = Workers(client)
        self.queues = Queues(client)
        self.breakers = Breakers(client, scripts)
        self.statistics = Statistics(client)
        self.keys = Keys(client)
        self.idempotency = Idempotency(client, scripts)
        self.tokens = Tokens(client)
        self.pages = Pages(client, self.submissions, self.dead_letters)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Store":
        return cls(
            connect(settings.valkey_url.get_secret_value(), valkey_tls(settings)),
            settings.deliberation_retention_s,
            settings.queue_limit,
            settings.durability == "fsync",
        )

    def close(self) -> None:
        self.client.close()
        self.tokens.close()
