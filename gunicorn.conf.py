"""How gunicorn serves Fleet's API: `gunicorn -c gunicorn.conf.py 'fleet.api:create_app()'`."""

import os
from typing import Any

from fleet.settings import settings_or_exit

_settings = settings_or_exit("fleet api")  # before the Celery application reads them, which has another name

from fleet.api import server  # noqa: E402

server.install()

bind = _settings.api_bind
worker_class = "gthread"  # a stream or a long wait takes a thread, three quarters of them at most
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = 16
preload_app = True  # imported once; nothing connects before the fork
keepalive = 5  # s
graceful_timeout = 10  # s; streams and long waits end within a second, other requests within a few
logger_class = server.Logger  # gunicorn's own messages; the application logs the requests
control_socket_disable = True  # one path for all gunicorns of a user, and nothing here uses it


def on_starting(arbiter: Any) -> None:
    """Before it listens: `-b` may have replaced `bind`."""
    server.check_exposure(arbiter.cfg.address, _settings.api_key.get_secret_value())


def when_ready(arbiter: Any) -> None:
    """Before it accepts: sockets may have been handed over instead."""
    names = [listener.getsockname() for listener in arbiter.LISTENERS]
    server.check_exposure(names, _settings.api_key.get_secret_value())


def post_worker_init(worker: Any) -> None:
    server.serve_with(worker.wsgi, worker)
