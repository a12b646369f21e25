"""Binary images out of grey ones: by several rules with names, because they are not the same data.

Bounds of two of them must never stand in one table: `static` is what the literature tests on, `dynamic` what it trains
on, and a threshold is a third data set, with a bound of its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pyro_vaes.data.datasets import Dataset, check_dataset, folder
from pyro_vaes.data.files import MMAP_BYTES
from pyro_vaes.errors import InputError, number, unknown, whole

#: What `binarised` and `fit --binarise` know.
KINDS = ("dynamic", "static", "threshold05", "threshold0_inverted", "gray")

#: The rows of Larochelle's files, of 784 pixels each. The first two are MNIST's training images, in two parts.
ROWS = {"train": 50_000, "valid": 10_000, "test": 10_000}
WIDTH = 784


def binarised(
    dataset: Dataset, kind: str | float, *, seed: int = 0, root: str | Path | None = None, split: str = "train"
) -> Dataset:
    r"""Make grey values in [0, 1] binary, by a rule; the `note` of the result says what was done.

    `static`: one draw :math:`x' \sim \mathrm{Bernoulli}(x)`, for good. Of MNIST it is the file of Larochelle & Murray
    where `root` has it; else a draw of our own from `seed`, of the same distribution but other numbers.
    `threshold05`: :math:`x' = 1[x > 0.5]`; a number is the threshold itself. `threshold0_inverted`:
    :math:`x' = 1[x = 0]`, ink 0 and paper 1. `gray`: the values as they are.

    Arguments:
        dataset: values in [0, 1], or bytes.
        kind: one of `KINDS` but `dynamic`, or a threshold.
        seed: of the draw.
        root: where `BinaryMNIST/binarized_mnist_{train,valid,test}.amat` or these files themselves may lie; None looks
            for none.
        split: which part of MNIST `dataset` is, `"train"` or `"test"`, from its first row on.

    Raises:
        InputError: an unknown rule, values outside of [0, 1], a damaged file; or `dynamic`, which is drawn anew at
            every step and so is no data set.

    Source: Larochelle & Murray (2011), 4 (static); the course report, 4 (S4: "setting to zero any pixel greater than
    zero", with the colours inverted: taken alone, the first would leave nothing of any digit).

    >>> grey = Dataset("mine", torch.tensor([[0.0, 0.2, 0.9]]), (3,))
    >>> binarised(grey, "threshold05").x, binarised(grey, "threshold0_inverted").x
    (tensor([[0., 0., 1.]]), tensor([[1., 0., 0.]]))
    """
    check_dataset(dataset)
    kind, root = read_kind(kind), None if root is None else folder("root", root)
    whole("seed", seed, low=0)
    if kind == "dynamic":
        raise InputError("dynamic is drawn anew at every step: train with augment='dynamic', and test on 'static'")
    if kind == "gray":
        return replace(dataset, note="grey values, not binarised")
    if isinstance(kind, str):
        _check_range(dataset)
    if kind == "static":
        return _static(dataset, seed, root, split)
    if kind == "threshold0_inverted":
        return replace(dataset, x=(dataset.x == 0).float(), note="1[x = 0]: ink 0, paper 1")
    threshold = 0.5 if kind == "threshold05" else float(kind)
    return replace(dataset, x=(_grey(dataset.x) > threshold).float(), note=f"1[x > {threshold:g}]")


def read_kind(kind: object) -> str | float:
    """Give back the name of a rule, or a threshold, or refuse it.

    >>> read_kind("static"), read_kind(0.3)
    ('static', 0.3)
    """
    if isinstance(kind, str):
        if kind not in KINDS:
            raise unknown("binarisation", kind, [*KINDS, "or a number, the threshold"])
        return kind
    return number("binarise", kind, low=-float("inf"))


def _static(dataset: Dataset, seed: int, root: Path | None, split: str) -> Dataset:
    if dataset.name == "mnist" and root is not None:
        if split not in ("train", "test"):
            raise InputError(f"mnist has no split {split!r}: it has train, test")
        wanted = ["test"] if split == "test" else ["train", "valid"][: 1 + (len(dataset.x) > ROWS["train"])]
        found = [_file(root, part) for part in wanted]
        if all(found):
            return _from_files(dataset, [read_amat(path, ROWS[part]) for path, part in zip(found, wanted, strict=True)])  # type: ignore[arg-type]
    note = f"static: our own draw from seed {seed}"
    if dataset.name == "mnist":
        note += ", not the file of Larochelle & Murray, which is not there"
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.bernoulli(_grey(chunk).cpu(), generator=generator) for chunk in dataset.x.split(8192)]
    return replace(dataset, x=torch.cat(draws), note=note)


def _file(root: Path, part: str) -> Path | None:
    name = f"binarized_mnist_{part}.amat"
    return next((path for path in (root / "BinaryMNIST" / name, root / name) if path.is_file()), None)


def _from_files(dataset: Dataset, parts: list[Tensor]) -> Dataset:
    x = torch.cat(parts)[: len(dataset.x)]
    if x.shape != dataset.x.shape:
        raise InputError(f"the files of static MNIST hold {tuple(x.shape)}, the data set {tuple(dataset.x.shape)}")
    note, grey = "static: the file of Larochelle & Murray (2011)", _grey(dataset.x)
    # Paper stays paper, and full ink stays ink: so labels can be trusted only if the rows are in the same order.
    if dataset.y is not None and bool(((grey == 0) & (x == 1)).any() | ((grey == 1) & (x == 0)).any()):
        return replace(dataset, x=x, y=None, note=f"{note}; its rows are in another order, so there are no labels")
    return replace(dataset, x=x, note=note)


def read_amat(path: Path, rows: int) -> Tensor:
    """Read a file of zeros and ones in text, one image of 784 pixels a line.

    Arguments:
        rows: how many lines there must be.

    Raises:
        InputError: another size, or a line with another width or anything but 0 and 1; it names the line.
    """
    size = path.stat().st_size
    if size > 4 * rows * WIDTH or size >= MMAP_BYTES:
        raise InputError(f"{path}: has {size:,} bytes, too many for {rows:,} lines of {WIDTH} zeros and ones")
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(lines) != rows:
        raise InputError(f"{path}: has {len(lines):,} lines: it must have {rows:,}")
    x = torch.empty(rows, WIDTH)
    for i, line in enumerate(lines):
        cells = line.split()
        if len(cells) != WIDTH:
            raise InputError(f"{path}: line {i + 1} has {len(cells)} values: it must have {WIDTH}")
        text = b"".join(cells)
        if len(text) != WIDTH or text.translate(None, b"01"):
            bad = next(cell for cell in cells if cell not in (b"0", b"1"))
            raise InputError(f"{path}: line {i + 1} holds {bad[:20].decode(errors='replace')!r}: values must be 0 or 1")
        x[i] = torch.frombuffer(bytearray(text), dtype=torch.uint8) - ord("0")
    return x


def _grey(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _check_range(dataset: Dataset) -> None:
    for start in range(0, len(dataset.x), 8192):
        chunk = dataset.x[start : start + 8192]
        bad = ~((chunk >= 0) & (chunk <= (255 if chunk.dtype == torch.uint8 else 1)))
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            value = chunk[row, column].item()
            raise InputError(f"{dataset.name} is {value:g} at row {start + row}, column {column}: binarise [0, 1] only")
