"""What ``two-stage`` makes of its numbers: the claims, the figures, the tables."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST, image_rows
from pyro_vaes.experiments.record import markdown_table
from pyro_vaes.experiments.verdicts import interval, untested, verdict

LABELS = {
    "autoencoder": "AE", "l2_vae": "VAE, fixed gamma", "gamma_vae": "VAE, learned gamma", "wae_mmd": "WAE-MMD",
    "wae_gan": "WAE-GAN", "two_stage_vae": "two-stage VAE",
}  # fmt: skip
TWO = "two_stage_vae"
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
ONE_STAGE = tuple(name for name in LABELS if name != TWO)
COLOURS = dict(zip(LABELS, (CLASSICAL, "#3c7a89", "#e08e45", "#7b6d8d", "#8a9a5b", ROBUST), strict=True))
SETS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
FLAT = 1.5
# FIDs of Dai & Wipf (2019), Table 1: for their ratios only.
PUBLISHED = {
    "mnist": {"cross-entropy": 16.6, "l2_vae": 52.0, "gamma_vae": 54.5, "wae_mmd": 115.0, TWO: 12.6},
    "fashion_mnist": {"cross-entropy": 43.6, "l2_vae": 84.6, "gamma_vae": 60.0, "wae_mmd": 101.7, TWO: 29.3},
}


class Found:
    """The measures of one data set, one number per seed.

    Args:
        of: method -> latent dimension -> measure -> values. real: distance of real images. settings: of the result.
    """

    def __init__(self, of: Mapping[str, Any], real: float, settings: Mapping[str, Any]):
        self.of, self.real = of, real
        self.judged, self.largest = settings["judged"], max(settings["latent_dims"])
        self.enough = [k for k in settings["latent_dims"] if k >= settings["flat_from"]]

    def __call__(self, method: str, measure: str = "samples", k: int | None = None) -> np.ndarray:
        return np.array(self.of[method][str(self.judged if k is None else k)][measure])

    def rise(self, method: str) -> np.ndarray:
        """The distance of samples at the largest k, as a multiple of the smallest one."""
        each = np.stack([self(method, k=k) for k in self.enough])
        return each[-1] / each.min(0)


Claim = tuple[str, str, Callable[[Found], np.ndarray]]


def claims(settings: Mapping[str, Any]) -> list[Claim]:
    """Every claim: its words, its source, and the gains that are positive where it holds."""
    k, last, first = settings["judged"], max(settings["latent_dims"]), settings["flat_from"]
    found: list[Claim] = [
        (f"two-stage VAE: samples are flat in k (distance at k = {last} below {FLAT} times the smallest from k = "
         f"{first} on)", "S3 IV; E29", lambda of: FLAT - of.rise(TWO)),
        ("only the two-stage VAE's samples are flat in k: it is, and each of the others rises by more", "S3 IV; E29",
         lambda of: np.minimum(np.min([of.rise(name) for name in ONE_STAGE], 0) - FLAT, FLAT - of.rise(TWO))),
    ]  # fmt: skip
    found += [
        (f"{LABELS[name]}: samples rise more with k than the two-stage VAE's", "S3 IV; E29",
         lambda of, name=name: of.rise(name) - of.rise(TWO))
        for name in ONE_STAGE
    ] + [
        (f"two-stage VAE's samples are closer to images than those of: {LABELS[name]} (k = {k})", "S3 IV; E28",
         lambda of, name=name: of(name) - of(TWO))
        for name in ONE_STAGE
    ]  # fmt: skip
    found += [
        (f"learned gamma, criterion A: reconstructions are near perfect (distance below twice that of real images, "
         f"k = {last})", "S3 III-IV", lambda of: 2 * of.real - of("gamma_vae", "reconstructions", last)),
        (f"learned gamma reconstructs better than fixed gamma (k = {k})", "S3 IV; M4",
         lambda of: of("l2_vae", "reconstructions") - of("gamma_vae", "reconstructions")),
        (f"learned gamma fails criterion B: its aggregated posterior is not N(0, I) (MMD^2 above 0, k = {k})",
         "S3 IV; E27", lambda of: of("gamma_vae", "mmd")),
        (f"AE fails criterion B: its codes are further from N(0, I) than learned gamma's (MMD^2, k = {k})",
         "S3 IV; M25", lambda of: of("autoencoder", "mmd") - of("gamma_vae", "mmd")),
        (f"the second stage's own p(z) is nearer to the aggregated posterior than N(0, I) is (MMD^2, k = {k})",
         "S3 IV; E27", lambda of: of("gamma_vae", "mmd") - of(TWO, "mmd")),
        (f"second stage: q(u) is nearer to N(0, I) than q(z) is (MMD^2, k = {k})", "S3 IV; E27",
         lambda of: of(TWO, "mmd of u") * -1 + of("gamma_vae", "mmd")),
        *((f"{LABELS[wae]}'s samples are closer to images than those of: {LABELS[vae]} (k = {k})", "S3 IV; E26",
           lambda of, wae=wae, vae=vae: of(vae) - of(wae))
          for wae in ("wae_mmd", "wae_gan") for vae in ("l2_vae", "gamma_vae")),
        (f"learned gamma's samples are closer to images than fixed gamma's (k = {k})",
         "Dai & Wipf 2019, Fashion-MNIST only", lambda of: of("l2_vae") - of("gamma_vae")),
    ]  # fmt: skip
    return found


def verdicts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge the claims on every data set; gains are differences seed by seed. Written before any training."""
    settings, judged = result["settings"], []
    for name, label in SETS.items():
        there = result["sets"].get(name)
        if there is None:
            judged.append(untested(f"{label}: all claims", "S3 IV", f"{label} was not under the data root"))
            continue
        of = Found(there["measures"], there["real"], settings)
        judged += [
            verdict(f"{label}: {claim}", source, gains(of).tolist()) for claim, source, gains in claims(settings)
        ]
    why = "the first stage here is fully connected, and grey images only"
    return [*judged, untested("samples of CelebA: two stages against one, and WGAN-GP", "S3 IV; E30", why)]


def _title(result: dict[str, Any], name: str, scale: str) -> str:
    s = result["settings"]
    return f"{SETS[name]}, {scale} scale, {s['steps']:,} + {s['second_steps']:,} steps, {len(s['seeds'])} seeds"


def figures(result: dict[str, Any], scale: str) -> dict[str, Figure]:
    """Distances over k, singular values of the aggregated posterior, and samples: three for every data set."""
    made = {}
    for name, found in result["sets"].items():
        title = _title(result, name, scale)
        made[f"{name}.distances"] = _distances(result, found, title)
        made[f"{name}.spectrum"] = _spectra(result, found, title)
        rows = {"real images": found["real images"], **{LABELS[m]: found["shown"][m] for m in LABELS}}
        made[f"{name}.samples"] = image_rows(
            {label: torch.tensor(row) / 255 for label, row in rows.items()}, found["shape"],
            title=f"Samples, k = {max(result['settings']['latent_dims'])} ({title}, the first shown)",
            highlight=[LABELS[TWO]],
        )  # fmt: skip
    return made


def _distances(result: dict[str, Any], found: dict[str, Any], title: str) -> Figure:
    """Frechet distance over k with its interval, of samples and of reconstructions, on logarithmic axes."""
    dims = result["settings"]["latent_dims"]
    figure = Figure(figsize=(11.5, 4.6), dpi=160, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, measure in zip(panels, ("samples", "reconstructions"), strict=True):
        for method, label in LABELS.items():
            ends = np.array([interval(found["measures"][method][str(k)][measure]) for k in dims])
            colour, wide = COLOURS[method], 2.4 if method == TWO else 1.4
            # One training: its reconstructions are those of both, and the thinner line lies on the other.
            both = {"linestyle": "--", "zorder": 5} if (method, measure) == ("gamma_vae", "reconstructions") else {}
            ax.plot(dims, ends[:, 0], marker="o", markersize=3.5, linewidth=wide, color=colour, label=label, **both)
            ax.fill_between(dims, ends[:, 1].clip(min=ends[:, 0] / 10), ends[:, 2], color=colour, alpha=0.15, lw=0)
        ax.axhline(found["real"], color=NEUTRAL, linestyle=":", linewidth=1.2, label="other real images")
        ax.set_xscale("log", base=2), ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
        # A locator, since set_yticks would stretch the axis to every tick.
        ax.yaxis.set_major_locator(FixedLocator(TICKS)), ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylim(0.8 * found["real"])
        ax.set_xticks(dims, [str(k) for k in dims])
        what = "of samples" if measure == "samples" else "of reconstructions (of both VAEs with learned gamma the same)"
        ax.set_title(what, fontsize=10, loc="left", color=NEUTRAL)
        ax.set_xlabel("latent dimension k", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Frechet distance in classifier features (lower is better)", fontsize=9)
    panels[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    figure.suptitle(f"{title}; bands: 95 %", fontsize=10, color=NEUTRAL)
    return figure


def _spectra(result: dict[str, Any], found: dict[str, Any], title: str) -> Figure:
    """Singular values of the covariance of the aggregated posterior, largest first; N(0, I) has ones."""
    figure = Figure(figsize=(7.4, 4.2), dpi=160, layout="constrained")
    ax = figure.subplots()
    # The first stage of the two-stage VAE is the VAE with learned gamma: one line.
    labels = {m: label for m, label in LABELS.items() if m != TWO} | {"u": "two-stage VAE, second stage (u)"}
    for method, label in labels.items():
        values = np.mean(found["spectrum"][method], 0).clip(min=1e-6)
        name = f"{label} = first stage (z)" if method == "gamma_vae" else label
        colour, wide = COLOURS.get(method, ROBUST), 2.4 if method == "u" else 1.4
        # Those of the fixed gamma lie where u's do: dashed, and on top.
        both: dict[str, Any] = {"linestyle": "--", "zorder": 5} if method == "l2_vae" else {}
        ax.plot(range(1, len(values) + 1), values, marker=".", color=colour, linewidth=wide, label=name, **both)
    ax.axhline(1.0, color=NEUTRAL, linestyle=":", linewidth=1.2, label="N(0, I)")
    ax.set_yscale("log")
    ax.set_xlabel(f"singular value, largest first (k = {result['settings']['judged']})", fontsize=9)
    ax.set_ylabel("of the covariance of the aggregated posterior", fontsize=9)
    ax.set_title(f"Codes of all data: nearer to 1 is nearer to the prior\n{title}", fontsize=9, loc="left")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def table(result: dict[str, Any]) -> str:
    """Per data set: distances over k; what the codes are like; ratios to the two-stage VAE beside published ones."""
    settings, parts = result["settings"], []
    dims, judged = settings["latent_dims"], str(settings["judged"])
    for name, found in result["sets"].items():
        of = found["measures"]
        for measure in ("samples", "reconstructions"):
            rows: list[list[object]] = [["other real images", *[f"{found['real']:.3g}"] * len(dims)]]
            rows += [[LABELS[m], *(_plus_minus(of[m][str(k)][measure]) for k in dims)] for m in LABELS]
            first = f"{SETS[name]}, Frechet distance of {measure}"
            parts.append(markdown_table([first, *(f"k = {k}" for k in dims)], rows))
        rows = [
            [LABELS[m], *(_plus_minus(of[m][judged][v]) for v in ("mmd", "gap", "gamma", "mse", "classes"))]
            for m in LABELS
        ]
        rows.append(["two-stage VAE: q(u)", *(_plus_minus(of[TWO][judged][f"{v} of u"]) for v in ("mmd", "gap")),
                     "", "", ""])  # fmt: skip
        head = [f"{SETS[name]}, k = {judged}", "MMD^2 of codes to p", "Frechet distance of codes to p, per dimension",
                "gamma_x (its floor is 1e-06)", "mse of reconstructions", "classes of samples"]  # fmt: skip
        parts += [markdown_table(head, rows), _ratios(name, of, judged)]
    return "\n\n".join(parts)


def _ratios(name: str, of: Mapping[str, Any], judged: str) -> str:
    theirs = PUBLISHED[name]
    rows: list[list[object]] = []
    for method in (*LABELS, "cross-entropy"):
        label = LABELS.get(method, "VAE, cross-entropy")
        ours = "not trained"
        if method in of:
            ratio = np.array(of[method][judged]["samples"]) / np.array(of[TWO][judged]["samples"])
            ours = _plus_minus(ratio.tolist()) if method != TWO else "1"
        rows.append([label, ours, f"{theirs[method] / theirs[TWO]:.2f}" if method in theirs else "-"])
    return markdown_table(
        [f"{SETS[name]}: distance of samples over that of the two-stage VAE", f"Frechet distance, k = {judged}, ours",
         "FID, k = 64, Dai & Wipf 2019"], rows,
    )  # fmt: skip


def _plus_minus(values: list[float]) -> str:
    mean, _, high = interval(values)
    return f"{mean:.3g} ± {high - mean:.2g}"
