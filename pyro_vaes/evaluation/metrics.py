"""How close is the cleaned data to the clean, and were the outliers found?

Every function returns a Python float. Arrays may have any shape, as long as the two agree; scikit-learn does the
arithmetic where it has the measure.
"""

import torch
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.tensors import NARROW, plain


def mse(estimate: Tensor, clean: Tensor) -> float:
    """Mean squared error over all cells.

    Formula: ``mean (estimate - clean)^2``.

    Args:
        estimate: the reconstruction, any shape, finite.
        clean: the truth, of the same shape; the result is in its units squared.

    Raises:
        InputError: shapes differ, or a value is NaN or infinite, or there are none.

    Source: the measure of the RiC-VAE paper, Fig. 5.

    >>> mse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    2.0
    """
    from sklearn.metrics import mean_squared_error

    _check(estimate=estimate, clean=clean)
    return float(mean_squared_error(_flat(clean), _flat(estimate)))


def dirty_mse(estimate: Tensor, clean: Tensor, mask: Tensor) -> float:
    """Mean squared error on the dirty cells: was the dirt repaired?

    Formula: ``mean of (estimate - clean)^2 where mask``.

    Args:
        estimate: the reconstruction, any shape, finite.
        clean: the truth, of the same shape.
        mask: bool, of the same shape, True where a cell was corrupted; at least one.

    Raises:
        InputError: shapes differ, a value is NaN or infinite, ``mask`` is not bool or has no True.

    Source: ours, to split :func:`mse` in two.

    >>> dirty_mse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]), torch.tensor([False, True]))
    4.0
    """
    _check(estimate=estimate, clean=clean, mask=mask)
    _check_mask(mask)
    return mse(estimate[mask], clean[mask])


def damage(estimate: Tensor, clean: Tensor, mask: Tensor) -> float:
    """Mean squared error on the clean cells: what did cleaning break?

    Formula: ``mean of (estimate - clean)^2 where not mask``. Returning the input unchanged scores 0.

    Args:
        estimate: the reconstruction, any shape, finite.
        clean: the truth, of the same shape.
        mask: bool, of the same shape, True where a cell was corrupted; at least one False.

    Raises:
        InputError: shapes differ, a value is NaN or infinite, ``mask`` is not bool or has no False.

    Source: ours, to split :func:`mse` in two.

    >>> damage(torch.tensor([1.5, 2.0]), torch.tensor([1.0, 4.0]), torch.tensor([False, True]))
    0.25
    """
    _check(estimate=estimate, clean=clean, mask=mask)
    _check_mask(~mask if mask.dtype == torch.bool else mask)
    return mse(estimate[~mask], clean[~mask])


def smse(estimate: Tensor, clean: Tensor) -> float:
    """Standardised mean squared error, in which every feature weighs the same.

    Formula: ``mean_j [ sum_i (estimate_ij - clean_ij)^2 / sum_i (clean_ij - mean_i clean_ij)^2 ]``, one minus the
    uniform average of R^2: 0 is perfect, and the clean mean row scores 1. A feature that is constant in
    ``clean`` counts 0 if reproduced exactly, else 1.

    Args:
        estimate: the reconstruction, shape (n, d), finite, n >= 2.
        clean: the truth, of the same shape; the result has no units.

    Raises:
        InputError: shapes differ, are not (n, d) with n >= 2, or a value is NaN or infinite.

    Source: Rasmussen and Williams (2006), section 2.5, averaged over features.

    >>> clean = torch.tensor([[0.0, 0.0], [2.0, 200.0]])
    >>> smse(torch.tensor([[0.0, 100.0], [2.0, 100.0]]), clean)
    0.5
    """
    from sklearn.metrics import r2_score

    _check(estimate=estimate, clean=clean)
    if clean.ndim != 2 or len(clean) < 2:
        raise InputError(f"clean has shape {tuple(clean.shape)}: it must be (n, d) with n at least 2")
    truth, guess = (a.detach().cpu().double().numpy() for a in (clean, estimate))
    return 1 - float(r2_score(truth, guess, multioutput="uniform_average"))


def masked_smse(estimate: Tensor, clean: Tensor, mask: Tensor) -> float:
    """Standardised mean squared error on some cells, in which every feature that has any weighs the same.

    Formula: ``mean_j [ mean_{i: mask_ij} (estimate_ij - clean_ij)^2 / var_i(clean_ij) ]`` over the features j with a
    cell in the mask; the variance is that of all rows, so that 1 is the error of guessing a feature's mean.

    Args:
        estimate: the reconstruction, shape (n, d), finite, n >= 2.
        clean: the truth, of the same shape, no feature constant; the result has no units.
        mask: bool, of the same shape, True where to look; at least one.

    Raises:
        InputError: shapes differ, are not (n, d) with n >= 2, a value is NaN or infinite, a feature in the mask is
            constant, ``mask`` is not bool or has no True.

    Source: the repair error of Eduardo et al. (2020). Departs from it: theirs divides by the sum of squares of the very
    cells in the mask, which is next to nothing where a feature has one cell near its mean.

    >>> clean = torch.tensor([[0.0, 0.0], [2.0, 200.0]])
    >>> masked_smse(torch.tensor([[1.0, 50.0], [9.0, 9.0]]), clean, torch.tensor([[True, True], [False, False]]))
    0.625
    """
    _check(estimate=estimate, clean=clean, mask=mask)
    _check_mask(mask)
    if clean.ndim != 2 or len(clean) < 2:
        raise InputError(f"clean has shape {tuple(clean.shape)}: it must be (n, d) with n at least 2")
    variance = clean.double().var(0, correction=0)
    there = mask.any(0)
    # By comparison: the variance of equal values need not round to zero.
    if bool((clean == clean[0]).all(0)[there].any()):
        raise InputError("clean has a feature that is constant: its errors have no unit")
    square = torch.where(mask, (estimate.double() - clean.double()).square(), 0.0).sum(0) / mask.sum(0).clamp(min=1)
    return float((square[there] / variance[there]).mean())


def cell_auc(score: Tensor, mask: Tensor) -> float:
    """Area under the ROC curve: how well do scores rank dirty above clean?

    Formula: ``P(score of a dirty cell > score of a clean cell) + P(equal) / 2``: 1 perfect, 0.5 chance.

    Args:
        score: any shape, finite; larger is dirtier. Cells, or whole samples.
        mask: bool, of the same shape, True where dirty; both values must occur.

    Raises:
        InputError: shapes differ, a value is NaN or infinite, ``mask`` is not bool or has one value only.

    Source: Hanley and McNeil (1982).

    >>> cell_auc(torch.tensor([0.1, 0.9, 0.4, 0.2]), torch.tensor([False, True, True, False]))
    1.0
    """
    from sklearn.metrics import roc_auc_score

    _check(score=score, mask=mask)
    _check_mask(mask)
    _check_mask(~mask)
    return float(roc_auc_score(_flat(mask), _flat(score)))


def average_precision(score: Tensor, mask: Tensor) -> float:
    """Area under the precision-recall curve, as a step function.

    Formula: ``sum_k (R_k - R_{k-1}) P_k`` over the distinct scores from the top: 1 perfect, the dirty share chance.

    Args:
        score: any shape, finite; larger is dirtier.
        mask: bool, of the same shape, True where dirty; at least one.

    Raises:
        InputError: shapes differ, a value is NaN or infinite, ``mask`` is not bool or has no True.

    Source: scikit-learn's ``average_precision_score``.

    >>> average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True, False, False]))
    1.0
    """
    from sklearn.metrics import average_precision_score

    _check(score=score, mask=mask)
    _check_mask(mask)
    return float(average_precision_score(_flat(mask), _flat(score)))


def f1(pred: Tensor, truth: Tensor) -> float:
    """F1 score of flagged outliers.

    Formula: ``2 TP / (2 TP + FP + FN)``; 0 if nothing is flagged and nothing is dirty.

    Args:
        pred: bool, any shape, True where flagged.
        truth: bool, of the same shape, True where dirty.

    Raises:
        InputError: shapes differ, are empty, or the two are not bool.

    Source: the measure of the RiC-VAE paper, Table I. The positive class is what you pass as True.

    >>> f1(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    0.666...
    """
    from sklearn.metrics import f1_score

    _check(pred=pred, truth=truth)
    for name, a in (("pred", pred), ("truth", truth)):
        if a.dtype != torch.bool:
            raise InputError(f"{name} has dtype {a.dtype}: it must be bool")
    return float(f1_score(_flat(truth), _flat(pred), zero_division=0.0))


def _check(**arrays: Tensor) -> None:
    for name, a in arrays.items():
        if plain(name, a).is_complex() or a.dtype in NARROW:
            raise InputError(f"{name} has dtype {a.dtype}: it must be real")
    (first, one), *rest = arrays.items()
    for name, a in rest:
        if a.shape != one.shape:
            raise InputError(f"{name} has shape {tuple(a.shape)}, {first} has {tuple(one.shape)}: they must agree")
    if one.numel() == 0:
        raise InputError(f"{first} has shape {tuple(one.shape)}: it must not be empty")
    for name, a in arrays.items():
        if not bool(a.isfinite().all()):
            raise InputError(f"{name} has {int((~a.isfinite()).sum())} values that are NaN or infinite")


def _check_mask(mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise InputError(f"mask has dtype {mask.dtype}: it must be bool")
    if not bool(mask.any()):
        raise InputError("mask has one value only: there are no cells to measure")


def _flat(a: Tensor):
    # float64, or a float32 mean over millions of cells loses digits; masks stay bool.
    a = a.detach().cpu().reshape(-1)
    return (a.double() if a.is_floating_point() else a).numpy()
