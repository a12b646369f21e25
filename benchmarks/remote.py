"""A peer in another process, which waits for its turn."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress

from benchmarks.peers import Absent


class Remote:
    """A process that answers "go N" with a line of JSON: ``seconds`` per step, and those of ``compile`` before."""

    def __init__(self, command: Sequence[str], env: dict[str, str] | None = None):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close())
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **(env or {})},
        )

    def first(self) -> float:
        """Seconds of compilation and of the first step, without those of starting Python and reading data."""
        answer = self._ask(1)
        return answer["compile"] + answer["seconds"]

    def run(self, steps: int) -> float:
        return self._ask(steps)["seconds"]

    def _ask(self, steps: int) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(f"go {steps}", file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Absent(f"its process ended: {self._last_error()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.errors.close()

    def _last_error(self) -> str:
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()]
        return lines[-1][:200] if lines else "it said nothing"


def require(*modules: str) -> None:
    """Raise :class:`~benchmarks.peers.Absent` unless the packages are there."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise Absent(f"not installed: {', '.join(missing)}")
