"""nats-py's client, but `tls://` means TLS."""

from typing import Any

from nats.aio import client
from nats.errors import SecureConnWantedError


class Client(client.Client):
    """nats-py's, which says nothing to a server without TLS whose URL is `tls://`.

    By itself it goes by what the server says of TLS, unencrypted, and sends the login in clear.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        server = self._current_server
        if initial_connection and server and server.uri.scheme == "tls" and not info.get("tls_required"):
            raise SecureConnWantedError
        await super()._process_info(info, initial_connection)
