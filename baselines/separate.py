"""Tracks to estimates: a run's model applied to files.

Reads a run (see `models`), and audio files of any kind or a dataset in any layout. Writes wav files, FLOAT unless told
otherwise, for estimates may exceed full scale, into `<out>`

| file | holds |
|---|---|
| `<subset>/<track>/<target>.wav` | the estimates of a dataset's track |
| `<name>/<target>.wav` | those of a file, by its name less the last ending (`.stem.mp4` is one) |
| `.separate.json` beside them | by what they were made of which source, so that a second run knows what is done |
| `separation.json` | the model and how it was used, which `musdbkit score` adds to the protocol of the scores |

Estimates have the sample rate and the length of their source, and the model's channels. A track's folder is whole or
not there. Reading, computing and writing go on at the same time: a thread decodes the next track, and one for each
target writes.
"""

import functools
import json
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from baselines.models import (
    Loaded,
    choose_device,
    find_versions,
    hash_file,
    load_run,
    settings_to_json,
    write_json,
)
from baselines.separation import (
    DEFAULT_SETTINGS,
    Chunk,
    Plan,
    SeparationSettings,
    Wave,
    cut_chunks,
    find_grid,
    make_plan,
    separate_chunks,
)
from musdbkit import audio, musdb18
from musdbkit.convert import NEW, OLD, Totals, Written, add_up, partial_folder, remove_partials, write_record
from musdbkit.errors import AudioError, DatasetError, MusdbkitError, ParameterError
from musdbkit.tracks import SEPARATION, STEM_SUFFIX, Outcome, Parallel, find_tracks, for_each

RECORD: Final = ".separate.json"
"""Name of the record in a track's folder."""

PROGRAM: Final = "musdbkit baselines separate"

_RECORD_VERSION: Final = 1
_NB_WAITING: Final = 3  # pieces that may wait to be written


class _Record(TypedDict):
    """What `.separate.json` holds: SHA-256 by source file, bytes by written file, samples by target."""

    version: int
    musdbkit: str
    weights: str
    options: dict[str, Any]
    source: dict[str, str]
    files: dict[str, int]
    clipped: dict[str, int]


@dataclass(frozen=True)
class Separated(Written):
    """What was done for one track.

    Attributes
    ----------
    status : `separated`, `already there`, or, in a dry run, `to separate`.
    clipped : samples beyond full scale by target, where files hold integers; targets without any are left out.
    """

    clipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary(Totals):
    """What came of a whole run.

    Attributes
    ----------
    clipped : of each track with samples beyond full scale, their number by target.
    """

    clipped: dict[str, dict[str, int]]


@dataclass(frozen=True)
class _Job:
    """One track to separate.

    Attributes
    ----------
    key : subset and name, or the file's name.
    path : the file.
    sixteen_bit : whether it is a stem file of a dataset, which is decoded through 16 bit as everywhere.
    folder : where estimates go.
    """

    key: str
    path: Path
    sixteen_bit: bool
    folder: Path


@dataclass(frozen=True)
class _Work:
    """What is done to all tracks."""

    loaded: Loaded
    plan: Plan
    subtype: str
    force: bool
    dry_run: bool

    @functools.cached_property
    def files(self) -> dict[str, str]:
        """Names of the files by source."""
        return {source: f"{source}.wav" for source in self.plan.sources}

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """How the model is used, as JSON holds it."""
        settings = settings_to_json(self.loaded.settings)
        given = {**asdict(self.plan), "subtype": self.subtype, "settings": settings}
        options: dict[str, Any] = json.loads(json.dumps(given))
        return options


def separate(
    run: Path,
    inputs: Sequence[Path],
    out: Path,
    settings: SeparationSettings = DEFAULT_SETTINGS,
    *,
    subset: str = "test",
    subtype: str = "FLOAT",
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> Outcome[Separated]:
    """Write a model's estimates of tracks; return what was done and what failed, by track.

    Tracks that are there already, made by the same weights and options of the same source, are left alone.

    Parameters
    ----------
    run : the run's folder.
    inputs : audio files, and roots of datasets.
    out : the folder to write to, which holds one model's estimates.
    settings : how the model is used.
    subset : which tracks of datasets.
    subtype : `FLOAT`, or `PCM_16` or `PCM_24`, which are clipped at full scale.
    device : `cpu`, `cuda`, or `auto`: a GPU if there is one.
    force : separate all tracks anew, and replace files that are in the way.
    dry_run : write nothing; say what would be done.

    Raises
    ------
    DatasetError
        There is no such run, there are no tracks, two would go to the same folder, `out` is among them, or it holds
        estimates that were made otherwise. What is wrong with a single track is in the outcome instead.
    ParameterError
        The model cannot be used in that way.
    """
    if subtype not in audio.SUBTYPES:
        raise ParameterError(f"subtype is {subtype}, expected one of {', '.join(audio.SUBTYPES)}")
    jobs = _find_jobs(inputs, out, subset)
    loaded = load_run(run, choose_device(device))
    work = _Work(loaded, make_plan(loaded, settings), subtype, force, dry_run)
    find_grid(loaded, work.plan)  # an error is to come here
    protocol = _Protocol(run, out, work, [job.key for job in jobs])
    if not dry_run:
        protocol.write({})
    nb_threads = torch.get_num_threads()
    outcome: Outcome[Separated] = Outcome({}, {})
    with ThreadPoolExecutor(1) as pool:
        ahead = _Ahead(pool, jobs, work)

        def separate_track(i: int) -> Separated:
            torch.set_num_threads(nb_threads)  # one track at a time has all cores
            return _separate_track(jobs[i], work, ahead.take(i))

        label = "dry run" if dry_run else "separate"
        try:
            outcome = for_each(
                separate_track, range(len(jobs)), key=lambda i: jobs[i].key, label=label, parallel=Parallel(1)
            )
        finally:
            pool.shutdown(cancel_futures=True)
            if not dry_run:
                remove_partials({job.folder.parent for job in jobs})
                protocol.write(outcome.done)
    return outcome


def summarise(outcome: Outcome[Separated], out: Path) -> Summary:
    """Return the totals of a run."""
    clipped = {key: track.clipped for key, track in outcome.done.items() if track.clipped}
    return Summary(**vars(add_up(outcome.done.values(), out)), clipped=clipped)


# What there is to do


def _find_jobs(inputs: Sequence[Path], out: Path, subset: str) -> list[_Job]:
    """Return what is to be separated, in the order given."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out}: is a file, expected a folder to write to")
    jobs = [job for path in inputs for job in (_find_in_root if path.is_dir() else _find_file)(path, out, subset)]
    if not jobs:
        raise ParameterError("nothing to separate: name audio files, or the root of a dataset")
    places: dict[str, _Job] = {}
    for job in jobs:
        other = places.setdefault(unicodedata.normalize("NFC", job.key), job)
        if other is not job:
            raise DatasetError(f"{other.path} and {job.path}: both would go to {job.folder}: separate one elsewhere")
    return jobs


def _find_in_root(root: Path, out: Path, subset: str) -> list[_Job]:
    """Return the tracks of a dataset."""
    source, target = (root / subset).resolve(), (out / subset).resolve()
    if source == target or source in target.parents:
        raise DatasetError(f"{out}: is in the dataset's own folders, expected another folder to write to")
    jobs = []
    for track in find_tracks(root, [subset], complete=False):
        in_file = track.layout == "stems"
        path = track.path if in_file else track.file("mixture")
        jobs.append(_Job(track.key, path, in_file, out / track.subset / track.name))
    return jobs


def _find_file(path: Path, out: Path, subset: str) -> list[_Job]:
    """Return a file, of which it will turn out whether it holds audio."""
    name = path.name.removesuffix(STEM_SUFFIX)
    if name == path.name and "." in name:
        name = name.rpartition(".")[0]
    if not name.strip("."):
        raise DatasetError(f"{path}: no name for a folder is left without the ending: rename the file")
    return [_Job(name, path, False, out / name)]


class _Protocol:
    """The file that says of a folder of estimates how they were made.

    Raises
    ------
    DatasetError
        The folder holds estimates that were made otherwise, and would not all be replaced.
    """

    def __init__(self, run: Path, out: Path, work: _Work, keys: Sequence[str]) -> None:
        self._path = out / SEPARATION
        self._work = work
        self._model = {
            "name": work.loaded.model,
            "run": run.resolve().name,
            "targets": list(work.loaded.settings.targets),
            "weights": work.loaded.sha256,
            "step": work.loaded.step,
            "checkpoint": work.loaded.choice,
        }
        before = self._read()
        changed = _compare(before["model"]["weights"], before["options"], work) if before else []
        self._tracks: dict[str, Any] = {} if before is None or changed else before["tracks"]
        self._devices: set[str] = set() if before is None or changed else set(before["devices"])
        if before is None or not changed:
            return
        if not work.force:
            raise DatasetError(
                f"{out}: made otherwise: {'; '.join(changed)}: --force replaces it, or choose another --out"
            )
        others = [key for key in before["tracks"] if key not in keys and (out / key).exists()]
        if others:
            raise DatasetError(
                f"{out}: holds estimates made otherwise ({'; '.join(changed)}) of tracks that are not among these, "
                f"{others[0]} for one: choose another --out"
            )

    def _read(self) -> dict[str, Any] | None:
        """Return the file's content, None where there is none, or where what is no file of ours is to be replaced."""
        try:
            document: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            sound = (
                document["program"] == PROGRAM
                and isinstance(document["model"]["weights"], str)
                and isinstance(document["options"], dict)
                and isinstance(document["tracks"], dict)
                and all(isinstance(each, str) for each in document["devices"])
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            sound = False
        if sound:
            return document
        if not self._work.force:
            raise DatasetError(f"{self._path}: was not made by separate: --force replaces it, or choose another --out")
        return None

    def write(self, done: dict[str, Separated]) -> None:
        """Write what was done up to now."""
        if any(track.status == "separated" for track in done.values()):
            self._devices.add(next(self._work.loaded.network.parameters()).device.type)
        for key, track in done.items():
            self._tracks[key] = {"clipped": track.clipped}
        document = {
            "program": PROGRAM,
            "model": self._model,
            "options": self._work.options,
            "devices": sorted(self._devices),
            "versions": find_versions(),
            "tracks": self._tracks,
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, document)
        except OSError as error:
            raise DatasetError(f"{self._path}: cannot be written: {error.strerror}") from error


def _compare(weights: str, options: dict[str, Any], work: _Work) -> list[str]:
    """Return how estimates were made otherwise than they would be now."""
    changed = [] if weights == work.loaded.sha256 else [f"weights were {weights[:8]}, now {work.loaded.sha256[:8]}"]
    now = dict(work.options)
    settings, before = now.pop("settings"), options.get("settings", {})  # older estimates do not say them
    for values, others in ((now, options), ({name: settings[name] for name in before if name in settings}, before)):
        for name, value in values.items():
            if others.get(name) != value:
                changed.append(f"{name} was {_say(others.get(name))}, now {_say(value)}")
    return changed


def _say(value: Any) -> str:
    """Return an option's value in words."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# One track


@dataclass(frozen=True)
class _Prepared:
    """A track as far as it goes without the model.

    Attributes
    ----------
    reader : of its samples.
    seconds : its length as the header says.
    done : its record, if nothing is to do.
    source : returns its hash, by file.
    chunks : its samples; none where they are not needed.
    """

    reader: "_Reader"
    seconds: float
    done: _Record | None
    source: Callable[[], dict[str, str]]
    chunks: Iterator[Chunk]


class _Ahead:
    """Prepares tracks in a thread, always the next one while one is separated."""

    def __init__(self, pool: ThreadPoolExecutor, jobs: Sequence[_Job], work: _Work) -> None:
        self._pool = pool
        self._jobs = jobs
        self._work = work
        self._futures: dict[int, Future[_Prepared]] = {}

    def take(self, i: int) -> _Prepared:
        """Return a track, prepared."""
        for k in range(i, min(i + 2, len(self._jobs))):
            if k not in self._futures:
                self._futures[k] = self._pool.submit(_prepare, self._jobs[k], self._work)
        return self._futures.pop(i).result()


def _prepare(job: _Job, work: _Work) -> _Prepared:
    """Return a track's first chunk, or that nothing is to do."""
    try:
        reader = _Reader(job, work.loaded.settings.nb_channels, work.loaded.settings.sample_rate)
        source = functools.cache(lambda: {job.path.name: hash_file(job.path)})
        done = _find_done(job, work, job.folder, source)
        chunks: Iterator[Chunk] = iter(())
        if done is None and not work.dry_run:
            source()
            rest = cut_chunks(reader.read(), reader.nb_channels, find_grid(work.loaded, work.plan))
            chunks = _chain(next(rest), rest)
        return _Prepared(reader, reader.info.seconds, done, source, chunks)
    except OSError as error:
        raise AudioError(f"{error.filename or job.path}: {error.strerror or error}") from error


def _chain(first: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield a chunk, forget it, and yield those after it."""
    yield first
    del first
    yield from rest


class _Reader:
    """Reads a track as the model wants it.

    Attributes
    ----------
    info : what its header says.
    nb_channels : the model's.
    nb_samples : how many were read, at the file's own rate.
    """

    def __init__(self, job: _Job, nb_channels: int, sample_rate: int) -> None:
        self.info = audio.probe(job.path)
        self.nb_channels = nb_channels
        self.nb_samples = 0
        self._job = job
        self._sample_rate = sample_rate
        if self.info.nb_channels not in (1, nb_channels):
            raise AudioError(
                f"{job.path}: {self.info.nb_channels} channels, expected {nb_channels} as the model has"
                f"{' or 1' if nb_channels > 1 else ''}: mix it down",
                "channels",
            )

    def read(self) -> Iterator[Wave]:
        """Yield blocks at the model's rate [shape=(nb_samples, nb_channels), float32]."""
        rates = self.info.sample_rate, self._sample_rate
        if rates[0] == rates[1]:
            yield from self._read_own()
            return
        resampler = soxr.ResampleStream(*rates, self.nb_channels, "float32", "VHQ")
        for block in self._read_own():
            yield resampler.resample_chunk(block)
        yield resampler.resample_chunk(np.empty((0, self.nb_channels), np.float32), last=True)

    def _read_own(self) -> Iterator[Wave]:
        """Yield blocks at the file's rate."""
        for block in audio.decode(self._job.path):
            if not np.isfinite(block).all():
                first = self.nb_samples + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                raise AudioError(f"{self._job.path}: sample {first} is not a finite number: write the file anew")
            self.nb_samples += len(block)
            if self._job.sixteen_bit:
                block = audio.to_float(audio.quantise(block, "PCM_16"), "PCM_16")
            yield np.repeat(block, self.nb_channels, axis=1) if block.shape[1] < self.nb_channels else block


def _find_done(job: _Job, work: _Work, folder: Path, source: Callable[[], dict[str, str]]) -> _Record | None:
    """Return the record if nothing is to do; refuse to replace what is not ours or not the same."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is a file, expected a folder: move it away")
    if folder.resolve() == job.path.parent.resolve():
        raise DatasetError(f"{folder}: is where {job.path.name} itself lies, expected another folder to write to")
    for path in (folder / file for file in work.files.values()):
        if path.is_dir():
            raise DatasetError(f"{path}: is a folder, expected a file: move it away")
    if work.force or not any(folder.iterdir()):
        return None
    record = _read_record(folder)
    if record is None:
        raise DatasetError(
            f"{folder}: is there, but not made by separate (no {RECORD} that this version reads): "
            "--force replaces its files, or choose another --out"
        )
    changed = _compare(record["weights"], record["options"], work)
    if record["source"] != source():
        changed.append("the source has changed")
    if changed:
        raise DatasetError(
            f"{folder}: made otherwise: {'; '.join(changed)}: --force replaces it, or choose another --out"
        )
    return record if record["files"] == _measure(folder, work) else None


def _measure(folder: Path, work: _Work) -> dict[str, int]:
    """Return the sizes of the files that are there, of those that there should be."""
    return {file: (folder / file).stat().st_size for file in work.files.values() if (folder / file).is_file()}


def _read_record(folder: Path) -> _Record | None:
    """Return the record in a track's folder, None where there is none that this version reads."""
    try:
        record: _Record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sound = (
            record.keys() == _Record.__annotations__.keys()
            and record["version"] == _RECORD_VERSION
            and isinstance(record["weights"], str)
            and all(isinstance(record[name], dict) for name in ("options", "source", "files", "clipped"))
            and all(Path(file).name == file and file.endswith(".wav") for file in record["files"])
        )
        return record if sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _separate_track(job: _Job, work: _Work, prepared: _Prepared) -> Separated:
    """Bring one track's folder up to date."""
    if prepared.done is not None:
        return Separated("already there", job.folder, prepared.seconds, 0, prepared.done["clipped"])
    if work.dry_run:
        nb_samples, nb_channels = prepared.reader.info.nb_samples, prepared.reader.nb_channels
        nb_bytes = len(work.files) * audio.wav_bytes(nb_samples, work.subtype) * nb_channels // musdb18.NB_CHANNELS
        return Separated("to separate", job.folder, prepared.seconds, nb_bytes)
    try:
        return _write_track(job, work, prepared)
    except OSError as error:
        raise AudioError(f"{error.filename or job.folder}: {error.strerror or error}", "unwritable") from error
    except torch.OutOfMemoryError as error:
        raise MusdbkitError(
            f"{job.path}: the GPU's memory is full: choose a smaller --chunk, or --device cpu"
        ) from error


def _write_track(job: _Job, work: _Work, prepared: _Prepared) -> Separated:
    """Write a track's folder; leave it if another run has just done it."""
    with partial_folder(job.folder) as partial:
        new, hidden = partial / NEW, partial / OLD
        current = hidden if hidden.exists() else job.folder
        done = _find_done(job, work, current, prepared.source)
        if done is not None:
            return Separated("already there", job.folder, prepared.seconds, 0, done["clipped"])
        clipped = _write_estimates(work, prepared, new)
        sizes = _measure(new, work)
        record: _Record = {
            "version": _RECORD_VERSION,
            "musdbkit": find_versions()["musdbkit"],
            "weights": work.loaded.sha256,
            "options": work.options,
            "source": prepared.source(),
            "files": sizes,
            "clipped": clipped,
        }
        if current.exists() and any(current.iterdir()):
            _replace_files(current, hidden, new, record)
            hidden.rename(job.folder)
        else:
            write_record(new / RECORD, record, new)
            new.rename(job.folder)
        seconds = prepared.reader.nb_samples / prepared.reader.info.sample_rate
        return Separated("separated", job.folder, seconds, sum(sizes.values()), clipped)


def _replace_files(current: Path, hidden: Path, new: Path, record: _Record) -> None:
    """Put new files into a track's folder, which is hidden meanwhile, so that no one reads a mixture of old and new."""
    before = _read_record(current)
    if current != hidden:
        current.rename(hidden)
    ours = {} if before is None else before["files"]
    pending: dict[str, int] = dict.fromkeys([*ours, *record["files"]], -1)  # after a kill none of them counts as sound
    write_record(hidden / RECORD, {**record, "files": pending}, new)
    for file in ours:
        (hidden / file).unlink(missing_ok=True)
    for file in record["files"]:
        (new / file).replace(hidden / file)
    write_record(hidden / RECORD, record, new)


def _write_estimates(work: _Work, prepared: _Prepared, folder: Path) -> dict[str, int]:
    """Write a track's estimates into a folder; return how many samples were clipped, by source."""
    reader, rate = prepared.reader, work.loaded.settings.sample_rate
    with ExitStack() as stack:
        files = []
        for name in work.files.values():
            writer = audio.Writer(folder / name, reader.info.sample_rate, reader.nb_channels, work.subtype)
            files.append(_File(stack.enter_context(writer), reader, rate))
        lanes = [stack.enter_context(ThreadPoolExecutor(1)) for _ in files]
        waiting: deque[list[Future[None]]] = deque()
        for piece in separate_chunks(work.loaded, work.plan, prepared.chunks):
            waiting.append([lane.submit(f.write, part) for lane, f, part in zip(lanes, files, piece, strict=True)])
            if len(waiting) > _NB_WAITING:
                _wait(waiting.popleft())
        waiting.append([lane.submit(f.finish) for lane, f in zip(lanes, files, strict=True)])
        for futures in waiting:
            _wait(futures)
    return {source: file.nb_clipped for source, file in zip(work.files, files, strict=True) if file.nb_clipped}


def _wait(futures: Sequence[Future[None]]) -> None:
    """Wait for what is written, and raise what went wrong."""
    for future in futures:
        future.result()


class _File:
    """One estimate, written at the rate of its source.

    Attributes
    ----------
    nb_clipped : samples of all channels that were beyond full scale.
    """

    def __init__(self, writer: audio.Writer, reader: _Reader, sample_rate: int) -> None:
        self.nb_clipped = 0
        self._writer = writer
        self._reader = reader
        self._resampler: Any = None
        if sample_rate != reader.info.sample_rate:
            self._resampler = soxr.ResampleStream(
                sample_rate, reader.info.sample_rate, reader.nb_channels, "float32", "VHQ"
            )

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append samples at the model's rate [shape=(nb_samples, nb_channels), float32]."""
        wave = np.ascontiguousarray(samples)
        self._append(wave if self._resampler is None else self._resampler.resample_chunk(wave))

    def finish(self) -> None:
        """Bring the file to the length of its source, from which, resampled twice, it may differ by some samples."""
        nothing = np.empty((0, self._reader.nb_channels), np.float32)
        rest = nothing if self._resampler is None else self._resampler.resample_chunk(nothing, last=True)
        nb_missing = self._reader.nb_samples - self._writer.nb_samples
        self._append(rest[:nb_missing])
        self._append(np.zeros((max(nb_missing - len(rest), 0), self._reader.nb_channels), np.float32))

    def _append(self, wave: Wave) -> None:
        """Append samples at the source's rate [shape=(nb_samples, nb_channels)]."""
        self.nb_clipped += audio.count_clipped(wave, self._writer.subtype)
        self._writer.write(audio.quantise(wave, self._writer.subtype))
