"""Classical ways to clean dirty data: what a variational autoencoder has to beat."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.rpca import check_matrix, rpca


def mean_image(x: Tensor) -> Tensor:
    """Replace every row by the mean row.

    Formula: ``xhat_ij = mean_i x_ij``.

    Args:
        x: data, shape (n, d), floating, finite.

    Raises:
        InputError: ``x`` is not a finite floating matrix.

    Source: folklore; the floor of the tables, since it knows nothing of the single image.

    >>> mean_image(torch.tensor([[0.0, 2.0], [4.0, 2.0]]))
    tensor([[2., 2.],
            [2., 2.]])
    """
    check_matrix(x)
    return x.mean(dim=0).expand_as(x).clone()


def median(x: Tensor) -> Tensor:
    """Replace every row by the row of the columns' medians.

    Formula: ``xhat_ij = median_i x_ij``, the mean of the middle two when n is even.

    Args:
        x: data, shape (n, d), floating, finite.

    Raises:
        InputError: ``x`` is not a finite floating matrix.

    Source: folklore; the mean image that fewer than half dirty cells per column cannot drag away.

    >>> median(torch.tensor([[1.0], [2.0], [3.0], [99.0]])).mT
    tensor([[2.5000, 2.5000, 2.5000, 2.5000]])
    """
    check_matrix(x)
    # torch.median gives the lower of the middle two, and on -x minus the upper one.
    lower, upper = x.median(dim=0).values, -(-x).median(dim=0).values
    return (lower + (upper - lower) / 2).expand_as(x).clone()


def pca(x: Tensor, components: int = 10) -> Tensor:
    """Project the rows on their leading principal components and back.

    Formula: ``xhat_i = b + W W' (x_i - b)``, ``b`` the mean row, ``W`` the leading ``components`` directions.

    Args:
        x: data, shape (n, d), floating, finite.
        components: 1 to min(n, d).

    Raises:
        InputError: ``x`` is not a finite floating matrix, or ``components`` is out of range.

    Source: Pearson (1901), through scikit-learn with the exact solver.

    >>> x = torch.outer(torch.arange(3.0), torch.ones(4))
    >>> bool(torch.allclose(pca(x, components=1), x, atol=1e-6))
    True
    """
    check_matrix(x)
    if not 1 <= components <= min(x.shape):
        raise InputError(f"components is {components}: it must be from 1 to {min(x.shape)} for x {tuple(x.shape)}")
    from sklearn.decomposition import PCA

    rows = x.detach().cpu().double().numpy()
    # The full solver: the randomised one would make the table depend on a hidden seed.
    model = PCA(components, svd_solver="full")
    return torch.as_tensor(model.inverse_transform(model.fit_transform(rows))).to(x)


def rpca_clean(x: Tensor, lam: float | None = None, tol: float = 1e-7) -> Tensor:
    """Keep the low-rank part of convex robust PCA.

    Formula: ``xhat = L`` of ``min ||L||_* + lam ||S||_1`` subject to ``X = L + S``.

    Args:
        x: data, shape (n, d), floating, finite.
        lam: weight of the sparse part, > 0; default ``1 / sqrt(max(n, d))``.
        tol: relative residual to reach, > 0.

    Raises:
        InputError: ``x`` is not a finite floating matrix, or ``lam`` or ``tol`` is not positive.
        RuntimeError: the split has not converged.

    Source: Candes, Li, Ma, Wright (2011), Eq. 1.1; see :func:`pyro_vaes.evaluation.rpca.rpca`.

    >>> x = torch.outer(torch.linspace(1, 2, 30), torch.linspace(1, 3, 20))
    >>> bool(torch.allclose(rpca_clean(x), x, atol=1e-4))
    True
    """
    return rpca(x, lam=lam, tol=tol).low_rank


BASELINES: dict[str, Callable[..., Tensor]] = {
    "mean": mean_image,
    "median": median,
    "pca": pca,
    "rpca": rpca_clean,
}
