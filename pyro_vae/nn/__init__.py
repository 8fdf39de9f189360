r"""Networks, and what every network's input and output need."""

__all__ = [
    "FACTS",
    "Filled",
    "Network",
    "check_event_shape",
    "check_sites",
    "check_width",
    "conv_decoder",
    "conv_encoder",
    "flatten_event",
    "make_decoder",
    "make_network",
    "masked_mlp",
    "mlp",
    "plate_size",
    "positive",
]

from pyro_vae.nn.convolution import conv_decoder, conv_encoder
from pyro_vae.nn.filled import Filled, masked_mlp
from pyro_vae.nn.network import FACTS, Network, make_decoder, make_network
from pyro_vae.nn.perceptron import mlp
from pyro_vae.nn.positive import positive
from pyro_vae.nn.shapes import (
    check_event_shape,
    check_sites,
    check_width,
    flatten_event,
    plate_size,
)
