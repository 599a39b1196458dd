"""One array of the spectrogram cache: what a file is, its magnitudes, and their coding.

Reads a wav or flac file. Writes a .npy file of the format that `cache` describes.

References
----------
The uint8 coding is that of github.com/deezer/spleeter, version 2.4.2, `spleeter/audio/convertor.py`: levels in dB, the
greatest and 100 dB below it at most, rounded down to 256 steps; here with the range of a track, not of an excerpt.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from musdbkit import audio
from musdbkit.cache import NB_LEVELS, Entry, Parameters, Source
from musdbkit.errors import AudioError
from musdbkit.stft import StftParams, magnitude

_BLOCK_FRAMES: Final = 64  # half a MB of magnitudes at a time
_LARGEST: Final = {
    name: float(np.finfo(dtype).max)
    for name, dtype in (("float16", np.float16), ("float32", np.float32), ("uint8", np.float32))
}
_FLOOR: Final = 1e-9  # magnitude; and 100 dB below the greatest: below them Spleeter's uint8 knows no difference
_SPAN_DECIBELS: Final = 100.0


def array_bytes(parameters: Parameters, nb_samples: int) -> int:
    """Return the size of an array's file."""
    shape = array_shape(parameters, nb_samples)
    return len(_header(parameters, nb_samples)) + int(np.prod(shape)) * np.dtype(parameters.dtype).itemsize


def array_shape(parameters: Parameters, nb_samples: int) -> tuple[int, int, int]:
    """Return the shape of an array."""
    return _transform(parameters).nb_frames(nb_samples), parameters.nb_bins, parameters.nb_channels


def _transform(parameters: Parameters) -> StftParams:
    """Return the transform that arrays are made with."""
    return StftParams(parameters.n_fft, parameters.hop_length, parameters.window)


def _header(parameters: Parameters, nb_samples: int) -> bytes:
    """Return how an array's file begins."""
    text = io.BytesIO()
    description = {
        "descr": np.dtype(parameters.dtype).newbyteorder("<").str,
        "fortran_order": False,
        "shape": array_shape(parameters, nb_samples),
    }
    np.lib.format.write_array_header_1_0(text, description)
    return text.getvalue()


def identify(path: Path, *known: Source | None) -> Source:
    """Return what a file is; its hash is computed unless it is known and the file was not touched since."""
    nb_bytes, mtime_ns, ctime_ns = stamp = _stamp_of(path)
    for source in known:
        if source is not None and _stamp(source) == stamp:
            return source
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(nb_bytes, digest, mtime_ns, ctime_ns)


def _stamp(source: Source) -> tuple[int, int, int]:
    """Return by what a file that was not touched is known."""
    return source.nb_bytes, source.mtime_ns, source.ctime_ns


def _stamp_of(path: Path) -> tuple[int, int, int]:
    """Return the same of a file as it is."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def write_array(path: Path, out: Path, parameters: Parameters, nb_samples: int, known: Source | None = None) -> Entry:
    """Write the array of one file; return its entry in the track's record.

    Parameters
    ----------
    path : the wav or flac file, which has the parameters' sample rate and channels.
    out : the .npy file; for uint8 a file beside it holds the magnitudes for the time being.
    parameters : what the array is to be.
    nb_samples : length of the file in samples.
    known : what the file is, if its hash was looked at.

    Raises
    ------
    AudioError
        The file cannot be read, changes meanwhile, or has magnitudes that the dtype does not hold.
    """
    source = identify(path, known)
    blocks = _magnitudes(path, parameters)
    lo = hi = None
    if parameters.dtype == "uint8":  # whose range is known only at the end
        unscaled = out.with_name(f"{out.name}.magnitudes")
        lo, hi = _store(blocks, unscaled)
        blocks = _restore(unscaled, parameters)
    digest = hashlib.sha256()
    with out.open("wb") as file:
        for data in _encode(blocks, parameters, lo, hi, _header(parameters, nb_samples)):
            file.write(data)
            digest.update(data)
    nb_bytes = out.stat().st_size
    if _stamp(source) != _stamp_of(path) or nb_bytes != array_bytes(parameters, nb_samples):
        raise AudioError(f"{path}: changed while it was read: run again")
    return Entry(source, nb_bytes, digest.hexdigest(), lo, hi)


def _magnitudes(path: Path, parameters: Parameters) -> Iterator[NDArray[np.float32]]:
    """Yield a file's magnitudes in blocks [shape=(_BLOCK_FRAMES or fewer, nb_bins, nb_channels)].

    Those that cannot be stored are refused.
    """
    overlap = parameters.n_fft - parameters.hop_length
    size = _BLOCK_FRAMES * parameters.hop_length + overlap
    transform = _transform(parameters)
    for block in audio.read_overlapping(path, size, overlap):
        with np.errstate(invalid="ignore", over="ignore"):
            magnitudes = magnitude(block, transform, nb_bins=parameters.nb_bins, workers=1)
        largest = float(magnitudes.max(initial=0))
        if not largest <= _LARGEST[parameters.dtype]:  # so written, NaN is refused, too
            raise AudioError(
                f"{path}: a magnitude of {largest:.3g}, expected at most {_LARGEST[parameters.dtype]:.3g}: "
                "correct the file" + (", or use --dtype float32" if np.isfinite(largest) else "")
            )
        yield magnitudes


def _encode(
    blocks: Iterator[NDArray[np.float32]], parameters: Parameters, lo: float | None, hi: float | None, header: bytes
) -> Iterator[Any]:
    """Yield what an array's file holds."""
    yield header
    dtype = np.dtype(parameters.dtype).newbyteorder("<")
    for block in blocks:
        if lo is not None and hi is not None:
            yield _quantise(block, lo, hi).data
            continue
        yield (_to_half(block) if dtype.itemsize == 2 else block.astype(dtype, copy=False)).data


def _to_half(magnitudes: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of magnitudes of up to 65504 as float16, rounded to the nearest (halves to even).

    As astype, which takes three times as long, and forty times for numbers below 6e-5, of which quiet music is full.
    """
    bits = magnitudes.view(np.uint32)
    halves = bits + (np.uint32(0xC8000FFF) + ((bits >> np.uint32(13)) & np.uint32(1)))  # exponent less 112, rounding
    halves >>= np.uint32(13)
    small = magnitudes < np.float32(2.0**-14)
    if small.any():  # adding 0.5 leaves multiples of 2**-24 in the lowest bits
        np.copyto(halves, (magnitudes + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000), where=small)
    return halves.astype("<u2")


def _store(blocks: Iterable[NDArray[np.float32]], path: Path) -> tuple[float, float]:
    """Write magnitudes to a file for the time being; return their least and greatest level in dB, as Spleeter cuts."""
    least, greatest = np.inf, 0.0
    with path.open("wb") as file:
        for block in blocks:
            file.write(block.data)
            if block.size:
                least, greatest = min(least, float(block.min())), max(greatest, float(block.max()))
    low, high = _decibels(np.array((min(least, greatest), greatest), np.float32))
    return max(float(low), float(high - np.float32(_SPAN_DECIBELS))), float(high)


def _restore(path: Path, parameters: Parameters) -> Iterator[NDArray[np.float32]]:
    """Yield the magnitudes in a file that `_store` wrote, and remove it."""
    shape = (-1, parameters.nb_bins, parameters.nb_channels)
    with path.open("rb") as file:
        while (block := np.fromfile(file, np.float32, _BLOCK_FRAMES * shape[1] * shape[2])).size:
            yield block.reshape(shape)
    path.unlink()


def _decibels(magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return levels in dB."""
    return np.log(np.maximum(magnitudes, np.float32(_FLOOR))) * np.float32(20 / np.log(10))


def _quantise(magnitudes: NDArray[np.float32], lo: float, hi: float) -> NDArray[np.uint8]:
    """Return the uint8 codes of magnitudes."""
    codes = _decibels(magnitudes)
    codes -= np.float32(lo)
    codes *= np.float32(NB_LEVELS / (hi - lo + 1e-16))
    return np.clip(codes, 0, 255, out=codes).astype(np.uint8)
