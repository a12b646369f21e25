"""How good are new samples: near the data in features, no copies, of all classes, without noise?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, image_shape, said, short, whole
from pyro_vaes.evaluation.neighbours import nearest_distances
from pyro_vaes.evaluation.prdc import prdc
from pyro_vaes.inference.guard import as_batch
from pyro_vaes.tensors import NARROW, plain


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Distance between two sets of features, each taken for a Gaussian.

    .. math:: \lVert m_a - m_b \rVert^2
              + \mathrm{tr}\left(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2}\right)

    The squared 2-Wasserstein distance of two Gaussians with the sets' means and covariances. It depends on the
    features and, for small sets, on their sizes: compare values of the same features and sizes only. With features of
    one's own it is no FID, which is this distance in one published network.

    Args:
        a: (n, p), finite, n at least 2. b: (m, p), likewise; the result has the features' unit squared.

    Raises:
        InputError: for other shapes, or a value that is NaN or infinite.

    Source: Dowson & Landau (1982); of features: Heusel et al. (2017).

    >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
    9.0
    """
    x, y = _features("a", a), _features("b", b)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"a has {x.shape[1]} features, b has {y.shape[1]}: they must agree")
    cov_x, cov_y = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y))
    values, vectors = np.linalg.eigh(cov_x)
    # The symmetric root: sqrtm of the product loses half of its digits where a covariance is singular.
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_y @ root).clip(min=0)).sum()
    distance = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross
    return max(float(distance), 0.0)


def nearest_distance(x: Tensor, others: Tensor | None = None) -> float:
    r"""Mean Euclidean distance of each datum to its nearest neighbour.

    .. math:: \frac{1}{n} \sum_i \min_j \lVert x_i - y_j \rVert

    To the data: below the distance between the data themselves, samples are copies (or blurred means). Among
    themselves: near 0, samples are all alike.

    Args:
        x: (n, d). others: (m, d), the y; by default the other rows of x, then n is at least 2.

    Raises:
        InputError: for other shapes, or a value that is NaN or infinite.

    Source: Wang et al. (2018), V-C, Fig. 11.

    >>> nearest_distance(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [9.0]]))
    1.5
    >>> nearest_distance(torch.tensor([[0.0], [3.0], [4.0]]))
    1.666...
    """
    return float(nearest_distances(x, others).double().mean())


def effective_classes(votes: Tensor | np.ndarray | Sequence[int]) -> float:
    r"""Count the classes among labels, each by its share: the exponential of the entropy.

    .. math:: \exp\left(-\sum_c p_c \log p_c\right)

    Args:
        votes: (n,) labels, n at least 1.

    Raises:
        InputError: if there are none, or they are not a vector.

    Source: Hill (1973), the diversity of order 1; Shannon's entropy.

    >>> effective_classes([3, 3, 7, 7]), effective_classes([3, 3])
    (2.0, 1.0)
    """
    labels = np.asarray(votes)
    if labels.ndim != 1 or not len(labels):
        raise InputError(f"votes has shape {labels.shape}: it must be (n,), n at least 1")
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def total_variation(x: Tensor, shape: Sequence[int]) -> float:
    r"""Mean absolute difference of neighbouring pixels, over both directions: noise raises it, blur lowers it.

    .. math:: \mathrm{mean}\, |x_{i+1,j} - x_{ij}|, |x_{i,j+1} - x_{ij}|

    Args:
        x: (n, d), finite. shape: of one image, (H, W) or (C, H, W), with product d and H W at least 2.

    Raises:
        InputError: if the shape does not fit, or a value is NaN or infinite.

    Source: Rudin, Osher & Fatemi (1992), anisotropic, per pair of neighbours.

    >>> total_variation(torch.tensor([[0.0, 1.0, 0.0, 1.0]]), (2, 2))
    0.5
    """
    rows = _features("x", x, low=1)
    known = isinstance(shape, Sequence) and len(shape) in (2, 3) and all(isinstance(n, int) and n > 0 for n in shape)
    if not known or np.prod(shape) != rows.shape[1] or np.prod(shape[-2:]) < 2:
        raise InputError(f"shape {shape} is not that of an image of {rows.shape[1]} entries")
    images = rows.reshape(-1, *shape[-2:])
    steps = [np.abs(np.diff(images, axis=axis)).ravel() for axis in (1, 2)]
    return float(np.concatenate(steps).mean())


def hidden_activations(classifier: Any, x: Tensor) -> Tensor:
    r"""Features of data: the last hidden layer of a fitted scikit-learn MLPClassifier.

    .. math:: h_{l+1} = \mathrm{relu}(h_l W_l + b_l), \qquad h_0 = x

    Args:
        classifier: fitted, with ``activation="relu"``. x: (n, d), of the classifier's d.

    Raises:
        InputError: for another activation, or data that do not fit.

    >>> from sklearn.neural_network import MLPClassifier
    >>> x = torch.rand(20, 4)
    >>> model = MLPClassifier([3], solver="lbfgs", max_iter=500).fit(x, (x[:, 0] > 0.5).numpy())
    >>> hidden_activations(model, x).shape
    torch.Size([20, 3])
    """
    if classifier.activation != "relu":
        raise InputError(f"the classifier's activation is {classifier.activation!r}: it must be 'relu'")
    h = _features("x", x, low=1)
    if h.shape[1] != classifier.n_features_in_:
        raise InputError(f"x has {h.shape[1]} entries, the classifier takes {classifier.n_features_in_}")
    for weight, bias in zip(classifier.coefs_[:-1], classifier.intercepts_[:-1], strict=True):
        h = (h @ weight + bias).clip(min=0)
    return torch.as_tensor(h)


class Judge:
    """Compare samples with held-out data, through a classifier that was trained on the clean data.

    Args:
        x: (N, d) clean data that samples should resemble, of ``shape``; y: (N,) their labels.
        held_out: (M, d) clean data that the classifier does not see; as many samples should be judged.
        shape: of one image. hidden: widths of the classifier. seed: of the classifier.
        neighbours: k of precision, recall, density and coverage in the same features; None leaves these out.

    Attributes:
        real: what :meth:`__call__` says of the held-out data themselves: what perfect samples would get.
        digest: SHA-256 of the classifier's weights, to be kept with results: numbers are comparable where it is the
            same, and the same data, arguments and versions give it again on the same kind of machine.

    The features are of a small classifier trained on these data, so this is no FID: other features, other numbers.

    Source: Heusel et al. (2017) for the distance; the features are ours.

    >>> x = torch.rand(100, 4, generator=torch.Generator().manual_seed(0))
    >>> judge = Judge(x[:60], (x[:60, 0] > 0.5).long(), x[60:], (2, 2), hidden=[5])
    >>> judge(x[60:])["frechet distance"] < judge(x[60:] / 2)["frechet distance"]
    True
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        held_out: Tensor,
        shape: Sequence[int],
        *,
        hidden: Sequence[int] = (128,),
        seed: int = 0,
        neighbours: int | None = None,
    ):
        from sklearn.neural_network import MLPClassifier

        whole("seed", seed, low=0)
        x, held_out = (plain(n, a, 2, "a tensor (n, d)").detach() for n, a in (("x", x), ("held_out", held_out)))
        shape = image_shape(shape, x.shape[1])
        if not isinstance(hidden, Sequence) or isinstance(hidden, str):
            raise InputError(f"hidden is {said(hidden)}: it must be a sequence of widths")
        hidden = tuple(whole(f"hidden[{i}]", width, high=2**16) for i, width in enumerate(hidden))
        if neighbours is not None and len(held_out) <= whole("neighbours", neighbours):
            raise InputError(f"held_out has {len(held_out)} rows: {neighbours} neighbours take more")
        if plain("y", y, what="whole labels (N,)").dim() != 1 or y.is_floating_point() or y.is_complex():
            raise InputError("y must be whole labels (N,)")
        if len(x) != len(y):
            raise InputError(f"x has {len(x)} data, y has {len(y)} labels: they must agree")
        # Bytes and floats of one image are the same image.
        x, held_out = as_batch(x), as_batch(held_out)
        total_variation(held_out[:1], shape)
        self.x, self.shape, self.neighbours = x, tuple(shape), neighbours
        # A tenth is kept back to say when to stop, so that the features are not those of noise learned by heart.
        self.classifier = MLPClassifier(
            hidden, batch_size=min(200, len(x) // 2), early_stopping=True, n_iter_no_change=3, random_state=seed
        )
        try:
            self.classifier.fit(_features("x", x), y.cpu().numpy())
        except ValueError as error:  # too few data of a class, or too few for so many classes
            raise InputError(
                f"no classifier can be trained on {len(x)} data with these labels: {short(error)}"
            ) from None
        self.digest = digest(self.classifier)
        self.features = hidden_activations(self.classifier, held_out)
        # Against itself the distance is 0, which no finite set of new data reaches: against the training data.
        reference = hidden_activations(self.classifier, x[torch.linspace(0, len(x) - 1, len(held_out)).long()])
        self.real = self(held_out) | self._in_features(reference)

    def __call__(self, samples: Tensor) -> dict[str, float]:
        """Measure samples: (n, d), pixels as those of the data."""
        if samples.dim() != 2 or samples.shape[1] != self.x.shape[1]:
            raise InputError(f"samples have shape {tuple(samples.shape)}: it must be (n, {self.x.shape[1]})")
        samples = as_batch(samples)
        chances = self.classifier.predict_proba(_features("samples", samples))
        return {
            **self._in_features(hidden_activations(self.classifier, samples)),
            "distance to data": nearest_distance(samples, self.x),
            "distance between samples": nearest_distance(samples),
            "classes": effective_classes(chances.argmax(1)),
            "confidence": float(chances.max(1).mean()),
            "total variation": total_variation(samples, self.shape),
        }

    def _in_features(self, features: Tensor) -> dict[str, float]:
        found = {"frechet distance": frechet_distance(features, self.features)}
        return found if self.neighbours is None else found | prdc(self.features, features, self.neighbours)._asdict()


def digest(classifier: Any) -> str:
    """Give the SHA-256 of a fitted classifier's weights, their shapes and order.

    >>> from types import SimpleNamespace
    >>> digest(SimpleNamespace(coefs_=[np.zeros((1, 1))], intercepts_=[np.zeros(1)]))[:8]
    '5a638656'
    """
    found = hashlib.sha256()
    for array in (*classifier.coefs_, *classifier.intercepts_):
        found.update(str(array.shape).encode())
        found.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return found.hexdigest()


def _features(name: str, a: Tensor, low: int = 2) -> np.ndarray:
    if len(plain(name, a, 2, f"a tensor (n, p), n at least {low}")) < low or not a.shape[1]:
        raise InputError(f"{name} has shape {tuple(a.shape)}: it must be (n, p), n at least {low}")
    if a.is_complex() or a.dtype in NARROW:
        raise InputError(f"{name} has dtype {a.dtype}: it must be real")
    if not bool(a.isfinite().all()):
        raise InputError(f"{name} has {int((~a.isfinite()).sum())} values that are NaN or infinite")
    return a.detach().cpu().double().numpy()
