"""Spleeter's other network: recurrent layers that give a target's magnitudes themselves, without a mask.

Reads and writes tensors only. Computes what Spleeter 2.4.2 computes for the model type `blstm.blstm`, of which no
weights were ever released.

Conventions: magnitudes are `(batch_size, nb_channels, nb_bins, nb_frames)`, not logarithms, not normalised. Within a
frame's vector the channels of a bin are neighbours, as upstream.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.recurrent import recur
from baselines.spleeter_unet import SpleeterSettings


@dataclass(frozen=True, kw_only=True)
class BlstmSettings(SpleeterSettings):
    """Which recurrent networks.

    Attributes
    ----------
    hidden_size : cells in each direction of a layer.
    nb_layers : recurrent layers.
    others : as in `SpleeterSettings`.
    """

    hidden_size: int = 250
    nb_layers: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        for name in ("hidden_size", "nb_layers"):
            value = getattr(self, name)
            self._check(name, type(value) is int and value > 0, "a whole number above 0")


class Blstm(nn.Module):
    """The recurrent network of one target."""

    def __init__(self, settings: BlstmSettings) -> None:
        super().__init__()
        size = settings.nb_channels * settings.nb_bins
        self.lstm = nn.LSTM(size, settings.hidden_size, settings.nb_layers, batch_first=True, bidirectional=True)
        self.dense = nn.Linear(2 * settings.hidden_size, size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as upstream does, from torch's global generator, for each target its own.

        Kernels are uniform within sqrt(6 / fan_in), recurrent ones orthogonal, biases 0 but for the forget gates, 1.
        """
        for name, weight in self.lstm.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(weight)
            elif name.startswith("weight_ih"):
                _draw_kernel(weight)
            else:
                nn.init.zeros_(weight)
            if name.startswith("bias_hh"):  # the second of two biases that are added
                size = self.lstm.hidden_size
                nn.init.ones_(weight[size : 2 * size])  # gates: input, forget, cell, output
        _draw_kernel(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the target's magnitudes [shape=(batch_size, nb_channels, nb_bins, nb_frames)].

        Parameters
        ----------
        mixture : magnitudes [shape=(batch_size, nb_channels, nb_bins, nb_frames)].
        """
        x = mixture.permute(0, 3, 2, 1)  # (batch_size, nb_frames, nb_bins, nb_channels)
        states = recur(self.lstm, x.flatten(2))
        estimate = torch.relu(self.dense(states)).reshape(x.shape)
        return estimate.permute(0, 3, 2, 1)


def _draw_kernel(weight: Tensor) -> None:
    """Draw a kernel [shape=(nb_outputs, nb_inputs)]."""
    limit = math.sqrt(6 / weight.shape[1])
    nn.init.uniform_(weight, -limit, limit)


class SpleeterBlstm(nn.Module):
    """The recurrent networks of all targets."""

    def __init__(self, settings: BlstmSettings) -> None:
        super().__init__()
        self.settings = settings
        self.networks = nn.ModuleDict({target: Blstm(settings) for target in settings.targets})

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the targets' magnitudes [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames)].

        Parameters
        ----------
        mixture : magnitudes [shape=(batch_size, nb_channels, nb_bins, nb_frames)].
        """
        return torch.stack([network(mixture) for network in self.networks.values()], dim=1).to(mixture.dtype)
