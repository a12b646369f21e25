"""impute: closed forms under every method, guides that are wrong, whole rows, every variant, bad input."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from test_complete import IMPROPER, POINTS, SEEN, linear_pair, posterior
from test_condition import holes
from test_contract import SMALL, batch, condition, make

import pyro_vaes as pv
from pyro_vaes.plates import data_plate

HIDDEN = ~SEEN
BUDGET = {
    "importance": {"samples": 4000, "chunk": 4000},
    "metropolis": {"samples": 8000, "chains": 40, "warmup": 60},
    "gibbs": {"samples": 8000, "chains": 40, "warmup": 30},
    "nuts": {"samples": 240, "warmup": 40, "chains": 2},
}


class Exact(PyroModule):
    """q(z | x) = N(m + shift, shrink^2 S) with the posterior's own m and S."""

    def __init__(self, pair, shift=0.0, shrink=1.0):
        super().__init__()
        w, sd2 = pair.model.decoder.weight.data, 0.25
        cov = (torch.eye(2).double() + w.T @ w / sd2).inverse()
        self.a, self.b, self.shift = cov @ w.T / sd2, pair.model.decoder.bias.data, shift
        self.root = shrink * torch.linalg.cholesky(cov)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc = (x - self.b) @ self.a.T + self.shift
            return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.root))


def exact_pair(**options):
    pair = linear_pair()
    return pv.Pair(pair.model, Exact(pair, **options), name="linear")


@pytest.fixture
def x():
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.where(SEEN, x, torch.nan)


def closed_form(pair, x):
    """Mean and covariance of the missing entries, given the observed ones."""
    _, cov, mean, _ = posterior(pair, x.nan_to_num())
    w = pair.model.decoder.weight.data[HIDDEN]
    return mean[:, HIDDEN], w @ cov @ w.T + 0.25 * torch.eye(int(HIDDEN.sum())).double()


def errors(pair, x, **options):
    """The distance of the mean from the closed form, in posterior standard deviations; and the relative one of sd."""
    found = pv.impute(pair, x, **options)
    mean, cov = closed_form(pair, x)
    sd = cov.diagonal().sqrt()
    return found, ((found.mean[:, HIDDEN] - mean) / sd).abs().max(), (found.sd[:, HIDDEN] / sd - 1).abs().max()


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow) if m == "nuts" else m for m in BUDGET])
def test_the_closed_form(method, x):
    pair = exact_pair()
    x = x[:1] if method == "nuts" else x
    found, mean, sd = errors(pair, x, method=method, draws=200 if method == "nuts" else 400, **BUDGET[method])
    close = 0.25 if method == "nuts" else 0.1
    assert mean < close and sd < close
    assert torch.equal(found.mean[:, SEEN], x[:, SEEN]) and (found.sd[:, SEEN] == 0).all()
    assert torch.equal(found.draws[:, :, SEEN], x[:, SEEN].expand(len(found.draws), -1, -1))
    # Missing entries are drawn together.
    ours = torch.stack([torch.cov(found.draws[:, i, HIDDEN].T) for i in range(len(x))])
    torch.testing.assert_close(ours, closed_form(pair, x)[1].expand_as(ours), atol=0.35, rtol=0.25)
    assert found.finding().verdict == ("caution" if method == "gibbs" else "good")


@pytest.mark.slow
def test_without_noise_it_is_the_mean_given_the_code(x):
    pair = exact_pair()
    for method in ("importance", "metropolis"):
        found = pv.impute(pair, x, method=method, noise=False, draws=500, **BUDGET[method])
        sd = posterior(pair, x.nan_to_num())[3][HIDDEN].expand(2, -1)
        torch.testing.assert_close(found.sd[:, HIDDEN], sd, rtol=0.12, atol=0)
        torch.testing.assert_close(found.draws.std(0)[:, HIDDEN], sd, rtol=0.2, atol=0)


def test_a_biased_guide_biases_pseudo_gibbs_and_no_other(x):
    pair = exact_pair(shift=0.15, shrink=1.3)
    wrong = errors(pair, x, method="gibbs", **BUDGET["gibbs"])
    assert wrong[1] > 0.3 and (wrong[0].rhat < 1.05).all()  # mixed, and wrong: no diagnostic of a chain can tell
    right = errors(pair, x, method="metropolis", **BUDGET["metropolis"])
    assert right[1] < 0.1 and right[2] < 0.1 and (right[0].accepted < 0.9).all()
    assert errors(pair, x, method="importance", **BUDGET["importance"])[1] < 0.1


def test_an_exact_guide_is_always_accepted(x):
    found = pv.impute(exact_pair(), x, method="metropolis", samples=40, warmup=10)
    torch.testing.assert_close(found.accepted, torch.ones(2).double())


def test_the_likeliest_has_no_uncertainty(x):
    found = pv.impute(exact_pair(), x, method="optimise")
    torch.testing.assert_close(found.mean[:, HIDDEN], closed_form(exact_pair(), x)[0], atol=1e-6, rtol=0)
    assert found.sd[:, HIDDEN].isnan().all() and found.finding().verdict == "not tested"


@pytest.mark.parametrize("method", ["importance", pytest.param("metropolis", marks=pytest.mark.slow), "optimise"])
def test_whole_rows_come_back_and_empty_ones_are_drawn(method, x):
    pair = exact_pair()
    rows = torch.cat([x.nan_to_num(nan=0.3), x, torch.full_like(x[:1], torch.nan)])
    found = pv.impute(pair, rows, method=method, samples=8000, chains=40, chunk=8000, draws=5)
    assert torch.equal(found.mean[:2], rows[:2]) and torch.equal(
        found.draws[:, :2], rows[:2].expand(len(found.draws), -1, -1)
    )
    assert found.khat[:2].isnan().all() and not found.observed[4].any()
    w = pair.model.decoder.weight.data
    if method != "optimise":
        torch.testing.assert_close(found.sd[4], (w.square().sum(1) + 0.25).sqrt(), rtol=0.15, atol=0)
    whole = pv.impute(pair, rows[:2], method=method, draws=3)
    assert torch.equal(whole.mean, rows[:2]) and whole.finding().verdict == "not tested"


def test_nan_and_mask_together_and_other_batches_are_the_same_data(x):
    pair = exact_pair()
    seen = torch.ones(2, 8)
    seen[:, 0] = 0
    found = pv.impute(pair, x, seen, method="optimise")
    assert not found.observed[:, 0].any() and not found.observed[:, HIDDEN].any()
    again = pv.impute(pair, torch.where(found.observed, x, torch.nan), method="optimise", batch_size=1)
    torch.testing.assert_close(again.mean, found.mean, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_variant(name):
    pair, x, y = make(name), batch(name, 4), condition(name, 4)
    x = holes(x)[0]
    state = torch.random.get_rng_state()
    methods = ["gibbs"]
    methods += [] if name in POINTS | {"induced_ae"} else ["metropolis"] if name != "planar_vae" else []
    methods += [] if name in POINTS | {"induced_ae", "m2_vae"} else ["importance"]
    for method in methods:
        found = pv.impute(pair, x, None, y, method=method, samples=40, warmup=6, steps=3, draws=2)
        seen = found.observed
        assert found.mean.isfinite().all() and (found.sd[~seen] >= 0).all() and found.sd.isfinite().all()
        assert torch.equal(found.draws[:, seen], x[seen].expand(2, -1))
        assert found.finding().said
    assert torch.equal(torch.random.get_rng_state(), state)


def test_outlier_models_impute_what_is_clean():
    """Without a normaliser, and with the values that its kernel would have drawn left out."""
    for name in sorted(IMPROPER - {"induced_ae"}):
        x, seen = holes(batch(name, 3))
        found = pv.impute(make(name), x, samples=100, steps=3)
        assert (found.draws[:, ~seen].abs() < 2).all()


def test_classes_are_drawn_where_the_label_is_missing():
    pair, x = make("m2_vae"), holes(batch("m2_vae", 4))[0]
    with pytest.raises(pv.InputError, match="discrete"):
        pv.impute(pair, x)
    found = pv.impute(pair, x, method="metropolis", samples=40, warmup=4)
    assert set(found.draws.unique().tolist()) <= {0.0, 1.0}


def test_bad_input(x):
    pair = exact_pair()
    for text, options in {
        "method": {"method": "mean"}, "draws": {"draws": 0}, "noise": {"noise": 2}, "samples": {"samples": 3},
        "mask": {"mask": torch.ones(3)}, "64 at most": {"x": x[:1].repeat(65, 1), "method": "nuts"},
    }.items():  # fmt: skip
        with pytest.raises(pv.InputError, match=text):
            pv.impute(pair, **({"x": x} | options))
    with pytest.raises(pv.InputError, match="own draws only"):
        pv.impute(make("planar_vae"), holes(batch("planar_vae", 3))[0], method="metropolis")
    with pytest.raises(pv.InputError, match="point mass"):
        pv.impute(make("autoencoder"), holes(batch("autoencoder", 3))[0], method="metropolis")
