"""Short-time Fourier transforms: the field's own, exactly, forwards and back.

Reads and writes arrays only. `PRESETS` holds the transforms of Spleeter and Open-Unmix, which frame, pad and scale in
ways of their own; numbers computed with one mean nothing to a model trained with another.

Conventions: waves are `(..., nb_samples, nb_channels)`, spectrograms `(..., nb_frames, nb_bins, nb_channels)`, with any
leading axes (sources, batches). Bins run from 0 Hz to half the sample rate, both included. float32 gives float32 and
complex64, float64 gives float64 and complex128. Frames are computed in blocks of a fixed size, so that memory beyond
the result is a few MB per core, for signals of any length (memory-mapped ones, too), and no bit depends on the cores.

References
----------
Griffin, Lim: Signal estimation from modified short-time Fourier transform, IEEE Trans. ASSP 32(2), 1984: the inverse is
its equation (6), the signal whose frames are nearest to those given, in the sense of least squares.
"""

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from musdbkit.errors import ParameterError

Wave: TypeAlias = NDArray[Any]
Spectrogram: TypeAlias = NDArray[Any]

_PADDINGS: Final = {"start": ("none", "zeros"), "center": ("zeros", "reflect"), "end": ("zeros",)}
_SCALINGS: Final = ("none", "window", "orthonormal")

_BLOCK_BYTES: Final = 2**19  # of windowed frames: they stay in the processor's cache from the window to the magnitude
_LEAST_WEIGHT: Final = 1e-4  # of the greatest: rounding errors of a sample grow by up to 1 / sqrt(weight)


@functools.lru_cache
def make_window(name: str, n_fft: int) -> NDArray[np.float64]:
    """Return a periodic window, which is not to be changed [shape=(n_fft,)]."""
    if name == "hann":  # the field's own, without scipy.signal, which takes a second to import
        window: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    else:
        import scipy.signal

        try:
            window = scipy.signal.get_window(name, n_fft, fftbins=True)
        except ValueError as error:
            raise ParameterError(f"window {name}: scipy.signal.get_window makes none of that name") from error
    window.flags.writeable = False
    return window


@dataclass(frozen=True)
class StftParams:
    """Which transform.

    Attributes
    ----------
    n_fft : length of a frame and of its transform, in samples.
    hop_length : from one frame to the next, in samples.
    window : name of a window of scipy.signal.get_window, taken as periodic.
    alignment : where frame t lies, t counted from 0: it begins at sample `t * hop_length` (`start`), is centred there
        (`center`) or ends there (`end`).
    padding : what lies beyond both ends: `zeros`, the signal mirrored (`reflect`, with `center`), or nothing (`none`,
        with `start`: frames that are not whole are left out).
    scaling : what spectra are divided by: nothing (`none`), the window's sum, so that a sine's peak is half its
        amplitude (`window`), or the root of `n_fft`, which keeps energies (`orthonormal`).

    Raises
    ------
    ParameterError
        There is no such transform.
    """

    n_fft: int
    hop_length: int
    window: str = "hann"
    alignment: str = "start"
    padding: str = "none"
    scaling: str = "none"

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        for name in ("n_fft", "hop_length"):
            if isinstance(value := getattr(self, name), np.integer):
                object.__setattr__(self, name, int(value))
        if type(self.n_fft) is not int or self.n_fft < 2 or self.n_fft % 2:
            raise ParameterError(f"n_fft is {self.n_fft}, expected an even number of samples, 2 or more")
        if type(self.hop_length) is not int or not 1 <= self.hop_length <= self.n_fft:
            raise ParameterError(f"hop_length is {self.hop_length}, expected 1 to n_fft, which is {self.n_fft} samples")
        if self.padding not in _PADDINGS.get(self.alignment, ()):
            known = "; ".join(f"{alignment} with {' or '.join(p)}" for alignment, p in _PADDINGS.items())
            raise ParameterError(f"alignment {self.alignment} with padding {self.padding}: expected {known}")
        if self.scaling not in _SCALINGS:
            raise ParameterError(f"scaling is {self.scaling}, expected one of {', '.join(_SCALINGS)}")
        make_window(self.window, self.n_fft)

    @property
    def nb_bins(self) -> int:
        """Number of bins of a spectrum."""
        return self.n_fft // 2 + 1

    def nb_frames(self, nb_samples: int) -> int:
        """Return how many frames a signal has.

        `start`: all whole frames, or with zeros one for each begun hop, as in TensorFlow. `center`: one for each hop
        and one more, as in torch and librosa. `end`: one for each begun hop up to the last that still sees the signal,
        as Spleeter has when it separates.
        """
        if self.alignment == "center":
            return 1 + nb_samples // self.hop_length
        if self.alignment == "end":
            return -(-(nb_samples + self.n_fft) // self.hop_length)
        if self.padding == "zeros":
            return -(-nb_samples // self.hop_length)
        return max(0, 1 + (nb_samples - self.n_fft) // self.hop_length)

    @property
    def lead(self) -> int:
        """How many samples before the signal the first frame begins."""
        return {"start": 0, "center": self.n_fft // 2, "end": self.n_fft}[self.alignment]


PRESETS: Final = {
    "spleeter": StftParams(4096, 1024),
    "spleeter-inference": StftParams(4096, 1024, alignment="end", padding="zeros"),
    "openunmix": StftParams(4096, 1024),
    "openunmix-inference": StftParams(4096, 1024, alignment="center", padding="reflect"),
}
"""The transforms of Spleeter 2.4.2 and Open-Unmix 1.3, at 44100 Hz, by name.

Both train on whole frames from sample 0 on and separate with padded ones: Spleeter puts a frame of zeros before the
signal and fills the last frame, Open-Unmix's Separator centres frames in the mirrored signal. Spectra are not scaled.
"""


def _nb_cores() -> int:
    """Return how many processor cores this process may use."""
    from musdbkit.tracks import nb_cores  # not above: tracks needs what decodes audio, and a training machine does not

    return nb_cores()


def stft(samples: Wave, params: StftParams, *, workers: int | None = None) -> Spectrogram:
    """Return the complex spectrogram of waves [shape=(..., nb_frames, nb_bins, nb_channels), complex64 or complex128].

    Parameters
    ----------
    samples : floats, in [-1, 1] by convention [shape=(..., nb_samples, nb_channels), float32 or float64].
    params : which transform.
    workers : threads; all cores by default.

    Raises
    ------
    ParameterError
        The array is no wave, or is too short to be mirrored.
    """
    dtype = np.complex64 if samples.dtype == np.float32 else np.complex128
    return _transform(
        samples, params, params.nb_bins, np.dtype(dtype), lambda spectra, out: np.copyto(out, spectra), workers
    )


def magnitude(
    samples: Wave, params: StftParams, *, nb_bins: int | None = None, workers: int | None = None
) -> NDArray[Any]:
    """Return the magnitudes of `stft`, of the first bins [shape=(..., nb_frames, nb_bins, nb_channels), floats].

    Takes less time and half the memory of taking the magnitudes of a whole spectrogram.

    Parameters
    ----------
    samples, params, workers : as in `stft`.
    nb_bins : how many bins, from 0 Hz on; all by default.

    Raises
    ------
    ParameterError
        As `stft`; or there are fewer bins than asked for.
    """
    count = params.nb_bins if nb_bins is None else nb_bins
    if not 1 <= count <= params.nb_bins:
        raise ParameterError(f"nb_bins is {count}, expected 1 to {params.nb_bins}, which n_fft {params.n_fft} gives")
    return _transform(samples, params, count, samples.dtype, np.abs, workers)


def istft(
    spectrogram: Spectrogram,
    params: StftParams,
    *,
    start: int = 0,
    nb_samples: int | None = None,
    workers: int | None = None,
) -> Wave:
    """Return the wave whose spectrogram is nearest to the one given [shape=(..., nb_samples, nb_channels), floats].

    For a spectrogram that `stft` made this is its wave, up to rounding, where the frames determine it: everywhere in
    presets `spleeter-inference` and `openunmix-inference`; less some 145 samples at both ends in the other two, for
    which `start` and `nb_samples` must leave them out.

    Parameters
    ----------
    spectrogram : as `stft` returns it [shape=(..., nb_frames, nb_bins, nb_channels), complex64 or complex128].
    params : which transform.
    start : first sample to return, counted as in the signal.
    nb_samples : how many to return; by default up to where the next frame would begin (`start` and `end`, with zeros),
        to the centre of the last one (`center`), or to its end (`none`).
    workers : threads; all cores by default.

    Raises
    ------
    ParameterError
        The array is no spectrogram of this transform, or the frames do not determine all samples asked for: with
        `start` those at the beginning, and with `none` at the end, too, where a window that begins with zero has no
        weight; with other parameters those between frames that do not overlap enough.
    """
    if spectrogram.dtype not in (np.complex64, np.complex128):
        raise ParameterError(f"spectrogram of {spectrogram.dtype}, expected complex64 or complex128")
    if spectrogram.ndim < 3 or spectrogram.shape[-2] != params.nb_bins:
        raise ParameterError(
            f"spectrogram of shape {spectrogram.shape}, expected (..., nb_frames, {params.nb_bins}, nb_channels)"
        )
    nb_frames, _, nb_channels = spectrogram.shape[-3:]
    end = nb_frames * params.hop_length - (params.hop_length if params.alignment == "center" else params.lead)
    if params.padding == "none" and nb_frames:
        end += params.n_fft - params.hop_length
    if nb_samples is not None and nb_samples < 0:
        raise ParameterError(f"nb_samples is {nb_samples}, expected 0 or more")
    stop = max(start, end) if nb_samples is None else start + nb_samples
    _check_determined(params, nb_frames, start, stop)
    dtype = np.dtype(np.float32 if spectrogram.dtype == np.complex64 else np.float64)
    waves: Wave = np.empty((*spectrogram.shape[:-3], stop - start, nb_channels), dtype)
    span = max(1, _block_frames(params, nb_channels, dtype)) * params.hop_length

    def invert(index: tuple[int, ...], first: int) -> None:
        last = min(first + span, stop)
        waves[index][first - start : last - start] = _overlap_add(spectrogram[index], params, first, last)

    _run(invert, [(i, n) for i in np.ndindex(spectrogram.shape[:-3]) for n in range(start, stop, span)], workers)
    return waves


def _window(params: StftParams) -> NDArray[np.float64]:
    """Return the window [shape=(n_fft,)]."""
    return make_window(params.window, params.n_fft)


def _scale(params: StftParams) -> float:
    """Return what spectra are divided by."""
    return {"none": 1.0, "window": float(_window(params).sum()), "orthonormal": math.sqrt(params.n_fft)}[params.scaling]


def _block_frames(params: StftParams, nb_channels: int, dtype: "np.dtype[Any]") -> int:
    """Return how many frames are transformed at a time, which depends on no machine."""
    return max(1, _BLOCK_BYTES // (params.n_fft * max(nb_channels, 1) * dtype.itemsize))


def _transform(
    samples: Wave,
    params: StftParams,
    nb_bins: int,
    dtype: "np.dtype[Any]",
    finish: Callable[[Spectrogram, NDArray[Any]], object],
    workers: int | None,
) -> NDArray[Any]:
    """Return what `finish` writes of the spectra, block by block."""
    if samples.dtype not in (np.float32, np.float64):
        raise ParameterError(f"samples of {samples.dtype}, expected float32 or float64 in [-1, 1]")
    if samples.ndim < 2 or not samples.shape[-1]:
        raise ParameterError(f"samples of shape {samples.shape}, expected (..., nb_samples, nb_channels)")
    nb_samples, nb_channels = samples.shape[-2:]
    if params.padding == "reflect" and nb_samples <= params.n_fft // 2:
        raise ParameterError(f"{nb_samples} samples, expected more than {params.n_fft // 2} to mirror half a frame")
    nb_frames = params.nb_frames(nb_samples)
    result = np.empty((*samples.shape[:-2], nb_frames, nb_bins, nb_channels), dtype)
    window = _per_channel(_window(params) / _scale(params), nb_channels, samples.dtype)
    step = _block_frames(params, nb_channels, samples.dtype)

    def transform(index: tuple[int, ...], first: int) -> None:
        last = min(first + step, nb_frames)
        begin = first * params.hop_length - params.lead
        cut = _cut(samples[index], begin, begin + (last - 1 - first) * params.hop_length + params.n_fft, params.padding)
        frames = (_frames(cut, params) * window).reshape(-1, params.n_fft, nb_channels)
        finish(scipy.fft.rfft(frames, axis=1, overwrite_x=True)[:, :nb_bins], result[index][first:last])

    _run(transform, [(i, n) for i in np.ndindex(samples.shape[:-2]) for n in range(0, nb_frames, step)], workers)
    return result


def _run(
    function: Callable[[tuple[int, ...], int], None], tasks: list[tuple[tuple[int, ...], int]], workers: int | None
) -> None:
    """Call a function for all tasks, in threads."""
    nb_threads = min(_nb_cores() if workers is None else workers, len(tasks))
    if nb_threads <= 1:
        for task in tasks:
            function(*task)
        return
    with ThreadPoolExecutor(nb_threads) as pool:
        for _ in pool.map(lambda task: function(*task), tasks):
            pass


def _cut(samples: Wave, start: int, stop: int, padding: str) -> Wave:
    """Return a part of a signal, continued beyond its ends [shape=(stop - start, nb_channels)]."""
    nb_samples = len(samples)
    if start >= 0 and stop <= nb_samples:
        return samples[start:stop]
    if padding == "reflect":
        places = np.abs(np.arange(start, stop))
        mirrored: Wave = samples[np.minimum(places, 2 * (nb_samples - 1) - places)]
        return mirrored
    cut = np.zeros((stop - start, samples.shape[1]), samples.dtype)
    inside = samples[max(start, 0) : max(stop, 0)]
    first = max(-start, 0)
    cut[first : first + len(inside)] = inside
    return cut


def _frames(samples: Wave, params: StftParams) -> Wave:
    """Return a view of a signal as its whole frames, channels side by side [shape=(nb_frames, n_fft * nb_channels)]."""
    nb_channels = samples.shape[1]
    frames = np.lib.stride_tricks.sliding_window_view(samples.reshape(-1), params.n_fft * nb_channels)
    return frames[:: params.hop_length * nb_channels]


def _per_channel(window: NDArray[np.float64], nb_channels: int, dtype: "np.dtype[Any]") -> Wave:
    """Return a window with each value as often as there are channels: many times faster than to broadcast over two."""
    return np.repeat(window, nb_channels).astype(dtype)


def _overlap_add(spectrogram: Spectrogram, params: StftParams, start: int, stop: int) -> Wave:
    """Return the samples from start to stop, from all frames that reach in [shape=(stop - start, nb_channels)]."""
    first, last = _reaching(params, len(spectrogram), start, stop)
    weights = _weights(params, len(spectrogram), start, stop)[:, None]
    nb_channels = spectrogram.shape[2]
    frames = scipy.fft.irfft(spectrogram[first:last], params.n_fft, axis=1)
    frames *= _per_channel(_window(params) * _scale(params), nb_channels, frames.dtype).reshape(-1, nb_channels)
    total = np.zeros((stop - start, nb_channels), frames.dtype)
    for begin, frame in zip(_places(params, first, last), frames, strict=True):
        inside = frame[max(start - begin, 0) : stop - begin]
        offset = max(begin - start, 0)
        total[offset : offset + len(inside)] += inside
    total /= weights.astype(total.dtype)
    return total


def _reaching(params: StftParams, nb_frames: int, start: int, stop: int) -> tuple[int, int]:
    """Return the first frame that reaches into a stretch of samples, and the one after the last."""
    first = (start + params.lead - params.n_fft) // params.hop_length + 1
    last = -(-(stop + params.lead) // params.hop_length)
    return max(first, 0), max(min(last, nb_frames), max(first, 0))


def _places(params: StftParams, first: int, last: int) -> Iterator[int]:
    """Yield the sample at which each frame begins."""
    return (t * params.hop_length - params.lead for t in range(first, last))


def _weights(params: StftParams, nb_frames: int, start: int, stop: int) -> NDArray[np.float64]:
    """Return the sum of the squared windows over each sample [shape=(stop - start,)]."""
    squares = _window(params) ** 2
    weights = np.zeros(stop - start)
    for begin in _places(params, *_reaching(params, nb_frames, start, stop)):
        inside = squares[max(start - begin, 0) : stop - begin]
        offset = max(begin - start, 0)
        weights[offset : offset + len(inside)] += inside
    return weights


def _check_determined(params: StftParams, nb_frames: int, start: int, stop: int) -> None:
    """Refuse samples that the frames do not determine."""
    reach = 2 * params.n_fft  # between the two ends, weights only repeat
    inner = _weights(params, 2 + reach // params.hop_length, params.n_fft, params.n_fft + params.hop_length)
    least = _LEAST_WEIGHT * inner.max()
    for first, last in ((start, min(start + reach, stop)), (max(stop - reach, start), stop)):
        poor = np.flatnonzero(_weights(params, nb_frames, first, last) < least)
        if poor.size:
            advice = "use a shorter hop_length"
            if inner.min() >= least:
                begin, end = _determined(params, nb_frames, least)
                advice = "they determine no sample"
                if begin < end:
                    advice = f"ask for some of {begin} to {end - 1}, or take a transform with more padding"
            raise ParameterError(
                f"sample {first + int(poor[0])}: not determined by {nb_frames} frames of {params.n_fft} samples every "
                f"{params.hop_length} ({params.window} window, alignment {params.alignment}): {advice}"
            )


def _determined(params: StftParams, nb_frames: int, least: float) -> tuple[int, int]:
    """Return the longest stretch of a signal whose weights are not below the least: its first sample and its end."""
    after = max(nb_frames * params.hop_length + params.n_fft - params.lead, 0)  # no frame reaches there
    poor = np.flatnonzero(np.append(_weights(params, nb_frames, 0, after), 0) < least)
    ends = np.concatenate([[-1], poor])
    longest = int(np.diff(ends).argmax())
    return int(ends[longest]) + 1, int(ends[longest + 1])
