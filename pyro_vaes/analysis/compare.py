"""The guide against NUTS: bias, scale, gaps and k-hat of some data, side by side."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.analysis.gaps import Gaps, exact_moments, gaps, is_diagonal
from pyro_vaes.analysis.near import guide_moments
from pyro_vaes.analysis.nuts import Chains, nuts
from pyro_vaes.analysis.psis import Smoothed, psis
from pyro_vaes.finding import Finding
from pyro_vaes.inference.densities import quietly
from pyro_vaes.pair import Pair

QUESTION = "is the guide where the posterior is, and as wide?"
BIAS, FACTOR = 0.5, 1.5  # posterior standard deviations; how many times too narrow or too wide
ROWS = 16


@dataclass(frozen=True)
class Compared:
    """What :func:`compare` found; N data, k entries of the code on the real line.

    Attributes:
        bias: (N, k), (E_q z - E_nuts z) / sd_nuts. scale: (N, k), log2(sd_q / sd_nuts), -1 for half as wide as it
            should be; NaN for a point mass. Neither means anything where the chains have not mixed.
        chains, gaps, psis: what :func:`nuts`, :func:`gaps` and :func:`psis` found; the last two None for a point mass.

    Source: ours; cf. Yao et al. (2018), "Yes, but did it work?".

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.compare(pair, x[:1], draws=100, chains=2, samples=20, warmup=20)
    >>> found.bias.shape, found.gaps.amortisation.shape
    (torch.Size([1, 2]), torch.Size([1]))
    """

    bias: Tensor
    scale: Tensor
    chains: Chains
    gaps: Gaps | None
    psis: Smoothed | None

    def table(self) -> str:
        """A line for each of the 16 data with the largest bias among those given, and one of medians of all."""
        head = f"{'datum':>6} {'R-hat':>6} {'ESS':>6} | {'|bias|':>6} {'worst':>6} | {'width':>6} {'worst':>6} |"
        head += f" {'k-hat':>6} {'approximation':>14} {'amortisation':>13}"
        columns = self._columns()
        order = columns["bias"].nan_to_num(nan=-1.0).argsort(descending=True)[:ROWS].tolist()
        lines = [_line(f"{i:>6}", {name: float(c[i]) for name, c in columns.items()}) for i in sorted(order)]
        middle = {name: float(c[self.chains.mixed].nanmedian()) if self.chains.mixed.any() else math.nan
                  for name, c in columns.items()}  # fmt: skip
        under = "bias in posterior sd, width as sd(q) / sd(NUTS), gaps in nats; middle row of entries, then the worst"
        return "\n".join([head, *lines, _line("median", middle), under])

    def _columns(self) -> dict[str, Tensor]:
        nothing = torch.full((len(self.bias),), torch.nan, dtype=torch.float64)
        worst = self.scale.nan_to_num(nan=0.0).abs().argmax(1, keepdim=True)
        g = self.gaps
        return {
            "rhat": self.chains.rhat.amax(1),
            "ess": self.chains.ess.amin(1),
            "bias": self.bias.abs().median(1).values,
            "worst_bias": self.bias.abs().amax(1),
            "width": self.scale.median(1).values.exp2(),
            "worst_width": self.scale.gather(1, worst)[:, 0].exp2(),
            "khat": nothing if self.psis is None else self.psis.khat,
            "approximation": nothing if g is None else g.approximation,
            "approximation_se": nothing if g is None else g.approximation_se,
            "amortisation": nothing if g is None else g.amortisation,
            "amortisation_se": nothing if g is None else g.amortisation_se,
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything but the draws, as plain lists and numbers; infinities and NaN as they are."""
        found: dict[str, Any] = {name: column.tolist() for name, column in self._columns().items()}
        found |= {"names": self.chains.names, "mixed": self.chains.mixed.tolist(), "bias_by_entry": self.bias.tolist(),
                  "log2_width_by_entry": self.scale.tolist(), "rhat_by_entry": self.chains.rhat.tolist(),
                  "ess_by_entry": self.chains.ess.tolist(), "divergences": self.chains.divergences}  # fmt: skip
        if self.gaps is not None:
            names = ("log_z", "log_z_se", "best", "best_se", "bound", "bound_se")
            found |= {name: getattr(self.gaps, name).tolist() for name in names}
            found |= {"log_z_khat": self.gaps.khat.tolist(), "family": self.gaps.family, "same": self.gaps.same,
                      "normalised": self.gaps.normalised}  # fmt: skip
        if self.psis is not None:
            found |= {"importance_ess": self.psis.ess.tolist(), "draws": len(self.psis.raw)}
        return found

    def finding(self) -> Finding:
        """Compare the guide with the chains, on the data whose chains have mixed.

        ``bad`` where a typical entry (the median over data and entries) is off by more than half a posterior standard
        deviation, which moves a 95 % interval by a quarter of its half, or by a factor of 1.5 in width, with which a
        nominal 95 % interval holds 81 %. ``caution`` where one entry in ten is. ``not tested`` where chains of fewer
        than half of the data have mixed.
        """
        mixed = self.chains.mixed
        numbers: dict[str, Any] = {"data": len(mixed), "mixed": int(mixed.sum())}
        if 2 * int(mixed.sum()) < len(mixed):
            why = (
                f"chains have mixed for {int(mixed.sum())} of {len(mixed)} data: there is no reference, run nuts longer"
            )
            return Finding("guide against NUTS", QUESTION, "not tested", why, numbers)
        bias, scale = self.bias[mixed].abs().flatten(), self.scale[mixed].flatten()
        known = scale[~scale.isnan()]
        limit = math.log2(FACTOR)
        middle = float(bias.median()), float(known.abs().median()) if len(known) else math.nan
        tenth = float(bias.quantile(0.9)), float(known.abs().quantile(0.9)) if len(known) else math.nan
        width = float(known.median().exp2()) if len(known) else math.nan
        numbers |= {"bias": middle[0], "bias_90": tenth[0], "log2_width": middle[1], "log2_width_90": tenth[1],
                    "width": width}  # fmt: skip
        off = [b > BIAS or s > limit for b, s in (middle, tenth)]
        verdict = "bad" if off[0] else "caution" if off[1] else "good"
        wide = f"sd {width:.2f} times NUTS's" if len(known) else "a point, without a width"
        then = {
            "good": "means and intervals of the guide can be used",
            "caution": "one entry in ten is off by more than 0.5 sd or a factor of 1.5: weigh draws where k-hat "
            "is below 0.7, else use nuts",
            "bad": "do not read posterior means or intervals off this guide",
        }[verdict]
        said = f"a typical entry is off by {middle[0]:.2f} sd, {wide}, for {int(mixed.sum())} data: {then}"
        return Finding("guide against NUTS", QUESTION, verdict, said, numbers)

    def findings(self) -> list[Finding]:
        """Of the chains, the guide against them, its gaps and its weights."""
        found = [self.chains.finding(), self.finding()]
        return found + [part.finding() for part in (self.gaps, self.psis) if part is not None]


def compare(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 1000,
    chains: int = 4,
    samples: int = 250,
    warmup: int = 200,
    depth: int = 7,
    group: int = 16,
    family: str = "diagonal",
    seed: int = 0,
    progress: bool = False,
) -> Compared:
    """Run NUTS on data, and say how far the guide is from it and why.

    Where the chains of all data have mixed and the code has at most 64 entries, their moments are one of the proposals
    that log Z comes from.

    Args:
        x: (N, d), some data: a cost of seconds to a minute for each. y: conditions of a conditional pair.
        draws: of the guide, of the bounds and of log Z. chains, samples, warmup, depth, group: see :func:`nuts`.
        family: of q*, see :func:`gaps`. seed, progress: as everywhere.

    Raises:
        InputError: for bad data or arguments, and for a code with a discrete site.

    Source: ours; cf. Yao et al. (2018), "Yes, but did it work?".

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> pair, x = l2_vae(4, 2, (5,)), torch.rand(2, 4)
    >>> found = compare(pair, x, draws=50, samples=20, warmup=20, depth=3)
    >>> found.bias.shape, len(found.findings()), len(found.table().splitlines())
    (torch.Size([2, 2]), 4, 5)
    """
    reference = nuts(pair, x, y, chains=chains, samples=samples, warmup=warmup, depth=depth, group=group, seed=seed,
                     progress=progress)  # fmt: skip
    t = reference.target
    with quietly(pair):
        if is_diagonal(t):
            q = exact_moments(t)
            mean, sd = q.loc.cpu(), q.scale.diagonal(dim1=-2, dim2=-1).cpu()
        else:
            mean, sd = (part.cpu() for part in guide_moments(t, (seed, 2), draws))
    bias = (mean - reference.mean) / reference.sd
    scale = torch.where(sd > 0, (sd / reference.sd).log2(), torch.nan)
    if t.sites.point_mass:
        return Compared(bias, scale, reference, None, None)
    split = gaps(pair, x, y, draws=draws, family=family, proposal=_moments(reference), seed=seed, progress=progress)
    return Compared(bias, scale, reference, split, psis(pair, x, y, draws=draws, seed=seed, progress=progress))


def _moments(chains: Chains) -> tuple[Tensor, Tensor] | None:
    """Mean and covariance of every datum's draws, where they are to be trusted and more than the entries."""
    flat = chains.states.flatten(0, 1)
    k = flat.shape[-1]
    if not chains.mixed.all() or k > 64 or len(flat) < 4 * k:
        return None
    centred = (flat - chains.mean).transpose(0, 1)
    covariance = centred.mT @ centred / (len(flat) - 1)
    return chains.mean, covariance + 1e-6 * torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))


def _line(name: str, v: dict[str, float]) -> str:
    gap = [f"{v[n]:.2f} ± {v[n + '_se']:.2f}" for n in ("approximation", "amortisation")]
    return (
        f"{name} {v['rhat']:6.3f} {v['ess']:6.0f} | {v['bias']:6.2f} {v['worst_bias']:6.2f} | {v['width']:6.2f} "
        f"{v['worst_width']:6.2f} | {v['khat']:6.2f} {gap[0]:>14} {gap[1]:>13}"
    )
