"""A writer in a process of its own that sends itself a signal in the middle of its work.

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


Calls = tuple[tuple[type, str], ...]
STATEMENTS: Calls = ((neo4j.ManagedTransaction, "run"), (neo4j.ManagedTransaction, "_commit"))  # the commit is the last
RESULTS: Calls = ((neo4j.Result, "consume"),)  # its statement was sent


def start_writer(
    server: Neo4jServer,
    method: str,
    arguments: tuple[Any, ...],
    number: int,
    at: int,
    calls: Calls = STATEMENTS,
    **options: float,
) -> BaseProcess:
    """Starts a process that calls a method of a Graph, with the signal `number` before the `at`-th of the `calls`."""
    login = (server.uri, server.user, server.password)
    process = _CONTEXT.Process(target=_write, args=(login, options, method, arguments, number, at, calls))
    process.start()
    return process


def _write(
    login: tuple[str, str, str],
    options: dict[str, float],
    method: str,
    arguments: tuple[Any, ...],
    number: int,
    at: int,
    calls: Calls,
) -> None:
    made = itertools.count(1)

    def counted(function: Callable[..., T]) -> Callable[..., T]:
        def call(*arguments: Any, **parameters: Any) -> T:
            if next(made) == at:
                os.kill(os.getpid(), number)
            return function(*arguments, **parameters)

        return call

    for owner, name in calls:
        setattr(owner, name, counted(getattr(owner, name)))
    with Graph(*login, **options) as graph:
        getattr(graph, method)(*arguments)
