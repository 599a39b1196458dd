"""Measures that need no distortion filters: framewise SDR, uSDR, SI-SDR and SNR.

Reads arrays, writes nothing. All sums are float64 sums over samples and channels, and all of them come from a few sums
over a block (`Moments`) that add up over blocks, so that a track can be streamed.

Conventions: reference before estimate; groups of sources have the shape (nb_sources, nb_samples, nb_channels); windows
and hops are in samples; results are in dB. With s the reference and e = s - estimate:

| measure | definition | where it comes from |
|---|---|---|
| SDR | 10 log10(sum s^2 / sum e^2) in each frame | BSSEval v4 [1]_; see below |
| SNR | the same over the whole track | |
| uSDR | 10 log10((sum s^2 + d) / (sum e^2 + d)) over the whole track, d = 1e-7 | Music Demixing challenge [2]_ |
| SI-SDR | 10 log10(sum (a s)^2 / sum (a s - estimate)^2), a = sum s estimate / sum s^2 | [3]_; one a for all channels |

BSSEval splits an estimate's error into spatial, interference and artefact parts with 512-tap filters. In its "images"
form the three add up to the error itself, whatever the filters are, and so its SDR needs none.

References
----------
.. [1] Stöter, Liutkus, Ito: The 2018 Signal Separation Evaluation Campaign, LVA/ICA 2018.
.. [2] Mitsufuji et al.: Music Demixing Challenge 2021, Frontiers in Signal Processing 1, 2022, section 4.
.. [3] Le Roux, Wisdom, Erdogan, Hershey: SDR - half-baked or well done?, ICASSP 2019.
"""

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musdbkit.errors import ParameterError

Silence: TypeAlias = Literal["museval", "per-target"]

SILENCE_RULES: Final = ("museval", "per-target")
"""Which frames are dropped: see `dropped`."""

SECOND: Final = 44100
"""Samples in the window that is used everywhere, and in its hop."""

USDR_DELTA: Final = 1e-7
"""What uSDR adds to both energies."""

_BLOCK_SIZE: Final = 65536
_GLANCE: Final = 64  # music is nearly never zero for so long: most frames are settled by a look at so few samples


@dataclass(frozen=True)
class Moments:
    """Sums over a block or a whole track, one for each source [shape of each=(nb_sources,)].

    Attributes
    ----------
    signal : sum of the squared reference.
    error : sum of the squared difference of reference and estimate.
    estimate : sum of the squared estimate.
    product : sum of the reference times the estimate.
    reference_zero, estimate_zero : whether all samples are zero.
    reference_mute, estimate_mute : whether the channels cancel in every sample, which is what museval takes for
        silence: L = -R is mute, too.
    """

    signal: NDArray[np.float64]
    error: NDArray[np.float64]
    estimate: NDArray[np.float64]
    product: NDArray[np.float64]
    reference_zero: NDArray[np.bool_]
    estimate_zero: NDArray[np.bool_]
    reference_mute: NDArray[np.bool_]
    estimate_mute: NDArray[np.bool_]

    def __add__(self, other: Self) -> "Moments":
        """Return the moments of both blocks together."""
        return Moments(
            self.signal + other.signal,
            self.error + other.error,
            self.estimate + other.estimate,
            self.product + other.product,
            self.reference_zero & other.reference_zero,
            self.estimate_zero & other.estimate_zero,
            self.reference_mute & other.reference_mute,
            self.estimate_mute & other.estimate_mute,
        )


def stack(moments: Iterable[Moments]) -> Moments:
    """Return the moments of several frames as one [shape of each=(nb_sources, nb_frames)]."""
    rows = list(moments)
    return Moments(*(np.stack([getattr(row, name) for row in rows], axis=-1) for name in Moments.__annotations__))


def measure(references: Iterable[NDArray[Any]], estimates: Iterable[NDArray[Any]]) -> Moments:
    """Return the moments of a block of several sources, given as pairs of arrays [shape=(nb_samples, nb_channels)].

    Raises
    ------
    ParameterError
        Samples are not finite.
    """
    pairs = zip(references, estimates, strict=True)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is an error below
        rows = [_measure(np.asarray(reference, float), np.asarray(estimate, float)) for reference, estimate in pairs]
    moments = Moments(*(np.array(column) for column in zip(*rows, strict=True)))
    for name, energies in (("reference", moments.signal), ("estimate", moments.estimate)):
        if not np.isfinite(energies).all():
            raise ParameterError(
                f"{name} {np.flatnonzero(~np.isfinite(energies))[0]}: holds samples that are not finite"
            )
    return moments


def _measure(reference: NDArray[np.float64], estimate: NDArray[np.float64]) -> tuple[float | bool, ...]:
    """Return the moments of one source."""
    error = reference - estimate
    return (
        _dot(reference, reference),
        _dot(error, error),
        _dot(estimate, estimate),
        _dot(reference, estimate),
        is_zero(reference),
        is_zero(estimate),
        is_mute(reference),
        is_mute(estimate),
    )


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the sum of a product; not by BLAS, whose result depends on the number of its threads."""
    return float(np.einsum("ij,ij->", a, b))


def is_zero(samples: NDArray[Any]) -> bool:
    """Return whether all samples are zero [shape=(nb_samples, nb_channels)]."""
    return not any(block.any() for block in _blocks(samples))


def is_mute(samples: NDArray[Any]) -> bool:
    """Return whether the channels cancel in all samples [shape=(nb_samples, nb_channels)]."""
    return not any(block.sum(axis=1).any() for block in _blocks(samples))


def _blocks(samples: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield a few samples, then the rest in blocks."""
    yield samples[:_GLANCE]
    for start in range(_GLANCE, len(samples), _BLOCK_SIZE):
        yield samples[start : start + _BLOCK_SIZE]


def frames(nb_samples: int, window: float, hop: float) -> list[slice]:
    """Return the frames of a track as museval cuts them: whole windows only, or the whole track if it is shorter.

    Parameters
    ----------
    nb_samples : samples per channel.
    window, hop : samples; an infinite window is the whole track.

    Raises
    ------
    ParameterError
        The window or the hop is not positive.
    """
    if not window > 0 or not hop > 0:
        raise ParameterError(f"window {window}, hop {hop}: expected more than 0 samples")
    if window >= nb_samples:
        return [slice(0, nb_samples)]
    if window < 1 or not 1 <= hop < math.inf:
        raise ParameterError(f"window {window}, hop {hop}: expected at least 1 sample, and a hop that ends")
    starts = [math.floor(i * hop) for i in range(math.floor((nb_samples - window + hop) / hop))]
    return [slice(start, min(math.floor(i * hop + window), nb_samples)) for i, start in enumerate(starts)]


def follow(parts: Sequence[slice]) -> bool:
    """Return whether parts follow each other from the beginning of a track on, with neither gaps nor overlaps."""
    starts = [0, *(part.stop for part in parts)]
    return all(part.start == start for part, start in zip(parts, starts, strict=False))


def ratio_db(signal: ArrayLike, noise: ArrayLike) -> NDArray[np.float64]:
    """Return 10 log10(signal / noise): inf where there is no noise, -inf where there is only noise."""
    top, bottom = np.asarray(signal, float), np.asarray(noise, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom == 0, np.inf, 10 * np.log10(top / bottom))


def dropped(framewise: Moments, total: Moments, silence: Silence) -> NDArray[np.bool_]:
    """Return which frames have no score, by one of two rules [shape=(nb_sources, nb_frames)].

    `museval`: those in which any reference or any estimate is mute (see `Moments`), for all sources. `per-target`: for
    each source those in which its own reference or estimate is zero.

    A source that is silent in the whole track has no score at all, and does not take the frames of the others away;
    museval raises an error instead.

    Parameters
    ----------
    framewise : moments of the frames [shape of each=(nb_sources, nb_frames)].
    total : moments of the whole track [shape of each=(nb_sources,)].
    silence : the rule.
    """
    never = silent(total, silence)
    if silence == "per-target":
        return np.asarray(framewise.reference_zero | framewise.estimate_zero | never[:, None])
    mute = framewise.reference_mute | framewise.estimate_mute
    return np.asarray(np.any(mute[~never], axis=0) | never[:, None])


def silent(total: Moments, silence: Silence) -> NDArray[np.bool_]:
    """Return which sources' references or estimates are silent in the whole track, by a rule [shape=(nb_sources,)].

    Raises
    ------
    ParameterError
        The rule is none of `SILENCE_RULES`.
    """
    check_silence(silence)
    if silence == "museval":
        return total.reference_mute | total.estimate_mute
    return total.reference_zero | total.estimate_zero


def check_silence(silence: str) -> None:
    """Refuse a rule that is none of `SILENCE_RULES`."""
    if silence not in SILENCE_RULES:
        raise ParameterError(f"silence rule {silence}: expected {' or '.join(SILENCE_RULES)}")


def framewise_sdr(
    references: ArrayLike,
    estimates: ArrayLike,
    window: float = SECOND,
    hop: float = SECOND,
    silence: Silence = "museval",
) -> NDArray[np.float64]:
    """Return the SDR of BSSEval v4 (and of v3, which is the same) [shape=(nb_sources, nb_frames), dB].

    Parameters
    ----------
    references, estimates : groups of sources [shape=(nb_sources, nb_samples, nb_channels)].
    window, hop : samples.
    silence : which frames are NaN: see `dropped`.

    Raises
    ------
    ParameterError
        The shapes differ or are none of a group, or samples are not finite.
    """
    true, estimated = groups(references, estimates)
    parts = frames(len(true[0]), window, hop)
    rows = [_measure_part(true, estimated, part) for part in parts]
    if follow(parts):
        rest = slice(parts[-1].stop, None)
        total = functools.reduce(operator.add, [*rows, _measure_part(true, estimated, rest)])
    else:
        total = measure_blocks(true, estimated)
    framewise = stack(rows)
    sdr = ratio_db(framewise.signal, framewise.error)
    sdr[dropped(framewise, total, silence)] = np.nan
    return sdr


def usdr(reference: ArrayLike, estimate: ArrayLike, delta: float = USDR_DELTA) -> float:
    """Return the SDR of the Music Demixing challenge, also called nSDR, of a whole track in dB.

    Of a silent reference it is a large negative number, and 0 where the estimate is silent, too.

    Parameters
    ----------
    reference, estimate : samples [shape=(nb_samples, nb_channels)].
    delta : what is added to both energies; the challenge used 1e-7.
    """
    return usdr_of(_total(reference, estimate), delta)[0]


def snr(reference: ArrayLike, estimate: ArrayLike) -> float:
    """Return the signal to noise ratio of a whole track [shape of both=(nb_samples, nb_channels)] in dB.

    NaN where reference and estimate are both silent, -inf where only the reference is.
    """
    return snr_of(_total(reference, estimate))[0]


def si_sdr(reference: ArrayLike, estimate: ArrayLike) -> float:
    """Return the scale-invariant SDR of a whole track [shape of both=(nb_samples, nb_channels)] in dB.

    The scale is common to all channels and means are not removed. NaN where either signal is silent. Values
    beyond some 150 dB are rounding errors.
    """
    return si_sdr_of(_total(reference, estimate))[0]


def usdr_of(total: Moments, delta: float = USDR_DELTA) -> list[float]:
    """Return the uSDR of each source from its moments over the track, in dB."""
    return [float(value) for value in ratio_db(total.signal + delta, total.error + delta)]


def snr_of(total: Moments) -> list[float]:
    """Return the SNR of each source from its moments over the track, in dB."""
    values = np.where(total.reference_zero & total.estimate_zero, np.nan, ratio_db(total.signal, total.error))
    return [float(value) for value in values]


def si_sdr_of(total: Moments) -> list[float]:
    """Return the SI-SDR of each source from its moments over the track, in dB."""
    cross = total.signal - total.product  # of the reference and the error
    with np.errstate(divide="ignore", invalid="ignore"):
        target = total.product**2 / total.signal
        # both are the same; the one that subtracts from less has the smaller rounding error
        from_error, from_estimate = total.error - cross**2 / total.signal, total.estimate - target
    noise = np.where(total.error < total.estimate, from_error, from_estimate)
    values = ratio_db(target, np.maximum(noise, 0))
    return [float(v) for v in np.where(total.reference_zero | total.estimate_zero, np.nan, values)]


def groups(references: ArrayLike, estimates: ArrayLike) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return two groups of sources as lists of arrays, all of one shape (nb_samples, nb_channels), uncopied.

    As in museval, a source may have one dimension, (nb_samples,).

    Raises
    ------
    ParameterError
        Numbers of sources or shapes differ, or there is nothing.
    """
    true, estimated = (_sources(group) for group in (references, estimates))
    shapes = [source.shape for source in (*true, *estimated)]
    if len(true) != len(estimated) or not true or len(set(shapes)) > 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ParameterError(
            f"references {_shapes(true)}, estimates {_shapes(estimated)}: "
            "expected as many estimates as references, each of one shape (nb_samples, nb_channels)"
        )
    return true, estimated


def _sources(group: ArrayLike) -> list[NDArray[Any]]:
    """Return the sources of a group, with an axis of channels."""
    sources = [np.asarray(source) for source in cast(Iterable[ArrayLike], group)]
    return [source[:, None] if source.ndim == 1 else source for source in sources]


def _shapes(sources: list[NDArray[Any]]) -> str:
    """Return the shapes of sources for a message."""
    return ", ".join([*(str(source.shape) for source in sources[:8]), *["..."] * (len(sources) > 8)]) or "(none)"


def measure_blocks(references: list[NDArray[Any]], estimates: list[NDArray[Any]]) -> Moments:
    """Return the moments of groups of sources over a whole track, summed block by block."""
    parts = [slice(start, start + _BLOCK_SIZE) for start in range(0, len(references[0]), _BLOCK_SIZE)]
    return functools.reduce(operator.add, (_measure_part(references, estimates, part) for part in parts))


def _measure_part(references: list[NDArray[Any]], estimates: list[NDArray[Any]], part: slice) -> Moments:
    """Return the moments of a part of a track."""
    return measure([source[part] for source in references], [source[part] for source in estimates])


def _total(reference: ArrayLike, estimate: ArrayLike) -> Moments:
    """Return the moments of one source over a whole track."""
    return measure_blocks(*groups(np.asarray(reference)[None], np.asarray(estimate)[None]))
