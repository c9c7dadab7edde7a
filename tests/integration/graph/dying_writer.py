"""A writer in a process of its own that sends itself a signal in the middle of its transaction.

Forked by multiprocessing's fork server, which has one thread: a fork of the process that runs the tests could inherit
a lock that one of its many threads holds.
"""

import itertools
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import neo4j

from fleet.graph import Graph
from tests.harness import Neo4jServer

T = TypeVar("T")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fleet.graph", "tests.integration.graph.dying_writer"])


def start_writer(
    server: Neo4jServer, method: str, arguments: tuple[Any, ...], number: int, at: int, **options: float
) -> BaseProcess:
    """Starts a process that calls a method of a Graph, with the signal `number` before its statement `at`.

    The commit is the last statement.
    """
    login = (server.uri, server.user, server.password)
    process = _CONTEXT.Process(target=_write, args=(login, options, method, arguments, number, at))
    process.start()
    return process


def _write(
    login: tuple[str, str, str],
    options: dict[str, float],
    method: str,
    arguments: tuple[Any, ...],
    number: int,
    at: int,
) -> None:
    statements = itertools.count(1)

    def counted(function: Callable[..., T]) -> Callable[..., T]:
        def call(*arguments: Any, **parameters: Any) -> T:
            if next(statements) == at:
                os.kill(os.getpid(), number)
            return function(*arguments, **parameters)

        return call

    for name in ("run", "_commit"):
        setattr(neo4j.ManagedTransaction, name, counted(getattr(neo4j.ManagedTransaction, name)))
    with Graph(*login, **options) as graph:
        getattr(graph, method)(*arguments)
