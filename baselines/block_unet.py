"""U-Nets with blocks of various kinds, one for each target: complex spectrograms as channels, or magnitudes.

Reads and writes tensors only. Computes what the newer generation of the original computes (layout time first) and holds
the same parameters under the same names, so that its weights, and those of the older generation with renamed and
permuted tensors, serve. The first convolution sees pairs of neighbouring bins, which makes them one fewer, a number
that the levels can halve; the last one, of pairs again, makes them one more.

Frameworks: the spectrogram's real and imaginary parts as channels, [Re L, Re R, Im L, Im R], or magnitudes, whose phase
is the mixture's; the network's output is the target's spectrogram (`mapping`), or it is multiplied by the mixture's,
channel by channel (`masking`; of complex spectrograms that is no complex product).

What differs from the original. All its options work together: normalisation after the sampling of TDC and TDF nets has
as many channels as there are, not 24; `t_down_layers` and `f_down_layers` count in all nets, where the original leaves
out the first for TDC and TDF nets and the second for all (None is what it does: TDC and TDF nets never halve time);
kernels that are not square lie as they are named, where the original exchanges them, and even ones keep the numbers of
frames and bins; softmax is over the channels, also where the original has it over frames for want of an axis;
`layer_level_init_weight` works for all blocks, and `tif_init_mode` with and without it. Recurrent layers compute in
float32 under autocast, as the original's cannot be trained in float16. Estimates are not written to 16-bit files on
their way.

Conventions: `BlockUnet` takes and gives real tensors `(batch_size, nb_channels, nb_frames, nb_bins)`; `BlockUnetSet`
has the layout of all models here, `(batch_size, nb_channels, nb_bins, nb_frames)`.

References
----------
Choi, Kim, Chung, Lee, Jung: Investigating U-Nets with various intermediate blocks for spectrogram-based singing voice
separation, ISMIR 2020: https://github.com/ws-choi/ISMIR2020_U_Nets_SVS is the original.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from baselines.blocks import (
    ACTIVATIONS,
    Block,
    MixingTdf,
    Tdc,
    TdcRnn,
    Tdf,
    Tfc,
    TfcTdf,
    draw_weights,
    make_sampling,
)
from baselines.network_set import NetworkSet, check_counts, check_targets
from musdbkit.errors import ParameterError
from musdbkit.stft import StftParams

BLOCKS: Final = ("tdf", "tdc", "tfc", "tfc-tdf", "tdc-rnn")
"""Kinds of blocks."""

SPEC_TYPES: Final = ("complex", "magnitude")
SPEC_EST_MODES: Final = ("mapping", "masking")
TIF_INIT_MODES: Final = ("dk",)

_LAST_ACTIVATIONS: Final = {
    ("complex", "mapping"): "identity",
    ("complex", "masking"): "tanh",
    ("magnitude", "mapping"): "relu",
    ("magnitude", "masking"): "sigmoid",
}

_BY_FRAME: Final = ("tdf", "tdc")  # blocks with nothing between frames
_WITH_TDF: Final = ("tdf", "tfc-tdf")  # blocks whose fully connected layers go from bins to bins
_LEAST_TRIM: Final = 5000  # samples, the original's


@dataclass(frozen=True)
class BlockUnetSettings:
    """Which networks, and how they are used to separate; the defaults are those that the original recommends.

    What a kind of block does not have, its settings do not change.

    Attributes
    ----------
    targets : what is estimated, each by a network of its own.
    nb_channels : channels of the mixture and of every estimate.
    sample_rate : Hz.
    n_fft, hop_length : length of a frame and from one to the next, in samples.
    nb_frames : length of a training example, and of what is separated at a time.
    centred : whether frames are centred in the mirrored signal, or begin with the signal, as in the older generation.
    trim : samples that are cut from both ends of each segment at separation, or None: 5000, rounded up to whole hops.
    block : one of `BLOCKS`; the original's names, `tfc_tdf_net` for instance, become these.
    spec_type : what the network sees: real and imaginary parts of spectra (`complex`), or magnitudes (`magnitude`).
    spec_est_mode : whether its output is the estimate (`mapping`) or what the mixture is multiplied by (`masking`).
    n_blocks : blocks of the way down, of the way up, and the one between: an odd number.
    internal_channels : channels that every block gives.
    n_internal_layers : convolutions of a TFC or TDC.
    kernel_size_t, kernel_size_f : frames and bins that a convolution of a block sees.
    bn_factor : how many times narrower the layer between the two of a TDF is, or None: a TDF has one layer.
    min_bn_units : its least width.
    bias : whether the linear layers of TDFs have biases.
    affine : whether the batch normalisations of TDFs have weights and biases, or None: as `bias`, but in TDC-RNNs
        always. The older generation always has them.
    activation : of the blocks, one of `blocks.ACTIVATIONS`.
    first_conv_activation : of the first convolution.
    last_activation : of the last one, or None: what the original has for the framework: of complex spectra identity to
        map and tanh to mask, of magnitudes relu and sigmoid.
    t_down_layers : levels, from 0 on, after whose blocks time is halved, or None: all, but none for TDC and TDF nets.
    f_down_layers : levels after whose blocks frequency is halved, or None: all.
    bn_factor_rnn : how many times fewer units each direction of the recurrent network has than there are bins.
    num_layers_rnn : its layers.
    min_bn_units_rnn : the least number of units.
    bias_rnn : whether it has biases.
    layer_level_init_weight : whether weights are drawn as what follows each layer asks for, or all as the last
        activation does.
    tif_init_mode : `dk`: TDFs begin with sums of neighbouring bins, which are then repeated; None: they are drawn, too.

    Raises
    ------
    ParameterError
        There is no such network, or segments of it cannot be put together.
    """

    targets: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    nb_channels: int = 2
    sample_rate: int = 44100
    n_fft: int = 2048
    hop_length: int = 1024
    nb_frames: int = 128
    centred: bool = True
    trim: int | None = None
    block: str = "tfc-tdf"
    spec_type: str = "complex"
    spec_est_mode: str = "mapping"
    n_blocks: int = 7
    internal_channels: int = 24
    n_internal_layers: int = 5
    kernel_size_t: int = 3
    kernel_size_f: int = 3
    bn_factor: int | None = 16
    min_bn_units: int = 16
    bias: bool = False
    affine: bool | None = None
    activation: str = "relu"
    first_conv_activation: str = "relu"
    last_activation: str | None = None
    t_down_layers: tuple[int, ...] | None = None
    f_down_layers: tuple[int, ...] | None = None
    bn_factor_rnn: int = 16
    num_layers_rnn: int = 1
    min_bn_units_rnn: int = 16
    bias_rnn: bool = False
    layer_level_init_weight: bool = False
    tif_init_mode: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be built, or not be put together again; name the block as we do."""
        object.__setattr__(self, "block", str(self.block).replace("_", "-").removesuffix("-net"))
        check_targets(self.targets)
        self._check_counts()
        self._check_choices()
        self._check_levels()
        self._check_segments()

    def _check_counts(self) -> None:
        """Refuse numbers that are none."""
        counts = ["nb_channels", "sample_rate", "nb_frames", "n_blocks", "internal_channels", "n_internal_layers"]
        counts += ["kernel_size_t", "kernel_size_f", "min_bn_units", "bn_factor_rnn", "num_layers_rnn"]
        counts += ["min_bn_units_rnn"] + ["bn_factor"] * (self.bn_factor is not None)
        check_counts(self, *counts)
        if self.n_blocks % 2 == 0:
            raise ParameterError(f"n_blocks is {self.n_blocks}, expected an odd number")

    def _check_choices(self) -> None:
        """Refuse words that are none."""
        for name, choices in (
            ("block", BLOCKS),
            ("spec_type", SPEC_TYPES),
            ("spec_est_mode", SPEC_EST_MODES),
            ("activation", ACTIVATIONS),
            ("first_conv_activation", ACTIVATIONS),
            ("last_activation", (None, *ACTIVATIONS)),
            ("tif_init_mode", (None, *TIF_INIT_MODES)),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ParameterError(f"{name} is {value}, expected one of {', '.join(str(each) for each in choices)}")
        if self.tif_init_mode is not None and self.block not in _WITH_TDF:
            raise ParameterError(
                f"tif_init_mode is {self.tif_init_mode} with block {self.block}, expected none: only blocks "
                f"{' and '.join(_WITH_TDF)} have layers from bins to bins"
            )

    def _check_levels(self) -> None:
        """Refuse levels that there are not, and sizes that they cannot halve."""
        for name in ("t_down_layers", "f_down_layers"):
            layers = getattr(self, name)
            levels = range(self.n_blocks // 2)
            if layers is None:
                continue
            sound = isinstance(layers, tuple) and all(type(each) is int and each in levels for each in layers)
            if not sound or len(set(layers)) < len(layers):
                raise ParameterError(
                    f"{name} is {layers}, expected levels from 0 to less than {len(levels)}, each once, or none for "
                    "the block's own"
                )
        _ = self.training_stft, self.separation_stft
        for name, size, axis in (("n_fft // 2", self.n_fft // 2, 1), ("nb_frames", self.nb_frames, 0)):
            nb_halvings = sum(scale[axis] == 2 for scale in self.scales)
            if size % 2**nb_halvings:
                raise ParameterError(
                    f"{name} is {size}, expected a multiple of {2**nb_halvings}, as it is halved {nb_halvings} times"
                )

    def _check_segments(self) -> None:
        """Refuse segments of which nothing, or not all that is kept, can be had back from their spectrograms."""
        half = self.n_fft // 2
        if self.hop_length > half:
            raise ParameterError(f"hop_length is {self.hop_length}, expected half of n_fft at most, which is {half}")
        if self.trim is not None and (type(self.trim) is not int or self.trim < 0):
            raise ParameterError(f"trim is {self.trim!r}, expected a whole number of samples, 0 or more")
        if not self.centred and self.trim_samples < half:
            raise ParameterError(
                f"trim is {self.trim_samples}, expected {half} or more: frames that begin with the signal do not "
                "determine the samples before"
            )
        if self.centred and self.input_samples <= half:
            raise ParameterError(
                f"nb_frames is {self.nb_frames}: segments of {self.input_samples} samples, expected more than {half} "
                "to mirror half a frame"
            )
        if self.input_samples <= 2 * self.trim_samples:
            raise ParameterError(
                f"trim is {self.trim_samples}, expected less than half of a segment of {self.nb_frames} frames, "
                f"which is {self.input_samples} samples"
            )

    @property
    def training_stft(self) -> StftParams:
        """The transform that the network is trained on."""
        if self.centred:
            return StftParams(self.n_fft, self.hop_length, alignment="center", padding="reflect")
        return StftParams(self.n_fft, self.hop_length, alignment="start", padding="none")

    @property
    def separation_stft(self) -> StftParams:
        """The transform of each segment at separation, the same."""
        return self.training_stft

    @property
    def nb_bins(self) -> int:
        """Number of bins that the network takes and gives."""
        return self.n_fft // 2 + 1

    @property
    def input_samples(self) -> int:
        """Samples of a training example and of a segment, which has `nb_frames`."""
        return self.hop_length * (self.nb_frames - 1) + (0 if self.centred else self.n_fft)

    @property
    def trim_samples(self) -> int:
        """Samples that are cut from both ends of a segment."""
        return -(-_LEAST_TRIM // self.hop_length) * self.hop_length if self.trim is None else self.trim

    @property
    def nb_input_channels(self) -> int:
        """Channels of what the network takes and gives: complex ones are two."""
        return self.nb_channels * (2 if self.spec_type == "complex" else 1)

    @property
    def output_activation(self) -> str:
        """Activation of the last convolution."""
        return self.last_activation or _LAST_ACTIVATIONS[self.spec_type, self.spec_est_mode]

    @property
    def scales(self) -> tuple[tuple[int, int], ...]:
        """By how much frames and bins of each level are reduced, from level 0 on: 2 or 1."""
        levels = tuple(range(self.n_blocks // 2))
        frames, bins = self.t_down_layers, self.f_down_layers
        if frames is None:
            frames = () if self.block in _BY_FRAME else levels
        bins = levels if bins is None else bins
        return tuple((1 + (level in frames), 1 + (level in bins)) for level in levels)


class BlockUnet(nn.Module):
    """The network of one target.

    Attributes
    ----------
    settings : its settings.
    """

    def __init__(self, settings: BlockUnetSettings) -> None:
        super().__init__()
        self.settings = settings
        nb_inputs, nb_channels = settings.nb_input_channels, settings.internal_channels
        by_frame = settings.block in _BY_FRAME
        self.first_conv = nn.Sequential(
            nn.Conv2d(nb_inputs, nb_channels, (1, 2)),
            nn.BatchNorm2d(nb_channels),
            ACTIVATIONS[settings.first_conv_activation](),
        )
        self.encoders, self.downsamplings = nn.ModuleList(), nn.ModuleList()
        self.decoders, self.upsamplings = nn.ModuleList(), nn.ModuleList()
        nb_bins = settings.n_fft // 2
        for scale in settings.scales:
            self.encoders.append(_make_block(settings, nb_channels, nb_bins))
            self.downsamplings.append(make_sampling(nb_channels, scale, up=False, by_frame=by_frame))
            nb_bins //= scale[1]
        self.mid_block = _make_block(settings, nb_channels, nb_bins)
        for scale in reversed(settings.scales):
            nb_bins *= scale[1]
            self.upsamplings.append(make_sampling(nb_channels, scale, up=True, by_frame=by_frame))
            self.decoders.append(_make_block(settings, 2 * nb_channels, nb_bins))
        self.last_conv = nn.Sequential(
            nn.Conv2d(nb_channels, nb_inputs, (1, 2), padding=(0, 1)), ACTIVATIONS[settings.output_activation]()
        )
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Return the target's spectrogram, or what the mixture's is to be multiplied by [shape as that of `x`].

        Parameters
        ----------
        x : the mixture's spectrogram, real [shape=(batch_size, nb_input_channels, nb_frames, nb_bins)]; channels of
            complex ones are all real parts, then all imaginary parts.
        """
        x = self.first_conv(x)
        skips = []
        for encoder, downsampling in zip(self.encoders, self.downsamplings, strict=True):
            x = encoder(x)
            skips.append(x)
            x = downsampling(x)
        x = self.mid_block(x)
        for upsampling, decoder in zip(self.upsamplings, self.decoders, strict=True):
            x = decoder(torch.cat([upsampling(x), skips.pop()], dim=1))
        output: Tensor = self.last_conv(x)
        return output

    def _initialise(self) -> None:
        """Draw the weights."""
        settings = self.settings
        if settings.layer_level_init_weight:
            draw_weights(self.first_conv, settings.first_conv_activation)
            draw_weights(self.last_conv, settings.output_activation)
            draw_weights(self.downsamplings, "identity")
            draw_weights(self.upsamplings, "identity")
            for module in self.modules():
                if isinstance(module, Block | MixingTdf):
                    module.initialise()
        else:
            draw_weights(self, settings.output_activation)
        if settings.tif_init_mode == "dk":
            for module in self.modules():
                if isinstance(module, Tdf):
                    module.set_averages()


def _make_block(settings: BlockUnetSettings, nb_inputs: int, nb_bins: int) -> nn.Module:
    """Return a block for a number of channels that come in, and of bins."""
    nb_channels, activation = settings.internal_channels, settings.activation

    def make_tdf(nb_channels: int, nb_values: int, affine: bool) -> Tdf:
        """Return a TDF from a number of values to the bins."""
        factor = settings.bn_factor
        nb_units = None if factor is None else max(nb_bins // factor, settings.min_bn_units)
        affine = affine if settings.affine is None else settings.affine
        return Tdf(nb_channels, nb_values, nb_bins, nb_units, bias=settings.bias, affine=affine, activation=activation)

    if settings.block == "tdf":
        tdf = make_tdf(nb_inputs, nb_bins, settings.bias)
        return tdf if nb_inputs == nb_channels else MixingTdf(tdf, nb_inputs, nb_channels)
    if settings.block in ("tfc", "tfc-tdf"):
        kernel = (settings.kernel_size_t, settings.kernel_size_f)
        tfc = Tfc(nb_inputs, nb_channels, settings.n_internal_layers, kernel, activation)
        return tfc if settings.block == "tfc" else TfcTdf(tfc, make_tdf(nb_channels, nb_bins, settings.bias))
    tdc = Tdc(nb_inputs, nb_channels, settings.n_internal_layers, settings.kernel_size_f, activation)
    if settings.block == "tdc":
        return tdc
    nb_units = max(nb_bins // settings.bn_factor_rnn, settings.min_bn_units_rnn)
    projection = make_tdf(nb_channels, 2 * nb_units, affine=True)
    return TdcRnn(tdc, nb_channels, nb_bins, nb_units, settings.num_layers_rnn, settings.bias_rnn, projection)


class BlockUnetSet(NetworkSet):
    """The networks of all targets, which take and give spectra or magnitudes."""

    kind = BlockUnet

    def forward(self, mixture: Tensor) -> Tensor:
        """Return all targets' spectrograms [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames)].

        They are of the mixture's type, under autocast, too. In memory the bins of a frame lie side by side.

        Parameters
        ----------
        mixture : complex spectrogram, or magnitudes where the settings say so [shape=(batch_size, nb_channels,
            nb_bins, nb_frames)].
        """
        x = (torch.cat([mixture.real, mixture.imag], dim=1) if mixture.is_complex() else mixture).mT
        return torch.stack([self._estimate(network, x) for network in self.networks.values()], dim=1).mT

    def _estimate(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return a target's spectrogram, time first."""
        estimate: Tensor = network(x).to(x.dtype)
        if self.settings.spec_est_mode == "masking":
            estimate = estimate * x
        if self.settings.spec_type == "magnitude":
            return estimate
        real, imaginary = estimate.chunk(2, dim=1)
        return torch.complex(real, imaginary)


def find_receptive_field(settings: BlockUnetSettings) -> int | None:
    """Return how many frames an output frame can depend on at most, None: on all there are.

    That is counted without regard to where segments end; what lies beyond them are zeros to every layer. Frames of one
    network do not all depend on as many, as halving time groups them.

    Parameters
    ----------
    settings : the network's.
    """
    if settings.block == "tdc-rnn":
        return None
    before = after = 0  # frames that a block sees
    if settings.block not in _BY_FRAME:
        before = (settings.kernel_size_t - 1) // 2 * settings.n_internal_layers
        after = settings.kernel_size_t // 2 * settings.n_internal_layers
    factors = [scale[0] for scale in settings.scales]
    period = 2 ** sum(factor == 2 for factor in factors)
    widths = []
    for frame in range(period):
        first = last = frame
        for factor in factors:  # from the output to the deepest level: decoders, which the skips widen no further
            first, last = (first - before) // factor, (last + after) // factor
        first, last = first - before, last + after
        for factor in reversed(factors):
            first, last = first * factor - before, last * factor + factor - 1 + after
        widths.append(last - first + 1)
    return max(widths)
