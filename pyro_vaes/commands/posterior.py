"""The command posterior: a run's posterior on paper, for ArviZ, with the standard figures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vaes.commands.files import check_writable, condition_for, data_of, finite, is_image, modelled, write_figure
from pyro_vaes.commands.labels import seen_labels
from pyro_vaes.commands.ranks import fabric_of, launch
from pyro_vaes.errors import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor
    from xarray import DataTree

    from pyro_vaes.analysis.loo import LOO
    from pyro_vaes.pair import Pair

# Data that figures are drawn from, numbers of theirs at most, and data that are shown for their k-hat: all of a large
# file would not fit into memory.
MOST, NUMBERS, SHOWN = 2000, 10**8, 20


def do_posterior(
    run: str,
    draws: int = 200,
    rows: int | None = 500,
    split: str | None = None,
    replicates: int = 20,
    entries: int = 16,
    batch_size: int = 64,
    chunk: int = 100,
    seed: int = 0,
    devices: int = 1,
    num_nodes: int = 1,
    timeout: float = 600,
) -> None:
    """Write the posterior of a trained run as netCDF, which ArviZ opens, with the standard figures.

    Args:
        run: the run folder; posterior.nc, posterior.json and figures posterior-*.png are written into it.
        draws: of the guide, per datum: 100 or more for a k-hat.
        rows: take this many data only; null for all: the file is written in bounded memory.
        split: another part of the data set than the run was trained on, such as test, whole.
        replicates: replicas of each datum, and draws of the prior.
        entries: data of which each entry is left out in turn, where the model has a density.
        batch_size: data at a time.
        chunk: draws at a time.
        seed: of the draws.
        devices: processes, each on a share of the data; they write what one process writes.
        num_nodes: machines with so many processes each.
        timeout: seconds after which a process that gets no answer from another stops.
    """
    import numpy as np

    from pyro_vaes.analysis.netcdf import open_posterior, write_posterior
    from pyro_vaes.inference.checkpoint import write_atomically
    from pyro_vaes.inference.run import Run

    for name, value in (("draws", draws), ("replicates", replicates), ("batch_size", batch_size), ("chunk", chunk)):
        whole(name, value)
    whole("rows", 2 if rows is None else rows, low=2), whole("entries", entries, low=0), whole("seed", seed, low=0)
    fabric = fabric_of(devices, num_nodes, "ddp", "cpu", timeout)
    folder = Run.open(run)
    check_writable(folder.path)
    pair = folder.pair()
    dataset, x, dirty = data_of(folder, split)
    condition = folder.config["condition"]
    x, labels, shape = modelled(condition, dataset, x)
    y = condition_for(pair, condition, x, seen_labels(folder, pair, labels, split), dataset.name)
    x, y = x[:rows], None if y is None else y[:rows]
    classes = dataset.y[:rows] if dataset.y is not None and dataset.y.dim() == 1 else None
    marks = None if dirty is None or dirty.shape[1] != x.shape[1] else dirty[:rows]
    first = launch(fabric)
    path = write_posterior(
        folder.path / "posterior.nc", pair, x, y, draws=draws, replicates=replicates, shape=shape, dirty=marks,
        labels=classes, seed=seed, batch_size=batch_size, chunk=chunk, progress=True,
        fabric=fabric,
    )  # fmt: skip
    if not first:
        return
    print(f"wrote {path}")
    few = max(2, min(MOST, NUMBERS // (5 * replicates * x.shape[1] + draws)))
    with open_posterior(path, lazy=True) as stored:
        tree = stored.isel(datum=slice(few)).load()
        stats = {str(name): v.values for name, v in stored["sample_stats"].data_vars.items() if v.dims == ("datum",)}
        worst = np.argsort(-np.nan_to_num(stats["khat"], nan=-np.inf, posinf=np.inf), kind="stable")[:SHOWN]
        hard = stored.isel(datum=worst).load()
    by_entry = _entries(pair, x, y, tree, min(entries, len(x)), draws, seed)
    title = f"{pair.name}, {dataset.name}: {len(x)} data, {draws} draws each"
    title += f"; shown: the first {few}" if few < len(x) else ""
    figures, numbers = drawn(tree, hard, stats, by_entry, shape, title)
    content = {
        "pair": pair.name, "data": dataset.name, "split": split, "rows": len(x), "draws": draws, "seed": seed,
        "left out": json.loads(tree.attrs["left_out"]), **numbers, "versions": folder.config.get("versions"),
    }  # fmt: skip
    write_atomically(folder.path / "posterior.json", (json.dumps(finite(content), indent=2) + "\n").encode())
    print(f"wrote {folder.path / 'posterior.json'}")
    for name, figure in figures.items():
        write_figure(folder.path / f"posterior-{name}.png", figure)
    for line in said(content, str(path)):
        print(line)


def _entries(
    pair: "Pair", x: "Tensor", y: "Tensor | None", tree: "DataTree", count: int, draws: int, seed: int
) -> "LOO | None":
    """Leave out the entries of some data evenly spread, where that can be had."""
    import torch

    from pyro_vaes.analysis.loo import loo
    from pyro_vaes.errors import InputError

    if not count or "elpd" not in tree["sample_stats"].data_vars or draws < 25:
        return None
    among = torch.linspace(0, len(x) - 1, count).round().long()
    try:
        return loo(
            pair, x[among], None if y is None else y[among], left_out="entry", draws=draws, seed=seed, batch_size=1,
            progress=True,
        )  # fmt: skip
    except InputError:  # no density entry by entry
        return None


def drawn(
    tree: "DataTree",
    hard: "DataTree",
    stats: dict[str, Any],
    by_entry: "LOO | None",
    shape: tuple[int, ...],
    title: str,
) -> "tuple[dict[str, Figure], dict[str, Any]]":
    """The figures by name, and the numbers that posterior.json holds."""
    import numpy as np
    import torch

    from pyro_vaes.analysis import posterior_plots as plots
    from pyro_vaes.analysis.latents import latents, values
    from pyro_vaes.analysis.loo import LOO

    found = latents(tree)
    labels = None
    if "constant_data" in tree.children and "label" in tree["constant_data"].data_vars:
        labels = values(tree, "constant_data", "label")
    names = found.names[:6]
    figures = {"forest": plots.forest(found, labels, title=f"Most used latents. {title}"),
               "prior": plots.against_prior(found, title=f"Prior against aggregated posterior. {title}"),
               "pairs": plots.pairs(found, labels, title=f"Latents used most. {title}")}  # fmt: skip
    numbers: dict[str, Any] = {"latents": len(found.names), "used": found.used, "most used": names}
    numbers |= _predictive(tree, shape, title, figures)
    khat, draws = stats["khat"], len(tree["sample_stats"]["draw"])
    if np.isfinite(khat).any() or np.isposinf(khat).any():
        shown = np.where(np.isposinf(khat), np.nanmax(np.where(np.isfinite(khat), khat, 1)) + 0.5, khat)
        figures["khat"] = plots.khats(shown, stats["ess"], draws, title=f"Importance weights. {title}")
        numbers["k-hat"] = {
            "median": float(np.median(khat)), "above 0.7": int((khat > plots.UNTRUSTED).sum()),
            "rows above 0.7": np.flatnonzero(khat > plots.UNTRUSTED).tolist(),
            "ess, median": float(np.median(stats["ess"])),
        }  # fmt: skip
        if is_image(shape):
            total = numbers["k-hat"]["above 0.7"], len(khat)
            figures["khat-images"] = plots.hardest(hard, total, shape, title=f"Hardest data. {title}")
    if "elpd" in stats:
        figures["loo"] = plots.left_out(stats["elpd"], khat, by_entry, shape, title=f"Leave one out. {title}")
        numbers["LOO by datum"] = {"elpd": float(stats["elpd"].sum()), "mean": float(stats["elpd"].mean())}
        by_datum = LOO("datum", torch.as_tensor(stats["elpd"]), torch.as_tensor(khat), draws)
        numbers["findings"] = [str(by_datum.finding())]
    if by_entry is not None:
        numbers["findings"].append(str(by_entry.finding()))
        numbers["LOO by entry"] = {"data": len(by_entry.elpd), "mean": float(by_entry.elpd.mean()),
                                   "k-hat above 0.7": by_entry.unreliable}  # fmt: skip
    return figures, numbers


def _predictive(tree: "DataTree", shape: tuple[int, ...], title: str, figures: "dict[str, Figure]") -> dict[str, Any]:
    """The two figures of replicas, where there are any, and how often a statistic of them is above the data's."""
    from pyro_vaes.analysis import posterior_plots as plots
    from pyro_vaes.analysis.latents import values

    if is_image(shape):
        figures["replicas"] = plots.replicas(tree, shape, title=f"Replicas. {title}")
    if "x" not in tree["posterior_predictive"].data_vars:
        return {}
    x, made = values(tree, "observed_data", "x"), values(tree, "posterior_predictive", "x")[0]
    x, made = x.reshape(len(x), -1), made.reshape(*made.shape[:2], -1)
    figures["ppc"] = plots.predictive(x, made, shape, title=f"Posterior-predictive check. {title}")
    shares = {}
    for name, statistic in plots.statistics(shape).items():
        real, replica = statistic(x), statistic(made)
        shares[name] = float((replica > real).mean() + 0.5 * (replica == real).mean())
    return {"replica above its datum": shares}


def said(content: dict[str, Any], path: str) -> list[str]:
    """What was found, in a few lines, and how to open the file."""
    lines = [f"{content['pair']}: {content['rows']:,} data of {content['data']}, {content['draws']} draws of the guide "
             f"each; {content['used']} of {content['latents']} latents used"]  # fmt: skip
    if "k-hat" in content:
        known = content["k-hat"]
        rows = known["rows above 0.7"]
        listed = f": rows {', '.join(map(str, rows[:12]))}{', ...' if len(rows) > 12 else ''}" if rows else ""
        lines.append(
            f"k-hat (above 0.7, importance weights cannot correct the guide): median {known['median']:.2f}, above 0.7 "
            f"for {known['above 0.7']} of {content['rows']}{listed}; effective draws, median "
            f"{known['ess, median']:.1f} of {content['draws']}"
        )
    if "replica above its datum" in content:
        each = ", ".join(f"{name} {100 * share:.0f} %" for name, share in content["replica above its datum"].items())
        lines.append(f"replica above its datum (50 % is best, 0 and 100 % are worst): {each}")
    if "LOO by datum" in content:
        lines.append(
            f"a datum left out: log p(x) {content['LOO by datum']['mean']:.2f} nats per datum (sample_stats.elpd; "
            "az.loo would use codes that have seen their datum)"
        )
    if "LOO by entry" in content:
        known = content["LOO by entry"]
        lines.append(f"an entry left out: {known['mean']:.4f} nats per entry, of {known['data']} data")
    lines += content.get("findings", [])
    lines += [f"left out: {name}: {why}" for name, why in content["left out"].items()]
    site = content["most used"][0].partition("[")[0]
    return [
        *lines, "in any Python with arviz, h5netcdf and h5py:", "  import arviz as az",
        f'  posterior = az.from_netcdf("{path}")',
        f'  az.summary(posterior, var_names=["{site}"], coords={{"datum": [0]}}, kind="stats")',
        f"what can be trusted: pyro-vaes check {Path(path).parent}",
    ]  # fmt: skip
