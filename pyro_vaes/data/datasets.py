"""Data sets by name or path, as rows of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.data import files
from pyro_vaes.data.rows import chunks, sampled
from pyro_vaes.data.shards import Shards, holds_shards, split_of
from pyro_vaes.errors import InputError, flag, said, unknown, whole


@dataclass(frozen=True)
class Dataset:
    """Rows of data, the shape of one datum, and the labels if there are any.

    Arguments:
        name: the name or path it was loaded by.
        x: (N, d). Images are float32 in [0, 1], tables float32 in their own range. What is too large for
            that (`pyro_vaes.data.files.MMAP_BYTES`) is a memory map, or uint8 in 0..255, or both. Or
            `pyro_vaes.data.shards.Shards`, which a training reads; `x[:1000]` are rows of them.
        shape: of one datum, with product d: (8, 8), (28, 20), (3, 32, 32) channel first, or (d,).
        y: (N,) int64 labels, or None.
        note: what was done to the values since they were loaded, in words; see `pyro_vaes.data.binarised`.

    Source: ours.

    >>> Dataset("mine", torch.zeros(5, 6), (2, 3))
    Dataset('mine', 5 x 6, shape (2, 3), no labels)
    """

    name: str
    x: Any
    shape: tuple[int, ...]
    y: Tensor | None = None
    note: str = ""

    def __repr__(self) -> str:
        labels = "labelled" if self.y is not None or getattr(self.x, "labelled", False) else "no labels"
        return f"Dataset({self.name!r}, {len(self.x)} x {self.x.shape[1]}, shape {self.shape}, {labels})"


def check_dataset(dataset: object) -> None:
    """Refuse what is no data set.

    >>> check_dataset("digits")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: dataset is 'digits': it must be a Dataset, as load gives it
    """
    if not isinstance(dataset, Dataset):
        raise InputError(f"dataset is {said(dataset)}: it must be a Dataset, as load gives it")


def folder(name: str, value: object) -> Path:
    """Give the path of a folder, or refuse what is none.

    >>> folder("root", 3)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: root is 3: it must be the path of a folder
    """
    if not isinstance(value, str | Path):
        raise InputError(f"{name} is {said(value)}: it must be the path of a folder")
    return Path(value)


def load(
    source: str | Path = "digits",
    *,
    root: str | Path = "data",
    split: str = "train",
    limit: int | None = None,
    download: bool = False,
    missing: bool = False,
) -> Dataset:
    """Load a data set by name, or a file or image folder by path.

    Files: `.npy` of shape (N, d), (N, H, W), (N, C, H, W) or (N, H, W, C); `.npz` with a key `x` or a single
    array, and optional labels `y`; `.csv` of numbers with an optional header line, where a column named
    `label` or `y` holds the labels; `.mat` with a key `ff` (Frey layout), `x`, `X` or a single array. A
    folder holds images of one size, or class subfolders of them, or a `train` subfolder (and others, the
    splits) of either. `.parquet` and `.tar` files, one, a folder of them, or a pattern such as
    ``"many/*.parquet"``, stay where they are: `x` is then `pyro_vaes.data.shards.Shards`. Bytes are divided
    by 255. Python objects are never unpickled from a user's file.

    Arguments:
        source: a name in `DATASETS`; any other string, and any `Path`, is a path.
        root: the folder that holds the named data sets.
        split: `"train"`, or what else the data set has: `"test"` of mnist, fashion_mnist, cifar10, celeba
            and stl10, `"valid"` of celeba, `"unlabeled"` of stl10. digits, frey and files have one split.
        limit: keep this many data, at least 1: the first ones, or of an image folder (celeba too) as many
            spread evenly over the sorted files, so that every class is seen.
        download: let torchvision fetch a named data set into `root`.
        missing: let NaN pass, as an entry that is missing; an empty cell of a `.csv` file is one.

    Raises:
        InputError: an unknown name, a missing or damaged file, an unknown split, a limit below 1, an empty
            set, or NaN or inf, which is reported with the row and column of the first one.

    Source: digits is scikit-learn's `load_digits`; frey is https://cs.nyu.edu/~roweis/data/frey_rawface.mat;
    the others are torchvision's.

    >>> load("digits", limit=100)
    Dataset('digits', 100 x 64, shape (8, 8), labelled)
    """
    if limit is not None:
        whole("limit", limit)
    if not isinstance(source, str | Path):
        raise InputError(f"source is {source!r}: it must be a name or a path")
    flag("download", download), flag("missing", missing)
    if not isinstance(split, str):
        raise InputError(f"split is {said(split)}: it must be the name of a split")
    if not (isinstance(source, str) and source in DATASETS) and holds_shards(place := split_of(source, split)):
        shards = Shards(place, limit=limit)
        return Dataset(str(source), shards, shards.datum)
    if isinstance(source, str) and source in DATASETS:
        x, shape, y = DATASETS[source](folder("root", root), split, limit, download)
    else:
        x, shape, y = files.read(_existing(source), split=split, limit=limit, missing=missing)
    if y is not None and len(y) != len(x):
        raise InputError(f"{source}: has {len(x)} data and {len(y)} labels")
    x, y = x[:limit], None if y is None else y[:limit]
    _check_finite(x, str(source), missing)
    return Dataset(str(source), x, shape, y)


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if isinstance(source, str) and not files.there(path) and not path.suffix and len(path.parts) < 2:
        raise unknown("data set", source, (*DATASETS, "or the path of a file or image folder"))
    return path


def _check_finite(x: Tensor, name: str, missing: bool = False, values: int = 2**24) -> None:
    """Look for NaN and inf in blocks of about `values` entries, so that a memory map stays on disk."""
    if not x.is_floating_point():
        return
    # Of more than 4 GiB a training checks every batch, and all else that takes rows checks those.
    for start, part in chunks(x, sampled(x), max(1, values // x.shape[1])):
        bad = part.isinf() if missing else ~part.isfinite()
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            value = part[row, column].item()
            place = f"row {start + row}, column {column}"
            raise InputError(f"{name}: {value} at {place}, counted from 0: all values must be finite")


def _check_split(name: str, split: str, *known: str) -> None:
    if split not in known:
        raise InputError(f"{name} has no split {split!r}: it has {', '.join(known)}")


# The named data sets. Each takes (root, split, limit, download) and returns (x, shape, y).


def digits(root: Path, split: str, limit: int | None, download: bool) -> files.Parts:
    """Load scikit-learn's 1797 digits of 8 x 8: needs no file and no network; x = pixel / 16.

    It is the default because every machine has it; no paper uses it.

    Raises:
        InputError: a split other than `"train"`.

    >>> x, shape, y = digits(Path("data"), "train", None, False)
    >>> x.shape, shape, x.min().item(), x.max().item()
    (torch.Size([1797, 64]), (8, 8), 0.0, 1.0)
    """
    from sklearn.datasets import load_digits

    _check_split("digits", split, "train")
    data = load_digits()
    return torch.from_numpy(data.data).float() / 16, (8, 8), torch.from_numpy(data.target).long()


def mnist(root: Path, split: str, limit: int | None, download: bool) -> files.Parts:
    """Load MNIST, 60,000 and 10,000 digits of 28 x 28, from the IDX files in `root/MNIST/raw`.

    Raises:
        InputError: the files are missing or damaged, or the split is neither `"train"` nor `"test"`.

    >>> mnist(Path("nowhere"), "train", None, False)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: mnist is missing or incomplete in nowhere: pass download=True ...
    """
    return _idx("mnist", "MNIST", root, split, download)


def fashion_mnist(root: Path, split: str, limit: int | None, download: bool) -> files.Parts:
    """Load Fashion-MNIST, of MNIST's sizes, from the IDX files in `root/FashionMNIST/raw`.

    Raises:
        InputError: the files are missing or damaged, or the split is neither `"train"` nor `"test"`.

    >>> fashion_mnist(Path("nowhere"), "train", None, False)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: fashion_mnist is missing or incomplete in nowhere: pass download=True ...
    """
    return _idx("fashion_mnist", "FashionMNIST", root, split, download)


def _idx(name: str, cls: str, root: Path, split: str, download: bool) -> files.Parts:
    _check_split(name, split, "train", "test")
    data = _torchvision(name, cls, root, download, train=split == "train")
    return *files.rows(data.data.numpy(), name), data.targets


def cifar10(root: Path, split: str, limit: int | None, download: bool) -> files.Parts:
    """Load CIFAR-10, 50,000 and 10,000 colour images of 32 x 32.

    From the image folder `root/cifar10/<split>/<class>/` if it is there, else torchvision's
    `root/cifar-10-batches-py`, whose pickles torchvision opens only when their checksums are right.

    Raises:
        InputError: the files are missing or damaged, or the split is neither `"train"` nor `"test"`.

    >>> cifar10(Path("nowhere"), "train", None, False)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: cifar10 is missing or incomplete in nowhere: pass download=True ...
    """
    _check_split("cifar10", split, "train", "test")
    if (root / "cifar10" / split).is_dir():
        return files.read_folder(root / "cifar10" / split, limit)
    data = _torchvision("cifar10", "CIFAR10", root, download, train=split == "train")
    return *files.rows(data.data, "cifar10"), torch.tensor(data.targets)


def stl10(root: Path, split: str, limit: int | None, download: bool) -> files.Parts:
    """Load STL-10, colour images of 96 x 96: 5,000 and 8,000 labelled, 100,000 unlabelled.

    The splits `"fold0"` to `"fold9"` are the official ten draws of 1,000 of the 5,000.

    Raises:
        InputError: the files in `root/stl10_binary` are missing or damaged, or the split is none of
            `"train"`, `"test"`, `"unlabeled"` and the folds.

    >>> stl10(Path("nowhere"), "train", None, False)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: stl10 is missing or incomplete in nowhere: pass download=True ...
    """
    folds = {f"fold{k}": k for k in range(10)}
    _check_split("stl10", split, "train", "test", "unlabeled", *folds)
    fold = folds.get(split)
    data = _torchvision("stl10", "STL10", root, download, split=split if fold is None else "train", folds=fold)
    y = None if split == "unlabeled" else torch.from_numpy(data.labels).long()
    return *files.rows(data.data[:limit], "stl10"), y if y is None else y[:limit]


def celeba(root: Path, split: str, limit: int | None, download: bool, size: int = 64) -> files.Parts:
    """Load CelebA, 162,770 train, 19,867 valid and 19,962 test faces, as colour images of `size` x `size`.

    The papers say "cropped and scaled" and are silent on the crop: we cut the central 140 x 140 pixels, as
    Tolstikhin et al. 2018 (WAE) do. There are no labels: the 40 attributes are not classes. The whole train
    split stays uint8 (see `Dataset`). From the image folder `root/celeba/<split>`, as it is, if it is there,
    else torchvision's `root/celeba/img_align_celeba` and lists.

    Raises:
        InputError: the files are missing or damaged, or the split is none of `"train"`, `"valid"`, `"test"`.

    >>> celeba(Path("nowhere"), "train", None, False)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: celeba is missing or incomplete in nowhere: pass download=True ...
    """
    _check_split("celeba", split, "train", "valid", "test")
    if (root / "celeba" / split).is_dir():
        return files.read_folder(root / "celeba" / split, limit)
    data = _torchvision("celeba", "CelebA", root, download, split=split)
    from torchvision.transforms import CenterCrop, Compose, Resize

    folder = root / data.base_folder / "img_align_celeba"
    chosen = [folder / data.filename[i] for i in files.spread(len(data.filename), limit)]
    return *files.rows(files.images(chosen, Compose([CenterCrop(140), Resize(size)])), "celeba"), None


def frey(root: Path, split: str, limit: int | None, download: bool) -> files.Parts:
    """Load the Frey faces, 1965 grey images of 28 x 20, from `root/frey/frey_rawface.mat` or `root`.

    Raises:
        InputError: the file is missing or damaged (it is not in torchvision: fetch it by hand from
            https://cs.nyu.edu/~roweis/data/frey_rawface.mat), or a split other than `"train"`.

    >>> frey(Path("nowhere"), "train", None, False)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: frey is not in nowhere: fetch https://cs.nyu.edu/... and put it there
    """
    _check_split("frey", split, "train")
    name = Path(FREY_URL).name
    path = next((p for p in (root / "frey" / name, root / name) if p.is_file()), None)
    if path is None:
        raise InputError(f"frey is not in {root}: fetch {FREY_URL} and put it there")
    return files.read(path)


FREY_URL = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"


# Where torchvision looks for the files of each.
RAW = {
    "MNIST": "MNIST/raw", "FashionMNIST": "FashionMNIST/raw", "CIFAR10": "cifar-10-batches-py", "STL10": "stl10_binary",
    "CelebA": "celeba",
}  # fmt: skip


def _torchvision(name: str, cls: str, root: Path, download: bool, **options: Any) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, cls)
    # A cache that torchvision wrote before 2020 is a pickle, and is passed by: the files it was made of are read. The
    # name stays, because it is that of the folder.
    unpickled = type(cls, (kind,), {"_check_legacy_exist": lambda self: False, "__module__": kind.__module__})
    try:
        return unpickled(root, download=download, **options)
    except Exception as error:  # damage and network failures surface as nearly any error
        if "not found" in str(error).lower() and not download:
            raise InputError(
                f"{name} is missing or incomplete in {root}: pass download=True to fetch it (fit --download true), or "
                f"put its files into {root / RAW[cls]}"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        verb = "downloaded to" if download else "read from"
        raise InputError(f"{name} cannot be {verb} {root}: {reason}") from error


#: The names that `load` knows.
DATASETS: dict[str, Callable[[Path, str, int | None, bool], files.Parts]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "celeba": celeba,
    "stl10": stl10,
    "frey": frey,
}
