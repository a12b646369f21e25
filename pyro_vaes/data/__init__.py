"""Data sets by name or path, and corruptions that say where they acted."""

from pyro_vaes.data.binarise import binarised
from pyro_vaes.data.corruption import (
    CORRUPTIONS,
    Corrupted,
    circles,
    corrupt,
    gaussian,
    impulse,
    masked,
    rectangles,
    salt_and_pepper,
    stripes,
)
from pyro_vaes.data.datasets import DATASETS, Dataset, load
from pyro_vaes.data.tabular import corrupt_cells

__all__ = [
    "CORRUPTIONS",
    "DATASETS",
    "Corrupted",
    "Dataset",
    "binarised",
    "circles",
    "corrupt",
    "corrupt_cells",
    "gaussian",
    "impulse",
    "load",
    "masked",
    "rectangles",
    "salt_and_pepper",
    "stripes",
]
