"""The aggregated posterior, where it is known, and what is measured on it, on draws of known distributions."""

import math

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from pyro import poutine
from test_closed_forms import Solution, linear_pair
from test_contract import SMALL, batch, condition, latent, make

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.aggregated import ACTIVE, aggregated, code_site, prior_draws, traversal
from pyro_vaes.evaluation.normality import gap, mmd_to, moments, quantile_error, quantiles, spectrum
from pyro_vaes.inference.densities import seed_at
from pyro_vaes.inference.mmd import mmd
from pyro_vaes.inference.posterior import active_units_by_site
from pyro_vaes.variants.conditional import direct_output

F64 = torch.float64


def normal(n, k, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --- measures on draws -------------------------------------------------------------------------------------------


def test_moments_of_sixty_thousand_normal_draws_stay_within_their_errors():
    found = moments(normal(60_000, 30))
    for name, z in found.z().items():
        assert z.abs().max() < 4.5, name
        # Errors that are too wide would hide everything: 30 standard scores have a spread near 1.
        assert 0.6 < z.square().mean().sqrt() < 1.5, name


def test_moments_are_those_of_scipy():
    z = normal(500, 3).exp()
    found = moments(z)
    torch.testing.assert_close(found.skewness.numpy(), scipy.stats.skew(z.numpy()))
    torch.testing.assert_close(found.kurtosis.numpy(), scipy.stats.kurtosis(z.numpy()))
    torch.testing.assert_close(found.variance.numpy(), z.numpy().var(0, ddof=1))


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        (torch.distributions.Laplace(0.0, 1.0), (0, 2, 0, 3)),
        (torch.distributions.Exponential(1.0), (1, 1, 2, 6)),
        (torch.distributions.Uniform(0.0, 1.0), (0.5, 1 / 12, 0, -1.2)),
    ],
)
def test_moments_of_other_families(draws, expected):
    found = moments(draws.sample((400_000, 1)))
    got = [float(getattr(found, name)) for name in ("mean", "variance", "skewness", "kurtosis")]
    assert got == pytest.approx(expected, abs=0.25, rel=0.04)
    assert max(float(z.abs()) for z in found.z().values()) > 20


def test_a_constant_dimension_has_no_shape():
    found = moments(torch.full((10, 1), 0.3))
    assert found.variance.item() == pytest.approx(0, abs=1e-12) and found.skewness.isnan() and found.kurtosis.isnan()


def test_errors_of_a_deterministic_code_count_the_data():
    """Codes of 50 data drawn 20,000 times: the mean strays as far as that of 50, and the errors say so."""
    scores, naive = [], []
    for seed in range(40):
        codes = normal(50, 5, seed)
        z = codes[torch.randint(50, (20_000,), generator=torch.Generator().manual_seed(seed))]
        scores.append(moments(z, data=50).z()["mean"])
        naive.append(moments(z).z()["mean"])
    assert 0.85 < torch.stack(scores).std() < 1.15
    assert torch.stack(naive).std() > 10


def test_quantiles_of_the_normal_are_the_diagonal_and_of_others_known():
    z = normal(60_000, 4)
    at, found = quantiles(z)
    np.testing.assert_allclose(at, scipy.stats.norm.ppf(np.arange(1, 200) / 200), atol=1e-6)
    # The quantile's error is sqrt(p (1 - p) / n) / density.
    p = torch.arange(1, 200, dtype=F64) / 200
    error = (p * (1 - p) / 60_000).sqrt() / torch.distributions.Normal(0.0, 1.0).log_prob(at).exp()
    assert ((found - at[:, None]) / error[:, None]).abs().max() < 4.5
    assert quantile_error(z).max() < 0.02
    # N(2, 3^2) lies (2^2 + (3 - 1)^2)^(1/2) from N(0, 1).
    assert quantile_error(2 + 3 * z, points=2000)[0].item() == pytest.approx(math.sqrt(8), rel=0.01)


def test_quantiles_agree_with_the_probability_plot_of_scipy():
    z = normal(2000, 1).exp()
    (theirs, ordered), _ = scipy.stats.probplot(z[:, 0].numpy())
    at, found = quantiles(z)
    np.testing.assert_allclose(found[:, 0], np.interp(at, theirs, ordered), rtol=0.005)


def test_spectrum_of_a_known_covariance():
    torch.manual_seed(1)
    root = torch.randn(3, 3, dtype=F64)
    z = normal(60_000, 3)
    centred = z - z.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(centred.T))).T
    torch.testing.assert_close(spectrum(white), torch.ones(3, dtype=F64))
    assert gap(white) == pytest.approx(0, abs=1e-12)
    values = torch.linalg.eigvalsh(root @ root.T).flip(0)
    torch.testing.assert_close(spectrum(white @ root.T), values)
    torch.testing.assert_close(spectrum(white @ root.T), torch.linalg.svdvals(torch.cov((white @ root.T).T)))
    assert gap(white @ root.T) == pytest.approx(float((values - 1).square().mean().sqrt()))
    assert spectrum(white[:, :1]).shape == (1,)


@pytest.mark.parametrize("k", [2, 20])
def test_gap_of_normal_draws_is_what_its_docstring_says(k):
    found = [gap(normal(2000, k, seed)) for seed in range(20)]
    assert np.mean(np.square(found)) == pytest.approx((k + 1) / 2000, rel=0.15)


def test_mmd_is_nothing_for_normal_draws_and_its_error_is_right():
    found = [mmd_to(normal(1500, 3, seed), block=300, seed=100 + seed) for seed in range(30)]
    values, errors = map(np.array, zip(*found, strict=True))
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(30)
    assert 0.6 < values.std() / np.sqrt(np.square(errors).mean()) < 1.5


def test_mmd_is_the_mean_over_blocks_and_sees_another_distribution():
    z, other = normal(600, 2), normal(600, 2, seed=1)
    value, error = mmd_to(z, other, block=200)
    each = [float(mmd(z[i : i + 200], other[i : i + 200])) for i in (0, 200, 400)]
    assert value == pytest.approx(np.mean(each)) and error == pytest.approx(np.std(each, ddof=1) / math.sqrt(3))
    assert math.isnan(mmd_to(z, other, block=600)[1])
    for wrong in (z + 0.3, 1.5 * z, torch.cat([z[:, :1], z[:, :1]], 1)):
        value, error = mmd_to(wrong, block=200)
        assert value > 3 * error


@pytest.mark.parametrize("z", [torch.zeros(3), torch.zeros(1, 2), torch.tensor([[0.0], [math.nan]])])
def test_draws_that_are_none_are_refused(z):
    with pytest.raises(InputError, match="draws are"):
        moments(z)


# --- probabilistic PCA: every q(z | x) is known, and so is their mixture -----------------------------------------


def ppca(planted=False):
    torch.manual_seed(5)
    w = torch.linalg.qr(torch.randn(6, 3, dtype=F64)).Q * torch.tensor([3.0, 2.0, 1.5], dtype=F64)
    x = 1 + torch.randn(400, 3, dtype=F64) @ w.T + 0.3 * torch.randn(400, 6, dtype=F64)
    solution = Solution.of(x, 3)
    if planted:
        solution.w[:, 1] = 0
    return linear_pair(solution, solution.encoder()), solution, x


def test_aggregated_posterior_of_ppca_is_the_prior():
    """At the optimum A Cov(x) A' + S = I: the mixture's mean is 0 and its covariance I, to every digit."""
    pair, solution, x = ppca()
    found = aggregated(pair, x, draws=20_000)
    matrix, cov = solution.posterior()
    torch.testing.assert_close(found.mean, (x - solution.b) @ matrix.T)
    torch.testing.assert_close(found.variance, cov.diag().expand(400, 3))
    torch.testing.assert_close(
        torch.cov(found.mean.T, correction=0) + found.variance.mean(0).diag(), torch.eye(3, dtype=F64)
    )
    scores = moments(found.draws).z()
    assert max(scores["mean"].abs().max(), scores["variance"].abs().max()) < 4.5
    assert gap(found.draws) < 3 * math.sqrt(4 / 20_000)
    assert found.used.all() and found.site == "z"


def test_aggregated_posterior_of_a_wrong_encoder_has_the_covariance_of_the_formula():
    pair, _, x = ppca()
    encoder = pair.guide.encoder
    with torch.no_grad():
        encoder.matrix.mul_(1.7), encoder.scale.mul_(2), encoder.centre.add_(0.3)
    found = aggregated(pair, x, draws=40_000)
    loc, scale = (t.detach() for t in encoder(x))
    cov = torch.cov(loc.T, correction=0) + scale[0].square().diag()
    torch.testing.assert_close(spectrum(found.draws), torch.linalg.eigvalsh(cov).flip(0), rtol=0.04, atol=0)
    torch.testing.assert_close(found.draws.mean(0), loc.mean(0), rtol=0, atol=0.05)
    assert gap(found.draws) > 0.3


def test_a_planted_pruned_dimension_is_found_and_moves_nothing():
    pair, solution, x = ppca(planted=True)
    found = aggregated(pair, x, draws=2000)
    assert found.used.tolist() == [True, False, True]
    torch.testing.assert_close(found.variance[:, 1], torch.ones(400, dtype=F64))
    assert found.variance[:, [0, 2]].max() < 0.5
    span = [-3.0, 0.0, 2.0]
    flat, moved = traversal(pair, x[0], 1, span), traversal(pair, x[0], 2, span)
    torch.testing.assert_close(flat, flat[:1].expand(3, -1))
    code = found.mean[0].repeat(3, 1)
    code[:, 2] = torch.tensor(span)
    torch.testing.assert_close(moved, code @ solution.w.T + solution.b)


# --- every kind of pair ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "site"), [("l2_vae", "z"), ("iaf_vae", "z"), ("ladder_vae", "z_1"), ("cvae", "z")])
def test_own_moments_and_draws_obey_the_law_of_total_variance(name, site):
    """Draws on the one hand, moments of each datum on the other: Var z = E Var(z | x) + Var E(z | x)."""
    pair, x, y = make(name), batch(name), condition(name)
    found = aggregated(pair, x, y, site=site, draws=20_000, repeats=400)
    total = found.variance.mean(0) + found.activity * (len(x) - 1) / len(x)
    torch.testing.assert_close(found.draws.var(0), total, rtol=0.06, atol=0)
    torch.testing.assert_close(found.draws.mean(0), found.mean.mean(0), rtol=0, atol=0.04)
    assert int(found.used.sum()) == int((found.activity > ACTIVE).sum())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_variant_has_an_aggregated_posterior(name):
    pair, x, y = make(name), batch(name), condition(name)
    before = torch.random.get_rng_state()
    found = aggregated(pair, x, y, draws=30, repeats=2, batch_size=8)
    assert torch.equal(torch.random.get_rng_state(), before)
    k = found.draws.shape[1]
    assert found.draws.shape == (30, k) and found.mean.shape == found.variance.shape == (10, k)
    # The code that the model draws first; blocks of one code are drawn in their order.
    assert found.site == next(n for n in pair.traces(x, y=y)[1].nodes if n in latent(name) and n[0] in "uz")
    assert prior_draws(pair, found.site, 5, None if y is None else y[:5]).shape == (5, k)
    walk = traversal(pair, x[0], k - 1, [-2.0, 0.0, 2.0], None if y is None else y[:1])
    assert walk.shape == (3, 8) and not torch.equal(walk[0], walk[2])


@pytest.mark.parametrize("name", ["l2_vae", "t_vae", "ic_vae"])
def test_used_dimensions_are_the_active_units(name):
    pair = make(name)
    with torch.no_grad():
        for p in pair.guide.encoder.parameters():
            p.mul_(1.5)
    x = batch(name, rows=50)
    assert int(aggregated(pair, x, draws=2).used.sum()) == active_units_by_site(pair, x)["z"]


def test_a_deterministic_code_is_drawn_from_its_data():
    pair, x = make("autoencoder"), batch("autoencoder")
    found = aggregated(pair, x, draws=4000)
    torch.testing.assert_close(found.draws, found.mean[found.rows])
    assert not found.variance.any()
    # With replacement, each datum as likely as another: scipy's chi-squared test.
    assert scipy.stats.chisquare(torch.bincount(found.rows)).pvalue > 1e-4


def test_draws_follow_the_seed():
    pair, x = make("iaf_vae"), batch("iaf_vae")
    first, again, other = (aggregated(pair, x, draws=30, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.draws, again.draws) and torch.equal(first.variance, again.variance)
    assert not torch.equal(first.draws, other.draws)


def test_pixels_in_bytes_are_those_in_floats():
    pair = make("l2_vae")
    x = torch.randint(256, (10, 8), dtype=torch.uint8)
    one, other = aggregated(pair, x, draws=20), aggregated(pair, x.float() / 255, draws=20)
    assert torch.equal(one.draws, other.draws)
    assert torch.equal(traversal(pair, x[0], 0, [1.0]), traversal(pair, x[0].float() / 255, 0, [1.0]))


def test_draws_of_the_prior_are_the_models():
    pair = make("ladder_vae")
    found = prior_draws(pair, "z_1", 6)
    with torch.no_grad():
        seed_at(0)
        trace = poutine.trace(pair.model).get_trace(None, None, size=6)
    assert torch.equal(found, trace.nodes["z_1"]["value"])
    assert prior_draws(make("affine_ic_vae"), "z", 4).shape == (4, 3)
    assert pyro.poutine.runtime._PYRO_STACK == []
    with pytest.raises(InputError, match="no site 'u'"):
        prior_draws(pair, "u", 3)


def test_a_move_at_the_top_of_a_hierarchy_is_seen_at_the_bottom():
    pair, x = make("ladder_vae"), batch("ladder_vae")
    walk = traversal(pair, x[0], 0, [-2.0, 2.0], site="z_2")
    with torch.no_grad():
        z = pair.guide.up(x[:1])[-1][0].expand(2, -1).clone()
        z[:, 0] = torch.tensor([-2.0, 2.0])
        expected = torch.sigmoid(pair.model.decoder(pair.guide.down[0](z)[0]))
    torch.testing.assert_close(walk, expected)


def test_bad_arguments_are_refused():
    pair, x = make("l2_vae"), batch("l2_vae")
    for arguments, message in (
        ({"draws": 1}, "draws is 1"), ({"repeats": 1}, "repeats"), ({"site": "u"}, "unknown site 'u'"),
        ({"seed": -1}, "seed"), ({"batch_size": 0}, "batch_size"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            aggregated(pair, x, **arguments)
    with pytest.raises(InputError, match="one datum"):
        aggregated(pair, x[:1])
    with pytest.raises(InputError, match="dimension is 3: 'z' has 3"):
        traversal(pair, x[0], 3, [0.0])
    with pytest.raises(InputError, match="of one"):
        traversal(pair, x, 0, [0.0])
    with pytest.raises(InputError, match="span"):
        traversal(pair, x[0], 0, 1.0)
    assert code_site(make("iwae_2"), batch("iwae_2")) == "z_2"
    y = condition("structured_cvae")
    with pytest.raises(InputError, match="direct_output has no code of real numbers"):
        aggregated(direct_output(8, y.shape[1], (5,)), batch("structured_cvae"), y)
