"""What agents write goes out to NATS while they write it, as well as it can: it is worth nothing later."""

import asyncio

import structlog
from nats.aio.client import Client
from nats.js.api import Header
from pydantic import ValidationError
from redis.exceptions import RedisError

from fleet.bus.servers import NATS_ERRORS, delay_s
from fleet.bus.streams import IN_FORMAT
from fleet.events import TokensWritten
from fleet.store import Store
from fleet.store.tokens import Subscription

log = structlog.get_logger(__name__)

READ_S = 0.5
MOST_BYTES = 1 << 20  # that wait for a slow NATS; what comes then is dropped
HEADER_BYTES = 256  # more than the headers of one message take


class TokenRelay:
    """The leading listener's. Every message carries its own id, so that those of two that overlap are there once."""

    def __init__(self, store: Store):
        self._tokens = store.tokens
        self.dropped = 0

    async def run(self, client: Client) -> None:
        """Until it is cancelled; what fails begins again."""
        failures = 0
        while True:
            try:
                subscription = await asyncio.to_thread(self._tokens.subscribe)
                failures = 0
                await self._relay(client, subscription)
            except (RedisError, *NATS_ERRORS) as error:
                log.debug("token_relay_interrupted", reason=f"{type(error).__name__}: {error}")
            except Exception:
                log.exception("token_relay_failed")
            failures += 1
            await asyncio.sleep(delay_s(failures, cap=5.0))

    async def _relay(self, client: Client, subscription: Subscription) -> None:
        reading: asyncio.Future[list[str]] | None = None
        try:
            while True:
                reading = asyncio.ensure_future(asyncio.to_thread(subscription.read, READ_S))
                for payload in await asyncio.shield(reading):
                    await self._publish(client, payload)
        finally:
            if reading is not None:
                await asyncio.gather(reading, return_exceptions=True)  # its thread uses the connection
            subscription.close()

    async def _publish(self, client: Client, payload: str) -> None:
        """Hands the message over and does not wait for it to be stored."""
        try:
            message = TokensWritten.model_validate_json(payload)
        except ValidationError as error:  # somebody else's message
            log.warning("token_not_readable", reason=str(error))
            return
        data = payload.encode()
        if client.pending_data_size > MOST_BYTES or len(data) + HEADER_BYTES > client.max_payload:
            self._drop()
            return
        await client.publish(
            message.subject, data, headers={Header.MSG_ID: f"{message.stream}:{message.number}", **IN_FORMAT}
        )
        if self.dropped:
            log.info("tokens_flow_again", dropped=self.dropped)
            self.dropped = 0

    def _drop(self) -> None:
        if not self.dropped:
            log.warning("tokens_dropped", reason="NATS takes them too slowly, or not at all")
        self.dropped += 1
