"""One vLLM engine, directly and through Fleet, in the same run: `make bench NAME=gpu_worker`.

All ways ask engines with the same settings for the same prompts with the same schema, and take turns; every answer is
cut at the same number of tokens, so that all do the same work. (Fleet calls what was cut a failed answer, and a
deliberation of such answers FAILED; it has done all but the vote.) A run is some requests at once:

  direct         vLLM's AsyncLLM in a process of its own, prompts rendered before, whole answers
  worker         a GPU worker, the requests as parts through ValKey, until the last answer is stored
  heard          the same, while somebody listens to all that the agents write, as the listener does; at one size
  width 1        the same worker, but the next part is submitted when the last is answered: the worker refuses to take
                 one at a time, so this stands for one that does
  http           vLLM's own OpenAI server, and in front of it a worker with Fleet's openai engine
  deliberations  everything that `fleet up --engine vllm` runs but NATS and Flower: deliberations of three agents by
                 HTTP, until all are final. Their engine is another one, so direct takes turns with them once more

Figures are medians over the rounds. Times to the first token run from the request's submission; `worker_asked` is that
part of it that passed until the worker asked its engine, and says more than the difference of two noisy medians. With
several requests at once the first prompts hold up the later ones, in every way alike. CPU seconds are those
of vLLM's processes, of the process in front of them, and of the rest: ValKey, this one, councils, API and Neo4j.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import _report
from benchmarks._fleet import started
from benchmarks._gpu_sides import (
    LIMIT_S,
    PROPOSAL_CHARS,
    Cpu,
    Deliberations,
    Direct,
    Parts,
    Run,
    VllmServer,
    Work,
    here,
)
from fleet.settings import Settings
from fleet.stack import vllm
from fleet.stack.celery_worker import CeleryWorker
from fleet.stack.process import Process, start_all
from fleet.stack.processes import NOT_FOR_GPU, Fleet, GpuWorker
from fleet.stack.servers import ValkeyServer

# What suits a small model. The blocks are smaller than a processor's 128, so that what agents share is computed once.
ENGINE_ARGS = {"enforce_eager": True, "max_model_len": 1024, "kv_cache_memory_bytes": 2**30, "block_size": 32}
# What the GPU worker sets by itself (workers/gpu/loading.py).
WORKERS_OWN = {
    "enable_prefix_caching": True,
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    "stream_interval": 4,
}
AGENTS, COUNCIL = 8, 3  # of one deliberation: of parts alone, and of whole ones
AT_WIDTH_1 = 2  # requests of one run
_RATIOS = ("_ratio", "_least", "_most", "over_width_1")
WHO = ("engine", "front", "rest")
WAYS = ("direct", "worker", "http")
AT_LEAST = {"worker_ratio": 0.95, "over_width_1": 8.0}  # at 32 and 64
AT_MOST = {"first_added_ms": 10.0}

Runs = dict[tuple[str, int], list[Run]]
Sides = dict[str, tuple[Callable[[Work], Run], Cpu]]


class Bench:
    """The processes of one call of this program, and the runs that it does with them."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self._options, self._folder = options, folder
        self._sizes: list[int] = options.sizes
        self._slots = max(2, *options.sizes)
        self._numbers = itertools.count(100, 100)  # a run with one request at a time uses several
        self._model = options.model or str(vllm.make_model(_say))
        self._direct = Direct(self._whole_engine_args(), folder / "direct.log", options.tokens)

    def measure(self) -> tuple[Runs, Runs]:
        """The runs of all that share a ValKey, and those of whole deliberations."""
        try:
            with self._workers() as sides:
                parts = self._take_turns(sides, self._options.repeats, AGENTS)
            with self._fleet() as sides:
                return parts, self._take_turns(sides, self._options.other_repeats, COUNCIL)
        finally:
            self._direct.close()

    def _take_turns(self, sides: Sides, repeats: int, agents: int) -> Runs:
        for name, size in itertools.product(sides, self._sizes[:2]):
            if self._has_turn(name, 0, size):  # opens connections, loads what is loaded late
                self._run(sides, name, Work(size, next(self._numbers), agents))
        runs: Runs = defaultdict(list)
        for turn, size in itertools.product(range(repeats), self._sizes):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                if self._has_turn(name, turn, size):
                    runs[name, size].append(self._run(sides, name, Work(size, next(self._numbers), agents)))
        return runs

    def _has_turn(self, name: str, turn: int, size: int) -> bool:
        """Some are not worth the time of each round and size."""
        match name:
            case "http":
                return turn < int(self._options.other_repeats)
            case "heard":
                return size == _heard_at(self._sizes)
            case "width_1":
                return size == self._sizes[0]
        return True

    def _run(self, sides: Sides, name: str, work: Work) -> Run:
        run, cpu = sides[name]
        done = cpu.measured(partial(run, work))
        used = ", ".join(f"{who} {seconds:.1f}" for who, seconds in done.cpu_s.items())
        rate = f"{done.tokens:5} tokens in {done.wall_s:6.2f} s, {done.tokens_per_s:6.1f} a second"
        _say(f"{name:>13} {work.size:>3}: {rate}; CPU s: {used}; {done.notes or ''}")
        return done

    @contextmanager
    def _workers(self) -> Iterator[Sides]:
        """A GPU worker, and vLLM's own server with a worker in front of it, on one ValKey."""
        valkey, worker = ValkeyServer(self._folder / "valkey"), GpuWorker(self._folder / "worker.log")
        server = VllmServer(self._whole_engine_args(), self._folder / "http.log")
        options = ["-Q", "agents", "-P", "threads", "-c", str(self._slots)]
        agents = CeleryWorker("agents", "fleet", options, self._folder / "agents.log", {})
        with ExitStack() as stack:
            for process in (valkey, server, worker, agents):
                stack.callback(process.stop)
            _say("starting vLLM three times: on its own, in a GPU worker, as a server")
            valkey.start()
            on_gpu = self._given() | {"agent_queue": "gpu", "valkey_url": valkey.url}
            worker.env.update({**dict.fromkeys(NOT_FOR_GPU), **vllm.ENVIRONMENT, **vllm.variables_of(on_gpu)})
            start_all([worker, server], _say_ready)
            self._direct.await_ready()
            remote = self._given() | {"valkey_url": valkey.url, "engine_url": f"http://127.0.0.1:{server.port}/v1"}
            agents.env.update(vllm.variables_of(remote))
            agents.start()
            parts = Parts(Settings(**on_gpu), Cpu([worker.pid], [valkey.pid, here()]))
            others = Parts(Settings(**remote), Cpu([server.pid], [agents.pid, valkey.pid, here()]))
            stack.callback(parts.close)
            stack.callback(others.close)
            yield {
                "direct": (self._direct.run, self._direct.cpu),
                "worker": (parts.run, parts.cpu),
                "heard": (parts.heard, parts.cpu),
                "http": (others.run, others.cpu),
                "width_1": (lambda work: parts.one_at_a_time(work, AT_WIDTH_1), parts.cpu),
            }

    @contextmanager
    def _fleet(self) -> Iterator[Sides]:
        fleet = Fleet(self._folder / "fleet", "vllm", None)
        processes: list[Process] = [*fleet.workers, fleet.api]
        given = vllm.variables_of(self._given() | {"nats_enabled": False})
        _say("starting a whole fleet")
        with started(fleet, [fleet.valkey, fleet.neo4j], processes, **vllm.ENVIRONMENT, **given):
            [worker] = [one for one in processes if isinstance(one, GpuWorker)]
            rest = [one.pid for one in (fleet.valkey, fleet.neo4j, *processes) if one is not worker]
            whole = Deliberations(fleet, Cpu([worker.pid], [*rest, here()]))
            yield {"direct": (self._direct.run, self._direct.cpu), "deliberations": (whole.run, whole.cpu)}
            whole.close()

    def _given(self) -> dict[str, Any]:
        """Fleet's settings, the same for every process."""
        return {
            "gpu_model": self._model,
            "gpu_slots": self._slots,
            "gpu_engine_args": ENGINE_ARGS | self._options.engine_args,
            "profiles": {"DEV": {"max_tokens": self._options.tokens}},
            "proposal_chars": PROPOSAL_CHARS,
            "request_timeout_s": LIMIT_S,
        }

    def _whole_engine_args(self) -> dict[str, Any]:
        """Of an engine that is not in a GPU worker."""
        own = {"model": self._model, "served_model_name": self._model, "max_num_seqs": self._slots, **WORKERS_OWN}
        return own | ENGINE_ARGS | dict(self._options.engine_args)


def rows_of(parts: Runs, whole: Runs) -> list[dict[str, Any]]:
    """One row per number of requests at once; ratios are of medians."""
    sizes = sorted({size for _, size in parts})
    alone = _rate(parts["width_1", sizes[0]])
    rows = []
    for size in sizes:
        rates = {name: _rate(parts[name, size]) for name in WAYS}
        firsts = {name: median(first for run in parts[name, size] for first in run.first_ms) for name in WAYS}
        row: dict[str, Any] = {"at_once": size} | {f"{name}_tokens_s": rate for name, rate in rates.items()}
        row |= {"width_1_tokens_s": alone, "worker_ratio": rates["worker"] / rates["direct"]} | _spread(parts, size)
        row |= {"over_width_1": rates["worker"] / alone, "http_ratio": rates["http"] / rates["direct"]}
        row |= {f"{name}_first_ms": first for name, first in firsts.items()}
        row |= {"first_added_ms": firsts["worker"] - firsts["direct"]}
        row |= {"worker_asked_ms": median(asked for run in parts["worker", size] for asked in run.asked_ms)}
        row |= _deliberations(whole, size) | _cpu({**whole, **parts}, size)
        rows.append({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
    return rows


def streaming_of(parts: Runs) -> dict[str, Any]:
    """What it costs that somebody listens."""
    size = _heard_at(sorted({size for _, size in parts}))
    heard, unheard = parts["heard", size], parts["worker", size]
    ratios = [on.tokens_per_s / off.tokens_per_s for on, off in zip(heard, unheard, strict=True)]
    figures = {"on_tokens_s": _rate(heard), "off_tokens_s": _rate(unheard), "ratio": _rate(heard) / _rate(unheard)}
    figures |= {"ratio_least": min(ratios), "ratio_most": max(ratios)}
    messages = round(median(run.notes["messages"] for run in heard))
    return {"at_once": size, **{name: round(value, 3) for name, value in figures.items()}, "messages": messages}


def _heard_at(sizes: list[int]) -> int:
    return 32 if 32 in sizes else sizes[-1]


def _rate(runs: list[Run]) -> float:
    return median(run.tokens_per_s for run in runs)


def _spread(parts: Runs, size: int) -> dict[str, float]:
    """The lowest and the highest ratio of two runs that followed each other: what the machine makes of it."""
    pairs = zip(parts["worker", size], parts["direct", size], strict=True)
    ratios = [worker.tokens_per_s / direct.tokens_per_s for worker, direct in pairs]
    return {"worker_ratio_least": min(ratios), "worker_ratio_most": max(ratios)}


def _deliberations(whole: Runs, size: int) -> dict[str, float]:
    rate, direct = _rate(whole["deliberations", size]), _rate(whole["direct", size])
    per_s = median(sum(run.notes.values()) / run.wall_s for run in whole["deliberations", size])
    return {"deliberations_tokens_s": rate, "deliberations_ratio": rate / direct, "deliberations_s": per_s}


def _cpu(runs: Runs, size: int) -> dict[str, float]:
    """CPU seconds per 1,000 tokens, by way and by who used them."""
    return {
        f"{name}_{who}_cpu_s": median(run.cpu_s[who] / run.tokens * 1000 for run in runs[name, size])
        for name in (*WAYS, "deliberations")
        for who in WHO
    }


def tables(rows: list[dict[str, Any]], streaming: dict[str, Any]) -> Iterator[str]:
    """What people look at first."""
    groups = (
        ("tokens per second", "_tokens_s"),
        ("ratios: of worker, http and deliberations to direct, least and most of one round, over width 1", *_RATIOS),
        ("milliseconds from submission to the first token, and until the engine was asked, p50", "_ms"),
    )
    for title, *endings in groups:
        names = [name for name in rows[0] if name.endswith(tuple(endings))]
        part = [{name.removesuffix(endings[0]): row[name] for name in ("at_once", *names)} for row in rows]
        yield f"{title}:\n{_report.table(part)}\n"
    yield f"streaming, with somebody who listens (on) and with nobody (off):\n{_report.table([streaming])}\n"
    last = rows[-1]
    used = [{"way": way, **{who: last[f"{way}_{who}_cpu_s"] for who in WHO}} for way in (*WAYS, "deliberations")]
    yield f"CPU seconds per 1,000 tokens, {last['at_once']} at once:\n{_report.table(used)}\n"


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        met = {name: row[name] >= aim for name, aim in AT_LEAST.items() if row["at_once"] in (32, 64)}
        met |= {name: row[name] <= aim for name, aim in AT_MOST.items()}
        for name, is_met in met.items():
            aim = (AT_LEAST | AT_MOST)[name]
            yield f"{name} at {row['at_once']}: {row[name]:g}, aim {aim:g}: {'met' if is_met else 'MISSED'}"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _say_ready(process: Process, seconds: float) -> None:
    _say(f"{process.name} is ready after {seconds:.0f} s")


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_worker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"nargs": "+", "type": int, "default": [1, 8, 32, 64], "metavar": "N"}
    parser.add_argument("--sizes", **sizes, help="requests at once")  # type: ignore[arg-type]
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--other-repeats", type=int, default=3, help="rounds of http and of deliberations")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer, at least 16")
    parser.add_argument("--model", help="a name on the hub or a folder; unset for the small one")
    parser.add_argument(
        "--engine-args", type=json.loads, default={}, metavar="JSON", help="vLLM's, over the small one's"
    )
    parser.add_argument(
        "--quick", action="store_true", help="1 and 8 at once, two rounds, nothing written: to see that it works"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes, options.repeats, options.other_repeats = [1, 8], 2, 1
    return options


def main() -> None:
    options = _parsed(sys.argv[1:])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        parts, whole = Bench(options, Path(folder)).measure()
    rows, streaming = rows_of(parts, whole), streaming_of(parts)
    print(*tables(rows, streaming), sep="\n")
    print(*verdicts(rows), sep="\n")
    if options.quick:
        return
    more = vars(options) | {"agents": AGENTS, "council": COUNCIL, "streaming": streaming, "aims": AT_LEAST | AT_MOST}
    print(f"written to {_report.write('gpu_worker', rows, **more)} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
