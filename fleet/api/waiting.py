"""What deliberations wait for, a worker or the server of their engine; looked up when they are read, never stored."""

from fleet.api.cluster import asked_for
from fleet.api.services import Services
from fleet.cluster import why_unserved
from fleet.dispatch import queue_of
from fleet.models import Deliberation
from fleet.store import RECORD


class Waiting:
    """What the workers say at one instant, for the deliberations of one request."""

    def __init__(self, services: Services):
        self._settings = services.settings
        self._states, self._models = services.store.workers.list(), services.store.queues.models()
        self._reasons = {
            queue: reason for queue in self._models if (reason := why_unserved(queue, self._states, self._models))
        }
        breakers = services.store.breakers
        away = [one for one in breakers.list() if one.state != "closed"]
        self._behind = {id: one for one in away for id in breakers.waiting(one.endpoint)}

    def shown(self, found: Deliberation) -> Deliberation:
        """The deliberation, saying what it waits for if it does."""
        if found.step not in (None, RECORD) and (breaker := self._behind.get(found.deliberation_id)):
            return found.model_copy(update={"waiting_for": f"the engine's server, {breaker.reason}"})
        if not self._reasons or found.step in (None, RECORD) or self._runs(found.deliberation_id):
            return found
        queue = queue_of(found, self._settings)
        return found.model_copy(update={"waiting_for": self._sentence(queue)}) if queue in self._reasons else found

    def _runs(self, id: str) -> bool:
        """Whether a worker that answers runs a part of it; one that is about to end takes nothing new."""
        return any(job.deliberation_id == id for state in self._states if not state.hangs for job in state.jobs)

    def _sentence(self, queue: str) -> str:
        model = asked_for(queue, self._models)
        named = f" (model {model})" if model else ""
        return f"a worker for the queue {queue}{named}: {self._reasons[queue]}"
