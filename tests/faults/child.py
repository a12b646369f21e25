"""The command line with a kill planted at one moment: child.py MOMENT COUNT ARGUMENTS.

The process sends SIGKILL to itself when it comes to the moment for the COUNT-th time. From outside the moments that
last a fraction of a millisecond would be hit by luck alone.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOMENTS = {
    "config": "while config.json is written",
    "before a step": "before the step is taken",
    "after a step": "after the step, before it is counted",
    "write": "half of the checkpoint written",
    "rename": "checkpoint written, not yet renamed",
    "link": "the old checkpoint has two names",
    "saved": "just saved",
    "metrics": "half a line of metrics.jsonl written",
    "finish": "after the objective's finish, before it is saved",
    "gather": "stages done, their files not yet put together",
    "figure": "while a figure is written",
}


class Killer:
    def __init__(self, count: int):
        self.left = count

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def plant(moment: str, killer: Killer) -> None:
    from pyro_vaes.commands import files
    from pyro_vaes.inference import checkpoint, fit, kept, loop, stages, track

    if moment in ("config", "write", "figure"):
        ending = {"config": "config.json", "write": kept.CHECKPOINT, "figure": ".png"}[moment]
        whole = checkpoint.write_atomically

        def half(path: str | Path, content: bytes, *rest: Any) -> None:
            if Path(path).name.endswith(ending) and killer.due():
                Path(path).with_name(f".{Path(path).name}.abcdefgh").write_bytes(content[: len(content) // 2])
                die()
            whole(path, content, *rest)

        checkpoint.write_atomically = half
        assert files  # figures look the function up when they are written
    elif moment == "rename":
        before(os, "replace", lambda _, to: Path(to).name == kept.CHECKPOINT and killer.due())
    elif moment == "link":
        before(os, "replace", lambda _, to: Path(to).name == kept.PREVIOUS and killer.due())
    elif moment == "saved":
        after(kept, "save", killer.due)
    elif moment == "before a step":
        before(loop.Loop, "_step", lambda *_: killer.due())
    elif moment == "after a step":
        after(loop.Loop, "_step", killer.due)
    elif moment == "finish":
        after(fit, "finish", killer.due)
    elif moment == "gather":
        before(stages, "_gather", lambda *_: killer.due())
    elif moment == "metrics":
        write = track.Track._write

        def part(self: track.Track, line: bytes) -> None:
            if killer.due():
                write(self, line[: len(line) // 2])
                die()
            write(self, line)

        track.Track._write = part  # type: ignore[method-assign]
    else:
        raise SystemExit(f"no moment {moment!r}: there are {', '.join(MOMENTS)}")


def before(home: Any, name: str, due: Callable[..., bool]) -> None:
    whole = getattr(home, name)

    def patched(*given: Any) -> Any:
        if due(*given):
            die()
        return whole(*given)

    setattr(home, name, patched)


def after(home: Any, name: str, due: Callable[[], bool]) -> None:
    whole = getattr(home, name)

    def patched(*given: Any) -> Any:
        found = whole(*given)
        if due():
            die()
        return found

    setattr(home, name, patched)


if __name__ == "__main__":
    from pyro_vaes.cli import main

    plant(sys.argv[1], Killer(int(sys.argv[2])))
    sys.exit(main(sys.argv[3:]))
