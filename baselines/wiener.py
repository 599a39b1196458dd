"""Multichannel Wiener filters: estimates that fit together and with the mixture, from magnitudes of each target.

Reads and writes tensors only. A target's spectrum in frame t and bin f is modelled as Gaussian, with a power v that
depends on both and a covariance R of its channels that depends on the bin alone. The models are taken from estimates,
the estimates of all targets then anew from the mixture and the models, as often as wanted. It is what Open-Unmix
(through its own copy) and Spleeter (through norbert) do with the magnitudes that their networks give.

Two faults of theirs are not repeated. Where a mixture sounds nearly the same in both channels, as many do in places,
the covariances are all but singular, and float32, in which both compute, is too coarse to invert them: on a mono track
held in two channels Open-Unmix's estimates are wrong by a third of the largest value and norbert's by a fiftieth, and
where the channels differ by a thousandth some of Open-Unmix's are not numbers. Here everything is computed in float64,
whatever the inputs are, in blocks that are small beside the result. And Open-Unmix's arctangent writes 1 into the
mixture wherever that is exactly 0, into the caller's tensor, too, so that a residual sounds in digital silence. Here 0
has the angle 0 and stays 0.

References
----------
Duong, Vincent, Gribonval: Under-determined reverberant audio source separation using a full-rank spatial covariance
model, IEEE Trans. Audio, Speech, and Language Processing 18(7), 2010.
Nugraha, Liutkus, Vincent: Multichannel music separation with deep neural networks, EUSIPCO 2016: the updates used here.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import Final, NamedTuple

import torch
from torch import Tensor

from musdbkit.errors import ParameterError

_LOUDEST: Final = 10.0  # mixtures are scaled down to this magnitude, so that eps means the same for all but quiet ones
_BLOCK_VALUES: Final = {"cpu": 2**15, "cuda": 2**22}  # of an array, on cpu per thread: fits its cache; and about 1 GB
_LEAST_BINS: Final = 32  # of a block: shorter rows take longer to find than to compute
_TINY: Final = 1e-300  # to divide by instead of 0


class _Parts(NamedTuple):
    """Complex numbers in parts, with which torch computes faster than with whole ones, channel by channel.

    The numbers of a channel are of shape (batch_size, nb_windows, frames of a window, nb_bins).
    """

    real: tuple[Tensor, ...]
    imag: tuple[Tensor, ...]


class _Matrices(NamedTuple):
    """Hermitian matrices over the channels: of the parts, the entries by row and column, up to the diagonal.

    Entries are shaped as numbers of a channel, with 1 frame if all frames share the matrix.
    """

    real: list[list[Tensor]]
    imag: list[list[Tensor]]


class _Model(NamedTuple):
    """What is known of a target: its power in each frame and bin, and the covariance of its channels in each bin."""

    power: Tensor
    covariance: _Matrices


@torch.no_grad()
def wiener(
    magnitudes: Tensor,
    mixture: Tensor,
    *,
    nb_iterations: int = 1,
    softmask: bool = False,
    residual: bool = False,
    eps: float = 1e-10,
    window: int | None = None,
) -> Tensor:
    """Return the targets' complex spectrograms [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames)].

    They are of the mixture's type. In memory the bins of a frame lie side by side. Gradients are not computed.
    Defaults are Open-Unmix's; norbert's are `softmask` and the `eps` of float32, `torch.finfo(torch.float32).eps`.

    Parameters
    ----------
    magnitudes : of the targets, not negative, in the mixture's scale
        [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames), floats].
    mixture : its spectrograms [shape=(batch_size, nb_channels, nb_bins, nb_frames), complex64 or complex128].
    nb_iterations : how often models and estimates are computed in turn; 0 returns the first estimates.
    softmask : whether first estimates are shares of the mixture, by the ratio of the magnitudes; if not, they are the
        magnitudes with the mixture's phase, which trusts them more.
    residual : whether to estimate what the targets leave of the mixture as one more, the last. It comes first of all
        from the first estimates.
    eps : power of noise that is added where powers are divided by, its root to the mixture's covariance; in the scale
        of a mixture whose largest magnitude is at most 10, to which louder ones are brought.
    window : frames that are modelled and scaled on their own, one such window after the other, the last one shorter, so
        that targets may move (Open-Unmix's Separator takes 300); None: all at once.

    Raises
    ------
    ParameterError
        The tensors do not fit together, or an argument cannot be used.
    """
    if mixture.dtype not in (torch.complex64, torch.complex128) or not magnitudes.is_floating_point():
        raise ParameterError(
            f"magnitudes of {magnitudes.dtype} and a mixture of {mixture.dtype}, expected floats and complex numbers"
        )
    if mixture.ndim != 4 or magnitudes.ndim != 5 or (magnitudes.shape[0], *magnitudes.shape[2:]) != mixture.shape:
        raise ParameterError(
            f"magnitudes of shape {tuple(magnitudes.shape)} and a mixture of {tuple(mixture.shape)}, expected "
            "(batch_size, nb_targets, nb_channels, nb_bins, nb_frames) and the same without targets"
        )
    if nb_iterations < 0 or not 0 < eps < math.inf or (window is not None and window < 1):
        raise ParameterError(
            f"nb_iterations {nb_iterations}, eps {eps}, window {window}: expected 0 or more, above 0, and 1 or more"
        )
    batch_size, nb_targets, nb_channels, nb_bins, nb_frames = magnitudes.shape
    shape = (batch_size, nb_targets + residual, nb_channels, nb_frames, nb_bins)
    estimates = torch.empty(shape, dtype=mixture.dtype, device=mixture.device)
    length = min(window or nb_frames, nb_frames)
    whole = nb_frames // max(length, 1) * length
    for start, stop, nb_windows in ((0, whole, whole // max(length, 1)), (whole, nb_frames, 1)):
        if start == stop:
            continue
        # batch_size, nb_targets, nb_channels, nb_windows, frames of a window, nb_bins
        given, mixed, found = (
            t[..., start:stop, :].view(*t.shape[:-2], nb_windows, (stop - start) // nb_windows, nb_bins)
            for t in (magnitudes.mT, mixture.mT, estimates)
        )
        scales = _scales(mixed) if nb_iterations else mixed.real.new_ones((batch_size, 1, nb_windows, 1, 1))
        for items, windows, bins in _blocks(given.shape, mixture.device):
            m, x, y = (t[items, ..., windows, :, bins] for t in (given, mixed, found))
            _separate(y, m, x, scales[items, :, windows], nb_iterations, softmask, eps)
    return estimates.mT


def _scales(mixture: Tensor) -> Tensor:
    """Return what each window is divided by [shape=(batch_size, 1, nb_windows, 1, 1)]."""
    peaks = [channel.abs().amax((-2, -1), keepdim=True) for channel in mixture.unbind(1)]
    return (torch.stack(peaks, dim=1).amax(1, keepdim=True) / _LOUDEST).clamp(min=1)


def _blocks(shape: tuple[int, ...], device: torch.device) -> Iterator[tuple[slice, slice, slice]]:
    """Yield which items of a batch, windows and bins are computed at a time: each bin of a window is on its own."""
    batch_size, _, _, nb_windows, length, nb_bins = shape
    values = _BLOCK_VALUES["cpu"] * torch.get_num_threads() if device.type == "cpu" else _BLOCK_VALUES["cuda"]
    bins = min(nb_bins, max(_LEAST_BINS, values // length))
    windows = min(nb_windows, max(1, values // (length * bins)))
    items = max(1, values // (length * bins * windows))
    for item, window, bin_ in product(
        range(0, batch_size, items), range(0, nb_windows, windows), range(0, nb_bins, bins)
    ):
        yield slice(item, item + items), slice(window, window + windows), slice(bin_, bin_ + bins)


def _separate(
    estimates: Tensor,
    magnitudes: Tensor,
    mixture: Tensor,
    scales: Tensor,
    nb_iterations: int,
    softmask: bool,
    eps: float,
) -> None:
    """Write the estimates of some windows and bins, and a residual where there is one estimate more than targets."""
    real, imag = ((part.double() / scales).unbind(1) for part in (mixture.real, mixture.imag))
    mixed = _Parts(real, imag)
    phases, levels = _polar(mixed)
    sizes = magnitudes.to(torch.float64, memory_format=torch.contiguous_format)
    sizes = sizes * (levels / (eps + sizes.sum(1)))[:, None] if softmask else sizes / scales[:, None]
    if estimates.shape[1] > sizes.shape[1]:
        sizes = torch.cat([sizes, (levels - sizes.sum(1))[:, None]], dim=1)
    first = (_Parts(*(_times(parts, size.unbind(1)) for parts in phases)) for size in sizes.unbind(1))
    if not nb_iterations:
        for out, estimate in zip(estimates.unbind(1), first, strict=True):
            _write(out, estimate)
        return
    models = [_model(estimate, eps) for estimate in first]
    for _ in range(nb_iterations - 1):
        whitened = _whiten(mixed, models, math.sqrt(eps))
        models = [_model(_filter(whitened, model), eps) for model in models]
    whitened = _whiten(mixed, models, math.sqrt(eps))
    rescaled = _Parts(*(tuple(part * scales[:, 0] for part in parts) for parts in whitened))
    for out, model in zip(estimates.unbind(1), models, strict=True):
        _write(out, _filter(rescaled, model))


def _polar(numbers: _Parts) -> tuple[_Parts, Tensor]:
    """Return numbers of magnitude 1 with the same phases, 0 for that of 0, and the magnitudes of all channels."""
    levels = [(real * real).addcmul_(imag, imag).sqrt_() for real, imag in zip(*numbers, strict=True)]
    gains = [level.clamp(min=_TINY).reciprocal_() for level in levels]
    real = [part.add_(level == 0) for part, level in zip(_times(numbers.real, gains), levels, strict=True)]
    return _Parts(tuple(real), _times(numbers.imag, gains)), torch.stack(levels, dim=1)


def _times(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return products, channel by channel."""
    return tuple(a * b for a, b in zip(first, second, strict=True))


def _write(out: Tensor, estimate: _Parts) -> None:
    """Write an estimate as complex numbers."""
    for channel, real, imag in zip(out.unbind(1), *estimate, strict=True):
        channel.copy_(torch.complex(real, imag))


def _model(estimate: _Parts, eps: float) -> _Model:
    """Return what an estimate tells of its target."""
    real, imag = estimate
    nb_channels = len(real)
    powers = [(r * r).addcmul_(i, i) for r, i in zip(real, imag, strict=True)]
    power = sum(powers[1:], powers[0]) / nb_channels
    weight = eps + power.sum(-2, keepdim=True)
    covariance = _Matrices([], [])
    for c in range(nb_channels):
        crosses = [(real[c] * real[d]).addcmul_(imag[c], imag[d]) for d in range(c)]
        turned = [(imag[c] * real[d]).addcmul_(real[c], imag[d], value=-1) for d in range(c)]
        covariance.real.append([cross.sum(-2, keepdim=True) / weight for cross in [*crosses, powers[c]]])
        covariance.imag.append([cross.sum(-2, keepdim=True) / weight for cross in turned])
    return _Model(power, covariance)


def _whiten(mixture: _Parts, models: list[_Model], noise: float) -> _Parts:
    """Return the mixture times the inverse of its covariance, which is that of all models and some noise."""
    nb_channels = len(mixture.real)
    sums = _Matrices([], [])
    for c in range(nb_channels):
        sums.real.append([torch.full_like(mixture.real[0], noise if c == d else 0.0) for d in range(c + 1)])
        sums.imag.append([torch.zeros_like(mixture.real[0]) for d in range(c)])
        for power, covariance in models:
            for total, entry in zip(sums.real[c] + sums.imag[c], covariance.real[c] + covariance.imag[c], strict=True):
                total.addcmul_(power, entry)
    if nb_channels == 1:
        gain = sums.real[0][0].reciprocal_()
        return _Parts((mixture.real[0] * gain,), (mixture.imag[0] * gain,))
    if nb_channels == 2:
        return _whiten_two(mixture, sums)
    matrix = torch.empty(
        (*mixture.real[0].shape, nb_channels, nb_channels), dtype=torch.complex128, device=mixture.real[0].device
    )
    for c in range(nb_channels):
        matrix[..., c, c] = sums.real[c][c]
        for d in range(c):
            matrix[..., c, d] = torch.complex(sums.real[c][d], sums.imag[c][d])
            matrix[..., d, c] = matrix[..., c, d].conj()
    numbers = torch.complex(torch.stack(mixture.real, -1), torch.stack(mixture.imag, -1))
    whitened = torch.linalg.solve_ex(matrix, numbers)[0]
    return _Parts(whitened.real.unbind(-1), whitened.imag.unbind(-1))


def _whiten_two(mixture: _Parts, matrices: _Matrices) -> _Parts:
    """Return the numbers of two channels times the inverses of matrices [[a, conj(b)], [b, d]], in closed form."""
    (x_real, y_real), (x_imag, y_imag) = mixture
    (a,), (b_real, d) = matrices.real
    b_imag = matrices.imag[1][0]
    determinant = (a * d).addcmul_(b_real, b_real, value=-1).addcmul_(b_imag, b_imag, value=-1)
    gain = determinant.reciprocal_()
    parts = (
        (d * x_real).addcmul_(b_real, y_real, value=-1).addcmul_(b_imag, y_imag, value=-1),
        (a * y_real).addcmul_(b_real, x_real, value=-1).addcmul_(b_imag, x_imag),
        (d * x_imag).addcmul_(b_real, y_imag, value=-1).addcmul_(b_imag, y_real),
        (a * y_imag).addcmul_(b_real, x_imag, value=-1).addcmul_(b_imag, x_real, value=-1),
    )
    first_real, second_real, first_imag, second_imag = (part.mul_(gain) for part in parts)
    return _Parts((first_real, second_real), (first_imag, second_imag))


def _filter(whitened: _Parts, model: _Model) -> _Parts:
    """Return a target's estimate: its power times its covariance times the whitened mixture."""
    power, covariance = model
    nb_channels = len(whitened.real)
    real, imag = ([part * covariance.real[c][c] for c, part in enumerate(parts)] for parts in whitened)
    for c, d in permutations(range(nb_channels), 2):
        row, column, sign = (c, d, 1) if c > d else (d, c, -1)  # above the diagonal the entries are conjugates
        entry_real, entry_imag = covariance.real[row][column], covariance.imag[row][column]
        real[c].addcmul_(whitened.real[d], entry_real).addcmul_(whitened.imag[d], entry_imag, value=-sign)
        imag[c].addcmul_(whitened.imag[d], entry_real).addcmul_(whitened.real[d], entry_imag, value=sign)
    return _Parts(tuple(part.mul_(power) for part in real), tuple(part.mul_(power) for part in imag))
