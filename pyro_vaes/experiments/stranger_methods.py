"""What the experiments on samples that do not belong share: a method is a way to train and a way to score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pyro_vaes.evaluation.detection import detect
from pyro_vaes.evaluation.strangers import judged
from pyro_vaes.experiments.training import Builder, trained, trained_together
from pyro_vaes.experiments.verdicts import interval
from pyro_vaes.pair import Pair


@dataclass(frozen=True)
class Method:
    """One way to find strangers.

    Attributes:
        label: for tables and figures.
        train: (x, seed, steps) -> whatever ``score`` takes; it sees no labels.
        score: (what was trained, x) -> (n,), larger is more of a stranger.
        flags: (what was trained, x) -> (n,) bool, the method's own decision, or None.
        second: another score of what was trained, or None; it is judged too, under names that begin with "second".
        network: the variant, or its builder, and its arguments, if ``train`` is :func:`~.training.trained`: then a GPU
            trains all data sets together.
    """

    label: str
    train: Callable[[Tensor, int, int], Any]
    score: Callable[[Any, Tensor], Tensor]
    flags: Callable[[Any, Tensor], Tensor] | None = None
    network: tuple[str | Builder, dict[str, Any]] | None = None
    second: Callable[[Any, Tensor], Tensor] | None = None


def residual(pair: Pair, x: Tensor) -> Tensor:
    """The mean squared residual of each sample, which :func:`~pyro_vaes.evaluation.detection.detect` cuts."""
    return detect(pair, x).score


def network(
    label: str,
    build: str | Builder,
    arguments: dict[str, Any],
    score: Callable[[Pair, Tensor], Tensor] = residual,
    second: Callable[[Pair, Tensor], Tensor] | None = None,
) -> Method:
    """A pair that ``fit`` trains, with a score of its own or the residual.

    >>> import torch
    >>> method = network("l2", "l2_vae", {"hidden": (3,)})
    >>> method.score(method.train(torch.rand(9, 4), 0, 2), torch.rand(9, 4)).shape
    torch.Size([9])
    """

    def train(x: Tensor, seed: int, steps: int) -> Pair:
        return trained(build, x, arguments=arguments, seed=seed, steps=steps)

    return Method(label, train, score, network=(build, arguments), second=second)


def classical(label: str, find: Callable[[Tensor, int], Any]) -> Method:
    """A baseline without training: ``find(x, seed)`` gives something with ``score`` and ``outlier``.

    >>> import torch
    >>> from pyro_vaes.evaluation.one_class import isolation_forest
    >>> evaluate(classical("forest", isolation_forest), torch.rand(9, 4), torch.arange(9) > 6, 0, 0)[1].shape
    torch.Size([9])
    """
    return Method(
        label,
        train=lambda x, seed, steps: find(x, seed),
        score=lambda found, x: found.score,
        flags=lambda found, x: found.outlier,
    )


def evaluate(method: Method, x: Tensor, stranger: Tensor, seed: int, steps: int) -> tuple[dict[str, float], Tensor]:
    """Train, score and judge; the labels are used for the judging alone.

    Returns:
        what :func:`~pyro_vaes.evaluation.strangers.judged` says, and the scores.
    """
    return judge(method, method.train(x, seed, steps), x, stranger)


def judge(method: Method, found: Any, x: Tensor, stranger: Tensor) -> tuple[dict[str, float], Tensor]:
    """Score and judge what was trained; the scores given back are the second ones where there are two."""
    score = method.score(found, x)
    numbers = judged(score, stranger, method.flags(found, x) if method.flags else None)
    if method.second is not None:
        score = method.second(found, x)
        numbers |= {f"second {key}": value for key, value in judged(score, stranger).items()}
    return numbers, score


def evaluate_together(
    method: Method, data: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int], steps: int, **plan: Any
) -> list[tuple[dict[str, float], Tensor]]:
    """:func:`evaluate` for many data sets of one shape; a network trains on all of them as replicas.

    Args:
        data: (x, stranger) of each. seeds: of each. plan: more arguments of ``fit``.
    """
    if method.network is None:
        return [evaluate(method, x, stranger, seed, steps) for (x, stranger), seed in zip(data, seeds, strict=True)]
    build, arguments = method.network
    together = partial(trained_together, arguments=[arguments] * len(data), seeds=seeds, steps=steps)
    pairs = together(build, [x for x, _ in data], **plan)
    return [judge(method, pair.cpu(), x, stranger) for pair, (x, stranger) in zip(pairs, data, strict=True)]


def collected(judgements: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """One list per number, in the order of the judgements.

    >>> collected([{"f1": 0.5}, {"f1": 0.25}])
    {'f1': [0.5, 0.25]}
    """
    return {key: [judgement[key] for judgement in judgements] for key in judgements[0]}


def say(values: Sequence[float]) -> str:
    """A mean and the half width of its 95 % interval.

    >>> say([0.5, 0.5])
    '0.500 ± 0.000'
    """
    mean, low, _ = interval(values)
    return f"{mean:.3f} ± {mean - low:.3f}"
