"""check(pair, data): every test at a small budget, and what can be trusted, in a screenful."""

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vaes.analysis.compare import compare
from pyro_vaes.analysis.outlier_judge import judge_outliers
from pyro_vaes.analysis.outlier_posterior import outlier_posterior
from pyro_vaes.analysis.predictive import predictive_check
from pyro_vaes.analysis.psis import psis
from pyro_vaes.analysis.sbc import sbc
from pyro_vaes.analysis.sensitivity import power_scaling
from pyro_vaes.analysis.target import Sites, look
from pyro_vaes.errors import InputError, image_shape, room, short, whole
from pyro_vaes.finding import Finding
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.impute import impute
from pyro_vaes.pair import Pair

WIDTH = 110
DEPTH = 6  # of a tree of NUTS, where a kernel that is sharp at zero would take all the time there is
ANSWERS = {"good": "yes", "caution": "with care", "bad": "no", "not tested": "not known"}
# What people do with a trained pair, and the tests that it rests on. The worst of those that ran decides; where one has
# not run, nothing is better than "with care".
USES: dict[str, tuple[str, ...]] = {
    "codes and their spread as the guide gives them, for these data": ("guide against NUTS",),
    "the same, for data that the model draws": ("SBC", "VSBC"),
    "codes and functions of them under importance weights": ("PSIS",),
    "log p(x)": ("PSIS",),
    "new samples, as data like these in the statistics compared": ("prior predictive",),
    "which entries are outliers, and how likely": ("outliers", "outlier probability"),
    "values in place of missing entries, as the model has them": ("imputation",),
}
MORE = (
    "k-hat: of the importance weights of a datum; above 0.7 they cannot correct the guide. Tests draw anew, so that "
    "their counts differ by a few. SBC, VSBC: on data that the model draws. Each test says more at a larger budget: "
    "psis, nuts, compare, gaps, sbc, predictive_check, power_scaling, outlier_posterior and impute of pyro_vaes."
)


@dataclass(frozen=True)
class Budget:
    """How much work :func:`check` does.

    Args:
        rows: data that are looked at, evenly spread. nuts: of these, likewise spread, data whose posterior is sampled;
            0 leaves it out. draws: of the guide per datum. simulations: of the calibration.
        samples, warmup: of each of four chains.
        hidden: share of entries that is hidden, to see how well they are imputed.

    Source: ours.

    >>> Budget(rows=0)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: rows is 0: it must be a whole number of at least 2
    """

    rows: int = 64
    nuts: int = 8
    draws: int = 500
    simulations: int = 300
    samples: int = 150
    warmup: int = 150
    hidden: float = 0.3

    def __post_init__(self):
        whole("rows", self.rows, low=2), whole("nuts", self.nuts, low=0), whole("draws", self.draws, low=25)
        whole("simulations", self.simulations, low=20), whole("samples", self.samples, low=20)
        whole("warmup", self.warmup, low=10)
        real = isinstance(self.hidden, int | float) and not isinstance(self.hidden, bool)
        if not real or not 0 < self.hidden < 1:
            raise InputError(f"hidden is {self.hidden!r}: it must lie between 0 and 1")


@dataclass(frozen=True)
class Checked:
    """What :func:`check` found.

    Attributes:
        pair: its name. data: how many data were looked at. findings: one for every test, those that could not run
            included. seconds: per test, by name.

    Source: ours; the tests in it name theirs.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.check(pair, x, budget=pv.Budget(rows=6, nuts=0, draws=50, simulations=50))
    >>> found.data, {finding.verdict for finding in found.findings} <= {"good", "caution", "bad", "not tested"}
    (6, True)
    """

    pair: str
    data: int
    findings: tuple[Finding, ...]
    seconds: Mapping[str, float]
    normalised: bool = True

    def uses(self) -> dict[str, tuple[str, list[str]]]:
        """What the pair can be used for: use -> (yes, with care, no or not known; the tests that it hangs on)."""
        found = {}
        # k-hat cannot see a mode without a draw; chains that sit in different ones are a sign of it.
        unmixed = any(f.test == "NUTS" and f.verdict in ("caution", "bad") for f in self.findings)
        for use, tests in USES.items():
            if use == "log p(x)" and not self.normalised:
                found[use] = ("no", ["p is no density"])
                continue
            ran = [f for f in self.findings if f.test in tests and f.verdict != "not tested"]
            worst = max(ran, key=lambda f: list(ANSWERS).index(f.verdict), default=None)
            because = [f.test for f in ran if worst is not None and f.verdict == worst.verdict]
            verdict = "not tested" if worst is None else worst.verdict
            open_ = [test for test in tests if test not in {f.test for f in ran}]
            if verdict == "good" and open_:
                verdict, because = "caution", [f"not tested: {test}" for test in open_]
            if verdict == "good" and tests == ("PSIS",) and unmixed:
                verdict, because = "caution", ["NUTS: there may be modes that the guide never draws"]
            found[use] = (ANSWERS[verdict], because)
        return found

    def __str__(self) -> str:
        lines = [f"{self.pair}, {self.data} data", ""]
        for finding in self.findings:
            head = f"{finding.verdict:<11} {finding.test}: "
            lines += textwrap.wrap(head + finding.said, WIDTH, subsequent_indent=" " * 12)
        lines += ["", "What can be trusted"]
        for use, (answer, because) in self.uses().items():
            why = f" ({', '.join(because)})" if because and answer != "yes" else ""
            lines.append(f"{answer:<11} {use}{why}")
        lines += ["", *textwrap.wrap(MORE, WIDTH)]
        return "\n".join(lines)


class _Work(NamedTuple):
    """What the tests are given."""

    pair: Pair
    x: Tensor
    y: Tensor | None
    sites: Sites
    shape: Sequence[int] | None
    mask: Tensor | None
    budget: Budget
    seed: int


def _spread(rows: int, most: int) -> Tensor:
    """Rows evenly spread: data may come in an order, by class or by time."""
    return torch.linspace(0, rows - 1, min(most, rows)).round().long()


def _psis(w: _Work) -> list[Finding]:
    return [psis(w.pair, w.x, w.y, draws=w.budget.draws, seed=w.seed).finding()]


def _nuts(w: _Work) -> list[Finding]:
    b = w.budget
    if not b.nuts:
        raise InputError("the budget leaves it out (nuts=0)")
    few = _spread(len(w.x), b.nuts).to(w.x.device)
    y = None if w.y is None else w.y[few]
    found = compare(w.pair, w.x[few], y, draws=b.draws, samples=b.samples, warmup=b.warmup, depth=DEPTH, seed=w.seed)
    return [f for f in found.findings() if f.test != "PSIS"]


def _sbc(w: _Work) -> list[Finding]:
    found = sbc(w.pair, w.y, simulations=w.budget.simulations, seed=w.seed)
    return [found.finding(), found.symmetry().finding()]


def _predictive(w: _Work) -> list[Finding]:
    kinds = ("posterior", "prior")
    return [predictive_check(w.pair, w.x, w.y, kind=k, shape=w.shape, seed=w.seed).finding() for k in kinds]


def _sensitivity(w: _Work) -> list[Finding]:
    return [power_scaling(w.pair, w.x, w.y, draws=w.budget.draws, seed=w.seed).finding()]


def _outliers(w: _Work) -> list[Finding]:
    if not (w.sites.points or w.sites.exact or not w.sites.normalised):
        raise InputError(f"{w.pair.name} has no outliers in its model")
    found = outlier_posterior(w.pair, w.x, w.y, draws=w.budget.draws, seed=w.seed)
    known = w.mask is not None and 0 < int(w.mask.sum()) < w.mask.numel()
    return [found.finding(), *([judge_outliers(found, w.mask).finding()] if known and w.mask is not None else [])]


def _imputation(w: _Work) -> list[Finding]:
    seed_generator = torch.Generator().manual_seed(w.seed)
    hide = (torch.rand(w.x.shape, generator=seed_generator) < w.budget.hidden).to(w.x.device)
    # A row keeps an entry at least, and one is missing at least.
    hide[:, 0], hide[0, -1] = False, True
    imputed = impute(w.pair, w.x, ~hide, w.y, samples=w.budget.draws, seed=w.seed)
    return [against_truth(imputed.finding(), imputed.mean, w.x, hide, f"{w.budget.hidden:.0%} of the entries hidden")]


def against_truth(found: Finding, mean: Tensor, x: Tensor, hide: Tensor, head: str) -> Finding:
    """Add to a finding about imputations how far they are from what was hidden, (N, d), True where.

    Draws may follow the model's posterior to perfection where the model knows nothing. Beside the root-mean-square
    error of ``mean`` stands that of the plainest guess, each entry's mean over the rows that show it (of all shown
    entries where none does); ``good`` becomes ``caution`` where the model does not beat it.

    >>> x, hide = torch.tensor([[0.0, 1.0], [0.0, 3.0]]), torch.tensor([[False, True], [False, False]])
    >>> one = Finding("imputation", "?", "good", "k-hat is low")
    >>> for guess in (torch.ones(2, 2), torch.full((2, 2), 5.0)):
    ...     print(against_truth(one, guess, x, hide, "one hidden"))
    good        imputation: one hidden: k-hat is low; off by 0 (rms), column means by 2
    caution     imputation: one hidden: k-hat is low; off by 4 (rms), column means by 2: the model does not help
    """
    shown, count = torch.where(hide, 0.0, x), (~hide).sum(0)
    plain = torch.where(count > 0, shown.sum(0) / count.clamp(min=1), shown.sum() / count.sum()).expand(x.shape)
    ours, theirs = (float((guess - x)[hide].square().mean().sqrt()) for guess in (mean.to(x), plain))
    said = f"{head}: {found.said}; off by {ours:.2g} (rms), column means by {theirs:.2g}"
    numbers = {**found.numbers, "rms": ours, "rms of column means": theirs}
    if ours < theirs:
        return replace(found, said=said, numbers=numbers)
    verdict = "caution" if found.verdict == "good" else found.verdict
    return replace(found, verdict=verdict, said=f"{said}: the model does not help", numbers=numbers)


Test = Callable[[_Work], list[Finding]]
TESTS: dict[str, tuple[Test, str]] = {
    "PSIS": (_psis, "do importance weights correct what the guide says?"),
    "guide against NUTS": (_nuts, "is the guide where the posterior is, and as wide?"),
    "SBC": (_sbc, "do the guide's intervals hold the truth as often as they say, on the model's own data?"),
    "predictive checks": (_predictive, "do data drawn from the model look like these?"),
    "prior sensitivity": (_sensitivity, "does the posterior hang on the prior?"),
    "outliers": (_outliers, "how sure are the outliers?"),
    "imputation": (_imputation, "do imputed values follow the model's posterior, and do they help?"),
}


def check(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    shape: Sequence[int] | None = None,
    mask: Tensor | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Checked:
    """Run every test of the guide and of the model at a small budget, and say what can be trusted.

    Tests that a pair rules out (a point mass has no weights, a class no gradient) are named as not tested, with the
    reason. Verdicts are of the data that were given: of a test set they say more than of the training set.

    Args:
        x: (N, d), N at least 2, in the pair's range, or uint8 pixels. y: conditions of a conditional pair.
        shape: of one datum, (H, W) or (C, H, W), where there is one. mask: (N, d), True where an entry is known to be
            dirty, if that is known. budget: of the work; by default about a minute for a small network.
        seed: of all draws. progress: show a bar.

    Raises:
        InputError: for bad data, or a pair without a code.

    Source: the tests' own; see their docstrings. Thresholds stand there.

    >>> from pyro_vaes.variants import gaussian_vae
    >>> _ = torch.manual_seed(0)
    >>> small = Budget(rows=4, nuts=0, draws=50, simulations=20)
    >>> found = check(gaussian_vae(4, 2, (5,)), torch.rand(9, 4), budget=small)
    >>> found.data, sorted({f.verdict for f in found.findings} - {"good", "caution", "bad"})
    (4, ['not tested'])
    """
    if not isinstance(budget, Budget | None):
        raise InputError(f"budget is {budget!r}: it must be a Budget, such as Budget(rows=64)")
    whole("seed", seed, low=0)
    check_data(pair, x)
    y = check_condition(pair, x, y)
    shape = None if shape is None else image_shape(shape, x.shape[1])
    if len(x) < 2:
        raise InputError("x holds one datum: a check needs two at least")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != x.shape):
        raise InputError(f"mask must be a bool tensor of shape {tuple(x.shape)}, True where an entry is dirty")
    budget = budget or Budget()
    among = _spread(len(x), budget.rows).to(x.device)
    needed = 16.0 * len(among) * budget.draws * (x.shape[1] + 16)
    room(f"{budget.draws:,} draws of {len(among):,} data", needed, "take fewer")
    rows, labels = as_batch(x[among]), None if y is None else y[among]
    work = _Work(
        pair, rows, labels, look(pair, rows, labels), shape, None if mask is None else mask[among], budget, seed
    )
    findings, seconds = list[Finding](), dict[str, float]()
    tests: Any = TESTS.items()
    if progress:
        from tqdm import tqdm

        tests = tqdm(tests, unit="test", desc="check")
    for name, (test, question) in tests:
        began = time.monotonic()
        try:
            findings += test(work)
        except (InputError, ArithmeticError, NotImplementedError) as refusal:
            findings.append(Finding(name, question, "not tested", short(refusal)))
        seconds[name] = time.monotonic() - began
    return Checked(pair.name, len(rows), tuple(findings), seconds, work.sites.normalised)
