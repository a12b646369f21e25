"""Power-scaling on the linear-Gaussian model, where the posterior is known for every alpha."""

import math
import warnings

import numpy as np
import pytest
import torch
from test_closed_forms import F64, Solution, linear_data, linear_pair

import pyro_vaes as pv
from pyro_vaes.analysis.sensitivity import cumulative_jensen_shannon, power_scaling
from pyro_vaes.errors import InputError

torch.set_num_threads(1)
X, SOLUTION = linear_data()[:6], Solution.of(linear_data(), 2)


def wrong_pair():
    """A guide that is wider than the posterior and off, so that weights have work to do."""
    encoder = SOLUTION.encoder()
    with torch.no_grad():
        encoder.scale *= 1.3
        encoder.centre += 0.05
    return linear_pair(SOLUTION, encoder)


def posterior(alpha=1.0, beta=1.0):
    """Mean (6, 2) and sd (2,) of the posterior under p(z)^alpha p(x | z)^beta; here the covariance is diagonal."""
    w, noise = SOLUTION.w, SOLUTION.sigma**2 / beta
    cov = torch.linalg.inv(alpha * torch.eye(2, dtype=F64) + w.T @ w / noise)
    return (X - SOLUTION.b) @ w @ cov / noise, cov.diag().sqrt()


def per_doubling(f):
    h = 1e-4
    return [(a - b) / (2 * h) for a, b in zip(f(2**h), f(2**-h), strict=True)]


def test_posterior_and_its_change_are_those_of_the_closed_form():
    found = power_scaling(wrong_pair(), X, draws=20_000)
    mean, sd = posterior()
    torch.testing.assert_close(found.mean, mean, atol=0.01, rtol=0)
    torch.testing.assert_close(found.sd, sd.expand(6, 2), atol=0, rtol=0.03)
    for change, f in ((found.prior, posterior), (found.likelihood, lambda a: posterior(1.0, a))):
        moved, widened = per_doubling(f)
        torch.testing.assert_close(change.mean / sd, moved / sd, atol=0.02, rtol=0)
        torch.testing.assert_close(change.sd / sd, widened.expand(6, 2) / sd, atol=0.02, rtol=0)
    assert bool(found.trusted.all())


def test_the_distance_is_that_of_the_two_normals():
    """By quadrature between the posteriors at 1 and 1 +- 0.01, on the support that the draws span."""
    found = power_scaling(linear_pair(SOLUTION, SOLUTION.encoder()), X, draws=20_000)
    for change, f in ((found.prior, posterior), (found.likelihood, lambda a: posterior(1.0, a))):
        expected = sum(_between(f(1.0), f(1 + h)) / abs(math.log2(1 + h)) / 2 for h in (-0.01, 0.01))
        torch.testing.assert_close(change.distance, expected, rtol=0.15, atol=0.003)


def _between(one, other):
    (mean, sd), (mean_, sd_) = one, other
    # The extremes of 20 000 normal draws lie at about 4 sd.
    z = (mean + sd * torch.linspace(-4, 4, 2001, dtype=F64)[:, None, None]).contiguous()
    p, q = (torch.special.ndtr((z - m) / s) for m, s in ((mean, sd), (mean_, sd_)))
    mass = [torch.cat([c[:1], c.diff(dim=0)]) for c in (p, q)]
    return cumulative_jensen_shannon(z, *(m / m.sum(0) for m in mass))


def test_the_distance_is_arviz_s():
    """Equal weights against others: ArviZ knows no weighted base."""
    rng = np.random.default_rng(0)
    draws, prior = rng.normal(size=2000), rng.normal(size=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

        if int(arviz.__version__.split(".")[0]) < 1:
            from arviz.stats.stats import _cjs_dist as theirs
        else:
            from arviz_stats.base import array_stats

            theirs = array_stats._cjs_dist
    weights = np.exp(0.1 * prior)
    weights /= weights.sum()
    expected = max(float(theirs(draws, weights)), float(theirs(-draws, weights)))
    order = draws.argsort()
    z, w = (torch.as_tensor(a[order]) for a in (draws, weights))
    assert float(cumulative_jensen_shannon(z, torch.full_like(w, 1 / 2000), w)) == pytest.approx(expected, rel=1e-6)


def test_far_data_conflict_with_a_strong_prior():
    """A datum ten sds out in the weakly seen direction, noise as large as the signal: prior and data pull."""
    weak = Solution(0.7 * SOLUTION.w / SOLUTION.w.norm(dim=0), SOLUTION.b, torch.tensor(1.0, dtype=F64))
    near, far = weak.b[None], weak.b + 10 * weak.w.sum(1)[None]
    pair = linear_pair(weak, weak.encoder())
    assert not power_scaling(pair, near, draws=4000).conflict.any()
    found = power_scaling(pair, far, draws=4000)
    assert found.conflict.all() and found.finding().verdict == "caution"


def test_a_code_that_the_data_leave_alone_is_all_prior():
    idle = Solution(1e-6 * SOLUTION.w, SOLUTION.b, SOLUTION.sigma)
    found = power_scaling(linear_pair(idle, idle.encoder()), X, draws=500)
    assert found.weak.all() and found.idle.all()
    assert "the posterior is the prior" in found.finding().said
    assert not power_scaling(wrong_pair(), X, draws=500).idle.any()


def test_weights_that_cannot_be_trusted_say_so():
    encoder = SOLUTION.encoder()
    with torch.no_grad():
        encoder.scale *= 0.2
    found = power_scaling(linear_pair(SOLUTION, encoder), X, draws=500)
    assert found.finding().verdict == "not tested"


def test_what_has_no_weights_is_refused():
    with pytest.raises(InputError, match="no importance weights"):
        power_scaling(pv.autoencoder(4, 2, (5,)), torch.rand(3, 4))
    with pytest.raises(InputError, match=r"step is 0\.7"):
        power_scaling(pv.l2_vae(4, 2, (5,)), torch.rand(3, 4), step=0.7)
