"""Spleeter's U-Nets: one for each target, each gives a mask for the mixture.

Reads and writes tensors only. Computes what Spleeter 2.4.2 computes, so that its weights serve (`convert_weights`
brings them), with what is odd about it: the decoder begins with the last convolution as it is, so that the batch
normalisation after that one has parameters and no effect; the skips, too, carry convolutions before normalisation and
activation, and come first where they are joined; the encoder normalises and then activates, the decoder does it the
other way round; a stride of two is padded as TensorFlow does (`SAME`: one before, two after); and the decoder ends in
a single channel, of which a small convolution makes the masks of left and right.

Two things differ on purpose and can be had as upstream by the settings. Spleeter never updates its batch normalisation
and never drops anything out, as nothing tells its layers that they are trained: `batch_norm="frozen", dropout=0.0`.
And it separates segments that do not overlap: `overlap=0.0`.

Conventions: magnitudes are `(batch_size, nb_channels, nb_bins, nb_frames)`, not logarithms, not normalised. Kernels are
`(..., bins, frames)`, where TensorFlow has frames first.

References
----------
Hennequin, Khlif, Voituret, Moussallam: Spleeter: a fast and efficient music source separation tool with pre-trained
models, J. Open Source Softw. 5(50), 2020, doi:10.21105/joss.02154. Jansson et al.: Singing voice separation with deep
U-Net convolutional networks, ISMIR 2017. He et al.: Delving deep into rectifiers, ICCV 2015: equation (10) with a
uniform distribution is the initialisation.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.network_set import check_targets
from musdbkit.errors import ParameterError
from musdbkit.stft import PRESETS, StftParams

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "leaky-relu": lambda x: F.leaky_relu(x, 0.2),
    "relu": F.relu,
    "elu": F.elu,
}
OUTPUTS: Final = ("sigmoid", "softmax")
BATCH_NORMS: Final = ("batch", "frozen")
MASK_EXTENSIONS: Final = ("zeros", "average")

_KERNEL: Final = 5
_NB_DROPOUTS: Final = 3  # of the decoder's stages, from the deepest on
_EPSILON: Final = 1e-3  # Keras's, where torch has 1e-5
_MOMENTUM: Final = 0.01  # weight of the new batch; Keras says 0.99, the weight of the old ones
_NB_MASKS: Final = 2  # for any number of channels


@dataclass(frozen=True, kw_only=True)
class SpleeterSettings:
    """What both of Spleeter's networks have.

    Attributes
    ----------
    targets : names, in the order of the outputs; Spleeter's four by default.
    nb_channels : channels of the waves.
    nb_bins : how many bins from 0 Hz on the network sees; those above get no mask of their own. 1024 of 4096-sample
        frames reach to 11 kHz at 44100 Hz.
    nb_frames : length of a segment in frames, 11.9 s by default.
    mask_exponent : power of the estimates that a mask is the ratio of, at separation.
    mask_extension : the masks of the bins above: `zeros`, or the `average` of those below in the same frame.
    overlap : share of a segment that the next one repeats, at separation, from 0 (as upstream) to less than 1. By
        default a quarter is cross-faded, as estimates are worst at the borders.
    sample_rate : Hz.
    n_fft, hop_length : samples.

    Raises
    ------
    ParameterError
        There can be no such network.
    """

    targets: tuple[str, ...] = ("vocals", "drums", "bass", "other")
    nb_channels: int = 2
    nb_bins: int = 1024
    nb_frames: int = 512
    mask_exponent: float = 2.0
    mask_extension: str = "zeros"
    overlap: float = 0.25
    sample_rate: int = 44100
    n_fft: int = 4096
    hop_length: int = 1024

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_targets(self.targets)
        transform = self.training_stft
        for name in ("nb_channels", "nb_bins", "nb_frames", "sample_rate"):
            self._check(name, _is_count(getattr(self, name)), "a whole number above 0")
        self._check("nb_bins", self.nb_bins <= transform.nb_bins, f"at most n_fft / 2 + 1 = {transform.nb_bins}")
        self._check("mask_exponent", _is_amount(self.mask_exponent) and self.mask_exponent > 0, "a number above 0")
        self._check("mask_extension", self.mask_extension in MASK_EXTENSIONS, " or ".join(MASK_EXTENSIONS))
        self._check("overlap", _is_amount(self.overlap) and 0 <= self.overlap < 1, "0 to less than 1")

    def _check(self, name: str, fine: bool, expected: str) -> None:
        """Refuse a value."""
        if not fine:
            raise ParameterError(f"{name} is {getattr(self, name)}, expected {expected}")

    @property
    def training_stft(self) -> StftParams:
        """The transform of training examples: whole frames only."""
        return dataclasses.replace(PRESETS["spleeter"], n_fft=self.n_fft, hop_length=self.hop_length)

    @property
    def separation_stft(self) -> StftParams:
        """The transform at separation, with a frame of zeros before the wave, and filled up at its end."""
        return dataclasses.replace(PRESETS["spleeter-inference"], n_fft=self.n_fft, hop_length=self.hop_length)


@dataclass(frozen=True, kw_only=True)
class UnetSettings(SpleeterSettings):
    """Which U-Nets. The defaults are Spleeter's four stems, trained as its paper says.

    Attributes
    ----------
    filters : channels after each of the encoder's convolutions, each of which halves bins and frames.
    encoder_activation, decoder_activation : `leaky-relu` (slope 0.2), `relu` or `elu`. Spleeter's 2 stems have
        `leaky-relu` and `relu`, its 4 and 5 stems `elu` and `elu`.
    output : `sigmoid`: a mask for each target by itself; `softmax`: masks of sum one (Spleeter's 5 stems).
    batch_norm : `batch`: normalise with the statistics of the batch in training, and with their running averages
        after; `frozen`: with 0 and 1, or with what was loaded, always, as upstream.
    dropout : share of the values set to zero in training, after each of the first three stages of the decoder.
    others : as in `SpleeterSettings`; `nb_channels` is 1 or 2. `nb_bins` and `nb_frames` are best multiples of
        `2 ** len(filters)`, 64: others (which upstream refuses) are filled up with zeros at the end.
    """

    filters: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    encoder_activation: str = "elu"
    decoder_activation: str = "elu"
    output: str = "sigmoid"
    batch_norm: str = "batch"
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        self._check("nb_channels", self.nb_channels <= _NB_MASKS, "1 or 2: the U-Net makes masks for stereo")
        numbers = isinstance(self.filters, tuple) and len(self.filters) > 0 and all(map(_is_count, self.filters))
        self._check("filters", numbers, "whole numbers above 0")
        self._check("encoder_activation", self.encoder_activation in ACTIVATIONS, " or ".join(ACTIVATIONS))
        self._check("decoder_activation", self.decoder_activation in ACTIVATIONS, " or ".join(ACTIVATIONS))
        self._check("output", self.output in OUTPUTS, " or ".join(OUTPUTS))
        self._check("batch_norm", self.batch_norm in BATCH_NORMS, " or ".join(BATCH_NORMS))
        self._check("dropout", _is_amount(self.dropout) and 0 <= self.dropout < 1, "0 to less than 1")


def _is_count(value: object) -> bool:
    """Whether a value is a whole number above 0."""
    return type(value) is int and value > 0


def _is_amount(value: object) -> bool:
    """Whether a value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with Keras's constants, whose statistics may be frozen."""

    def __init__(self, nb_channels: int, *, frozen: bool) -> None:
        super().__init__(nb_channels, eps=_EPSILON, momentum=_MOMENTUM)
        self.frozen = frozen
        self.register_buffer("num_batches_tracked", None)  # Keras has none
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set whether statistics are taken from the batch; never if they are frozen."""
        return super().train(mode and not self.frozen)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *others: Any) -> None:
        """Load the tensors that there are; torch would add a counter of batches to those of older versions."""
        super()._load_from_state_dict(state, prefix, {**metadata, "version": 2}, *others)


class _Down(nn.Module):
    """A stage of the encoder: halves bins and frames."""

    def __init__(self, settings: UnetSettings, nb_in: int, nb_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(nb_in, nb_out, _KERNEL, stride=2)
        self.norm = BatchNorm(nb_out, frozen=settings.batch_norm == "frozen")
        self.activation = settings.encoder_activation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the decoder gets, and what the next stage gets."""
        skip = self.convolution(F.pad(x, (1, 2, 1, 2)))
        return skip, ACTIVATIONS[self.activation](self.norm(skip))


class _Up(nn.Module):
    """A stage of the decoder: doubles bins and frames."""

    def __init__(self, settings: UnetSettings, nb_in: int, nb_out: int, dropout: float) -> None:
        super().__init__()
        self.deconvolution = nn.ConvTranspose2d(nb_in, nb_out, _KERNEL, stride=2, padding=1)
        self.norm = BatchNorm(nb_out, frozen=settings.batch_norm == "frozen")
        self.activation = settings.decoder_activation
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be joined with a skip."""
        x = self.deconvolution(x)[..., :-1, :-1]  # the padding has cut one at either end; the second at the end is here
        return F.dropout(self.norm(ACTIVATIONS[self.activation](x)), self.dropout, self.training)


class Unet(nn.Module):
    """The U-Net of one target."""

    def __init__(self, settings: UnetSettings) -> None:
        super().__init__()
        widths = settings.filters
        inputs = (settings.nb_channels, *widths[:-1])
        self.encoder = nn.ModuleList(_Down(settings, *sizes) for sizes in zip(inputs, widths, strict=True))
        outputs = (*widths[-2::-1], 1)
        inputs = (widths[-1], *(2 * width for width in outputs[:-1]))  # joined with a skip as wide
        shares = [settings.dropout if i < _NB_DROPOUTS else 0.0 for i in range(len(widths))]
        self.decoder = nn.ModuleList(_Up(settings, *sizes) for sizes in zip(inputs, outputs, shares, strict=True))
        self.head = nn.Conv2d(1, _NB_MASKS, 4, dilation=2, padding=3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as upstream does, from torch's global generator.

        A kernel is uniform within sqrt(6 / fan_in), where Keras takes a deconvolution's output channels for those
        that go in. Biases are 0. Upstream gives all targets the same weights; here each gets its own.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                limit = math.sqrt(6 / module.weight[0].numel())  # (out, in, ...), and (in, out, ...) of a deconvolution
                nn.init.uniform_(module.weight, -limit, limit)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the masks before sigmoid or softmax [shape=(batch_size, 2, nb_bins, nb_frames)].

        Parameters
        ----------
        mixture : magnitudes [shape=(batch_size, nb_channels, nb_bins, nb_frames)].
        """
        nb_bins, nb_frames = mixture.shape[-2:]
        multiple = 2 ** len(self.encoder)
        x = F.pad(mixture, (0, -nb_frames % multiple, 0, -nb_bins % multiple))
        x = x.contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU, and what tensor cores want
        skips = []
        for stage in self.encoder:
            skip, x = stage(x)
            skips.append(skip)
        x = skips.pop()  # and not what the last stage made of it, as upstream
        for stage in self.decoder:
            x = stage(x)
            if skips:
                x = torch.cat((skips.pop(), x), dim=1)
        logits: Tensor = self.head(x)
        return logits[..., :nb_bins, :nb_frames]


class SpleeterUnet(nn.Module):
    """The U-Nets of all targets."""

    def __init__(self, settings: UnetSettings) -> None:
        super().__init__()
        self.settings = settings
        self.networks = nn.ModuleDict({target: Unet(settings) for target in settings.targets})

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the targets' magnitudes [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames)].

        Of one channel each U-Net still makes two masks, as upstream, where two estimates come out; here it is their
        mean.

        Parameters
        ----------
        mixture : magnitudes [shape=(batch_size, nb_channels, nb_bins, nb_frames)].
        """
        logits = torch.stack([network(mixture) for network in self.networks.values()], dim=1).to(mixture.dtype)
        masks = logits.softmax(dim=1) if self.settings.output == "softmax" else logits.sigmoid()
        if self.settings.nb_channels < _NB_MASKS:
            masks = masks.mean(dim=2, keepdim=True)
        return masks * mixture[:, None]
