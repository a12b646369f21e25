"""The maximum mean discrepancy against Gaussian closed forms."""

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vaes.errors import InputError
from pyro_vaes.inference.mmd import SCALES, mmd


def _normal(n, k, mean=0.0, sd=1.0, seed=0):
    return mean + sd * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _closed(k, m1, s1, m2, s2, h):
    """E k(u, v) of u - v ~ N(delta, s^2 I) is (1 + 2 s^2 / h)^(-k/2) exp(-|delta|^2 / (h + 2 s^2))."""

    def mean(delta, s):
        return (1 + 2 * s / h) ** (-k / 2) * math.exp(-k * delta**2 / (h + 2 * s))

    return mean(0, 2 * s1**2) + mean(0, 2 * s2**2) - 2 * mean(m1 - m2, s1**2 + s2**2)


def _by_hand(a, b, kernel, h):
    """All pairs, one by one."""

    def k(u, v):
        square = float((u - v).square().sum())
        return math.exp(-square / h) if kernel == "rbf" else sum(s * h / (s * h + square) for s in SCALES)

    def within(c):
        return sum(k(u, v) for i, u in enumerate(c) for j, v in enumerate(c) if i != j) / (len(c) * (len(c) - 1))

    return within(a) + within(b) - 2 * sum(k(u, v) for u in a for v in b) / (len(a) * len(b))


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5)])
def test_the_mean_over_repetitions_is_the_gaussian_closed_form(k, mean, sd):
    draws = torch.stack(
        [mmd(_normal(40, k, mean, sd, 2 * s), _normal(60, k, seed=2 * s + 1), "rbf", 1.5 * k) for s in range(150)]
    )
    exact, error = _closed(k, mean, sd, 0.0, 1.0, 1.5 * k), draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - exact) < 4 * error
    assert exact == 0 or exact > 8 * error  # so that a wrong constant would be seen


@pytest.mark.parametrize(("kernel", "h"), [("imq", None), ("imq", 0.7), ("rbf", None), ("rbf", 0.7)])
def test_it_is_the_sum_over_pairs(kernel, h):
    a, b = _normal(5, 3), _normal(7, 3, 0.5, seed=1)
    assert float(mmd(a, b, kernel, h)) == pytest.approx(_by_hand(a, b, kernel, h or 6.0), abs=1e-12)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_it_is_unbiased_at_zero_where_the_biased_one_is_not(kernel):
    repetitions, n, k = 200, 20, 2
    sets = [(_normal(n, k, seed=2 * s), _normal(n, k, seed=2 * s + 1)) for s in range(repetitions)]
    ours = torch.stack([mmd(a, b, kernel) for a, b in sets])
    # The V-statistic counts each row with itself: k(0) / n of both sets, and the pairs by n^2.
    top = len(SCALES) if kernel == "imq" else 1
    across = torch.stack([_cross(a, b, kernel) for a, b in sets])
    biased = (ours + 2 * across) * (n - 1) / n + 2 * top / n - 2 * across
    for draws, unbiased in ((ours, True), (biased, False)):
        assert (abs(draws.mean()) < 3 * draws.std() / math.sqrt(repetitions)) == unbiased
    assert 0.2 < (ours < 0).double().mean() < 0.8


def _cross(a, b, kernel, h=4.0):
    squares = (a[:, None] - b).square().sum(-1)
    each = torch.exp(-squares / h) if kernel == "rbf" else sum(s * h / (s * h + squares) for s in SCALES)
    return each.mean()


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_order_place_and_blocks_do_not_matter(kernel):
    a, b = _normal(11, 3), _normal(8, 3, 0.5, seed=1)
    one, order = mmd(a, b, kernel), torch.randperm(11)
    torch.testing.assert_close(mmd(a[order], b.flip(0), kernel), one)
    torch.testing.assert_close(mmd(b, a, kernel), one)
    torch.testing.assert_close(mmd(a + 100, b + 100, kernel), one)
    for block in (1, 4, 11, 50):
        torch.testing.assert_close(mmd(a, b, kernel, block=block), one)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
@pytest.mark.parametrize("block", [None, 3])
def test_its_gradient_is_that_of_finite_differences(kernel, block):
    a, b = _normal(4, 2).requires_grad_(), _normal(5, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mmd(a, b, kernel, block=block), (a, b))


def test_rows_that_coincide_have_a_finite_gradient():
    a = torch.zeros(3, 2, requires_grad=True)
    mmd(a, torch.ones(3, 2)).backward()
    assert torch.isfinite(a.grad).all() and a.grad.abs().max() > 0


def test_a_traced_step_sees_new_data():
    a, b = torch.randn(6, 2), torch.randn(4, 2)
    traced = make_fx(lambda a, b: mmd(a, b))(a, b)
    torch.testing.assert_close(traced(b.repeat(2, 1)[:6], a[:4]), mmd(b.repeat(2, 1)[:6], a[:4]))


@pytest.mark.parametrize(
    ("a", "b", "kwargs", "said"),
    [
        (torch.ones(1, 2), torch.ones(3, 2), {}, "at least 2 of each"),
        (torch.ones(3, 2), torch.ones(3, 1), {}, "(n, k) and (m, k)"),
        (torch.ones(3, 2), torch.ones(3, 2), {"kernel": "imp"}, "did you mean 'imq'"),
        (torch.ones(3, 2), torch.ones(3, 2), {"bandwidth": 0.0}, "above 0"),
        (torch.ones(3, 2), torch.ones(3, 2), {"block": 0}, "at least 1"),
    ],
)
def test_bad_sets_are_refused_in_one_line(a, b, kwargs, said):
    with pytest.raises(InputError) as error:
        mmd(a, b, **kwargs)
    assert said in str(error.value)
