"""Simulation-based calibration: does the guide know how sure it may be, on the model's own data?"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vaes.analysis.simulate import Simulated, check_drawable, has_kernel, simulated
from pyro_vaes.analysis.uniform import holm, symmetry, uniformity
from pyro_vaes.errors import InputError, functions_of, number, whole
from pyro_vaes.finding import Finding
from pyro_vaes.inference.densities import Values
from pyro_vaes.pair import Pair

Function = Callable[[Values, Tensor], Tensor]
LEVELS = (0.5, 0.8, 0.9)

# Fixed beforehand. A right guide is told off once in a hundred runs, all of its dimensions together. An interval
# that holds the truth ten points more or less often than it says is another interval; a point estimate that is off
# by a quarter of a posterior standard deviation has 3 % more root-mean-square error (sqrt(1 + 1/16)).
SIZE, OFF, BIAS = 0.01, 0.1, 0.25
# Simulations below which nothing found is no good news. One of twelve quantities with half of its variance is found in
# 54 % of runs of 100 simulations, 90 % of 200 and all of 300; one off by half a standard deviation in 78, 100 and
# all of them.
ENOUGH = 200


class Coverage(NamedTuple):
    """How often a central interval held the truth, for every quantity: each (D,).

    Attributes:
        level: what the interval says of itself: the share of ranks that lie in it.
        share: how often it held. low, high: the 95 % interval of that (Wilson).
    """

    level: float
    share: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Calibration:
    """Ranks of true codes among the guide's draws.

    Attributes:
        pair: its name. names: of the D quantities: entries of the code, ``z[0]`` ..., then functions of code and data.
        entries: how many of them are entries of the code. draws: L, of the guide per simulation.
        ranks: (simulations, D), in 0 ... L: how many draws lie below the truth, ties broken at random.
        error: (simulations, D), (truth - mean of the draws) / their standard deviation.
        p: (D,), of the test that ranks are uniform. adjusted: the same for all of them together (Holm).
        kernel: whether the guide's target is the kernel of a sparse-outlier model and not its posterior (see
            :func:`sbc`).
    """

    pair: str
    names: tuple[str, ...]
    entries: int
    draws: int
    ranks: Tensor
    error: Tensor
    p: Tensor
    adjusted: Tensor
    kernel: bool = False

    def coverage(self, level: float) -> Coverage:
        """Count how often the central interval of this level held the truth."""
        from scipy.stats import binomtest

        if not 0 < number("level", level) < 1:
            raise InputError(f"level is {level}: it must lie between 0 and 1")
        central = (2 * torch.arange(self.draws + 1) - self.draws).abs() < level * (self.draws + 1)
        held = ((2 * self.ranks - self.draws).abs() < level * (self.draws + 1)).sum(0)
        ends = [binomtest(int(h), len(self.ranks)).proportion_ci(method="wilson") for h in held]
        low, high = torch.tensor([tuple(e) for e in ends], dtype=torch.float64).reshape(-1, 2).T
        return Coverage(float(central.double().mean()), held.double() / len(self.ranks), low, high)

    def symmetry(self, seed: int = 0) -> "Symmetry":
        """Ask of the same ranks whether the guide's centre is off: see :func:`vsbc`."""
        statistic, p = symmetry(self.ranks[:, : self.entries].double() / self.draws, seed)
        bias, spread = middle(-self.error[:, : self.entries])
        return Symmetry(
            self.pair,
            self.names[: self.entries],
            self.ranks[:, : self.entries].double() / self.draws,
            statistic,
            p,
            holm(p),
            bias,
            spread,
        )

    def finding(self) -> Finding:
        """Say whether the guide's intervals hold what they promise.

        ``good`` if no quantity is off at the 1 % level, all of them together; ``bad`` if an entry of the code is, and
        its 50, 80 or 90 % interval holds the truth ten points more or less often than it says, or its mean is off by
        a quarter of a standard deviation (median over simulations); ``caution`` for what lies between; ``not tested``
        where nothing is off, but fewer than 200 simulations would miss even half of the variance.
        """
        found = self.coverage(0.5), self.coverage(0.8), self.coverage(0.9)
        away = torch.stack([c.share - c.level for c in found])
        bias, _ = middle(self.error)
        off = self.adjusted < SIZE
        among = off & ((away.abs() > OFF).any(0) | (bias.abs() > BIAS)) & (torch.arange(len(off)) < self.entries)
        wrong = [self.names[j] for j in off.nonzero().flatten().tolist()]
        mean = found[2].share[: self.entries].mean() if self.entries else torch.tensor(torch.nan)
        numbers: dict[str, Any] = {
            "simulations": len(self.ranks), "draws": self.draws, "off": wrong,
            "smallest adjusted p": float(self.adjusted.min()), "coverage of 90 %": float(mean),
            "lowest": float(found[2].share[: self.entries].min()),
            "highest": float(found[2].share[: self.entries].max()),
        }  # fmt: skip
        held = f"its 90 % intervals hold the truth in {100 * float(mean):.0f} %"
        held += " (a sparse-outlier model's own posterior holds a few more)" if self.kernel else ""
        many = f"{len(wrong)} of {len(self.names)} quantities ({_few(wrong)})"
        if not wrong and len(self.ranks) < ENOUGH:
            return Finding("SBC", QUESTION, "not tested", _too_few(len(self.ranks)), numbers)
        if not wrong:
            said = f"{held} of {len(self.ranks)} simulations, no quantity is off: spreads can be read as they are"
            return Finding("SBC", QUESTION, "good", said, numbers)
        if bool(among.any()):
            worst = int(torch.where(among, away[2].abs(), -1.0).argmax())
            said = (
                f"{many} are off; the 90 % interval of {self.names[worst]} holds the truth in "
                f"{100 * float(found[2].share[worst]):.0f} %: the guide's spread is no uncertainty; train longer, "
                "weigh draws where k-hat is below 0.7, or use nuts"
            )
            return Finding("SBC", QUESTION, "bad", said, numbers)
        said = f"{many} are off, but {held}: small errors of the guide, larger ones only between its dimensions"
        return Finding("SBC", QUESTION, "caution", said, numbers)


@dataclass(frozen=True)
class Symmetry:
    """Where the truth lies in the guide's draws, on which side of their middle.

    Attributes:
        pair: its name. names: of the K entries of the code.
        p: (simulations, K), share of the guide's draws below the truth.
        statistic, p_value: (K,), of the test that p is symmetric around 1/2. adjusted: for all entries together (Holm).
        bias: (K,), median of (mean of the draws - truth) / their standard deviation: positive where the guide is too
            high. error: its standard error. A mean would be that of a few data of a heavy-tailed model for which the
            guide is absurdly narrow.
    """

    pair: str
    names: tuple[str, ...]
    p: Tensor
    statistic: Tensor
    p_value: Tensor
    adjusted: Tensor
    bias: Tensor
    error: Tensor

    def finding(self) -> Finding:
        """Say whether the guide's mean is off in one direction.

        ``good`` if no entry is asymmetric at the 1 % level, all together; ``bad`` if one is whose median bias is above
        a quarter of a standard deviation (3 % more root-mean-square error); ``caution`` otherwise; ``not tested`` where
        nothing is off in fewer than 200 simulations.
        """
        off = self.adjusted < SIZE
        worst = int(torch.where(off, self.bias.abs(), -1.0).argmax())
        size = float(self.bias[worst])
        wrong = [self.names[j] for j in off.nonzero().flatten().tolist()]
        numbers: dict[str, Any] = {
            "simulations": len(self.p), "off": wrong, "smallest adjusted p": float(self.adjusted.min()),
            "largest bias": float(self.bias.abs().max()),
        }  # fmt: skip
        if not wrong and len(self.p) < ENOUGH:
            return Finding("VSBC", CENTRED, "not tested", _too_few(len(self.p)), numbers)
        if not wrong:
            said = f"no dimension is off to one side in {len(self.p)} simulations: means can be read on average"
            return Finding("VSBC", CENTRED, "good", said, numbers)
        said = (
            f"{len(wrong)} of {len(self.names)} dimensions are off to one side ({_few(wrong)}); {self.names[worst]} is "
            f"too {'high' if size > 0 else 'low'} by {abs(size):.2f} of its standard deviations (median of all): "
            "means do not average out; train longer"
        )
        return Finding("VSBC", CENTRED, "bad" if abs(size) > BIAS else "caution", said, numbers)


QUESTION = "do the guide's intervals hold the truth as often as they say, on the model's own data?"
CENTRED = "is the guide's mean too high or too low on average, on the model's own data?"


def sbc(
    pair: Pair,
    y: Tensor | None = None,
    *,
    simulations: int = 300,
    draws: int = 199,
    functions: Mapping[str, Function] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Calibration:
    r"""Draw codes and data from the model, and rank each code among the guide's draws given its datum.

    .. math:: z^* \sim p(z), \quad x^* \sim p(x \mid z^*), \quad z^{(1 \dots L)} \sim q(z \mid x^*), \qquad
              r_j = \#\{l: z^{(l)}_j < z^*_j\} \sim \mathrm{Uniform}\{0 \dots L\} \text{ if } q(z | x) = p(z | x)

    Beside every entry of the code, functions of code and datum are ranked. By default ``log p(x | code)`` and
    ``log p(x, code)``: entries may each be right while their dependence is not, or while the guide never looks at x,
    and these two see it.

    It audits the guide on the *model's* data. Real data may lie where the model never draws any, and there the guide
    may be worse; nor does it say that the model is right. For a sparse-outlier model the datum holds an outlier drawn
    within the width R and noise of sd tau, while the guide's target is the limit tau -> 0 with a kernel that goes on
    beyond R. That target covers more than it says: by quadrature, with one code, six entries and R = 1, its 50 and 90 %
    intervals hold 50 and 91 % for a floor of 0.05, 53 and 92 % for 0.1, 60 and 96 % for 0.3; a tau of 0.01 changes none
    of these by a point. The finding says so.

    Args:
        y: (M,) labels or (M, c), of a conditional pair: each simulation takes a row at random.
        simulations: at least 20. draws: L, at least 9; 20 should divide L + 1, so that levels are met exactly.
        functions: name -> f(code, x), from sites (R, B, ...) and x (B, d) to (R, B); {} for none.
        batch_size: simulations at a time. seed: of all draws.

    Raises:
        InputError: for a model that cannot draw data (an improper prior, a factor), a guide that puts a point mass on
            the code, or arguments out of range.

    Source: Talts, Betancourt, Simpson, Vehtari & Gelman (2018); functions of the data: Modrak et al. (2023); the test:
    Saeilynoja, Buerkner & Vehtari (2022).

    >>> from pyro_vaes.variants import l2_vae
    >>> found = sbc(l2_vae(4, 2, (5,)), simulations=40, draws=19)
    >>> found.names, found.ranks.shape
    (('z[0]', 'z[1]', 'log p(x | code)', 'log p(x, code)'), torch.Size([40, 4]))
    """
    whole("simulations", simulations, low=20), whole("draws", draws, low=9)
    whole("batch_size", batch_size), whole("seed", seed, low=0)
    functions = None if functions is None else functions_of("functions", functions)
    y = check_drawable(pair, y)
    found = ranked(simulated(pair, y, simulations, draws, functions, batch_size, seed))
    p = uniformity(found.ranks, draws + 1, seed)
    return Calibration(
        pair.name, found.names, found.entries, draws, found.ranks, found.error, p, holm(p), has_kernel(pair)
    )


def vsbc(pair: Pair, y: Tensor | None = None, **arguments: Any) -> Symmetry:
    r"""Ask whether the guide's mean is off to one side, on average over the model's own data.

    .. math:: p_{ij} = \mathrm{Pr}_q(z_j < z^*_{ij}), \qquad \text{symmetric around } 1/2
              \text{ for an unbiased centre}

    Weaker than :func:`sbc`: a guide that is too narrow passes, as long as it is centred. Where SBC of the same pair is
    wanted too, ``sbc(...).symmetry()`` gives this without simulating again.

    Args: those of :func:`sbc`.

    Source: Yao, Vehtari, Simpson & Gelman (2018), 3.2; the null is ours, see
    :func:`~pyro_vaes.analysis.uniform.symmetry`.

    >>> from pyro_vaes.variants import l2_vae
    >>> vsbc(l2_vae(4, 2, (5,)), simulations=40, draws=19).bias.shape
    torch.Size([2])
    """
    seed = arguments.get("seed", 0)
    return sbc(pair, y, functions=arguments.pop("functions", {}), **arguments).symmetry(seed)


def middle(error: Tensor) -> tuple[Tensor, Tensor]:
    """The median of each column of errors (n, D), and half the length of the interval that holds it in 68 % of samples.

    What is no number (no error over no spread) counts as zero. For large n and a normal error the second is the
    median's standard error, sqrt(pi / 2n) of a standard deviation; neither needs a moment to exist.

    >>> middle(torch.tensor([[-1.0], [0.0], [1.0], [3.0], [1e9]]))
    (tensor([1.]), tensor([1.5000]))
    """
    ordered = error.nan_to_num(0.0, torch.inf, -torch.inf).sort(0).values
    n = len(ordered)
    low = int((n - n**0.5) / 2)
    return ordered[(n - 1) // 2 : n // 2 + 1].mean(0), (ordered[n - 1 - low] - ordered[low]) / 2


class Ranked(NamedTuple):
    """What all batches of simulations add up to."""

    names: tuple[str, ...]
    entries: int
    ranks: Tensor
    error: Tensor


def ranked(batches: Iterable[Simulated]) -> Ranked:
    """Rank truths among draws, batch by batch."""
    ranks, errors = [], []
    one: Simulated | None = None
    for one in batches:
        below, ties = (one.drawn < one.truth).sum(0), (one.drawn == one.truth).sum(0)
        # With ties, the truth is put among them at random: a rank stays uniform (Modrak et al. 2023).
        ranks.append(below + (one.coin * (ties + 1)).long())
        errors.append((one.truth[0] - one.drawn.mean(0)) / one.drawn.std(0))
    assert one is not None
    return Ranked(one.names, one.entries, torch.cat(ranks).cpu(), torch.cat(errors).cpu())


def _too_few(simulations: int) -> str:
    return f"nothing is off in {simulations} simulations, but they would miss large errors: take {ENOUGH} or more"


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
