"""Open-Unmix: a recurrent network for each target, which gives a mask for all bins of a mixture's magnitudes.

Reads and writes tensors only. The network is that of Open-Unmix 1.3 and holds the same parameters under the same names,
so that its weights can be loaded as they are.

References
----------
Stöter, Uhlich, Liutkus, Mitsufuji: Open-Unmix - A Reference Implementation for Music Source Separation, Journal of Open
Source Software 4(41), 2019.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from baselines.network_set import NetworkSet, check_counts, check_targets
from baselines.recurrent import recur
from musdbkit.errors import ParameterError
from musdbkit.stft import PRESETS, StftParams

_LEAST_STD = 1e-4  # of the greatest: bins above an encoder's bandwidth hold next to nothing


@dataclass(frozen=True)
class OpenUnmixSettings:
    """Which networks, and how they are used to separate; the defaults are those of UMX and UMXHQ.

    Attributes
    ----------
    targets : what is estimated, each by a network of its own.
    nb_channels : channels of the mixture and of every estimate.
    hidden_size : width of the network (1024 in UMXL), even if it is bidirectional.
    nb_layers : layers of the LSTM.
    bidirectional : whether the LSTM runs backwards, too, in which case each direction has half the width.
    dropout : share of values that are dropped between two layers of the LSTM in training.
    bandwidth : frequency in Hz up to which the network sees the mixture, or None: all of it. The mask always covers
        all bins. MUSDB18's encoder cut off at 16 kHz.
    sample_rate : Hz.
    n_fft, hop_length : length of a frame and from one to the next, in samples.
    nb_wiener_iterations : how often the estimates are refined together when separating; 0 leaves them as they are.
    wiener_window : frames in which that is done on their own, or None: the whole track at once.
    residual : whether what the targets leave of the mixture is estimated as one more.

    Raises
    ------
    ParameterError
        There is no such network.
    """

    targets: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    nb_channels: int = 2
    hidden_size: int = 512
    nb_layers: int = 3
    bidirectional: bool = True
    dropout: float = 0.4
    bandwidth: float | None = 16000.0
    sample_rate: int = 44100
    n_fft: int = 4096
    hop_length: int = 1024
    nb_wiener_iterations: int = 1
    wiener_window: int | None = 300
    residual: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_targets(self.targets)
        counts = ["nb_channels", "hidden_size", "nb_layers", "sample_rate"]
        if self.wiener_window is not None:
            counts.append("wiener_window")
        check_counts(self, *counts)
        if self.bidirectional and self.hidden_size % 2:
            raise ParameterError(f"hidden_size is {self.hidden_size}, expected an even number for two directions")
        if type(self.nb_wiener_iterations) is not int or self.nb_wiener_iterations < 0:
            raise ParameterError(f"nb_wiener_iterations is {self.nb_wiener_iterations!r}, expected 0 or more")
        if not 0 <= self.dropout < 1:
            raise ParameterError(f"dropout is {self.dropout}, expected 0 or more and less than 1")
        if self.bandwidth is not None and not 0 <= self.bandwidth < math.inf:
            raise ParameterError(f"bandwidth is {self.bandwidth}, expected a frequency in Hz, or none for all bins")
        _ = self.training_stft, self.separation_stft

    @property
    def training_stft(self) -> StftParams:
        """The transform whose magnitudes the network is trained on."""
        return replace(PRESETS["openunmix"], n_fft=self.n_fft, hop_length=self.hop_length)

    @property
    def separation_stft(self) -> StftParams:
        """The transform that is separated and inverted."""
        return replace(PRESETS["openunmix-inference"], n_fft=self.n_fft, hop_length=self.hop_length)

    @property
    def nb_bins(self) -> int:
        """Number of bins that the network takes and gives."""
        return self.n_fft // 2 + 1

    @property
    def nb_input_bins(self) -> int:
        """Number of bins, from 0 Hz on, that the network looks at: those up to `bandwidth`."""
        if self.bandwidth is None:
            return self.nb_bins
        return min(math.floor(self.bandwidth * self.n_fft / self.sample_rate) + 1, self.nb_bins)


class OpenUnmix(nn.Module):
    """The network of one target.

    Attributes
    ----------
    settings : its settings.
    input_mean, input_scale : what is added to the magnitudes of each bin that it looks at, and what the sums are
        multiplied by: the mean's negative and one over the standard deviation.
    output_mean, output_scale : what the masks of each bin are multiplied by, and what is then added. All four are
        trained like weights.
    """

    def __init__(self, settings: OpenUnmixSettings) -> None:
        super().__init__()
        self.settings = settings
        nb_bins, nb_channels, hidden_size = settings.nb_bins, settings.nb_channels, settings.hidden_size
        self.fc1 = nn.Linear(settings.nb_input_bins * nb_channels, hidden_size, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden_size)
        self.lstm = nn.LSTM(
            hidden_size,
            hidden_size // 2 if settings.bidirectional else hidden_size,
            settings.nb_layers,
            bidirectional=settings.bidirectional,
            dropout=settings.dropout if settings.nb_layers > 1 else 0,
        )
        self.fc2 = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden_size)
        self.fc3 = nn.Linear(hidden_size, nb_bins * nb_channels, bias=False)
        self.bn3 = nn.BatchNorm1d(nb_bins * nb_channels)
        self.input_mean = nn.Parameter(torch.zeros(settings.nb_input_bins))
        self.input_scale = nn.Parameter(torch.ones(settings.nb_input_bins))
        self.output_scale = nn.Parameter(torch.ones(nb_bins))
        self.output_mean = nn.Parameter(torch.ones(nb_bins))

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the magnitudes of the target [shape=(batch_size, nb_channels, nb_bins, nb_frames)].

        Parameters
        ----------
        mixture : magnitudes [shape=(batch_size, nb_channels, nb_bins, nb_frames)].
        """
        batch_size, nb_channels, nb_bins, nb_frames = mixture.shape
        frames = mixture.detach().permute(3, 0, 1, 2)  # nb_frames, batch_size, nb_channels, nb_bins

        # (x + mean) * scale, then a linear layer, is a linear layer with scaled weights and a bias: this spares two
        # passes over the mixture and two copies of it that training would keep
        scale, mean = self.input_scale.repeat(nb_channels), self.input_mean.repeat(nb_channels)
        weight = self.fc1.weight * scale
        x = mixture.permute(3, 0, 1, 2)[..., : self.settings.nb_input_bins].reshape(nb_frames * batch_size, -1)
        x = nn.functional.linear(x, weight, nn.functional.linear(mean, weight))
        x = torch.tanh(self.bn1(x)).reshape(nb_frames, batch_size, -1)

        x = torch.cat([x, recur(self.lstm, x).to(x.dtype)], dim=-1)
        x = torch.relu(self.bn2(self.fc2(x.flatten(0, 1))))
        x = self.bn3(self.fc3(x)).reshape(nb_frames, batch_size, nb_channels, nb_bins)
        mask = torch.relu(x * self.output_scale + self.output_mean)  # parameters make it float32, under autocast, too
        return (mask * frames).permute(1, 2, 3, 0)

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set what the magnitudes are shifted and scaled by, before training.

        Parameters
        ----------
        mean, std : mean and standard deviation of the magnitudes of the training tracks, over frames and channels
            [shape=(nb_bins,)]. Deviations are taken for at least 1e-4 of the greatest.

        Raises
        ------
        ParameterError
            They are of another number of bins or not finite, or no deviation is above 0.
        """
        nb_bins = self.settings.nb_bins
        if mean.shape != (nb_bins,) or std.shape != (nb_bins,):
            raise ParameterError(
                f"mean and std of shapes {tuple(mean.shape)} and {tuple(std.shape)}, expected {nb_bins} bins"
            )
        if not (mean.isfinite().all() and std.isfinite().all() and std.max() > 0):
            raise ParameterError("mean or std is not finite, or std is 0 everywhere: are the training tracks silent?")
        std = std.clamp(min=_LEAST_STD * float(std.max()))
        count = self.settings.nb_input_bins
        self.input_mean.copy_(-mean[:count])
        self.input_scale.copy_(1 / std[:count])


class OpenUnmixSet(NetworkSet):
    """The networks of all targets."""

    kind = OpenUnmix
