"""Unsupervised one-class learning: a kernel machine that chooses its own inliers."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.evaluation.rpca import check_matrix


@dataclass(frozen=True)
class OneClass:
    """What :func:`uocl` found.

    Attributes:
        score: (n,), minus the kernel machine's value f: larger is more of an outlier.
        outlier: (n,), bool, its own labels.
        objective: what was minimised, before the first round and after each; it never rises.
    """

    score: Tensor
    outlier: Tensor
    objective: list[float]


def uocl(x: Tensor, *, smoothness: float = 1.0, margin: float = 1.0, neighbours: int = 6, rounds: int = 30) -> OneClass:
    r"""Split data into one class and the rest, alternating between a kernel machine and its labels.

    .. math:: \min_{f, y} \sum_i (f(x_i) - y_i)^2 + \gamma_1 f^\top L f - \frac{2 \gamma_2}{n_+} \sum_{y_i > 0} f(x_i),
              \quad f = K \alpha,\ \lVert \alpha \rVert = 1,\ y_i \in \{c_+, -c_-\},\
              c_+ = \sqrt{n_- / n_+},\ c_- = \sqrt{n_+ / n_-}

    With ``f`` fixed the best labels cut its sorted values at one place, and all n - 1 places are tried; with
    ``margin=0`` that cut is the one of :func:`~pyro_vaes.evaluation.threshold.drae_threshold`. With ``y`` fixed the
    best ``alpha`` solves a quadratic on the sphere, exactly (see :func:`on_sphere`). It starts from
    ``alpha = 1 / sqrt(n)``, a kernel density estimate, and ends where the labels no longer change.

    Args:
        x: (n, d), floating, finite, n at least 3; n in the thousands at most, since the cost is cubic in n.
        smoothness: gamma_1 >= 0, of the graph Laplacian L of the nearest neighbours. margin: gamma_2 >= 0.
        neighbours: of each datum in the graph, which is symmetric with weights 0 and 1.
        rounds: at most.

    Raises:
        InputError: for bad data or arguments, or data that are all the same.

    Source: Liu, Hua & Smith (2014), "Unsupervised one-class learning for automatic outlier removal"; not compared with
    the authors' code. Chosen by us, and not tuned: gamma_1 = gamma_2 = 1, six neighbours, and
    k(x, x') = exp(-|x - x'|^2 / s^2) with s^2 the mean squared distance between two data.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.cat([0.1 * torch.randn(30, 2, generator=g), 5 * torch.randn(5, 2, generator=g)])
    >>> uocl(x).outlier[:30].sum() < uocl(x).outlier[30:].sum()
    tensor(True)
    """
    check_matrix(x)
    number("smoothness", smoothness), number("margin", margin)
    whole("rounds", rounds)
    if len(x) < 3:
        raise InputError(f"x has {len(x)} rows: one class and the rest need at least 3")
    whole("neighbours", neighbours)
    rows = x.detach().cpu().double().numpy()
    kernel, laplacian = _kernel(rows), _laplacian(rows, min(neighbours, len(rows) - 1))
    quadratic = kernel @ kernel + smoothness * kernel @ laplacian @ kernel
    values, vectors = np.linalg.eigh(quadratic)
    alpha = np.full(len(rows), len(rows) ** -0.5)
    outlier, target = labels(kernel @ alpha, margin)
    # y'y = n whatever the split is, so that this is the objective itself.
    history = [float(alpha @ quadratic @ alpha - 2 * (kernel @ alpha) @ target + len(rows))]
    for _ in range(rounds):
        before = outlier
        alpha = on_sphere(values, vectors, kernel @ target)
        outlier, target = labels(kernel @ alpha, margin)
        history.append(float(alpha @ quadratic @ alpha - 2 * (kernel @ alpha) @ target + len(rows)))
        if (outlier == before).all():
            break
    return OneClass(torch.as_tensor(-(kernel @ alpha)), torch.as_tensor(outlier), history)


def labels(f: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Give the labels that fit ``f`` best, and the target of ``f`` that comes with them.

    .. math:: \max_m f^\top t, \qquad t_i = c_+ + \gamma_2 / m \ \text{for the } m \text{ largest } f_i,
              \quad t_i = -c_- \ \text{for the others}

    Returns:
        outlier (n,), bool, and t (n,).

    >>> labels(np.array([1.0, 0.9, -2.0]), margin=0.0)[0]
    array([False, False,  True])
    """
    n = len(f)
    order = np.argsort(-f, kind="stable")
    m = np.arange(1, n)
    above = f[order].cumsum()[:-1]
    below = f.sum() - above
    gain = np.sqrt((n - m) / m) * above - np.sqrt(m / (n - m)) * below + margin * above / m
    best = int(m[gain.argmax()])
    outlier = np.ones(n, dtype=bool)
    outlier[order[:best]] = False
    target = np.where(outlier, -np.sqrt(best / (n - best)), np.sqrt((n - best) / best) + margin / best)
    return outlier, target


def on_sphere(values: np.ndarray, vectors: np.ndarray, b: np.ndarray) -> np.ndarray:
    r"""Minimise a quadratic on the unit sphere, exactly.

    .. math:: \min_{\lVert \alpha \rVert = 1} \alpha^\top R \alpha - 2 b^\top \alpha, \qquad
              \alpha = (R - \lambda I)^{-1} b, \quad \lambda < \lambda_{\min}(R), \quad \lVert \alpha \rVert = 1

    Args:
        values, vectors: the eigenvalues of R, ascending, and its eigenvectors, as ``numpy.linalg.eigh`` gives them.
        b: (n,), not zero.

    Source: Gander, Golub & von Matt (1989), "A constrained eigenvalue problem"; the root of the secular equation in
    place of their matrix of twice the size, since R stays the same in all rounds. In their degenerate case, b without
    any share in the lowest eigenvector, that vector fills the sphere up.

    >>> on_sphere(np.array([1.0, 4.0]), np.eye(2), np.array([0.0, 100.0])).round(6)
    array([0., 1.])
    """
    from scipy.optimize import brentq

    c = vectors.T @ b
    size = float(np.linalg.norm(c))

    def excess(gap: float) -> float:
        return float(np.linalg.norm(c / (values - values[0] + gap))) - 1

    # |alpha| falls with the gap below the lowest eigenvalue, and is at most |b| / gap.
    tiny = 1e-12 * max(size, 1e-300)
    gap = tiny if excess(tiny) <= 0 else brentq(excess, tiny, size, xtol=1e-14 * size, rtol=1e-14)
    weights = c / (values - values[0] + gap)
    weights[0] += np.copysign(np.sqrt(max(0.0, 1 - weights @ weights)), weights[0]) if gap == tiny else 0.0
    return vectors @ (weights / np.linalg.norm(weights))


def _kernel(rows: np.ndarray) -> np.ndarray:
    from sklearn.metrics.pairwise import euclidean_distances

    squared = euclidean_distances(rows, squared=True)
    if not squared.any():
        raise InputError("all rows of x are the same: there is nothing to tell apart")
    return np.exp(-squared / squared.mean())


def _laplacian(rows: np.ndarray, neighbours: int) -> np.ndarray:
    from scipy.sparse.csgraph import laplacian
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(rows, neighbours)
    return laplacian(graph.maximum(graph.T)).toarray()
