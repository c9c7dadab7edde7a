"""What the tasks of one worker process share: its connections and its engine. They connect and load when first used."""

import threading

from fleet.dispatch import Dispatcher
from fleet.engines import EngineConfig, create_engine
from fleet.graph import Graph
from fleet.settings import Settings
from fleet.store import Store


class Runtime:
    """Made once per process (after the fork, in a prefork pool), used from all of its threads."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.store = Store.from_settings(settings)
        self.dispatcher = Dispatcher(self.store, settings)
        self.engine = create_engine(EngineConfig.from_settings(settings))
        self._graph = Graph(settings.neo4j_uri, settings.neo4j_user, settings.neo4j_password.get_secret_value())
        self._schema_lock, self._schema_ready = threading.Lock(), False

    @property
    def graph(self) -> Graph:
        """The graph, with its constraints.

        Raises: Unavailable when they were not made yet and Neo4j is away.
        """
        with self._schema_lock:
            if not self._schema_ready:
                self._graph.ensure_schema()
                self._schema_ready = True
        return self._graph

    def close(self) -> None:
        """Ends the engine and closes the connections."""
        for part in (self.engine, self._graph, self.store):
            part.close()
