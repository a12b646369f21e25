"""Two stages: what each learns from, that neither touches the other, and that the second finds where codes lie."""

import json
import os
import signal

import pytest
import torch
from sklearn.decomposition import PCA

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.stages import fit_stages
from pyro_vaes.inference.state import state
from pyro_vaes.inference.tracing import trace
from pyro_vaes.inference.track import CHECKPOINT, METRICS
from pyro_vaes.variants.staged import first_stage

SIZES = {"latent_dim": 3, "hidden": (6, 5), "second_hidden": (5, 4)}
PLAN = {"steps": [7, 5], "batch_size": 9, "checkpoint_every": 3, "log_every": 2, "progress": False, "seed": 4}
SECOND = ("model.second", "guide.second")


def make(seed=3, **arguments):
    torch.manual_seed(seed)
    return pv.two_stage_vae(data_dim=8, **{**SIZES, **arguments})


def copy(pair):
    return {name: tensor.clone() for name, tensor in state(pair).items()}


def changed(before, pair):
    return {name for name, tensor in state(pair).items() if not torch.equal(tensor, before[name])}


def learned(pair):
    return {name for name, _ in pair.named_parameters()}


def gradients(pair, objective, x):
    torch.manual_seed(5)
    total = objective(pair.model, pair.guide, x).total
    found = torch.autograd.grad(total, list(pair.parameters()), allow_unused=True)
    return dict(zip(dict(pair.named_parameters()), found, strict=True))


# --- the objective ----------------------------------------------------------------------------------------------


def test_the_first_stage_is_the_gamma_vae(data):
    """Not its formula a second time: the ELBO of another model, under the same noise, with its gradient."""
    pair = make()
    pair.objective.stage = 1
    alone = first_stage(pair)
    torch.manual_seed(5)
    loss = pair(data)
    torch.manual_seed(5)
    other = alone(data)
    for name in ("x", "z"):
        torch.testing.assert_close(loss.terms[name], other.terms[name])
    torch.testing.assert_close(loss.bound, other.bound)
    assert type(alone.model) is type(pv.gamma_vae(data_dim=8).model)


def test_the_bound_of_both_stages_is_that_of_the_hierarchy(data):
    """ELBO on the same pair draws the same noise; its total is another loss, its bound the same."""
    pair = make(beta=3.0).double()
    x = data.double()
    torch.manual_seed(5)
    ours = pair.objective(pair.model, pair.guide, x, size=100)
    torch.manual_seed(5)
    stock = pv.ELBO()(pair.model, pair.guide, x, size=100)
    torch.testing.assert_close(ours.bound, stock.bound)
    assert not torch.isclose(ours.total, -ours.bound)


def test_nothing_passes_from_the_second_stage_to_the_first(data):
    """An ordinary ELBO moves q(z | x) by p(z | u); here that gradient is exactly nothing, and not only small."""
    pair = make()
    first = [name for name in learned(pair) if not name.startswith(SECOND)]
    by_stage = {stage: gradients(pair, pv.Stagewise(stage), data) for stage in (0, 1, 2)}
    joint = gradients(pair, pv.ELBO(), data)
    for name in learned(pair):
        mine, other = (1, 2) if name in first else (2, 1)
        assert by_stage[other][name] is None, name
        assert torch.equal(by_stage[0][name], by_stage[mine][name]), name
    apart = [n for n in first if n.startswith("guide") and not torch.allclose(joint[n], by_stage[0][n], rtol=1e-2)]
    assert sorted(apart) == sorted(n for n in first if n.startswith("guide"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pv.Stagewise(3), "stage is 3"),
        (lambda: pv.Stagewise(True), "stage is True"),
        (lambda: pv.Stagewise("1"), "stage is '1'"),
        (lambda: setattr(pv.Stagewise(), "stage", -1), "stage is -1"),
        (lambda: pv.Stagewise(beta=-1.0), "beta is -1"),
        (lambda: pv.Stagewise(particles=0), "particles is 0"),
        (lambda: make(second_hidden=()), "second_hidden is empty"),
        (lambda: make(second_hidden=(0,)), "at least 1"),
        (lambda: make(second_hidden="64"), "a list of widths"),
        (lambda: first_stage(pv.gamma_vae(8)), "no two-stage pair"),
        (lambda: pv.Pair(pv.gamma_vae(8).model, pv.gamma_vae(8).guide, pv.Stagewise())(torch.rand(2, 8)), "above it"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(pv.InputError, match=message):
        call()


# --- two fits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_each_stage_leaves_the_other_as_it_was_bit_for_bit(engine, data):
    pair, seen = make(), {}

    def look(step):
        seen.setdefault(pair.objective.stage, copy(pair))

    start = copy(pair)
    histories = fit_stages(pair, data, **PLAN, engine=engine, on_step=look)
    assert [h.step for h in histories] == [7, 5] and pair.objective.stage == 0
    # What the first step of stage 2 sees is what stage 1 left, but for the second stage's own first step.
    second = {name for name in learned(pair) if name.startswith(SECOND)}
    assert changed(start, pair) == learned(pair)
    assert changed(seen[2], pair) <= second
    assert {n for n in start if not torch.equal(start[n], seen[1][n])} == learned(pair) - second
    assert list(histories[0].rows[-1]["terms"]) == ["x", "z"]
    assert list(histories[1].rows[-1]["terms"]) == ["z@2", "u"]
    if engine == "graph":
        # A graph has nothing of the other stage: both together are larger than either, and by much.
        both = trace(make().train(), data[:9], 20).operations
        assert all(h.engine.traced.operations < 0.8 * both for h in histories), both


@pytest.mark.parametrize("stop", [2, 9])
def test_interrupted_in_either_stage_is_as_if_it_had_not_been(stop, data, tmp_path):
    whole, cut, taken = make(), make(), []
    fit_stages(whole, data, **PLAN, out=tmp_path / "whole")

    def interrupt(_):
        taken.append(1)
        if len(taken) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    histories = fit_stages(cut, data, **PLAN, out=tmp_path / "cut", on_step=interrupt)
    assert sum(h.step for h in histories) == stop and histories[-1].interrupted == signal.SIGINT
    assert len(histories) == (1 if stop == 2 else 2) and cut.objective.stage == 0
    assert not (tmp_path / "cut" / CHECKPOINT).exists()
    resumed = make(seed=8)
    histories = fit_stages(resumed, data, **PLAN, out=tmp_path / "cut", resume=True)
    assert not changed(copy(whole), resumed)
    rows = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
        for path in (tmp_path / "whole" / METRICS, tmp_path / "cut" / METRICS)
    ]
    assert rows[0] == rows[1]
    assert [(row["step"], row["stage"]) for row in rows[0]] == [
        (2, 1), (4, 1), (6, 1), (7, 1), (9, 2), (11, 2), (12, 2),
    ]  # fmt: skip
    both = [checkpoint.load(tmp_path / folder / CHECKPOINT)[0] for folder in ("whole", "cut")]
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())


def test_what_cannot_be_is_refused_before_any_work(data, tmp_path):
    (tmp_path / "stage-2").mkdir()
    (tmp_path / "stage-2" / CHECKPOINT).touch()
    pair = make()
    start = copy(pair)
    for kw, message in (
        ({"steps": [1, 2, 3]}, "steps has 3 entries for 2 stages"),
        ({"lr": [0.1, -1.0]}, "lr is -1"),
        ({"schedule": ["cosine", "linear"]}, "schedule is 'linear'"),
        ({"replicas": 2}, "replicas are not fitted in stages"),
        ({"out": tmp_path}, "stage-2 already holds a checkpoint"),
    ):
        with pytest.raises(pv.InputError, match=message):
            fit_stages(pair, data, **{**PLAN, **kw})
    for other, message in ((pv.gamma_vae(8), "gamma_vae has no stages"), ([pair], "one pair at a time")):
        with pytest.raises(pv.InputError, match=message):
            fit_stages(other, data, **PLAN)
    assert not changed(start, pair)
    with pytest.raises(pv.InputError, match="row 0"):
        fit_stages(pair, data + 5, **PLAN)
    assert pair.objective.stage == 0


# --- what it is for ---------------------------------------------------------------------------------------------


def planted(rows=1500, seed=0):
    """Codes in three lumps, with the mean and the covariance of N(0, I), and data that are linear in them."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.randint(3, (rows,), generator=g) * (2 * torch.pi / 3)
    spread = 0.2
    centre = torch.stack([angle.cos(), angle.sin()], 1) * (2 * (1 - spread**2)) ** 0.5
    return centre + spread * torch.randn(rows, 2, generator=g)


def energy_distance(a, b):
    """Szekely & Rizzo (2013): 0 for equal distributions and only for those."""
    within = [torch.cdist(v, v).sum() / (len(v) * (len(v) - 1)) for v in (a, b)]
    return float(2 * torch.cdist(a, b).mean() - sum(within))


def test_two_stages_find_codes_that_the_prior_misses():
    """The planted q(z) has the prior's mean and covariance, so only its shape is there to be learned.

    The bound is what one-stage samples exceed by far, so the test fails where the second stage is taken out; it takes
    two seconds because a network must be trained.
    """
    torch.manual_seed(0)
    codes, lift = planted(), torch.linalg.qr(torch.randn(6, 2)).Q
    assert codes.mean(0).abs().max() < 0.06 and (torch.cov(codes.T) - torch.eye(2)).abs().max() < 0.06
    pair = pv.two_stage_vae(data_dim=6, latent_dim=2, hidden=(), second_hidden=(64, 64), real=True)
    with torch.no_grad():
        for linear, weight in ((pair.model.decoder[0], lift), (pair.guide.encoder.loc, lift.T)):
            linear.weight.copy_(weight), linear.bias.zero_()
        pair.guide.encoder.raw_scale.weight.zero_(), pair.guide.encoder.raw_scale.bias.fill_(-4.0)
    pair.objective.stage = 2
    pv.fit(pair, codes @ lift.T, steps=1500, batch_size=250, lr=5e-3, engine="graph", progress=False)
    distance = {
        name: energy_distance(pv.sample(one, 1500, seed=1) @ lift, codes)
        for name, one in {"two": pair, "one": first_stage(pair)}.items()
    }
    same = energy_distance(planted(seed=1), codes)
    assert abs(same) < 0.01
    assert distance["two"] < 0.04 < 0.08 < distance["one"], distance


def test_gamma_of_a_linear_decoder_is_ppcas_noise_variance():
    """Tipping & Bishop (1999), Eq. 8: the mean of the eigenvalues that are discarded. Learned from another start."""
    g, k = torch.Generator().manual_seed(0), 3
    x = torch.randn(200, 6, generator=g) @ torch.diag(torch.tensor([2.0, 1.5, 1.2, 0.5, 0.45, 0.4])) + 1.0
    noise = float(PCA().fit(x.numpy()).explained_variance_[k:].mean()) * 199 / 200
    torch.manual_seed(0)
    pair = pv.gamma_vae(data_dim=6, latent_dim=k, hidden=(), real=True)
    pv.fit(pair, x, steps=1500, batch_size=200, lr=3e-2, engine="graph", progress=False)
    gamma = pair.model.scale().square().item()
    assert gamma == pytest.approx(noise, rel=0.02)


# --- the command line -------------------------------------------------------------------------------------------


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--hidden", "[6]", "--second_hidden", "[5]", "--latent_dim", "3", "--limit", "60", "--device", "cpu"]
    plan = ["--steps", "4", "--stage_steps", "[3,2]", "--batch_size", "20"]
    assert main(["fit", "two_stage_vae", *small, *plan, "--out", "run"]) == 0
    out = capsys.readouterr().out
    for line in ("stage 1: 3 steps", "stage 2: 2 steps", "gamma_x (learned, at least 1e-06): ", "gamma_z (learned"):
        assert line in out
    names = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*")}
    assert names >= {CHECKPOINT, METRICS, f"stage-1/{CHECKPOINT}", f"stage-2/{METRICS}", "training-stage-2.png"}
    before = checkpoint.load(tmp_path / "run" / CHECKPOINT)[0]
    assert main(["sample", "run", "--draws", "5"]) == 0
    assert main(["clean", "run", "digits", "clean.npz", "--draws", "2"]) == 0
    assert main(["evaluate", "run", "--likelihood", "20", "--rows", "10"]) == 0
    out = capsys.readouterr().out
    assert "gamma_x (learned" in out and "log p(x) (nats per datum)" in out
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    pair = pv.Run.open("run").pair()
    assert found["gamma_z (learned, at least 1e-06)"] == pytest.approx(pair.model.second_scale().item() ** 2)
    # Cut off in its second stage, and gone on with.
    (tmp_path / "run" / CHECKPOINT).unlink(), (tmp_path / "run" / "stage-2" / CHECKPOINT).unlink()
    assert main(["sample", "run"]) == 2
    assert "run is not trained to its last stage: pyro-vaes fit --resume run" in capsys.readouterr().err
    assert main(["fit", "--resume", "run"]) == 0
    after = checkpoint.load(tmp_path / "run" / CHECKPOINT)[0]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_replicas_are_fitted_one_by_one_and_other_pairs_have_no_stages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--hidden", "[6]", "--latent_dim", "3", "--limit", "60", "--steps", "2", "--device", "cpu"]
    assert main(["fit", "two_stage_vae", *small, "--replicas", "2", "--out", "both"]) == 0
    capsys.readouterr()
    first, second = (pv.Run.open(tmp_path / "both" / f"replica-{r}").pair() for r in range(2))
    assert changed(copy(first), second) >= {"guide.encoder.loc.weight", "guide.second_encoder.loc.weight"}
    assert main(["fit", "gamma_vae", *small, "--stage_steps", "[1,2]", "--out", "g"]) == 2
    assert "gamma_vae has no stages" in capsys.readouterr().err
    assert main(["fit", "two_stage_vae", *small, "--stage_steps", "[1]", "--out", "g"]) == 2
    assert "1 entries for 2 stages" in capsys.readouterr().err
    assert not (tmp_path / "g").exists()
