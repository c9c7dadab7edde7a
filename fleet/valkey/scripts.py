"""The Lua scripts beside this file, called by EVALSHA; a server that lost them gets them again."""

from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


@cache
def source(name: str) -> str:
    """The text of a script, with what all of them share in front.

    A full server (noeviction) opens no new chord, but the ones that it has may end.
    """
    flags = "" if name == "open" else "#!lua flags=allow-oom\n"
    return flags + (_FOLDER / "_common.lua").read_text() + (_FOLDER / f"{name}.lua").read_text()


class Scripts:
    """Each script as a callable `(keys=[…], args=[…])` bound to one redis-py client."""

    def __init__(self, client: Any):
        self.open = client.register_script(source("open"))
        self.resize = client.register_script(source("resize"))
        self.report = client.register_script(source("report"))
        self.take = client.register_script(source("take"))
        self.claim = client.register_script(source("claim"))
        self.renew = client.register_script(source("renew"))
        self.release = client.register_script(source("release"))
        self.complete = client.register_script(source("complete"))
        self.move = client.register_script(source("move"))
