"""Certificates made for one test, and what speaks TLS for a server that cannot: the packaged ValKey has none in it."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme


class Authority:
    """A certificate authority with a server's and a client's certificate for 127.0.0.1."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(self.key)
        for certificate in issued.cert_chain_pems:
            certificate.write_to_path(self.cert, append=True)


class TlsFront:
    """Takes TLS on a port of its own and hands what is in it to a port of this machine; asks for a certificate."""

    def __init__(self, authority: Authority, port: int, *, client_certificates: bool):
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
        self._context.load_cert_chain(authority.cert, authority.key)
        self._context.verify_mode = ssl.CERT_REQUIRED if client_certificates else ssl.CERT_NONE
        self._behind = port
        self._loop = asyncio.new_event_loop()
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    @contextlib.contextmanager
    def running(self) -> Iterator["TlsFront"]:
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        server = self._loop.run_until_complete(start)
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        yield self
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
