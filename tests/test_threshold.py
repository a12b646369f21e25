import itertools
import math

import pytest
import torch

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.threshold import detect, drae_threshold


def share(scores, threshold):
    """Within-class share of the squared deviations, from its definition."""
    parts = [scores[scores <= threshold], scores[scores > threshold]]
    within = sum(float((p - p.mean()).square().sum()) for p in parts)
    return within / float((scores - scores.mean()).square().sum())


def brute_force(scores):
    values = scores.unique()
    middles = [float(a + b) / 2 for a, b in itertools.pairwise(values)]
    return min(share(scores, t) for t in middles)


@pytest.mark.parametrize("n", [2, 3, 5, 30, 200])
@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy", "ties", "two", "offset"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force(n, kind, seed):
    g = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, generator=g, dtype=torch.float64)
    scores = {
        "normal": normal,
        "uniform": torch.rand(n, generator=g, dtype=torch.float64),
        "heavy": (2 * normal).exp(),
        "ties": (3 * normal).round(),
        "two": normal + 8 * (torch.arange(n) % 3 == 0),
        "offset": 1e6 + normal,
    }[kind]
    scores[0] += 1  # never all equal
    t = drae_threshold(scores)
    assert share(scores, t) == pytest.approx(brute_force(scores), rel=1e-6, abs=1e-12)
    lower, upper = scores[scores <= t].max(), scores[scores > t].min()
    assert t == pytest.approx(float(lower + upper) / 2, rel=1e-12)


def test_finds_planted_outliers_in_any_order_and_scale():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(500, generator=g) < 0.2
    scores = torch.rand(500, generator=g) + 3 * truth
    assert torch.equal(detect(scores), truth)
    for a, b in ((1e-30, 0.0), (1e30, 0.0), (1.0, -50.0)):
        assert torch.equal(detect(a * scores.double() + b), truth)


def test_two_scores():
    assert drae_threshold(torch.tensor([1.0, 3.0])) == 2.0
    assert detect(torch.tensor([3.0, 1.0])).tolist() == [True, False]


def test_neighbouring_floats_stay_apart():
    low = torch.tensor(1.0, dtype=torch.float64)
    for one in (low, low.float()):
        scores = torch.stack([one, torch.nextafter(one, one + 1)])
        assert detect(scores).tolist() == [False, True]


def test_huge_scores_do_not_overflow():
    assert detect(torch.tensor([-1.7e308, 0.0, 1.7e308, 1.7e308], dtype=torch.float64)).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_integers_are_scores_too():
    assert drae_threshold(torch.tensor([0, 0, 1, 9])) == 5.0


def test_speed_is_not_quadratic():
    scores = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    assert drae_threshold(scores) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.tensor([]), "0 distinct"),
        (torch.tensor([1.0]), "1 distinct"),
        (torch.ones(9), "1 distinct"),
        (torch.tensor([1.0, math.nan]), "NaN"),
        (torch.tensor([1.0, math.inf]), "infinite"),
        (torch.ones(2, 2), "shape"),
    ],
)
def test_bad_input(scores, message):
    for function in (drae_threshold, detect):
        with pytest.raises(InputError, match=message):
            function(scores)
