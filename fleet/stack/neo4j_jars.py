"""Fetches the jars of Neo4j's community server into Fleet's cache.

`neo4j.lock` names each jar with its SHA-256, so every machine gets the same files, and without first resolving their
dependencies. To make it anew for another version: `python -m fleet.stack.neo4j_jars VERSION > neo4j.lock`.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import requests
import urllib3
from jgo.constants import MAVEN_CENTRAL_URL

from fleet.stack.errors import FetchFailed

LOCK = Path(__file__).with_name("neo4j.lock")
THREADS = 8


class Jar(NamedTuple):
    """group, artifact, version and classifier (or "") of a jar, and its SHA-256."""

    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str

    @property
    def file_name(self) -> str:
        return "-".join(filter(None, (self.artifact, self.version, self.classifier))) + ".jar"

    @property
    def path(self) -> str:
        """Where a Maven repository keeps it."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file_name}"


def read_lock() -> list[Jar]:
    lines = (line.split() for line in LOCK.read_text().splitlines() if not line.startswith("#"))
    return [Jar(*(*coordinates.split(":"), sha256)) for coordinates, sha256 in lines]


def folder() -> Path:
    """Where the jars are once fetched, one folder for one content of the lock file."""
    cache = os.environ.get("FLEET_CACHE_DIR") or "~/.cache/fleet"
    content = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    return Path(cache).expanduser().absolute() / f"neo4j-{content}"


def is_fetched() -> bool:
    return folder().is_dir()


def fetch(on_progress: Callable[[str], None] = lambda _: None) -> Path:
    """Returns the folder with the jars, fetched first if need be; safe to call from many processes at once.

    Raises: FetchFailed. A fetch that was cut off leaves nothing that a later one would take for whole.
    """
    target = folder()
    if target.is_dir():
        return target
    with _only_one(target):
        if not target.is_dir():
            _fetch_into(target, on_progress)
    return target


def _fetch_into(target: Path, on_progress: Callable[[str], None]) -> None:
    jars = read_lock()
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with _session() as session, ThreadPoolExecutor(THREADS) as pool:
        fetches = [pool.submit(_fetch_one, session, jar, partial) for jar in jars]
        try:
            for done, fetch in enumerate(fetches, 1):
                fetch.result()
                if done % 40 == 0 or done == len(jars):
                    on_progress(f"neo4j: {done} of {len(jars)} files fetched")
        except BaseException:  # Ctrl-C too: what was not begun must not keep the exit waiting
            pool.shutdown(cancel_futures=True)
            raise
    partial.rename(target)


def _session() -> requests.Session:
    session = requests.Session()
    retry = urllib3.Retry(5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=THREADS, max_retries=retry))
    return session


def _fetch_one(session: requests.Session, jar: Jar, into: Path) -> None:
    try:
        response = session.get(f"{MAVEN_CENTRAL_URL}/{jar.path}", timeout=60)
        response.raise_for_status()
    except requests.RequestException as error:
        raise FetchFailed(f"Neo4j cannot be fetched: {jar.file_name}: {error}") from error
    if hashlib.sha256(response.content).hexdigest() != jar.sha256:
        raise FetchFailed(f"Neo4j cannot be fetched: {jar.file_name} is not the file that {LOCK.name} names")
    (into / jar.file_name).write_bytes(response.content)


@contextlib.contextmanager
def _only_one(target: Path) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_lock(version: str) -> Iterator[str]:
    """Yields the lines of a lock file for Neo4j `version`."""
    import jgo  # slow to import

    yield f"# org.neo4j:neo4j:{version} and what it depends on: group:artifact:version:classifier sha256"
    artifacts = sorted(jgo.resolve(f"org.neo4j:neo4j:{version}"), key=lambda artifact: artifact.filename)
    for one in artifacts:
        digest = hashlib.sha256(one.resolve().read_bytes()).hexdigest()
        yield f"{one.groupId}:{one.artifactId}:{one.version}:{one.classifier} {digest}"


if __name__ == "__main__":
    for line in make_lock(sys.argv[1]):
        print(line, flush=True)
