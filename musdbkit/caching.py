"""Building the spectrogram cache: what training reads, computed once.

Reads a Spleeter configuration with its CSVs and the wav or flac files that they name, or a dataset in the `wav` or `hq`
layout. Writes the files that `cache` describes, and nothing at what a configuration calls `training_cache`: that is
Spleeter's own.

Conventions: an array is valid while its parameters, the content of its source and its length are what is asked for;
what is not is stale, and only that is computed again. A track's folder is whole or not there; it is locked while it is
written, hidden while it is changed, and its record tells what its arrays are of. The index is written last and lists
what was asked for. Arrays that are not asked for stay until they are pruned. A track's folder is the cache's own: when
it is changed, .npy files that its record does not list are removed.
"""

import contextlib
import functools
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from musdbkit import audio, musdb18
from musdbkit.cache import (
    DTYPES,
    INDEX,
    MIXTURE,
    NB_LEVELS,
    RECORD,
    Entry,
    Index,
    IndexedTrack,
    Parameters,
    Record,
    Source,
    check_folder,
    check_name,
    read_index,
    read_record,
)
from musdbkit.convert import NEW, OLD, Totals, Written, add_up, partial_folder, remove_partials, write_record
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.spleeter_files import Row, SpleeterConfig, read_config, read_csv
from musdbkit.stft import PRESETS as TRANSFORMS
from musdbkit.stft import StftParams, magnitude
from musdbkit.tracks import (
    ALL_CORES,
    PARTIAL_PREFIX,
    Outcome,
    Parallel,
    find_tracks,
    for_each,
    free_bytes,
    nb_cores,
)

PRESETS: Final = {"spleeter": 1024, "openunmix": 2049}
"""Transforms that a dataset can be cached with, by the names of `stft.PRESETS`, and how many bins their models read."""

_NB_NAMES: Final = 5  # in a line of text
_BLOCK_FRAMES: Final = 64  # half a MB of magnitudes at a time
_HEAP_BYTES: Final = 2**24
_LARGEST: Final = {
    name: float(np.finfo(dtype).max)
    for name, dtype in (("float16", np.float16), ("float32", np.float32), ("uint8", np.float32))
}
_FLOOR: Final = 1e-9  # magnitude; and 100 dB below the greatest: below them Spleeter's uint8 knows no difference
_SPAN_DECIBELS: Final = 100.0


@dataclass(frozen=True)
class Wanted:
    """One track to cache.

    Attributes
    ----------
    name : which no other track of the request has.
    folder : where its arrays go, relative to the cache.
    splits : what it is for: `train`, `valid` or `test`, or several of them.
    files : the wav or flac file of each signal.
    """

    name: str
    folder: str
    splits: tuple[str, ...]
    files: dict[str, Path]


@dataclass(frozen=True)
class Request:
    """What a cache is to hold; `read_request` and `find_request` make one.

    Attributes
    ----------
    parameters : what the arrays are to be.
    signals : `mixture` and the targets.
    tracks : tracks.
    nb_frames : length of the segments that are to be read.
    reserved : paths that are not to be written to.
    """

    parameters: Parameters
    signals: tuple[str, ...]
    tracks: tuple[Wanted, ...]
    nb_frames: int = 1
    reserved: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Cached(Written):
    """What was done for one track.

    Attributes
    ----------
    status : `built`, `rebuilt` (in part or whole) or `already there`; in a dry run `to build` or `to rebuild`.
    nb_frames : length of its arrays.
    stale : why arrays were computed, by signal.
    """

    nb_frames: int = 0
    stale: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came of building a cache.

    Attributes
    ----------
    tracks : what was done, by name.
    failed : what went wrong, by name.
    too_short : names of tracks that have no segment of the length asked for.
    unused : bytes of arrays that were not asked for, by folder; with `prune` they are gone.
    """

    tracks: dict[str, Cached]
    failed: dict[str, str]
    too_short: tuple[str, ...]
    unused: dict[str, int]


@dataclass(frozen=True)
class Info:
    """What a cache holds.

    Attributes
    ----------
    index : as it is on disk.
    nb_bytes : size of the arrays in the index.
    seconds : length of all tracks.
    stale : arrays that are missing or not what they should be, by track and signal, each with the reason.
    unused : bytes of arrays that the index does not list, by folder.
    """

    index: Index
    nb_bytes: int
    seconds: float
    stale: dict[str, dict[str, str]]
    unused: dict[str, int]

    @property
    def valid(self) -> bool:
        """Whether the cache is what was asked for."""
        return not self.stale


@dataclass(frozen=True)
class _Job:
    """One track to look at, to build or to verify."""

    track: Wanted
    out: Path
    parameters: Parameters
    force: bool = False
    known: dict[str, Source] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The track's folder."""
        return self.out / self.track.folder


@dataclass(frozen=True)
class _State:
    """How a track's folder is, against what is asked for."""

    nb_samples: int
    kept: dict[str, Entry]  # valid arrays
    stale: dict[str, str]  # why others must be computed
    known: dict[str, Source]  # sources whose hashes were looked at
    nb_replaced: int  # bytes on disk of arrays that will go
    touched: bool  # a source was changed and has the same content


# What to cache


def find_dtype(out: Path) -> str:
    """Return the dtype of the cache in a folder; `float16` where there is none."""
    try:
        return read_index(out).parameters.dtype
    except DatasetError:
        return DTYPES[0]


def read_request(config: Path, root: Path, dtype: str = DTYPES[0]) -> Request:
    """Return what a Spleeter configuration trains and validates on.

    Parameters
    ----------
    config : the JSON file. The paths in it are relative to the current folder, as Spleeter takes them.
    root : the dataset's root, that the paths in the CSVs are relative to.
    dtype : one of `cache.DTYPES`.

    Raises
    ------
    DatasetError
        The configuration or a CSV cannot be read, or a path leads out of the root.
    ParameterError
        A value cannot be used.
    """
    settings = read_config(config)
    if settings.n_fft & (settings.n_fft - 1):
        raise ParameterError(
            f"{config}: frame_length is {settings.n_fft}, expected a power of two: "
            "Spleeter transforms frames of other lengths with zeros behind them"
        )
    transform = replace(TRANSFORMS["spleeter"], n_fft=settings.n_fft, hop_length=settings.hop_length)
    signals = (MIXTURE, *settings.targets)
    if len({settings.mixture, *signals}) < len(signals) + (settings.mixture != MIXTURE):
        raise ParameterError(f"{config}: instrument_list is {', '.join(settings.targets)}: expected distinct names")
    try:
        signals = tuple(map(check_name, signals))
    except ParameterError as error:
        raise ParameterError(f"{config}: instrument_list: {error}") from error
    rows: dict[PurePosixPath, tuple[Row, list[str]]] = {}
    for split, path in (("train", settings.train_csv), ("valid", settings.validation_csv)):
        for row in _read_rows(path, settings):
            known, splits = rows.setdefault(row.files[MIXTURE], (row, []))
            if known.files != row.files:
                raise DatasetError(f"{path}: {row.files[MIXTURE]} is in two rows with different stems: correct one")
            splits += [split] if split not in splits else []
    try:
        folders = _choose_folders(list(rows))
    except ParameterError as error:
        raise DatasetError(f"{settings.train_csv}, {settings.validation_csv}: {error}") from error
    names = Counter([*folders.values(), *(row.name for row, _ in rows.values() if row.name)])
    tracks = tuple(
        Wanted(
            row.name if names[row.name] == 1 + (row.name == folders[mixture]) else folders[mixture],
            folders[mixture],
            tuple(splits),
            {signal: root / row.files[signal] for signal in signals},
        )
        for mixture, (row, splits) in rows.items()
    )
    caches = (settings.training_cache, settings.validation_cache)
    return Request(
        _parameters(transform, settings.sample_rate, settings.nb_channels, settings.nb_bins, dtype),
        signals,
        tracks,
        settings.nb_frames,
        tuple(path for path in caches if path is not None),
    )


def find_request(
    root: Path,
    preset: str,
    *,
    targets: Sequence[str] = musdb18.STEMS,
    subsets: Sequence[str] = ("train",),
    dtype: str = DTYPES[0],
) -> Request:
    """Return all tracks of a dataset of wav files, with a transform of the field's.

    Parameters
    ----------
    root : the dataset's root, in the `wav` or `hq` layout.
    preset : one of `PRESETS`.
    targets : names of files, less `.wav` or `.flac`, beside the mixture.
    subsets : which subsets.
    dtype : one of `cache.DTYPES`.

    Raises
    ------
    DatasetError
        There are no tracks of wav files.
    ParameterError
        There is no such preset, or a target is named twice.
    """
    if preset not in PRESETS:
        raise ParameterError(f"preset is {preset}, expected {' or '.join(PRESETS)}")
    signals = (MIXTURE, *map(check_name, targets))
    if len(set(signals)) < len(signals) or len(signals) == 1:
        raise ParameterError(f"targets {', '.join(targets) or '(none)'}: expected distinct ones beside the mixture")
    found = find_tracks(root, subsets, complete=False)
    if found[0].layout == "stems":
        raise DatasetError(f"{root}: stem files, expected wav files: convert them first: musdbkit convert {root}")
    names = [track.name for track in found]
    tracks = tuple(
        Wanted(
            track.name if names.count(track.name) == 1 else track.key,
            track.key,
            (track.split,),
            {signal: track.file(signal) for signal in signals},
        )
        for track in found
    )
    rates: Counter[int] = Counter()
    for track in tracks:
        with contextlib.suppress(AudioError):  # which is said when the track is built
            rates[audio.info(track.files[MIXTURE]).sample_rate] += 1
    sample_rate = rates.most_common(1)[0][0] if rates else musdb18.SAMPLE_RATE
    return Request(
        _parameters(TRANSFORMS[preset], sample_rate, musdb18.NB_CHANNELS, PRESETS[preset], dtype), signals, tracks
    )


def _parameters(transform: StftParams, sample_rate: int, nb_channels: int, nb_bins: int, dtype: str) -> Parameters:
    """Return what arrays of a transform are."""
    return Parameters(transform.n_fft, transform.hop_length, transform.window, sample_rate, nb_channels, nb_bins, dtype)


def _read_rows(path: Path, settings: SpleeterConfig) -> list[Row]:
    """Return the rows of a CSV, none of which leads out of the dataset."""
    try:
        rows = read_csv(path, settings)
    except DatasetError as error:
        if not path.is_absolute() and not path.exists():
            raise DatasetError(
                f"{error} (Spleeter, too, looks for it from the current folder, {Path.cwd()})"
            ) from error
        raise
    for row in rows:
        for signal, file in row.files.items():
            if file.is_absolute() or ".." in file.parts:
                raise DatasetError(f"{path}: {signal} {file}: expected a path inside the dataset's folder")
    return rows


def _choose_folders(mixtures: Sequence[PurePosixPath]) -> dict[PurePosixPath, str]:
    """Return a folder of its own for each track: its mixture's, or where others are in or below that, one below it."""
    parents = Counter(mixture.parent for mixture in mixtures)
    above = {folder for parent in parents for folder in parent.parents}
    folders = {}
    for mixture in mixtures:
        stem = mixture.name.rpartition(".")[0]
        if mixture.parent.name and parents[mixture.parent] == 1 and mixture.parent not in above:
            folders[mixture] = mixture.parent
        else:
            folders[mixture] = mixture.parent / (stem if stem.strip(".") else mixture.name)
    for mixture in _find_clashes(folders):
        if folders[mixture] != mixture.parent:
            folders[mixture] = mixture  # a.wav beside a.flac, or beside a/mixture.wav
    if clashes := _find_clashes(folders):
        raise ParameterError(f"{clashes[0]}: expected a folder with no other track in or below it")
    for mixture, folder in folders.items():
        if folder.parts[0] == INDEX or any(part.startswith(PARTIAL_PREFIX) for part in folder.parts):
            raise ParameterError(f"{mixture}: the cache has files of that name: expected another")
    return {mixture: check_folder(str(folder)) for mixture, folder in folders.items()}


def _find_clashes(folders: Mapping[PurePosixPath, PurePosixPath]) -> list[PurePosixPath]:
    """Return the tracks whose folder is that of another, or above or below it."""
    counts = Counter(folders.values())
    above = {parent for folder in counts for parent in folder.parents}
    return [
        track
        for track, folder in folders.items()
        if counts[folder] > 1 or folder in above or any(parent in counts for parent in folder.parents)
    ]


# Building


def build(
    request: Request,
    out: Path,
    *,
    force: bool = False,
    dry_run: bool = False,
    prune: bool = False,
    parallel: Parallel = ALL_CORES,
) -> Result:
    """Bring a cache up to date and return what was done, by track.

    Arrays that are valid are left alone. Those that are not are computed again; nothing else is. What a killed run left
    unfinished is done anew. Two runs at once share the work.

    Parameters
    ----------
    request : what the cache is to hold.
    out : the cache's folder.
    force : compute all arrays anew.
    dry_run : write nothing; say what would be done.
    prune : remove the cache's arrays that are not asked for.
    parallel : jobs and backend.

    Raises
    ------
    DatasetError
        The disk has not enough room, or `out` is Spleeter's own cache. What is wrong with a single track is in the
        result instead.
    """
    if out.resolve() in {path.resolve() for path in request.reserved}:
        raise DatasetError(
            f"{out}: Spleeter's own cache by the configuration, expected another folder: choose an --out"
        )
    jobs = [_Job(track, out, request.parameters, force) for track in request.tracks]
    looked = for_each(_look, jobs, key=_key, label="dry run" if dry_run else "look", parallel=parallel)
    todo = [job for job in jobs if _key(job) in looked.done and _needs_work(looked.done[_key(job)])]
    tracks = {name: _describe(job, looked.done[name]) for job in jobs if (name := _key(job)) in looked.done}
    _check_room(out, [looked.done[_key(job)] for job in todo], request.parameters, parallel)
    if dry_run:
        return _report(request, out, tracks, looked.failed)
    todo = [replace(job, known=looked.done[_key(job)].known) for job in todo]
    try:
        built = for_each(_build_track, todo, key=_key, label="cache", parallel=parallel)
        done = {name: built.done.get(name, track) for name, track in tracks.items() if name not in built.failed}
        if done:
            _write_index(request, out, done)
        result = _report(request, out, done, looked.failed | built.failed)
        if prune:
            _prune(out, request, result.unused)
    finally:
        remove_partials({out, *(job.folder.parent for job in jobs)})
    return result


def _report(request: Request, out: Path, tracks: dict[str, Cached], failed: dict[str, str]) -> Result:
    """Return what came of a run."""
    too_short = tuple(name for name, track in tracks.items() if track.nb_frames < request.nb_frames)
    asked = {track.folder: request.signals for track in request.tracks}
    return Result(tracks, failed, too_short, _list_unused(out, asked))


def summarise(result: Result, out: Path) -> Totals:
    """Return the totals of a run."""
    return add_up(result.tracks.values(), out)


def describe(result: Result, *, prune: bool = False) -> list[str]:
    """Return what else is to be said of a run, a line each: what was stale and why, and what is not in use."""
    rebuilt = {n: track.stale for n, track in result.tracks.items() if track.status in ("rebuilt", "to rebuild")}
    lines = _group(rebuilt)
    lines += [
        f"note: {name}: {result.tracks[name].nb_frames} frames, too short for a segment" for name in result.too_short
    ]
    return lines + _describe_unused(result.unused, "removed" if prune else "--prune removes them")


def describe_info(info: Info) -> list[str]:
    """Return what a cache holds, a line each."""
    p = info.index.parameters
    top = (p.nb_bins - 1) * p.sample_rate / p.n_fft
    splits = [split for track in info.index.tracks.values() for split in track.splits]
    counts = ", ".join(f"{split} {splits.count(split)}" for split in dict.fromkeys(splits))
    lines = [
        f"transform: frames of {p.n_fft} samples every {p.hop_length} at {p.sample_rate} Hz, window {p.window}",
        f"arrays: {p.nb_bins} bins (0 to {top:.0f} Hz), {p.nb_channels} channels, {p.dtype}",
        f"signals: {', '.join(info.index.signals)}",
        f"tracks: {counts}; {info.seconds / 60:.1f} min of music; {info.nb_bytes / 1e6:.1f} MB",
    ]
    lines += [f"not valid: {line}" for line in _group(info.stale)] or ["valid"]
    return lines + _describe_unused(info.unused, "musdbkit cache CONFIG.json --prune removes them")


def _group(stale: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each reason, with the tracks, or where it is only some arrays of a track, these."""
    places: dict[str, list[str]] = {}
    for name, reasons in stale.items():
        for reason in dict.fromkeys(reasons.values()):
            signals = [signal for signal in reasons if reasons[signal] == reason and signal]
            whole = len(signals) == len(reasons) > 1 or not signals
            places.setdefault(reason, []).append(name if whole else f"{' and '.join(signals)} of {name}")
    return [f"{reason}: {_shorten(names)}" for reason, names in places.items()]


def _describe_unused(unused: Mapping[str, int], what: str) -> list[str]:
    """Return a line on arrays that are not in use, if there are any."""
    if not unused:
        return []
    return [f"not in use: {sum(unused.values()) / 1e6:.1f} MB in {_shorten(list(unused))} ({what})"]


def _shorten(names: Sequence[str]) -> str:
    """Return the first of many names, and how many more there are."""
    more = f" and {len(names) - _NB_NAMES} more" if len(names) > _NB_NAMES else ""
    return "; ".join(names[:_NB_NAMES]) + more


def _key(job: _Job) -> str:
    """Return a job's distinct name."""
    return job.track.name


def _needs_work(state: _State) -> bool:
    """Return whether a track's folder must be written."""
    return bool(state.stale) or state.touched


def _look(job: _Job) -> _State:
    """Return how a track's folder is, without changing it."""
    with _in_one_line(job):
        return _compare(job, job.folder)


@contextlib.contextmanager
def _in_one_line(job: _Job) -> Iterator[None]:
    """Say what the system refuses as we say our own errors."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{error.filename or job.folder}: {error.strerror or error}") from error


def _describe(job: _Job, state: _State) -> Cached:
    """Return what would be done for a track."""
    status = "already there" if not state.stale else "to rebuild" if job.folder.exists() else "to build"
    nb_bytes = len(state.stale) * _array_bytes(job.parameters, state.nb_samples)
    return _cached(job, state, status, nb_bytes)


def _cached(job: _Job, state: _State, status: str, nb_bytes: int) -> Cached:
    """Return what is said of a track."""
    seconds = state.nb_samples / job.parameters.sample_rate
    return Cached(status, job.folder, seconds, nb_bytes, _shape(job.parameters, state.nb_samples)[0], state.stale)


def _array_bytes(parameters: Parameters, nb_samples: int) -> int:
    """Return the size of an array's file."""
    shape = _shape(parameters, nb_samples)
    return len(_header(parameters, nb_samples)) + int(np.prod(shape)) * np.dtype(parameters.dtype).itemsize


def _shape(parameters: Parameters, nb_samples: int) -> tuple[int, int, int]:
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
        "shape": _shape(parameters, nb_samples),
    }
    np.lib.format.write_array_header_1_0(text, description)
    return text.getvalue()


def _check_room(out: Path, states: Sequence[_State], parameters: Parameters, parallel: Parallel) -> None:
    """Refuse to start what the disk cannot hold."""
    if not states:
        return
    sizes = [_array_bytes(parameters, state.nb_samples) for state in states]
    new = [len(state.stale) * size for state, size in zip(states, sizes, strict=True)]
    old = [state.nb_replaced for state in states]
    # Old arrays go when a track's new ones are whole, so for each worker one track's may be there twice.
    jobs = min(parallel.jobs or nb_cores(), len(states))
    nb_needed = min(sum(new), sum(new) - sum(old) + sum(sorted(old)[len(old) - jobs :]))
    if parameters.dtype == "uint8":  # whose magnitudes are written first, one array's at a time
        nb_needed += 4 * jobs * max(sizes)
    nb_free = free_bytes(out)
    if nb_needed > nb_free:
        raise DatasetError(
            f"{out}: needs {nb_needed / 1e9:.3f} GB more, {nb_free / 1e9:.3f} GB are free: make room, choose another "
            f"--out, or the --dtype with the least bytes of {', '.join(DTYPES)}"
        )


def _compare(job: _Job, folder: Path) -> _State:
    """Return how a folder is against what is asked for; refuse one that is not ours and sources that do not match."""
    nb_samples = _measure(job)
    signals = tuple(job.track.files)
    old = _read_ours(folder)
    if old is None:
        return _State(nb_samples, {}, dict.fromkeys(signals, "not there"), {}, 0, False)
    changed = _changes(old.parameters, job.parameters)
    if not changed and old.nb_samples != nb_samples:
        changed = f"the track had {old.nb_samples} samples, now {nb_samples}"
    for path in (folder / f"{signal}.npy" for signal in signals):
        if path.is_dir():
            raise DatasetError(f"{path}: is a folder, expected a file: move it away")
    kept: dict[str, Entry] = {}
    stale: dict[str, str] = {}
    known: dict[str, Source] = {}
    touched = False
    for signal, entry in old.signals.items():
        path = folder / f"{signal}.npy"
        reason = changed or ("asked for again" if job.force and signal in signals else "")
        if not reason and _size(path) != entry.nb_bytes:
            reason = "its file is missing, or has another size"
        if not reason and signal in signals:
            file = job.track.files[signal]
            known[signal] = _identify(file, job.known.get(signal), entry.source)
            if known[signal].sha256 != entry.source.sha256:
                reason = f"{file.name} has changed"
            elif known[signal] != entry.source:
                entry, touched = replace(entry, source=known[signal]), True
        if not reason:
            kept[signal] = entry
        elif signal in signals:
            stale[signal] = reason
    stale |= {signal: "not there" for signal in signals if signal not in old.signals}
    nb_replaced = sum(_size(path) or 0 for path in folder.glob("*.npy") if path.name[: -len(".npy")] not in kept)
    return _State(nb_samples, kept, {s: stale[s] for s in signals if s in stale}, known, nb_replaced, touched)


def _read_ours(folder: Path) -> Record | None:
    """Return the record in a track's folder, an empty one if it cannot be read, None where nothing is there."""
    record = read_record(folder)
    if record is not None or not folder.exists():
        return record
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is a file, expected a folder: move it away")
    if not any(folder.iterdir()):
        return None
    if not (folder / RECORD).exists():
        raise DatasetError(f"{folder}: is there, but not made by cache (no {RECORD}): choose another --out")
    return Record(Parameters(2, 1, "", 1, 1, 1, DTYPES[0]), -1, 0, {})


def _size(path: Path) -> int | None:
    """Return the size of a file, None where there is none (any more: another run may be at work)."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_size if S_ISREG(stat.st_mode) else None


def _changes(old: Parameters, new: Parameters) -> str:
    """Return how parameters differ; nothing where they do not."""
    pairs = [(name, value, getattr(new, name)) for name, value in vars(old).items()]
    return ", ".join(f"{name} was {before}, now {after}" for name, before, after in pairs if before != after)


def _measure(job: _Job) -> int:
    """Return a track's length in samples; check its files against each other and against what is asked for."""
    infos = {signal: audio.info(path) for signal, path in job.track.files.items()}
    length = infos[MIXTURE].nb_samples
    expected = (
        ("rate", "sample_rate", job.parameters.sample_rate, "Hz", "resample it"),
        ("channels", "nb_channels", job.parameters.nb_channels, "channel(s)", "write it anew"),
        ("length", "nb_samples", length, "samples", "all files of a track must have one length"),
    )
    for signal, info in infos.items():
        for code, name, want, unit, advice in expected:
            if getattr(info, name) != want:
                path = job.track.files[signal]
                raise AudioError(f"{path}: {getattr(info, name)} {unit}, expected {want}: {advice}", code, signal)
    if length < job.parameters.n_fft:
        raise AudioError(
            f"{job.track.files[MIXTURE]}: {length} samples, expected at least one frame of {job.parameters.n_fft}",
            "length",
        )
    return length


def _identify(path: Path, *known: Source | None) -> Source:
    """Return what a file is; its hash is computed unless it is known and the file was not touched since."""
    stat = path.stat()
    for source in known:
        if source is not None and _stamp(source) == (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns):
            return source
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(stat.st_size, digest, stat.st_mtime_ns, stat.st_ctime_ns)


def _stamp(source: Source) -> tuple[int, int, int]:
    """Return by what a file that was not touched is known."""
    return source.nb_bytes, source.mtime_ns, source.ctime_ns


def _build_track(job: _Job) -> Cached:
    """Bring one track's folder up to date."""
    # Once it has freed a block of this size, glibc keeps up to twice as much instead of giving it back to the system;
    # else new pages, two MB for each block of frames, take as long as the transforms.
    np.empty(_HEAP_BYTES, np.uint8)
    with _in_one_line(job):
        fresh = not job.folder.exists()
        with partial_folder(job.folder) as partial:
            current = partial / OLD if (partial / OLD).exists() else job.folder
            state = _compare(job, current)  # again: another run may have been here before the lock
            nb_bytes = 0
            if _needs_work(state) or current != job.folder:
                made = {s: _write_array(job, s, state, partial / NEW) for s in state.stale}
                nb_bytes = sum(entry.nb_bytes for entry in made.values())
                nb_frames = _shape(job.parameters, state.nb_samples)[0]
                record = Record(job.parameters, state.nb_samples, nb_frames, state.kept | made)
                _replace(job.folder, current, partial, record, made)
        status = "already there" if not state.stale else "built" if fresh else "rebuilt"
        return _cached(job, state, status, nb_bytes)


def _replace(folder: Path, current: Path, partial: Path, record: Record, made: Mapping[str, Entry]) -> None:
    """Give a track's folder its new arrays, and remove those that its record no longer lists.

    It is hidden meanwhile. If this is killed, the hidden folder's record tells which of its arrays are sound.
    """
    signals = {signal: record.signals[signal] for signal in sorted(record.signals)}
    record = replace(record, signals=signals)
    if not current.exists() or not any(current.iterdir()):
        write_record(partial / NEW / RECORD, record.to_json(), partial / NEW)
        (partial / NEW).rename(folder)
        return
    hidden = partial / OLD
    if current != hidden:
        current.rename(hidden)
    kept = {signal: entry for signal, entry in signals.items() if signal not in made}
    write_record(hidden / RECORD, replace(record, signals=kept).to_json(), partial / NEW)
    for path in hidden.glob("*.npy"):
        if path.name[: -len(".npy")] not in kept and path.is_file():
            path.unlink()
    for signal in made:
        (partial / NEW / f"{signal}.npy").rename(hidden / f"{signal}.npy")
    write_record(hidden / RECORD, record.to_json(), partial / NEW)
    hidden.rename(folder)


def _write_array(job: _Job, signal: str, state: _State, folder: Path) -> Entry:
    """Write the array of one signal into a folder; return its entry in the record."""
    path = job.track.files[signal]
    source = _identify(path, state.known.get(signal))
    blocks = _magnitudes(path, job.parameters)
    lo = hi = None
    if job.parameters.dtype == "uint8":  # whose range is known only at the end
        unscaled = folder / f"{signal}.magnitudes"
        lo, hi = _store(blocks, unscaled)
        blocks = _restore(unscaled, job.parameters)
    digest = hashlib.sha256()
    out = folder / f"{signal}.npy"
    with out.open("wb") as file:
        for data in _encode(blocks, job, lo, hi, _header(job.parameters, state.nb_samples)):
            file.write(data)
            digest.update(data)
    if _stamp(source) != _stamp(_identify(path, source)):
        raise AudioError(f"{path}: changed while it was read: run again")
    nb_bytes = out.stat().st_size
    if nb_bytes != _array_bytes(job.parameters, state.nb_samples):
        raise AudioError(f"{path}: changed while it was read: run again", "length")
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
    blocks: Iterator[NDArray[np.float32]], job: _Job, lo: float | None, hi: float | None, header: bytes
) -> Iterator[Any]:
    """Yield what an array's file holds."""
    yield header
    dtype = np.dtype(job.parameters.dtype).newbyteorder("<")
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


def _write_index(request: Request, out: Path, done: Mapping[str, Cached]) -> None:
    """Write the index of the tracks that are there, unless it is there already."""
    tracks = {t.name: IndexedTrack(t.folder, t.splits) for t in request.tracks if t.name in done}
    index = Index(request.parameters, request.signals, tracks)
    with contextlib.suppress(DatasetError):
        if read_index(out) == index:
            return
    with partial_folder(out / INDEX) as partial:
        write_record(out / INDEX, index.to_json(), partial / NEW)


# What is not asked for


def _list_unused(out: Path, asked: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the bytes of arrays that are none of those asked for, by folder."""
    unused = {}
    for parent, folders, files in os.walk(out):
        folders[:] = sorted(name for name in folders if not name.startswith(PARTIAL_PREFIX))  # others are at work there
        folder = Path(parent).relative_to(out).as_posix()
        if INDEX in files and folder != ".":  # another cache
            folders.clear()
            continue
        if RECORD not in files or (folder not in asked and read_record(Path(parent)) is None):  # or not ours
            continue
        names = {f"{signal}.npy" for signal in asked.get(folder, ())}
        nb_bytes = sum(_size(Path(parent, f)) or 0 for f in files if f.endswith(".npy") and f not in names)
        if nb_bytes or folder not in asked:
            unused[folder] = nb_bytes
    return unused


def _prune(out: Path, request: Request, unused: Mapping[str, int]) -> None:
    """Remove the cache's arrays that are not asked for."""
    asked = {track.folder for track in request.tracks}
    for name in unused:
        folder = out / name
        with partial_folder(folder) as partial:
            record = read_record(folder)
            if name in asked and record is not None:
                kept = {signal: entry for signal, entry in record.signals.items() if signal in request.signals}
                _replace(folder, folder, partial, replace(record, signals=kept), {})
            elif name not in asked:
                for path in (*folder.glob("*.npy"), folder / RECORD):
                    path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # other files of the user's
                    folder.rmdir()


# Looking at a cache


def inspect(out: Path, request: Request | None = None, *, parallel: Parallel = ALL_CORES) -> Info:
    """Return what a cache holds and which of its arrays are not valid, and why.

    Parameters
    ----------
    out : the cache's folder.
    request : what it should hold; without one it is only compared with its own records, not with the sources.
    parallel : jobs and backend.

    Raises
    ------
    DatasetError
        There is no cache.
    """
    index = read_index(out)
    stale: dict[str, dict[str, str]] = {}
    nb_bytes, nb_samples = 0, 0
    for name, track in index.tracks.items():
        record = read_record(out / track.folder)
        problems = _check_record(out / track.folder, record, index)
        if problems:
            stale[name] = problems
        if record is not None:
            nb_samples += record.nb_samples
            nb_bytes += sum(record.signals[s].nb_bytes for s in index.signals if s in record.signals)
    if request is not None:
        jobs = [_Job(track, out, request.parameters) for track in request.tracks]
        looked = for_each(_look, jobs, key=_key, label="look", parallel=parallel)
        stale = {name: state.stale for name, state in looked.done.items() if state.stale}
        stale |= {name: {"": message} for name, message in looked.failed.items()}
        said = {reason for reasons in stale.values() for reason in reasons.values()}
        changes = _index_changes(index, request)
        stale |= {name: {"": text} for name, text in changes.items() if name not in stale and text not in said}
    asked = {track.folder: index.signals for track in index.tracks.values()}
    return Info(index, nb_bytes, nb_samples / index.parameters.sample_rate, stale, _list_unused(out, asked))


def _index_changes(index: Index, request: Request) -> dict[str, str]:
    """Return why the index is not what is asked for, by track; for INDEX what concerns all."""
    changes = {}
    if text := _changes(index.parameters, request.parameters):
        changes[INDEX] = text
    elif index.signals != request.signals:
        changes[INDEX] = f"signals were {', '.join(index.signals)}, now {', '.join(request.signals)}"
    wanted = {track.name: track for track in request.tracks}
    for name in sorted(index.tracks.keys() | wanted.keys()):
        if name not in wanted:
            changes[name] = "in the cache, but not asked for"
        elif name not in index.tracks:
            changes[name] = "not in the index"
        elif index.tracks[name] != IndexedTrack(wanted[name].folder, wanted[name].splits):
            old, new = index.tracks[name], wanted[name]
            changes[name] = f"splits were {', '.join(old.splits)}, now {', '.join(new.splits)}"
            if old.folder != new.folder:
                changes[name] = f"folder was {old.folder}, now {new.folder}"
    return changes


def _check_record(folder: Path, record: Record | None, index: Index) -> dict[str, str]:
    """Return what is wrong with a track's arrays by its record and their sizes, by signal."""
    if record is None:
        return {"": f"no {RECORD} that this version reads"}
    if record.parameters != index.parameters:
        return {"": "made with other parameters than the index says"}
    problems = {}
    for signal in index.signals:
        path = folder / f"{signal}.npy"
        if signal not in record.signals:
            problems[signal] = "not there"
        elif _size(path) != record.signals[signal].nb_bytes:
            problems[signal] = "its file is missing, or has another size"
    return problems


def verify(out: Path, request: Request | None = None, *, parallel: Parallel = ALL_CORES) -> Outcome[int]:
    """Read a whole cache and compare it with the hashes in its records; return the bytes read, and what is wrong.

    Parameters
    ----------
    out : the cache's folder.
    request : what it should hold; then the hashes of all sources are computed and compared, too.
    parallel : jobs and backend.

    Raises
    ------
    DatasetError
        There is no cache.
    """
    index = read_index(out)
    if request is not None and (changes := _index_changes(index, request).get(INDEX)):
        raise DatasetError(f"{out}: made otherwise: {changes}: run musdbkit cache again")
    wanted = {track.name: track for track in request.tracks} if request is not None else {}
    empty = {name: Wanted(name, track.folder, track.splits, {}) for name, track in index.tracks.items()}
    jobs = [_Job(track, out, index.parameters) for track in (empty | wanted).values()]
    verify_track = functools.partial(_verify_track, index=index)
    return for_each(verify_track, jobs, key=_key, label="verify", parallel=parallel)


def _verify_track(job: _Job, index: Index) -> int:
    """Return the bytes of a track's arrays; raise an error that names those that are not what their record says."""
    with _in_one_line(job):
        return _compare_hashes(job, index)


def _compare_hashes(job: _Job, index: Index) -> int:
    """Return the bytes of a track's arrays, as `_verify_track`."""
    record = read_record(job.folder)
    problems = [f"{signal} {text}".strip() for signal, text in _check_record(job.folder, record, index).items()]
    nb_bytes = 0
    for signal in index.signals if record is not None and not problems else ():
        entry = record.signals[signal]  # type: ignore[union-attr]
        path = job.folder / f"{signal}.npy"
        nb_bytes += entry.nb_bytes
        if _identify(path).sha256 != entry.sha256:
            problems.append(f"{path.name} is not what was written: remove it and run musdbkit cache again")
        if signal in job.track.files and _identify(job.track.files[signal]).sha256 != entry.source.sha256:
            problems.append(f"{job.track.files[signal]} has changed: run musdbkit cache again")
    if problems:
        raise DatasetError(f"{job.folder}: {'; '.join(problems)}")
    return nb_bytes
