"""LSTMs and GRUs in float32, whatever the networks around them compute in.

Reads and writes nothing.
"""

import torch
from torch import Tensor, nn


@torch.compiler.disable  # type: ignore[untyped-decorator]
def recur(layers: nn.RNNBase, x: Tensor) -> Tensor:
    """Return what recurrent layers make of a sequence [shape as theirs, float32].

    Autocast would run cuDNN's layers in float16, also where bfloat16 was asked for, without scaling the loss for it;
    and their steps take as long in float32: what they wait for is each other. torch does not compile such layers, and
    would leave all that comes after one as it is, were this not a function of its own.

    Parameters
    ----------
    layers : an LSTM or a GRU.
    x : the sequence, in the layout that the layers were made for.
    """
    with torch.autocast(x.device.type, enabled=False):
        states: Tensor = layers(x.to(next(layers.parameters()).dtype))[0]
        return states
