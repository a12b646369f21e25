"""Ask the tests of every mutant, one process each, and keep what they said as they go."""

import contextlib
import gc
import json
import os
import random
import select
import shutil
import signal
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from tqdm import tqdm

import pyro_vaes as pv

from . import seen
from .child import Watch, forked, limited
from .install import Unfit, install
from .mutant import Mutant
from .operators import NOTHING, OPERATORS, Operators, mutants
from .room import ROOMS, ROOT, room_of

KEPT = ROOT / "build" / "mutants" / "results.jsonl"
# Where programs and objectives are tested. The command line, experiments and pages are about other things.
ASKED = (
    "objectives", "contract", "arguments", "programs", "closed_forms", "gradients", "importance", "exact_sites",
    "recycling", "wae", "mmd", "adversarial", "vae_gan", "classifier_gan", "two_stage", "semi_supervised", "annealed",
    "denoised", "masked", "empirical", "proposition1", "ambiguities", "jeffreys", "priors", "flows", "deep",
    "channel", "conditional", "linear", "identifiability", "discriminator", "pair", "condition", "hostile_programs",
    "hostile_variants", "hostile_channel", "hostile_generation", "outliers", "tabular", "impute", "likelihood",
    "target", "training_options", "posterior", "gaps", "fit", "compile",
)  # fmt: skip


# Written for all programs at once, they see most; the others earn their place by what they catch.
FIRST = ("test_arguments.py::", "test_programs.py::", "hand_formula")


@dataclass(frozen=True)
class Plan:
    """What to run: files, how many, how long the tests of one mutant may take (s of CPU, as they took unmutated)."""

    only: tuple[str, ...] = ()
    sample: int | None = None
    seed: int = 0
    jobs: int = 1
    budget: float = 20.0
    again: bool = False
    measure: bool = False
    nothing: bool = False


def asked_files() -> list[str]:
    doctests = [str(p.relative_to(ROOT)) for paths in ROOMS.values() for p in paths]
    return [f"tests/test_{name}.py" for name in ASKED] + doctests


def all_mutants(only: tuple[str, ...] = (), operators: Operators = OPERATORS) -> list[Mutant]:
    paths = [p for room in ROOMS.values() for p in room if not only or any(o in str(p) for o in only)]
    return [m for path in paths for m in mutants(path, operators=operators)]


def sampled(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Some, evenly over files and operators; a larger sample goes on where a smaller one ended."""
    groups: dict[tuple[str, str], list[Mutant]] = defaultdict(list)
    for mutant in found:
        groups[mutant.file, mutant.operator].append(mutant)
    rng = random.Random(seed)
    for group in groups.values():
        rng.shuffle(group)
    rounds, order = max(map(len, groups.values()), default=0), list(groups.values())
    rng.shuffle(order)
    picked = [group[i] for i in range(rounds) for group in order if i < len(group)]
    return picked[:count]


def results(path: Path = KEPT) -> dict[str, dict[str, Any]]:
    """What was found before, by the mutant's key; the last word counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["key"]: found for found in map(json.loads, lines)}


class Run:
    """A plugin that takes the place of pytest's own loop: the tests are collected, and asked of many mutants."""

    def __init__(self, plan: Plan, out: Path = KEPT):
        self.plan, self.out, self.found = plan, out, results(out)
        self.kills: Counter[tuple[str, str]] = Counter()
        for row in self.found.values():
            self._credit(row)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {i.nodeid: i for i in session.items if not ("inductor" in i.name or "compiled" in i.name)}
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        warm()
        self._measure()
        if not self.plan.measure:
            self._know()
            self._ask()
        return True

    def _measure(self) -> None:
        files: dict[Path, list[pytest.Item]] = defaultdict(list)
        for item in self.items.values():
            files[item.path].append(item)
        stale = [path for path in files if seen.stale(path)]
        for path in tqdm(stale, desc="who runs what", unit="file", disable=len(stale) < 2):
            pid, read = forked(lambda path=path: seen.measure(path, files[path]), 3600)
            found = heard(pid, read, 7200)
            if found:
                raise RuntimeError(f"{path.name}: {found}")

    def _know(self) -> None:
        """Put together who runs what."""
        self.cpu: dict[str, float] = {}
        self.runners: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for path in {item.path for item in self.items.values()}:
            known = seen.kept(path)
            if known is None:
                continue
            self.cpu |= {t: v["cpu"] for t, v in known["tests"].items() if v["outcome"] == "passed" and t in self.items}
            for file, by_test in known["lines"].items():
                for test, lines in by_test.items():
                    for line in lines if test in self.cpu else ():
                        self.runners[file][line].add(test)

    def order(self, mutant: Mutant) -> tuple[list[str], int]:
        """Which tests are asked, in which order, and how many there are: those that run the line, quick ones first.

        The cheapest of every test function comes before the second cheapest of any, and what has caught mutants before,
        most of all those of this file, comes first.
        """
        lines = self.runners[mutant.file]
        covering = set().union(*(lines[n] for n in range(mutant.lines[0], mutant.lines[1] + 1) if n in lines))
        if mutant.constant:
            covering = set().union(*lines.values())
        turns: dict[str, int] = Counter()
        ranked = []
        for test in sorted(covering, key=lambda t: self.cpu[t]):
            name = test.split("[")[0]
            first = any(f in name for f in FIRST)
            good = 10 * self.kills[mutant.file, name] + self.kills["", name] + 50 * first
            ranked.append((-good if turns[name] < (8 if first else 3) else 0, turns[name], self.cpu[test], test))
            turns[name] += 1
        chosen, spent = [], 0.0
        for *_, cost, test in sorted(ranked):
            if spent + cost <= self.plan.budget or not chosen:
                chosen.append(test)
                spent += cost
        return chosen, len(covering)

    def todo(self) -> list[Mutant]:
        found = all_mutants(self.plan.only, NOTHING if self.plan.nothing else OPERATORS)
        if self.plan.sample is not None:
            found = sampled(found, self.plan.sample, self.plan.seed)
        old = {"survived", "unseen", "broken"} if self.plan.again else set()
        return [m for m in found if m.key not in self.found or self.found[m.key]["outcome"] in old]

    def _ask(self) -> None:
        waiting, active = list(reversed(self.todo())), {}
        counts = Counter(found["outcome"] for found in self.found.values())
        with tqdm(total=len(waiting), desc="mutants", unit="mutant", mininterval=2.0) as bar:
            while waiting or active:
                while waiting and len(active) < self.plan.jobs:
                    mutant = waiting.pop()
                    tests, covering = self.order(mutant)
                    pid, read = forked(lambda m=mutant, t=tests: self._one(m, t), 4 * self.plan.budget + 60)
                    active[read] = (mutant, pid, covering, time.time())
                ready, _, _ = select.select(list(active), [], [], 5.0)
                late = [fd for fd in active if time.time() - active[fd][3] > 20 * self.plan.budget + 300]
                for fd in {*ready, *late}:
                    mutant, pid, covering, _ = active.pop(fd)
                    found = heard(pid, fd, 60) or {"outcome": "timeout", "said": "the process was ended"}
                    self._keep(mutant, found | {"covering": covering})
                    counts[found["outcome"]] += 1
                    bar.update()
                    bar.set_postfix_str(", ".join(f"{n} {word}" for word, n in counts.items()))

    def _one(self, mutant: Mutant, tests: list[str]) -> dict[str, Any]:
        try:
            install(mutant)
        except Unfit as error:
            return {"outcome": "unfit", "said": str(error), "asked": 0}
        watch, start = Watch(), time.process_time()
        for asked, test in enumerate(tests, 1):
            outcome = limited(self.items[test], max(5.0, 10 * self.cpu[test]), watch)
            if outcome in ("failed", "slow"):
                word = "caught" if outcome == "failed" else "timeout"
                cpu = round(time.process_time() - start, 2)
                return {"outcome": word, "test": test, "said": watch.said, "asked": asked, "cpu": cpu}
        cpu = round(time.process_time() - start, 2)
        return {"outcome": "survived" if tests else "unseen", "asked": len(tests), "cpu": cpu}

    def _credit(self, row: dict[str, Any]) -> None:
        if row["outcome"] == "caught":
            name = row["test"].split("[")[0]
            self.kills.update([(row["file"], name), ("", name)])

    def _keep(self, mutant: Mutant, found: dict[str, Any]) -> None:
        if found["outcome"] == "caught" and mutant.operator == "forget" and "required positional" in found["said"]:
            found["outcome"] = "unfit"  # an argument that has no default cannot be forgotten
        row = {"key": mutant.key, "room": room_of(mutant.path), "file": mutant.file, "line": mutant.line}
        row |= {"operator": mutant.operator, "before": mutant.before, "after": mutant.after, **found}
        self.found[mutant.key] = row
        self._credit(row)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def warm() -> None:
    """Do once what every process would do for itself: imports at first use, and the memory that they share."""
    pair, x = pv.t_vae(4, 2, (3,)), torch.rand(3, 4)
    pair(x).total.backward()
    torch.testing.assert_close(x, x)
    with contextlib.suppress(AssertionError):
        torch.testing.assert_close(x, x + 1)
    pyro.clear_param_store()
    gc.collect()
    gc.freeze()


def heard(pid: int, read: int, seconds: float) -> dict[str, Any] | None:
    """What a process wrote before it ended; None if it wrote nothing."""
    end, text = time.time() + seconds, b""
    with os.fdopen(read, "rb", buffering=0) as file:
        while select.select([file], [], [], max(0.0, end - time.time()))[0]:
            part = file.read(65536)
            if not part:
                break
            text += part
    for stop in (os.killpg, os.kill):  # whatever it has started ends with it
        with contextlib.suppress(ProcessLookupError):
            stop(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return json.loads(text) if text else None


def asked(plan: Plan, files: list[str] | None = None, out: Path = KEPT) -> Run:
    """Collect the tests once, and run the plan."""
    run = Run(plan, out)
    # Of its own: pytest clears the folders of its older runs, and a test that finds none would seem to catch a mutant.
    base = Path(tempfile.mkdtemp(prefix="mutants-"))
    arguments = ["-qq", f"--basetemp={base}", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--doctest-modules"]
    arguments += ["-o", "tmp_path_retention_policy=none"]
    try:
        code = pytest.main([*arguments, *(files or asked_files())], plugins=[run])
    finally:
        shutil.rmtree(base, ignore_errors=True)
    if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with {code!r}")
    return run
