"""pythae's BaseTrainer on the network (a)."""

import logging
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures import DATA_DIM, Architecture
from benchmarks.peers import LR
from benchmarks.remote import require


def trainer(architecture: Architecture, x: Tensor) -> Any:
    """Give a trainer that is ready for ``train_step(epoch)``, which trains one epoch.

    Its own model, loss (binary cross entropy of a sigmoid) and data loader; our widths. The encoder gives log
    variances, as pythae wants. Without its progress bar and without checkpoints.
    """
    require("pythae")
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    encoder, decoder = architecture.networks()

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network: Any = encoder

        def forward(self, x: Tensor) -> Any:
            h = self.network.trunk(x)
            return ModelOutput(embedding=self.network.loc(h), log_covariance=self.network.raw_scale(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(decoder, nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z))

    config = VAEConfig(input_dim=(DATA_DIM,), latent_dim=architecture.latent, reconstruction_loss="bce")
    logging.disable(logging.WARNING)
    try:
        with TemporaryDirectory() as folder:
            made = BaseTrainer(
                VAE(config, Encoder(), Decoder()),
                BaseDataset(x.cpu(), torch.zeros(len(x))),
                training_config=BaseTrainerConfig(
                    output_dir=folder, per_device_train_batch_size=architecture.batch, learning_rate=LR
                ),
            )
            made.prepare_training()
    finally:
        logging.disable(logging.NOTSET)
    made.callback_handler = CallbackHandler([TrainingCallback()], made.model)
    return made
