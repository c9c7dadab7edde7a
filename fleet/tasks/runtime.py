"""What the tasks of one worker process share: its connections and its engine. They connect and load when first used."""

from fleet.dispatch import Dispatcher
from fleet.engines import Engine, EngineConfig, create_engine
from fleet.settings import Settings
from fleet.store import Store


class Runtime:
    """Made once per process (after the fork, in a prefork pool), used from all of its threads.

    Without an `engine` it makes the one that the settings name.
    """

    def __init__(self, settings: Settings, engine: Engine | None = None):
        self.settings = settings
        self.store = Store.from_settings(settings)
        self.dispatcher = Dispatcher(self.store, settings)
        self.engine = engine or create_engine(EngineConfig.from_settings(settings))

    def close(self) -> None:
        """Ends the engine and closes the connections."""
        for part in (self.engine, self.store):
            part.close()
