"""The commands, end to end, and what they say to bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.inference import checkpoint

SMALL = ["--hidden", "[12]", "--latent_dim", "3", "--steps", "30", "--limit", "120"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small trained t_vae on dirty digits."""
    folder = tmp_path_factory.mktemp("runs") / "t"
    assert main(["fit", "t_vae", "--corrupt", "impulse:0.3", "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys):
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert err.startswith("pyro-vaes: ")
    assert "Traceback" not in err + out
    return err


def test_a_run_holds_everything(run):
    names = {p.name for p in run.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "checkpoint.safetensors", "training.png", "cleaned.png"}
    config = json.loads((run / "config.json").read_text())
    assert config["target"] == "t_vae"
    assert config["arguments"] == {
        "latent_dim": 3, "hidden": [12], "beta": 1.0, "minimum": 1e-3, "real": False,
    }  # fmt: skip
    assert config["data"]["corrupt"] == "impulse:0.3"
    assert config["versions"]["torch"] == torch.__version__.split("+")[0] or config["versions"]["torch"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 30
    assert sum(rows[-1]["terms"].values()) == pytest.approx(rows[-1]["loss"], rel=1e-4)


def test_clean_writes_everything(run, here, capsys):
    assert main(["clean", str(run), "digits", "out.npz", "--draws", "3"]) == 0
    found = np.load("out.npz")
    assert set(found) == {"mean", "sd", "score", "probability", "mask"}
    assert all(found[name].shape == (1797, 8, 8) for name in found)
    expected = pv.clean(pv.Run.open(run).pair(), pv.load("digits").x, draws=3)
    assert np.allclose(found["mean"].reshape(1797, -1), expected.mean.numpy())
    assert (here / "out.npz.png").exists()
    assert "1797 data cleaned" in capsys.readouterr().out


def test_clean_a_file_of_ones_own(run, here):
    np.save("mine.npy", np.random.default_rng(0).random((5, 8, 8), dtype=np.float32))
    assert main(["clean", str(run), "mine.npy", "clean.npy"]) == 0
    assert np.load("clean.npy").shape == (5, 8, 8)


def test_detect_with_and_without_labels(run, here, capsys):
    assert main(["detect", str(run), "digits", "--output", "found.csv", "--inlier", "4"]) == 0
    out = capsys.readouterr().out
    assert "F1 against the label 4" in out
    lines = (here / "found.csv").read_text().splitlines()
    assert lines[0] == "row,score,outlier"
    assert len(lines) == 1798
    assert main(["detect", str(run), "digits", "--neighbourhood", "[1,3]"]) == 0
    assert "of the neighbourhoods [1, 3] that is so for" in capsys.readouterr().out
    assert main(["detect", str(run), "digits"]) == 0
    assert "F1" not in capsys.readouterr().out


def test_sample_and_evaluate(run, here, capsys):
    assert main(["sample", str(run), "--output", "s.npy", "--draws", "5"]) == 0
    assert np.load("s.npy").shape == (5, 8, 8)
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    for line in ("bound (nats per datum)", "mse of the cleaned data", "outlier entries: AUC", "ordinary residual"):
        assert line in out
    assert json.loads((run / "evaluation.json").read_text())["active units"] >= 0


def test_evaluate_with_the_likelihood(run, here, capsys):
    """Both estimators, with their errors, and parts that sum to the bound; the plain command tells nothing of it."""
    assert main(["evaluate", str(run), "--likelihood", "60", "--ais", "4", "--rows", "20"]) == 0
    out = capsys.readouterr().out
    found = json.loads((run / "evaluation.json").read_text())
    x = pv.corrupt(pv.load("digits", limit=120).x, "impulse:0.3", shape=(8, 8), seed=0).x[:20]
    expected = pv.log_likelihood(pv.Run.open(run).pair(), x, samples=60)
    assert found["log p(x) (nats per datum)"] == pytest.approx(expected.mean)
    assert found["log p(x): share of k-hat above 0.7"] == expected.unreliable
    assert found["annealed log p(x): Monte-Carlo standard error"] > 0
    parts = [found[f"KL: {part}"] for part in ("information of codes about their data",
                                               "aggregated posterior from the prior")]  # fmt: skip
    assert sum(parts) == pytest.approx(found["KL (nats per datum)"])
    assert f"log p(x) (nats per datum): {expected.mean:.4f} +- {expected.mean_se:.4f}" in out
    assert main(["evaluate", str(run)]) == 0
    assert "log p(x)" not in capsys.readouterr().out + (run / "evaluation.json").read_text()


def test_evaluate_on_another_split(run, capsys):
    before = (run / "evaluation.json").read_bytes() if (run / "evaluation.json").exists() else None
    assert main(["evaluate", str(run), "--split", "test"]) == 2
    assert "digits has no split 'test'" in capsys.readouterr().err
    assert before == ((run / "evaluation.json").read_bytes() if (run / "evaluation.json").exists() else None)


def test_a_variant_without_a_density_is_evaluated_all_the_same(here, capsys):
    assert main(["fit", "ic_vae", "--out", "ic", *SMALL]) == 0
    assert main(["evaluate", "ic", "--likelihood", "20"]) == 0
    out = capsys.readouterr().out
    assert "ic_vae has no normalised density" in out
    assert "ordinary residual" in out and "wrote" in out
    assert "no normalised density" in json.loads((here / "ic/evaluation.json").read_text())["log p(x)"]


def test_fit_without_a_target_trains_the_variant_that_tunes_itself(here):
    assert main(["fit", "--steps", "2", "--hidden", "[5]"]) == 0
    assert json.loads((here / "runs/t_vae/config.json").read_text())["target"] == "t_vae"


def test_variants_and_describe(capsys):
    assert main(["variants"]) == 0
    assert set(pv.VARIANTS) <= set(capsys.readouterr().out.split())
    assert main(["describe", "ric_vae", "--passes", "4"]) == 0
    assert "Recycled(ELBO(beta=0.25), passes=4)" in capsys.readouterr().out


MINE = """
import pyro, torch
import pyro.distributions as dist
from pyro.nn import PyroModule
import pyro_vaes as pv
from pyro_vaes.plates import data_plate
class Model(PyroModule):
    def __init__(self, d, k):
        super().__init__()
        self.k, self.decoder = k, torch.nn.Linear(k, d)
    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.k), 1.0).to_event(1))
            return pyro.sample("x", dist.Laplace(self.decoder(z), 0.1).to_event(1), obs=x)
def my_pair(data_dim: int, latent_dim: int = 2):
    guide = pv.l2_vae(data_dim, latent_dim, (5,)).guide
    return pv.Pair(Model(data_dim, latent_dim), guide, name="mine")
def no_pair(data_dim: int):
    return 3
"""


def test_a_pair_in_ones_own_file_works_everywhere(here, capsys):
    (here / "mine.py").write_text(MINE)
    assert main(["fit", "mine.py:my_pair", "--latent_dim", "4", "--steps", "5", "--out", "r"]) == 0
    assert main(["clean", "r", "digits", "o.npz"]) == 0
    assert main(["sample", "r"]) == 0
    assert main(["evaluate", "r"]) == 0
    assert main(["describe", "mine.py:my_pair"]) == 0
    assert "Laplace" in capsys.readouterr().out


@pytest.mark.slow
def test_interrupt_and_resume_as_a_process(here):
    command = [sys.executable, "-m", "pyro_vaes", "fit", "l2_vae", "--hidden", "[8]", "--limit", "100"]
    plan = ["--steps", "20000", "--checkpoint_every", "7", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    cut = subprocess.Popen([*command, *plan, "cut"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not (here / "cut/checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    cut.send_signal(signal.SIGTERM)
    out, _ = cut.communicate(timeout=60)
    assert cut.returncode == 128 + signal.SIGTERM
    assert b"fit --resume cut" in out
    step = checkpoint.load(here / "cut/checkpoint.safetensors")[1]["step"]
    assert 0 < step < 20000
    # The rest of the run would be long: that it goes on bit for bit is tested in test_fit.
    again = subprocess.Popen(
        [sys.executable, "-m", "pyro_vaes", "fit", "--resume", "cut"], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    before = (here / "cut/checkpoint.safetensors").stat().st_mtime_ns
    while (here / "cut/checkpoint.safetensors").stat().st_mtime_ns == before and time.monotonic() < deadline + 60:
        time.sleep(0.05)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert again.returncode == 128 + signal.SIGINT
    assert checkpoint.load(here / "cut/checkpoint.safetensors")[1]["step"] > step


def test_resume_of_a_finished_run_changes_nothing(run, capsys):
    before = (run / "checkpoint.safetensors").read_bytes()
    assert main(["fit", "t_vae", "--out", str(run), "--resume"]) == 0
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_warm_start_from_a_run(here, capsys):
    arguments = ["--hidden", "[6]", "--latent_dim", "2", "--steps", "3"]
    assert main(["fit", "ic_vae", *arguments, "--out", "ic"]) == 0
    assert main(["fit", "ric_vae", *arguments, "--start", "ic", "--out", "ric"]) == 0
    assert main(["fit", "t_vae", *arguments, "--start", "ic", "--out", "t"]) == 2
    assert "t_vae needs" in capsys.readouterr().err


def test_bernoulli_needs_binary_data(here, capsys):
    assert main(["fit", "vae", "--steps", "2", "--out", "v"]) == 2
    assert "binarise" in said(capsys)
    assert not (here / "v").exists()
    assert main(["fit", "vae", "--steps", "2", "--hidden", "[5]", "--binarise", "0.5", "--out", "v"]) == 0
    assert main(["clean", "v", "digits", "v.npz"]) == 0


def prepare(here, run):
    """Files that go wrong in many ways."""
    good = np.random.default_rng(0).random((4, 64))
    np.save("good.npy", good)
    bad = good.copy()
    bad[2, 7] = np.nan
    np.save("nan.npy", bad)
    np.save("wide.npy", np.random.default_rng(0).random((4, 65)))
    np.save("large.npy", good * 300)
    np.save("empty.npy", good[:0])
    np.save("objects.npy", np.array([{}, 3], dtype=object), allow_pickle=True)
    (here / "cut.npz").write_bytes(b"PK\x03\x04 not a zip")
    (here / "words.csv").write_text("a,b\n1,x\n")
    (here / "folder").mkdir()
    (here / "broken").mkdir()
    for name in ("config.json", "checkpoint.safetensors", "metrics.jsonl"):
        (here / "broken" / name).write_bytes((run / name).read_bytes()[:50])
    (here / "no_checkpoint").mkdir()
    (here / "no_checkpoint/config.json").write_text((run / "config.json").read_text())
    (here / "hostile").mkdir()
    (here / "hostile/config.json").write_text((run / "config.json").read_text())
    (here / "hostile/checkpoint.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    (here / "mine.py").write_text(MINE)
    (here / "syntax.py").write_text("def f(:\n")
    (here / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (here / "raises.py").write_text("def f(data_dim: int):\n    raise RuntimeError('one\\ntwo')\n")
    (here / "clash.py").write_text("def f(data_dim: int, steps: int = 5):\n    return None\n")
    (here / "full").mkdir()
    (here / "full/metrics.jsonl").write_text("mine")
    os.mkfifo(here / "fifo.npy")
    config = json.loads((run / "config.json").read_text())
    for name, change in EDITS.items():
        (here / name).mkdir()
        edited = json.loads(json.dumps(config))
        change(edited)
        (here / name / "config.json").write_text(json.dumps(edited))
        (here / name / "checkpoint.safetensors").write_bytes((run / "checkpoint.safetensors").read_bytes())


EDITS = {
    "no_plan": lambda c: c.pop("plan"),
    "plan_list": lambda c: c.update(plan=[]),
    "lr_text": lambda c: c["plan"].update(lr="x"),
    "hidden_5": lambda c: c["arguments"].update(hidden=5),
    "argument": lambda c: c["arguments"].update(nothing=5),
    "target_5": lambda c: c.update(target=5),
    "source_5": lambda c: c["data"].update(source=5),
    "limit_text": lambda c: c["data"].update(limit="x"),
    "shape_7": lambda c: c.update(shape=[7]),
    "other_steps": lambda c: c["plan"].update(steps=31),
}


CASES = {
    "fit t_vea": "did you mean 't_vae'",
    "fit --latnt_dim 3": "latnt_dim",
    "fit t_vae --data digit": "did you mean 'digits'",
    "fit t_vae --data nan.npy": "row 2, column 7",
    "fit t_vae --data large.npy": "[0, 1]",
    "fit t_vae --data empty.npy": "empty",
    "fit t_vae --data objects.npy": "objects.npy",
    "fit t_vae --data cut.npz": "cut.npz",
    "fit t_vae --data words.csv": "words.csv",
    "fit t_vae --data folder": "folder",
    "fit t_vae --data mnist": "download",
    "fit t_vae --corrupt impulse:2": "[0, 1]",
    "fit t_vae --corrupt impluse:0.2": "did you mean 'impulse'",
    "fit t_vae --steps 0": "steps",
    "fit t_vae --steps many": "steps",
    "fit t_vae --lr -1": "lr",
    "fit t_vae --seed -3": "seed",
    "fit t_vae --latent_dim 0": "latent_dim",
    "fit t_vae --latnt_dim 3": "latnt_dim",
    "fit t_vae --device tpu": "did you mean 'cpu'",
    "fit t_vae --schedule linear": "cosine",
    "fit t_vae --split tets": "split",
    "fit t_vae --limit 0": "limit",
    "fit t_vae --checkpoint_every 0": "checkpoint_every",
    "fit t_vae --out RUN": "already holds a run",
    "fit t_vae --out good.npy": "is a file",
    "fit t_vae --start nowhere": "not a run folder",
    "fit mine.py:nothing": "no function 'nothing'",
    "fit mine.py:no_pair": "must give a Pair",
    "fit none.py:f": "no file none.py",
    "fit syntax.py:f": "SyntaxError",
    "fit exits.py:f": "SystemExit",
    "fit raises.py:f": "RuntimeError: one",
    "fit clash.py:f": "steps",
    "fit t_vae --out full": "other files",
    "fit t_vae --data fifo.npy": "neither a file",
    "fit t_vae --out good.npy/sub": "good.npy",
    "fit t_vae --seed 99999999999999999999999": "seed",
    "fit ic_vae --width 0": "width",
    "fit ic_vae --floor -1": "floor",
    "fit lc_vae --minimum=-1": "minimum",
    "fit induced_ae --l1=.nan": "l1",
    "fit t_vae --beta=.inf": "beta",
    "fit --resume no_plan": "lacks 'plan'",
    "fit --resume plan_list": "plan",
    "fit --resume lr_text": "lr is 'x'",
    "fit --resume hidden_5": "hidden is 5",
    "fit --resume argument": "nothing",
    "fit --resume target_5": "target is 5",
    "fit --resume source_5": "source is 5",
    "fit --resume limit_text": "limit is 'x'",
    "fit --resume shape_7": "shape",
    "fit --resume other_steps": "steps was 30, is 31",
    "sample shape_7": "shape",
    "sample RUN --passes 0": "passes",
    "clean RUN good.npy o.npz --threshold .inf": "threshold",
    "fit --resume": "--resume needs the run folder",
    "fit --resume nowhere": "not a run folder",
    "clean nowhere digits o.npz": "not a run folder",
    "clean broken digits o.npz": "config.json",
    "clean no_checkpoint digits o.npz": "no checkpoint",
    "clean hostile digits o.npz": "not a readable checkpoint",
    "clean RUN none.npy o.npz": "none.npy",
    "clean RUN nan.npy o.npz": "row 2, column 7",
    "clean RUN wide.npy o.npz": "65 entries per datum",
    "clean RUN large.npy o.npz": "[0, 1]",
    "clean RUN good.npy good.npy": "overwrite the input",
    "clean RUN good.npy ./folder/../good.npy": "overwrite the input",
    "clean RUN good.npy o.txt": "must end in",
    "clean RUN good.npy nowhere/o.npz": "no folder",
    "clean RUN good.npy o.npz --draws 1": "draws",
    "clean RUN good.npy o.npz --threshold 0": "threshold",
    "clean RUN good.npy o.npz --passes 0": "passes",
    "detect RUN good.npy --inlier 3": "no labels",
    "detect RUN digits --inlier 77": "label 77",
    "detect RUN digits --neighbourhood 2": "must be odd",
    "detect RUN digits --neighbourhood [1,99]": "wider than the images",
    "detect RUN good.npy --output good.npy": "must end in",
    "sample RUN --draws 0": "draws",
    "sample RUN --output x.csv": "must end in",
    "evaluate folder": "not a run folder",
    "evaluate RUN --likelihood 1": "an error needs two samples",
    "evaluate RUN --ais -1": "ais is -1",
    "describe t_vae --data_dim 0": "data_dim",
    "reproduce frey-recover": "did you mean 'frey-recovery'",
    "reproduce demo --scale big": "unknown scale",
    "reproduce frey-recovery --root folder": "frey",
    "demo --scale big": "unknown scale",
    "cleen": "did you mean 'clean'",
    "--verion": "",
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_line_and_code_2(case, run, here, capsys):
    prepare(here, run)
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    assert main([str(run) if word == "RUN" else word for word in case.split()]) == 2
    assert CASES[case] in said(capsys)
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before, "something was written"


def test_a_diverged_run_says_so(here, capsys):
    (here / "bad.py").write_text(
        MINE
        + """
class Broken(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(d))
    def forward(self, z):
        return (self.w * float("nan") if self.training else self.w).expand(*z.shape[:-1], len(self.w))
def broken(data_dim: int):
    pair = my_pair(data_dim)
    pair.model.decoder = Broken(data_dim)
    return pair
"""
    )
    assert main(["fit", "bad.py:broken", "--steps", "3", "--out", "r"]) == 1
    assert "at site 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["eager", "graph", "inductor"])
def test_fit_names_its_engine(engine, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", "l2_vae", "--limit", "40", "--steps", "3", "--engine", engine, "--out", str(out)]) == 0
    assert f"engine {engine}: as asked" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["engine"] == engine


def test_replicas_are_runs_of_their_own(tmp_path, capsys):
    out = tmp_path / "many"
    command = ["fit", "l2_vae", "--limit", "40", "--steps", "4", "--replicas", "2", "--seed", "3", "--engine", "graph"]
    assert main([*command, "--out", str(out)]) == 0
    for r in range(2):
        run = pv.Run.open(out / f"replica-{r}")
        assert run.config["plan"]["seed"] == 3 + r
        assert run.pair().name == "l2_vae"
    alone = tmp_path / "alone"
    single = ["fit", "l2_vae", "--limit", "40", "--steps", "4", "--seed", "4", "--out", str(alone)]
    assert main(single) == 0
    one, other = pv.Run.open(alone).pair(), pv.Run.open(out / "replica-1").pair()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    capsys.readouterr()
    assert main([*command, "--out", str(out)]) == 2
    assert "name a new folder for replicas" in capsys.readouterr().err


def test_schedules_and_augmentation_are_kept_for_the_resumed_run(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([
        "fit", "vae", "--limit", "40", "--steps", "3", "--out", str(out), "--augment", "binarise",
        "--schedules", '{"beta": [0, 1, 2]}',
    ]) == 0  # fmt: skip
    config = json.loads((out / "config.json").read_text())
    assert config["augment"] == "binarise" and config["schedules"] == {"beta": [0.0, 1.0, 2.0]}
    assert main(["fit", "--resume", str(out)]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--engine", "fast"], "unknown engine 'fast'"), (["--replicas", "0"], "replicas is 0"),
     (["--augment", "blur"], "unknown augmentation"), (["--schedules", '{"gama": [0, 1, 2]}'], "unknown setting"),
     (["--schedules", '{"beta": [0, 1]}'], "start, end, steps")],
)  # fmt: skip
def test_bad_training_options_leave_no_folder(options, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", "l2_vae", "--limit", "40", "--steps", "3", "--out", str(out), *options]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_run_from_before_engines_is_read(tmp_path):
    out = tmp_path / "run"
    assert main(["fit", "l2_vae", "--limit", "40", "--steps", "3", "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    for key in ("engine", "schedules", "augment"):
        del config[key]
    (out / "config.json").write_text(json.dumps(config))
    assert pv.Run.open(out).config["engine"] == "eager"


def test_every_argument_of_every_variant_is_explained():
    import inspect

    from pyro_vaes.commands.glossary import GLOSSARY

    names = {name for f in pv.VARIANTS.values() for name in inspect.signature(f).parameters} - {"data_dim"}
    assert names == set(GLOSSARY)


def test_help_of_a_variant_explains_its_arguments(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "cnn_vae", "--help"])
    assert "entries of the code" in capsys.readouterr().out


def test_options_may_be_written_with_hyphens(tmp_path, capsys):
    assert main(["describe", "l2_vae", "--latent-dim", "3"]) == 0
    assert "| (3,)" in capsys.readouterr().out
