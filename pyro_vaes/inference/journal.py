"""The memory of a sweep: Optuna's study in a file of JSON lines, and who is at work on which trial."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pyro_vaes.errors import InputError, first_line

FILE, RUNNING, LOCK = "journal.jsonl", ".running", ".lock"
# Trials before any is pruned: the median of fewer says little.
STARTUP = 5


class FileLock:
    """One process at a time; the system lets go of it with the process, however that ended.

    Optuna's own locks are files, which a killed process leaves behind for the others to wait for.
    """

    def __init__(self, path: Path):
        self.path = path
        self.file: Any = None

    def acquire(self, wait: bool = True) -> bool:
        try:
            import fcntl
        except ImportError:
            raise InputError("sweeps need file locks, which this system has not: use Linux or macOS") from None

        self.file = open(self.path, "ab")  # noqa: SIM115 (closed in release)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.release()
            return False
        return True

    def release(self) -> None:
        self.file.close()

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna tells a sweep's user nothing: neither log lines nor what of it is experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class Journal:
    """The trials of one sweep, shared by all processes that work on its folder.

    A proposal is a function of the seed, of how many trials began before it, and of what is known of those: the
    sampler is seeded anew for each. So one process that is killed and started again proposes what it would have.

    A process holds a lock for the trial that it runs. A trial that runs in the journal, and whose lock is free, is
    lost: it is marked failed, its parameters are proposed again, and it does not count.

    Args:
        out: the folder. best: ``maximize`` or ``minimize``. distributions: Optuna's, by parameter. seed: of proposals.

    Raises:
        InputError: if the journal is damaged.
    """

    def __init__(self, out: Path, best: Literal["maximize", "minimize"], distributions: Mapping[str, Any], seed: int):
        import optuna
        from optuna.storages.journal import JournalFileBackend

        self.out, self.distributions, self.seed = out, dict(distributions), seed
        self.states, self.lock = optuna.trial.TrialState, FileLock(out / LOCK)
        (out / RUNNING).mkdir(exist_ok=True)
        path = out / FILE
        # Another lock than that of the trials, within which the journal is written.
        writing: Any = FileLock(out / ".journal.lock")
        try:
            with writing:
                _mend(path)
            # This storage reads JSON only; pickle is for storages that keep snapshots (Redis).
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=writing))
            pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
            with self.lock:
                self.study = optuna.create_study(
                    study_name="sweep", storage=storage, direction=best, load_if_exists=True, pruner=pruner
                )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
            raise InputError(f"{path} is damaged: {first_line(error)}") from None

    def begin(self, trials: int) -> tuple[Any, FileLock] | None:
        """Take up the next trial, or None where as many have begun; the lock is to be released after it."""
        from numpy.random import SeedSequence
        from optuna.samplers import TPESampler

        with self.lock:
            self._reap()
            begun = sum(t.state != self.states.WAITING for t in self.known())
            if begun >= trials:
                return None
            seed = int(SeedSequence([self.seed, begun]).generate_state(1)[0])
            self.study.sampler = TPESampler(seed=seed)
            trial = self.study.ask(self.distributions)
            mine = self._lock_of(trial.number)
            mine.acquire()
            return trial, mine

    def known(self) -> list[Any]:
        """All trials but the lost ones."""
        lost = self.lost()
        return [t for t in self.study.get_trials(deepcopy=False) if t.number not in lost]

    def lost(self) -> set[int]:
        return set(self.study.user_attrs.get("lost", []))

    def _lock_of(self, number: int) -> FileLock:
        return FileLock(self.out / RUNNING / f"{number:04d}")

    def _reap(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            lock = self._lock_of(trial.number)
            if not lock.acquire(wait=False):
                continue
            # In this order: whatever is cut off here is done again, and nothing is counted twice.
            self.study.set_user_attr("lost", sorted({*self.lost(), trial.number}))
            self.study.tell(trial.number, state=self.states.FAIL)
            given = trial.system_attrs.get("fixed_params", trial.params)
            if set(given) == set(self.distributions):
                self.study.enqueue_trial(given)
            lock.release()


def _mend(path: Path) -> None:
    """Cut off a last line that was not written whole: what would be appended to it could not be read."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
