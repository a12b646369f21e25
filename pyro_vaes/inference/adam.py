"""Adam over all parameters at once, with a state that every engine shares and a checkpoint holds."""

from collections.abc import Mapping, Sequence
from copy import copy

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    r"""One fused Adam step for all parameters.

    .. math:: \theta \leftarrow \theta - \mathrm{lr}\, \hat m / (\sqrt{\hat v} + 10^{-8}), \qquad
              \hat m = \frac{m}{1 - \beta_1^t},\ \hat v = \frac{v}{1 - \beta_2^t}

    where m and v are running means of the gradient and of its square, with the weights beta_1 and beta_2.

    The arithmetic is ``torch.optim.adam.adam`` with ``fused=True``; only the bookkeeping around it is left out, which
    on a small network costs as much as the arithmetic.

    Args:
        parameters: leaves, changed in place.
        lr: the learning rate, a tensor, so that a captured or compiled step reads what a schedule wrote.
        betas: beta_1 and beta_2, each in [0, 1).
        factors: what the rate of each parameter is multiplied by; empty for 1 everywhere.
        skips: for each parameter, the name of what says that it skips a step, or ""; empty for nothing.

    Source: Kingma & Ba (2015), Algorithm 1.

    >>> p = torch.ones(2)
    >>> Adam([p], lr=0.1).step([torch.tensor([1.0, -1.0])])
    >>> p
    tensor([0.9000, 1.1000])
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        factors: Sequence[float] = (),
        skips: Sequence[str] = (),
    ):
        self.parameters, self.betas = [p.detach() for p in parameters], betas
        self.factors = list(factors) or [1.0] * len(self.parameters)
        self.skips = list(skips) or [""] * len(self.parameters)
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]
        self.lr = rate(self.parameters, lr)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], skipped: Mapping[str, Tensor] | None = None) -> None:
        """Take one step; a parameter without a gradient stays where it is.

        Args:
            skipped: by the names in ``skips``, 1 for a step that those parameters skip, else 0: they, their moments
                and their count of steps stay what they are, to the bit.
        """
        each = list(zip(self.factors, self.skips, strict=True))
        for factor, skip in dict.fromkeys(each):
            there = [i for i, g in enumerate(gradients) if g is not None and each[i] == (factor, skip)]
            # The rate itself where it is nobody's own: the kernel reads the very tensor that a schedule writes.
            lr = self.lr if factor == 1 else self.lr * factor
            self._group(gradients, there, lr, (skipped or {}).get(skip))

    def _group(self, gradients: Sequence[Tensor | None], there: list[int], lr: Tensor, skipped: Tensor | None) -> None:
        """One fused call, for the parameters of one rate that skip the same steps."""
        adam(
            [self.parameters[i] for i in there],
            [laid_out(gradients[i], self.parameters[i]) for i in there],
            [self.mean[i] for i in there],
            [self.square[i] for i in there],
            [],
            [self.steps[i] for i in there],
            fused=True, capturable=self.lr.is_cuda, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1],
            lr=lr, weight_decay=0.0, eps=1e-8, maximize=False,
            # The kernel's own way to leave out a step, made for losses that overflow: nothing is read on the host.
            found_inf=None if skipped is None else skipped.float(),
        )  # fmt: skip

    def moments(self) -> list[Tensor]:
        """What must stay finite besides the parameters."""
        return [*self.mean, *self.square]

    def part(self, run: int, parameters: Sequence[Tensor], lr: float) -> "Adam":
        """The optimiser of one replica: views of the common moments, and a count of steps of its own."""
        one = copy(self)
        one.parameters, one.lr = [p.detach() for p in parameters], torch.full_like(self.lr, lr)
        one.mean, one.square = [m[run] for m in self.mean], [s[run] for s in self.square]
        one.steps = [t.clone() for t in self.steps]
        return one

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, ``adam.i.exp_avg`` and so on; they are the state itself, not copies."""
        named = zip(self.steps, self.mean, self.square, strict=True)
        keys = ("step", "exp_avg", "exp_avg_sq")
        return {f"adam.{i}.{key}": t for i, three in enumerate(named) for key, t in zip(keys, three, strict=True)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy a state into this one, in place: a captured step knows the tensors by their address."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def rate(parameters: Sequence[Tensor], lr: float) -> Tensor:
    """A learning rate where the parameters are."""
    device = parameters[0].device if parameters else torch.device("cpu")
    # The CUDA kernel reads a float; on a CPU the rate is as exact as the parameters may be.
    return torch.tensor(float(lr), device=device, dtype=torch.float32 if device.type == "cuda" else torch.float64)


def laid_out(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """The fused kernel walks through memory: a gradient that is a transposed or expanded view would be misread."""
    assert gradient is not None
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
