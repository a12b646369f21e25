"""What turns blocks of channels into blocks of channels: each for itself, or one after the other. No Pyro here."""

import torch
from torch import Tensor, nn


class BlockLinear(nn.Module):
    """Give each of T blocks a linear map of its own: (..., T, inputs) -> (..., T, outputs).

    With T = 1 it is a fully connected layer.

    Source: Shang et al. (2017), 3 (block-covariance VAE) and G.3.

    >>> BlockLinear(3, 4, 2)(torch.zeros(5, 3, 4)).shape
    torch.Size([5, 3, 2])
    """

    def __init__(self, blocks: int, inputs: int, outputs: int):
        super().__init__()
        bound = inputs**-0.5  # as nn.Linear starts
        self.weight = nn.Parameter(torch.empty(blocks, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(blocks, outputs).uniform_(-bound, bound))

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("...ti,tio->...to", z, self.weight) + self.bias


class ChannelLSTM(nn.Module):
    r"""Run through T blocks with an LSTM: (..., T, inputs) -> (..., T, outputs).

    .. math:: h_t, c_t = \mathrm{LSTM}(z_t, h_{t-1}, c_{t-1}), \qquad u_t = A h_t + b

    u_t depends on z_1 ... z_t, and on no later block. A and b are shared by all steps.

    Args:
        hidden: units of the LSTM. layers: LSTMs on top of each other.
        rate: of learning, as a multiple of the others'.

    Source: Shang et al. (2017), 3, G.3. There the LSTM's own output is the answer, whose size is not that of what it
    stands for (256 units for each of 8 steps, where 1024 variances or 4096 features are wanted); A and b are those of
    the authors' code. Its forget gates start open (bias 1), as in that code.

    >>> ChannelLSTM(4, 6, 2)(torch.zeros(5, 3, 4)).shape
    torch.Size([5, 3, 2])
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int = 1, rate: float = 1.0):
        super().__init__()
        # Cells, stepped by hand: on a CPU the fused LSTM is opaque to the tracer and falls out of a compiled step.
        self.cells = nn.ModuleList(nn.LSTMCell(inputs if i == 0 else hidden, hidden) for i in range(layers))
        self.out = nn.Linear(hidden, outputs)
        self.rate_factors = {} if rate == 1.0 else {"cells": rate, "out": rate}
        for name, bias in self.cells.named_parameters():
            if "bias" in name:
                nn.init.constant_(bias[hidden : 2 * hidden], float("bias_ih" in name))

    def forward(self, z: Tensor) -> Tensor:
        steps = z.reshape(-1, *z.shape[-2:])
        for cell in self.cells:
            state, found = None, []
            for step in steps.unbind(-2):
                state = cell(step, state)
                found.append(state[0])
            steps = torch.stack(found, -2)
        return self.out(steps).reshape(*z.shape[:-1], -1)


class Offset(nn.Module):
    """Add mu_0, a number for every entry, or take it away: (..., *shape) -> (..., *shape).

    Source: Shang et al. (2017), 3: "subtract the mean before the inference and add it back after the generation". The
    two have different shapes where a code has fewer channels than the features, so each has its own.

    >>> Offset((2,))(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, shape: tuple[int, ...], sign: int = 1):
        super().__init__()
        self.sign, self.mu_0 = sign, nn.Parameter(torch.zeros(shape))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.sign * self.mu_0


class Blockwise(nn.Module):
    """Slice features along their channels into T blocks, and flatten what a map of blocks gives: (N, C, ...) -> (N, k).

    >>> Blockwise(2, BlockLinear(2, 8, 3))(torch.zeros(5, 4, 2, 2)).shape
    torch.Size([5, 6])
    """

    def __init__(self, blocks: int, recurrence: nn.Module):
        super().__init__()
        self.blocks, self.recurrence = blocks, recurrence

    def forward(self, h: Tensor) -> Tensor:
        return self.recurrence(h.reshape(len(h), self.blocks, -1)).flatten(-2)
