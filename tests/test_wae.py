"""Wasserstein autoencoders: what is minimised, what is shown, what is refused."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pyro_vaes as pv
from pyro_vaes.guides.amortised import AmortisedDelta
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.priors import MixturePrior
from pyro_vaes.nn.scales import FixedScale


def make(**arguments):
    torch.manual_seed(0)
    return pv.wae_mmd(8, 3, (6, 5), **arguments)


def pair_of(prior, objective=None, scale=1.0):
    torch.manual_seed(0)
    model = LatentGaussian(prior, torch.nn.Linear(3, 8), FixedScale(scale))
    return pv.Pair(model, AmortisedDelta(torch.nn.Linear(8, 3)), pv.WAE() if objective is None else objective)


def test_lambda_is_that_of_the_paper_for_other_variances(data):
    """Sum of squares + lambda MMD^2 has the gradient of 2 s^2 times ours with lambda / (2 s^2)."""
    s, x, gradients = 0.25, data[:9].double(), []
    pair = pair_of(StandardPrior(3), pv.WAE(weight=10 / (2 * 0.25**2)), scale=s).double()
    torch.manual_seed(1)
    loss = pair(x)
    torch.manual_seed(1)
    z = pair.guide.encoder(x)
    paper = (x - pair.model.decoder(z)).square().sum(-1).mean() + 10 * pv.mmd(z, torch.randn_like(z))
    for total in (2 * s**2 * loss.total, paper):
        gradients.append(torch.autograd.grad(total, list(pair.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["wae_mmd", "wae_gan"])
def test_what_is_shown_is_the_elbo_of_the_pair(name, data):
    """Another weight changes the loss and not what is shown; for a Gaussian guide it is the bound."""
    torch.manual_seed(0)
    objective = pv.variant(name)(8, 3).objective
    for guided in (make(), pv.l2_vae(8, 3, (6, 5))):
        shown = []
        for other in (objective, pv.ELBO(sampled=["z"])):
            guided.objective = other
            torch.manual_seed(2)
            shown.append(guided(data[:9]).bound)
        tolerance = 1e-4 if guided.name == "wae_mmd" else 2.0  # the one has a closed form for the divergence
        assert shown[0].item() == pytest.approx(shown[1].item(), abs=tolerance) and not shown[0].requires_grad


def test_the_codes_are_compared_with_the_pair_s_own_prior(data):
    """A prior that is elsewhere; and codes that are where it is cost nothing on average."""
    far = StandardPrior(3)
    far.loc.fill_(5.0)
    pair, x = pair_of(far), data[:40]
    torch.nn.init.zeros_(pair.guide.encoder.weight)
    pair.guide.encoder.bias.data.fill_(0.0)
    away = pair(x).terms["z"]
    pair.guide.encoder.bias.data.fill_(5.0)
    assert pair(x).terms["z"] < 0.5 * away
    guide = pv.l2_vae(8, 3, (6, 5))
    for p in guide.guide.parameters():
        torch.nn.init.zeros_(p)
    guide.guide.encoder.raw_scale.bias.data.fill_(math.log(math.e - 1))  # q = N(0, I)
    guide.objective = pv.WAE(weight=1.0)
    draws = torch.stack([guide(data[:20]).terms["z"].detach() for _ in range(200)])
    assert abs(draws.mean()) < 4 * draws.std() / math.sqrt(200)


def test_any_prior_that_can_be_drawn_will_do(data):
    for prior in (MixturePrior(3, 2), StandardPrior(3, dist.Laplace)):
        assert torch.isfinite(pair_of(prior)(data[:5]).total)
    with pytest.raises(pv.InputError, match="cannot be drawn"):
        pv.WAE()(*_improper(), data[:5])


def _improper():
    class Flat(dist.TorchDistribution):
        arg_constraints, has_rsample = {}, True
        support = dist.constraints.real_vector

        def __init__(self, batch=()):
            super().__init__(batch, (3,))

        def expand(self, batch, _instance=None):
            return Flat(torch.Size(batch))

        def log_prob(self, value):
            return torch.zeros(value.shape[:-1])

        def rsample(self, shape=()):
            raise NotImplementedError

    pair = pair_of(StandardPrior(3))
    pair.model.prior.forward = lambda: Flat()
    return pair.model, pair.guide


def test_another_latent_site_is_refused_in_words(data):
    pair = pv.t_vae(8, 3, (6, 5))
    pair.objective = pv.WAE()
    with pytest.raises(pv.InputError, match="the model draws 'w'"):
        pv.fit(pair, data, steps=2, progress=False)


def test_a_code_of_another_name_is_refused_in_words(data):
    class Nothing(PyroModule):
        def forward(self, x=None, y=None, *, size=None):
            return None

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(8))

        def forward(self, x=None, y=None, *, size=None):
            from pyro_vaes.plates import data_plate

            with data_plate(x, size):
                return pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x)

    with pytest.raises(pv.InputError, match="no site 'z'"):
        pv.Pair(Model(), Nothing(), pv.WAE())(data[:4])


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 5), (11, 5), (10, 1)])
def test_a_batch_of_one_row_is_refused_before_any_work(rows, batch_size, data, tmp_path):
    pair, out = make(), tmp_path / "run"
    for given in (pair, [pair, make()]):
        with pytest.raises(pv.InputError, match="at least 2 rows in each"):
            pv.fit(given, data[:rows], steps=1, batch_size=batch_size, out=out, progress=False)
    assert not out.exists()
    pv.fit(pv.wae_gan(8, 3, (5,), discriminator_hidden=(4,)), data[:rows], steps=1, batch_size=1, progress=False)
    with pytest.raises(pv.InputError, match="at least 2 of each"):
        pair(data[:1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"penalty": "gun"}, "did you mean 'gan'"), ({"kernel": "rfb"}, "did you mean 'rbf'"),
        ({"weight": -1.0}, "at least 0"), ({"bandwidth": 0.0}, "above 0"), ({"rate": 0.0, "penalty": "gan"}, "above 0"),
        ({"penalty": "gan"}, "needs a discriminator"), ({"rate": 2.0}, "the MMD has none"),
        ({"penalty": "gan", "discriminator": torch.nn.Linear(3, 1), "kernel": "rbf"}, "penalty 'gan' has none"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(arguments, said):
    with pytest.raises(pv.InputError) as error:
        pv.WAE(**arguments)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_weight_can_follow_a_schedule(data):
    history = pv.fit(make(), data, steps=4, schedules={"weight": (0.0, 1.0, 4)}, engine="graph", progress=False,
                     log_every=1)  # fmt: skip
    assert history.engine.kind == "graph"
    assert history.rows[0]["terms"]["z"] == 0 and history.rows[3]["terms"]["z"] != 0


@pytest.mark.parametrize("name", ["wae_mmd", "wae_gan"])
def test_the_command_line_says_what_the_numbers_are(name, tmp_path, capsys):
    from pyro_vaes.cli import main

    out = tmp_path / "run"
    common = ["fit", name, "--limit", "40", "--hidden", "[5]", "--steps", "3", "--out", str(out)]
    if name == "wae_mmd":
        assert main([*common, "--batch_size", "39"]) == 2
        assert "at least 2 rows" in capsys.readouterr().err and not out.exists()
    assert main(common) == 0
    said = capsys.readouterr().out
    assert "which is no bound" in said and "steps, bound" not in said and "its terms: x " in said
    assert ("two players" in said and "accuracy: " in said) == (name == "wae_gan")
    assert main(["evaluate", str(out)]) == 0
    assert "bound (nats per datum)" not in json.loads((out / "evaluation.json").read_text())
    assert main(["sample", str(out)]) == 0
