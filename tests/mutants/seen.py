"""Which test runs which line of the files whose mutants are made, and how long it takes: measured once per test file.

A test that takes more than a few seconds is not asked of each mutant. What was measured is kept under
build/mutants/seen, and measured anew where a test file, or a file it is about, has changed.
"""

import hashlib
import json
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from .child import limited
from .room import ROOMS, ROOT

KEPT = ROOT / "build" / "mutants" / "seen"
LONGEST = 2.5  # s of CPU
TARGETS = [path for paths in ROOMS.values() for path in paths]


def place(test_file: Path) -> Path:
    return KEPT / f"{'.'.join(test_file.relative_to(ROOT).with_suffix('').parts)}.json"


def kept(test_file: Path) -> dict[str, Any] | None:
    path = place(test_file)
    return json.loads(path.read_text()) if path.exists() else None


def stamp(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def stale(test_file: Path) -> bool:
    """Whether a test file, or one it was seen to run, has changed since."""
    known = kept(test_file)
    return known is None or any(stamp(ROOT / file) != was for file, was in known["stamps"].items())


def measure(test_file: Path, items: list[pytest.Item]) -> None:
    """Run the tests of a file under coverage, in a process of its own, and keep who ran what."""
    import coverage

    cover = coverage.Coverage(data_file=None, include=[str(p) for p in TARGETS], config_file=False)
    tests = {}
    cover.start()
    for item in items:
        cover.switch_context(item.nodeid)
        start = time.process_time()
        outcome = limited(item, LONGEST)
        cover.switch_context("")
        tests[item.nodeid] = {"cpu": round(time.process_time() - start, 4), "outcome": outcome}
    cover.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", coverage.exceptions.CoverageWarning)  # tests of pages run none of these lines
        data = cover.get_data()
    lines: dict[str, dict[str, list[int]]] = {}
    for path in TARGETS:
        by_test: dict[str, list[int]] = defaultdict(list)
        for line, contexts in data.contexts_by_lineno(str(path)).items():
            for context in contexts:
                if tests.get(context, {}).get("outcome") == "passed":
                    by_test[context].append(line)
        if by_test:
            lines[str(path.relative_to(ROOT))] = {t: sorted(found) for t, found in by_test.items()}
    stamps = {file: stamp(ROOT / file) for file in [str(test_file.relative_to(ROOT)), *lines]}
    KEPT.mkdir(parents=True, exist_ok=True)
    part = place(test_file).with_suffix(".part")
    part.write_text(json.dumps({"stamps": stamps, "tests": tests, "lines": lines}))
    part.replace(place(test_file))
