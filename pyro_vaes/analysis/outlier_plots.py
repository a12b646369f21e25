"""Figures of outliers with uncertainty: images, and the reliability of their probabilities."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.analysis.outlier_judge import Judged
from pyro_vaes.analysis.outlier_posterior import OutlierPosterior
from pyro_vaes.evaluation.plots import NEUTRAL, image_rows


def outlier_figure(
    found: OutlierPosterior,
    dirty: Tensor,
    shape: Sequence[int],
    *,
    mask: Tensor | None = None,
    clean: Tensor | None = None,
    rows: Sequence[int] | None = None,
    title: str = "",
) -> Figure:
    """Draw data as they are, cleaned, how sure that is, and how likely each pixel is to be an outlier.

    Args:
        dirty: (N, d), what was given to :func:`~pyro_vaes.analysis.outlier_posterior.outlier_posterior`. shape: of an
            image. mask, clean: the truth, where it is known. rows: which data, the first ten by default.

    >>> import torch
    >>> from pyro_vaes.analysis.outlier_posterior import outlier_posterior
    >>> from pyro_vaes.variants import t_vae
    >>> x = torch.rand(3, 4)
    >>> len(outlier_figure(outlier_posterior(t_vae(4, 2, (5,)), x, draws=50), x, (2, 2)).axes)
    12
    """
    some = list(range(min(10, len(dirty)))) if rows is None else list(rows)
    w = found.weighted
    top = float(w.sd[some].max()) or 1.0
    shown = {"data": dirty[some]}
    if clean is not None:
        shown["truth"] = clean[some]
    # A mean of colours is shown as it is; probabilities of an image's channels are averaged for the eye.
    shown["clean, mean"] = found.clean[some]
    uncertain = f"clean, sd (white: {top:.2g})"
    shown[uncertain] = w.sd[some]
    shown["P(outlier)"] = w.outlier[some]
    if mask is not None:
        shown["truly dirty"] = mask[some].double()
    maps = {uncertain: ("magma", top), "P(outlier)": ("magma", 1.0), "truly dirty": ("magma", 1.0)}
    good = int((found.khat < 0.7).sum())
    head = title or f"{found.pair}: outliers of {len(some)} of {len(dirty)} data"
    return image_rows(shown, shape, title=f"{head}\n(weights trusted for {good} of {len(found.khat)} data)", maps=maps)


def judged_figure(found: Judged, title: str = "") -> Figure:
    """Draw how often entries that were called p likely to be dirty were dirty.

    >>> import torch
    >>> from pyro_vaes.analysis.outlier_judge import planted_outliers
    >>> from pyro_vaes.variants import t_vae
    >>> x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    >>> judged = planted_outliers(t_vae(4, 2, (5,)), x, draws=50, spec="impulse:0.3")[1]
    >>> len(judged_figure(judged).axes)
    3
    """
    from pyro_vaes.evaluation.reliability import reliability_diagram

    words = {"guide": "guide", "weighted": "reweighted", "exceeds": "|s| beyond threshold"}
    names = {f"{words[n]}, AUC {found.auc[n]:.2f}": bins for n, bins in found.bins.items()}
    figure = reliability_diagram(names, title or f"{found.pair}: {100 * found.dirty:.0f} % dirty entries")
    shown = np.asarray(figure.get_size_inches())
    figure.set_size_inches(max(7.4, shown[0]), shown[1] + 0.5)
    finding = found.finding()
    head = (
        title or f"{found.pair}: {100 * found.dirty:.0f} % of {found.entries:,} entries are dirty; on the line is best"
    )
    figure.suptitle(f"{head}\n{finding.verdict}: {finding.said}", fontsize=8.5, color=NEUTRAL, wrap=True)
    return figure
