"""Stem files to wav or flac: every target of a track from one pass through its file.

Reads `<stems>/<subset>/<track>.stem.mp4`. Writes `<out>/<subset>/<track>/<target>.wav` and beside them `.convert.json`,
a record of the settings and of the source, by which a second run knows what is done.

A track's folder is whole or not there: it is written, and later changed, under a hidden name and then renamed. A sum of
stems (accompaniment, linear_mixture) is the exact sum of the stems as written; where it would overflow integers it is
written as a FLOAT wav.
"""

import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from musdbkit import audio, musdb18
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.tracks import (
    ALL_CORES,
    PARTIAL_PREFIX,
    PARTIAL_SUFFIX,
    Outcome,
    Parallel,
    Track,
    find_audio,
    find_partials,
    find_tracks,
    for_each,
    free_bytes,
)

TARGETS: Final[dict[str, tuple[str, ...]]] = {"mixture": ("mixture",), **musdb18.TARGETS}
"""What can be written, each as the streams it is the sum of."""

DEFAULT_TARGETS: Final = (*musdb18.STREAMS, "accompaniment")

RECORD: Final = ".convert.json"
"""Name of the record in a track's folder."""

NEW: Final = "new"
OLD: Final = "old"
"""The folders in a `partial_folder`: what is being written, and the track's folder while it is being changed."""

_RECORD_VERSION: Final = 1


class _Source(TypedDict):
    """A stem file, as the record holds it."""

    nb_bytes: int
    sha256: str


class _Entry(TypedDict):
    """A file that was written, as the record holds it."""

    file: str
    subtype: str
    nb_samples: int
    nb_bytes: int


class _Record(TypedDict):
    """What `.convert.json` holds; `pending` are targets whose files are being replaced, and not to be trusted."""

    version: int
    settings: dict[str, Any]
    source: _Source
    files: dict[str, _Entry]
    pending: list[str]


@dataclass(frozen=True)
class Settings:
    """What is written.

    Attributes
    ----------
    targets : names out of `TARGETS`.
    format : `wav` or `flac`.
    subtype : `PCM_16` (what museval's users score against), `PCM_24` or `FLOAT` (wav only).
    sample_rate : Hz, resampled with soxr; None keeps 44100 and refuses sources with another rate.
    """

    targets: tuple[str, ...] = DEFAULT_TARGETS
    format: str = "wav"
    subtype: str = "PCM_16"
    sample_rate: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise ParameterError(f"targets {', '.join(unknown) or '(none)'}: expected some of {', '.join(TARGETS)}")
        if self.format not in audio.FORMATS:
            raise ParameterError(f"format {self.format}: expected {' or '.join(audio.FORMATS)}")
        if self.subtype not in audio.SUBTYPES:
            raise ParameterError(f"subtype {self.subtype}: expected one of {', '.join(audio.SUBTYPES)}")
        if (self.format, self.subtype) == ("flac", "FLOAT"):
            raise ParameterError("flac holds no FLOAT samples: use PCM_24, or wav")
        if self.sample_rate is not None and not 1000 <= self.sample_rate <= 384_000:
            raise ParameterError(f"sample rate {self.sample_rate} Hz: expected 1000 to 384000")


DEFAULT_SETTINGS: Final = Settings()


@dataclass(frozen=True)
class Written:
    """What was done for one track's folder, here or by another command that writes such folders.

    Attributes
    ----------
    status : what was done, in words.
    folder : the track's folder.
    seconds : length of the track.
    nb_bytes : bytes written; in a dry run, to be written.
    """

    status: str
    folder: Path
    seconds: float
    nb_bytes: int


@dataclass(frozen=True)
class Converted(Written):
    """What was done for one track.

    Attributes
    ----------
    status : `converted`, `already there`, or, in a dry run, `to convert`.
    nb_bytes : bytes written; in a dry run, at most to be written (a sum that overflows takes twice its share).
    files : names of the files written, by target.
    overflowed : targets whose sum overflows the subtype, so that they are written as FLOAT wav.
    pcm_hashes : with `verify`, the SHA-256 of each target's samples as a wav file's data chunk holds them.
    """

    files: dict[str, str] = field(default_factory=dict)
    overflowed: tuple[str, ...] = ()
    pcm_hashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """One track to convert."""

    track: Track
    folder: Path
    settings: Settings
    force: bool
    verify: bool
    dry_run: bool


def convert(
    stems: Path,
    out: Path,
    settings: Settings = DEFAULT_SETTINGS,
    *,
    subsets: Sequence[str] = musdb18.SUBSETS,
    force: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    parallel: Parallel = ALL_CORES,
) -> Outcome[Converted]:
    """Write the targets of all stem files of a dataset; return what was done and what failed, by track.

    Tracks that are there already, made with the same settings from the same source, are left alone; what a killed run
    left unfinished is done anew.

    Parameters
    ----------
    stems : the dataset's root, in the stems layout.
    out : the root of the wav layout to write.
    settings : what to write.
    subsets : which subsets.
    force : write all tracks anew, and replace files that are in the way.
    verify : decode each track once more and compare with what is on disk, sample by sample.
    dry_run : write nothing; say what would be done.
    parallel : jobs and backend.

    Raises
    ------
    DatasetError
        There are no stem files. What is wrong with a single track is in the outcome instead.
    """
    found = find_tracks(stems, subsets)
    if found[0].layout != "stems":
        raise DatasetError(
            f"{stems}: wav files already ({found[0].key}), expected stem files: there is nothing to convert"
        )
    if out.resolve() == stems.resolve():
        raise DatasetError(f"{out}: holds the stem files, expected another folder to write to")
    jobs = [_Job(t, out / t.subset / t.name, settings, force, verify, dry_run) for t in found]
    label = "dry run" if dry_run else "convert"
    try:
        return for_each(_convert_track, jobs, key=lambda job: job.track.key, label=label, parallel=parallel)
    finally:
        if not dry_run:
            remove_partials(out / subset for subset in musdb18.SUBSETS)


def _convert_track(job: _Job) -> Converted:
    """Bring one track's folder up to date."""
    try:
        stream = audio.probe_stems(job.track.path)[0]
        _check_rate(job, stream.sample_rate)
        source = functools.cache(functools.partial(_source, job.track.path))
        try:
            missing = _missing_targets(job, job.folder, source)
        except DatasetError:  # which may be of a folder that another run changes: under the lock it is looked at again
            if job.dry_run:
                raise
            missing = list(job.settings.targets)
        if job.dry_run:
            return _estimate(job, missing, stream)
        written = _write_track(job, stream.sample_rate, source) if missing else {}
        record = _read_record(job.folder)
        if record is None:
            raise DatasetError(f"{job.folder}: was changed by someone else while it was written: run again")
        hashes = _verify(job, record, stream.sample_rate) if job.verify else {}
        return _report(job, record, written, hashes)
    except OSError as error:
        raise AudioError(f"{error.filename or job.folder}: {error.strerror or error}", "unwritable") from error


def _check_rate(job: _Job, rate: int) -> None:
    """Check that a source has the dataset's sample rate, unless the user has chosen one."""
    if job.settings.sample_rate is None and rate != musdb18.SAMPLE_RATE:
        raise AudioError(
            f"{job.track.path}: {rate} Hz, expected {musdb18.SAMPLE_RATE}: "
            f"choose with --sample-rate ({musdb18.SAMPLE_RATE} resamples, {rate} keeps it)",
            "rate",
        )


def _missing_targets(job: _Job, folder: Path, source: Callable[[], _Source]) -> list[str]:
    """Return the targets to write, in the order of `TARGETS`; refuse to replace what is not ours or not the same."""
    wanted = [target for target in TARGETS if target in job.settings.targets]
    if not folder.exists():
        return wanted
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is a file, expected a folder: move it away")
    for path in (folder / f"{target}.{suffix}" for target in wanted for suffix in audio.FORMATS):
        if path.is_dir():
            raise DatasetError(f"{path}: is a folder, expected a file: move it away")
    if job.force:
        return wanted
    record = _read_record(folder)
    if record is None:
        if any(folder.iterdir()):
            raise DatasetError(
                f"{folder}: is there, but not made by convert (no {RECORD} that this version reads): "
                "--force replaces its files, or choose another OUT"
            )
        return wanted
    changed = [
        f"{name} was {record['settings'][name]}, now {value}"
        for name, value in _fixed_settings(job).items()
        if record["settings"][name] != value
    ]
    if record["source"] != source():
        changed.append(f"the stem file has changed ({record['source']['nb_bytes']} bytes, now {source()['nb_bytes']})")
    if changed:
        raise DatasetError(
            f"{folder}: made otherwise: {'; '.join(changed)}: --force replaces it, or choose another OUT"
        )
    for target in wanted:
        found = find_audio(folder, target)
        if found is not None and target not in record["files"] and target not in record["pending"]:
            raise DatasetError(f"{found}: is there, but not made by convert: --force replaces it, or move it away")
    return [target for target in wanted if not _is_whole(folder, record["files"].get(target))]


def _is_whole(folder: Path, entry: _Entry | None) -> bool:
    """Return whether a recorded file is there with its size."""
    if entry is None:
        return False
    path = folder / entry["file"]
    return path.is_file() and path.stat().st_size == entry["nb_bytes"]


def _fixed_settings(job: _Job) -> dict[str, Any]:
    """Return the settings that must not change between runs; more targets may be asked for later."""
    return {
        "format": job.settings.format,
        "subtype": job.settings.subtype,
        "sample_rate": job.settings.sample_rate or musdb18.SAMPLE_RATE,
    }


def _source(path: Path) -> _Source:
    """Return the size and SHA-256 of a stem file."""
    with path.open("rb") as file:
        return {"nb_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_track(job: _Job, rate: int, source: Callable[[], _Source]) -> dict[str, _Entry]:
    """Write a track's missing targets and its record; return the record's entries of what was written."""
    with partial_folder(job.folder) as partial:
        current = partial / OLD if (partial / OLD).exists() else job.folder
        missing = _missing_targets(job, current, source)  # again: another run may have been here before the lock
        if not missing and current == job.folder:
            return {}
        written = _write_targets(job, missing, rate, partial / NEW) if missing else {}
        record: _Record = {
            "version": _RECORD_VERSION,
            "settings": _fixed_settings(job),
            "source": source(),
            "files": written,
            "pending": [],
        }
        if not current.exists() or not any(current.iterdir()):
            write_record(partial / NEW / RECORD, record, partial / NEW)
            (partial / NEW).rename(job.folder)
        else:
            _replace_files(job, current, partial, record)
    return written


def _replace_files(job: _Job, current: Path, partial: Path, record: _Record) -> None:
    """Put new files into a track's folder, which is hidden meanwhile, so that no one reads a mixture of old and new.

    If this is killed, the hidden folder's record tells which files are sound and which targets are pending.
    """
    old = _read_record(current)
    ours: set[str] = set()
    kept: dict[str, _Entry] = {}
    if old is not None:
        ours = {*old["files"], *old["pending"]}
        if (old["settings"], old["source"]) == (record["settings"], record["source"]):
            kept = {t: e for t, e in old["files"].items() if t not in record["files"] and _is_whole(current, e)}
    pending = sorted((ours | record["files"].keys()) - kept.keys())
    hidden = partial / OLD
    if current != hidden:
        current.rename(hidden)
    write_record(hidden / RECORD, {**record, "files": kept, "pending": pending}, partial / NEW)
    for target in pending:
        for suffix in audio.FORMATS:
            (hidden / f"{target}.{suffix}").unlink(missing_ok=True)
    for entry in record["files"].values():
        (partial / NEW / entry["file"]).rename(hidden / entry["file"])
    write_record(hidden / RECORD, {**record, "files": kept | record["files"]}, partial / NEW)
    hidden.rename(job.folder)


def _write_targets(job: _Job, targets: list[str], rate: int, folder: Path) -> dict[str, _Entry]:
    """Write targets into a folder; return the record's entries."""
    settings = job.settings
    writers: dict[str, audio.SumWriter] = {}
    with ExitStack() as stack:
        for target in targets:
            path = folder / f"{target}.{settings.format}"
            writers[target] = stack.enter_context(
                audio.SumWriter(path, settings.sample_rate or rate, musdb18.NB_CHANNELS, settings.subtype)
            )
        for block in _as_written(job, targets, rate):
            for target, writer in writers.items():
                writer.write([block[stem] for stem in TARGETS[target]])
    return {
        target: {
            "file": writer.path.name,
            "subtype": writer.subtype,
            "nb_samples": writer.nb_samples,
            "nb_bytes": writer.path.stat().st_size,
        }
        for target, writer in writers.items()
    }


def _as_written(job: _Job, targets: Iterable[str], rate: int) -> Iterator[dict[str, audio.Samples]]:
    """Yield blocks of the streams that the targets need, as they are written."""
    needed = [stem for stem in musdb18.STREAMS if any(stem in TARGETS[target] for target in targets)]
    subtype = job.settings.subtype
    new_rate = job.settings.sample_rate or rate
    if subtype == "PCM_16" and new_rate == rate:
        blocks = audio.decode_stems(job.track.path, dtype=np.int16)
    else:
        floats = audio.decode_stems(job.track.path)
        resampled = floats if new_rate == rate else _resample(floats, rate, new_rate)
        blocks = ([audio.quantise(stream, subtype) for stream in block] for block in resampled)
    for block in blocks:
        streams = dict(zip(musdb18.STREAMS, block, strict=True))
        yield {stem: streams[stem] for stem in needed}


def _resample(
    blocks: Iterable[list[NDArray[np.float32]]], rate: int, new_rate: int
) -> Iterator[list[NDArray[np.float32]]]:
    """Yield blocks at another sample rate, by soxr at its best quality (28 bit)."""
    import soxr

    streams = [soxr.ResampleStream(rate, new_rate, musdb18.NB_CHANNELS, "float32", "VHQ") for _ in musdb18.STREAMS]
    for block in blocks:
        yield [stream.resample_chunk(samples) for stream, samples in zip(streams, block, strict=True)]
    rest = np.empty((0, musdb18.NB_CHANNELS), np.float32)
    yield [stream.resample_chunk(rest, last=True) for stream in streams]


def _verify(job: _Job, record: _Record, rate: int) -> dict[str, str]:
    """Decode a track again and compare with its files; return the PCM hash of each target."""
    entries = {target: entry for target, entry in record["files"].items() if target in job.settings.targets}
    hashes = {target: audio.PcmHash() for target in entries}
    for block in _as_written(job, entries, rate):
        for target, entry in entries.items():
            total = audio.sum_samples([block[stem] for stem in TARGETS[target]])
            if entry["subtype"] != job.settings.subtype:
                total = audio.to_float(total, job.settings.subtype)
            hashes[target].update(total, entry["subtype"])
    expected = {target: pcm_hash.hexdigest() for target, pcm_hash in hashes.items()}
    wrong = [
        entry["file"]
        for target, entry in entries.items()
        if audio.hash_pcm(job.folder / entry["file"]) != expected[target]
    ]
    if wrong:
        raise AudioError(
            f"{job.folder}: {', '.join(wrong)}: not what {job.track.path.name} decodes to: "
            "--force writes the track anew"
        )
    return expected


def _estimate(job: _Job, missing: list[str], stream: audio.StreamInfo) -> Converted:
    """Return what would be written."""
    seconds = stream.nb_samples / stream.sample_rate
    nb_samples = round(seconds * (job.settings.sample_rate or stream.sample_rate))
    nb_bytes = len(missing) * audio.wav_bytes(nb_samples, job.settings.subtype)
    return Converted("to convert" if missing else "already there", job.folder, seconds, nb_bytes)


def _report(job: _Job, record: _Record, written: dict[str, _Entry], hashes: dict[str, str]) -> Converted:
    """Return what was done, from the record and its entries of what was written now."""
    entries = {target: record["files"][target] for target in TARGETS if target in job.settings.targets}
    return Converted(
        status="converted" if written else "already there",
        folder=job.folder,
        seconds=next(iter(entries.values()))["nb_samples"] / record["settings"]["sample_rate"],
        nb_bytes=sum(entry["nb_bytes"] for entry in written.values()),
        files={target: entry["file"] for target, entry in written.items()},
        overflowed=tuple(target for target, entry in entries.items() if entry["subtype"] != job.settings.subtype),
        pcm_hashes=hashes,
    )


def _read_record(folder: Path) -> _Record | None:
    """Return the record in a track's folder, None where there is none that this version reads."""
    try:
        record: _Record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sound = (
            record["version"] == _RECORD_VERSION
            and record["settings"].keys() == {"format", "subtype", "sample_rate"}
            and record["source"].keys() == {"nb_bytes", "sha256"}
            and set(record["pending"]) <= TARGETS.keys()
            and all(
                target in TARGETS
                and entry["file"] in {f"{target}.{suffix}" for suffix in audio.FORMATS}
                and entry.keys() == _Entry.__annotations__.keys()
                for target, entry in record["files"].items()
            )
        )
        return record if sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(path: Path, record: Mapping[str, Any], scratch: Path) -> None:
    """Write a track's record, whole or not at all, by way of a folder for unfinished files."""
    unfinished = scratch / path.name
    unfinished.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(path)


def partial_path(folder: Path) -> Path:
    """Return the hidden folder in which a track's folder is written or changed."""
    digest = hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:16]  # names may be as long as the system allows
    return folder.parent / f"{PARTIAL_PREFIX}{digest}{PARTIAL_SUFFIX}"


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Create a hidden folder beside a track's, with an empty folder `new`, locked against other runs on the same track.

    It is removed in the end. While a track's files are replaced it holds the track's folder as `old`; so it does after
    a kill, and the next run goes on from there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(folder)
    new, old = partial / NEW, partial / OLD
    lock = _lock(partial)
    try:
        if old.exists() and folder.exists():
            raise DatasetError(f"{folder}: is there, and so is what a killed run kept in {old}: move one of them away")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        yield partial
    finally:
        try:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(new, ignore_errors=True)
            with suppress(OSError):
                partial.rmdir()
        finally:
            os.close(lock)


def _lock(folder: Path) -> int:
    """Create a folder and lock it, waiting for who has locked it; return the lock's file descriptor."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # its owner has just removed it
            continue
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        os.close(lock)


def remove_partials(folders: Iterable[Path]) -> None:
    """Remove the hidden folders that killed runs left in subsets' folders.

    Those of living processes stay, and so do those that hold a track's folder.
    """
    for partial in (path for folder in folders for path in find_partials(folder)):
        with suppress(OSError):  # locked, or gone by now
            lock = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not (partial / OLD).exists():
                    shutil.rmtree(partial)
            finally:
                os.close(lock)


@dataclass(frozen=True)
class Totals:
    """What came of a whole run.

    Attributes
    ----------
    nb_tracks : tracks by status.
    seconds : length of all tracks that did not fail.
    nb_bytes : bytes written; in a dry run, to be written.
    free_bytes : what is free where they go.
    """

    nb_tracks: dict[str, int]
    seconds: float
    nb_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Summary(Totals):
    """What came of a whole run.

    Attributes
    ----------
    overflowed : tracks by target, where a sum was written as FLOAT because it overflows.
    """

    overflowed: dict[str, list[str]]


def add_up(done: Collection[Written], out: Path) -> Totals:
    """Return the totals of what was done in a run."""
    return Totals(
        nb_tracks=dict(Counter(track.status for track in done)),
        seconds=sum(track.seconds for track in done),
        nb_bytes=sum(track.nb_bytes for track in done),
        free_bytes=free_bytes(out),
    )


def summarise(outcome: Outcome[Converted], out: Path) -> Summary:
    """Return the totals of a run."""
    return Summary(
        **vars(add_up(outcome.done.values(), out)),
        overflowed={
            target: keys
            for target in TARGETS
            if (keys := [key for key, track in outcome.done.items() if target in track.overflowed])
        },
    )
