"""The tree as a netCDF file, written a batch at a time: for any number of data in bounded memory."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_vaes.analysis.batches import batches
from pyro_vaes.analysis.plan import Plan, planned
from pyro_vaes.analysis.tree import BATCH, CHUNK, DRAWS, REPLICATES, attributes, every, within
from pyro_vaes.errors import InputError, said, short
from pyro_vaes.inference.ranks import Ranks
from pyro_vaes.inference.sharing import agree
from pyro_vaes.pair import Pair

if TYPE_CHECKING:
    from xarray import DataTree


def write_posterior(
    path: str | Path,
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = DRAWS,
    replicates: int = REPLICATES,
    shape: tuple[int, ...] | None = None,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    dirty: Tensor | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    chunk: int = CHUNK,
    progress: bool = False,
    fabric: Any = None,
) -> Path:
    """Write what :func:`~pyro_vaes.analysis.tree.to_datatree` gives for the same arguments to a netCDF file.

    Memory is that of one batch, whatever N is (and of x itself): batch_size (S k + 4 R d) numbers, and the networks'
    for chunk times batch_size codes. The file is compressed, and stands under its name once it is whole: until then
    it has a hidden name beside it, and what was there before stays.

    Args:
        path: of the file, in a folder that exists. x: (N, d), in the pair's range.
        fabric: a launched ``lightning_fabric.Fabric`` of the strategy ``ddp``, on every rank: each takes its share of
            the batches, and the first writes them all, as one process does. All others: as there.

    Returns:
        The path.

    Raises:
        InputError: for bad data or arguments, a pair without a code, or a folder that does not exist.

    Source: ours; the groups are those of ArviZ (Kumar et al., 2019).

    >>> import torch
    >>> from pyro_vaes.variants import vae
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_posterior(f"{folder}/posterior.nc", vae(4, 2, (5,)), torch.ones(3, 4), draws=30)
    ...     open_posterior(path)["posterior"]["z"].shape
    (1, 30, 3, 2)
    """
    path = _named(path)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"path {path}: it must name a file in a folder that exists")
    plan = planned(pair, x, y, draws=draws, replicates=replicates, shape=shape, labels=labels, mask=mask, dirty=dirty,
                   seed=seed, batch_size=batch_size, chunk=chunk)  # fmt: skip
    ranks = Ranks.of(fabric)
    sizes = [draws, replicates, batch_size, chunk, *(shape or ())]
    agree(ranks, pair, x, plan.y, sizes=sizes, seed=seed, groups={g: [*v] for g, v in plan.variables.items()})
    if ranks is not None and not ranks.first:
        list(batches(plan, ranks=ranks))
        ranks.wait()
        return path
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        _write(temporary, plan, progress, ranks)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        mask_of_user = os.umask(0)
        os.umask(mask_of_user)
        temporary.chmod(0o666 & ~mask_of_user)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise
    if ranks is not None:
        ranks.wait()  # the file is there when any of them goes on
    return path


def open_posterior(path: str | Path, *, lazy: bool = False) -> "DataTree":
    """Open a file that :func:`write_posterior` wrote.

    Args:
        lazy: leave the arrays in the file until they are asked for; the tree then has to be closed.

    Raises:
        InputError: if there is no such file, or it is another kind of file.

    Source: ours; the groups are those of ArviZ.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pv.write_posterior(f"{folder}/posterior.nc", pair, x, draws=25, progress=False)
    ...     pv.open_posterior(path)["posterior"]["z"].dims
    ('chain', 'draw', 'datum', 'z_dim')
    """
    import xarray

    path = _named(path)
    if not path.is_file():
        raise InputError(f"no posterior at {path}")
    try:
        # A file of someone else's may have dimensions without names.
        tree: Any = xarray.open_datatree(path, engine="h5netcdf", phony_dims="access")
        if not lazy:
            with tree:
                tree = tree.load()
    # What h5py, h5netcdf and xarray make of damaged metadata is any of these.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a readable netCDF file: {short(error)}") from None
    if "posterior" not in tree.children:
        tree.close()
        raise InputError(f"{path} holds no posterior: it has no group of that name")
    return tree


def _named(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path is {said(path)}: it must name a file")
    return Path(path)


def _write(path: Path, plan: Plan, progress: bool, ranks: Ranks | None) -> None:
    import h5netcdf

    with path.open("w+b", buffering=0) as raw:
        disk = _Disk(raw)
        with h5netcdf.File(disk, "w") as file:
            file.attrs.update(plan.attributes)
            for group in plan.variables:
                _prepare(file.create_group(group), plan, group)
            for rows, found in batches(plan, progress, ranks):
                for group, name, variable in every(plan):
                    file[group].variables[name][within(variable.dims, rows)] = found[group][name]
                disk.check()
        disk.check()


class _Disk:
    """A file that keeps to itself what it could not write: on a full disk HDF5 cannot close a file, and crashes."""

    def __init__(self, raw: Any):
        self.raw = raw
        self.error: OSError | None = None
        for name in ("seek", "tell", "read", "readinto", "truncate", "flush"):
            setattr(self, name, self._patiently(getattr(raw, name)))

    def write(self, content: Any) -> int:
        rest = memoryview(content).cast("B")
        while len(rest) and self.error is None:
            rest = rest[self._patiently(self.raw.write)(rest) or 0 :]
        return memoryview(content).nbytes

    def check(self) -> None:
        """Raise what was kept.

        Raises:
            OSError: if the disk is full, say.
        """
        if self.error is not None:
            raise self.error

    def _patiently(self, method: Any) -> Any:
        def called(*given: Any) -> Any:
            try:
                return method(*given)
            except OSError as error:
                self.error = error
                return 0

        return called


def _prepare(into: Any, plan: Plan, group: str) -> None:
    """Dimensions, coordinates, and variables that are empty yet."""
    into.attrs.update(attributes(plan, group))
    for dim in plan.dims(group):
        into.dimensions[dim] = plan.length(group, dim)
        into.create_variable(dim, (dim,), data=plan.coordinate(group, dim))
    for name, variable in plan.variables[group].items():
        shape = [plan.length(group, d) for d in variable.dims]
        chunks = _chunks(variable.dims, shape, plan.batch_size)
        # As xarray has it: a float that is missing is NaN.
        nothing = np.nan if variable.dtype.kind == "f" else None
        made = into.create_variable(name, variable.dims, variable.dtype, chunks=chunks, compression="gzip",
                                    compression_opts=1, fillvalue=nothing)  # fmt: skip
        made.attrs["description"] = variable.says


def _chunks(dims: tuple[str, ...], shape: list[int], batch_size: int) -> tuple[int, ...]:
    """A batch of data, and as many of its draws as make some 2^18 numbers: no chunk is read again to be filled."""
    size = {d: min(batch_size, n) if d == "datum" else n for d, n in zip(dims, shape, strict=True)}
    if "draw" in size:
        others = int(np.prod([n for d, n in size.items() if d != "draw"]))
        size["draw"] = max(1, min(size["draw"], 2**18 // others))
    return tuple(size.values())
