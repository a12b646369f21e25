"""Calibration of a guide: tests of the right size, that fail for wrong guides whose error is known."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from test_closed_forms import F64, Solution, linear_data, linear_pair

import pyro_vaes as pv
from pyro_vaes.analysis.sbc import sbc, vsbc
from pyro_vaes.analysis.sbc_plots import calibration_figure
from pyro_vaes.analysis.uniform import band, ecdf_difference, holm, symmetry, uniformity
from pyro_vaes.distributions import Jeffreys
from pyro_vaes.errors import InputError

torch.set_num_threads(1)
SOLUTION = Solution.of(linear_data(), 2)


def pair_with(scale=1.0, shift=0.0, blind=False):
    """The linear-Gaussian pair whose guide is the posterior, then made wrong."""
    encoder = SOLUTION.encoder()
    with torch.no_grad():
        encoder.scale *= scale
        # A shift of the centre by -W(W'W + s^2) t / ... moves the mean of the code by t: solve A c = t.
        encoder.centre -= torch.linalg.lstsq(encoder.matrix, shift * encoder.scale[:, None]).solution[:, 0]
        if blind:
            encoder.matrix.zero_(), encoder.scale.fill_(1.0)
    return linear_pair(SOLUTION, encoder)


def ranks_of(repeats, scale=1.0, shift=0.0, n=300, draws=199, seed=0):
    """Ranks of n simulations of z ~ N(0, 1), x ~ N(z, 1), whose posterior is N(x / 2, 1 / 2), once per column."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, repeats, generator=g)
    middle, sd = (z + torch.randn(n, repeats, generator=g)) / 2, 0.5**0.5
    ranks = torch.zeros(n, repeats, dtype=torch.long)
    for _ in range(draws):
        ranks += middle + sd * (shift + scale * torch.randn(n, repeats, generator=g)) < z
    return ranks


def test_the_exact_guide_passes():
    found = sbc(pair_with(), seed=1)
    assert found.finding().verdict == "good"
    assert found.symmetry(1).finding().verdict == "good"
    for level in (0.5, 0.8, 0.9):
        c = found.coverage(level)
        assert c.level == pytest.approx(level)  # 200 divides into tenths
        assert bool(((c.low - 0.02 <= level) & (level <= c.high + 0.02)).all())


def test_few_simulations_are_no_good_news():
    found = sbc(pair_with(), simulations=50, seed=1)
    assert found.finding().verdict == found.symmetry().finding().verdict == "not tested"


def test_half_of_the_variance_fails_and_is_no_bias():
    found = sbc(pair_with(scale=0.5**0.5), seed=1)
    finding = found.finding()
    assert finding.verdict == "bad"
    assert {"z[0]", "z[1]"} <= set(finding.numbers["off"])
    # The interval of a normal whose standard deviation is 1 / sqrt 2: 2 Phi(1.645 / sqrt 2) - 1.
    assert found.coverage(0.9).share[:2].tolist() == pytest.approx([0.755, 0.755], abs=0.07)
    assert found.symmetry(1).finding().verdict == "good"


def test_a_shift_is_a_bias_of_its_size_and_direction():
    found = vsbc(pair_with(shift=0.5), seed=1)
    assert found.finding().verdict == "bad" and "too high" in found.finding().said
    assert found.bias.tolist() == pytest.approx([0.5, 0.5], abs=4 * float(found.error.max()))
    low = vsbc(pair_with(shift=-0.5), seed=1)
    assert "too low" in low.finding().said


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_few_data_of_no_spread_at_all_do_not_make_the_bias(shift):
    """One datum in twenty has a guide a million times too narrow: means of error / sd would be in the ten thousands."""

    class Now(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            loc, scale = self.encoder(x)
            return loc, torch.where(loc[..., :1] > 1.5, 1e-6, 1.0) * scale

    pair = pair_with(shift=shift)
    pair.guide.encoder = Now(pair.guide.encoder)
    found = sbc(pair, seed=1)
    side = found.symmetry(1)
    assert float(found.error[:, :2].mean(0).abs().max()) > 1000
    assert side.bias.tolist() == pytest.approx([shift, shift], abs=0.3)
    assert float(side.error.max()) < 0.15
    assert side.finding().numbers["largest bias"] < 1


def test_a_guide_that_never_looks_is_seen_by_the_likelihood_only():
    """q(z | x) = p(z): every entry's ranks are uniform (Modrak et al. 2023)."""
    found = sbc(pair_with(blind=True), seed=1)
    assert (found.adjusted[:2] > 0.01).all() and (found.adjusted[2:] < 0.01).all()
    assert found.finding().verdict == "caution"


@pytest.mark.parametrize(("floor", "expected"), [(0.05, (0.50, 0.91)), (0.3, (0.60, 0.96))])
def test_the_target_of_an_outlier_model_covers_more_than_it_says(floor, expected):
    """One code, six entries, R = 1: its posterior on a grid, of data that the model draws."""
    torch.manual_seed(0)
    w, grid = torch.tensor([1.0, -0.8, 0.6, 1.2, 0.9, -1.1]), torch.linspace(-5, 5, 1001)
    z = torch.randn(2000)
    x = z[:, None] * w + Jeffreys(torch.full((2000, 6), floor)).sample() + 0.01 * torch.randn(2000, 6)
    log_p = -0.5 * grid**2 + Jeffreys(torch.tensor(floor)).log_prob(x[:, None] - grid[:, None] * w).sum(-1)
    below = log_p.double().softmax(1).cumsum(1).gather(1, torch.searchsorted(grid, z)[:, None]).squeeze(1)
    held = [float(((2 * below - 1).abs() < level).double().mean()) for level in (0.5, 0.9)]
    assert held == pytest.approx(expected, abs=0.03)
    assert sbc(pv.ic_vae(4, 2, (5,)), simulations=20, draws=19).kernel


def test_size_and_power_of_the_uniformity_test():
    """400 repetitions of 300 simulations: 5 % of right guides are rejected (2.2 % is two standard errors)."""
    size = (uniformity(ranks_of(400), 200) < 0.05).double().mean()
    assert 0.02 < size < 0.08
    power = (uniformity(ranks_of(60, scale=0.5**0.5), 200) < 0.01).double().mean()
    assert power > 0.95


def test_size_and_power_of_the_symmetry_test():
    p = ranks_of(400).double() / 199
    assert 0.02 < (symmetry(p)[1] < 0.05).double().mean() < 0.08
    assert (symmetry(ranks_of(60, shift=0.5).double() / 199)[1] < 0.01).double().mean() > 0.95
    assert (symmetry(ranks_of(100, scale=0.5**0.5).double() / 199)[1] < 0.05).double().mean() < 0.12
    # What the source takes, two independent samples: by reflection, 4 (1 - Phi(1.92)) = 11 % of right guides fail.
    theirs = np.mean([ks_2samp(c, 1 - c, method="asymp").pvalue < 0.05 for c in p.T.numpy()])
    assert 0.07 < theirs < 0.15


def test_the_symmetry_statistic_is_that_of_kolmogorov_and_smirnov():
    p = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=F64) ** 1.5
    theirs = [ks_2samp(c, 1 - c).statistic for c in p.T.numpy()]
    assert symmetry(p)[0].tolist() == pytest.approx(theirs)


def test_the_band_is_arviz_s():
    utils = pytest.importorskip("arviz_stats.ecdf_utils" if _arviz_one() else "arviz.stats.ecdf_utils")
    if _arviz_one():
        pytest.skip("1.x computes bands of another kind")
    ours = band(250, 20)
    low, high = utils.ecdf_confidence_band(250, ours.at, ours.at, prob=0.95, method="optimized")
    # One count, which is the step of a binomial quantile.
    np.testing.assert_allclose(ours.low, low - ours.at, atol=1.01 / 250)
    np.testing.assert_allclose(ours.high, high - ours.at, atol=1.01 / 250)


def _arviz_one():
    from importlib.metadata import version

    return int(version("arviz").split(".")[0]) >= 1


def test_the_band_holds_as_often_as_it_says():
    inside = band(100, 50, level=0.9)
    ranks = torch.randint(50, (100, 400), generator=torch.Generator().manual_seed(3))
    lines = ecdf_difference(ranks, 50)
    share = ((lines >= inside.low[:, None] - 1e-9) & (lines <= inside.high[:, None] + 1e-9)).all(0).mean()
    assert 0.85 < share < 0.95
    # The same statement as the p-value's.
    assert share == pytest.approx(float((uniformity(ranks, 50) > 0.1).double().mean()), abs=0.02)


def test_holm_by_hand():
    assert holm(torch.tensor([0.03, 0.01, 0.02])).tolist() == pytest.approx([0.04, 0.03, 0.04])


def test_functions_of_ones_own_conditions_and_random_state():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    pair = pv.cvae(4, 3, 2, (5,))
    torch.random.set_rng_state(before)
    pair.train()
    functions = {
        "size": lambda code, x: code["z"].square().sum(-1),
        "tied": lambda code, x: torch.ones(code["z"].shape[:2]),
    }
    found = sbc(pair, torch.tensor([0, 1, 2]), simulations=30, draws=19, functions=functions, batch_size=7)
    assert found.names == ("z[0]", "z[1]", "size", "tied") and found.ranks.shape == (30, 4)
    assert found.ranks[:, 3].unique().numel() > 5  # ties are broken at random
    assert pair.training and torch.equal(before, torch.random.get_rng_state())
    again = sbc(pair, torch.tensor([0, 1, 2]), simulations=30, draws=19, functions={}, batch_size=7)
    assert torch.equal(found.ranks[:, :2], again.ranks)


@pytest.mark.parametrize(
    ("pair", "arguments", "message"),
    [
        (lambda: pv.indexed_ic_vae(4, 2, (5,)), {}, "factor 'sigma' is part of no distribution"),
        (lambda: pv.ic_vae(4, 2, (5,), floor=0.1, width=float("inf")), {}, "prior of 's' is improper"),
        (lambda: pv.autoencoder(4, 2, (5,)), {}, "puts a point mass on the code"),
        (lambda: pv.cvae(4, 3, 2, (5,)), {}, "y is missing"),
        (lambda: pv.l2_vae(4, 2, (5,)), {"simulations": 5}, "simulations is 5"),
        (lambda: pv.l2_vae(4, 2, (5,)), {"functions": {"f": lambda code, x: x}}, "function 'f' gives"),
    ],
)
def test_what_cannot_be_simulated_is_refused(pair, arguments, message):
    with pytest.raises(InputError, match=message):
        sbc(pair(), **arguments)


def test_the_figure_names_what_is_off():
    figure = calibration_figure(sbc(pair_with(scale=0.5), simulations=100, draws=99))
    words = [t.get_text() for t in figure.axes[0].texts]
    assert "z[0]" in words and "bad" in figure.get_suptitle()
