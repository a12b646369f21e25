"""Baselines of scikit-learn that look for samples which do not belong, with everything fixed in advance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.evaluation.rpca import check_matrix


@dataclass(frozen=True)
class Flagged:
    """A score of each sample, (n,), larger is more of an outlier; and the method's own decision, (n,) bool."""

    score: Tensor
    outlier: Tensor


def isolation_forest(x: Tensor, seed: int = 0) -> Flagged:
    r"""Score samples by how few random cuts set them apart.

    .. math:: \mathrm{score}_i = 2^{-\mathbb{E}[\mathrm{depth}_i] / c(256)}, \qquad
              \text{outlier} \iff \mathrm{score}_i > 1/2

    A hundred trees on 256 samples each; the cut at 1/2 is scikit-learn's ``contamination="auto"``.

    Args:
        x: (n, d), floating, finite, n at least 2. seed: of the cuts.

    Source: Liu, Ting & Zhou (2008), through scikit-learn.

    >>> isolation_forest(torch.cat([torch.zeros(50, 1), torch.ones(1, 1)])).score.argmax()
    tensor(50)
    """
    from sklearn.ensemble import IsolationForest

    rows = _rows(x)
    whole("seed", seed, low=0)
    forest = IsolationForest(random_state=seed).fit(rows)
    return Flagged(torch.as_tensor(-forest.score_samples(rows)), torch.as_tensor(forest.predict(rows) < 0))


def one_class_svm(x: Tensor, nu: float = 0.1) -> Flagged:
    """Score samples by their distance from a kernel machine's boundary; outliers lie outside of it.

    Formula: ``min |w|^2 / 2 + sum_i xi_i / (nu n) - rho, <w, phi(x_i)> >= rho - xi_i``, with a Gaussian kernel of
    scikit-learn's bandwidth, ``gamma = 1 / (d Var x)``; the score is ``rho - <w, phi(x_i)>``.

    Args:
        x: (n, d), floating, finite, n at least 2.
        nu: in (0, 1], about the share outside. It is an assumption, 0.1 as good as any: nothing is learned about it.

    Source: Schoelkopf et al. (2001), through scikit-learn.

    >>> one_class_svm(torch.cat([torch.zeros(50, 1), torch.ones(1, 1)])).score.argmax()
    tensor(50)
    """
    from sklearn.svm import OneClassSVM

    rows = _rows(x)
    number("nu", nu, open_low=True)
    if nu > 1:
        raise InputError(f"nu is {nu}: it is a share, at most 1")
    machine = OneClassSVM(nu=nu).fit(rows)
    return Flagged(torch.as_tensor(-machine.decision_function(rows)), torch.as_tensor(machine.predict(rows) < 0))


def _rows(x: Tensor):
    check_matrix(x)
    if len(x) < 2:
        raise InputError("x has one row: there is nothing to set apart")
    return x.detach().cpu().double().numpy()
