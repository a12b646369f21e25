"""Annealed importance sampling: from a density one can draw from to p(x, z), in small steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, unknown, whole
from pyro_vaes.inference.densities import Code, Values, log_terms, run, seed_at
from pyro_vaes.inference.hamiltonian import Ends, State, state_at, transition
from pyro_vaes.inference.memory import Chunk
from pyro_vaes.pair import Pair

ACCEPTANCE = 0.65
FIRST_STEP, WARM_UP = 0.1, 10


@dataclass(frozen=True)
class Annealing:
    r"""The path from a start to p(x, z), and how it is walked.

    .. math:: \log \pi_t(z) = (1 - b_t) \log \pi_0(z) + b_t \log p(x, z), \qquad 0 = b_0 < b_1 < \dots < b_T = 1

    Args:
        temperatures: T, at least 1; with 1 it is importance sampling from the start.
        leapfrog: steps of a Hamiltonian trajectory. transitions: trajectories per temperature; 0 leaves the start's
            draws where they are, which is importance sampling too.
        start: ``"prior"`` for p(z), ``"guide"`` for q(z | x).
        schedule: ``"sigmoid"``, which is slow at both ends, or ``"linear"``.

    Source: Neal (2001); the sigmoid: Wu, Burda, Salakhutdinov & Grosse (2017), App. A, with its slope of 4.

    >>> Annealing(temperatures=4, schedule="linear").betas()
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """

    temperatures: int = 100
    leapfrog: int = 10
    transitions: int = 1
    start: str = "prior"
    schedule: str = "sigmoid"

    @classmethod
    def given(cls, annealing: "Annealing | None") -> "Annealing":
        """The path that was given, or the default one."""
        if not isinstance(annealing, cls | None):
            raise InputError(
                f"annealing is {annealing!r}: it must be an Annealing, such as Annealing(temperatures=100)"
            )
        return annealing or cls()

    def __post_init__(self):
        whole("temperatures", self.temperatures), whole("leapfrog", self.leapfrog)
        whole("transitions", self.transitions, low=0)
        for name, known in (("start", ["prior", "guide"]), ("schedule", ["sigmoid", "linear"])):
            if getattr(self, name) not in known:
                raise unknown(name, str(getattr(self, name)), known)

    def betas(self) -> Tensor:
        """b_0 ... b_T."""
        t = torch.linspace(0, 1, self.temperatures + 1, dtype=torch.float64)
        if self.schedule == "linear":
            return t
        s = (4 * (2 * t - 1)).sigmoid()
        b = (s - s[0]) / (s[-1] - s[0])
        b[-1] = 1.0
        return b


class Path:
    """The two ends of the path for one batch: log start and log p(x, z) at states (C, B, k).

    The state holds the free sites one after the other; sites whose q is exact are integrated out.
    """

    def __init__(self, pair: Pair, code: Code, x: Tensor, y: Tensor | None, start: str):
        self.pair, self.code, self.x, self.y, self.start = pair, code, x, y, start

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        terms = log_terms(self.pair, self.code, self.values(z), self.x, self.y, guide=self.start == "guide")
        return terms.guide if self.start == "guide" else terms.prior, terms.prior + terms.data

    def draw(self, chains: int) -> Tensor:
        program = self.pair.guide if self.start == "guide" else self.pair.model
        sites = run(program, self.x, self.y, chains, {})
        return self.state({name: sites[name]["value"] for name in self.code.free})

    def state(self, values: Values) -> Tensor:
        parts = [values[name] for name in self.code.free]
        return torch.cat([p.reshape(-1, len(self.x), *s).flatten(2) if s else p.reshape(-1, len(self.x), 1)
                          for p, s in zip(parts, self.code.free.values(), strict=True)], -1)  # fmt: skip

    def values(self, z: Tensor) -> Values:
        shapes = [torch.Size(shape) for shape in self.code.free.values()]
        parts = z.split([shape.numel() for shape in shapes], -1)
        return {n: p.reshape(*z.shape[:-1], *s) for n, p, s in zip(self.code.free, parts, shapes, strict=True)}


def annealed_weights(
    pair: Pair,
    code: Code,
    x: Tensor,
    y: Tensor | None,
    settings: Annealing,
    chains: int,
    chunk: int | Chunk,
    where: tuple[int, ...],
) -> Tensor:
    """Give the log weights (C, B) of one batch, ``chunk`` chains at a time."""
    path, chunk = Path(pair, code, x, y, settings.start), Chunk.of("chunk", chunk)
    _, steps = chunk.once(chains, lambda count: adapted(path, settings, count, where))

    def some(done: int, count: int) -> Tensor:
        seed_at(*where, done, 1)
        return forward(path, path.draw(count), settings, steps)

    return torch.cat(chunk.over(chains, some))


def adapted(path: Path, settings: Annealing, chains: int, where: tuple[int, ...]) -> Tensor:
    r"""Find a step size per temperature and datum, (T + 1, B), with which 65 % of the trajectories are accepted.

    .. math:: \log \epsilon_{t+1} = \log \epsilon_t + \bar a_t - 0.65

    The chains that find it are thrown away: a weight's transitions must not know the weight's own chain, or its
    expectation is not p(x). Ten trajectories at the first temperature precede.

    Source: Wu et al. (2017) adapt towards 65 % too, on the chains of the weights themselves, and by steps of 2 %.
    """
    betas = settings.betas().to(path.x.device)
    log_step = torch.full((len(path.x),), FIRST_STEP, dtype=torch.float64, device=path.x.device).log()
    found = log_step.exp().repeat(len(betas), 1)
    if settings.transitions == 0 or settings.temperatures == 1:
        return found
    seed_at(*where, 0, 2)
    now = state_at(path, path.draw(chains))
    for t in [*[1] * WARM_UP, *range(1, len(betas) - 1)]:
        now, probability = transition(path, betas[t], now, log_step.exp(), settings.leapfrog)
        log_step = (log_step + probability.mean(0) - ACCEPTANCE).clamp(-12.0, 3.0)
        found[t] = log_step.exp()
    return found


def forward(ends: Ends, z: Tensor, settings: Annealing, steps: Tensor) -> Tensor:
    r"""Walk from draws of the start to p(x, z), and give the log weights (C, B), whose mean weight is p(x).

    .. math:: \log w = \sum_{t=1}^{T} (b_t - b_{t-1}) \big( \log p(x, z_{t-1}) - \log \pi_0(z_{t-1}) \big)
    """
    betas = settings.betas().to(z.device)
    now = state_at(ends, z)
    log_w = betas[1] * (now.end - now.start)
    for t in range(1, len(betas) - 1):
        now = _stay(ends, betas[t], now, steps[t], settings)
        log_w = log_w + (betas[t + 1] - betas[t]) * (now.end - now.start)
    return log_w


def backward(ends: Ends, z: Tensor, settings: Annealing, steps: Tensor) -> Tensor:
    """Walk from draws of p(z | x) to the start, and give the log weights (C, B), whose mean weight is 1 / p(x)."""
    betas = settings.betas().to(z.device)
    now = state_at(ends, z)
    log_w = torch.zeros_like(now.end)
    for t in range(len(betas) - 2, 0, -1):
        log_w = log_w + (betas[t] - betas[t + 1]) * (now.end - now.start)
        now = _stay(ends, betas[t], now, steps[t], settings)
    return log_w - betas[1] * (now.end - now.start)


def _stay(ends: Ends, b: Tensor, now: State, step: Tensor, settings: Annealing) -> State:
    for _ in range(settings.transitions):
        now, _ = transition(ends, b, now, step, settings.leapfrog)
    return now
