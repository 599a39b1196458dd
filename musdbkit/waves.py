"""Waves as training reads them: 16-bit wav files, memory-mapped, for models that transform on the GPU.

Reads a dataset in the `wav` or `hq` layout, of 16-bit wav files. Writes nothing, and needs nothing but NumPy.
"""

import os
import struct
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.segments import Array, Reader, advise

_MIXTURE: Final = "mixture"
_HIDDEN: Final = ".musdbkit-"  # how the names begin of folders in which tracks are being written
_PARTS: Final = frozenset(("drums", "bass", "other", "vocals"))
_SUMS: Final = frozenset(("accompaniment", "linear_mixture"))  # which are floats where they overflow 16 bit
_PCM: Final = 1  # format tags of wav files
_EXTENSIBLE: Final = 0xFFFE
_FLAC: Final = "flac files, expected 16-bit wav files: write them as wav, as musdbkit convert does by default"
_UNKNOWN_SIZE: Final = 0xFFFFFFFF  # of a data chunk written to a pipe


@dataclass(frozen=True)
class _Pcm:
    """Where the samples of a 16-bit wav file are."""

    path: Path
    sample_rate: int
    nb_channels: int
    nb_samples: int
    offset: int


class Waves(Reader):
    """The reader of 16-bit wav files, which it maps into memory; `open_waves` makes one.

    A frame is one sample here: `segment` and `batches` take samples and give int16 (nb_samples, nb_channels).
    """

    def __init__(
        self, path: Path, files: Mapping[str, Mapping[str, Path]], splits: Mapping[str, tuple[str, ...]]
    ) -> None:
        super().__init__()
        self.path = path
        self.tracks = tuple(files)
        self.splits = dict(splits)
        self.signals = tuple(next(iter(files.values())))
        self._hop_length = self._span = 1
        self._pcm = {name: {s: _read_header(each) for s, each in paths.items()} for name, paths in files.items()}
        first = self._pcm[self.tracks[0]][self.signals[0]]
        self.sample_rate = first.sample_rate
        for found in self._pcm.values():
            lead = found[self.signals[0]]
            for pcm in found.values():
                for code, what, have, want, like in (
                    ("rate", "Hz", pcm.sample_rate, first.sample_rate, first),
                    ("channels", "channel(s)", pcm.nb_channels, first.nb_channels, first),
                    ("length", "samples", pcm.nb_samples, lead.nb_samples, lead),
                ):
                    if have != want:
                        raise AudioError(f"{pcm.path}: {have} {what}, expected {want} as in {like.path}", code)

    def nb_samples(self, track: str) -> int:
        """Return the length of a track in samples."""
        if track not in self._pcm:
            raise self._unknown(track)
        return self._pcm[track][self.signals[0]].nb_samples

    def _map(self, track: str, signal: str) -> Array:
        """Map the samples of a file."""
        if track not in self._pcm:
            raise self._unknown(track)
        if signal not in self.signals:
            raise ParameterError(f"{self.path}: no signal {signal}: expected one of {', '.join(self.signals)}")
        pcm = self._pcm[track][signal]
        shape = (pcm.nb_samples, pcm.nb_channels)
        if not pcm.nb_samples:  # which cannot be mapped
            empty = np.empty(shape, np.int16)
            empty.flags.writeable = False
            return empty
        try:
            mapped = np.memmap(pcm.path, np.dtype("<i2"), "r", pcm.offset, shape)
            same = _read_header(pcm.path) == pcm
        except (OSError, ValueError, AudioError) as error:
            if advice := advise(error):
                raise AudioError(f"{pcm.path}: {advice}") from error
            same = False
        if not same:
            raise AudioError(f"{pcm.path}: has changed since it was opened: open the dataset again")
        plain: Array = mapped.view(np.ndarray)  # np.memmap takes microseconds for each slice
        return plain


def open_waves(
    root: str | Path,
    *,
    signals: Sequence[str] | None = None,
    subsets: Sequence[str] = ("train",),
    valid: Container[str] = (),
) -> Waves:
    """Return the reader of a dataset's 16-bit wav files, as `musdbkit convert` writes them.

    Parameters
    ----------
    root : the folder that holds `train` and `test`, with a folder for each track.
    signals : names of the files, less `.wav`, in the order wanted; by default all that every track has, mixture first,
        but no sums of others.
    subsets : which subsets.
    valid : names of tracks that are of split `valid`, not `train`; the official ones are `musdb18.VALIDATION_TRACKS`,
        which are not looked up here since that takes more than NumPy. Names that are not there do not matter.

    Raises
    ------
    DatasetError
        There are no tracks, or one lacks a signal.
    AudioError
        A file is no 16-bit wav, or differs from the others in rate, channels or, within a track, length.
    """
    folder = Path(root)
    folders = [(subset, track) for subset in subsets for track in _folders(folder / subset)]
    present = [(subset, track.name, files) for subset, track in folders if (files := _waves(track))]
    counts = Counter(name for _, name, _ in present)
    found: dict[str, dict[str, Path]] = {}
    splits: dict[str, tuple[str, ...]] = {}
    for subset, track, files in present:
        name = track if counts[track] == 1 else f"{subset}/{track}"
        found[name], splits[name] = files, ("valid" if subset == "train" and track in valid else subset,)
    if not found:
        if any(next((folder / subset).glob("*.stem.mp4"), None) for subset in subsets):
            raise DatasetError(
                f"{folder}: stem files, expected wav files: convert them first: musdbkit convert {folder}"
            )
        if any(next((folder / subset).glob("*/*.flac"), None) for subset in subsets):
            raise DatasetError(f"{folder}: {_FLAC}")
        looked = ", ".join(str(folder / subset / "TRACK" / "mixture.wav") for subset in subsets)
        raise DatasetError(f"{folder}: no tracks with wav files (looked for {looked})")
    names = tuple(signals) if signals is not None else _common(found)
    for name, files in found.items():
        if lacking := [signal for signal in names if signal not in files] or ([] if names else ["a common signal"]):
            if any(next((folder / subset / name).glob(f"{lacking[0]}.flac"), None) for subset in subsets):
                raise DatasetError(f"{folder}: {name}: {_FLAC}")
            raise DatasetError(f"{folder}: {name}: no {', '.join(lacking)}: complete the folder, or name other signals")
    return Waves(folder, {name: {s: files[s] for s in names} for name, files in found.items()}, splits)


def _folders(subset: Path) -> list[Path]:
    """Return the tracks' folders in a subset's, sorted by name."""
    try:
        with os.scandir(subset) as entries:
            return sorted(
                Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(_HIDDEN)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DatasetError(f"{subset}: cannot be listed: {error.strerror}") from error


def _waves(track: Path) -> dict[str, Path]:
    """Return the wav files in a track's folder, by name less `.wav`."""
    return {path.name[:-4]: path for path in sorted(track.glob("*.wav")) if not path.name.startswith(".")}


def _common(found: Mapping[str, Mapping[str, Path]]) -> tuple[str, ...]:
    """Return the signals that every track has, the mixture first."""
    common = set.intersection(*(set(files) for files in found.values()))
    if common >= _PARTS:
        common -= _SUMS
    return tuple(sorted(common, key=lambda signal: (signal != _MIXTURE, signal)))


def _read_header(path: Path) -> _Pcm:
    """Return where the samples of a 16-bit wav file are."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(12)
            if head[:4] != b"RIFF" or head[8:] != b"WAVE":
                raise AudioError(f"{path}: {size} bytes that are no wav file: convert it with musdbkit convert")
            layout: tuple[int, ...] | None = None
            while len(chunk := file.read(8)) == 8:
                name, nb_bytes = chunk[:4], int.from_bytes(chunk[4:], "little")
                offset = file.tell()
                if name == b"fmt ":
                    content = file.read(min(nb_bytes, 40))
                    layout = struct.unpack("<HHIIHH", content[:16])
                    if layout[0] == _EXTENSIBLE and len(content) >= 26:
                        layout = (int.from_bytes(content[24:26], "little"), *layout[1:])
                elif name == b"data" and layout is not None:
                    return _locate(path, layout, offset, nb_bytes, size - offset)
                file.seek(offset + nb_bytes + nb_bytes % 2)
    except (OSError, struct.error) as error:
        raise AudioError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'no whole header'}") from error
    raise AudioError(f"{path}: no samples: the file is cut off")


def _locate(path: Path, layout: tuple[int, ...], offset: int, nb_bytes: int, nb_left: int) -> _Pcm:
    """Return where the samples are, from a wav file's format and its data chunk."""
    tag, nb_channels, sample_rate, _, nb_bytes_each, nb_bits = layout
    if tag != _PCM or nb_bits != 16 or not nb_channels or not sample_rate:
        what = f"{nb_bits}-bit {'integers' if tag == _PCM else 'floats' if tag == 3 else f'of format {tag}'}"
        raise AudioError(
            f"{path}: {what}, expected 16-bit integers: convert stem files with musdbkit convert --subtype PCM_16, "
            "or write it anew as 16-bit wav"
        )
    if nb_bytes_each != 2 * nb_channels:
        raise AudioError(
            f"{path}: {nb_bytes_each} bytes for {nb_channels} channel(s) of 16 bits, expected {2 * nb_channels}: "
            "the header is damaged"
        )
    if nb_bytes == _UNKNOWN_SIZE:
        nb_bytes = nb_left
    if nb_bytes > nb_left:
        raise AudioError(f"{path}: {nb_left} bytes of samples, expected {nb_bytes}: the file is cut off", "length")
    return _Pcm(path, sample_rate, nb_channels, nb_bytes // (2 * nb_channels), offset)
