"""What all experiments share: cells that are kept, results that cannot lack one, verdicts that can fail."""

import json
import math

import pytest

from pyro_vaes.errors import InputError
from pyro_vaes.experiments import cells as module
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.verdicts import interval, share_verdict, untested, verdict, verdict_rows

SETTINGS = [("a", 1), ("a", 2), ("b", 1)]


def square(name, n):
    return {"name": name, "square": n * n}


def in_turn(cell, settings, *, done, **_):
    """side_by_side in this process."""
    for setting in settings:
        done(setting, cell(*setting))


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(module, "side_by_side", in_turn)


def run(cells, cell=square, settings=SETTINGS, **options):
    return compute(cell, settings, cells, desc="squares", steps=lambda _: 1, **options)


def test_every_cell_is_computed_once_and_kept(tmp_path, alone):
    calls = []

    def counting(*setting):
        calls.append(setting)
        return square(*setting)

    for _ in range(2):
        found = run(Cells(tmp_path / "cells", {"steps": 1}), counting)
        assert found == {setting: square(*setting) for setting in SETTINGS}
    assert calls == SETTINGS


def test_an_interrupted_experiment_goes_on_with_what_it_lacks(tmp_path, alone):
    def stops(name, n):
        if name == "b":
            raise KeyboardInterrupt
        return square(name, n)

    with pytest.raises(KeyboardInterrupt):
        run(Cells(tmp_path / "cells", {}), stops)
    computed = []
    run(Cells(tmp_path / "cells", {}), lambda *s: computed.append(s) or square(*s))
    assert computed == [("b", 1)]


def test_a_damaged_cell_is_computed_again(tmp_path, alone):
    cells = Cells(tmp_path / "cells", {})
    run(cells)
    victim = next(cells.folder.glob("a-1*.json"))
    victim.write_text(victim.read_text()[:20])
    computed = []
    run(cells, lambda *s: computed.append(s) or square(*s))
    assert computed == [("a", 1)]


def test_cells_of_another_protocol_are_refused(tmp_path):
    Cells(tmp_path / "cells", {"steps": 1}).keep((1,), 2, 0.0)
    Cells(tmp_path / "cells", {"steps": 1})
    with pytest.raises(InputError, match="other protocol"):
        Cells(tmp_path / "cells", {"steps": 2})


def test_no_result_without_every_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "side_by_side", lambda cell, settings, *, done, **_: in_turn(cell, settings[1:], done=done)
    )
    with pytest.raises(InputError, match=r"1 of 3 cells have no result, the first is \('a', 1\)"):
        run(Cells(tmp_path / "cells", {}))


def test_a_cell_that_is_not_finite_is_refused(tmp_path, alone):
    with pytest.raises(InputError, match="finite value"):
        run(Cells(tmp_path / "cells", {}), lambda name, n: math.nan)


def test_two_settings_never_share_a_file(tmp_path):
    cells = Cells(tmp_path / "cells", {})
    cells.keep(("a/b", 1), 1, seconds=1.0)
    cells.keep(("a_b", 1), 2, seconds=2.5)
    assert cells.kept([("a/b", 1), ("a_b", 1)]) == {("a/b", 1): 1, ("a_b", 1): 2}
    assert cells.seconds() == 3.5


def test_on_a_gpu_cells_of_a_group_are_computed_together(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_gpu", lambda: True)
    groups = []

    def together(members):
        groups.append(list(members))
        return [square(*member) for member in members]

    cells = Cells(tmp_path / "cells", {})
    cells.keep(("a", 2), square("a", 2), seconds=0.0)
    found = run(cells, cell=None, together=together)
    assert found == {setting: square(*setting) for setting in SETTINGS}
    assert groups == [[("a", 1)], [("b", 1)]]


@pytest.mark.slow
def test_processes_side_by_side_report_as_they_finish(tmp_path):
    found = run(Cells(tmp_path / "cells", {}))
    assert found == {setting: square(*setting) for setting in SETTINGS}
    assert json.loads((tmp_path / "cells/protocol.json").read_text())["protocol"] == {}


def test_cells_of_no_known_protocol_are_refused(tmp_path):
    cells = Cells(tmp_path / "cells", {"steps": 1})
    cells.keep(("a", 0), 1, seconds=1.0)
    (cells.folder / "protocol.json").unlink()
    del cells
    with pytest.raises(InputError, match="other protocol"):
        Cells(tmp_path / "cells", {"steps": 1})


def test_cells_of_other_data_are_refused(tmp_path):
    Cells(tmp_path / "cells", {}, tmp_path / "here").keep((1,), 2, 0.0)
    Cells(tmp_path / "cells", {}, tmp_path / "here")
    with pytest.raises(InputError, match="other root"):
        Cells(tmp_path / "cells", {}, tmp_path / "there")


def test_one_run_at_a_time(tmp_path):
    first = Cells(tmp_path / "cells", {})
    with pytest.raises(InputError, match="another run uses"):
        Cells(tmp_path / "cells", {})
    del first
    Cells(tmp_path / "cells", {})


def test_what_is_discarded_and_what_stays(tmp_path):
    cells = Cells(tmp_path / "cells", {})
    cells.keep(("a", 0), 1, seconds=1.0)
    cells.discard()
    assert not cells.folder.exists()
    cells = Cells(tmp_path / "others", {})
    (cells.folder / "notes.txt").touch()
    (cells.folder / "odd.json").write_text("5")
    assert cells.seconds() == 0
    cells.discard()
    assert [path.name for path in cells.folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("value", [{1, 2}, object(), math.inf, [math.nan]])
def test_only_plain_finite_values_are_kept(tmp_path, value):
    with pytest.raises(InputError, match=r"cell \('a',\)"):
        Cells(tmp_path / "cells", {}).keep(("a",), value, seconds=0.0)


def fails_or_waits(i):
    import time

    if i == 0:
        time.sleep(1)
        raise ValueError("the first cell fails")
    time.sleep(0.3)
    return i


@pytest.mark.slow
def test_a_cell_that_fails_stops_the_rest_and_loses_nothing():
    from pyro_vaes.experiments.training import side_by_side

    told = {}
    with pytest.raises(ValueError, match="the first cell fails"):
        side_by_side(fails_or_waits, [(i,) for i in range(40)], desc="cells", steps=0, done=told.__setitem__)
    assert 0 < len(told) < 30
    assert told == {(i,): i for (i,) in told}


def ends_its_process(i):
    import os

    os._exit(9)


def test_a_process_that_is_killed_is_named(tmp_path):
    from pyro_vaes.experiments.training import side_by_side

    with pytest.raises(InputError, match="killed from outside"):
        side_by_side(ends_its_process, [(0,)], desc="cells", steps=0)


def test_results_hold_no_nan(tmp_path):
    from pyro_vaes.experiments.record import record

    with pytest.raises(ValueError, match="not JSON compliant"):
        record(tmp_path, "bad", "quick", {"mse": math.nan}, {})


def test_interval_by_hand():
    # Mean 4, sd 2, n = 4; t_3 at 97.5 % is 3.182446.
    mean, low, high = interval([2.0, 4.0, 4.0, 6.0])
    half = 3.182446 * math.sqrt(8 / 3) / 2
    assert (mean, low, high) == pytest.approx((4.0, 4 - half, 4 + half), rel=1e-6)
    for bad in ([1.0], [1.0, math.nan], []):
        with pytest.raises(InputError, match="two finite values"):
            interval(bad)


def test_verdicts_can_fail():
    assert verdict("c", "s", [0.1, 0.11, 0.09])["verdict"] == "held"
    assert verdict("c", "s", [-0.1, -0.11, -0.09])["verdict"] == "did not hold"
    assert verdict("c", "s", [0.1, -0.09, 0.02])["verdict"] == "did not hold"
    assert verdict("c", "s", [0.0, 0.0])["verdict"] == "did not hold"
    rows = verdict_rows({"verdicts": [verdict("c", "s", [0.1, 0.3]), untested("d", "s", "why")]})
    assert rows[0][2:] == ["did not hold", "+0.2 (-1.07 to +1.47), 2 seeds"]
    assert rows[1] == ["d", "s", "not tested", "why"]


def test_a_share_is_judged_by_its_exact_interval():
    """n of n: the lower end is 0.025^(1/n), by hand; the interval of Student has no width there."""
    found = share_verdict("c", "s", [True] * 40, 0.95)
    assert found["gain"] == pytest.approx(0.05) and found["verdict"] == "did not hold"
    assert found["interval"] == pytest.approx([0.025 ** (1 / 40) - 0.95, 0.05], rel=1e-6)
    assert verdict("c", "s", [0.05] * 40)["verdict"] == "held"
    assert share_verdict("c", "s", [True] * 100, 0.95)["verdict"] == "held"


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Killed, it cannot tell them; they must not go on alone."""
    import os
    import signal
    import subprocess
    import sys
    import time

    code = """
        import sys, os, torch
        from pathlib import Path
        from pyro_vaes.experiments import training
        def cell(i, folder):
            Path(folder, str(os.getpid())).touch()
            training.trained("l2_vae", torch.rand(50, 4), arguments={"hidden": (3,)}, steps=10**7)
        if __name__ == "__main__":
            training.side_by_side(cell, [(0, sys.argv[1])], desc="long", steps=10**7)
    """
    script = tmp_path / "long.py"
    script.write_text("\n".join(line[8:] for line in code.splitlines()))
    folder = tmp_path / "pids"
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(folder)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(folder.iterdir()) and time.monotonic() < until:
        time.sleep(0.1)
    (worker,) = (int(path.name) for path in folder.iterdir())
    time.sleep(1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while time.monotonic() < until:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker goes on")
