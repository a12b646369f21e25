import math

import pytest
import torch
from sklearn import metrics as sk

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.metrics import average_precision, cell_auc, damage, dirty_mse, f1, mse, smse

T, F = True, False
# Ten cells: the first three are dirty.
MASK = torch.tensor([[T, T, T, F, F], [F, F, F, F, F]])
CLEAN = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0, 9.0]])
ESTIMATE = CLEAN + torch.tensor([[1.0, 2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 7.0]])


def random(seed=0, n=400, d=50):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=g), torch.rand(n, d, generator=g), torch.rand(n, d, generator=g) < 0.3


def test_errors_by_hand():
    assert mse(ESTIMATE, CLEAN) == pytest.approx((1 + 4 + 4 + 49) / 10)
    assert dirty_mse(ESTIMATE, CLEAN, MASK) == pytest.approx(9 / 3)
    assert damage(ESTIMATE, CLEAN, MASK) == pytest.approx(49 / 7)


def test_smse_by_hand():
    # Every column has squared deviation 2 * 2.5^2 = 12.5.
    assert smse(ESTIMATE, CLEAN) == pytest.approx((1 + 4 + 4 + 0 + 49) / 12.5 / 5)


def test_ranking_by_hand():
    # From the top: dirty, clean, dirty, dirty, then six clean.
    score = torch.tensor([[10.0, 8.0, 7.0, 9.0, 6.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert cell_auc(score, MASK) == pytest.approx((7 + 6 + 6) / 21)
    assert average_precision(score, MASK) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert f1(score > 7.5, MASK) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert cell_auc(torch.zeros(2, 5), MASK) == 0.5


def test_agree_with_scikit_learn():
    a, b, mask = random()
    flat = mask.reshape(-1).numpy()
    assert mse(a, b) == pytest.approx(sk.mean_squared_error(b.numpy(), a.numpy()))
    assert cell_auc(a, mask) == pytest.approx(sk.roc_auc_score(flat, a.reshape(-1).numpy()))
    assert average_precision(a, mask) == pytest.approx(sk.average_precision_score(flat, a.reshape(-1).numpy()))
    assert f1(a > 0.5, mask) == pytest.approx(sk.f1_score(flat, (a > 0.5).reshape(-1).numpy()))


def test_agree_with_their_formulas():
    a, b, mask = random()
    error = (a.double() - b.double()).square()
    assert mse(a, b) == pytest.approx(float(error.mean()))
    assert dirty_mse(a, b, mask) == pytest.approx(float(error[mask].mean()))
    assert damage(a, b, mask) == pytest.approx(float(error[~mask].mean()))
    assert smse(a, b) == pytest.approx(float((error.mean(0) / b.double().var(0, correction=0)).mean()))


def test_oracle_is_perfect():
    a, clean, mask = random()
    assert cell_auc(mask.float(), mask) == average_precision(mask.float(), mask) == f1(mask, mask) == 1
    assert mse(clean, clean) == smse(clean, clean) == dirty_mse(clean, clean, mask) == damage(a, a, mask) == 0


def test_noise_is_chance():
    score, _, mask = random()
    assert cell_auc(score, mask) == pytest.approx(0.5, abs=0.02)
    share = float(mask.float().mean())
    assert average_precision(score, mask) == pytest.approx(share, abs=0.02)
    # Flagging half at random: precision is the dirty share, recall one half.
    assert f1(score > 0.5, mask) == pytest.approx(2 * share * 0.5 / (share + 0.5), abs=0.02)


def test_smse_weighs_features_equally_and_scores_the_mean_one():
    a, clean, _ = random()
    scale = torch.logspace(-3, 3, clean.shape[1])
    assert smse(a * scale, clean * scale) == pytest.approx(smse(a, clean), rel=1e-5)
    assert smse(clean.mean(0).expand_as(clean), clean) == pytest.approx(1)


def test_smse_of_a_constant_feature():
    clean = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    assert smse(clean, clean) == 0
    assert smse(clean + torch.tensor([0.1, 0.0]), clean) == pytest.approx(0.5)


def test_f1_of_nothing_is_zero():
    assert f1(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mse(CLEAN, CLEAN[:1]), "shape"),
        (lambda: mse(torch.ones(0), torch.ones(0)), "empty"),
        (lambda: mse(CLEAN * math.nan, CLEAN), "estimate has 10"),
        (lambda: mse(CLEAN, CLEAN * math.nan), "clean has 10"),
        (lambda: dirty_mse(CLEAN, CLEAN, MASK[:1]), "mask has shape"),
        (lambda: dirty_mse(CLEAN, CLEAN, MASK.float()), "bool"),
        (lambda: dirty_mse(CLEAN, CLEAN, MASK & False), "no cells"),
        (lambda: damage(CLEAN, CLEAN, MASK | True), "no cells"),
        (lambda: damage(CLEAN, CLEAN, MASK.float()), "bool"),
        (lambda: cell_auc(CLEAN, MASK & False), "one value"),
        (lambda: cell_auc(CLEAN, MASK | True), "one value"),
        (lambda: cell_auc(CLEAN * math.nan, MASK), "score has 10"),
        (lambda: cell_auc(CLEAN, MASK.long()), "bool"),
        (lambda: average_precision(CLEAN, MASK & False), "one value"),
        (lambda: f1(CLEAN, MASK), "pred"),
        (lambda: f1(MASK, CLEAN), "truth"),
        (lambda: smse(torch.ones(4), torch.ones(4)), "at least 2"),
        (lambda: smse(torch.ones(1, 4), torch.ones(1, 4)), "at least 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
