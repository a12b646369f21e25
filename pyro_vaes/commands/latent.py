"""The command latent: what the codes of a trained run hold."""

import json
import math
from typing import TYPE_CHECKING, Any

from pyro_vaes.commands.files import condition_for, data_of, finite, is_image, modelled, write_figure
from pyro_vaes.commands.labels import seen_labels
from pyro_vaes.errors import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pyro_vaes.evaluation.aggregated import Aggregated
    from pyro_vaes.pair import Pair

# Draws that a discrepancy is estimated from: its cost is 1000 times theirs.
MOST = 20_000
ORDER = {"mean": 0.0, "variance": 1.0, "skewness": 0.0, "kurtosis": 0.0}


def do_latent(
    run: str,
    draws: int = 60_000,
    split: str | None = None,
    rows: int | None = None,
    site: str | None = None,
    seed: int = 0,
) -> None:
    """Show what the codes of a trained run's data hold: which entries are used, and how near to N(0, I) they lie.

    Args:
        run: the run folder; latent.json and figures latent-*.png are written into it (latent-SITE, where it is named).
        draws: of the aggregated posterior, the mixture of the posteriors of all data.
        split: another part of the data set than the run was trained on, such as test, whole.
        rows: take this many data only.
        site: of the code, where there are several, such as z_1; by default the first that the model draws.
        seed: of the draws.
    """
    from pyro_vaes.evaluation.aggregated import aggregated, code_site
    from pyro_vaes.inference.checkpoint import write_atomically
    from pyro_vaes.inference.run import Run

    whole("draws", draws, low=100, high=10**7)
    whole("rows", 2 if rows is None else rows, low=2)
    folder = Run.open(run)
    pair = folder.pair()
    dataset, x, _ = data_of(folder, split)
    condition = folder.config["condition"]
    x, labels, shape = modelled(condition, dataset, x)
    y = condition_for(pair, condition, x, seen_labels(folder, pair, labels, split), dataset.name)
    x, y = x[:rows], None if y is None else y[:rows]
    # Several sites of one run do not overwrite each other.
    stem = "latent" if site is None else f"latent-{site}"
    site = code_site(pair, x, y, site)
    # Where variances have to be estimated, few data can have more draws each, and a histogram that is less blurred.
    repeats = min(256, max(32, 200_000 // len(x)))
    found = aggregated(pair, x, y, site=site, draws=draws, repeats=repeats, seed=seed)
    figures = measured(pair, found, y, seed)
    for line in said(figures):
        print(line)
    path = folder.path / f"{stem}.json"
    content = {**figures, "split": split, "seed": seed, "versions": folder.config.get("versions")}
    write_atomically(path, (json.dumps(finite(content), indent=2) + "\n").encode())
    print(f"wrote {path}")
    title = f"{pair.name}, {dataset.name}: {len(x)} data"
    for name, figure in drawn(pair, found, x, y, dataset.y, shape, title).items():
        write_figure(folder.path / f"{stem}-{name}.png", figure)


def measured(pair: "Pair", found: "Aggregated", y: "Tensor | None", seed: int) -> dict[str, Any]:
    """Everything that latent.json holds of one site, as plain values."""
    from pyro_vaes.evaluation.aggregated import prior_draws
    from pyro_vaes.evaluation.normality import gap, mmd_to, moments, quantile_error, spectrum

    z, data = found.draws, len(found.mean)
    shape = moments(z, data)
    n, k = len(z), z.shape[1]
    discrepancies = {"N(0, I)": mmd_to(z, limit=MOST, seed=seed)}
    if not _standard(pair, found.site):
        few = found.rows[:MOST]
        prior = prior_draws(pair, found.site, len(few), None if y is None else y[few], seed=seed)
        discrepancies["the prior"] = mmd_to(z, prior, limit=MOST)
    return {
        "pair": pair.name, "site": found.site, "data": data, "draws": n, "dimensions": k,
        "used": [j + 1 for j in range(k) if found.used[j]], "pruned": [j + 1 for j in range(k) if not found.used[j]],
        "activity": found.activity.tolist(), "variance of a datum, mean": found.variance.mean(0).tolist(),
        "moments": {name: getattr(shape, name).tolist() for name in ORDER},
        "standard errors of the moments": shape.errors,
        "singular values of the covariance": spectrum(z).tolist(),
        "gap to I": gap(z), "gap of N(0, I) itself": math.sqrt((k + 1) * (1 / n + 1 / data)),
        "distance of the quantiles from N(0, 1)": quantile_error(z).tolist(),
        "mmd^2": {to: value for to, (value, _) in discrepancies.items()},
        "mmd^2: standard error": {to: error for to, (_, error) in discrepancies.items()},
    }  # fmt: skip


def _standard(pair: "Pair", site: str) -> bool:
    from pyro.distributions import Normal

    from pyro_vaes.inference.densities import family

    prior = family(pair.traces()[1].nodes[site])
    return isinstance(prior, Normal) and bool((prior.loc == 0).all()) and bool((prior.scale == 1).all())


def said(figures: dict[str, Any]) -> list[str]:
    """The figures as a screenful."""
    used, pruned, k = figures["used"], figures["pruned"], figures["dimensions"]
    variance = figures["variance of a datum, mean"]
    lines = [
        f"{figures['pair']}: site {figures['site']}, {k} dimensions; "
        f"{figures['draws']:,} draws of the aggregated posterior of {figures['data']:,} data",
        f"used: {len(used)} of {k} (their mean varies with the data by more than 0.01)",
        *[
            f"  {word}: {_listed(among)}; variance of a datum {_span([variance[j - 1] for j in among])}"
            for word, among in (("used", used), ("pruned", pruned))
            if among
        ],
        "the furthest of all dimensions from N(0, 1), in brackets the standard error of N(0, 1) itself:",
    ]
    errors = figures["standard errors of the moments"]
    for name, ideal in ORDER.items():
        values = figures["moments"][name]
        known = [j for j in range(k) if math.isfinite(values[j])]
        if known:
            worst = max(known, key=lambda j: abs(values[j] - ideal))
            word = "excess kurtosis" if name == "kurtosis" else name
            lines.append(f"  {word}: {values[worst]:.3f} in dimension {worst + 1} ({errors[name]:.3f})")
    values = figures["singular values of the covariance"]
    lines.append(
        f"covariance: singular values {values[-1]:.3g} to {values[0]:.3g}; gap to I {figures['gap to I']:.3g} "
        f"(of N(0, I) itself at most about {figures['gap of N(0, I) itself']:.2g})"
    )
    for to, value in figures["mmd^2"].items():
        lines.append(f"MMD^2 to {to}: {value:.5f} +- {figures['mmd^2: standard error'][to]:.5f}")
    return lines


def drawn(
    pair: "Pair", found: "Aggregated", x: "Tensor", y: "Tensor | None", labels: "Tensor | None", shape: Any, title: str
) -> "dict[str, Figure]":
    """The figures by name."""
    import torch

    from pyro_vaes.evaluation import latent_plots

    z, label = found.draws, f"{found.site} of {pair.name}"
    normal = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    figures = {
        "qq": latent_plots.qq({label: z}, title=title),
        "moments": latent_plots.moment_panels({label: z}, data=len(x), title=f"{title}; band: N(0, 1) +- 2 errors"),
        "spectrum": latent_plots.spectra({label: z}, title=title),
        "pruning": latent_plots.pruning({label: found.variance}, used={label: found.used}, title=title),
    }
    if z.shape[1] > 1:
        whole_labels = labels is not None and labels.dim() == 1 and len(labels.unique()) <= 10
        colours = labels[: len(x)][found.rows] if whole_labels and labels is not None else None
        figures["scatter"] = latent_plots.scatter(
            {"aggregated posterior": z, "N(0, I)": normal},
            dimensions=sorted(z.var(0).topk(2).indices.tolist()),
            labels={} if colours is None else {"aggregated posterior": colours},
            title=f"{title}; circles hold 50, 90, 99 % of N(0, I)",
            name=found.site,
        )
    if is_image(shape):
        figures["traversals"] = _traversals(pair, found, x[:1], None if y is None else y[:1], shape, title)
    return figures


def _traversals(
    pair: "Pair", found: "Aggregated", x: "Tensor", y: "Tensor | None", shape: Any, title: str, steps: int = 11
) -> "Figure":
    """Along the dimension that knows its datum best, and the one that knows it least: pruned, if any is."""
    import torch

    from pyro_vaes.evaluation.aggregated import traversal
    from pyro_vaes.evaluation.plots import image_rows

    variance = found.variance.mean(0)
    # Without doubt of its own (a deterministic code) what its datum moves most is known best.
    known = -variance if variance.any() else found.activity
    best, least = int(known.argmax()), int(known.argmin())
    rows = {}
    for j, word in ((best, "used most"), (least, "used least" if found.used[least] else "pruned")):
        middle, spread = float(found.draws[:, j].mean()), 3 * float(found.draws[:, j].std())
        span = torch.linspace(middle - spread, middle + spread, steps)
        label = f"{word}: dimension {j + 1}, {span[0]:.1f} to {span[-1]:.1f}"
        rows[label] = traversal(pair, x[0], j, span, y, site=found.site)
    return image_rows(rows, shape, title=f"{title}. One entry of {found.site} moves")


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:24])) + (", ..." if len(numbers) > 24 else "")


def _span(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}" if len(values) > 1 else f"{values[0]:.3g}"
