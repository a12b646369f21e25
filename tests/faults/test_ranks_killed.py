"""One of two ranks is killed: the other stops within a bounded time and says why, and the run goes on bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .harness import ROOT, ended
from .subjects import different, left, litter, step_of

pytest.importorskip("lightning_fabric")
# Seconds that a rank waits for another, at the start too, which takes long on a busy machine.
TIMEOUT = 240
FIT = [
    *("fit", "ic_vae", "--limit", "80", "--steps", "400", "--checkpoint_every", "20", "--batch_size", "10"),
    *("--latent_dim", "2", "--hidden", "[6]", "--engine", "eager", "--devices", "2", "--timeout", str(TIMEOUT)),
]


def start(arguments, log):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pyro_vaes.cli", *arguments],
            cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def ranks_of(process):
    """The second rank, which the first has started: the process of its session that is not the first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == process.pid and int(path.parent.name) != process.pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for(true, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not true():
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for the second rank in /proc")
def test_a_killed_rank_ends_the_other_and_the_run_goes_on(tmp_path):
    whole, out, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    assert ended(start([*FIT, "--out", str(whole)], log), 600) == 0, log.read_text()[-3000:]
    resume, spent = [*FIT, "--out", str(out)], []
    for victim, after in ((1, 60), (0, 180)):
        process = start(resume, log)
        wait_for(lambda process=process, after=after: process.poll() is not None or (step_of(out) or 0) >= after, 300)
        assert process.poll() is None, log.read_text()[-3000:]
        (second,) = ranks_of(process)
        os.kill(second if victim else process.pid, signal.SIGKILL)
        began = time.monotonic()
        code = ended(process, TIMEOUT + 30)
        wait_for(lambda process=process: not ranks_of(process), TIMEOUT + 30)
        spent.append(time.monotonic() - began)
        assert not ranks_of(process), "a rank is left behind"
        if victim:
            said = [line for line in log.read_text().splitlines() if "pyro-vaes:" in line]
            assert code == 1, log.read_text()[-3000:]
            assert len(said) == 1 and "another rank has gone" in said[0]
        resume = ["fit", "--resume", str(out), "--timeout", str(TIMEOUT)]
    # The connection breaks at once: nobody waits for the timeout.
    assert max(spent) < 60, spent
    assert ended(start(resume, log), 600) == 0, log.read_text()[-3000:]
    assert not different(left(whole), left(out)) and not litter(out)
