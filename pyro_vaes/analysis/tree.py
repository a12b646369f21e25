"""Data, codes and what the model says of them as one xarray.DataTree, which ArviZ knows how to read."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_vaes.analysis.batches import batches
from pyro_vaes.analysis.plan import Plan, check_fits, planned
from pyro_vaes.errors import InputError
from pyro_vaes.pair import Pair

if TYPE_CHECKING:
    from xarray import DataTree

DRAWS, REPLICATES, BATCH, CHUNK = 200, 20, 64, 100


def to_datatree(
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
) -> "DataTree":
    r"""Draw from the guide, weigh the draws, replicate the data, and put everything under names.

    ==================== ================================================================== ==========================
    group                variables                                                          dimensions
    ==================== ================================================================== ==========================
    posterior            the code's sites, drawn from q(code | x)                           chain, draw, datum, z_dim
    posterior_predictive ``x``, a new datum given the code; ``mu``, the clean datum;        chain, draw, datum, pixels
                         ``s`` or ``w``, the datum's own outliers or precisions
    prior                the same sites, drawn from the model, under the datum's condition  chain, draw, datum, z_dim
    prior_predictive     ``x`` and ``mu`` of these                                          chain, draw, datum, pixels
    log_likelihood       ``x``, log p(x | code), per datum, exact sites integrated out      chain, draw, datum
    sample_stats         ``lp``, ``log_weight``; ``khat``, ``ess``, ``elpd`` per datum      chain, draw, datum
    observed_data        ``x``                                                              datum, pixels
    constant_data        ``label``, ``condition``, ``mask``, ``dirty``, what there is       datum, ...
    ==================== ================================================================== ==========================

    A guide's draws are independent and make one chain, which is no Markov chain: no R-hat, but weights, their k-hat and
    their effective sample size, (sum w)^2 / sum w^2. Pixels are ``row`` and ``column``, after ``channel`` for colour,
    else ``entry``. A replica x is drawn with new outliers, precisions and covariances: with the datum's own it would be
    the datum again. Independent sites z_1 ... z_T of one width (``bcvae``, ``crvae``) are one variable ``z`` with a
    dimension ``block``, t = 1 ... T, so that ``z.sel(block=2)`` is site z_2; layers of a hierarchy keep their names.

    What a pair has not is left out, and the attribute ``left_out`` says why: log_likelihood and ``elpd`` without a
    normalised density, weights of a point mass (there ``log_weight``, ``khat`` and ``ess`` are NaN), prior and
    replicas where a prior is improper. Further attributes: ``pair``, ``description``, ``sampling``, ``versions``,
    ``seed``. The guide sees each datum once, whatever passes the pair makes at test time.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. y: conditions, labels (N,) or (N, c), of a conditional pair.
        draws: S, codes per datum; 100 or more for a k-hat that can be read, 25 at least for any.
        replicates: R, of the draws, that are kept at the size of x, and draws of the prior per datum; the first R.
        shape: of a datum, (H, W) or (C, H, W); by default it has entries only.
        labels: (N,), whole numbers, -1 for none; kept, and not shown to the model.
        mask: (N, d) or (d,), 1 where x was observed. dirty: likewise, 1 where x is known to be dirty. Kept only: for a
            posterior given the observed entries alone see :func:`~pyro_vaes.inference.complete.complete`.
        seed: of all draws. batch_size: data at a time. chunk: draws at a time. Other values of these three give other
            draws. progress: show a bar.

    All of it lies in memory, about 4 N (S k + 4 R d) bytes; :func:`~pyro_vaes.analysis.netcdf.write_posterior` writes
    the same to a file, a batch at a time.

    Raises:
        InputError: for bad data or arguments, or a pair without a code.
        ArithmeticError: if a weight is not a number.

    Source: ours; the groups are those of ArviZ (Kumar et al., 2019).

    >>> import torch
    >>> from pyro_vaes.variants import vae
    >>> tree = to_datatree(vae(4, 2, (5,)), torch.ones(3, 4), draws=30, replicates=5, shape=(2, 2))
    >>> dict(tree["posterior"]["z"].sizes), dict(tree["posterior_predictive"]["x"].sizes)
    ({'chain': 1, 'draw': 30, 'datum': 3, 'z_dim': 2}, {'chain': 1, 'draw': 5, 'datum': 3, 'row': 2, 'column': 2})
    """
    from xarray import Dataset, DataTree

    plan = planned(pair, x, y, draws=draws, replicates=replicates, shape=shape, labels=labels, mask=mask, dirty=dirty,
                   seed=seed, batch_size=batch_size, chunk=chunk)  # fmt: skip
    check_fits(plan, len(x), "write_posterior writes them a batch at a time")
    arrays = {
        group: {n: np.empty([plan.length(group, d) for d in v.dims], v.dtype) for n, v in variables.items()}
        for group, variables in plan.variables.items()
    }
    for rows, found in batches(plan, progress):
        for group, name, variable in every(plan):
            arrays[group][name][within(variable.dims, rows)] = found[group][name]
    sets = {
        group: Dataset(
            {n: (v.dims, arrays[group][n], {"description": v.says}) for n, v in variables.items()},
            {d: (d, plan.coordinate(group, d)) for d in plan.dims(group)},
            attributes(plan, group),
        )
        for group, variables in plan.variables.items()
    }
    return DataTree.from_dict({"/": Dataset(attrs=plan.attributes), **sets})


def to_arviz(posterior: "DataTree | str | Path") -> Any:
    """Give a tree, or a file of one, as the ArviZ that is installed has it: InferenceData before 1.0, then DataTree.

    A written file needs none of this, nor pyro-vaes: in any session with ArviZ, h5netcdf and h5py,

    .. code-block:: python

        import arviz as az
        posterior = az.from_netcdf("posterior.nc")
        az.summary(posterior, var_names=["z"], coords={"datum": [0]}, kind="stats")

    Args:
        posterior: what :func:`to_datatree` gave, or the path of a netCDF file.

    Raises:
        InputError: if there is no such file, or it is another kind of file.

    Source: Kumar et al. (2019), ArviZ.

    >>> import torch
    >>> from pyro_vaes.variants import vae
    >>> to_arviz(to_datatree(vae(4, 2, (5,)), torch.ones(3, 4), draws=2))["posterior"]["z"].shape
    (1, 2, 3, 2)
    """
    import warnings

    from xarray import DataTree

    from pyro_vaes.analysis.netcdf import open_posterior

    if isinstance(posterior, str | Path):
        posterior = open_posterior(posterior)
    if not isinstance(posterior, DataTree):
        raise InputError(f"posterior is a {type(posterior).__name__}: it must be a DataTree, or the path of a file")
    with warnings.catch_warnings():
        # ArviZ announces its next version at every import.
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return posterior if int(arviz.__version__.split(".")[0]) >= 1 else arviz.from_datatree(posterior)


def every(plan: Plan):
    """All variables: group, name, variable."""
    return ((group, name, v) for group, variables in plan.variables.items() for name, v in variables.items())


def within(dims: tuple[str, ...], rows: slice) -> tuple[slice, ...]:
    """Where a batch lies in an array."""
    return tuple(rows if d == "datum" else slice(None) for d in dims)


def attributes(plan: Plan, group: str) -> dict[str, Any]:
    """What is said of a group."""
    known = {"pair": plan.pair.name, "inference_library": "pyro-vaes"}
    return known | ({"sampling": plan.attributes["sampling"]} if group in ("posterior", "sample_stats") else {})
