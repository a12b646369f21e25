"""How good a run's samples are, beside data of its own that the judge has not seen."""

from typing import TYPE_CHECKING, Any

from pyro_vaes.commands.files import is_image
from pyro_vaes.errors import InputError, whole

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.inference.run import Run
    from pyro_vaes.pair import Pair


def check_samples(folder: "Run", pair: "Pair", x: "Tensor", labels: "Tensor | None", samples: int, name: str) -> None:
    """Refuse what cannot be judged, before any work.

    Raises:
        InputError: without labels or images, for a run on quadrants, or more samples than half of the data.
    """
    if not whole("samples", samples, low=0):
        return
    if folder.config["condition"] not in (None, "labels"):
        raise InputError(f"samples is {samples}: {folder.path} completes images, and draws no new ones")
    if labels is None or labels.dim() != 1:
        raise InputError(f"samples is {samples}: {name} has no labels, which the features are trained with")
    if len(labels[_labelled(pair, labels)].unique()) < 2:
        raise InputError(f"samples is {samples}: {name} has fewer than two labels, so that no features can be trained")
    if not is_image(folder.config["shape"]):
        raise InputError(f"samples is {samples}: {name} holds no images")
    if not 10 <= samples <= len(x) // 2:
        raise InputError(f"samples is {samples}: it must be from 10 to {len(x) // 2}, half of the data, or 0")


def judged(pair: "Pair", x: "Tensor", labels: "Tensor", shape: Any, samples: int, seed: int = 0) -> dict[str, Any]:
    """Compare new samples with as many data, in the features of a classifier that is trained on the others.

    Args:
        x: clean data, (N, d), as the pair models them. labels: (N,). samples: how many, at most N / 2; of a pair that
            takes labels, under those of the data that they are compared with.
    """
    import torch

    from pyro_vaes.evaluation.generation import Judge
    from pyro_vaes.inference.guard import as_batch
    from pyro_vaes.inference.posterior import sample

    if not samples:
        return {}
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[:samples], order[samples:]
    rest = rest[_labelled(pair, labels)[rest]]
    judge = Judge(as_batch(x[rest]), labels[rest], as_batch(x[held_out]), shape, neighbours=5)
    drawn = sample(pair, samples, labels[held_out] if pair.condition_dim else None, seed=seed)
    found = judge(drawn)
    return {
        **{f"{samples} samples: {name}": value for name, value in found.items()},
        **{f"{samples} data: {name}": value for name, value in judge.real.items()},
        "features: sha256 of a classifier of these data": judge.digest,
    }


def _labelled(pair: "Pair", labels: "Tensor") -> "Tensor":
    """Which data have a label: all of them, but where a pair takes -1 for none."""
    return labels >= 0 if pair.partial else labels == labels
