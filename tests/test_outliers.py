"""P(outlier): by the model itself, or read off residuals; and the measures of such probabilities."""

import math
from itertools import pairwise

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.evaluation.metrics import masked_smse
from pyro_vaes.evaluation.reliability import brier_skill, calibration_error, reliability
from pyro_vaes.inference.outliers import clean_log_probability, outlier_probability, two_parts

torch.set_num_threads(1)


def contaminated(n=20_000, share=0.1, broad=5.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    dirty = torch.rand(n, generator=g) < share
    return torch.randn(n, generator=g) * torch.where(dirty, broad, 1.0), dirty


def test_two_parts_are_found_and_their_probabilities_are_calibrated():
    u, dirty = contaminated()
    found = two_parts(u)
    assert found.share == pytest.approx(0.1, abs=0.015)
    assert found.narrow == pytest.approx(1.0, abs=0.03) and found.broad == pytest.approx(5.0, abs=0.3)
    p = -torch.expm1(found.log_clean)
    assert calibration_error(reliability(p, dirty)) < 0.01
    assert brier_skill(p, dirty) > 0.4


def test_the_likelihood_never_falls():
    history = two_parts(contaminated(2000)[0]).log_likelihood
    assert len(history) > 5 and all(b > a - 1e-9 for a, b in pairwise(history))


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
def test_two_parts_do_not_depend_on_the_unit(unit):
    u, _ = contaminated(2000)
    torch.testing.assert_close(
        two_parts(u.double() * unit, minimum=1e-9).log_clean, two_parts(u.double(), minimum=1e-9).log_clean
    )


def test_residuals_of_one_kind_are_called_clean():
    p = -torch.expm1(two_parts(torch.randn(5000, generator=torch.Generator().manual_seed(1))).log_clean)
    assert (p > 0.5).float().mean() < 0.02


def test_residuals_that_are_zero_have_an_answer():
    u = torch.zeros(50)
    assert torch.isfinite(two_parts(u).log_clean).all()
    u[3] = 4.0
    assert (two_parts(u).log_clean < math.log(0.5)).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("u", [torch.zeros(0), torch.tensor([1.0, float("nan")])])
def test_bad_residuals_are_refused(u):
    with pytest.raises(pv.InputError, match="must be finite and not empty"):
        two_parts(u)


def made(name, **arguments):
    torch.manual_seed(0)
    return pv.variant(name)(5, 2, (6,), **arguments)


def test_of_a_mixture_it_is_the_posterior_by_hand():
    """One draw of a code that does not vary: Bayes' rule on two densities."""
    pair = made("rvae", alpha=0.75)
    with torch.no_grad():
        pair.guide.encoder.raw_scale.weight.zero_(), pair.guide.encoder.raw_scale.bias.fill_(-60.0)
    x = 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    mu, sigma = pair.model.decoder(pair.guide.encoder(x)[0]), pair.model.scale()
    clean = 0.75 * torch.exp(-((x - mu) ** 2) / (2 * sigma**2)) / sigma
    dirt = 0.25 * torch.exp(-(x**2) / 8) / 2
    by_hand = (dirt / (clean + dirt)).detach()
    torch.testing.assert_close(outlier_probability(pair, x, 3).float(), by_hand, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["rvae", "t_vae", "ic_vae", "l2_vae", "gamma_vae"])
def test_every_variant_has_probabilities_and_a_gross_error_is_one(name):
    pair = made(name, **({} if name == "rvae" else {"real": True}))
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    x[4, 2] = 60.0
    state = torch.get_rng_state()
    p = outlier_probability(pair, x, 4)
    assert torch.equal(state, torch.get_rng_state())
    assert p.shape == x.shape and p.dtype == torch.float64 and p.min() >= 0 and p.max() <= 1
    assert p[4, 2] > 0.99
    assert torch.equal(p, outlier_probability(pair, x, 4))
    log_clean = clean_log_probability(pair, x, 4)
    assert torch.isfinite(log_clean).all() and log_clean.argmin() == 22


def test_bad_draws_are_refused():
    with pytest.raises(pv.InputError, match="draws is 0"):
        outlier_probability(made("rvae"), torch.randn(3, 5), 0)


def test_reliability_of_ten_cells_by_hand():
    p = torch.tensor([0.05, 0.05, 0.15, 0.15, 0.15, 0.95, 0.95, 0.95, 1.0, 0.0])
    dirty = torch.tensor([0, 0, 1, 0, 0, 1, 1, 0, 1, 0]).bool()
    bins = reliability(p, dirty)
    assert bins[0] == pytest.approx([0.1, 0, 3]) and bins[1] == pytest.approx([0.45, 1, 3])
    assert bins[9] == pytest.approx([3.85, 3, 4]) and sum(b[2] for b in bins) == 10
    assert calibration_error(bins) == pytest.approx((0.1 + 0.55 + 0.85) / 10)


def test_reliability_of_an_oracle_and_of_chance():
    g = torch.Generator().manual_seed(0)
    p = torch.rand(50_000, generator=g)
    assert calibration_error(reliability(p, torch.rand(50_000, generator=g) < p)) < 0.01
    dirty = torch.rand(50_000, generator=g) < 0.2
    assert calibration_error(reliability(dirty.float(), dirty)) == 0.0
    assert brier_skill(dirty.float(), dirty) == 1.0
    assert calibration_error(reliability(p, dirty)) > 0.2 and brier_skill(p, dirty) < 0
    assert brier_skill(torch.full_like(p, dirty.double().mean().item()), dirty) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("p", [torch.tensor([1.5]), torch.tensor([-0.1])])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(pv.InputError, match="must lie in"):
        reliability(p, torch.tensor([True]))


def test_masked_smse_by_hand():
    clean = torch.tensor([[0.0, 10.0, 5.0], [2.0, 30.0, 6.0]])  # variances 1, 100, 1/4
    estimate = torch.tensor([[0.5, 25.0, 0.0], [3.0, 30.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    # column 1: (0.25 + 1) / 2 / 1; column 2: 225 / 100; column 3 has no cell
    assert masked_smse(estimate, clean, mask) == pytest.approx((0.625 + 2.25) / 2)
    assert masked_smse(clean, clean, mask) == 0.0
    scale = torch.tensor([7.0, 0.1, 3.0])
    assert masked_smse(estimate * scale, clean * scale, mask) == pytest.approx((0.625 + 2.25) / 2, rel=1e-5)
    mean = clean.mean(0).expand_as(clean)
    assert masked_smse(mean, clean, torch.ones_like(mask)) == pytest.approx(1.0)
    with pytest.raises(pv.InputError, match="constant"):
        masked_smse(clean, torch.ones_like(clean), mask)


def test_the_likelihood_of_two_parts_never_falls():
    g = torch.Generator().manual_seed(0)
    cases = [torch.tensor([0.1, 0.1, 0.5, 0.5])]
    for case in range(60):
        n, share, broad = 4 + 5 * case, torch.rand(1, generator=g), 1 + 5 * torch.rand(1, generator=g)
        u = torch.randn(n, generator=g)
        cases.append(torch.where(torch.rand(n, generator=g) < share, broad * u, u))
    for u in cases:
        found = two_parts(u)
        steps = torch.tensor(found.log_likelihood).diff()
        assert (steps > -1e-12).all()
        assert found.broad >= 2 * found.narrow
        assert found.share <= 0.5


def test_two_parts_are_the_best_where_their_constraints_bind():
    """Two fifths of a little broader values: b = 2 a holds, and no other parameters with b >= 2 a are likelier."""
    g = torch.Generator().manual_seed(1)
    u = torch.randn(800, generator=g, dtype=torch.float64)
    u = torch.where(torch.rand(800, generator=g) < 0.4, 1.6 * u, u)
    found = two_parts(u, iterations=5000)
    share, narrow, ratio = torch.meshgrid(
        torch.linspace(0.01, 0.5, 50), torch.linspace(0.8, 1.4, 61), torch.linspace(2.0, 4.0, 21), indexing="ij"
    )
    share, narrow, ratio = (a.flatten().double()[:, None] for a in (share, narrow, ratio))
    clean = (1 - share) / narrow * torch.exp(-(u**2) / (2 * narrow**2))
    dirt = share / (ratio * narrow) * torch.exp(-(u**2) / (2 * (ratio * narrow) ** 2))
    best = ((clean + dirt).log().mean(1) - 0.5 * math.log(2 * math.pi)).max().item()
    assert found.log_likelihood[-1] >= best - 2e-6


def test_the_probabilities_are_those_of_the_parameters_given_back():
    u = torch.randn(50, generator=torch.Generator().manual_seed(2)).double() * 3
    for iterations in (1, 2, 7):
        found = two_parts(u, iterations=iterations)
        clean = (1 - found.share) / found.narrow * torch.exp(-(u**2) / (2 * found.narrow**2))
        dirt = found.share / found.broad * torch.exp(-(u**2) / (2 * found.broad**2))
        torch.testing.assert_close(found.log_clean, (clean / (clean + dirt)).log())
