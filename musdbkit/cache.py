"""The spectrogram cache: its format on disk, and its reader.

`caching` writes a cache; this module reads it and needs nothing but NumPy, so that a training machine needs no more.

| file | what it holds |
|---|---|
| `<cache>/index.json` | parameters, signals, and each track's folder and splits |
| `<cache>/<folder>/<signal>.npy` | magnitudes (nb_frames, nb_bins, nb_channels), as float16, float32 or uint8 |
| `<cache>/<folder>/.cache.json` | what the arrays were made of and by, and for uint8 the range they span |

Conventions: frame t begins at sample `t * hop_length`; only whole frames are there. uint8 codes are Spleeter's: code c
stands for `lo + c * (hi - lo) / 255.9999` dB, with lo and hi of the whole track.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from musdbkit.errors import DatasetError, ParameterError
from musdbkit.segments import Array, Reader, advise

VERSION: Final = 1
"""Version of the format."""

INDEX: Final = "index.json"
RECORD: Final = ".cache.json"

MIXTURE: Final = "mixture"
"""The signal that comes first."""

DTYPES: Final = ("float16", "float32", "uint8")
"""How magnitudes are stored."""

NB_LEVELS: Final = 255.9999
"""Steps between lo and hi in Spleeter's uint8 codes."""

_MOST_HEADER_BYTES: Final = 4096  # of a .npy file; NumPy writes 128
_MOST_DECIBELS: Final = 1000  # float32 holds magnitudes up to 771 dB


@dataclass(frozen=True)
class Parameters:
    """What a cache's arrays are.

    Attributes
    ----------
    n_fft, hop_length, window : as in `stft.StftParams`; frames begin at sample 0 and are whole, spectra are not scaled.
    sample_rate : Hz.
    nb_channels : channels of every signal.
    nb_bins : how many bins are kept, from 0 Hz on.
    dtype : one of `DTYPES`.
    """

    n_fft: int
    hop_length: int
    window: str
    sample_rate: int
    nb_channels: int
    nb_bins: int
    dtype: str

    def __post_init__(self) -> None:
        """Refuse what cannot be stored."""
        if self.dtype not in DTYPES:
            raise ParameterError(f"dtype is {self.dtype}, expected one of {', '.join(DTYPES)}")
        for name in ("n_fft", "hop_length", "sample_rate", "nb_channels", "nb_bins"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ParameterError(f"{name} is {getattr(self, name)}, expected a whole number above 0")
        if self.hop_length > self.n_fft:
            raise ParameterError(f"hop_length is {self.hop_length}, expected at most n_fft, which is {self.n_fft}")
        if self.nb_bins > self.n_fft // 2 + 1:
            raise ParameterError(
                f"nb_bins is {self.nb_bins}, expected at most {self.n_fft // 2 + 1}, half of n_fft + 1"
            )


@dataclass(frozen=True)
class Source:
    """The file that an array was made from.

    Attributes
    ----------
    nb_bytes : size.
    sha256 : of the whole file.
    mtime_ns, ctime_ns : when the file and what the system knows of it were last changed; while these and the size stay
        the same, the hash need not be computed again.
    """

    nb_bytes: int
    sha256: str
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class Entry:
    """One array in a track's record.

    Attributes
    ----------
    source : what it was made from.
    nb_bytes : size of the .npy file.
    sha256 : of the whole .npy file.
    lo, hi : for uint8 the dB of code 0 and of the end of the last code; else None.
    """

    source: Source
    nb_bytes: int
    sha256: str
    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True)
class Record:
    """What `.cache.json` holds.

    Attributes
    ----------
    parameters : of all arrays.
    nb_samples : length of the track's signals.
    nb_frames : length of the arrays.
    signals : arrays by signal.
    pending : signals whose arrays are being replaced or removed, and not to be trusted.
    """

    parameters: Parameters
    nb_samples: int
    nb_frames: int
    signals: dict[str, Entry]
    pending: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is written."""
        return {"version": VERSION, **asdict(self)}


@dataclass(frozen=True)
class IndexedTrack:
    """One track of the index.

    Attributes
    ----------
    folder : where its arrays are, relative to the cache.
    splits : what it is for: `train`, `valid` or `test`, or several of them.
    """

    folder: str
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """What `index.json` holds.

    Attributes
    ----------
    parameters : of all arrays.
    signals : the mixture first.
    tracks : by name.
    """

    parameters: Parameters
    signals: tuple[str, ...]
    tracks: dict[str, IndexedTrack]

    def to_json(self) -> dict[str, Any]:
        """Return the index as it is written."""
        return {"version": VERSION, **asdict(self)}


def read_index(path: Path) -> Index:
    """Return a cache's index.

    Raises
    ------
    DatasetError
        There is none, or it is none that this version reads.
    """
    document = _read_json(path / INDEX)
    if path.is_file():
        raise DatasetError(f"{path}: is a file, expected the cache's folder")
    if document is None:
        what = "no such folder" if not path.is_dir() else f"no {INDEX}: not a cache, or not built to the end"
        raise DatasetError(f"{path}: {what}: build it with musdbkit cache CONFIG.json --out {path}")
    try:
        index = Index(
            Parameters(**document["parameters"]),
            tuple(map(check_name, _list(document["signals"]))),
            {
                name: IndexedTrack(check_folder(track["folder"]), tuple(map(check_name, _list(track["splits"]))))
                for name, track in document["tracks"].items()
            },
        )
        if document["version"] == VERSION and index.signals and index.tracks:
            return index
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DatasetError(f"{path / INDEX}: not an index of format {VERSION}: build the cache again with musdbkit cache")


def read_record(folder: Path) -> Record | None:
    """Return the record in a track's folder, None where there is none that this version reads."""
    document = _read_json(folder / RECORD)
    try:
        if document is None or document["version"] != VERSION:
            return None
        entries = {
            check_name(signal): Entry(**{**entry, "source": Source(**entry["source"])})
            for signal, entry in document["signals"].items()
        }
        pending = tuple(map(check_name, _list(document["pending"])))
        parameters = Parameters(**document["parameters"])
        record = Record(parameters, document["nb_samples"], document["nb_frames"], entries, pending)
        return record if _is_sound(record) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_sound(record: Record) -> bool:
    """Return whether a record's values are what they must be."""
    p = record.parameters
    numbers = [record.nb_samples, record.nb_frames]
    numbers += [n for e in record.signals.values() for n in (e.nb_bytes, e.source.nb_bytes, e.source.mtime_ns)]
    levels = [level for e in record.signals.values() for level in (e.lo, e.hi)]
    nb_values = record.nb_frames * p.nb_bins * p.nb_channels * np.dtype(p.dtype).itemsize
    return (
        all(type(number) is int for number in numbers)
        and record.nb_frames == 1 + (record.nb_samples - p.n_fft) // p.hop_length
        and all(0 < e.nb_bytes - nb_values < _MOST_HEADER_BYTES for e in record.signals.values())
        and all(_is_level(level) if p.dtype == "uint8" else level is None for level in levels)
    )


def _is_level(value: Any) -> bool:
    """Return whether a JSON value may be a level in dB."""
    return type(value) in (int, float) and abs(value) < _MOST_DECIBELS


def _list(value: Any) -> list[Any]:
    """Return a JSON value that must be a list."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _read_json(path: Path) -> Any:
    """Return what a JSON file holds, None where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return document if isinstance(document, dict) else {}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        return {}
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


def check_name(name: str) -> str:
    """Return the name of a signal; refuse one that is no file name."""
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set("/\\\0"):
        raise ParameterError(f"signal {name!r}: expected a name without slashes that does not begin with a dot")
    return name


def check_folder(folder: str) -> str:
    """Return a track's folder, relative to the cache; refuse one that leads out of it."""
    parts = PurePosixPath(folder).parts
    if not parts or folder.startswith("/") or ".." in parts or "\0" in folder:
        raise ParameterError(f"folder {folder!r}: expected one inside the cache")
    return folder


def decode_table(lo: float, hi: float) -> NDArray[np.float32]:
    """Return the magnitude that each uint8 code stands for [shape=(256,)]."""
    decibels = np.arange(256, dtype=np.float32) * np.float32((hi - lo) / NB_LEVELS) + np.float32(lo)
    magnitudes: NDArray[np.float32] = np.power(np.float32(10), decibels / np.float32(20))
    return magnitudes


class Cache(Reader):
    """The reader of a spectrogram cache; `open_cache` makes one.

    `segment` and `batches` give magnitudes (nb_frames, nb_bins, nb_channels): float16 or float32 as stored, float32 for
    uint8. `array` and `table` give what is stored, to be decoded on a GPU for instance.

    Attributes
    ----------
    parameters : what the arrays are.
    """

    def __init__(self, path: Path, signals: Sequence[str] | None = None) -> None:
        super().__init__()
        index = read_index(path)
        self.path = path
        if isinstance(signals, str):
            raise ParameterError(f"signals is {signals!r}, expected a list of names")
        self.parameters = index.parameters
        self.signals = index.signals if signals is None else tuple(signals)
        lacking = [signal for signal in self.signals if signal not in index.signals]
        if lacking or not self.signals:
            raise ParameterError(f"{path}: no signal {', '.join(lacking) or 'named'}, only {', '.join(index.signals)}")
        self.tracks = tuple(index.tracks)
        self.splits = {name: track.splits for name, track in index.tracks.items()}
        self.sample_rate = index.parameters.sample_rate
        self._hop_length = index.parameters.hop_length
        self._span = index.parameters.n_fft
        self._folders = {name: path / track.folder for name, track in index.tracks.items()}
        self._records = {name: self._read(folder) for name, folder in self._folders.items()}

    def _read(self, folder: Path) -> Record:
        """Return a track's record, checked against the index."""
        record = read_record(folder)
        problem = ""
        if record is None:
            problem = f"no {RECORD} that this version reads"
        elif record.parameters != self.parameters:
            problem = "made with other parameters than the index says"
        elif lacking := [signal for signal in self.signals if signal not in record.signals]:
            problem = f"no {', '.join(lacking)}"
        if record is None or problem:
            raise DatasetError(
                f"{folder}: {problem}: the cache is being changed, or is broken: run musdbkit cache again"
            )
        return record

    def nb_samples(self, track: str) -> int:
        """Return the length of a track in samples."""
        if track not in self._records:
            raise self._unknown(track)
        return self._records[track].nb_samples

    def table(self, track: str, signal: str) -> NDArray[np.float32] | None:
        """Return the magnitude of each uint8 code of an array [shape=(256,)], None where magnitudes are stored."""
        entry = self._entry(track, signal)
        return None if entry.lo is None or entry.hi is None else decode_table(entry.lo, entry.hi)

    def _entry(self, track: str, signal: str) -> Entry:
        """Return what a record says of an array."""
        if track not in self._records:
            raise self._unknown(track)
        if signal not in self._records[track].signals:
            raise ParameterError(
                f"{self.path}: no signal {signal} of {track}: expected one of {', '.join(self.signals)}"
            )
        return self._records[track].signals[signal]

    def _map(self, track: str, signal: str) -> Array:
        """Map an array's file and check it against the record."""
        entry = self._entry(track, signal)
        path = self._folders[track] / f"{signal}.npy"
        expected = (self._records[track].nb_frames, self.parameters.nb_bins, self.parameters.nb_channels)
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # np.load takes files that are no .npy, too
        except Exception as error:  # of a broken header NumPy's parser raises many kinds
            if advice := advise(error):
                raise DatasetError(f"{path}: {advice}") from error
            self._check_same(track)
            reason = getattr(error, "strerror", None) or "no whole .npy file"
            raise DatasetError(f"{path}: {reason}: run musdbkit cache again") from error
        self._check_same(track)  # after the file was mapped: so both are of one time
        dtype = np.dtype(self.parameters.dtype).newbyteorder("<")
        if (array.shape, array.dtype, array.offset + array.nbytes) != (expected, dtype, entry.nb_bytes):
            raise DatasetError(
                f"{path}: {array.dtype} {array.shape} up to byte {array.offset + array.nbytes}, expected "
                f"{self.parameters.dtype} {expected} up to {entry.nb_bytes}: remove it and run musdbkit cache again"
            )
        plain: Array = array.view(np.ndarray)  # np.memmap takes microseconds for each slice
        return plain

    def _check_same(self, track: str) -> None:
        """Refuse a track that was built again since the cache was opened: old and new arrays do not go together."""
        old, new = self._records[track], self._read(self._folders[track])
        if new.nb_samples != old.nb_samples or any(
            new.signals[signal].sha256 != old.signals[signal].sha256 for signal in self.signals
        ):
            raise DatasetError(f"{self._folders[track]}: was built again since the cache was opened: open it again")

    def _decoded(self, track: str, signal: str, start: int, stop: int) -> Array:
        table = self.table(track, signal)
        codes = self.array(track, signal)[start:stop]
        return codes if table is None else table[codes]

    def _copy_to(self, out: Array, track: str, signal: str, start: int) -> None:
        table = self.table(track, signal)
        if table is None:
            super()._copy_to(out, track, signal, start)
        else:
            np.take(table, self.array(track, signal)[start : start + len(out)], out=out, mode="clip")

    def _empty(self, batch_size: int, nb_frames: int) -> Array:
        shape = (batch_size, nb_frames, self.parameters.nb_bins, self.parameters.nb_channels)
        return np.empty(shape, "float32" if self.parameters.dtype == "uint8" else self.parameters.dtype)


def open_cache(path: str | Path, *, signals: Sequence[str] | None = None) -> Cache:
    """Return the reader of a spectrogram cache.

    Parameters
    ----------
    path : the folder that `musdbkit cache` wrote.
    signals : which signals, in which order; all by default, the mixture first.

    Raises
    ------
    DatasetError
        There is no cache, or it is not whole.
    ParameterError
        It holds no such signal.
    """
    return Cache(Path(path), signals)
