"""python -m fleet.stack FOLDER ENGINE [PORT]: what `fleet up` does, for programs that want a fleet beside them."""

import sys
from pathlib import Path

from fleet.stack import up


def main(folder: str, engine: str, port: str = "") -> int:
    return up(Path(folder), engine, int(port) if port else None, lambda line: print(line, flush=True))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
