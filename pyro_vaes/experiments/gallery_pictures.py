"""What is looked at of each variant in the gallery: six rows of ten pictures, small enough to lie in the result."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.evaluation.aggregated import aggregated, traversal
from pyro_vaes.evaluation.blocks import evolve
from pyro_vaes.evaluation.detection import detect
from pyro_vaes.experiments.likelihoods import packed
from pyro_vaes.inference.classify import classify
from pyro_vaes.inference.outliers import outlier_probability
from pyro_vaes.inference.posterior import clean, decoded, reconstruct, sample
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.pair import Pair
from pyro_vaes.variants.staged import first_stage

COLUMNS, LINES = 10, 6
Rows = list[dict[str, Any]]


class View:
    """A trained pair beside ten test data, one of each class.

    Args:
        data: a :class:`~pyro_vaes.experiments.gallery.Split`.
    """

    def __init__(self, pair: Pair, data: Any, seed: int):
        self.pair, self.data, self.seed = pair, data, seed
        self.places = torch.stack([(data.labels == c).nonzero()[0, 0] for c in range(COLUMNS)])
        self.x = data.test[self.places]
        self.y = None if data.test_y is None else data.test_y[self.places]

    def pixels(self, label: str, x: Tensor, kind: str = "grey", words: list[str] | None = None) -> dict[str, Any]:
        """One label with a multiple of ten pictures."""
        return {"label": label, "kind": kind, "pixels": packed(x), **({"words": words} if words else {})}

    def given(self, label: str = "test digits", words: list[str] | None = None) -> dict[str, Any]:
        return self.pixels(label, self.data.pixels(self.x), words=words)

    def rebuilt(self, label: str = "rebuilt") -> dict[str, Any]:
        return self.pixels(label, self.data.pixels(clean(self.pair, self.x, self.y, draws=2).mean))

    def samples(self, lines: int, label: str = "samples of\nthe prior", pair: Pair | None = None) -> dict[str, Any]:
        drawn = sample(self.pair if pair is None else pair, lines * COLUMNS, seed=self.seed)
        return self.pixels(label, self.data.pixels(drawn))

    def at(self, label: str, **codes: Tensor) -> dict[str, Any]:
        """What the model makes of given codes."""
        rows = len(next(iter(codes.values())))
        with torch.no_grad():
            return self.pixels(label, decoded(self.pair, torch.zeros(rows, self.pair.data_dim), None, codes))

    def columns_of_w(self) -> dict[str, Any]:
        """The longest columns of a linear decoder; grey is zero."""
        decoder: Any = self.pair.model.decoder
        w = decoder.weight.detach().T
        w = w[w.norm(dim=1).argsort(descending=True)[:COLUMNS]]
        return self.pixels("longest\ncolumns of W", 0.5 + w / (2 * w.abs().amax(1, keepdim=True)))


def pictures(name: str, pair: Pair, data: Any, seed: int) -> Rows:
    """Draw what suits a variant, in rows with labels."""
    view = View(pair, data, seed)
    if name in OWN:
        return OWN[name](view)
    if data.wrong is not None:
        return _cleaned(view)
    if pair.partial:
        return _guessed(view)
    return [view.given(), view.rebuilt(), view.samples(4)]


def _cleaned(view: View) -> Rows:
    rows = _marked(view)
    return [*rows, view.samples(1)]


def _marked(view: View, probability: Tensor | None = None) -> Rows:
    found = clean(view.pair, view.x, view.y, seed=view.seed)
    share = found.probability if probability is None else probability
    return [
        view.given("given, dirty"),
        view.pixels("truth", view.data.truth[view.places]),
        view.pixels("cleaned", view.data.pixels(found.mean)),
        view.pixels("replaced", view.data.wrong[view.places].float(), "marks"),
        view.pixels("marked,\nprobability", share.float(), "marks"),
    ]


def _rvae(view: View) -> Rows:
    own = outlier_probability(view.pair, view.data.test, seed=view.seed)[view.places]
    return [*_marked(view, own), view.samples(1)]


def _affine_ic(view: View) -> Rows:
    return [*_marked(view), view.columns_of_w()]


def _linear(view: View) -> Rows:
    return [view.given(), view.rebuilt(), view.columns_of_w(), view.samples(3)]


def _guessed(view: View) -> Rows:
    words = [str(int(c)) for c in classify(view.pair, view.x).argmax(1)]
    return [view.given("test digits,\nclass guessed", words), view.rebuilt(), view.samples(4)]


def _by_class(view: View) -> Rows:
    y = torch.arange(COLUMNS).repeat(4)
    drawn = view.pixels("samples, one\nclass a column", sample(view.pair, len(y), y, seed=view.seed))
    first = _guessed(view)[0] if view.pair.partial else view.given()
    return [first, view.rebuilt(), drawn]


def _halves(view: View) -> Rows:
    assert view.y is not None

    def whole(right: Tensor, left: Tensor) -> Tensor:
        return torch.cat([left.unflatten(-1, (8, 4)), right.unflatten(-1, (8, 4))], -1).flatten(1)

    y = view.y.repeat(4, 1)
    return [
        view.pixels("given, left", whole(torch.full_like(view.x, 0.5), view.y)),
        view.pixels("truth", whole(view.data.truth[view.places], view.y)),
        view.pixels("right half,\nfour draws", whole(sample(view.pair, len(y), y, seed=view.seed), y)),
    ]


def _scale(view: View) -> Rows:
    sd = reconstruct(view.pair, view.x)[1]
    label = f"sigma(z), white\nis {sd.max():.2f}"
    return [view.given(), view.rebuilt(), view.pixels(label, sd / sd.max()), view.samples(3)]


def _along(view: View) -> Rows:
    busy = aggregated(view.pair, view.data.test).activity.argsort(descending=True)[:2].tolist()
    span = torch.linspace(-2.5, 2.5, COLUMNS)
    lines = [view.pixels(f"along entry {j},\n-2.5 to 2.5", traversal(view.pair, view.x[3], j, span)) for j in busy]
    return [view.given(), view.rebuilt(), *lines, view.samples(2)]


def _corrupted(view: View) -> Rows:
    objective: Any = view.pair.objective
    with torch.random.fork_rng():
        torch.manual_seed(view.seed)
        noisy = objective.corruption(view.x)
    rebuilt = view.pixels("rebuilt\nfrom these", clean(view.pair, noisy, draws=2).mean)
    return [view.given(), view.pixels("salt, pepper", noisy), rebuilt, view.samples(3)]


def _mixture(view: View) -> Rows:
    prior: Any = view.pair.model.prior
    return [view.given(), view.rebuilt(), view.at("centres of\nthe prior", z=prior.loc.detach()[:COLUMNS]),
            view.samples(3)]  # fmt: skip


def _vamp(view: View) -> Rows:
    prior: Any = view.pair.model.prior
    inputs = view.pixels("pseudo-\ninputs", prior.inputs().detach()[:COLUMNS])
    return [view.given(), view.rebuilt(), inputs, view.samples(3)]


def _memorised(view: View) -> Rows:
    seen = view.data.x[:COLUMNS]
    z = torch.linspace(-0.03, 0.03, 2 * COLUMNS)[:, None]
    return [
        view.pixels("training\ndigits", seen), view.pixels("rebuilt", clean(view.pair, seen, draws=2).mean),
        view.given(), view.rebuilt("rebuilt: the\nnearest seen"), view.at("along z,\n-0.03 to 0.03", z=z),
    ]  # fmt: skip


def _strangers(view: View) -> Rows:
    test, wrong = view.data.test, view.data.wrong
    some = torch.cat([(~wrong).nonzero()[: COLUMNS // 2, 0], wrong.nonzero()[: COLUMNS // 2, 0]])
    found = detect(view.pair, test)
    order = found.score.argsort(descending=True)
    words = ["stranger" if found.outlier[i] else "" for i in some]
    return [
        view.pixels("given; found\nto be strange", test[some], words=words),
        view.pixels("rebuilt", clean(view.pair, test[some], draws=2).mean),
        view.pixels("fit worst\nof the test", test[order[:COLUMNS]]),
        view.pixels("fit best", test[order[-COLUMNS:].flip(0)]), view.samples(2),
    ]  # fmt: skip


def _stages(view: View) -> Rows:
    alone = view.samples(2, "samples of\nstage one", first_stage(view.pair))
    return [view.given(), view.rebuilt(), alone, view.samples(2, "samples of\nboth stages")]


def _empirical(view: View) -> Rows:
    plain = deepcopy(view.pair)
    model: Any = plain.model
    model.prior = StandardPrior(model.prior.loc.numel())
    return [view.given(), view.rebuilt(), view.samples(2, "samples of\nN(0, I)", plain),
            view.samples(2, "samples of the\nfitted prior")]  # fmt: skip


def _blocks(view: View) -> Rows:
    """Images that come into being block by block."""
    seen = evolve(view.pair, COLUMNS, seed=view.seed)
    words = ["samples: z_1", "then z_2", "then z_3", "then z_4"]
    lines = [view.pixels(word, seen[:, t]) for t, word in enumerate(words, 1)]
    first = _guessed(view)[0] if view.pair.partial else view.given()
    return [first, view.rebuilt(), *lines]


OWN: dict[str, Callable[[View], Rows]] = {
    "beta_vae": _along, "dvae": _corrupted, "mixture_vae": _mixture, "vamp_vae": _vamp, "cvae": _by_class,
    "m2_vae": _by_class, "structured_cvae": _halves, "gaussian_vae": _scale, "lc_vae": _scale,
    "memoriser": _memorised, "affine_vae": _linear, "ica_vae": _linear, "affine_ic_vae": _affine_ic, "rvae": _rvae,
    "datum_t_vae": _strangers, "two_stage_vae": _stages, "empirical_cvae": _empirical, "bcvae": _blocks,
    "crvae": _blocks, "crvae_gan": _blocks, "crvae_classifier": _blocks,
}  # fmt: skip
