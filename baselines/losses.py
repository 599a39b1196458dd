"""Losses: how far estimates are from targets, as spectrograms or as waves.

Reads and writes nothing. Conventions: spectrograms are `(batch_size, nb_targets, nb_channels, nb_bins, nb_frames)`,
magnitudes or complex numbers; waves are `(batch_size, nb_targets, nb_channels, nb_samples)` in [-1, 1]. Each target
has a loss of its own. All is computed in single precision at least.

| loss | of | what it is |
|---|---|---|
| `l1`, `mse` | spectrograms | mean distance, mean squared distance; real and imaginary parts count apart |
| `weighted-l1` | magnitudes | `l1` of each example, times the mean of the target in it |
| `raw-l1`, `raw-mse` | waves | mean distance, mean squared distance |
| `raw-and-spec` | both | `raw_weight` times one of waves and `spec_weight` times one of spectrograms |
| `distortion` | stretches of waves | root of E, summed over the stretches |
| `sdr-like` | stretches of waves | E - S, summed over the stretches |
| `dsr`, `nsdr`, `ldsr` | stretches of waves | E / S, -S / E, log(E / S) |
| `ncs`, `nlcs` | stretches of waves | -cos, -log(1 + cos) of the angle between estimate and target |

Stretches of `loss_window` samples begin every `loss_hop` samples, of waves with as many zeros before as behind, or one
more behind. In each stretch of each channel, S is the energy of the target scaled to be nearest to the estimate, and E
that of what the estimate has beside it. Losses are means over all that is not summed.

Waves are those of the estimated spectrograms, magnitudes with the mixture's phase, between the middles of the first
and the last frame: those samples every transform determines. Examples of centred transforms that are whole hops lose
nothing by that; where frames begin with the signal, half a frame at each end is left out.

The losses of waves are those of Choi et al.'s program, which pads an odd number of zeros by one less and so loses the
last stretch. Its loss `sdr` grows with what is right, and is not offered.

References
----------
Choi, Kim, Chung, Lee, Jung: Investigating U-Nets with various intermediate blocks for spectrogram-based singing voice
separation, ISMIR 2020; github.com/ws-choi/ISMIR2020_U_Nets_SVS, `source_separation/models/loss_functions.py`.
Spleeter: github.com/deezer/spleeter, version 2.4.2, `spleeter/model/__init__.py` (`l1`, `weighted-l1`).
"""

from dataclasses import replace
from typing import Final, Protocol

import torch
from torch import Tensor

from baselines.torch_stft import add_phase, istft
from musdbkit.errors import ParameterError
from musdbkit.stft import StftParams

PARTS: Final = ("l1", "mse")
"""What `raw-and-spec` is made of."""

_STRETCHED: Final = ("distortion", "sdr-like", "dsr", "nsdr", "ldsr", "ncs", "nlcs")

_OF_SPECTROGRAMS: Final = ("l1", "weighted-l1", "mse")

LOSSES: Final = (*_OF_SPECTROGRAMS, "raw-l1", "raw-mse", "raw-and-spec", *_STRETCHED)
"""All losses; the module's docstring says what they are."""

_OTHER_NAMES: Final = {
    "spec_l1": "l1",
    "spec_l2": "mse",
    "spec_mse": "mse",
    "raw_l1": "raw-l1",
    "raw_l2": "raw-mse",
    "raw_mse": "raw-mse",
    "raw_and_spec": "raw-and-spec",
    "sdr_like": "sdr-like",
}
_REFUSED: Final = {
    "sdr": "which grows with what is right, so that training would make estimates worse: use nsdr",
    "nsdr_44100": "expected nsdr with loss_window 44100 and loss_hop 22050",
    "ncs_44100": "expected ncs with loss_window 44100 and loss_hop 22050",
    "kl_lr": "which the original names but does not define: use another",
}
_LEAST: Final = 1e-8  # as the original: added to energies, so that silence has a loss


class LossOptions(Protocol):
    """What a recipe says of its loss; see `recipes.Recipe`."""

    @property
    def raw_weight(self) -> float:
        """Factor of the waves' term of `raw-and-spec`."""

    @property
    def spec_weight(self) -> float:
        """Factor of the spectrograms' term of `raw-and-spec`."""

    @property
    def raw_part(self) -> str:
        """One of `PARTS`, of waves."""

    @property
    def spec_part(self) -> str:
        """One of `PARTS`, of spectrograms."""

    @property
    def loss_window(self) -> int | None:
        """Length of stretches, in samples; None is `n_fft`."""

    @property
    def loss_hop(self) -> int | None:
        """From one stretch to the next, in samples; None is `hop_length`."""


def normalise(name: str, field: str = "loss") -> str:
    """Return our name of a loss, of which Choi et al.'s name may be given.

    Parameters
    ----------
    name : of a loss, ours or theirs.
    field : whose value it is, for errors.

    Raises
    ------
    ParameterError
        There is no such loss.
    """
    if name in _REFUSED:
        raise ParameterError(f"{field} is {name}, {_REFUSED[name]}")
    ours = _OTHER_NAMES.get(name, name)
    if ours not in LOSSES:
        raise ParameterError(f"{field} is {name}, expected one of {', '.join(LOSSES)}")
    return ours


def needs_waves(loss: str) -> bool:
    """Return whether a loss compares waves."""
    return loss.startswith("raw-") or loss in _STRETCHED


def check_loss(loss: str, options: LossOptions, transform: StftParams, *, waves: bool, magnitudes: bool) -> None:
    """Refuse a loss that a model cannot have.

    Parameters
    ----------
    loss : one of `LOSSES`.
    options : what it depends on beside its name.
    transform : of the spectrograms.
    waves : whether the model reads waves.
    magnitudes : whether it gives magnitudes.

    Raises
    ------
    ParameterError
        It cannot be measured of what the model reads and gives.
    """
    if needs_waves(loss) and not waves:
        raise ParameterError(
            f"loss {loss} is of waves, expected {', '.join(_OF_SPECTROGRAMS)}: this model reads a cache"
        )
    if loss == "weighted-l1" and not magnitudes:
        raise ParameterError("loss weighted-l1 is of magnitudes, expected another: this model gives complex spectra")
    window, hop = _find_stretches(options, transform)
    if loss in _STRETCHED and hop > window:
        raise ParameterError(f"loss_hop is {hop}, expected at most loss_window, which is {window} samples")


def _find_stretches(options: LossOptions, transform: StftParams) -> tuple[int, int]:
    """Return the length of stretches and from one to the next, in samples."""
    return options.loss_window or transform.n_fft, options.loss_hop or transform.hop_length


def measure_losses(
    recipe: LossOptions,
    loss: str,
    estimates: Tensor,
    targets: Tensor,
    *,
    spectrum: Tensor | None = None,
    waves: Tensor | None = None,
    transform: StftParams | None = None,
) -> Tensor:
    """Return the loss of each target [shape=(nb_targets,)].

    Parameters
    ----------
    recipe : what a loss depends on beside its name.
    loss : one of `LOSSES`.
    estimates, targets : magnitudes or complex spectrograms
        [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames)].
    spectrum : of the mixture, whose phase estimated magnitudes take; of losses of waves
        [shape=(batch_size, nb_channels, nb_bins, nb_frames), complex64].
    waves : of the targets; of losses of waves [shape=(batch_size, nb_targets, nb_channels, nb_samples), float32].
    transform : of the spectrograms; of losses of waves.

    Raises
    ------
    ParameterError
        The loss cannot be had from what is given.
    """
    estimates = estimates.to(torch.promote_types(estimates.dtype, torch.float32))
    if not needs_waves(loss):
        return _measure_spectrograms(loss, estimates, targets)
    if waves is None or transform is None or (spectrum is None and not estimates.is_complex()):
        raise ParameterError(f"loss is {loss}, which needs waves, expected one of spectrograms: l1, weighted-l1 or mse")
    found, waves = _make_waves(estimates, spectrum, waves, transform)
    if loss == "raw-and-spec":
        raw, spec = (
            _average(recipe.raw_part, found - waves),
            _measure_spectrograms(recipe.spec_part, estimates, targets),
        )
        return recipe.raw_weight * raw + recipe.spec_weight * spec
    if loss not in _STRETCHED:
        return _average(loss.removeprefix("raw-"), found - waves)
    window, hop = _find_stretches(recipe, transform)
    return _measure_stretches(loss, _cut(found, window, hop), _cut(waves, window, hop))


def _measure_spectrograms(loss: str, estimates: Tensor, targets: Tensor) -> Tensor:
    """Return the distance of each target's spectrogram [shape=(nb_targets,)]."""
    difference = estimates - targets
    if loss != "weighted-l1":
        return _average(loss, torch.view_as_real(difference) if difference.is_complex() else difference)
    if difference.is_complex():
        raise ParameterError("loss is weighted-l1, which needs magnitudes, expected l1 or mse of complex spectrograms")
    return (difference.abs() * targets.mean((2, 3, 4), keepdim=True)).mean((0, 2, 3, 4))


def _average(part: str, difference: Tensor) -> Tensor:
    """Return the mean distance or squared distance of each target [shape=(nb_targets,)]."""
    distance = difference.square() if part == "mse" else difference.abs()
    return distance.mean([axis for axis in range(distance.ndim) if axis != 1])


def _make_waves(
    estimates: Tensor, spectrum: Tensor | None, waves: Tensor, transform: StftParams
) -> tuple[Tensor, Tensor]:
    """Return the estimates' waves and the targets', where the frames determine them, both of one shape."""
    if not estimates.is_complex():
        assert spectrum is not None
        estimates = add_phase(estimates, spectrum.unsqueeze(1))
    begin = transform.n_fft // 2 - transform.lead  # of the first frame's middle, in samples of the waves
    waves = waves[..., begin : begin + (estimates.shape[-1] - 1) * transform.hop_length]
    # the same frames, counted from that middle; how a wave would be padded does not matter any more
    centred = replace(transform, alignment="center", padding="zeros")
    return istft(estimates, centred, nb_samples=waves.shape[-1]), waves


def _cut(waves: Tensor, window: int, hop: int) -> Tensor:
    """Return the stretches of waves [shape=(batch_size, nb_targets, nb_channels, nb_stretches, window)]."""
    nb_samples = waves.shape[-1]
    nb_zeros = nb_samples // hop * hop + window - nb_samples
    padded = torch.nn.functional.pad(waves, (nb_zeros // 2, nb_zeros - nb_zeros // 2))
    return padded.unfold(-1, window, hop)


def _measure_stretches(loss: str, estimates: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each target from stretches of waves [shape=(nb_targets,)]."""
    if loss in ("ncs", "nlcs"):
        cosines = torch.cosine_similarity(estimates, targets, dim=-1)
        found = -cosines if loss == "ncs" else -((1 + cosines).clamp(min=0) + _LEAST).log()  # rounding passes -1
        return found.mean((0, 2, 3))
    products, squares = (estimates * targets).sum(-1, keepdim=True), targets.square().sum(-1, keepdim=True)
    scaled = (products + _LEAST) / (squares + _LEAST) * targets
    rest = estimates - scaled
    if loss == "distortion":
        lengths: Tensor = torch.linalg.vector_norm(rest, dim=-1)  # whose gradient is 0 where there is no rest
        return lengths.sum(-1).mean((0, 2))
    wrong, right = rest.square().sum(-1) + _LEAST, scaled.square().sum(-1) + _LEAST
    if loss == "sdr-like":
        return (wrong - right).sum(-1).mean((0, 2))
    found = {"dsr": wrong / right, "nsdr": -right / wrong, "ldsr": wrong.log() - right.log()}[loss]
    return found.mean((0, 2, 3))
