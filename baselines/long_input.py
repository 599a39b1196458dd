"""Settings of networks that are trained and used on inputs of one length, which is what is studied with them.

Reads and writes nothing.

References
----------
The study, of inputs of 7, 20 and 40 s: https://github.com/legoodmanner/sequence_length_ss.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from baselines.attention import ATTENTIONS, PADDINGS
from baselines.network_set import check_counts, check_targets
from musdbkit.errors import ParameterError
from musdbkit.stft import PRESETS, StftParams

_SHIFTS: Final = {7: 47100, 20: 63488, 40: 60416, 60: 63488}  # samples at 44.1 kHz, by seconds of input


@dataclass(frozen=True, kw_only=True)
class LongInputSettings:
    """What both transformers have.

    Attributes
    ----------
    targets : what is estimated, each by a network of its own.
    nb_channels : channels of the mixture and of every estimate.
    hidden_size : features of a frame within the network.
    nb_heads : heads of every attention.
    attention : one of `baselines.attention.ATTENTIONS`.
    nb_layers : stages of the encoder, each of one layer.
    dropout : share of values that are dropped in training, outside attention.
    attention_dropout : share of the keys' weights that are dropped in training.
    feedforward_size : features between the linear layers of a stage of the encoder.
    padding : one of `baselines.attention.PADDINGS`, of the 1D kinds.
    sample_rate : Hz.
    n_fft, hop_length : length of a frame and from one to the next, in samples.
    input_seconds : length of an input: what separation takes at a time, and what training examples are cut from.
    shift : samples by which training examples are shorter than that, since each begins anywhere in the first so many
        samples of its input; None: what the original has for that length, or for the nearest shorter one, but never
        more than half the input. The one for 60 s, which it has no setting for, is that of 20 s.
    nb_wiener_iterations : how often the estimates are refined together when separating; 0 leaves them as they are.
    wiener_window : frames in which that is done on their own, or None: the whole track at once.
    residual : whether what the targets leave of the mixture is estimated as one more.

    Raises
    ------
    ParameterError
        There is no such network, or no such input.
    """

    targets: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    nb_channels: int = 2
    hidden_size: int = 512
    nb_heads: int = 16
    attention: str = "qkvg1D"
    nb_layers: int = 3
    dropout: float = 0.1
    attention_dropout: float = 0.1
    feedforward_size: int = 2048
    padding: str = "pointwise"
    sample_rate: int = 44100
    n_fft: int = 4096
    hop_length: int = 1024
    input_seconds: float = 7.0
    shift: int | None = None
    nb_wiener_iterations: int = 0
    wiener_window: int | None = 300
    residual: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built or cut."""
        check_targets(self.targets)
        counts = ["nb_channels", "hidden_size", "nb_heads", "nb_layers", "feedforward_size", "sample_rate"]
        if self.wiener_window is not None:
            counts.append("wiener_window")
        check_counts(self, *counts)
        self._check_choice("attention", ATTENTIONS)
        self._check_choice("padding", PADDINGS)
        if self.attention != "qkv2D" and self.hidden_size % self.nb_heads:
            raise ParameterError(f"hidden_size is {self.hidden_size}, expected a multiple of nb_heads, {self.nb_heads}")
        if type(self.nb_wiener_iterations) is not int or self.nb_wiener_iterations < 0:
            raise ParameterError(f"nb_wiener_iterations is {self.nb_wiener_iterations!r}, expected 0 or more")
        self._check_shares("dropout", "attention_dropout")
        _ = self.training_stft, self.separation_stft
        if self.hop_length > self.n_fft // 2:
            raise ParameterError(f"hop_length is {self.hop_length}, expected at most half of n_fft, {self.n_fft // 2}")
        self._check_input()

    def _check_choice(self, name: str, choices: Iterable[str]) -> None:
        """Refuse what is none of the names."""
        value = getattr(self, name)
        if value not in tuple(choices):
            raise ParameterError(f"{name} is {value!r}, expected one of {', '.join(choices)}")

    def _check_shares(self, *names: str) -> None:
        """Refuse what is no share to drop."""
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ParameterError(f"{name} is {value}, expected 0 or more and less than 1")

    def _check_input(self) -> None:
        """Refuse inputs and examples that are too short to be transformed."""
        least = self.n_fft // 2 + 1  # what can be mirrored at its ends
        if not 0 < self.input_seconds < math.inf or self._nb_samples < least:
            raise ParameterError(
                f"input_seconds is {self.input_seconds}, expected at least {least / self.sample_rate}, {least} samples"
            )
        if self.shift is not None and (type(self.shift) is not int or self.shift < 0):
            raise ParameterError(f"shift is {self.shift!r}, expected none, or a whole number of samples, 0 or more")
        if self.input_samples < least:
            raise ParameterError(
                f"shift is {self.shift_samples} samples of {self._nb_samples}, expected it to leave {least} or more"
            )

    @property
    def _nb_samples(self) -> int:
        """Samples of an input."""
        return round(self.input_seconds * self.sample_rate)

    @property
    def shift_samples(self) -> int:
        """By how many samples training examples are shorter than inputs."""
        if self.shift is not None:
            return self.shift
        seconds = max((seconds for seconds in _SHIFTS if seconds <= self.input_seconds), default=min(_SHIFTS))
        return min(round(_SHIFTS[seconds] * self.sample_rate / 44100), self._nb_samples // 2)

    @property
    def input_samples(self) -> int:
        """Samples of a training example."""
        return self._nb_samples - self.shift_samples

    @property
    def nb_block_frames(self) -> int:
        """Frames that separation takes at a time: those of whole hops in an input."""
        return int(self.input_seconds * self.sample_rate) // self.hop_length

    @property
    def training_stft(self) -> StftParams:
        """The transform whose magnitudes the network is trained on."""
        return self.separation_stft

    @property
    def separation_stft(self) -> StftParams:
        """The transform that is separated and inverted: frames centred in the mirrored signal."""
        return replace(PRESETS["openunmix-inference"], n_fft=self.n_fft, hop_length=self.hop_length)

    @property
    def nb_bins(self) -> int:
        """Number of bins that the network takes and gives."""
        return self.n_fft // 2 + 1
