"""Estimates to scores: find, check, score, record.

Reads a dataset in any layout, or any tree `<refs>/<track>/<target>.wav`, and estimates as
`<estimates>/<subset>/<track>/<target>.wav` or `<estimates>/<track>/<target>.wav`, wav or flac. Writes into one folder

| file | holds |
|---|---|
| `<subset>/<track>.json` | the track's scores as museval writes them |
| `scores.csv` | all scores of all tracks, exact: see `scores` |
| `protocol.json` | how the scores came about |
| `.records/<subset>/<track>.json` | the track's exact scores, and the hashes of what they were computed from |

Conventions: a track and its estimates are paired by name, never by order. References are what museval takes: stem files
are decoded through 16 bit, accompaniment and linear_mixture are the sums of the stems. Where an estimate is up to 1024
samples longer or shorter than its reference it is cut or padded with zeros, as in museval, and that is noted. Of a
scenario's targets that are silent in the whole track, reference or estimate, none has a score, which is noted, and the
others lose no frames by it (its reference, if that is not silent, is interference to them).

How estimates were made changes scores, not only which model made them. Whoever makes them may say so in
`<estimates>/separation.json`, an object with any keys: `protocol.json` repeats it under `separation`, and another one
gives another `fingerprint` of the protocol. Its keys `devices`, `tracks` and `versions` are left out of that: they say
where it was done and what came of it.
"""

import functools
import hashlib
import importlib.util
import json
import math
import os
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musdbkit import __version__, audio, bsseval, metrics, musdb18, scores
from musdbkit.errors import AudioError, DatasetError, MissingDependencyError, MusdbkitError, ParameterError, printable
from musdbkit.metrics import Silence
from musdbkit.scores import TrackScores
from musdbkit.tracks import (
    ALL_CORES,
    PARTIAL_PREFIX,
    PARTIAL_SUFFIX,
    SEPARATION,
    Outcome,
    Parallel,
    Track,
    available_memory,
    find_audio,
    find_tracks,
    for_each,
    free_bytes,
    is_hidden,
    nb_cores,
    read_stems,
)

if TYPE_CHECKING:
    from museval.aggregate import TrackStore
    from pandas import DataFrame
    from rich.console import Console

METRICS: Final = {metric.lower(): metric for metric in (*scores.FRAME_METRICS, *scores.TRACK_METRICS)}
"""Names of the metrics on the command line, and in tables."""

ENGINES: Final = ("fast", "museval")

MAX_DIFFERENCE: Final = 1024
"""Samples by which an estimate's length may differ: decoders disagree by up to one AAC frame."""

TOLERANCE_DB: Final = 1e-5
"""What a score may differ from that of museval: the last digit of its JSON; ISR, SIR and SAR may differ by more where
their rounding errors do, which grow as the references' independence falls (see `bsseval.Analysis`)."""

RECORDS: Final = ".records"

TABLES: Final = ("scores.csv", "protocol.json")
"""What is made of all tracks' scores."""

_RECORD_VERSION: Final = 1
_ERROR_DB: Final = 1e-12  # over independence: some times what museval differs by when its sources change places
_ROUNDING_DB: Final = 120  # ISR, SIR and SAR beyond it are rounding errors
_SILENT: Final = "in the whole track"  # in the notes on targets that museval raises an error for
_FILTER_METRICS: Final = {"isr", "sir", "sar"}
_FULL_RATE: Final = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}  # CUDA capabilities whose float64 is half of float32
_FRAME_BYTES: Final = 800  # of a target, in all files together
_THREAD_BYTES: Final = 25_000_000
_DEFINITIONS: Final = {
    "sdr": "BSSEval {0.mode} (images) as museval defines it, which needs no filters",
    **dict.fromkeys(("isr", "sir", "sar"), f"BSSEval {{0.mode}} (images), {bsseval.FILTER_LENGTH} taps, as museval's"),
    "usdr": f"whole track, {metrics.USDR_DELTA} added to both energies, as in the Music Demixing Challenge",
    "si-sdr": "whole track, one scale for all channels, means kept",
    "snr": "whole track",
}
_CIRCUMSTANCES: Final = ("devices", "tracks", "versions")  # keys of separation.json that are no part of the protocol
_PACKAGES: Final = ("numpy", "scipy", "soundfile", "av", "musdb", "museval", "pandas")

Files: TypeAlias = dict[str, Path]
"""Audio files by target."""

Signal: TypeAlias = Callable[[slice], NDArray[np.float64]]
"""Returns a part of a signal [shape=(nb_samples, nb_channels)]."""


@dataclass(frozen=True)
class Settings:
    """What is computed.

    Attributes
    ----------
    metrics : keys of `METRICS`; museval's four by default. Without isr, sir and sar no filters are computed.
    window_seconds, hop_seconds : of the frames; 1 s everywhere.
    mode : `v4`, or `v3` with filters of their own for each frame.
    silence : which frames are dropped, see `metrics.dropped`.
    engine : `fast` is ours, `museval` the reference implementation itself.
    align : whether an estimate of any other length is cut or padded, not only up to `MAX_DIFFERENCE`.
    complement : whether to add the accompaniment mixture minus vocals where an estimate has none.
    """

    metrics: tuple[str, ...] = ("sdr", "isr", "sir", "sar")
    window_seconds: float = 1.0
    hop_seconds: float = 1.0
    mode: str = "v4"
    silence: Silence = "museval"
    engine: str = "fast"
    align: bool = False
    complement: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown or not self.metrics:
            raise ParameterError(f"metrics {', '.join(unknown) or '(none)'}: expected some of {', '.join(METRICS)}")
        for name, seconds in (("window", self.window_seconds), ("hop", self.hop_seconds)):
            if not 0 < seconds < math.inf:
                raise ParameterError(f"{name} {seconds} s: expected more than 0")
        for name, value, known in (
            ("mode", self.mode, ("v4", "v3")),
            ("silence", self.silence, metrics.SILENCE_RULES),
            ("engine", self.engine, ENGINES),
        ):
            if value not in known:
                raise ParameterError(f"{name} {value}: expected {' or '.join(known)}")
        if self.engine == "museval" and (self.silence != "museval" or self.mode == "v3"):
            raise ParameterError("the engine museval is there for silence museval and mode v4 only")
        object.__setattr__(
            self, "metrics", tuple(metric for metric in METRICS if metric in self.metrics)
        )  # in one order

    @property
    def filters(self) -> bool:
        """Whether a metric needs filters."""
        return bool(_FILTER_METRICS & set(self.metrics))


DEFAULT_SETTINGS: Final = Settings()


@dataclass(frozen=True)
class Reference:
    """A track to score against.

    Attributes
    ----------
    name, subset : the track's.
    layout : `stems`, `wav`, `hq` or, for a tree of other references, `refs`.
    path : the stem file, or the folder of wav files.
    files : wav or flac files by stem; empty for stem files.
    targets : what can be scored, each as the stems it is the sum of.
    """

    name: str
    subset: str
    layout: str
    path: Path
    files: Files
    targets: dict[str, tuple[str, ...]]

    @property
    def key(self) -> str:
        """Subset and name."""
        return f"{self.subset}/{self.name}"


@dataclass(frozen=True)
class Scored:
    """What was done for one track.

    Attributes
    ----------
    status : `scored`, `already there` or, in a dry run, `to score`.
    scores : the scores; None in a dry run.
    seconds : length of the track.
    references, estimates : hashes over the files' names and contents; empty in a dry run.
    independence : by scenario, see `bsseval.Analysis`.
    notes : what a reader of the scores should know.
    device : where they were computed.
    """

    status: str
    scores: TrackScores | None
    seconds: float
    references: str
    estimates: str
    independence: dict[str, float]
    notes: tuple[str, ...]
    device: str = ""


@dataclass(frozen=True)
class Verified:
    """How a track's scores compare with museval's.

    Attributes
    ----------
    metrics : what was compared: of ill-conditioned tracks SDR only, of those that museval refuses nothing.
    difference : the largest difference, in dB.
    """

    metrics: tuple[str, ...]
    difference: float


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes
    ----------
    out : where the scores are.
    done : by track, in order.
    failed : one-line messages by track; nothing was scored if any was found before.
    missing : what was not there to be scored, with `allow_missing`.
    notes : what was found that is not scored.
    settings : what was computed.
    nb_bytes : in a dry run, about how much would be written.
    verified : by track, how it compares with museval.
    separation : what the estimates' `separation.json` says of how they were made, None where there is none.
    """

    out: Path
    done: dict[str, Scored]
    failed: dict[str, str]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Settings = DEFAULT_SETTINGS
    nb_bytes: int = 0
    verified: dict[str, Verified] = field(default_factory=dict)
    separation: dict[str, Any] | None = None

    @functools.cached_property
    def table(self) -> "DataFrame":
        """All scores, as `scores` describes."""
        return scores.to_frame(track.scores for track in self.done.values() if track.scores is not None)

    @property
    def all_notes(self) -> list[str]:
        """What was found that is not scored, then the tracks' own notes."""
        return [*self.notes, *(f"{key}: {note}" for key, track in self.done.items() for note in track.notes)]

    @property
    def nb_tracks(self) -> dict[str, int]:
        """Numbers of tracks by what was done for them."""
        return dict(Counter(track.status for track in self.done.values()))


@dataclass(frozen=True)
class _Job:
    """One track to score."""

    reference: Reference
    estimates: Files
    out: Path
    settings: Settings
    force: bool
    dry_run: bool
    device: str
    threads: int

    @property
    def record(self) -> Path:
        return self.out / RECORDS / self.reference.subset / f"{self.reference.name}.json"

    @property
    def document(self) -> Path:
        return self.out / self.reference.subset / f"{self.reference.name}.json"

    @property
    def targets(self) -> tuple[str, ...]:
        return find_targets(self.reference, self.estimates, self.settings)

    @property
    def complements(self) -> bool:
        """Whether the accompaniment is made from the mixture and the vocals."""
        return not set(self.targets) <= self.estimates.keys()


# What is there


def find_references(root: Path) -> list[Reference]:
    """Return the tracks of a dataset as references, train before test."""
    found = []
    for track in find_tracks(root):
        files = {} if track.layout == "stems" else {stem: track.file(stem) for stem in musdb18.STREAMS}
        found.append(Reference(track.name, track.subset, track.layout, track.path, files, dict(musdb18.TARGETS)))
    return found


def find_other_references(root: Path) -> list[Reference]:
    """Return the tracks of a tree `<root>/<track>/<target>.wav`, or with subsets above, with targets of any name.

    A target that is a sum in MUSDB18 is the sum of its stems where they are there, else its own file. `mixture` is no
    target.
    """
    found = []
    for subset, folder, files in _find_folders(root):
        sources = {target: path for target, path in files.items() if target not in ("mixture", "linear_mixture")}
        targets: dict[str, tuple[str, ...]] = {target: (target,) for target in sorted(sources)}
        for target, parts in musdb18.TARGETS.items():
            if len(parts) > 1 and all(part in sources for part in parts):
                targets[target] = parts
        ordered = {t: targets[t] for t in (*(t for t in musdb18.TARGETS if t in targets), *targets)}
        if ordered:
            found.append(Reference(folder.name, subset or "test", "refs", folder, files, ordered))
    if not found:
        raise DatasetError(f"{root}: no references (looked for <track>/<target>.wav or <subset>/<track>/<target>.wav)")
    return found


def _find_folders(root: Path) -> list[tuple[str, Path, Files]]:
    """Return the folders with audio files under a root, each with its subset, which may be empty, and its files."""
    if not root.is_dir():
        raise DatasetError(f"{root}: {'is a file, expected a folder' if root.exists() else 'no such folder'}")
    found = []
    for subset in (*musdb18.SUBSETS, ""):
        for folder in _folders(root / subset):
            files = {} if not subset and folder.name in musdb18.SUBSETS else _audio_files(folder)
            if files:
                found.append((subset, folder, files))
    return found


def _folders(root: Path) -> list[Path]:
    """Return the visible folders in a folder, by name."""
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DatasetError(f"{root}: cannot be listed: {error.strerror}") from error


def _audio_files(folder: Path) -> Files:
    """Return the wav and flac files in a folder by name, wav first."""
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix in (".wav", ".flac") and not is_hidden(p.name))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed: {error.strerror}") from error
    targets = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return {target: path for target in targets if (path := find_audio(folder, target)) is not None}


@dataclass(frozen=True)
class _Plan:
    """What is to be scored."""

    pairs: list[tuple[Reference, Files]]
    problems: dict[str, str]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def find_estimates(
    estimates: Path, references: list[Reference], subset: str | None = None
) -> tuple[dict[str, tuple[Reference, Files]], list[str]]:
    """Return the references that have estimates, by key and each with their files, and notes on other folders.

    Parameters
    ----------
    estimates : folder of `<subset>/<track>/<target>.wav` or `<track>/<target>.wav`, wav or flac.
    references : what they may be estimates of, paired by name.
    subset : of which subset; of both by default.

    Raises
    ------
    DatasetError
        There is no such folder, none of its tracks is a reference, or one is there twice.
    """
    by_name: dict[tuple[str, str], Reference] = {}
    for reference in sorted(references, key=lambda reference: reference.subset == subset):
        for where in (reference.subset, ""):
            key = (where, musdb18.canonical_name(reference.name))
            if key in by_name and where:
                raise DatasetError(f"{by_name[key].path} and {reference.path}: the same track twice")
            by_name[key] = reference
    notes: list[str] = []
    found: dict[str, tuple[Reference, Files]] = {}
    for where, folder, files in _find_folders(estimates):
        paired = by_name.get((where, musdb18.canonical_name(folder.name)))
        if paired is None:
            notes.append(f"{folder.relative_to(estimates)}: no such track among the references")
        elif subset in (None, paired.subset):
            if paired.key in found:
                other = next(iter(found[paired.key][1].values())).parent
                raise DatasetError(f"{other} and {folder}: two estimates of {paired.key}")
            found[paired.key] = (paired, files)
    if not found:
        raise _nothing_found(estimates, references, subset)
    return found, notes


def _plan(estimates: Path, references: list[Reference], subset: str | None, settings: Settings, lenient: bool) -> _Plan:
    """Pair estimates with references by name, and list all that is wrong with them."""
    found, notes = find_estimates(estimates, references, subset)
    problems: dict[str, str] = {}
    subsets = {subset} if subset else {reference.subset for reference, _ in found.values()}
    estimated = {t for reference, files in found.values() for t in files if t in reference.targets}
    missing: dict[str, str] = {}
    pairs = []
    for reference in (r for r in references if r.subset in subsets):
        if reference.key not in found:
            missing[reference.key] = "no estimates"
            continue
        _, files = found[reference.key]
        chosen = {target: path for target, path in files.items() if target in reference.targets}
        if extra := [target for target in files if target not in reference.targets]:
            notes.append(f"{reference.key}: {', '.join(extra)}: not among the reference's targets")
        there = find_targets(reference, chosen, settings)
        if lacking := [t for t in reference.targets if t in estimated and t not in there]:
            missing[reference.key] = f"no {', '.join(lacking)}"
        if chosen:
            faults = inspect(reference, chosen, settings)
            problems |= {reference.key: "; ".join(faults)} if faults else {}
            pairs.append((reference, chosen))
    if not lenient:
        for name, what in missing.items():
            text = f"{name}: {what} in {estimates}: --allow-missing scores what is there"
            problems[name] = "; ".join([text, *([problems[name]] if name in problems else [])])
    if not pairs and not problems:
        raise _nothing_found(estimates, references, subset)
    names = [reference.name for reference, _ in pairs]
    if len(set(names)) < len(names):
        raise DatasetError(f"{max(names, key=names.count)}: in both subsets: score one with --subset, then the other")
    return _Plan(pairs, problems, tuple(f"{key}: {what}" for key, what in missing.items()), tuple(notes))


def _nothing_found(root: Path, references: list[Reference], subset: str | None) -> DatasetError:
    """Return the error for a folder in which nothing can be scored."""
    tracks = [reference for reference in references if subset in (None, reference.subset)]
    looked = f"looked for <track>/<target>.wav and <subset>/<track>/<target>.wav of {len(tracks)} tracks"
    if subset:
        looked += f" in subset {subset}"
    if folders := _find_folders(root):
        _, folder, files = folders[0]
        found = f"{folder.relative_to(root)} with {', '.join(files)}"
        return DatasetError(f"{root}: no estimates ({looked}; found {found}: no such track, or none of its targets)")
    for folder in _folders(root):
        with suppress(DatasetError):
            if _find_folders(folder):
                return DatasetError(f"{root}: no estimates ({looked}): did you mean {folder}?")
    return DatasetError(f"{root}: no estimates ({looked})")


def find_targets(reference: Reference, estimates: Files, settings: Settings) -> tuple[str, ...]:
    """Return the targets of a reference that are estimated, in its order, the complement too."""
    added = {"accompaniment"} if settings.complement and "vocals" in estimates else set()
    return tuple(target for target in reference.targets if target in {*estimates, *added})


def inspect(reference: Reference, estimates: Files, settings: Settings) -> list[str]:
    """Return what is wrong with a track's files by their headers; nothing where it can be scored."""
    targets = find_targets(reference, estimates, settings)
    for path in (reference.path, *estimates.values()):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            return [f"{printable(path)}: the name is no UTF-8: rename it"]
    try:
        expected = expect(reference, targets)
    except MusdbkitError as error:
        return [str(error)]
    faults = [
        f"{reference.key}: {name} {seconds} s is less than a sample at {expected.sample_rate} Hz: choose a longer one"
        for name, seconds in (("window", settings.window_seconds), ("hop", settings.hop_seconds))
        if seconds * expected.sample_rate < 1
    ]
    if not estimates.keys() >= set(targets) and reference.files and "mixture" not in reference.files:
        faults.append(f"{reference.path}: no mixture, which --complement needs")
    if len(targets) == 1 and settings.filters and set(settings.metrics) <= _FILTER_METRICS:
        faults.append(f"{reference.key}: only {targets[0]} is estimated, but isr, sir and sar need two targets or more")
    for path in estimates.values():
        try:
            found = audio.info(path)
        except AudioError as error:
            faults.append(str(error))
            continue
        for have, want, unit in (
            (found.sample_rate, expected.sample_rate, "Hz"),
            (found.nb_channels, expected.nb_channels, "channel(s)"),
        ):
            if have != want:
                faults.append(f"{path}: {have} {unit}, expected {want} as in the reference: convert it")
        difference = found.nb_samples - expected.nb_samples
        if abs(difference) > MAX_DIFFERENCE and not settings.align:
            faults.append(
                f"{path}: {found.nb_samples} samples, expected {expected.nb_samples} as in the reference (up to "
                f"{MAX_DIFFERENCE} more or less are cut or padded): separate it again, or --align to cut or pad any"
            )
    return faults


def expect(reference: Reference, targets: Iterable[str]) -> audio.AudioInfo:
    """Return what the header of a reference says, checked to be the same for all files that targets are read from."""
    if not reference.files:
        stream = audio.probe_stems(reference.path)[0]
        return audio.AudioInfo(stream.sample_rate, stream.nb_channels, stream.nb_samples, "PCM_16")
    stems = dict.fromkeys(stem for target in targets for stem in reference.targets[target])
    infos = {reference.files[stem]: audio.info(reference.files[stem]) for stem in stems}
    first = next(iter(infos))
    for path, info in infos.items():
        if replace(info, subtype="") != replace(infos[first], subtype=""):
            raise AudioError(f"{path}: {_describe(info)}, expected {_describe(infos[first])} as {first.name}", "length")
    return infos[first]


def _describe(info: audio.AudioInfo) -> str:
    """Return what a header says, for a message."""
    return f"{info.nb_samples} samples, {info.sample_rate} Hz, {info.nb_channels} channel(s)"


# One track


def _score_track(job: _Job) -> Scored:
    """Return the scores of a track, computed or from its record."""
    reference, settings = job.reference, job.settings
    seconds = expect(reference, job.targets).seconds
    record = _read_record(job)
    if (record is None or job.force) and job.dry_run:
        return Scored("to score", None, seconds, "", "", {}, ())
    hashed = {"references": _hash(_source_files(job)), "estimates": _hash(job.estimates)}
    if record is not None and record["inputs"] == hashed and not job.force:
        track = scores.from_json(record["scores"])
        if not job.dry_run:
            _write_document(job, track)
        status, independence, notes = "already there", record["independence"], tuple(record["notes"])
        return Scored(status, track, seconds, **hashed, independence=independence, notes=notes, device=record["device"])
    if job.dry_run:
        return Scored("to score", None, seconds, **hashed, independence={}, notes=())
    stale = [job.out / name for name in TABLES]  # no score is better than one of other files
    if record is not None and record["inputs"] != hashed:
        stale += [job.document, job.record]
    try:
        for path in stale:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be replaced: {error.strerror}") from error
    track, independence, remarks = _compute(job)
    document = {
        "version": _RECORD_VERSION,
        "settings": asdict(settings),
        "inputs": hashed,
        "scores": scores.to_json(track),
        "independence": independence,
        "notes": remarks,
        "device": job.device,
    }
    _write(job.record, json.dumps(document, indent=1, allow_nan=False) + "\n")
    _write_document(job, track)  # last: without a record it would be taken for another program's
    notes = tuple(remarks)
    return Scored("scored", track, seconds, **hashed, independence=independence, notes=notes, device=job.device)


def _write_document(job: _Job, track: TrackScores) -> None:
    """Write a track's scores as museval does, unless they have no frames, which its stores cannot read."""
    if not any(scenario.frames[target] for scenario in track.scenarios for target in scenario.targets):
        return
    _write(job.document, scores.museval_json(track))


def _compute(job: _Job) -> tuple[TrackScores, dict[str, float], list[str]]:
    """Return a track's scores, independence by scenario, and notes."""
    reference, settings = job.reference, job.settings
    groups = find_scenarios(job.targets)
    signals, sums = _basis(reference.targets, groups)
    true, mixture, nb_samples = open_references(reference, signals, job.complements)
    files = {target: job.estimates[target] for target in job.targets if target in job.estimates}
    estimated, notes = open_estimates(files, mixture, nb_samples)

    def read(part: slice) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        return [signal(part) for signal in true], [signal(part) for signal in estimated.values()]

    track, analyses = _analyse(
        read,
        nb_samples,
        expect(reference, job.targets).sample_rate,
        [tuple(sums[target] for target in group) for group in groups],
        groups,
        list(estimated),
        settings,
        TrackScores(reference.name, reference.subset, settings.window_seconds, settings.hop_seconds, (), {}),
        device=job.device,
        workers=job.threads,
    )
    independence = {"+".join(group): analysis.independence for group, analysis in zip(groups, analyses, strict=True)}
    for group, analysis in zip(groups, analyses, strict=True):
        notes += [note for note in _remarks(group, analysis, settings) if note not in notes]
    if settings.filters and len(job.targets) == 1:
        notes.append(f"{job.targets[0]}: the only target: SDR, but no ISR, SIR and SAR, which need the others")
    return track, independence, notes


def _analyse(
    read: bsseval.Read,
    nb_samples: int,
    sample_rate: int,
    sums: list[tuple[tuple[int, ...], ...]],
    groups: list[tuple[str, ...]],
    names: list[str],
    settings: Settings,
    empty: TrackScores,
    *,
    device: str,
    workers: int | None,
) -> tuple[TrackScores, list[bsseval.Analysis]]:
    """Return a track's scores, and what they are made of.

    Parameters
    ----------
    read : returns references and estimates of a part.
    nb_samples, sample_rate : of the track.
    sums : for each group and target the indices of the references that it is the sum of.
    groups : the targets that are evaluated together.
    names : targets of the estimates that `read` returns.
    settings : what is computed.
    empty : the track without scores.
    device, workers : see `bsseval.evaluate`.
    """
    window, hop = (int(seconds * sample_rate) for seconds in (settings.window_seconds, settings.hop_seconds))
    tasks = [
        bsseval.Scenario(parts, tuple(names.index(target) for target in group))
        for parts, group in zip(sums, groups, strict=True)
    ]
    filters = settings.filters and len(groups[0]) > 1  # a single target has no interference
    analyses = bsseval.analyse(
        read,
        nb_samples,
        tasks,
        window=window,
        hop=hop,
        mode=settings.mode,
        filters=filters and settings.engine == "fast",
        silence=settings.silence,
        device=device,
        workers=workers,
    )
    found = []
    whole: dict[str, dict[str, float]] = {}
    for task, group, analysis in zip(tasks, groups, analyses, strict=True):
        values = analysis.scores
        if settings.engine == "museval":
            values = run_museval(read, nb_samples, task, window, hop)
        chosen = [
            METRICS[m] for m in METRICS if m in settings.metrics and (filters or m == "sdr") and METRICS[m] in values
        ]
        frames = {t: {m: tuple(map(float, values[m][j])) for m in chosen} for j, t in enumerate(group)}
        found.append(scores.Scenario(group, frames))
        measures = {"usdr": metrics.usdr_of, "si-sdr": metrics.si_sdr_of, "snr": metrics.snr_of}
        total = analysis.total
        by_metric = {
            METRICS[m]: np.where(total.reference_zero | total.estimate_zero, np.nan, measure(total)).tolist()
            for m, measure in measures.items()
            if m in settings.metrics
        }
        for j, target in enumerate(group if by_metric else ()):
            whole.setdefault(target, {metric: column[j] for metric, column in by_metric.items()})
    return replace(empty, scenarios=tuple(found), whole=whole), analyses


def find_scenarios(targets: Sequence[str]) -> list[tuple[str, ...]]:
    """Return which of the estimated targets are evaluated together, as in museval.

    All but the accompaniment; and vocals with accompaniment, where both are there. A single target is evaluated by
    itself, which museval does not do.
    """
    pair = scores.PAIR if set(scores.PAIR) <= set(targets) else ()
    others = tuple(target for target in targets if not pair or target != "accompaniment")
    return [group for group in (others if len(others) > 1 or not pair else (), pair) if group]


def _basis(
    targets: Mapping[str, tuple[str, ...]], groups: list[tuple[str, ...]]
) -> tuple[list[tuple[str, ...]], dict[str, tuple[int, ...]]]:
    """Return the fewest reference signals, as sums of stems, and which of them each target is the sum of."""
    wanted = list(dict.fromkeys(target for group in groups for target in group))
    signals = [targets[target] for target in wanted if len(targets[target]) == 1]
    signals += [targets[t] for t in wanted if not all((stem,) in signals for stem in targets[t])]
    sums = {
        t: (signals.index(targets[t]),) if targets[t] in signals else tuple(signals.index((s,)) for s in targets[t])
        for t in wanted
    }
    return signals, sums


def open_references(
    reference: Reference, signals: list[tuple[str, ...]], with_mixture: bool
) -> tuple[list[Signal], Signal | None, int]:
    """Return how to read sums of stems and, on wish, the mixture, and their length."""
    needed = list(dict.fromkeys(stem for stems in signals for stem in stems)) + ["mixture"] * with_mixture
    if reference.files:
        nb_samples = audio.info(reference.files[needed[0]]).nb_samples
        readers = {stem: _from_file(reference.files[stem], nb_samples) for stem in needed}
    else:
        track = Track(reference.name, reference.subset, reference.layout, reference.path)
        stems = read_stems(track, needed)
        nb_samples = len(stems[needed[0]])
        readers = {stem: _from_memory(samples) for stem, samples in stems.items()}
    true = [_add([readers[stem] for stem in stems]) for stems in signals]
    return true, readers.get("mixture") if with_mixture else None, nb_samples


def open_estimates(files: Files, mixture: Signal | None, nb_samples: int) -> tuple[dict[str, Signal], list[str]]:
    """Return how to read estimates, cut or padded to a length, by target, and notes.

    With a mixture the accompaniment is that minus the estimated vocals, which must be among the files.
    """
    notes = []
    readers = {}
    for target, path in files.items():
        difference = audio.info(path).nb_samples - nb_samples
        if difference:
            verb = "cut" if difference > 0 else "padded with zeros"
            notes.append(f"{target}: {verb} by {abs(difference)} samples to the length of the reference")
        readers[target] = _from_file(path, nb_samples)
    if mixture is not None:
        vocals, whole = readers["vocals"], mixture
        readers["accompaniment"] = lambda part: whole(part) - vocals(part)
        notes.append("accompaniment: the mixture minus the estimated vocals")
    return readers, notes


def _from_file(path: Path, nb_samples: int) -> Signal:
    """Return how to read a file part by part, cut or padded with zeros to a length."""
    there = audio.info(path).nb_samples

    def read(part: slice) -> NDArray[np.float64]:
        stop = min(part.stop, nb_samples)
        start = min(part.start, there)
        samples = audio.read(path, start, max(min(stop, there) - start, 0)).astype(float)
        if not np.isfinite(samples).all():
            first = part.start + int(np.flatnonzero(~np.isfinite(samples).all(axis=1))[0])
            raise AudioError(f"{path}: sample {first} is not a finite number: write the file anew")
        return np.pad(samples, ((0, stop - part.start - len(samples)), (0, 0)))

    return read


def _from_memory(samples: audio.Samples) -> Signal:
    """Return how to read 16-bit samples part by part."""
    return lambda part: audio.to_float(samples[part], "PCM_16").astype(float)


def _add(readers: list[Signal]) -> Signal:
    """Return how to read a sum of signals part by part."""
    return lambda part: functools.reduce(np.add, [reader(part) for reader in readers])


def _remarks(group: tuple[str, ...], analysis: bsseval.Analysis, settings: Settings) -> Iterator[str]:
    """Yield what a reader of a scenario's scores should know."""
    total, framewise = analysis.total, analysis.framewise
    for j, target in enumerate(group):
        for what in ("reference", "estimate"):
            zero, mute = (getattr(total, f"{what}_{kind}")[j] for kind in ("zero", "mute"))
            muted = getattr(framewise, f"{what}_mute")[j] & ~getattr(framewise, f"{what}_zero")[j]
            if zero:
                yield f"{target}: the {what} is silent in the whole track: no score; the others lose no frames by it"
            elif settings.silence == "museval" and mute:
                yield f"{target}: the {what}'s channels cancel in the whole track: silent by museval's rule, no score"
            elif settings.silence == "museval" and muted.any():
                yield f"{target}: the {what}'s channels cancel in {muted.sum()} frames: silent by museval's rule"
    if analysis.ill_conditioned:
        yield f"{'+'.join(group)}: ill-conditioned: {bsseval.describe_conditioning(analysis)}"


def _source_files(job: _Job) -> Files:
    """Return the files that a track's references are read from."""
    if not job.reference.files:
        return {"": job.reference.path}
    stems = {stem for target in job.targets for stem in job.reference.targets[target]}
    return {stem: path for stem, path in job.reference.files.items() if stem in stems or job.complements}


def _hash(files: Files) -> str:
    """Return the SHA-256 of files' names and contents."""
    total = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as file:
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_protocol(folder: Path) -> dict[str, Any] | None:
    """Return the `protocol.json` of a folder of scores, None where there is none, as beside museval's own JSON.

    Raises
    ------
    DatasetError
        It cannot be read or is no JSON object.
    """
    return _read_object(folder / "protocol.json")


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file that people may have edited, None where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON: {error}: mend it or remove it") from error
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: a {type(document).__name__}, expected an object: mend it or remove it")
    return document


def _refuse_constant(name: str) -> float:
    """Refuse what Python's json reads and JSON does not hold."""
    raise ValueError(f"{name} is no number")


def _read_record(job: _Job) -> dict[str, Any] | None:
    """Return a track's record, None where there is none that makes sense."""
    try:
        record: dict[str, Any] = _read_json(job.record)
        track = scores.from_json(record["scores"])
        sound = (
            record["version"] == _RECORD_VERSION
            and (track.subset, track.track) == (job.reference.subset, job.reference.name)
            and [scenario.targets for scenario in track.scenarios] == find_scenarios(job.targets)
            and set(track.whole) <= set(job.targets)
            and all(isinstance(note, str) for note in record["notes"])
            and all(0 <= record["independence"][scenario.name] < math.inf for scenario in track.scenarios)
            and record["independence"].keys() == {scenario.name for scenario in track.scenarios}
            and record["inputs"].keys() == {"references", "estimates"}
            and isinstance(record["settings"], dict)
            and isinstance(record["device"], str)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DatasetError):
        return None
    return record if sound else None


def _refuse(job: _Job) -> str | None:
    """Return why a track's scores that are there may not be replaced, None where they may."""
    if job.document.exists() and not job.record.exists():
        return f"{job.document}: was not made by score: choose another --out, or --force replaces it"
    record = _read_json(job.record)
    before = record.get("settings") if isinstance(record, dict) else None
    now = json.loads(json.dumps(asdict(job.settings)))
    if not isinstance(before, dict) or before == now:
        return None
    changed = [f"{key} was {before.get(key)}, now {value}" for key, value in now.items() if before.get(key) != value]
    what = "; ".join(changed) or "by another version"
    return f"{job.document}: scored otherwise: {what}: --force scores it anew, or choose another --out"


def _write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, unless it is there already."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    partial = path.parent / f"{PARTIAL_PREFIX}{digest}-{os.getpid()}{PARTIAL_SUFFIX}"
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DatasetError(f"{path}: cannot be written: {error.strerror}") from error


# museval itself


def run_museval(
    read: bsseval.Read, nb_samples: int, scenario: bsseval.Scenario, window: int, hop: int
) -> dict[str, NDArray[np.float64]]:
    """Return SDR, ISR, SIR and SAR as the installed museval computes them [shape of each=(nb_sources, nb_frames), dB].

    Its metrics.py is loaded by its file: importing museval would need an ffmpeg program. Memory is some ten times that
    of the signals as float64.

    Raises
    ------
    MusdbkitError
        museval itself raises an error, as it does where a source is silent in the whole track.
    """
    true, estimated = read(slice(0, nb_samples))
    references = [functools.reduce(np.add, [true[i] for i in parts]) for parts in scenario.references]
    module = _museval_metrics()
    try:
        values = module.bss_eval(
            np.array(references), np.array([estimated[i] for i in scenario.estimates]), window=window, hop=hop
        )
    except (ValueError, AttributeError, np.linalg.LinAlgError) as error:  # AttributeError: its fallback, on numpy 2.4
        raise MusdbkitError(f"museval: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return dict(zip(scores.FRAME_METRICS, values[:4], strict=True))


@functools.cache
def _museval_metrics() -> ModuleType:
    """Return museval's module of metrics."""
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise MissingDependencyError("the museval package is not installed: pip install museval")
    path = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    if spec is None or spec.loader is None:
        raise MissingDependencyError(f"{path}: cannot be loaded: pip install --force-reinstall museval")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _verify_track(job: _Job) -> Verified:
    """Return how a track's scores compare with museval's."""
    record = _read_record(job)
    if record is None:
        raise DatasetError(f"{job.record}: cannot be read: --force scores the track anew")
    ours = scores.from_json(record["scores"])
    if any(_SILENT in note for note in record["notes"]):
        return Verified((), 0.0)
    theirs, _, _ = _compute(replace(job, settings=replace(job.settings, engine="museval")))
    worst = 0.0
    compared = set()
    for a, b in zip(ours.scenarios, theirs.scenarios, strict=True):
        independence = record["independence"][a.name]
        ill = independence < bsseval.ILL_CONDITIONED
        for target, by_metric in a.frames.items():
            for metric in by_metric if not ill else [m for m in by_metric if m == "SDR"]:
                mine, other = (np.array(each.frames[target][metric]) for each in (a, b))
                if not np.array_equal(np.isnan(mine), np.isnan(other)):
                    raise MusdbkitError(f"{target} in {a.name}: museval drops other frames of {metric}")
                beyond = (np.minimum(mine, other) > _ROUNDING_DB) & (metric != "SDR")
                with np.errstate(invalid="ignore"):  # both infinite
                    difference = np.where((mine == other) | beyond, 0, np.abs(mine - other))
                compared.add(metric)
                largest = float(np.nanmax(difference, initial=0))
                worst = max(worst, largest)
                if largest > (TOLERANCE_DB if metric == "SDR" else max(TOLERANCE_DB, _ERROR_DB / independence)):
                    frame = int(np.nanargmax(difference))
                    where = f"{metric} of {target} in {a.name}, frame {frame}"
                    raise MusdbkitError(f"{where}: {mine[frame]:.6f} dB, museval {other[frame]:.6f}")
    return Verified(tuple(metric for metric in scores.FRAME_METRICS if metric in compared), worst)


# All tracks


def score(
    estimates: Path,
    references: Sequence[Reference],
    out: Path,
    settings: Settings = DEFAULT_SETTINGS,
    *,
    subset: str | None = None,
    allow_missing: bool = False,
    verify: int = 0,
    force: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    parallel: Parallel = ALL_CORES,
) -> Result:
    """Score estimates, write the scores, and return them.

    Tracks whose scores are there, from the same estimates and references, are left alone; where these have changed they
    are scored anew.

    Parameters
    ----------
    estimates : the folder of estimates.
    references : what `find_references` or `find_other_references` returned.
    out : folder to write to.
    settings : what is computed.
    subset : `train` or `test`; by default those that the estimates are of.
    allow_missing : score what is there, though tracks or targets are missing.
    verify : of how many tracks to compute museval's scores, too, and compare.
    force : score all tracks anew, whatever is there.
    dry_run : write nothing; say what would be done.
    device : `cpu`; a GPU as torch names it; or `auto`, a GPU if one is there whose float64 is fast.
    parallel : jobs and backend; jobs are limited to those that the memory has room for.

    Raises
    ------
    DatasetError
        There are no estimates of these references, their `separation.json` cannot be read, or the folder holds scores
        of other tracks. What is wrong with single tracks is in the result instead; then, nothing was scored.
    ParameterError
        museval cannot verify what is computed with these settings.
    """
    theirs = replace(settings, engine="museval") if verify else settings
    plan = _plan(estimates, list(references), subset, settings, allow_missing)
    if plan.problems:
        return Result(out, {}, plan.problems, plan.missing, plan.notes, settings)
    separation = _read_object(estimates / SEPARATION)
    _remove_others(out, [reference for reference, _ in plan.pairs], force, dry_run)
    chosen = _choose_device(device)
    bsseval.check_device(chosen)
    slots = _limit(parallel, plan.pairs, settings, chosen)
    threads = min(max(nb_cores() // slots, 1), bsseval.MAX_THREADS)
    jobs = [_Job(r, files, out, settings, force, dry_run, chosen, threads) for r, files in plan.pairs]
    refused = {job.reference.key: reason for job in jobs if not force and (reason := _refuse(job))}
    if refused:
        return Result(out, {}, refused, plan.missing, plan.notes, settings)
    label = "dry run" if dry_run else "score"
    runs = replace(parallel, jobs=slots)
    outcome = for_each(_score_track, jobs, key=lambda job: job.reference.key, label=label, parallel=runs)
    verified: Outcome[Verified] = Outcome({}, {})
    if verify and not dry_run and outcome.done:
        scored = [job for job in jobs if job.reference.key in outcome.done]
        picked = [scored[i * len(scored) // verify] for i in range(verify)] if verify < len(scored) else scored
        few = replace(parallel, jobs=_limit(parallel, plan.pairs, theirs, "cpu"))
        again = [replace(job, device="cpu") for job in picked]
        verified = for_each(_verify_track, again, key=lambda job: job.reference.key, label="verify", parallel=few)
    failed = outcome.failed | {key: f"verification failed: {text}" for key, text in verified.failed.items()}
    new = [job for job in jobs if job.reference.key in outcome.done and outcome.done[job.reference.key].scores is None]
    nb_frames = sum(len(job.targets) * outcome.done[job.reference.key].seconds / settings.hop_seconds for job in new)
    nb_bytes = int(nb_frames * _FRAME_BYTES)
    result = Result(out, outcome.done, failed, plan.missing, plan.notes, settings, nb_bytes, verified.done, separation)
    if not dry_run:
        table, protocol = (out / name for name in TABLES)
        scores.write_csv(result.table, table)
        text = json.dumps(_protocol(result, [r for r, _ in plan.pairs], settings), indent=2, allow_nan=False)
        _write(protocol, text + "\n")
        _remove_partials(out)
    return result


def _remove_partials(out: Path) -> None:
    """Remove the unfinished files of processes that are no more."""
    for folder in (out, *(path for subset in musdb18.SUBSETS for path in (out / subset, out / RECORDS / subset))):
        for path in folder.glob(f"{PARTIAL_PREFIX}*-*{PARTIAL_SUFFIX}"):
            process = path.name.removesuffix(PARTIAL_SUFFIX).rpartition("-")[2]
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except (OSError, ValueError, OverflowError):  # another user's, or not one of ours
                continue


def _remove_others(out: Path, references: list[Reference], force: bool, dry_run: bool) -> None:
    """Refuse to mix scores with those of other tracks, or remove these by force."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out}: is a file, expected a folder to write to")
    for path in (out / name for name in TABLES):
        if path.exists() and not (out / RECORDS).exists() and not force:
            raise DatasetError(f"{path}: was not made by score: choose another --out, or --force replaces it")
    ours = {out / r.subset / f"{r.name}.json" for r in references}
    there = [path for subset in musdb18.SUBSETS for path in sorted((out / subset).glob("*.json"))]
    for path in (path for path in there if path not in ours):
        record = out / RECORDS / path.parent.name / path.name
        if not force or not record.exists():
            raise DatasetError(
                f"{path}: scores of a track that is not among these: "
                + ("choose another --out" if force else "--force removes what score made, or choose another --out")
            )
        if not dry_run:
            path.unlink()
            record.unlink()


def _choose_device(device: str) -> str:
    """Return the device to compute on: `auto` is a GPU only where its float64 is at full rate."""
    if device != "auto":
        return device
    if not Path("/dev/nvidiactl").exists() or importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() and torch.cuda.get_device_capability() in _FULL_RATE else "cpu"


def _limit(parallel: Parallel, pairs: list[tuple[Reference, Files]], settings: Settings, device: str) -> int:
    """Return how many tracks to score at once: no more than there is memory for."""
    cores = parallel.jobs or nb_cores()
    if parallel.backend == "dask":
        return cores
    worst = max(_memory_bytes(reference, files, settings) for reference, files in pairs)
    room = max(int(available_memory() // worst), 1)
    if parallel.jobs and room < parallel.jobs:
        print(f"jobs: {room} instead of {parallel.jobs}: each needs {worst / 1e9:.1f} GB of memory", file=sys.stderr)
    return min(cores, room, len(pairs), 2 if device != "cpu" else cores)


def _memory_bytes(reference: Reference, files: Files, settings: Settings) -> int:
    """Return about how much memory scoring a track takes."""
    expected = expect(reference, files)
    nb_targets = len(files) + 1
    nb_rows = nb_targets * expected.nb_channels
    signals = 8 * nb_rows * expected.nb_samples
    if settings.engine == "museval":
        return 12 * signals
    held = 0 if reference.files else signals // 4
    if not settings.filters:
        return 300_000_000 + held
    nb_frames = expected.seconds / settings.hop_seconds
    taps = bsseval.FILTER_LENGTH
    return int(
        400_000_000
        + held
        + min(nb_cores(), bsseval.MAX_THREADS) * _THREAD_BYTES
        + 8 * taps * nb_rows * (2 * nb_rows * nb_frames + 2 * nb_rows * taps)
    )


def _protocol(result: Result, references: list[Reference], settings: Settings) -> dict[str, Any]:
    """Return how the scores came about, as strict JSON."""
    done = result.done
    independence = {
        f"{key}: {name}": value for key, track in done.items() for name, value in track.independence.items()
    }
    frames: dict[str, dict[str, dict[str, int]]] = {}
    for aggregation in ("sisec18", "demucs-mean"):  # of a target in two scenarios each takes another
        for (target, scenario), counts in scores.dropped_frames(result.table, aggregation).iterrows():
            frames.setdefault(target, {})[scenario] = {name: int(value) for name, value in counts.items()}
    how = {
        "definition": {METRICS[metric]: _DEFINITIONS[metric].format(settings) for metric in settings.metrics},
        "settings": asdict(settings),
        "separation": result.separation,
    }
    return {
        **how,
        "fingerprint": _fingerprint_protocol(how),
        "aggregations": {name: scores.AGGREGATIONS[name] for name in scores.AGGREGATIONS},
        "frames": frames,
        "dataset": {
            "layout": sorted({reference.layout for reference in references}),
            "subsets": sorted({reference.subset for reference in references}),
            "fingerprint": _fingerprint((key, track.references) for key, track in done.items()),
        },
        "estimates": {"fingerprint": _fingerprint((key, track.estimates) for key, track in done.items())},
        "tracks": {
            "scored": len(done),
            "missing": list(result.missing),
            "failed": result.failed,
            "verified": {key: asdict(value) for key, value in result.verified.items()},
        },
        "devices": sorted({track.device for track in done.values()}),
        "conditioning": {
            "threshold": bsseval.ILL_CONDITIONED,
            "ridge": bsseval.RIDGE,
            "least_independence": min(independence.values(), default=None),
            "ill_conditioned": sorted(k for k, value in independence.items() if value < bsseval.ILL_CONDITIONED),
        },
        "notes": {key: list(track.notes) for key, track in done.items() if track.notes},
        "versions": {
            "musdbkit": __version__,
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in _PACKAGES},
            **({"torch": metadata.version("torch")} if {track.device for track in done.values()} - {"cpu"} else {}),
        },
    }


def _fingerprint(parts: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 over names and hashes."""
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in parts).encode()).hexdigest()


def _fingerprint_protocol(how: Mapping[str, Any]) -> str:
    """Return the SHA-256 over what scores depend on beside the dataset and the model's estimates themselves."""
    made = how["separation"]
    made = made and {key: value for key, value in made.items() if key not in _CIRCUMSTANCES}
    return hashlib.sha256(json.dumps({**how, "separation": made}, sort_keys=True).encode()).hexdigest()


def summarise(result: Result) -> dict[str, Any]:
    """Return a result as strict JSON."""
    return {
        "out": str(result.out),
        "settings": asdict(result.settings),
        "tracks": result.nb_tracks,
        "scores": scores.summary(result.table) if len(result.table) else {},
        "missing": list(result.missing),
        "notes": result.all_notes,
        "verified": {key: asdict(value) for key, value in result.verified.items()},
        "failed": result.failed,
    }


def print_result(result: Result, console: "Console") -> None:
    """Print the aggregated scores, and what a reader should know about them."""
    if len(result.table):
        scores.print_table(result.table, console)
    lines = [f"missing: {each}" for each in result.missing] + [f"note: {each}" for each in result.notes]
    by_note: dict[str, list[str]] = {}
    for key, track in result.done.items():
        for note in track.notes:
            by_note.setdefault(note, []).append(key)
    for note, keys in by_note.items():
        lines.append(f"note: {keys[0]}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''}: {note}")
    settings = result.settings
    if (settings.window_seconds, settings.hop_seconds, settings.silence, settings.mode) != (1, 1, "museval", "v4"):
        lines.append(
            f"note: BSSEval {settings.mode}, frames of {settings.window_seconds:g} s every {settings.hop_seconds:g} s, "
            f"silence {settings.silence}: not comparable with published scores (v4, 1 s every 1 s, museval)"
        )
    lines += [
        f"verified: {key}: {', '.join(value.metrics)} within {value.difference:.1e} dB of museval"
        if value.metrics
        else f"not verified: {key}: museval refuses a track with a silent target"
        for key, value in result.verified.items()
    ]
    if result.done:
        lines.append("tracks: " + ", ".join(f"{number} {status}" for status, number in result.nb_tracks.items()))
        if len(result.table):
            lines.append(f"scores: {result.out}")
        else:
            lines.append(f"to write: about {result.nb_bytes / 1e6:.1f} MB; {free_bytes(result.out) / 1e9:.2f} GB free")
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


# museval's function


def eval_mus_track(
    track: Any,
    user_estimates: Mapping[str, NDArray[Any]],
    output_dir: str | Path | None = None,
    mode: str = "v4",
    win: float = 1.0,
    hop: float = 1.0,
) -> "TrackStore":
    """Return the scores of one of musdb's tracks, as museval.eval_mus_track does, in museval's own TrackStore.

    Parameters
    ----------
    track : a musdb Track.
    user_estimates : estimates by target [shape of each=(nb_samples, nb_channels)].
    output_dir : where to write `<subset>/<track>.json`; nothing is written by default.
    mode : `v4` or `v3`.
    win, hop : of the frames, in seconds.

    Warns
    -----
    bsseval.IllConditionedWarning
        ISR, SIR and SAR depend on rounding errors.

    Raises
    ------
    MissingDependencyError
        museval cannot be imported: it needs an ffmpeg program, as musdb does.
    ParameterError
        None of the track's targets is estimated, or shapes do not fit.
    """
    try:
        from museval.aggregate import TrackStore
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(f"museval cannot be imported: {error}") from error
    settings = Settings(window_seconds=win, hop_seconds=hop, mode=mode)
    names = [target for target in track.targets if target in user_estimates]
    if not names:
        raise ParameterError(f"{track.name}: no estimates of its targets: expected some of {', '.join(track.targets)}")
    groups = find_scenarios(names)
    stems = {name: musdb18.TARGETS.get(name, (name,)) for name in names}
    signals, sums = _basis(stems, groups)
    true = [next(track.targets[name].audio for name in names if stems[name] == signal) for signal in signals]
    estimated = bsseval.pad([user_estimates[name] for name in names], len(true[0]))
    for name, samples in zip(names, estimated, strict=True):
        if samples.shape != true[0].shape:
            raise ParameterError(f"{track.name}: {name} has the shape {samples.shape}, expected {true[0].shape}")
    found, analyses = _analyse(
        lambda part: ([samples[part] for samples in true], [samples[part] for samples in estimated]),
        len(true[0]),
        track.rate,
        [tuple(sums[target] for target in group) for group in groups],
        groups,
        names,
        settings,
        TrackScores(track.name, track.subset, win, hop, (), {}),
        device="cpu",
        workers=None,
    )
    for analysis in analyses:
        if analysis.ill_conditioned:
            text = bsseval.describe_conditioning(analysis)
            warnings.warn(text, bsseval.IllConditionedWarning, stacklevel=2)
    text = scores.museval_json(found)
    if output_dir is not None:
        _write(Path(output_dir) / track.subset / f"{track.name}.json", text)
    store = TrackStore(track_name=track.name, win=win, hop=hop)
    store.scores = json.loads(text, parse_float=Decimal)
    return store
