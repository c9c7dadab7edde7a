"""Several messages in one round trip, which a chord's header is worth."""

from collections.abc import Callable
from typing import Any

from kombu.exceptions import BatchPublishError, LimitExceeded, OperationalError

_ATTEMPTS = 3


def publish_together(app: Any, publish: Callable[[Any], None]) -> None:
    """Calls `publish(producer)`, which sends through that producer, and hands all of it to the broker at once.

    Does it again when the connection turns out to be lost, since pooled ones are after a restart of the server: a
    message may then be there twice, as after any redelivery.

    Raises: OperationalError when the broker does not answer.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with app.producer_or_acquire() as producer, producer.batch():
                publish(producer)
                return
        except LimitExceeded as error:  # all connections are taken by publishers that wait
            raise OperationalError(str(error)) from error
        except BatchPublishError as error:
            if attempt == _ATTEMPTS - 1:
                raise OperationalError(str(error.__cause__ or error)) from error
