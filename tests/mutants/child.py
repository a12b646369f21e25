"""What happens in a process of its own: one test within a time limit, or all tests that a mutant is asked."""

import contextlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Slow(Exception):
    """A test has used up its time."""


class Watch:
    """A plugin that remembers how the last test ended."""

    def __init__(self):
        self.outcome, self.said = "passed", ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
        """A failure in a line: pytest's own report, with the source of every frame, takes longer than most tests."""
        if call.excinfo is None or call.excinfo.errisinstance((pytest.skip.Exception, pytest.xfail.Exception)):
            return None
        self.said = call.excinfo.exconly().strip().splitlines()[0][:200]
        return pytest.TestReport(item.nodeid, item.location, {}, "failed", self.said, call.when or "call")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcome = "failed"
        elif report.skipped and self.outcome == "passed":
            self.outcome = "skipped"


def limited(item: pytest.Item, seconds: float, watch: Watch | None = None) -> str:
    """Run one test: passed, failed, skipped or slow."""
    watch = Watch() if watch is None else watch
    watch.outcome, watch.said = "passed", ""
    item.config.pluginmanager.unregister(name="terminalreporter")  # it would write beside the progress bar
    item.config.pluginmanager.register(watch, "watch")
    raised = []

    def stop(*_: Any) -> None:
        raised.append(True)
        signal.setitimer(signal.ITIMER_PROF, 1.0)  # again, where somebody caught it
        raise Slow(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with contextlib.suppress(Slow):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        item.config.pluginmanager.unregister(watch)
    return "slow" if raised else watch.outcome


@contextlib.contextmanager
def silent() -> Iterator[None]:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    yield


def forked(work: Callable[[], Any], most: float) -> tuple[int, int]:
    """Start a process that does something and writes what came of it as JSON: its pid, and where to read."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    try:
        os.close(read)
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(most), int(most) + 5))
        with silent():
            found = work()
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        found = {"outcome": "broken", "said": f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"}
    # Nothing of the first process may run on in this one, even where nobody listens any more.
    with contextlib.suppress(OSError), os.fdopen(write, "w") as out:
        json.dump(found, out)
    os._exit(0)
