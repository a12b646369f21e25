"""What the commands do where data may lack their label."""

from typing import TYPE_CHECKING, Any

from pyro_vaes.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.inference.run import Run
    from pyro_vaes.pair import Pair


def kept_labels(pair: "Pair", y: "Tensor | None", labels: int | None, seed: int) -> "Tensor | None":
    """Keep as many labels as were asked for, and hide the others.

    Args:
        y: of all data, (N,), -1 where a datum has none; None if the data have no labels.
        labels: how many to keep, all by default. seed: of which.

    Raises:
        InputError: if the pair has no use for data without a label, or there are not as many.
    """
    from pyro_vaes.data.labels import few_labels

    if labels is None:
        return y
    if not pair.partial:
        raise InputError(f"labels is {labels}: {pair.name} takes no data without a label, so leave it out")
    if y is None or y.dim() != 1:
        raise InputError(f"labels is {labels}, but the data have none{'' if y is None else ' beside their pixels'}")
    try:
        return few_labels(y, labels, seed)
    except InputError as error:
        raise InputError(f"labels is {labels}: {error}") from None


def blind(pair: "Pair") -> bool:
    """Whether labels are the objective's alone: codes and images then know nothing of them."""
    return callable(getattr(pair.objective, "probabilities", None))


def seen_labels(folder: "Run", pair: "Pair", y: "Tensor | None", split: str | None) -> "Tensor | None":
    """Give the labels that a run was trained with, -1 for data whose label it has not seen: those of another split."""
    import torch

    config = folder.config["data"]
    if y is None or not pair.partial:
        return y
    hidden = torch.full_like(y, -1)
    if split not in (None, config["split"]):
        return hidden
    # With its split named, all rows are read; the run was trained on the first of them.
    rows = slice(config["limit"])
    kept = kept_labels(pair, y[rows], folder.config["labels"], config["seed"])
    hidden[rows] = y[rows] if kept is None else kept
    return hidden


def classification(pair: "Pair", x: "Tensor", y: "Tensor | None", seen: "Tensor | None") -> dict[str, Any]:
    """Accuracy of q(y | x), or of the objective's own classifier, on the data that have a label which the pair has not
    seen; nothing if there are none."""
    from pyro_vaes.inference.classify import classify

    if y is None or seen is None or not pair.partial:
        return {}
    rows = (y >= 0) & (seen < 0)
    if not rows.any():
        return {}
    right = classify(pair, x[rows]).argmax(1) == y[rows].to(x.device)
    what = "the classifier" if hasattr(pair.objective, "probabilities") else "q(y | x)"
    return {f"accuracy of {what}, {int(rows.sum())} data with unseen labels": right.float().mean().item()}
