"""How well were the samples found that do not belong?"""

from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.metrics import average_precision, cell_auc, f1
from pyro_vaes.evaluation.threshold import drae_threshold


def best_f1(score: Tensor, stranger: Tensor) -> float:
    """The F1 score at the best of all thresholds: an oracle's, because choosing it needs the labels.

    Formula: ``max_t F1(score > t)``, over all distinct scores.

    Args:
        score: (n,), finite; larger is more of a stranger. stranger: (n,), bool, at least one True.

    Raises:
        InputError: shapes differ, a value is NaN or infinite, or there is no stranger.

    Source: the measure of Zhou & Paffenroth (2017), who choose the threshold so.

    >>> import torch
    >>> best_f1(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True, False, True]))
    0.8
    """
    from sklearn.metrics import precision_recall_curve

    average_precision(score, stranger)  # checks its arguments
    precision, recall, _ = precision_recall_curve(stranger.cpu().numpy(), score.detach().cpu().double().numpy())
    total = precision + recall
    return float((2 * precision * recall / total.clip(min=1e-12)).max())


def judged(score: Tensor, stranger: Tensor, flagged: Tensor | None = None) -> dict[str, float]:
    """Judge scores, cut without labels, and the method's own decision if it makes one.

    Args:
        score: (n,), finite, at least two distinct values. stranger: (n,), bool, with both values.
        flagged: (n,), bool, what the method itself calls strangers.

    Returns:
        ``f1``: of the strangers, flagged by :func:`~pyro_vaes.evaluation.threshold.drae_threshold`, no labels;
        ``inlier f1``: of the others, by the same cut; ``flagged``: how many it flags; ``own f1``, ``own inlier f1``:
        by the method's own decision, which is the same cut if it makes none. The rest need labels, or no cut:
        ``oracle f1`` (see :func:`best_f1`), ``average precision``, ``auc``.

    Raises:
        InputError: for scores or labels that cannot be judged.

    >>> import torch
    >>> found = judged(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([False, False, True]))
    >>> found["f1"], found["flagged"], found["oracle f1"]
    (1.0, 1.0, 1.0)
    """
    if score.shape != stranger.shape:
        raise InputError(f"score has shape {tuple(score.shape)}, stranger {tuple(stranger.shape)}: they must agree")
    cut = score.detach().double() > drae_threshold(score)
    own = cut if flagged is None else flagged
    return {
        "f1": f1(cut, stranger), "inlier f1": f1(~cut, ~stranger), "flagged": float(cut.sum()),
        "own f1": f1(own, stranger), "own inlier f1": f1(~own, ~stranger),
        "oracle f1": best_f1(score, stranger), "average precision": average_precision(score, stranger),
        "auc": cell_auc(score, stranger),
    }  # fmt: skip
