"""Adam with other betas, and Adagrad: torch's own steps, in every engine, resumed bit for bit."""

import json
import os
import signal

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.optimiser import rule
from pyro_vaes.inference.track import CHECKPOINT

PLANS = [{"optimiser": "adagrad", "lr": 0.02}, {"betas": (0.9, 0.99)}]
OPTIONS = {"steps": 13, "batch_size": 7, "progress": False, "log_every": 1, "checkpoint_every": 4}


def make(seed=0):
    torch.manual_seed(seed)
    return pv.l2_vae(data_dim=8, latent_dim=3, hidden=(6, 5))


def assert_close(one, other):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["adagrad", "adam"])
def test_every_step_is_that_of_torch(name, dtype):
    torch.manual_seed(1)
    ours = [torch.randn(3, 2, dtype=dtype), torch.randn(4, dtype=dtype), torch.randn(2, dtype=dtype)]
    theirs = [p.clone().requires_grad_() for p in ours]
    betas = (0.8, 0.95)
    mine = rule(name, betas if name == "adam" else (0.9, 0.999))(ours, 0.05)
    other = torch.optim.Adam(theirs, 0.05, betas) if name == "adam" else torch.optim.Adagrad(theirs, 0.05)
    for step in range(20):
        # A transposed view, a parameter without a gradient, and a rate that a schedule changes.
        gradients = [torch.randn(2, 3, dtype=dtype).T, None if step % 3 == 0 else torch.randn(4, dtype=dtype), None]
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = None if g is None else g.clone()
        lr = 0.05 / (1 + step)
        other.param_groups[0]["lr"] = lr
        mine.lr.fill_(lr)
        mine.step(gradients)
        other.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q.detach(), rtol=1e-6 if dtype == torch.float32 else 1e-13, atol=1e-7)


@pytest.mark.parametrize("plan", PLANS, ids=["adagrad", "betas"])
@pytest.mark.parametrize("engine", ["graph", "inductor"])
def test_engines_agree(engine, plan, data):
    one, other = make(), make()
    pv.fit(one, data, **OPTIONS | plan, engine="eager")
    assert pv.fit(other, data, **OPTIONS | plan, engine=engine).engine.kind == engine
    assert_close(one, other)
    plain = make()
    pv.fit(plain, data, **OPTIONS | ({"lr": plan["lr"]} if "lr" in plan else {}), engine="eager")
    assert not torch.allclose(next(plain.parameters()), next(one.parameters()), atol=1e-6)


@pytest.mark.parametrize("plan", PLANS, ids=["adagrad", "betas"])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_resume_is_bitwise(engine, plan, data, tmp_path):
    whole, cut = make(), make(1)
    pv.fit(whole, data, **OPTIONS | plan, engine=engine, out=tmp_path / "whole")

    def interrupt(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    assert pv.fit(make(), data, **OPTIONS | plan, engine=engine, out=tmp_path / "cut", on_step=interrupt).step == 6
    pv.fit(cut, data, **OPTIONS | plan, engine=engine, out=tmp_path / "cut", resume=True)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)
    one, other = (checkpoint.load(tmp_path / folder / CHECKPOINT) for folder in ("whole", "cut"))
    assert one[1] == other[1] and one[0].keys() == other[0].keys()
    assert all(torch.equal(tensor, other[0][name]) for name, tensor in one[0].items())


@pytest.mark.parametrize("plan", PLANS, ids=["adagrad", "betas"])
@pytest.mark.parametrize("grid", [False, True], ids=["one rate", "two rates"])
def test_replicas_are_single_runs(grid, plan, data, tmp_path):
    rates = [0.01, 0.03] if grid else [0.02, 0.02]
    pairs, options = [make(r) for r in range(2)], {**OPTIONS, **plan}
    options.pop("lr", None)
    pv.fit(pairs, data, **options, lr=rates if grid else 0.02, engine="graph", out=tmp_path)
    for r, pair in enumerate(pairs):
        alone = make(r)
        pv.fit(alone, data, **options, lr=rates[r], seed=r, engine="eager")
        assert_close(pair, alone)
    again = [make(r) for r in range(2)]
    resumed = pv.fit(again, data, **options, lr=rates if grid else 0.02, engine="graph", out=tmp_path, resume=True)
    assert resumed[0].step == 13 and torch.equal(next(again[1].parameters()), next(pairs[1].parameters()))


@pytest.mark.slow
def test_replicas_of_adagrad_resume_bit_for_bit(data, tmp_path):
    options = {**OPTIONS, **PLANS[0], "engine": "graph"}
    whole, cut = [make(r) for r in range(2)], [make(r) for r in range(2)]
    pv.fit(whole, data, **options)

    def interrupt(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    pv.fit([make(r) for r in range(2)], data, **options, out=tmp_path, on_step=interrupt)
    pv.fit(cut, data, **options, out=tmp_path, resume=True)
    for one, other in zip(whole, cut, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def edited(path, change):
    """Rewrite the values of a checkpoint."""
    tensors, values = checkpoint.load(path)
    change(values["identity"])
    checkpoint.save(path, tensors, values)


def test_a_checkpoint_from_before_optimisers_could_be_chosen_resumes(data, tmp_path):
    def old(identity):
        del identity["optimiser"], identity["betas"]

    def interrupt(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    whole, resumed = make(), make(1)
    pv.fit(whole, data, **OPTIONS, engine="eager")
    pv.fit(make(), data, **OPTIONS, engine="eager", out=tmp_path, on_step=interrupt)
    edited(tmp_path / CHECKPOINT, old)
    with pytest.raises(pv.InputError, match="optimiser was 'adam', is 'adagrad'"):
        pv.fit(resumed, data, **OPTIONS, optimiser="adagrad", out=tmp_path, resume=True)
    with pytest.raises(pv.InputError, match="betas was"):
        pv.fit(resumed, data, **OPTIONS, betas=(0.9, 0.99), out=tmp_path, resume=True)
    pv.fit(resumed, data, **OPTIONS, out=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_damaged_state_of_adagrad_is_refused(data, tmp_path):
    pv.fit(make(), data, **OPTIONS, **PLANS[0], out=tmp_path)
    tensors, values = checkpoint.load(tmp_path / CHECKPOINT)
    for name, tensor, message in (
        ("adagrad.0.sum", -torch.ones_like(tensors["adagrad.0.sum"]), "negative"),
        ("adagrad.1.sum", torch.ones(1), "shape"),
        ("adam.0.step", torch.tensor(1.0), "another run"),
    ):
        checkpoint.save(tmp_path / CHECKPOINT, {**tensors, name: tensor}, values)
        with pytest.raises(pv.InputError, match=message):
            pv.fit(make(), data, **OPTIONS, **PLANS[0], out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("plan", "message"),
    [({"optimiser": "adamw"}, "unknown optimiser 'adamw': did you mean 'adam'"), ({"optimiser": None}, "optimiser"),
     ({"betas": (0.9,)}, "two numbers"), ({"betas": "ab"}, "two numbers"), ({"betas": 0.9}, "two numbers"),
     ({"betas": (0.9, 1.0)}, "below 1"), ({"betas": (-0.1, 0.9)}, "betas"), ({"betas": (0.9, float("nan"))}, "betas"),
     ({"betas": (True, 0.9)}, "betas"), ({"optimiser": "adagrad", "betas": (0.9, 0.99)}, "adagrad has none")],
)  # fmt: skip
def test_bad_values_are_refused(plan, message, data, tmp_path):
    with pytest.raises(pv.InputError, match=message):
        pv.fit(make(), data, steps=2, progress=False, out=tmp_path / "r", **plan)
    assert not (tmp_path / "r").exists()


def test_the_command_line_keeps_the_optimiser(tmp_path, capsys):
    from pyro_vaes.cli import main

    out, common = tmp_path / "run", ["fit", "l2_vae", "--limit", "40", "--steps", "3", "--hidden", "[5]"]
    assert main([*common, "--optimiser", "adagrad", "--out", str(out)]) == 0
    plan = json.loads((out / "config.json").read_text())["plan"]
    assert plan["optimiser"] == "adagrad" and plan["betas"] == [0.9, 0.999]
    assert main(["fit", "--resume", str(out)]) == 0
    assert main([*common, "--betas", "[0.9, 0.99]", "--out", str(tmp_path / "b")]) == 0
    assert main([*common, "--betas", "[0.9, 2]", "--out", str(tmp_path / "c")]) == 2
    assert "below 1" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_a_run_folder_from_before_optimisers_could_be_chosen_resumes(tmp_path):
    from pyro_vaes.cli import main

    out = tmp_path / "run"
    assert main(["fit", "l2_vae", "--limit", "40", "--steps", "3", "--hidden", "[5]", "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    del config["plan"]["optimiser"], config["plan"]["betas"]
    (out / "config.json").write_text(json.dumps(config))
    assert main(["fit", "--resume", str(out)]) == 0
