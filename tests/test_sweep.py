"""Sweeps: the space, the rows that judge, pruning, and that a sweep cut off anywhere goes on as if it had not been."""

import json
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.commands.files import data_of
from pyro_vaes.data.held_out import split_rows
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.journal import Journal
from pyro_vaes.inference.space import Choices, Range, read_space
from pyro_vaes.inference.track import CHECKPOINT

pytest.importorskip("optuna")
SPACE = {"latent_dim": [1, 4], "lr": [1e-4, 1e-1, "log"], "hidden": {"choices": [[4], [5, 4]]}}
SHORT = {"steps": 3, "batch_size": 10, "engine": "eager", "progress": False}


def swept(x, out, space=SPACE, **options):
    return pv.sweep(pv.l2_vae, x, space, out=out, **{**SHORT, **options})


def table(found):
    """What a sweep came to, without what depends on the clock, and without trials that were lost."""
    rows = [row for row in found.trials if row["state"] != "lost"]
    return [(row["state"], row["value"], row["parameters"]) for row in rows]


@pytest.fixture
def x():
    return torch.rand(30, 8, generator=torch.Generator().manual_seed(2))


def test_a_space_is_read_by_the_signature():
    read = read_space({**SPACE, "steps": [100, 300], "beta": [0.5, 2]}, pv.l2_vae)
    assert read["latent_dim"] == Range(1, 4, whole=True) and read["lr"] == Range(1e-4, 1e-1, log=True)
    assert read["hidden"] == Choices(("[4]", "[5, 4]")) and read["steps"].whole and not read["beta"].whole


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space is {}: it must name arguments"), ([], "space is"),
        ({"latent": [1, 2]}, "unknown argument 'latent'.*did you"),
        ({"data_dim": [1, 2]}, "unknown argument 'data_dim'"), ({"latent_dim": [1.5, 2]}, "whole numbers"),
        ({"latent_dim": [4, 1]}, "low must be below high"), ({"latent_dim": [3, 3]}, "low must be below high"),
        ({"lr": [0, 1, "log"]}, "low must be above 0"), ({"lr": [0, 1, "ln"]}, r"it must be \[low, high\]"),
        ({"lr": [0.1, float("nan")]}, r"it must be \[low, high\]"), ({"lr": "log"}, r"it must be \[low, high\]"),
        ({"lr": [True, 2]}, r"it must be \[low, high\]"), ({"hidden": [1, 2]}, "hidden is no number"),
        ({"hidden": {"choices": []}}, "at least one"), ({"hidden": {"choice": [[4]]}}, "at least one"),
        ({"hidden": {"choices": [[4], [4]]}}, "one value twice"), ({"optimiser": [0, 1]}, "optimiser is no number"),
        ({"hidden": {"choices": [[4], [0]]}}, r"space: hidden = \[0\]"),
        ({"latent_dim": [0, 3]}, "space: latent_dim = 0"),
        ({"lr": [-1.0, 1.0]}, "space: lr = -1.0: lr is -1.0"), ({"batch_size": [0, 9]}, "batch_size is 0"),
        ({"optimiser": {"choices": ["adam", "adamm"]}}, "space: optimiser = 'adamm'"),
    ],
)  # fmt: skip
def test_a_bad_space_is_refused_before_any_work(space, message, x, tmp_path):
    with pytest.raises(pv.InputError, match=message):
        swept(x, tmp_path / "s", space)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"trials": 0}, "trials is 0"), ({"metric": "rsme"}, "unknown metric 'rsme'.*did you mean 'rmse'"),
     ({"metric": "rmse"}, "needs the clean data"), ({"held_out": 0.0}, "held_out is 0.0"),
     ({"held_out": 1.0}, "below 1"),
     ({"arguments": {"latent_dim": 3}}, "latent_dim is in the space, and given as well"),
     ({"arguments": {"laten_dim": 3}}, "laten_dim"), ({"tracker": "tensorbord"}, "unknown tracker"),
     ({"out": ""}, "out has no name"),
     ({"augment": "impulse:7"}, "a number in"), ({"engine": "fast"}, "engine"), ({"steps": 0}, "steps is 0"),
     ({"seed": -1}, "seed is -1")],
)  # fmt: skip
def test_bad_options_are_refused_before_any_work(options, message, x, tmp_path):
    with pytest.raises(pv.InputError, match=message):
        swept(x, **{"out": tmp_path / "s", **options})
    assert not (tmp_path / "s").exists()


def test_staged_pairs_and_bad_data_are_refused(x, tmp_path):
    with pytest.raises(pv.InputError, match="in stages"):
        pv.sweep(pv.two_stage_vae, x, {"latent_dim": [1, 2]}, out=tmp_path / "s", **SHORT)
    with pytest.raises(pv.InputError, match=r"\[0, 1\]"):
        swept(x + 7, tmp_path / "s")
    with pytest.raises(pv.InputError, match="x must be a tensor"):
        swept(x.numpy(), tmp_path / "s")
    with pytest.raises(pv.InputError, match="at least 2 rows"):
        swept(x[:1], tmp_path / "s")
    with pytest.raises(pv.InputError, match="cvae"):
        pv.sweep(pv.cvae, (x > 0.5).float(), {"latent_dim": [1, 2]}, out=tmp_path / "s", **SHORT)
    assert not (tmp_path / "s").exists()


def test_a_folder_with_another_sweep_or_other_files_is_refused(x, tmp_path):
    swept(x, tmp_path / "s", trials=1)
    for change, message in ({"space": {"latent_dim": [1, 3]}}, "space was"), ({"metric": "loss"}, "metric was"), (
        {"x": x * 0.5}, "data was"), ({"seed": 1}, "plan was"):  # fmt: skip
        with pytest.raises(pv.InputError, match=f"holds another sweep: its {message}"):
            swept(**{"x": x, "out": tmp_path / "s", "trials": 2, **change})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(pv.InputError, match="other files"):
        swept(x, tmp_path / "other")
    with pytest.raises(pv.InputError, match="is a file"):
        swept(x, tmp_path / "other" / "mine.txt")


def test_a_trial_is_the_fit_that_its_row_says_judged_by_rows_it_has_not_seen(x, tmp_path):
    """Looks at the held-out rows on the way change nothing; the table's value is that of the trained pair."""
    found = swept(x, tmp_path / "s", trials=1, steps=205)
    first, kept = split_rows(30, 0.2)
    assert len(first) == 24 and len(kept) == 6 and sorted([*first.tolist(), *kept.tolist()]) == list(range(30))
    for row in found.trials:
        own = {name: value for name, value in row["parameters"].items() if name != "lr"}
        torch.manual_seed(0)
        pair = pv.l2_vae(data_dim=8, **own)
        plan = {**SHORT, "steps": 205, "lr": row["parameters"]["lr"]}
        pv.fit(pair, x[first], out=tmp_path / f"again-{row['number']}", **plan)
        assert row["value"] == pv.bound(pair, x[kept])
        folder = tmp_path / "s" / f"trial-{row['number']:04d}"
        there, again = (checkpoint.load(f / CHECKPOINT) for f in (folder, tmp_path / f"again-{row['number']}"))
        assert there[1] == again[1] and there[0].keys() == again[0].keys()
        assert all(torch.equal(tensor, again[0][name]) for name, tensor in there[0].items())


def test_metrics(x, tmp_path):
    truth = x * 0.5
    _, kept = split_rows(30, 0.2)
    torch.manual_seed(0)
    pair = pv.l2_vae(data_dim=8, latent_dim=1, hidden=(4,))
    space = {"hidden": {"choices": [[4]]}}
    given = {"trials": 1, "arguments": {"latent_dim": 1}}
    first, _ = split_rows(30, 0.2)
    pv.fit(pair, x[first], **SHORT)
    loss = swept(x, tmp_path / "loss", space, metric="loss", **given).best["value"]
    rmse = swept(x, tmp_path / "rmse", space, metric="rmse", truth=truth, **given).best["value"]
    assert loss == pytest.approx(
        -pv.bound(pair, x[kept]), rel=1e-5
    )  # of this objective the loss is the bound's negative
    assert rmse == pytest.approx((pv.clean(pair, x[kept]).mean - truth[kept]).square().mean().sqrt().item(), rel=1e-5)


def test_the_same_seed_gives_the_same_sweep_and_more_trials_may_follow(x, tmp_path, capsys, recwarn):
    whole = swept(x, tmp_path / "a", trials=11)
    swept(x, tmp_path / "b", trials=4)
    assert table(swept(x, tmp_path / "b", trials=11)) == table(whole)
    assert whole.best["value"] == max(row["value"] for row in whole.trials)
    assert set(whole.importances) == set(SPACE) and sum(whole.importances.values()) == pytest.approx(1)
    written = json.loads((tmp_path / "a/trials.json").read_text())
    assert written["trials"] == whole.trials and written["best"] == whole.best["number"]
    assert capsys.readouterr() == ("", "") and not recwarn.list


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before", "first", "params"])
def test_a_trial_that_died_is_lost_and_proposed_again(moment, x, tmp_path, monkeypatch):
    """In this process: what is left of a killed one is a journal and a lock that is free."""
    whole = swept(x, tmp_path / "a", trials=4)
    calls = []

    def die(*given, **options):
        calls.append(0)
        if len(calls) == (6 if moment == "params" else 2):
            raise Killed
        return before(*given, **options)

    if moment == "params":  # while the parameters of a trial are drawn: three each
        place = "optuna.storages.JournalStorage.set_trial_param"
    else:
        place = {"before": "pyro_vaes.inference.sweep.fit", "first": "pyro_vaes.inference.sweep.Watch"}[moment]
    from importlib import import_module

    module, _, name = place.rpartition(".")
    holder = __import__("optuna").storages.JournalStorage if moment == "params" else import_module(module)
    before = getattr(holder, name)
    monkeypatch.setattr(holder, name, die)
    with pytest.raises(Killed):
        swept(x, tmp_path / "b", trials=4)
    monkeypatch.undo()
    found = swept(x, tmp_path / "b", trials=4)
    assert [row["state"] for row in found.trials].count("lost") == 1
    assert table(found) == table(whole)


def test_a_trial_that_is_at_work_is_left_alone(x, tmp_path):
    """Another process, whose lock is held, counts as one that will finish."""
    swept(x, tmp_path / "s", trials=1)
    read = read_space(SPACE, pv.l2_vae)
    other = Journal(tmp_path / "s", "maximize", {name: one.distribution() for name, one in read.items()}, 0)
    trial, lock = other.begin(9)
    found = swept(x, tmp_path / "s", trials=3)
    assert [row["state"] for row in found.trials] == ["complete", "running", "complete"]
    other.study.tell(trial, 1.5)
    lock.release()
    assert swept(x, tmp_path / "s", trials=3).best["number"] == trial.number


@pytest.mark.parametrize("tail", [b'{"op_code":4,"worker_id":"x', b"\x00\xff"])
def test_a_torn_last_line_is_cut_off(tail, x, tmp_path):
    swept(x, tmp_path / "s", trials=2)
    with open(tmp_path / "s/journal.jsonl", "ab") as file:
        file.write(tail)
    assert [row["state"] for row in swept(x, tmp_path / "s", trials=3).trials] == ["complete"] * 3


@pytest.mark.parametrize(
    "content", [b"not json\n", b"[]\n", b'{"op_code": 99}\n', b"\x80\x04\x95\n", b'{"op_code":0}\n']
)
def test_a_damaged_journal_is_one_line(content, x, tmp_path):
    swept(x, tmp_path / "s", trials=1)
    (tmp_path / "s/journal.jsonl").write_bytes(content * 2)
    with pytest.raises(pv.InputError, match=r"journal\.jsonl is damaged"):
        swept(x, tmp_path / "s", trials=2)


def test_trials_that_are_worse_are_pruned_and_their_run_can_go_on(x, tmp_path, monkeypatch):
    """From the sixth on: a trial is pruned if, and only if, it is below the median of the complete ones before it."""
    for module in ("fit", "sweep"):  # a block is 100 steps, and no trial is looked at within one
        monkeypatch.setattr(f"pyro_vaes.inference.{module}.BLOCK", 20)
    space, arguments = {"lr": [1e-5, 0.1, "log"]}, {"latent_dim": 1, "hidden": [4]}
    found = swept(x, tmp_path / "s", space, trials=10, steps=40, arguments=arguments)
    read = {name: one.distribution() for name, one in read_space(space, pv.l2_vae).items()}
    looks = [t.intermediate_values for t in Journal(tmp_path / "s", "maximize", read, 0).study.trials]
    assert all(list(look) == [20] for look in looks)
    for row in found.trials:
        before = [looks[r["number"]][20] for r in found.trials[: row["number"]] if r["state"] == "complete"]
        worse = len(before) >= 5 and looks[row["number"]][20] < statistics.median(before)
        assert row["state"] == ("pruned" if worse else "complete")
    pruned = [row for row in found.trials if row["state"] == "pruned"]
    assert pruned and pruned[0]["value"] is None and "median" in pruned[0]["why"]
    folder = tmp_path / "s" / f"trial-{pruned[0]['number']:04d}"
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 20  # it ended after the block that was looked at
    torch.manual_seed(0)
    pair = pv.l2_vae(data_dim=8, latent_dim=1, hidden=[4])
    plan = {**SHORT, "steps": 40, "lr": pruned[0]["parameters"]["lr"]}
    assert pv.fit(pair, x[split_rows(30, 0.2)[0]], out=folder, resume=True, **plan).step == 40


def test_a_trial_that_fails_counts_and_says_why(x, tmp_path):
    def fussy(data_dim, latent_dim=1, floor=0.1):
        if latent_dim == 2 and floor > 0.1:
            raise pv.InputError("latent_dim 2 needs a lower floor")
        return pv.l2_vae(data_dim, latent_dim, (4,))

    with pytest.raises(pv.InputError, match=r"space: floor = 0\.9: latent_dim 2 needs"):
        pv.sweep(fussy, x, {"latent_dim": {"choices": [2, 3]}, "floor": [0.1, 0.9]}, out=tmp_path / "s", **SHORT)

    def rare(data_dim, latent_dim=1):
        if latent_dim == 3:
            raise pv.InputError("never 3")
        return pv.l2_vae(data_dim, latent_dim, (4,))

    found = pv.sweep(rare, x, {"latent_dim": [2, 4]}, out=tmp_path / "r", trials=5, **SHORT)
    failed = [row for row in found.trials if row["state"] == "failed"]
    assert failed and all(
        row["parameters"] == {"latent_dim": 3} and row["why"] == "InputError: never 3" for row in failed
    )
    assert found.best["parameters"]["latent_dim"] != 3 and len(found.trials) == 5


CLI = ["--latent_dim", "2", "--hidden", "[6]", "--limit", "60", "--steps", "20", "--engine", "eager"]


def test_the_command_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.json").write_text('{"latent_dim": [1, 4], "lr": [0.001, 0.1, "log"]}')
    words = ["sweep", "t_vae", "--corrupt", "impulse:0.3", "--metric", "rmse", "--trials", "2", "--space", "space.json",
             "--out", "sweeps/a", *CLI]  # fmt: skip
    assert main(words) == 0
    out, err = capsys.readouterr()
    last = out.strip().splitlines()[-1]
    assert "best: trial " in out and last.startswith("to train it in full: pyro-vaes fit t_vae ")
    assert "[I " not in out + err and "Warning" not in out + err
    folder = tmp_path / "sweeps/a"
    assert {"trials.json", "history.png", "slices.png", "sweep.json", "trial-0000", "trial-0001"} <= {
        p.name for p in folder.iterdir()
    }
    best = json.loads((folder / "trials.json").read_text())
    row = best["trials"][best["best"]]
    run = pv.Run.open(folder / f"trial-{row['number']:04d}")
    assert run.config["arguments"]["latent_dim"] == row["parameters"]["latent_dim"]
    assert len(data_of(run)[1]) == 48  # the rows of the trial, without those held out
    assert main(["resume", str(run.path)]) == 0 and main(["evaluate", str(run.path)]) == 0
    assert main(words) == 0  # the same command: there is nothing left to do
    assert capsys.readouterr().out.strip().splitlines()[-1] == last
    assert main(shlex.split(last.partition("pyro-vaes ")[2])) == 0
    trained = pv.Run.open(folder / "best").config
    assert trained["plan"]["lr"] == row["parameters"]["lr"] and trained["arguments"] == run.config["arguments"]
    assert trained["data"]["corrupt"] == "impulse:0.3" and len(data_of(pv.Run.open(folder / "best"))[1]) == 60


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "a sweep needs a space"), (["--space", "nowhere.json"], "nowhere.json is not readable"),
     (["--space", "{latent"], "space is not readable"), (["--space", '{"latent_dims": [1, 2]}'], "unknown argument"),
     (["--space", '{"latent_dim": [1, 2]}', "--trials", "0"], "trials is 0"),
     (["--space", '{"latent_dim": [1, 2]}', "--metric", "rmse"], "give --corrupt"),
     (["--space", '{"latent_dim": [1, 2]}', "--track", "wand:b"], "unknown tracker")],
)  # fmt: skip
def test_the_command_refuses_in_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "t_vae", *CLI, *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_pages_of_a_condition_and_of_binary_data(tmp_path, monkeypatch, capsys):
    """A conditional pair is given its labels; data that are drawn anew are drawn once for the rows held out."""
    monkeypatch.chdir(tmp_path)
    space = ["--space", '{"latent_dim": [1, 3]}', "--trials", "1"]
    assert main(["sweep", "cvae", *CLI, *space, "--binarise", "dynamic", "--out", "c"]) == 0
    assert "--binarise=dynamic" in capsys.readouterr().out


PROGRAM = """
import sys, torch, pyro_vaes as pv
x = torch.rand(30, 8, generator=torch.Generator().manual_seed(2))
space = {"latent_dim": [1, 4], "lr": [1e-4, 1e-1, "log"], "hidden": {"choices": [[4], [5, 4]]}}
pv.sweep(pv.l2_vae, x, space, out=sys.argv[1], trials=int(sys.argv[2]), steps=300, batch_size=10, engine="eager",
         progress=False)
"""


def start(out, trials):
    return subprocess.Popen([sys.executable, "-W", "error", "-c", PROGRAM, str(out), str(trials)], env=os.environ)


@pytest.mark.slow
def test_killed_at_random_moments_it_comes_to_the_same(x, tmp_path):
    whole = pv.sweep(pv.l2_vae, x, SPACE, out=tmp_path / "a", trials=8, **{**SHORT, "steps": 300})
    draw, kills, journal = random.Random(0), 0, tmp_path / "b/journal.jsonl"
    for _ in range(40):
        before = journal.stat().st_size if journal.exists() else 0
        process = start(tmp_path / "b", 8)
        # Imports take seconds, and how many depends on the machine: from where it begins to write.
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > before):
            time.sleep(0.02)
        try:
            process.wait(draw.uniform(0.0, 4.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0
        break
    found = pv.sweep(pv.l2_vae, x, SPACE, out=tmp_path / "b", trials=8, **{**SHORT, "steps": 300})
    print(f"{kills} kills, {[row['state'] for row in found.trials].count('lost')} trials lost")
    assert kills >= 3 and table(found) == table(whole)


@pytest.mark.slow
def test_two_processes_share_one_sweep(x, tmp_path):
    both = [start(tmp_path / "s", 9) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    found = pv.sweep(pv.l2_vae, x, SPACE, out=tmp_path / "s", trials=9, **{**SHORT, "steps": 300})
    assert [row["number"] for row in found.trials] == list(range(9))
    assert all(row["state"] in ("complete", "pruned") for row in found.trials)


@pytest.mark.slow
def test_sigterm_ends_a_sweep_and_the_same_command_goes_on(tmp_path):
    words = ["sweep", "t_vae", "--space", '{"latent_dim": [1, 4]}', "--trials", "3", "--out", str(tmp_path / "s"), *CLI]
    words[words.index("--steps") + 1] = "500"
    process = subprocess.Popen([sys.executable, "-m", "pyro_vaes.cli", *words], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "s/trial-0000/metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on" in out
    assert main(words) == 0
    rows = json.loads((tmp_path / "s/trials.json").read_text())["trials"]
    assert [row["state"] for row in rows].count("lost") == 1
    assert sum(row["state"] in ("complete", "pruned") for row in rows) == 3


def test_a_sweep_over_rows_that_are_not_in_memory_is_refused(tmp_path):
    from ranks_cases import Torn

    with pytest.raises(pv.InputError, match="a sweep takes rows in memory, a tensor"):
        pv.sweep(pv.l2_vae, Torn(), {"latent_dim": [1, 3]}, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
