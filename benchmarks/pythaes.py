r"""The same VAEs in pythae: an epoch of its trainer, with its loader, without its progress bar."""

from typing import Any

from pythae import models
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from sizes import RATE, Contender, Makers, Size
from torch import Tensor, cat, nn, zeros

from pyro_vae.nn import positive

LOOP = "pythae, its trainer"


class Encoder(BaseEncoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        loc, raw = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=2 * positive(raw).log())


class Decoder(BaseDecoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z).sigmoid())


class Noting(BaseTrainer):
    r"""The trainer, which also keeps the loss of each step."""

    losses: list[Tensor]

    def _optimizers_step(self, model_output: Any = None) -> None:
        super()._optimizers_step(model_output)
        self.losses.append(model_output.loss.detach())


def vae(size: Size) -> models.VAE:
    decoder, encoder = size.networks()
    config = models.VAEConfig((size.features,), size.latents, reconstruction_loss="bce")
    return models.VAE(config, Encoder(encoder), Decoder(decoder))


def dataset(x: Tensor) -> BaseDataset:
    return BaseDataset(x, zeros(len(x)))


def loop(size: Size) -> Contender:
    model = vae(size)
    settings = BaseTrainerConfig(
        per_device_train_batch_size=size.batch, learning_rate=RATE, no_cuda=True
    )
    start = dataset(zeros(size.batch, size.features))
    trainer = Noting(model, start, training_config=settings)
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model)

    def prepare(data: list[Tensor]) -> Any:
        return trainer.get_train_dataloader(dataset(cat(data)))

    def step(loader: Any) -> list[Tensor]:
        trainer.losses, trainer.train_loader = [], loader
        trainer.train_step(1)
        return [size.batch * loss for loss in trainer.losses]

    return Contender(step, exact=0, prepare=prepare)


def makers(size: Size) -> Makers:
    r"""None where the prior is learned or the bound is importance-weighted."""
    return {} if size.functions or size.particles > 1 else {LOOP: lambda: loop(size)}
