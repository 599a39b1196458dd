"""Short-time Fourier transforms on any device: those of musdbkit.stft, in torch.

Reads and writes tensors only. Conventions: waves are `(..., nb_samples)`, spectrograms `(..., nb_bins, nb_frames)`,
with any leading axes; float32 gives float32 and complex64, float64 gives float64 and complex128. In memory the bins of
a frame lie side by side, as in torch's own spectrograms. Both directions can be differentiated.

References
----------
Griffin, Lim: Signal estimation from modified short-time Fourier transform, IEEE Trans. ASSP 32(2), 1984: the inverse is
its equation (6), as in musdbkit.stft.
"""

import functools
import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musdbkit.errors import ParameterError
from musdbkit.stft import StftParams, make_window

_LEAST_WEIGHT: Final = 1e-4  # of the greatest, as in musdbkit.stft
_BLOCK_VALUES: Final = 2**26  # of frames that are inverted at a time: 256 MB of float32, or else those of one wave


def stft(waves: Tensor, params: StftParams) -> Tensor:
    """Return the complex spectrograms of waves [shape=(..., nb_bins, nb_frames), complex64 or complex128].

    They are those of musdbkit.stft.stft, within rounding.

    Parameters
    ----------
    waves : in [-1, 1] by convention [shape=(..., nb_samples), float32 or float64].
    params : which transform.

    Raises
    ------
    ParameterError
        The tensor holds no waves, or they are too short to be mirrored.
    """
    if waves.dtype not in (torch.float32, torch.float64):
        raise ParameterError(f"waves of {waves.dtype}, expected torch.float32 or torch.float64 in [-1, 1]")
    if not waves.ndim:
        raise ParameterError("waves of shape (), expected (..., nb_samples)")
    leading, nb_samples = waves.shape[:-1], waves.shape[-1]
    if params.padding == "reflect" and nb_samples <= params.n_fft // 2:
        raise ParameterError(f"{nb_samples} samples, expected more than {params.n_fft // 2} to mirror half a frame")
    nb_frames = params.nb_frames(nb_samples)
    if not (nb_frames and math.prod(leading)):
        dtype = torch.complex64 if waves.dtype == torch.float32 else torch.complex128
        return waves.new_empty((*leading, params.nb_bins, nb_frames), dtype=dtype)
    length = (nb_frames - 1) * params.hop_length + params.n_fft  # from the first frame's begin to the last one's end
    padding = (params.lead, max(length - params.lead - nb_samples, 0))
    mode = "reflect" if params.padding == "reflect" else "constant"
    padded = torch.nn.functional.pad(waves.reshape(math.prod(leading), nb_samples), padding, mode)
    frames = padded[:, :length].unfold(-1, params.n_fft, params.hop_length)
    spectra: Tensor = torch.fft.rfft(frames * _window(params, waves.dtype, waves.device))
    return spectra.reshape(*leading, nb_frames, params.nb_bins).mT


def istft(spectrogram: Tensor, params: StftParams, *, nb_samples: int) -> Tensor:
    """Return the waves whose spectrograms are nearest to those given [shape=(..., nb_samples), floats].

    They are those of musdbkit.stft.istft from sample 0 on, within rounding.

    Parameters
    ----------
    spectrogram : as `stft` returns it [shape=(..., nb_bins, nb_frames), complex64 or complex128].
    params : which transform.
    nb_samples : how many samples to return.

    Raises
    ------
    ParameterError
        The tensor is no spectrogram of this transform, or its frames do not determine all samples asked for: those
        beyond the last frame, and where frames start with the signal (presets `spleeter` and `openunmix`) the first.
    """
    if spectrogram.dtype not in (torch.complex64, torch.complex128):
        raise ParameterError(f"spectrogram of {spectrogram.dtype}, expected torch.complex64 or torch.complex128")
    if spectrogram.ndim < 2 or spectrogram.shape[-2] != params.nb_bins:
        raise ParameterError(
            f"spectrogram of shape {tuple(spectrogram.shape)}, expected (..., {params.nb_bins}, nb_frames)"
        )
    if nb_samples < 0:
        raise ParameterError(f"nb_samples is {nb_samples}, expected 0 or more")
    leading, nb_frames = spectrogram.shape[:-2], spectrogram.shape[-1]
    _check_determined(params, nb_frames, nb_samples)
    dtype = torch.float32 if spectrogram.dtype == torch.complex64 else torch.float64
    waves = torch.empty((math.prod(leading), nb_samples), dtype=dtype, device=spectrogram.device)
    if waves.numel():
        spectra = spectrogram.reshape(len(waves), params.nb_bins, nb_frames).mT
        step = max(1, _BLOCK_VALUES // (nb_frames * params.n_fft))
        for first in range(0, len(waves), step):
            sums = _overlap_add(torch.fft.irfft(spectra[first : first + step], params.n_fft), params)
            waves[first : first + step] = sums[:, params.lead : params.lead + nb_samples]
    return waves.reshape(*leading, nb_samples)


def add_phase(magnitudes: Tensor, spectrum: Tensor) -> Tensor:
    """Return spectra of some magnitudes, with the phase of others [shape as the magnitudes', complex].

    Parameters
    ----------
    magnitudes : floats, of which those below zero turn the phase [any shape].
    spectrum : what has the phase, 0 where it is zero [a shape that broadcasts to the magnitudes', complex].
    """
    angle = spectrum.angle()
    return magnitudes * torch.polar(torch.ones_like(angle), angle)


def _overlap_add(frames: Tensor, params: StftParams) -> Tensor:
    """Return weighted frames added where they lie, from the first one's begin on [shape=(nb_waves, nb_samples)].

    Time is cut into stretches of a hop, of which each frame covers some, the last one perhaps in part.
    """
    nb_waves, nb_frames, n_fft = frames.shape
    hop_length = params.hop_length
    window = _window(params, frames.dtype, frames.device)
    sums = frames.new_zeros(nb_waves, nb_frames + _span(params) - 1, hop_length)
    for k, start in enumerate(range(0, n_fft, hop_length)):
        stop = min(start + hop_length, n_fft)
        sums[:, k : k + nb_frames, : stop - start].addcmul_(frames[..., start:stop], window[start:stop])
    shared = min(nb_frames, _span(params))
    gains = _gains(params, shared, frames.dtype, frames.device)
    sums[:, : shared - 1] *= gains[: shared - 1]
    sums[:, shared - 1 : nb_frames] *= gains[shared - 1]
    sums[:, nb_frames:] *= gains[shared:]
    return sums.flatten(1)


def _span(params: StftParams) -> int:
    """Return how many hops a frame covers, a part of one counted in."""
    return -(-params.n_fft // params.hop_length)


def _scale(params: StftParams) -> float:
    """Return what spectra are divided by."""
    window = make_window(params.window, params.n_fft)
    return {"none": 1.0, "window": float(window.sum()), "orthonormal": math.sqrt(params.n_fft)}[params.scaling]


@functools.lru_cache
def _window(params: StftParams, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the window that frames are multiplied by, which is not to be changed [shape=(n_fft,)]."""
    return _tensor(make_window(params.window, params.n_fft) / _scale(params), dtype, device)


@functools.lru_cache
def _gains(params: StftParams, nb_frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what sums of frames are multiplied by, 0 where they determine nothing [shape as of `_weights`]."""
    weights = _weights(params, nb_frames)
    gains = np.divide(_scale(params) ** 2, weights, out=np.zeros_like(weights), where=weights > 0)
    return _tensor(gains, dtype, device)


def _tensor(values: NDArray[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a copy of an array that gradients may pass, even if it is made where they are never computed."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


@functools.lru_cache
def _weights(params: StftParams, nb_frames: int) -> NDArray[np.float64]:
    """Return the sum of the squared windows over each sample, cut into hops [shape=(nb_hops, hop_length)].

    Of more frames than a frame covers hops these are the first and the last ones; those between repeat the middle row.
    """
    squares = np.zeros((_span(params), params.hop_length))
    squares.reshape(-1)[: params.n_fft] = make_window(params.window, params.n_fft) ** 2
    weights = np.zeros((nb_frames + _span(params) - 1, params.hop_length))
    for t in range(nb_frames):
        weights[t : t + _span(params)] += squares
    return weights


def _check_determined(params: StftParams, nb_frames: int, nb_samples: int) -> None:
    """Refuse samples that the frames do not determine."""
    hop_length = params.hop_length
    shared = min(nb_frames, _span(params))
    weights = _weights(params, shared).reshape(-1) if shared else np.zeros(0)
    poor = np.flatnonzero(weights < _LEAST_WEIGHT * _weights(params, _span(params)).max())
    more = nb_frames - shared  # hops by which the end lies later; the row before it comes once more in each
    hops = np.clip(-((poor - params.lead) // hop_length), 0, more)  # to where that row meets the signal
    hops[poor < (shared - 1) * hop_length] = 0
    hops[poor >= shared * hop_length] = more
    end = len(weights) + more * hop_length
    samples = np.append(poor + hops * hop_length, max(end, params.lead)) - params.lead
    samples = samples[(samples >= 0) & (samples < nb_samples)]
    if samples.size:
        raise ParameterError(
            f"sample {samples.min()} of {nb_samples}: not determined by {nb_frames} frames of {params.n_fft} samples "
            f"every {params.hop_length} ({params.window} window, alignment {params.alignment}): ask for fewer samples, "
            "or take a transform with more padding or a shorter hop_length"
        )
