"""Leaving out a datum or an entry, against the closed forms of the linear model and of a Student t."""

import math

import pytest
import torch
from test_complete import IMPROPER, POINTS, linear_pair
from test_contract import SMALL, batch, condition, make
from torch import distributions as td

import pyro_vaes as pv
from pyro_vaes.analysis.loo import LOO, smoothed


def drawn_from(pair, rows=3):
    """Data of the model itself: an entry that contradicts all others has few draws to be judged by."""
    mean, cov = evidence(pair)
    noise = torch.randn(rows, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return mean + noise @ torch.linalg.cholesky(cov).T


def evidence(pair):
    """Mean and covariance of x under the linear model."""
    w, b = pair.model.decoder.weight.data, pair.model.decoder.bias.data
    return b, w @ w.T + 0.25 * torch.eye(8, dtype=torch.float64)


def conditionals(mean, cov, x):
    """log p(x_j | all others) of a Gaussian, entry by entry."""
    precision = cov.inverse()
    variance = 1 / precision.diagonal()
    loc = x - (x - mean) @ precision * variance
    return td.Normal(loc, variance.sqrt()).log_prob(x)


@pytest.mark.parametrize("widen", [1.0, 1.3])
def test_the_linear_model_has_closed_forms(widen):
    """With the exact guide, and with a wider one, whose weights have to put it right."""
    pair = linear_pair()
    pair.guide.encoder.scale = pair.guide.encoder.scale * widen
    (mean, cov), x = evidence(pair), drawn_from(pair)
    data = pv.loo(pair, x, draws=4000, chunk=4000)
    torch.testing.assert_close(data.elpd, td.MultivariateNormal(mean, cov).log_prob(x), atol=0.1, rtol=0)
    entries = pv.loo(pair, x, draws=4000, chunk=4000, left_out="entry")
    exact = conditionals(mean, cov, x)
    torch.testing.assert_close(entries.elpd, exact, atol=0.12, rtol=0)
    if widen > 1:  # a guide without the posterior's angles is too narrow somewhere
        assert (entries.khat < 0.7).all() and data.finding().verdict == entries.finding().verdict == "good"
    assert entries.total == pytest.approx(float(exact.sum()), abs=0.5)
    assert entries.se == pytest.approx(math.sqrt(3) * float(exact.sum(1).std()), rel=0.1)


def test_without_the_guide_s_weights_a_wrong_guide_would_be_believed():
    """Plain loo of p(x_j | z) takes the guide's draws for the posterior's: with a shifted guide it is off, ours not."""
    pair = linear_pair()
    shift = torch.tensor([0.25, -0.25], dtype=torch.float64)
    pair.guide.encoder.register_forward_hook(lambda m, i, out: (out[0] + shift, out[1] * 1.6))
    x = drawn_from(pair)
    exact = conditionals(*evidence(pair), x)
    ours = pv.loo(pair, x, draws=6000, chunk=6000, left_out="entry").elpd
    tree = pv.to_datatree(pair, x, draws=6000, replicates=6000, chunk=6000)
    mu = torch.as_tensor(tree["posterior_predictive"]["mu"].values[0])
    log_p = td.Normal(mu, 0.5).log_prob(x)
    unweighted = math.log(6000) - (-log_p).logsumexp(0)
    assert (ours - exact).abs().max() < 0.15 < (unweighted - exact).abs().max()


def test_precisions_of_entries_are_integrated_out():
    """Student's t entry by entry: with a decoder that ignores z the entries are independent, and known."""
    pair, x = make("t_vae").double(), batch("t_vae", 3).double()
    model = pair.model
    torch.nn.init.zeros_([m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear)][-1].weight)
    z = torch.zeros(1, 3, dtype=torch.float64)
    expected = td.StudentT(model.dof(z), model.decoder(z), model.scale(z)).log_prob(x)
    found = pv.loo(pair, x, left_out="entry", draws=100)
    torch.testing.assert_close(found.elpd, expected.double(), atol=0.05, rtol=0)
    torch.testing.assert_close(pv.loo(pair, x, draws=2000).elpd, expected.sum(1).double(), atol=0.25, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_every_variant(name):
    pair, x, y = make(name), batch(name, 2), condition(name, 2)
    if name in IMPROPER | POINTS:
        with pytest.raises(pv.InputError, match=r"no normalised density|point mass"):
            pv.loo(pair, x, y)
        return
    data = pv.loo(pair, x, y, draws=30)
    entries = pv.loo(pair, x, y, draws=30, left_out="entry")
    assert data.elpd.shape == data.khat.shape == (2,) and data.elpd.isfinite().all()
    assert entries.elpd.shape == entries.khat.shape == (2, 8) and entries.elpd.isfinite().all()
    tree = pv.to_datatree(pair, x, y, draws=30)
    torch.testing.assert_close(data.elpd, torch.as_tensor(tree["sample_stats"]["elpd"].values))


def test_smoothing_keeps_the_body_and_mends_the_mean():
    """Weights of a Pareto tail of shape 1/2, whose mean is 2: as good as ArviZ's own normalised ones."""
    g = torch.Generator().manual_seed(0)
    log_w = torch.empty(200, 500, dtype=torch.float64).uniform_(generator=g).log().neg() * 0.5
    weights, mean, shape = smoothed(log_w + 700)
    torch.testing.assert_close(weights.logsumexp(1), torch.zeros(200).double())
    assert shape.mean() == pytest.approx(0.5, abs=0.1)
    order = log_w.argsort(1)[:, :400]
    body = (weights + (mean + math.log(500))[:, None]).gather(1, order)
    torch.testing.assert_close(body, log_w.gather(1, order) + 700)
    plain = log_w.logsumexp(1) - math.log(500)
    assert (mean - 700 - math.log(2)).square().mean() < (plain - math.log(2)).square().mean()
    few = smoothed(log_w[:, :10])
    torch.testing.assert_close(few[1], log_w[:, :10].logsumexp(1) - math.log(10))
    assert few[2].isnan().all()


def test_verdicts():
    elpd = torch.zeros(200).double()
    for bad, verdict in ((0, "good"), (3, "caution"), (50, "bad")):
        khat = torch.zeros(200).double()
        khat[:bad] = 0.9
        assert LOO("datum", elpd, khat, 100).finding().verdict == verdict
    assert LOO("datum", elpd * torch.nan, khat * 0, 100).finding().verdict == "bad"
    assert LOO("datum", elpd, khat * torch.nan, 10).finding().verdict == "not tested"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left_out": "chain"}, "unknown left_out 'chain'"),
        ({"draws": 1}, "draws is 1"),
        ({"chunk": 0}, "chunk is 0"),
        ({"x": torch.full((2, 8), torch.nan)}, "x is nan"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change, message):
    with pytest.raises(pv.InputError, match=message):
        pv.loo(make("gaussian_vae"), **{"x": torch.rand(2, 8), **change})
