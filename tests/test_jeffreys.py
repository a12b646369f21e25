"""The Jeffreys density of an outlier: scale invariance, normaliser, sampler, the pole at zero."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest

from pyro_vaes.distributions import Jeffreys

torch.set_num_threads(1)
F64 = torch.float64


def prior(floor, width=1.0, **kw) -> Jeffreys:
    return Jeffreys(torch.tensor(floor, dtype=F64), width, **kw)


def density(p: Jeffreys, s: float) -> float:
    return p.log_prob(torch.tensor(s, dtype=F64)).exp().item()


def mass(p: Jeffreys, low: float, high: float) -> float:
    """By quadrature in log s, where 1/s is flat."""
    return quad(lambda t: density(p, math.exp(t)) * math.exp(t), math.log(low), math.log(high), epsabs=0, limit=200)[0]


@pytest.mark.parametrize("width", [1.0, 30.0, math.inf])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.25), (-0.3, 0.9), (0.01, -0.02)])
def test_without_a_floor_densities_are_as_one_over_the_size(a, b, width):
    """p(a) / p(b) -> |b| / |a|; the error is of the order floor^2."""
    errors = []
    for floor in (1e-3, 1e-4, 1e-6):
        ratio = density(prior(floor, width), a) / density(prior(floor, width), b)
        errors.append(abs(ratio * abs(a) / abs(b) - 1))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-7
    assert errors[0] == pytest.approx(100 * errors[1], rel=0.05)


def test_the_floor_is_where_the_density_stops_growing():
    p = prior(0.1, math.inf)
    assert density(p, 0.0) == pytest.approx(1 / 0.1)
    assert density(p, 0.1) == pytest.approx(1 / (0.1 * math.sqrt(2)))
    assert density(p, -0.3) == density(p, 0.3) == pytest.approx(1 / math.sqrt(0.3**2 + 0.1**2))


@pytest.mark.parametrize("c", [2.0, 10.0])
def test_every_scale_has_the_same_mass(c):
    """III-A: P(|s| in [c^k, c^(k+1)]) is log c / asinh(R / floor), whatever k, down to the floor."""
    p = prior(1e-9)
    k = range(-int(6 * math.log(10) / math.log(c)), 0)
    masses = [2 * mass(p, c**i, c ** (i + 1)) for i in k]
    assert len(masses) >= 6
    for m in masses:
        assert m == pytest.approx(math.log(c) / math.asinh(1e9), rel=1e-5)


def test_squared_errors_are_scale_invariant_too():
    """III-A is about e = s^2: its mass of [c^k, c^(k+1)] is that of |s| between the roots."""
    p = prior(1e-9, 100.0)
    masses = [mass(p, 10 ** (k / 2), 10 ** ((k + 1) / 2)) for k in (-2, -1, 0, 1)]
    for m in masses:
        assert m == pytest.approx(masses[0], rel=1e-5)


@pytest.mark.parametrize("width", [0.5, 1.0, 255.0])
@pytest.mark.parametrize("floor", [1e-3, 0.1, 2.0])
def test_normaliser_by_quadrature(floor, width):
    p = prior(floor, width)
    # In u = asinh(s / floor), where the integrand is flat and s runs over [-R, R].
    top = math.asinh(width / floor)
    total = quad(lambda u: density(p, floor * math.sinh(u)) * floor * math.cosh(u), -top, top)[0]
    assert total == pytest.approx(1.0, abs=1e-9)
    plain = quad(lambda s: density(p, s), -width, width, points=[0.0], limit=500)[0]
    assert plain == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize(("floor", "width"), [(1e-3, 1.0), (0.1, 1.0), (0.5, 8.0), (3.0, 1.0)])
def test_draws_follow_the_cumulative_distribution(floor, width):
    """Kolmogorov-Smirnov, with a distribution function that comes from the density by quadrature alone."""
    torch.manual_seed(0)
    p = prior(floor, width)
    draws = p.sample((4000,))
    assert draws.shape == (4000,) and draws.abs().max() <= width
    u = torch.linspace(-math.asinh(width / floor), math.asinh(width / floor), 20_001, dtype=F64)
    s = floor * u.sinh()
    cumulative = torch.cat([torch.zeros(1, dtype=F64), torch.cumulative_trapezoid(p.log_prob(s).exp(), s)])
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-5)

    def cdf(values):
        at = torch.searchsorted(s, torch.as_tensor(values, dtype=F64)).clamp(max=len(s) - 1)
        return cumulative[at].numpy()

    result = kstest(draws.numpy(), cdf)
    assert result.pvalue > 0.01
    assert kstest((1.1 * draws).numpy(), cdf).pvalue < result.pvalue  # the test can see


def test_the_test_of_the_sampler_has_power():
    """A floor of twice the size is seen."""
    torch.manual_seed(0)
    floor = 0.1
    draws = prior(2 * floor).sample((4000,)).numpy()
    top = math.asinh(1 / floor)
    assert kstest(draws, lambda s: 0.5 + torch.asinh(torch.as_tensor(s) / floor).numpy() / (2 * top)).pvalue < 1e-3


def test_draws_are_differentiable_in_the_floor():
    """d/d floor E[s^2] by the path, against the derivative of the integral."""
    floor = torch.tensor(0.2, dtype=F64, requires_grad=True)
    torch.manual_seed(1)
    draws = Jeffreys(floor, 1.0).rsample((200_000,)).square()
    (g,) = torch.autograd.grad(draws.mean(), floor)

    def second_moment(f):
        return quad(lambda s: s * s * density(prior(f), s), -1, 1)[0]

    numeric = (second_moment(0.2 + 1e-4) - second_moment(0.2 - 1e-4)) / 2e-4
    assert g.item() == pytest.approx(numeric, rel=0.03)
    assert draws.mean().item() == pytest.approx(second_moment(0.2), rel=0.02)


def test_the_improper_prior_has_no_normaliser_and_no_draws():
    p = prior(0.1, math.inf)
    s = torch.tensor([0.0, -0.4, 1e6], dtype=F64)
    torch.testing.assert_close(p.log_prob(s), -0.5 * torch.log(s**2 + 0.01))
    assert p.log_normaliser.item() == 0.0
    with pytest.raises(ValueError, match="cannot be sampled"):
        p.sample()
    with pytest.raises(ValueError, match="cannot be sampled"):
        p.rsample((3,))


@pytest.mark.parametrize("width", [1.0, math.inf])
def test_gradient_at_zero_is_finite(width):
    s = torch.zeros(3, dtype=F64, requires_grad=True)
    floor = torch.tensor([1e-6, 1e-3, 1.0], dtype=F64, requires_grad=True)
    (g_s, g_floor) = torch.autograd.grad(Jeffreys(floor, width).log_prob(s).sum(), (s, floor))
    assert (g_s == 0).all() and g_floor.isfinite().all()


def test_gradient_pulls_towards_zero_by_the_inverse_of_the_size():
    s = torch.tensor([-2.0, 0.5], dtype=F64, requires_grad=True)
    (g,) = torch.autograd.grad(prior(1e-9).log_prob(s).sum(), s)
    torch.testing.assert_close(g, -1 / s.detach())


def test_outside_of_the_width_the_kernel_goes_on():
    p = prior(0.1)
    assert density(p, 3.0) / density(p, 0.5) == pytest.approx(math.sqrt(0.26 / 9.01))


def test_only_the_normaliser_keeps_a_learned_floor_from_zero():
    """The floor of largest likelihood is the right one; without a normaliser it is zero."""
    torch.manual_seed(2)
    s = prior(0.05).sample((20_000,))
    floors = torch.logspace(-4, 0, 201, dtype=F64)
    proper = torch.stack([Jeffreys(f, 1.0).log_prob(s).mean() for f in floors])
    improper = torch.stack([Jeffreys(f, math.inf).log_prob(s).mean() for f in floors])
    assert floors[proper.argmax()].item() == pytest.approx(0.05, rel=0.1)
    assert improper.argmax() == 0


def test_shapes_and_dtypes():
    p = Jeffreys(torch.full((3,), 0.1)).expand((2, 3))
    assert p.batch_shape == (2, 3) and p.sample((4,)).shape == (4, 2, 3) and p.log_prob(torch.zeros(3)).shape == (2, 3)
    assert p.sample().dtype == torch.float32 and prior(0.1).sample().dtype == F64
    assert p.to_event(1).log_prob(torch.zeros(3)).shape == (2,)


@pytest.mark.parametrize(("floor", "width"), [(0.0, 1.0), (-1.0, 1.0), (0.1, 0.0), (0.1, -2.0)])
def test_a_floor_or_width_that_is_not_positive_is_refused(floor, width):
    with pytest.raises(ValueError, match=r"floor|width"):
        prior(floor, width, validate_args=True)
