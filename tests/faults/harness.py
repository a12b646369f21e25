"""Kill real training processes, resume them, and compare what they come to with a run that nobody disturbed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .child import MOMENTS
from .subjects import SUBJECTS, Subject, different, left, litter, step_of

ROOT = Path(__file__).parent.parent.parent
CHILD = Path(__file__).with_name("child.py")
# SLURM's KillWait: seconds from SIGTERM to SIGKILL.
GRACE = 30
# The largest COUNT of a moment that is drawn: a run has some tens of steps between two saves.
COUNTS = {"config": 1, "before a step": 110, "after a step": 110, "write": 3, "rename": 3, "link": 3, "saved": 3,
          "metrics": 8, "finish": 1, "gather": 1, "figure": 2}  # fmt: skip
EVERYWHERE = ["before a step", "after a step", "write", "rename", "link", "saved", "metrics"]


@dataclass
class Tally:
    """What was done, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    signals: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    runs: list[dict[str, object]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    @property
    def survived(self) -> int:
        return sum(int(str(run["kills"])) for run in self.runs if run["equal"])


def start(arguments: list[str], log: Path, planted: tuple[str, int] | None = None) -> subprocess.Popen[bytes]:
    """Start the command line in a session of its own, with a kill planted or without."""
    head = ["-m", "pyro_vaes.cli"] if planted is None else [str(CHILD), planted[0], str(planted[1])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, *head, *arguments],
            cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def ended(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for a process; one that hangs is ended, and that is a failure."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return 10_000


class Harness:
    """Disturb runs of the subjects in turn until there were ``kills`` kills, or until a time.

    Args:
        kills: to be done. seed: of their moments. until: on the monotonic clock; from then on nothing is killed.
        say: is given a line per event.
    """

    def __init__(self, kills: int, seed: int, until: float, say: Callable[[str], None], subjects: list[Subject]):
        self.asked, self.random, self.until, self.say, self.subjects = kills, random.Random(seed), until, say, subjects
        self.tally = Tally()
        self.whole: dict[str, tuple[dict[str, object], float]] = {}

    def run(self) -> Tally:
        with tempfile.TemporaryDirectory() as folder:
            turn = 0
            while self.more():
                subject = self.subjects[turn % len(self.subjects)]
                self.disturb(subject, Path(folder), turn)
                turn += 1
        return self.tally

    def more(self) -> bool:
        return self.tally.kills.total() < self.asked and time.monotonic() < self.until

    def undisturbed(self, subject: Subject, folder: Path) -> tuple[dict[str, object], float]:
        if subject.name not in self.whole:
            out, log = folder / f"whole-{len(self.whole)}", folder / "log"
            began = time.monotonic()
            code = ended(start(subject.command(out), log), 900)
            if code:
                raise RuntimeError(f"{subject.name} cannot be run ({code}): {log.read_text()[-2000:]}")
            self.whole[subject.name] = left(out), time.monotonic() - began
        return self.whole[subject.name]

    def disturb(self, subject: Subject, folder: Path, turn: int) -> None:
        """One run: started, killed, resumed and killed again until it is through."""
        expected, seconds = self.undisturbed(subject, folder)
        out, log, kills, begun = folder / f"run-{turn}", folder / "log", 0, False
        share = -(-self.asked // len(self.subjects))
        for _ in range(100):
            arguments = self.arguments(subject, out, begun, log)
            begun = True
            if self.more() and kills < share:
                kind, code = self.attack(subject, out, arguments, log, seconds)
            else:
                kind, code = "", ended(start(arguments, log), 900)
            if code == -signal.SIGKILL:
                kills += 1
                self.tally.kills[kind] += 1
                self.say(f"{subject.name}: killed {kind}; newest checkpoint: step {step_of(out)}")
            elif code in (143, -signal.SIGTERM):
                self.say(f"{subject.name}: {kind}, exit code {code}; newest checkpoint: step {step_of(out)}")
            elif code == 0:
                break
            else:
                self.tally.bad.append(f"{subject.name}: exit code {code} after {kind}: {log.read_text()[-600:]}")
                break
        wrong = different(expected, left(out)) + litter(out)
        self.tally.runs.append({"subject": subject.name, "kills": kills, "equal": not wrong})
        self.say(f"{subject.name}: {kills} kills, {'equal bit for bit' if not wrong else f'DIFFERENT: {wrong}'}")
        if wrong:
            self.tally.bad.append(f"{subject.name}: different or left behind: {wrong}")

    def arguments(self, subject: Subject, out: Path, begun: bool, log: Path) -> list[str]:
        """Resume, or start again where the run was killed before it had a config; then resume must say so."""
        if not begun:
            return subject.command(out)
        if (out / "config.json").is_file() or (out / "replica-0" / "config.json").is_file():
            return ["fit", "--resume", str(out)]
        code = ended(start(["fit", "--resume", str(out)], log), 300)
        text = log.read_text().strip()
        if code != 2 or len(text.splitlines()) != 1:
            self.tally.bad.append(f"{subject.name}: resume without a config, exit code {code}: {text[-600:]}")
        return subject.command(out)

    def attack(self, subject: Subject, out: Path, arguments: list[str], log: Path, seconds: float) -> tuple[str, int]:
        """Start a process and end it at a random moment; give the kind of moment and the exit code."""
        drawn = self.random.random()
        if drawn < 0.2:
            return self.at_some_time(out, arguments, log, seconds)
        if drawn < 0.3:
            return self.by_scheduler(arguments, log, seconds)
        first = [] if arguments[1] == "--resume" else ["config", "config"]
        # What comes at the end is drawn again and again until the run has come there.
        moment = self.random.choice(EVERYWHERE + first + [*subject.own, "figure"])
        count = self.random.randint(1, COUNTS[moment])
        code = ended(start(arguments, log, (moment, count)), 900)
        return MOMENTS[moment], code

    def at_some_time(self, out: Path, arguments: list[str], log: Path, seconds: float) -> tuple[str, int]:
        before = set(litter(out))
        process = start(arguments, log)
        if self.random.random() < 0.7:  # half of a small run is its start; these wait until that is over
            self.wait_for(lambda: process.poll() is not None or _busy(out, process.pid), 120)
        code = self.after_a_while(process, signal.SIGKILL, seconds / 2)
        return f"at some time: {_where(out, process.pid, before)}", code

    def by_scheduler(self, arguments: list[str], log: Path, seconds: float) -> tuple[str, int]:
        """SIGTERM to the whole group, sometimes twice, and SIGKILL after the grace period, as SLURM does it."""
        process = start(arguments, log)
        time.sleep(self.random.uniform(0, seconds))
        twice = self.random.random() < 0.3
        if process.poll() is not None:
            return "", process.returncode
        began = time.monotonic()
        for _ in range(1 + twice):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.2 if twice else 0)
        code = ended(process, GRACE)
        spent = time.monotonic() - began
        kind = "SIGTERM twice" if twice else "SIGTERM"
        if code == 10_000:
            self.tally.bad.append(f"not ended {GRACE} s after SIGTERM: {log.read_text()[-600:]}")
        elif code:
            self.tally.signals[f"{kind}, {'before it could be taken' if code == -signal.SIGTERM else 'exit 143'}"] += 1
            self.tally.longest = max(self.tally.longest, spent)
        return kind, code

    def after_a_while(self, process: subprocess.Popen[bytes], number: int, most: float) -> int:
        end = time.monotonic() + self.random.uniform(0, most)
        self.wait_for(lambda: process.poll() is not None, end - time.monotonic())
        if process.poll() is None:
            process.send_signal(number)
        return ended(process, 60)

    @staticmethod
    def wait_for(true: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not true():
            time.sleep(0.003)


def _holds(out: Path, process: int) -> list[Path]:
    """The folders that a process has locked; a lock file may be what an earlier one has left."""
    locks = []
    for path in out.rglob(".lock"):
        with contextlib.suppress(OSError):
            if path.read_text().split()[:1] == [str(process)]:
                locks.append(path.parent)
    return locks


def _busy(out: Path, process: int) -> bool:
    """Whether training itself has begun: the process holds a folder in which metrics are written."""
    return any((folder / "metrics.jsonl").exists() for folder in _holds(out, process))


def _where(out: Path, process: int, before: set[str]) -> str:
    """What a killed process was about, from what it left, and had not found there."""
    if not list(out.rglob("config.json")):
        return "before there was a config"
    if any(".checkpoint" in name for name in set(litter(out)) - before):
        return "in the middle of a save"
    if _holds(out, process):
        return "while it held the folder"
    return "before it held the folder, or after"


__all__ = ["SUBJECTS", "Harness", "Tally"]
