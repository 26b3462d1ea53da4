"""Networks: plain torch modules without Lightning, data or logging."""

from dlkit.nn.encoders import Decoder, Encoder, NetworkName, build_decoder, build_encoder
from dlkit.nn.mlp import mlp

__all__ = ["Decoder", "Encoder", "NetworkName", "build_decoder", "build_encoder", "mlp"]
