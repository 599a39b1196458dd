"""The networks of all targets as one.

Reads and writes tensors only.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class NetworkSet(nn.Module):
    """The networks of all targets, each of which makes a target's magnitudes of the mixture's.

    Attributes
    ----------
    settings : their settings.
    networks : one of each target, in the order of the settings.
    kind : the class of one; it is made from the settings.
    """

    kind: ClassVar[type[nn.Module]]

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.networks = nn.ModuleDict({target: self.kind(settings) for target in settings.targets})

    def forward(self, mixture: Tensor) -> Tensor:
        """Return all targets' magnitudes [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames)].

        In memory the bins of a frame lie side by side.

        Parameters
        ----------
        mixture : magnitudes [shape=(batch_size, nb_channels, nb_bins, nb_frames)].
        """
        return torch.stack([network(mixture).mT for network in self.networks.values()], dim=1).mT
