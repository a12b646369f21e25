"""What the arguments of the variants are, in a few words each: the command line's ``--help`` shows them."""

from argparse import Action
from collections.abc import Iterable

# An argument that means different things in two variants says both.
GLOSSARY: dict[str, str] = {
    "latent_dim": "entries of the code z; of a code on a grid or in blocks, by default 64 channels of its cells.",
    "latent_dims": "entries of the codes z_1, z_2, ..., the first nearest to the data; latent_dim is then the last.",
    "hidden": "widths of the hidden layers of the encoder, or filters; the decoder has them in reverse.",
    "middle": "entries of z_1, the code between z_2 and the data.",
    "middle_hidden": "widths of the hidden layers between z_1 and z_2.",
    "activation": "tanh or relu.",
    "beta": "weight of the KL term in what is minimised; 1 is the bound. Codes in blocks may have one for each.",
    "corruption": "what the encoder's input suffers in training: salt_and_pepper:FRACTION or impulse:FRACTION.",
    "particles": "K, the draws of the guide per datum.",
    "alpha": "of the Renyi bound, 0 for the importance-weighted one; of rvae, the share of clean entries to expect.",
    "estimator": "of the gradient: iwae, stl or dreg.",
    "shape": "of one image, (H, W) or (C, H, W), such as [3,32,32]; left out, that of the data.",
    "flows": "layers of the flow.",
    "width": "of flows, units of the networks inside of a layer; elsewhere the largest outlier, in units of the data.",
    "bins": "pieces of the splines.",
    "components": "of the prior's mixture.",
    "grey": "the value near which pseudo-inputs start.",
    "classes": "how many labels there are.",
    "condition_dim": "entries of the condition y, or classes; follows from --condition.",
    "minimum": "below which no learned scale falls, in units of the data.",
    "head": "last layer of the scale: softplus, or course_report (tanh on the log variance).",
    "real": "data are any real numbers, not pixels in [0, 1].",
    "points": "training data that the guide knows by heart.",
    "floor": "the residual, in units of the data, below which nothing is an outlier; learned where it is left out.",
    "broad": "standard deviation of a dirty entry, in units of the data.",
    "passes": "N, passes in training, each on what the one before drew.",
    "test_passes": "M, passes when data are cleaned or drawn.",
    "recycle_grad": "let gradients flow through the recycled data.",
    "l1": "weight of the absolute values of the code.",
    "affine": "the mean is W z + b, without hidden layers.",
    "weight": "of what stands beside the pair's own cost: a penalty on the codes, or the adversarial loss of images "
    "(null: the paper's, for this sd).",
    "kernel": "of the maximum mean discrepancy: imq or rbf.",
    "discriminator_hidden": "widths of the discriminator's hidden layers; of images, of its one linear layer.",
    "discriminator_filters": "of the discriminator's convolutions, one number per stage.",
    "fakes": "what the discriminator is to tell from the data: posterior, prior or both.",
    "threshold": "the share of real and fakes told right above which the discriminator skips a step.",
    "rate": "the discriminator's learning rate, as a multiple of lr.",
    "second_hidden": "widths of the hidden layers of both networks of the second stage.",
    "scale": "of the residuals: gamma (one number) or diagonal (a network of the code).",
    "classifier": "q(y | x): mlp or cnn.",
    "filters": "of the convolutional classifier, one number per layer (of TwoHeads, per pooling).",
    "layers": "convolutions of the classifier before each pooling.",
    "distort": "how strongly the convolutional classifier's images are turned, scaled and shifted in training.",
    "sd": "standard deviation of pixels in [0, 1] around their mean; null where data are binary.",
    "draws": "codes per datum that the prior is fitted to.",
    "blocks": "T, the sites z_1 ... z_T that the code is cut into.",
    "recurrence": "where blocks hear of earlier ones: both, inference or generation.",
    "mean": "of the code, as a function of the features: conv or dense.",
    "units": "of the LSTMs; 256 where it is left out.",
    "preset": "paper, or repo for the authors' code: two layers, a slower rate of the LSTMs, a smaller u.",
    "classifier_weight": "of -log q(y | x) of the labelled rows, beside the bound.",
}


def explain(actions: Iterable[Action]) -> None:
    """Give every option without a text the one of the glossary.

    >>> from argparse import ArgumentParser
    >>> parser = ArgumentParser()
    >>> action = parser.add_argument("--flows")
    >>> explain([action])
    >>> action.help
    'layers of the flow.'
    """
    for action in actions:
        text = GLOSSARY.get(action.dest)
        if text and not (action.help or "").replace("%s", "").strip():
            action.help = text
