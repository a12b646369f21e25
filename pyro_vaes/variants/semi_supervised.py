"""The semi-supervised variant: a few labels, many data."""

from collections.abc import Sequence

import torch
from torch import nn

from pyro_vaes.errors import InputError, number, unknown, whole
from pyro_vaes.guides.semi_supervised import Classified
from pyro_vaes.inference.enumerated import Enumerated
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.semi_supervised import SemiSupervised
from pyro_vaes.nn.conv import ConvClassifier, image_shape
from pyro_vaes.nn.labelled import LabelledEncoder
from pyro_vaes.nn.mlp import Decoder, PointEncoder, check_sizes
from pyro_vaes.pair import Pair


def m2_vae(
    data_dim: int,
    condition_dim: int = 10,
    latent_dim: int = 50,
    hidden: Sequence[int] = (500,),
    classifier: str = "mlp",
    filters: Sequence[int] = (32, 64),
    shape: Sequence[int] | None = None,
    distort: float = 0.0,
    classifier_weight: float = 10.0,
    beta: float = 1.0,
) -> Pair:
    """p: y ~ Cat(1/c), z ~ N(0, I), x ~ Bernoulli(logits(z, y)) | q: Cat(softmax(classifier(x))),
    N(mu_z(x, y), sigma_z(x, y)^2) | Enumerated | S3 V; Kingma et al. 2014b (M2).

    Data with a label and without one, ``condition_dim`` classes: y of :func:`~pyro_vaes.inference.fit.fit` is a label
    each, -1 where there is none, and the class is summed over there.
    :func:`~pyro_vaes.inference.classify.classify` gives q(y | x). Its network is an ``mlp`` of the encoder's widths, or
    a ``cnn`` with ``filters`` per layer of images of that ``shape`` (a square by default), which while training are
    turned, scaled and shifted at random for this network alone, as strongly as ``distort`` says
    (:func:`~pyro_vaes.nn.conv.distorted`; 1 suits digits). ``classifier_weight`` is w of
    :class:`~pyro_vaes.inference.enumerated.Enumerated`; with a small one q(y | x) soon
    forgets which class is which. Data are binary, 0 or 1. Departs from Kingma et al., who use softplus units: ReLU.

    >>> m2_vae(data_dim=4, condition_dim=3, hidden=(5,)).partial
    True
    """
    check_sizes(data_dim, latent_dim, hidden)
    c = whole("condition_dim", condition_dim, low=2, high=10**6)
    if len(hidden) == 0:
        raise InputError("hidden is empty: the encoder needs a layer in which x and y meet")
    check_sizes(data_dim, latent_dim, filters, "filters")
    if classifier == "cnn":
        network: nn.Module = ConvClassifier(image_shape(shape, data_dim), filters, c, number("distort", distort))
    elif classifier == "mlp":
        if (tuple(filters), shape, number("distort", distort)) != ((32, 64), None, 0.0):
            raise InputError("filters, shape and distort are of classifier 'cnn': 'mlp' has none of them")
        network = PointEncoder(data_dim, hidden, c)
    else:
        raise unknown("classifier", str(classifier), ["mlp", "cnn"])
    decoder = Decoder(latent_dim + c, hidden, data_dim, output=nn.Identity)
    model = SemiSupervised(StandardPrior(latent_dim), decoder, torch.full((c,), 1.0 / c))
    guide = Classified(network, LabelledEncoder(data_dim, c, hidden, latent_dim))
    objective = Enumerated(classifier_weight=classifier_weight, beta=beta)
    return Pair(model, guide, objective, condition_dim=c, partial=True, name="m2_vae")
