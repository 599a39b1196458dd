"""Building the spectrogram cache: what training reads, computed once.

Reads the wav or flac files that a request of `cache_request` names. Writes the files that `cache` describes, and
nothing at what a configuration calls `training_cache`: that is Spleeter's own.

Conventions: an array is valid while its parameters, the content of its source and its length are what is asked for;
what is not is stale, and only that is computed again. A track's folder is whole or not there; it is locked while it is
written, hidden while it is changed, and its record tells what its arrays are of. The index is written last and lists
what was asked for. Arrays that are not asked for stay until they are pruned, or until other parameters make a track's
arrays anew. Other files in a track's folder are left alone.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Final

import numpy as np

from musdbkit import audio
from musdbkit.cache import (
    DTYPES,
    INDEX,
    MIXTURE,
    RECORD,
    Entry,
    Index,
    IndexedTrack,
    Parameters,
    Record,
    Source,
    read_index,
    read_record,
)
from musdbkit.cache_arrays import array_bytes, array_shape, identify, write_array
from musdbkit.cache_request import Request, Wanted, find_folders
from musdbkit.convert import (
    NEW,
    OLD,
    Totals,
    Written,
    add_up,
    partial_folder,
    partial_path,
    remove_partials,
    write_record,
)
from musdbkit.errors import AudioError, DatasetError
from musdbkit.tracks import ALL_CORES, PARTIAL_PREFIX, Outcome, Parallel, for_each, free_bytes, nb_cores

_NB_NAMES: Final = 5  # in a line of text
_HEAP_BYTES: Final = 2**24


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
    notes : what else the user should know, a line each.
    unused : bytes of arrays that were not asked for, by folder.
    pruned : whether these are gone.
    """

    tracks: dict[str, Cached]
    failed: dict[str, str]
    notes: tuple[str, ...]
    unused: dict[str, int]
    pruned: bool = False


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
    compared : whether it was compared with what was asked for.
    """

    index: Index
    nb_bytes: int
    seconds: float
    stale: dict[str, dict[str, str]]
    unused: dict[str, int]
    compared: bool

    @property
    def valid(self) -> bool:
        """Whether the cache is what was asked for, or without that what its index says."""
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
    hidden: bool  # a run was killed while it changed the folder


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
    unfinished is done anew. Two runs at once wait for each other, track by track.

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
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out}: is a file, expected the cache's folder: choose another --out")
    jobs = [_Job(track, out, request.parameters, force) for track in request.tracks]
    for job in jobs:
        if any(job.folder.resolve() == path.parent.resolve() for path in job.track.files.values()):
            raise DatasetError(f"{out}: holds the tracks themselves ({job.folder}): choose another --out")
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
        if prune and not result.failed:  # of a track that failed, nothing is known to be out of use
            result = replace(result, failed=_prune(out, request, result.unused), pruned=True)
    finally:
        parents = {job.folder.parent for job in jobs} | {folder.parent for folder in find_folders(out)}
        remove_partials({out, *parents})
    return result


def _report(request: Request, out: Path, tracks: dict[str, Cached], failed: dict[str, str]) -> Result:
    """Return what came of a run."""
    too_short = [name for name, track in tracks.items() if track.nb_frames < request.nb_frames]
    shared = [track.name for track in request.tracks if {"train", "valid"} <= set(track.splits)]
    notes = []
    if too_short:
        notes.append(f"shorter than a segment of T = {request.nb_frames} frames: {_shorten(too_short)}")
    if shared:
        notes.append(f"in the training and in the validation CSV: {_shorten(shared)}")
    asked = {track.folder: request.signals for track in request.tracks}
    return Result(tracks, failed, tuple(notes), _list_unused(out, asked))


def summarise(result: Result, out: Path) -> Totals:
    """Return the totals of a run."""
    return add_up(result.tracks.values(), out)


def describe(result: Result) -> list[str]:
    """Return what else is to be said of a run, a line each: what was stale and why, and what is not in use."""
    rebuilt = {n: track.stale for n, track in result.tracks.items() if track.status in ("rebuilt", "to rebuild")}
    lines = _group(rebuilt) + [f"note: {note}" for note in result.notes]
    return lines + _describe_unused(result.unused, "removed" if result.pruned else "--prune removes them")


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
    if info.stale:
        lines += [f"not valid: {line}" for line in _group(info.stale)]
        lines.append("musdbkit cache CONFIG.json brings it up to date")
    else:
        lines.append("valid" if info.compared else "whole (give CONFIG.json to compare it with its sources)")
    return lines + _describe_unused(info.unused, "--prune removes what CONFIG.json does not ask for")


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
    return bool(state.stale) or state.touched or state.hidden


def _look(job: _Job) -> _State:
    """Return how a track's folder is, without changing it."""
    with _in_one_line(job):
        return _compare(job, _current(job.folder))


def _current(folder: Path) -> Path:
    """Return where a track's folder is: in its hidden folder, if a run was killed while it changed it."""
    hidden = partial_path(folder) / OLD
    return hidden if hidden.exists() and not folder.exists() else folder


@contextlib.contextmanager
def _in_one_line(job: _Job) -> Iterator[None]:
    """Say what the system refuses as we say our own errors."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{error.filename or job.folder}: {error.strerror or error}") from error


def _describe(job: _Job, state: _State) -> Cached:
    """Return what would be done for a track."""
    status = "already there" if not state.stale else "to rebuild" if _current(job.folder).exists() else "to build"
    nb_bytes = len(state.stale) * array_bytes(job.parameters, state.nb_samples)
    return _cached(job, state, status, nb_bytes)


def _cached(job: _Job, state: _State, status: str, nb_bytes: int) -> Cached:
    """Return what is said of a track."""
    seconds = state.nb_samples / job.parameters.sample_rate
    return Cached(status, job.folder, seconds, nb_bytes, array_shape(job.parameters, state.nb_samples)[0], state.stale)


def _check_room(out: Path, states: Sequence[_State], parameters: Parameters, parallel: Parallel) -> None:
    """Refuse to start what the disk cannot hold."""
    if not states:
        return
    sizes = [array_bytes(parameters, state.nb_samples) for state in states]
    new = [len(state.stale) * size for state, size in zip(states, sizes, strict=True)]
    old = [state.nb_replaced for state in states]
    # Old arrays go when a track's new ones are whole, so for each worker one track's may be there twice.
    jobs = min(parallel.jobs or nb_cores(), len(states))
    at_once = [sum(sorted(sizes_)[len(states) - jobs :]) for sizes_ in (new, old)]
    nb_needed = max(at_once[0], min(sum(new), sum(new) - sum(old) + at_once[1]))
    if parameters.dtype == "uint8":  # whose magnitudes are written first, one array's at a time
        nb_needed += 4 * jobs * max(sizes)
    nb_free = free_bytes(out)
    if nb_needed > nb_free:
        other = "fewer --jobs" if parameters.dtype == "uint8" else "--dtype uint8"
        raise DatasetError(
            f"{out}: needs {nb_needed / 1e6:.1f} MB more, {nb_free / 1e6:.1f} MB are free: "
            f"make room, or choose another --out or {other}"
        )


def _compare(job: _Job, folder: Path) -> _State:
    """Return how a folder is against what is asked for; refuse one that is not ours and sources that do not match."""
    nb_samples = _measure(job)
    signals = tuple(job.track.files)
    old = _read_ours(folder)
    if old is None:
        return _State(nb_samples, {}, dict.fromkeys(signals, "not there"), {}, 0, False, False)
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
            known[signal] = identify(file, job.known.get(signal), entry.source)
            if known[signal].sha256 != entry.source.sha256:
                reason = f"{file.name} has changed"
            elif known[signal] != entry.source:
                entry, touched = replace(entry, source=known[signal]), True
        if not reason:
            kept[signal] = entry
        elif signal in signals:
            stale[signal] = reason
    stale |= {signal: "not there" for signal in signals if signal not in old.signals}
    replaced = {*old.signals, *old.pending} - kept.keys()
    nb_replaced = sum(_size(folder / f"{signal}.npy") or 0 for signal in replaced)
    stale = {signal: stale[signal] for signal in signals if signal in stale}
    return _State(nb_samples, kept, stale, known, nb_replaced, touched, folder != job.folder)


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


def _build_track(job: _Job) -> Cached:
    """Bring one track's folder up to date."""
    # Once it has freed a block of this size, glibc keeps up to twice as much instead of giving it back to the system;
    # else new pages, two MB for each block of frames, take as long as the transforms.
    np.empty(_HEAP_BYTES, np.uint8)
    with _in_one_line(job):
        fresh = not _current(job.folder).exists()
        with partial_folder(job.folder) as partial:
            current = _current(job.folder)
            state = _compare(job, current)  # again: another run may have been here before the lock
            nb_bytes = 0
            if _needs_work(state):
                made = {
                    signal: write_array(
                        job.track.files[signal],
                        partial / NEW / f"{signal}.npy",
                        job.parameters,
                        state.nb_samples,
                        state.known.get(signal),
                    )
                    for signal in state.stale
                }
                nb_bytes = sum(entry.nb_bytes for entry in made.values())
                nb_frames = array_shape(job.parameters, state.nb_samples)[0]
                record = Record(job.parameters, state.nb_samples, nb_frames, state.kept | made)
                if made or state.hidden:
                    _replace(job.folder, current, partial, record, made)
                else:  # sources were touched: what is known of them is all that changes
                    write_record(job.folder / RECORD, record.to_json(), partial / NEW)
        status = "already there" if not state.stale else "built" if fresh else "rebuilt"
        return _cached(job, state, status, nb_bytes)


def _replace(folder: Path, current: Path, partial: Path, record: Record, made: Mapping[str, Entry]) -> None:
    """Give a track's folder its new arrays, and remove those that its record no longer lists.

    It is hidden meanwhile. If this is killed, the hidden folder's record tells which of its arrays are sound.
    """
    signals = {signal: record.signals[signal] for signal in sorted(record.signals)}
    record = replace(record, signals=signals, pending=())
    if not current.exists() or not any(current.iterdir()):
        write_record(partial / NEW / RECORD, record.to_json(), partial / NEW)
        (partial / NEW).rename(folder)
        return
    hidden = partial / OLD
    if current != hidden:
        current.rename(hidden)
    old = read_record(hidden)
    ours = {*old.signals, *old.pending} if old is not None else set()
    kept = {signal: entry for signal, entry in signals.items() if signal not in made}
    pending = tuple(sorted((ours | made.keys()) - kept.keys()))
    write_record(hidden / RECORD, replace(record, signals=kept, pending=pending).to_json(), partial / NEW)
    for signal in pending:
        (hidden / f"{signal}.npy").unlink(missing_ok=True)
    for signal in made:
        (partial / NEW / f"{signal}.npy").rename(hidden / f"{signal}.npy")
    write_record(hidden / RECORD, record.to_json(), partial / NEW)
    hidden.rename(folder)


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
        if RECORD not in files:
            continue
        record = read_record(Path(parent))
        if record is None:
            continue
        signals = {*record.signals, *record.pending}.difference(asked.get(folder, ()))
        nb_bytes = sum(_size(Path(parent, f"{signal}.npy")) or 0 for signal in signals)
        left_over = folder not in asked and (record.pending or [*folders, *files] == [RECORD])  # by a killed prune
        if nb_bytes or left_over:
            unused[folder] = nb_bytes
    return unused


def _prune(out: Path, request: Request, unused: Mapping[str, int]) -> dict[str, str]:
    """Remove the cache's arrays that are not asked for; return what went wrong, by folder."""
    asked = {track.folder for track in request.tracks}
    failed = {}
    for name in unused:
        folder = out / name
        try:
            with partial_folder(folder) as partial:
                record = read_record(folder)
                if record is not None and name in asked:
                    kept = {signal: entry for signal, entry in record.signals.items() if signal in request.signals}
                    _replace(folder, folder, partial, replace(record, signals=kept), {})
                elif record is not None:
                    pending = (*record.signals, *record.pending)
                    write_record(folder / RECORD, replace(record, signals={}, pending=pending).to_json(), partial / NEW)
                    for signal in pending:
                        (folder / f"{signal}.npy").unlink(missing_ok=True)
                    if [path.name for path in folder.iterdir()] == [RECORD]:
                        (folder / RECORD).unlink()
                        folder.rmdir()
                    else:  # files of the user's, beside which arrays may be asked for again
                        write_record(folder / RECORD, replace(record, signals={}, pending=()).to_json(), partial / NEW)
        except (OSError, DatasetError) as error:
            failed[name] = f"{folder}: cannot be pruned: {getattr(error, 'strerror', None) or error}"
    return failed


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
        changes = _track_changes(index, request)
        if text := _index_changes(index, request):
            changes[INDEX] = text
        stale |= {name: {"": text} for name, text in changes.items() if name not in stale and text not in said}
    asked = {track.folder: index.signals for track in index.tracks.values()}
    seconds = nb_samples / index.parameters.sample_rate
    return Info(index, nb_bytes, seconds, stale, _list_unused(out, asked), request is not None)


def _index_changes(index: Index, request: Request) -> str:
    """Return how the index as a whole is not what is asked for; nothing where it is."""
    if index.signals != request.signals and index.parameters == request.parameters:
        return f"signals were {', '.join(index.signals)}, now {', '.join(request.signals)}"
    return _changes(index.parameters, request.parameters)


def _track_changes(index: Index, request: Request) -> dict[str, str]:
    """Return how the index is not what is asked for, by track."""
    changes = {}
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
    if request is not None and (changes := _index_changes(index, request)):
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
    found = _check_record(job.folder, record, index)
    if record is None or found:
        problems = [f"{signal}: {text}" if signal else text for signal, text in found.items()]
        raise DatasetError(f"{job.folder}: {'; '.join(problems)}: run musdbkit cache again")
    problems = []
    for signal in index.signals:
        entry, path = record.signals[signal], job.folder / f"{signal}.npy"
        if identify(path).sha256 != entry.sha256:
            problems.append(f"{path.name} is not what was written: remove it and run musdbkit cache again")
        if signal in job.track.files and identify(job.track.files[signal]).sha256 != entry.source.sha256:
            problems.append(f"{job.track.files[signal]} has changed: run musdbkit cache again")
    if problems:
        raise DatasetError(f"{job.folder}: {'; '.join(problems)}")
    return sum(record.signals[signal].nb_bytes for signal in index.signals)
