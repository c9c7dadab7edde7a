"""Ray's side of benchmarks/deliberation.py, in an environment that has Ray alone.

Answers one measurement per line of stdin, `WAY MEASUREMENT COUNT IN_FLIGHT`, with a list of milliseconds (idle) or of
one rate per second (flight). The ways: `tasks` are three proposals, three votes that need them all and a sum that needs
all votes, handed to Ray at once; `actors` is the same with an actor per agent, made for the deliberation and killed
after it. Nothing is durable, nothing is written.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import ray

AGENTS = range(3)


@ray.remote
def propose(agent: int) -> int:
    return agent


@ray.remote
def vote(agent: int, *proposals: int) -> int:
    return agent + sum(proposals)


@ray.remote
def aggregate(*votes: int) -> int:
    return sum(votes)


@ray.remote
class Agent:
    def __init__(self, agent: int):
        self.agent = agent

    def propose(self) -> int:
        return self.agent

    def vote(self, *proposals: int) -> int:
        return self.agent + sum(proposals)


def by_tasks() -> tuple[Any, list[Any]]:
    proposals = [propose.remote(agent) for agent in AGENTS]
    return aggregate.remote(*(vote.remote(agent, *proposals) for agent in AGENTS)), []


def by_actors() -> tuple[Any, list[Any]]:
    agents = [Agent.remote(agent) for agent in AGENTS]
    proposals = [agent.propose.remote() for agent in agents]
    return aggregate.remote(*(agent.vote.remote(*proposals) for agent in agents)), agents


WAYS = {"tasks": by_tasks, "actors": by_actors}


def idle(start: Callable[[], tuple[Any, list[Any]]], count: int, _: int) -> list[float]:
    times = []
    for _number in range(count):
        began = time.perf_counter()
        finish(*start())
        times.append((time.perf_counter() - began) * 1000)
    return times


def flight(start: Callable[[], tuple[Any, list[Any]]], count: int, in_flight: int) -> list[float]:
    began = time.perf_counter()
    window: dict[Any, list[Any]] = {}
    for _ in range(count):
        if len(window) == in_flight:
            finish_one(window)
        result, agents = start()
        window[result] = agents
    while window:
        finish_one(window)
    return [count / (time.perf_counter() - began)]


def finish_one(window: dict[Any, list[Any]]) -> None:
    (result,), _ = ray.wait(list(window))
    finish(result, window.pop(result))


def finish(result: Any, agents: list[Any]) -> None:
    assert ray.get(result) == 12
    for agent in agents:
        ray.kill(agent)


def main() -> None:
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=sys.argv[1])
    measurements = {"idle": idle, "flight": flight}
    for line in sys.stdin:
        way, measurement, count, in_flight = line.split()
        print(json.dumps(measurements[measurement](WAYS[way], int(count), int(in_flight))), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
