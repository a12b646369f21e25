"""The time of day may jump: nothing that is computed or resumed looks at it."""

import ast
import json
import os
import time
from pathlib import Path

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.inference.kept import CHECKPOINT
from pyro_vaes.inference.track import METRICS

from .subjects import different, left

OPTIONS = {"steps": 20, "batch_size": 7, "progress": False, "log_every": 1, "checkpoint_every": 4}
# Reading the clock that people set, or the times of files, which come from it.
OF_THE_DAY = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime", "st_mtime", "st_mtime_ns",
              "st_ctime", "getmtime", "getctime"}  # fmt: skip

# Hands the time of day to a tracker, which shows it; nothing is decided by it.
SHOWN = {Path(pv.__file__).parent / "inference" / "trackers.py"}


def make():
    torch.manual_seed(0)
    return pv.ic_vae(data_dim=8, latent_dim=2, hidden=(6,))


def seconds(folder):
    return [json.loads(line)["seconds"] for line in (folder / METRICS).read_text().splitlines()]


def test_a_clock_that_goes_backwards_changes_nothing(data, tmp_path, monkeypatch):
    pv.fit(make(), data, **OPTIONS, out=tmp_path / "whole")
    hour = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(hour)))
    monkeypatch.setattr(time, "time_ns", lambda: next(hour) * 10**9)

    def stop(step):
        if step == 11:
            os.kill(os.getpid(), 15)

    cut = tmp_path / "cut"
    pv.fit(make(), data, **OPTIONS, out=cut, on_step=stop)
    os.utime(cut / CHECKPOINT, (0, 0))  # older than what comes before it
    os.utime(cut / METRICS, (2**31, 2**31))
    pv.fit(make(), data, **OPTIONS, out=cut, resume=True)
    assert not different(left(tmp_path / "whole"), left(cut))
    assert seconds(cut) == sorted(seconds(cut)) and seconds(cut)[0] >= 0


def test_seconds_go_on_across_a_resume(data, tmp_path, monkeypatch):
    ticks = [100.0]

    def tick():
        ticks[0] += 1
        return ticks[0]

    monkeypatch.setattr("pyro_vaes.inference.track.time.monotonic", tick)

    def stop(step):
        if step == 11:
            os.kill(os.getpid(), 15)

    pv.fit(make(), data, **OPTIONS, out=tmp_path, on_step=stop)
    before = seconds(tmp_path)
    ticks[0] = 5.0  # another machine, or another start of this one
    pv.fit(make(), data, **OPTIONS, out=tmp_path, resume=True)
    after = seconds(tmp_path)
    assert after[:11] == before
    assert after[11] > before[-1] and after == sorted(after)


@pytest.mark.parametrize("value", ['"x"', "-5", "NaN", "Infinity", "null"])
def test_seconds_that_somebody_has_spoilt_are_left_out(value, data, tmp_path):
    pv.fit(make(), data, **{**OPTIONS, "steps": 4}, out=tmp_path)
    rows = (tmp_path / METRICS).read_text().splitlines()
    rows = [row[: row.index('"seconds"')] + f'"seconds": {value}}}' for row in rows]
    (tmp_path / METRICS).write_text("\n".join(rows) + "\n")
    assert pv.fit(make(), data, **{**OPTIONS, "steps": 4}, out=tmp_path, resume=True).step == 4


def test_no_part_of_the_library_reads_the_time_of_day():
    """Durations come from the monotonic clock, and no decision from the times of files."""
    for path in set(Path(pv.__file__).parent.rglob("*.py")) - SHOWN:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in OF_THE_DAY:
                home = node.value.id if isinstance(node.value, ast.Name) else ""
                assert not node.attr.startswith(("st_", "get")) and home not in ("time", "datetime", "date"), path
