"""Hostile input to the variants, conditions, binarisations and likelihoods: refused in one line, or harmless."""

import json
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vaes as pv
from pyro_vaes.cli import COMMANDS, main, parser
from pyro_vaes.evaluation.decomposition import decompose
from pyro_vaes.experiments import EXPERIMENTS
from pyro_vaes.inference.denoised import Denoised
from pyro_vaes.inference.fit import fit
from pyro_vaes.inference.importance import ImportanceWeighted
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.posterior import active_units, ordinary_residual
from pyro_vaes.plates import data_plate
from pyro_vaes.variants import VARIANTS

SMALL = ["--hidden", "[4]", "--steps", "3", "--batch_size", "16", "--engine", "eager"]


@pytest.fixture
def x():
    return (torch.rand(8, 6, generator=torch.Generator().manual_seed(1)) > 0.5).float()


@pytest.fixture
def pair():
    return pv.vae(6, 2, (4,))


def says(call, message):
    with pytest.raises(pv.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["fit", "describe"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_its_arguments_on_the_command_line(name, command):
    parser([command, name]).parse_args([command, name])
    assert command in COMMANDS


# --- convolutions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5])
def test_an_image_of_one_pixel_trains_with_a_last_batch_of_one(rows):
    x = (torch.rand(rows, 4) > 0.5).float()
    history = fit(pv.cnn_vae(4, 2, (2, 2)), x, steps=3, batch_size=4, engine="eager", progress=False)
    assert history.step == 3


# --- conditions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor(3), r"y is \(\) for 8 data"), (torch.zeros(8, 3, dtype=torch.complex64), "real"),
        (3, "y is int"), ([torch.arange(8) % 3], "y is list"),
    ],
)  # fmt: skip
def test_a_condition_of_another_kind_is_refused(x, y, message):
    says(lambda: fit(pv.cvae(6, 3, 2, (4,)), x, y, steps=1, progress=False), message)


def test_static_mnist_in_another_order_trains_nothing_with_labels(tmp_path, monkeypatch, capsys):
    """The draw has other rows than the images, so that their labels are not its own."""
    from pyro_vaes.commands import files

    grey = pv.Dataset("mnist", torch.rand(40, 4), (2, 2), y=torch.arange(40) % 10)
    monkeypatch.setattr("pyro_vaes.data.load", lambda *a, **k: grey)
    monkeypatch.setattr("pyro_vaes.data.binarised", lambda d, *a, **k: replace(d, x=d.x.round(), y=None, note="other"))
    source = {"source": "mnist", "root": "", "split": "train", "limit": None, "corrupt": None, "seed": 0}
    assert files.read_data({**source, "binarise": "static"})[0].y is None
    assert main(["fit", "cvae", "--data", "mnist", "--binarise", "static", "--out", str(tmp_path / "a"), *SMALL]) == 2
    assert "has no labels" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_a_condition_dim_that_is_not_the_quadrants_is_refused(tmp_path, capsys):
    words = ["fit", "structured_cvae", "--condition", "quadrants:1", "--binarise", "0.5", "--condition_dim", "5"]
    assert main([*words, "--out", str(tmp_path / "a"), *SMALL]) == 2
    assert "16 pixels are observed" in capsys.readouterr().err and not (tmp_path / "a").exists()


# --- what is said of data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [active_units, ordinary_residual])
def test_a_measure_refuses_data_that_would_give_a_wrong_number(pair, x, measure):
    spoilt = x.clone()
    spoilt[2, 3] = torch.nan
    for bad, message in ((spoilt, "nan at row 2"), (x[:0], "empty"), (x[:, :2], "2 entries"), (x.double(), "float64")):
        says(lambda bad=bad: measure(pair, bad), message)


def test_one_datum_has_no_active_units(pair, x):
    says(lambda: active_units(pair, x[:1]), "one datum")


def test_a_measure_leaves_running_statistics_alone(x):
    pair = pv.cnn_vae(6, 2, (2,), shape=(2, 3))
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    ordinary_residual(pair, x)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_clean_data_are_made_binary_like_the_dirty_ones_they_are_compared_with(tmp_path):
    """Ink is 0 under this rule: against grey truth a perfect run would look worse than its dirty data."""
    out = tmp_path / "a"
    words = ["fit", "vae", "--corrupt", "impulse:0.1", "--binarise", "threshold0_inverted", "--limit", "60"]
    assert main([*words, "--out", str(out), *SMALL]) == 0 and main(["evaluate", str(out)]) == 0
    digits = pv.load("digits", limit=60)
    dirty = pv.corrupt(digits.x, "impulse:0.1", shape=digits.shape, seed=0).x
    flipped = ((dirty == 0) != (digits.x == 0)).float().mean().item()
    assert json.loads((out / "evaluation.json").read_text())["mse of the dirty data"] == pytest.approx(flipped)


def test_a_run_on_one_datum_can_be_evaluated(tmp_path):
    out = tmp_path / "a"
    assert main(["fit", "vae", "--binarise", "0.5", "--limit", "1", "--out", str(out), *SMALL]) == 0
    assert main(["evaluate", str(out), "--likelihood", "3"]) == 0
    assert "active units" not in json.loads((out / "evaluation.json").read_text())


# --- likelihoods ------------------------------------------------------------------------------------------------


def test_an_annealing_of_another_kind_is_refused(pair, x):
    says(lambda: pv.log_likelihood(pair, x, method="ais", annealing=3), "annealing is 3")
    says(lambda: pv.sandwich(pair, 4, annealing="long"), "annealing is 'long'")
    says(lambda: pv.sandwich(pair, torch.zeros(40, 40)), "size is a Tensor")


class Shared(PyroModule):
    """A model (or, given an encoder, a guide) with a site that all data share."""

    def __init__(self, encoder=None):
        super().__init__()
        self.encoder = encoder

    def forward(self, x=None, y=None, *, size=None):
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with data_plate(x, size):
            loc = torch.zeros(2) if self.encoder is None else self.encoder(x)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            if self.encoder is None:
                logits = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 6) + g[..., None]
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def test_a_site_that_all_data_share_has_no_decomposition(x):
    says(
        lambda: decompose(pv.Pair(Shared(), Shared(nn.Linear(6, 2))), x), "outside of the data plate|several particles"
    )


# --- objectives -------------------------------------------------------------------------------------------------


def test_an_exact_site_that_is_not_there_is_refused(pair, x):
    pair.objective = ImportanceWeighted(2, exact=["w"])
    says(lambda: pair(x), "exact names the site 'w'")


@pytest.mark.parametrize("corruption", ["dynamic", "binarise", None])
def test_a_corruption_that_changes_nothing_is_refused(corruption):
    says(lambda: Denoised(ELBO(), corruption), "it must be salt_and_pepper")


def test_replicas_with_other_corruptions_are_refused(x):
    """The step of all replicas is the first one's: a corruption that differs little would go unnoticed."""
    pairs = [pv.dvae(6, 2, (4,), corruption=f"salt_and_pepper:{fraction}") for fraction in (0.05, 0.0501)]
    says(lambda: fit(pairs, x, steps=2, progress=False), "objective.given")


def halved(batch):
    return batch / 2


def test_a_corruption_of_ones_own_is_named_as_in_another_process():
    assert repr(Denoised(ELBO(), halved)) == "Denoised(ELBO(), halved)"


def test_an_objective_that_gives_no_loss_is_refused(pair, x):
    pair.objective = lambda *args, **kwargs: 3
    says(lambda: fit(pair, x, steps=1, progress=False), "gives 3: it must give a Loss")


def test_a_refusal_within_a_program_is_one_line():
    pair = pv.cvae(6, 3, 2, (4,))
    says(lambda: pv.Pair(pair.model, pair.guide), "y is missing")


# --- arguments and files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pv.ladder_vae(6, hidden=(4,), latent_dims=[0]), r"latent_dims\[0\] is 0"),
        (lambda: pv.iwae_2(6, middle_hidden=3), "middle_hidden is 3"),
        (lambda: pv.memoriser(4, points=[[0.0] * 4] * 3), "points are list"),
        (lambda: pv.memoriser(4, points=torch.zeros(3, 4, dtype=torch.uint8)), "uint8"),
        (lambda: pv.memoriser(4, points=torch.full((3, 4), torch.nan)), "not finite"),
        (lambda: pv.vamp_vae(4, 2, (3,), 1).model.prior.place([[0.0] * 4]), "list"),
        (lambda: pv.vamp_vae(4, 2, (3,), 1).model.prior.place(torch.ones(1, 4, dtype=torch.uint8)), "uint8"),
    ],
)
def test_bad_arguments_are_named(call, message):
    says(call, message)


@pytest.mark.parametrize("key", ["foo", "pair", "out"])
def test_a_plan_with_another_key_is_no_plan(tmp_path, capsys, key):
    out = tmp_path / "a"
    assert main(["fit", "vae", "--binarise", "0.5", "--limit", "30", "--out", str(out), *SMALL]) == 0
    config = json.loads((out / "config.json").read_text())
    config["plan"][key] = 1
    (out / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert main(["resume", str(out)]) == 2
    assert f"plan has '{key}'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nll", "course-report", "frey-bound", "quadrant-completion"])
def test_an_experiment_looks_for_its_data_before_it_begins(tmp_path, monkeypatch, capsys, name):
    module = EXPERIMENTS[name].__module__
    monkeypatch.setattr(f"{module}.compute", lambda *args, **options: pytest.fail("it has begun"))
    assert main(["reproduce", name, "--root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()
