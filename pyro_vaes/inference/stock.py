"""Pyro's own objectives, as they are."""

import pyro
import torch
from pyro.infer import ELBO as PyroELBO
from pyro.infer import RenyiELBO
from torch import Tensor, nn

from pyro_vaes.errors import InputError
from pyro_vaes.inference.objective import Loss


class Stock(nn.Module):
    """Use one of Pyro's own estimators as an objective, untouched.

    Args:
        estimator: an instance such as ``Trace_ELBO()``, ``TraceMeanField_ELBO()``, ``TraceGraph_ELBO()``,
            ``TraceEnum_ELBO()`` or ``RenyiELBO(alpha=0, num_particles=5)``.

    Its one term is called ``elbo``: Pyro does not split it by site. ``RenyiELBO`` is a bound per datum only if every
    site is inside the data plate; it exponentiates what a subsampled plate has scaled, so the plate is given the batch
    alone.

    Source: Pyro's ``pyro.infer``.

    >>> from pyro.infer import Trace_ELBO
    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> pair = l2_vae(data_dim=4, latent_dim=2, hidden=(5,))
    >>> Stock(Trace_ELBO())(pair.model, pair.guide, torch.rand(3, 4)).total.requires_grad
    True
    """

    def __init__(self, estimator: PyroELBO):
        if not isinstance(estimator, PyroELBO):
            raise InputError(f"estimator is {estimator!r}: it must be one of Pyro's, such as Trace_ELBO()")
        super().__init__()
        self.estimator = estimator

    def __repr__(self) -> str:
        return f"Stock({type(self.estimator).__name__}())"

    def forward(self, model: nn.Module, guide: nn.Module, x: Tensor, y=None, *, size=None) -> Loss:
        if isinstance(self.estimator, RenyiELBO):
            size = None  # it would exponentiate the plate's scale
        if hasattr(self.estimator, "differentiable_loss"):
            total = self.estimator.differentiable_loss(model, guide, x, y, size=size)
        else:
            total = _with_gradients(self.estimator, model, guide, x, y, size)
        total = total / (size or len(x))
        return Loss(total, {"elbo": total}, -total.detach())


def _with_gradients(estimator, model, guide, x, y, size) -> Tensor:
    """Run an estimator that only knows backward(), and give its value a gradient that can be asked for later."""
    parameters = list({id(p): p for m in (model, guide) for p in m.parameters() if p.requires_grad}.values())
    kept = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    # Such estimators look for parameters in the global store, and do nothing without them.
    with (
        pyro.get_param_store().scope(),
        pyro.settings.context(module_local_params=False),
        torch.enable_grad(),
    ):
        value = estimator.loss_and_grads(model, guide, x, y, size=size)
    gradients = [p.grad for p in parameters]
    for p, grad in zip(parameters, kept, strict=True):
        p.grad = grad
    # While a step is traced the value is a tensor, not a number.
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    found = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    return _Known.apply(value, len(found), *(p for p, _ in found), *(g for _, g in found))


class _Known(torch.autograd.Function):
    """A value whose gradients somebody else has computed."""

    @staticmethod
    def forward(ctx, value, count, *parameters_and_gradients):
        ctx.save_for_backward(*parameters_and_gradients[count:])
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        gradients = ctx.saved_tensors
        return None, None, *(grad * g for g in gradients), *(None for _ in gradients)
