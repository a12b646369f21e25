"""Predictive checks on models whose replicates have a closed form."""

import pytest
import torch
from test_closed_forms import F64, Solution, linear_data, linear_pair

import pyro_vaes as pv
from pyro_vaes.analysis.predictive import predictive_check, two_sided
from pyro_vaes.analysis.predictive_plots import predictive_figure
from pyro_vaes.errors import InputError

torch.set_num_threads(1)
DATA = linear_data(200)
SOLUTION = Solution.of(DATA, 2)
PAIR = linear_pair(SOLUTION, SOLUTION.encoder())
FIRST = {"first": lambda a: a[..., 0]}


def test_replicates_of_a_datum_are_those_of_the_closed_form():
    """x_rep | x ~ N(W m + b, W C W' + sigma^2), m and C of the posterior."""
    found = predictive_check(PAIR, DATA[:5], statistics=FIRST, draws=20_000)
    matrix, cov = SOLUTION.posterior()
    mean = (((DATA[:5] - SOLUTION.b) @ matrix.T) @ SOLUTION.w.T + SOLUTION.b)[:, 0]
    sd = ((SOLUTION.w @ cov @ SOLUTION.w.T)[0, 0] + SOLUTION.sigma**2).sqrt()
    torch.testing.assert_close(found.replicated[0].mean(0), mean, atol=float(0.03 * sd), rtol=0)
    torch.testing.assert_close(found.replicated[0].std(0), sd.expand(5), atol=0, rtol=0.03)
    below = torch.special.ndtr((DATA[:5, 0] - mean) / sd)
    torch.testing.assert_close(found.p[0], 2 * torch.minimum(below, 1 - below), atol=0.03, rtol=0)


def test_the_right_model_passes_and_prior_ranks_are_uniform():
    torch.manual_seed(0)
    x = pv.sample(PAIR, 200, noise=True, seed=3)
    for kind in ("posterior", "prior"):
        found = predictive_check(PAIR, x, kind=kind, seed=1)
        assert found.finding().verdict == "good"
    assert (found.uniform > 0.01).all()
    assert 0.01 < float((found.p < 0.05).double().mean()) < 0.1


def test_posterior_p_values_are_conservative():
    """The code has seen the datum: of a statistic that it adapts to, small p-values are rare."""
    x = pv.sample(PAIR, 400, noise=True, seed=3)
    along = {"along": lambda a: a @ SOLUTION.w[:, 0]}
    kinds = ("posterior", "prior")
    p = [predictive_check(PAIR, x, statistics=along, kind=kind).p.lt(0.2).double().mean() for kind in kinds]
    assert p[0] < 0.02 and 0.14 < p[1] < 0.26


def test_data_of_another_model_fail():
    found = predictive_check(PAIR, SOLUTION.b + 2 * (DATA - SOLUTION.b), kind="prior")
    assert found.finding().verdict == "bad" and (found.uniform < 0.01).all()
    # Outliers that a Gaussian never makes, and that the code does not follow.
    dirty = DATA.clone()
    dirty[:, 3] += 4.0 * (torch.arange(200) % 2)
    assert "max" in " ".join(predictive_check(PAIR, dirty).finding().numbers["extreme"])


def test_outliers_are_drawn_anew():
    """Kept, s = x - mu(z) would make every replicate the datum itself, up to tau."""
    pair, x = pv.ic_vae(4, 2, (5,), floor=0.05), torch.rand(9, 4)
    found = predictive_check(pair, x, statistics=FIRST, draws=50)
    assert float((found.replicated[0] - x[:, 0]).abs().median()) > 0.05


def test_statistics_of_the_set_and_batches():
    of_set = {"covariance": lambda a: ((a - a.mean(-2, keepdim=True))[..., :2]).prod(-1).mean(-1)}
    found = predictive_check(PAIR, DATA, statistics=FIRST, of_set=of_set, draws=100)
    assert found.set_names == ("mean of first", "spread of first", "covariance")
    assert found.set_observed[2] == pytest.approx(float(torch.cov(DATA.T, correction=0)[0, 1]))
    assert found.set_replicated.shape == (100, 3) and found.effect[2].isnan()
    assert found.set_p[2] > 0.05
    assert found.set_replicated[:, 0] == pytest.approx(found.replicated[0].mean(1))


def test_two_sided_by_hand():
    assert two_sided(torch.tensor(0.0), torch.arange(1.0, 10.0)) == pytest.approx(0.1)
    assert two_sided(torch.tensor(1.0), torch.ones(9)) == 1.0


def test_defaults_and_few_replicates():
    x = torch.rand(30, 12, generator=torch.Generator().manual_seed(0))
    found = predictive_check(pv.autoencoder(12, 2, (5,)), x, shape=(3, 4), draws=20)
    assert found.names == ("mean", "sd", "min", "max", "share > 0.5", "roughness")
    assert found.finding().verdict == "not tested" and "240 or more" in found.finding().said
    image = x[0].reshape(3, 4)
    by_hand = torch.cat([image.diff(dim=0).abs().flatten(), image.diff(dim=1).abs().flatten()]).mean()
    assert found.observed[5, 0] == pytest.approx(float(by_hand), rel=1e-6)
    assert len(predictive_figure(found).axes) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "both"}, "unknown kind 'both'"),
        ({"statistics": {"all": lambda a: a}}, "statistic 'all' gives"),
        ({"statistics": {}}, "there is no statistic"),
        ({"shape": (2, 2)}, "shape is"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        predictive_check(PAIR, DATA, **arguments)


def test_a_model_that_cannot_draw_is_refused():
    with pytest.raises(InputError, match="ric_vae cannot draw data"):
        predictive_check(pv.ric_vae(4, 2, (5,)), torch.rand(3, 4))


def test_double_precision_is_kept():
    assert predictive_check(PAIR, DATA[:3], draws=5).observed.dtype == F64
