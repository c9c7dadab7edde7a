"""What the tasks of one worker process share: its connections and its engine, made when first used."""

from functools import cached_property

from fleet.dispatch import Dispatcher
from fleet.engines import EngineConfig, create_engine
from fleet.engines.base import Engine
from fleet.graph import Graph
from fleet.settings import Settings
from fleet.store import Store


class Runtime:
    """Made once per process (after the fork, in a prefork pool), used from all of its threads."""

    def __init__(self, settings: Settings):
        self.settings = settings

    @cached_property
    def store(self) -> Store:
        return Store.from_settings(self.settings)

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.store, self.settings)

    @cached_property
    def engine(self) -> Engine:
        return create_engine(EngineConfig.from_settings(self.settings))

    @cached_property
    def graph(self) -> Graph:
        settings = self.settings
        graph = Graph(settings.neo4j_uri, settings.neo4j_user, settings.neo4j_password.get_secret_value())
        graph.ensure_schema()
        return graph

    def close(self) -> None:
        """Closes what was made."""
        for name in ("engine", "graph", "store"):
            if made := self.__dict__.pop(name, None):
                made.close()
