"""Programs that packages install."""

import sys
import sysconfig
from pathlib import Path

from fleet.stack.errors import StackError


def script(name: str) -> Path:
    """Returns a program that a package put beside this Python, whatever PATH says.

    Raises: StackError when it is not installed.
    """
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).is_file():
            return folder / name
    raise StackError(f"{name} is not installed beside {sys.executable}: install fleet[stack]")
