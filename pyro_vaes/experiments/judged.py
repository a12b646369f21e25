"""What the experiments on samples share: images to train on, others to compare with, and who compares."""

from typing import Any

from pyro_vaes.data import Dataset, load
from pyro_vaes.data.pool import pooled
from pyro_vaes.evaluation.generation import Judge


def pooled_images(name: str, settings: dict[str, Any], root: str) -> tuple[Dataset, Dataset]:
    """Give the clean training images, and as many test images as there will be samples, both pooled.

    Args:
        name: of the data set. settings: with ``limit``, ``samples`` and ``pool``. root: where it lies.

    Raises:
        InputError: if it is not there.
    """
    train = load(name, root=root, limit=settings["limit"])
    held_out = load(name, root=root, split="test", limit=settings["samples"])
    return pooled(train, settings["pool"]), pooled(held_out, settings["pool"])


def judge_of(train: Dataset, held_out: Dataset, neighbours: int | None = None) -> Judge:
    """Train the classifier on clean images; always from seed 0, so that all cells share its features.

    >>> from pyro_vaes.data import load
    >>> digits = load("digits", limit=300)
    >>> len(judge_of(digits, digits).digest)
    64
    """
    assert train.y is not None
    return Judge(train.x, train.y, held_out.x, train.shape, neighbours=neighbours)
