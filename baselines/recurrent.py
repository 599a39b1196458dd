"""LSTMs in float32, whatever the networks around them compute in.

Reads and writes nothing.
"""

import torch
from torch import Tensor, nn


@torch.compiler.disable  # type: ignore[untyped-decorator]
def recur(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Return what an LSTM makes of a sequence [shape as the LSTM's, float32].

    Autocast would run cuDNN's LSTM in float16, also where bfloat16 was asked for, without scaling the loss for it; and
    its steps take as long in float32: what they wait for is each other. torch does not compile LSTMs, and would leave
    all that comes after one as it is, were this not a function of its own.

    Parameters
    ----------
    lstm : the layers.
    x : the sequence, in the layout that the LSTM was made for.
    """
    with torch.autocast(x.device.type, enabled=False):
        states: Tensor = lstm(x.to(next(lstm.parameters()).dtype))[0]
        return states
