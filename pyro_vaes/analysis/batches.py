"""What goes into a tree, a batch of data at a time."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.analysis.loo import smoothed
from pyro_vaes.analysis.plan import Plan
from pyro_vaes.analysis.replicate import replicate
from pyro_vaes.analysis.target import Target
from pyro_vaes.inference.densities import quietly, seed_at
from pyro_vaes.inference.guard import as_batch
from pyro_vaes.inference.memory import Chunk
from pyro_vaes.inference.pareto import khat
from pyro_vaes.inference.ranks import Ranks
from pyro_vaes.inference.sharing import in_order

# group -> name -> (S, B, ...), or (B, ...) where the variable has no draws.
Arrays = dict[str, dict[str, np.ndarray]]


def batches(plan: Plan, progress: bool = False, ranks: Ranks | None = None) -> Iterator[tuple[slice, Arrays]]:
    """Give the rows of each batch with their arrays, which have the shapes that the plan says.

    Where memory runs out the plan's chunk is halved: other draws of the same posterior, from streams of their own.

    Args:
        ranks: among whom the batches are shared out; the first is given all of them, the others nothing.

    Raises:
        ArithmeticError: if a weight is not a number.
        MemoryError: if there is not enough for one draw of a batch.
    """
    chunk = Chunk("chunk", plan.chunk)
    starts = range(0, len(plan.x), plan.batch_size)
    if ranks is None:
        for start in _shown(plan, starts, progress):
            yield _rows(plan, start), _found(plan, start, chunk)
        return
    shown = iter(_shown(plan, starts, progress and ranks.first))
    for i, one in in_order(
        ranks, len(starts), lambda i: _bytes(_found(plan, starts[i], chunk)), lambda i: _size(plan, starts[i])
    ):
        next(shown)
        yield _rows(plan, starts[i]), _arrays(plan, starts[i], one)
    next(shown, None)


def _shown(plan: Plan, starts: range, progress: bool) -> Iterable[int]:
    if not progress:
        return starts
    from tqdm import tqdm

    return tqdm(starts, unit="batch", desc=f"posterior of {plan.pair.name}")


def _rows(plan: Plan, start: int) -> slice:
    return slice(start, min(start + plan.batch_size, len(plan.x)))


def _found(plan: Plan, start: int, chunk: Chunk) -> Arrays:
    with quietly(plan.pair):
        found = _batch(plan, _rows(plan, start), chunk)
    return {g: {n: _shaped(plan, g, n, found[g][n]) for n in v} for g, v in plan.variables.items()}


def _bytes(found: Arrays) -> Tensor:
    """A batch as one message to another rank."""
    return torch.from_numpy(np.concatenate([a.reshape(-1).view(np.uint8) for g in found.values() for a in g.values()]))


def _shapes(plan: Plan, start: int) -> Iterator[tuple[str, str, np.dtype, list[int]]]:
    rows = _rows(plan, start)
    for group, variables in plan.variables.items():
        for name, v in variables.items():
            sizes = [rows.stop - rows.start if d == "datum" else plan.length(group, d) for d in v.dims]
            yield group, name, v.dtype, sizes


def _size(plan: Plan, start: int) -> int:
    return sum(dtype.itemsize * int(np.prod(shape)) for _, _, dtype, shape in _shapes(plan, start))


def _arrays(plan: Plan, start: int, one: Tensor) -> Arrays:
    found: Arrays = {group: {} for group in plan.variables}
    at = 0
    for group, name, dtype, shape in _shapes(plan, start):
        end = at + dtype.itemsize * int(np.prod(shape))
        found[group][name] = one[at:end].numpy().view(dtype).reshape(shape)
        at = end
    return found


def _batch(plan: Plan, rows: slice, chunk: Chunk) -> dict[str, dict[str, Tensor]]:
    x, y = as_batch(plan.x[rows]), None if plan.y is None else plan.y[rows]
    at = Target(plan.pair, x, y, plan.sites)

    def some(done: int, count: int) -> dict[tuple[str, str], Tensor]:
        part: dict[tuple[str, str], Tensor] = {}

        def put(group: str, name: str, value: Tensor) -> None:
            if name in plan.variables.get(group, {}):
                part[group, name] = value

        drawn = at.draw(count, (plan.seed, rows.start, done))
        for name, value in _codes(plan, drawn.values).items():
            put("posterior", name, value)
        put("log_likelihood", "x", drawn.data)
        put("sample_stats", "lp", drawn.prior + drawn.data)
        put("sample_stats", "log_weight", torch.full_like(drawn.data, torch.nan) if at.sites.point_mass
            else drawn.log_weights)  # fmt: skip
        few = min(count, plan.replicates - done)
        if few > 0:
            put("posterior_predictive", "mu", drawn.mean[:few])
            for name in plan.wide:
                put("posterior_predictive", name, drawn.values[name][:few])
            _new(plan, rows, y, few, done, {name: drawn.values[name][:few] for name in at.sites.code}, put)
        return part

    parts: dict[tuple[str, str], list[Tensor]] = {}
    for part in chunk.over(plan.draws, some):
        for key, value in part.items():
            parts.setdefault(key, []).append(value)
    found: dict[str, dict[str, Tensor]] = {group: {} for group in plan.variables}
    for (group, name), values in parts.items():
        found[group][name] = torch.cat(values)
    found["sample_stats"] |= _stats(plan, found["sample_stats"]["log_weight"], rows.start)
    found["observed_data"]["x"] = x
    return found | {"constant_data": _constants(plan, rows)}


def _new(plan: Plan, rows: slice, y: Tensor | None, few: int, done: int, codes: dict[str, Tensor], put) -> None:
    """Replicas of the data, and draws of the prior: as many."""
    size = rows.stop - rows.start
    if "x" in plan.variables["posterior_predictive"]:
        seed_at(plan.seed, rows.start, done, 1)
        put("posterior_predictive", "x", replicate(plan.pair, size, y, few, codes)[0]["x"])
    if "prior" in plan.variables:
        seed_at(plan.seed, rows.start, done, 2)
        values, mean = replicate(plan.pair, size, y, few, {})
        for name, value in _codes(plan, values).items():
            put("prior", name, value)
        put("prior_predictive", "x", values["x"]), put("prior_predictive", "mu", mean)


def _codes(plan: Plan, values: dict[str, Tensor]) -> dict[str, Tensor]:
    if not plan.blocks:
        return values
    return {**values, "z": torch.stack([values[name] for name in plan.blocks], 2)}


def _stats(plan: Plan, log_w: Tensor, start: int) -> dict[str, Tensor]:
    if plan.sites.point_mass:
        nothing = torch.full(log_w.shape[1:], torch.nan, dtype=torch.float64)
        return {"khat": nothing, "ess": nothing}
    if log_w.isnan().any():
        row = int(log_w.isnan().any(0).nonzero()[0])
        raise ArithmeticError(f"a weight of the datum at row {start + row} is not a number")
    w = log_w.softmax(0)
    found = {"khat": khat(log_w.T), "ess": 1 / w.square().sum(0)}
    return found | ({"elpd": smoothed(log_w.T)[1]} if plan.sites.normalised else {})


def _constants(plan: Plan, rows: slice) -> dict[str, Tensor]:
    given = {"label": plan.labels, "condition": plan.y, **plan.marks}
    return {name: value[rows] for name, value in given.items() if value is not None}


def _shaped(plan: Plan, group: str, name: str, value: Tensor) -> np.ndarray:
    """An array of the variable's dimensions, with as many data as there are in it."""
    variable = plan.variables[group][name]
    array = value.detach().cpu().numpy().astype(variable.dtype, copy=False)
    i = variable.dims.index("datum")
    chain = (1,) if "chain" in variable.dims else ()
    data = array.shape[i - len(chain)]
    sizes = tuple(plan.sizes[d] for d in variable.dims[i + 1 :])
    return np.ascontiguousarray(array).reshape(*chain, *array.shape[: i - len(chain)], data, *sizes)
