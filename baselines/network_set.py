"""The networks of all targets as one, and what is asked of all networks' settings.

Reads and writes tensors only.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from musdbkit.errors import ParameterError, printable


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


def check_targets(targets: tuple[str, ...]) -> None:
    """Refuse names that cannot be those of sub-networks and files.

    Raises
    ------
    ParameterError
        There is none, one occurs twice, or one cannot be used.
    """
    if not isinstance(targets, tuple) or not targets or not all(isinstance(target, str) for target in targets):
        raise ParameterError(f"targets is {targets!r}, expected one name or more")
    reserved = nn.ModuleDict()
    for target in targets:
        if not target or set(target) & set("./\\\0") or hasattr(reserved, target):
            raise ParameterError(
                f"target {printable(target) or 'without a name'}: expected a name without . / and \\ that is none of "
                "torch's own words"
            )
        if targets.count(target) > 1:
            raise ParameterError(f"targets are {', '.join(targets)}: {target} occurs twice")


def check_counts(settings: Any, *names: str) -> None:
    """Refuse settings that are to count something and do not.

    Raises
    ------
    ParameterError
        One is no whole number, or less than 1.
    """
    for name in names:
        value = getattr(settings, name)
        if type(value) is not int or value < 1:
            raise ParameterError(f"{name} is {value!r}, expected a whole number, 1 or more")
