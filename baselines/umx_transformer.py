"""Open-Unmix with transformers in place of its LSTM: a network for each target, which gives a mask for all bins.

Reads and writes tensors only. `UmxTransformer` says where it differs from Open-Unmix, and what we took where the
original is unclear.

References
----------
https://github.com/legoodmanner/sequence_length_ss, which names no paper. Stöter, Uhlich, Liutkus, Mitsufuji: Open-Unmix
- A Reference Implementation for Music Source Separation, Journal of Open Source Software 4(41), 2019.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.attention import ATTENTIONS, TEMPERATURES, EncoderLayer, encode_positions
from baselines.long_input import LongInputSettings
from baselines.network_set import NetworkSet
from musdbkit.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class UmxTransformerSettings(LongInputSettings):
    """Which networks, and how they are used to separate; the defaults are the original's.

    Attributes
    ----------
    bandwidth : frequency in Hz up to which the network sees the mixture, or None: all of it. The mask always covers
        all bins.
    temperature : what the learnt temperature is of `qkvg1D`, one of `baselines.attention.TEMPERATURES`. The other kinds
        always `scale`.
    positional : whether the positions of frames are added before the encoder. The original's line for it is commented
        out.

    Others are those of `LongInputSettings`.
    """

    dropout: float = 0.2
    bandwidth: float | None = 16000.0
    temperature: str = "replace"
    positional: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        if self.bandwidth is not None and not 0 <= self.bandwidth < math.inf:
            raise ParameterError(f"bandwidth is {self.bandwidth}, expected a frequency in Hz, or none for all bins")
        self._check_choice("temperature", TEMPERATURES)
        if self.positional and self.hidden_size % 2:
            raise ParameterError(f"hidden_size is {self.hidden_size}, expected an even number for positions")

    @property
    def nb_input_bins(self) -> int:
        """Number of bins, from 0 Hz on, that the network looks at: those up to `bandwidth`."""
        if self.bandwidth is None:
            return self.nb_bins
        return min(math.floor(self.bandwidth * self.n_fft / self.sample_rate) + 1, self.nb_bins)


class UmxTransformer(nn.Module):
    """The network of one target.

    Against Open-Unmix: no hyperbolic tangent after the first normalisation; three stages of a transformer's encoder,
    each with a further sum around it, in place of the LSTM; what they make comes before what they were given, where
    the two are joined.

    What we took where the original is unclear:

    - Its network is made for the 744 bins of frames of 2048 samples, but its data have frames of 4096, of which it
      would see no more than 8 kHz. Its older source has 4096 and 1487 bins, up to 16 kHz; so have we.
    - Its scales of the input and the output begin at 1 and 0, as nothing computes statistics of the data. So do ours.
    - The mask is trained on magnitudes. Its last source compares complex spectra, of a network of another project;
      what it has commented out, and its test, have magnitudes.
    - The temperature is a parameter whatever the attention; see there for what it does.

    Attributes
    ----------
    settings : its settings.
    input_mean, input_scale : what is added to the magnitudes of each bin that it looks at, and what the sums are
        multiplied by.
    output_mean, output_scale : what the masks of each bin are multiplied by, and what is then added. All four are
        trained like weights.
    softmax_temp : the temperature of all attentions, which is trained, too.
    """

    def __init__(self, settings: UmxTransformerSettings) -> None:
        super().__init__()
        self.settings = settings
        nb_bins, nb_channels, hidden_size = settings.nb_bins, settings.nb_channels, settings.hidden_size
        attention = ATTENTIONS[settings.attention]
        options = settings.nb_heads, settings.attention_dropout, settings.padding, settings.temperature
        self.fc1 = nn.Linear(settings.nb_input_bins * nb_channels, hidden_size, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden_size)
        self.encoder = nn.ModuleList(
            EncoderLayer(attention(hidden_size, *options), settings.feedforward_size, settings.dropout, F.relu)
            for _ in range(settings.nb_layers)
        )
        self.softmax_temp = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(settings.dropout)
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
        frames = mixture.detach().permute(0, 3, 1, 2)  # batch_size, nb_frames, nb_channels, nb_bins

        # (x + mean) * scale, then a linear layer, is a linear layer with scaled weights and a bias, as in Open-Unmix
        scale, mean = self.input_scale.repeat(nb_channels), self.input_mean.repeat(nb_channels)
        weight = self.fc1.weight * scale
        x = mixture.permute(0, 3, 1, 2)[..., : self.settings.nb_input_bins].reshape(batch_size * nb_frames, -1)
        x = F.linear(x, weight, F.linear(mean, weight))
        given = x = self.bn1(x).reshape(batch_size, nb_frames, -1)

        if self.settings.positional:
            x = self.dropout(x + encode_positions(nb_frames, self.settings.hidden_size, x.device))
        for layer in self.encoder:
            x = x + layer(x, self.softmax_temp)

        x = torch.cat([x, given], dim=-1).flatten(0, 1)
        x = torch.relu(self.bn2(self.fc2(x)))
        x = self.bn3(self.fc3(x)).reshape(batch_size, nb_frames, nb_channels, nb_bins)
        mask = torch.relu(x * self.output_scale + self.output_mean)  # parameters make it float32, under autocast, too
        return (mask * frames).permute(0, 2, 3, 1)


class UmxTransformerSet(NetworkSet):
    """The networks of all targets."""

    kind = UmxTransformer
