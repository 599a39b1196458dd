"""Spleeter's training files: CSVs of tracks and a configuration; written, read and checked.

Reads a dataset in the `wav` or `hq` layout and `templates/spleeter_<N>stems.json`. Writes `musdb_<N>stems_train.csv`,
`..._validation.csv`, `..._test.csv` and `musdb_<N>stems.json`, and on wish each track's missing accompaniment.

Conventions, which are Spleeter 2.4.2's: a CSV holds paths relative to the dataset's root (its `--data`), with `/`, and
durations in seconds; the configuration holds paths relative to the folder that `spleeter train` is started in. Its
words (frame_length, T, F, ...) end here: `SpleeterConfig` has ours.

References
----------
Hennequin, Khlif, Voituret, Moussallam: Spleeter: a fast and efficient music source separation tool with pre-trained
models, J. Open Source Softw. 5(50), 2020, doi:10.21105/joss.02154. The templates' values are those of its published
configuration for MUSDB18, github.com/deezer/spleeter, configs/musdb_config.json.
"""

import csv
import difflib
import io
import json
import math
import os
import posixpath
import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from musdbkit import audio, musdb18, templates
from musdbkit.audio import AudioInfo
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.tracks import ALL_CORES, Parallel, Track, default_root, find_audio, find_tracks, for_each

STEMS: Final = (2, 4)
"""Numbers of stems that there are templates for."""

SPLITS: Final = ("train", "validation", "test")
"""The CSV files, by Spleeter's words."""

SEED: Final = 0
"""Seed of the pick of validation tracks where the official ones are not asked for or not there."""

_PATH_KEYS: Final = ("train_csv", "validation_csv", "model_dir", "training_cache", "validation_cache")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TOLERANCE: Final = 0.001  # s; between a CSV's duration and its files'


@dataclass(frozen=True)
class SpleeterConfig:
    """A Spleeter configuration in our words; defaults are what Spleeter itself takes where a key is missing.

    Attributes
    ----------
    train_csv, validation_csv : CSVs of tracks.
    model_dir : folder of checkpoints.
    mixture : name of the mixture's column, less `_path`.
    targets : names of the targets' columns, less `_path`, in the order of the model's outputs.
    sample_rate : Hz.
    n_fft, hop_length : samples.
    nb_frames, nb_bins : size of a training example; bins count from 0 Hz.
    nb_channels : channels of every file.
    mask_exponent : power of the magnitudes that a mask is the ratio of.
    mask_extension : what a mask is above `nb_bins`: `zeros` or `average`.
    max_steps : number of gradient steps.
    eval_seconds : least time between two evaluations, in seconds.
    seed : seed of shuffling, crops and weights.
    checkpoint_steps, summary_steps : steps between checkpoints, and between log entries.
    model, model_params : Spleeter's name of the network, and its settings.
    learning_rate : Adam's step.
    batch_size : examples in a batch.
    nb_chunks : excerpts taken of each track.
    chunk_seconds : length of such an excerpt in seconds.
    wiener : whether to separate with a multichannel Wiener filter.
    training_cache, validation_cache : Spleeter's caches of spectrograms.
    other : keys that are none of these, which Spleeter ignores or which belong to another of its models.
    """

    train_csv: Path
    validation_csv: Path
    model_dir: Path
    mixture: str
    targets: tuple[str, ...]
    sample_rate: int
    n_fft: int
    hop_length: int
    nb_frames: int
    nb_bins: int
    nb_channels: int
    mask_exponent: float
    mask_extension: str
    max_steps: int
    eval_seconds: float
    seed: int
    checkpoint_steps: int
    summary_steps: int
    model: str
    model_params: dict[str, Any]
    learning_rate: float
    batch_size: int = 8
    nb_chunks: int = 2
    chunk_seconds: float = 20.0
    wiener: bool = False
    training_cache: Path | None = None
    validation_cache: Path | None = None
    other: dict[str, Any] = field(default_factory=dict)

    @property
    def least_samples(self) -> int:
        """Length in samples of the shortest track that Spleeter gets an example from.

        Spleeter frames without padding and drops an excerpt of fewer than `nb_frames` frames. It takes excerpts of
        at most `chunk_seconds` (12 s in validation), both long enough, and of a track shorter than that at least one
        starts at 0: in training the last, in validation the only one. So the track itself must hold `nb_frames` frames.
        """
        return self.n_fft + (self.nb_frames - 1) * self.hop_length


_COUNT: Final = "a whole number above 0"
_AMOUNT: Final = "a number above 0"

_CONFIG_KEYS: Final = {
    "train_csv": ("train_csv", "a path"),
    "validation_csv": ("validation_csv", "a path"),
    "model_dir": ("model_dir", "a path"),
    "mix_name": ("mixture", "a name"),
    "instrument_list": ("targets", "a list of names"),
    "sample_rate": ("sample_rate", _COUNT),
    "frame_length": ("n_fft", _COUNT),
    "frame_step": ("hop_length", _COUNT),
    "T": ("nb_frames", _COUNT),
    "F": ("nb_bins", _COUNT),
    "n_channels": ("nb_channels", _COUNT),
    "n_chunks_per_song": ("nb_chunks", _COUNT),
    "chunk_duration": ("chunk_seconds", _AMOUNT),
    "separation_exponent": ("mask_exponent", _AMOUNT),
    "mask_extension": ("mask_extension", "zeros or average"),
    "MWF": ("wiener", "true or false"),
    "learning_rate": ("learning_rate", _AMOUNT),
    "batch_size": ("batch_size", _COUNT),
    "training_cache": ("training_cache", "a path or null"),
    "validation_cache": ("validation_cache", "a path or null"),
    "train_max_steps": ("max_steps", _COUNT),
    "throttle_secs": ("eval_seconds", _AMOUNT),
    "random_seed": ("seed", "a whole number"),
    "save_checkpoints_steps": ("checkpoint_steps", _COUNT),
    "save_summary_steps": ("summary_steps", _COUNT),
    "model": ("model", "an object with type and params"),
}
"""Spleeter's keys in the order they are written: our name of each, and what it must be."""

_KINDS: Final[dict[str, Callable[[Any], bool]]] = {
    "a path": lambda value: isinstance(value, str) and value != "",
    "a path or null": lambda value: value is None or (isinstance(value, str) and value != ""),
    "a name": lambda value: isinstance(value, str) and value != "",
    "a list of names": lambda value: isinstance(value, list) and value != [] and all(isinstance(v, str) for v in value),
    _COUNT: lambda value: type(value) is int and value > 0,
    _AMOUNT: lambda value: type(value) in (int, float) and 0 < value < math.inf,
    "a whole number": lambda value: type(value) is int,
    "zeros or average": lambda value: value in ("zeros", "average"),
    "true or false": lambda value: type(value) is bool,
    "an object with type and params": lambda value: (
        isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("params"), dict)
    ),
}

_OPTIONAL_KEYS: Final = {
    key for key, (name, _) in _CONFIG_KEYS.items() if SpleeterConfig.__dataclass_fields__[name].default is not MISSING
}


@dataclass(frozen=True)
class Row:
    """One track of a CSV.

    Attributes
    ----------
    name : the track's name, which is its mixture's folder.
    files : `mixture` and each target, as paths relative to the dataset's root.
    seconds : length in seconds.
    """

    name: str
    files: dict[str, PurePosixPath]
    seconds: float


@dataclass(frozen=True)
class CsvResult:
    """What `make_csv` did.

    Attributes
    ----------
    written : files that were written (with `dry_run`, that would be).
    kept : files that were there already, with the same content.
    rows : number of tracks in each CSV, by `SPLITS`; 0 where there is no such file.
    validation : names of the tracks held out for validation, before `limit`.
    left_out : tracks that are in no CSV, by key, each with the reason.
    accompaniments : keys of the tracks whose accompaniment was written (with `dry_run`, that would be).
    nb_bytes : size of all files written; with `dry_run`, an estimate.
    notes : what else the user should know, a line each.
    failed : what is wrong with broken tracks, by key; nothing is in `written` if there are any.
    """

    written: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    validation: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    accompaniments: tuple[str, ...] = ()
    nb_bytes: int = 0
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One thing in a CSV that Spleeter stumbles over.

    Attributes
    ----------
    line : line number in the file, 1 for the header.
    column : the column, empty where it is the whole line.
    problem : what is wrong and what comes of it.
    advice : what to do.
    """

    line: int
    column: str
    problem: str
    advice: str


@dataclass(frozen=True)
class CsvCheck:
    """What `check_csv` found.

    Attributes
    ----------
    path : the CSV.
    root : the folder its paths were taken to be relative to.
    nb_rows : number of tracks.
    findings : what is wrong, by line; none if all is well.
    """

    path: Path
    root: Path
    nb_rows: int
    findings: tuple[Finding, ...]


def make_csv(
    root: Path,
    *,
    stems: int,
    out: Path = Path("."),
    validation: str = "official",
    limit: int | None = None,
    exclude_errata: bool = False,
    make_accompaniment: bool = False,
    force: bool = False,
    dry_run: bool = False,
    parallel: Parallel = ALL_CORES,
) -> CsvResult:
    """Write Spleeter's CSVs and configuration for a dataset and return what was done.

    Everything is checked before anything is written: where a track is broken, `failed` names it and no file is written.

    Parameters
    ----------
    root : the dataset, with `train` and perhaps `test`, in the `wav` or `hq` layout.
    stems : one of `STEMS`: vocals and accompaniment, or vocals, drums, bass and other.
    out : folder of the files; the configuration holds it as it is given here.
    validation : which tracks of subset train are held out. `official`: the 14 published ones, and where none of them
        is there a tenth of the tracks, picked at random with `SEED`. A whole number: so many, picked alike. Else names,
        separated by commas; a name with a comma may be put in double quotes.
    limit : most rows of each CSV, the first by name; all by default.
    exclude_errata : whether to leave out the tracks with known faults, `musdb18.ERRATA`.
    make_accompaniment : whether to write the accompaniment of those tracks that lack it, as the exact sum of its stems.
    force : whether to replace files that have another content.
    dry_run : whether to write nothing.
    parallel : how accompaniments are made.

    Raises
    ------
    ParameterError
        `stems`, `limit` or `validation` has a value that cannot be used.
    DatasetError
        The root holds no wav tracks, has a name twice, lacks accompaniments, or leaves a CSV empty; a validation track
        is not there; a file is there with another content, or cannot be written.
    """
    if stems not in STEMS:
        raise ParameterError(f"stems is {stems}, expected 2 or 4")
    if limit is not None and limit < 1:
        raise ParameterError(f"limit is {limit}, expected 1 or more")
    template, config = _read_template(stems)
    found = _find_wav_tracks(root)
    left_out = {t.key: _errata_reason(t) for t in found if exclude_errata and musdb18.errata_of(t.name)}
    lengths, failed = _measure([track for track in found if track.key not in left_out], config)
    if failed:
        return CsvResult(left_out=left_out, failed=failed)
    left_out |= {key: _short_reason(n, config) for key, n in lengths.items() if n < config.least_samples}
    train = [track for track in found if track.subset == "train"]
    held_out, notes = _hold_out(validation, train, [track for track in train if track.key not in left_out])
    splits = _split([track for track in found if track.key not in left_out], held_out, limit)
    _check_not_empty(root, train, splits, left_out)
    chosen = [track for split in SPLITS for track in splits[split]]
    lacking = [t for t in chosen if "accompaniment" in config.targets and not find_audio(t.path, "accompaniment")]
    if lacking and not make_accompaniment:
        raise DatasetError(
            f"{root}: {len(lacking)} of {len(chosen)} tracks have no accompaniment ({lacking[0].key} is the first), "
            "which 2 stems need: run again with --make-accompaniment to write drums + bass + other"
        )
    filled = template | {key: (out / template[key]).as_posix() for key in _PATH_KEYS}
    files = _compose(root, out / f"musdb_{stems}stems", filled, config, splits, lengths)
    changed = _find_changed(files, force)
    notes += _stale_notes(out / f"musdb_{stems}stems_test.csv", filled, files, changed)
    nb_bytes = sum(len(files[path]) for path in changed)
    if dry_run:
        nb_bytes += sum(lengths[track.key] * musdb18.NB_CHANNELS * 2 for track in lacking)
    else:
        made = for_each(
            _write_accompaniment, lacking, key=lambda track: track.key, label="accompaniment", parallel=parallel
        )
        if made.failed:
            return CsvResult(left_out=left_out, accompaniments=tuple(made.done), failed=made.failed)
        notes += [f"{key}: accompaniment is FLOAT, its sum overflows {old}" for key, old in made.done.items() if old]
        nb_bytes += sum(track.file("accompaniment").stat().st_size for track in lacking)
        _write_files({path: files[path] for path in changed})
    return CsvResult(
        written=tuple(changed),
        kept=tuple(path for path in files if path not in changed),
        rows={split: len(splits[split]) for split in SPLITS},
        validation=tuple(sorted(held_out)),
        left_out=left_out,
        accompaniments=tuple(track.key for track in lacking),
        nb_bytes=nb_bytes,
        notes=tuple(notes),
    )


def check_csv(path: Path, root: Path | None = None) -> CsvCheck:
    """Return what in a CSV, whoever wrote it, makes Spleeter stop or silently drop tracks.

    Parameters
    ----------
    path : the CSV.
    root : folder that its paths are relative to; by default the dataset that MUSDB_PATH names, and where that is not
        set the CSV's own folder.

    Raises
    ------
    DatasetError
        There is no such file or folder.
    """
    rows, findings = _parse(path)
    if root is None:
        root = default_root(None, wav=True) if os.environ.get("MUSDB_PATH") else path.parent
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder: name the one that the paths in {path.name} are relative to")
    config = _read_template(2)[1]
    missing: list[Finding] = []
    nb_files = 0
    for line, cells in rows:
        infos: dict[str, AudioInfo] = {}
        for column, cell in cells.items():
            if not column.endswith("_path") or not cell.strip():
                continue
            nb_files += 1
            if finding := _check_path(line, column, cell, root):
                findings.append(finding)
            elif not os.path.isfile(root / cell):  # unlike Path.is_file, no error for a name that is too long
                missing.append(Finding(line, column, f"{cell}: no such file in {root}", "correct the path"))
            else:
                try:
                    infos[column] = audio.info(root / cell)
                except AudioError as error:
                    findings.append(Finding(line, column, str(error), "write the file again"))
        findings += _check_infos(line, infos, cells.get("duration", ""), config)
    if missing and len(missing) == nb_files:
        advice = "name the folder that the paths are relative to"
        missing = [Finding(1, "", f"none of the {nb_files} files is in {root}", advice)]
    return CsvCheck(path, root, len(rows), tuple(sorted(findings + missing, key=lambda finding: finding.line)))


def read_config(path: Path) -> SpleeterConfig:
    """Return a Spleeter configuration.

    Its paths are relative to the folder Spleeter is started in, which is not known here; they are as in the file.

    Raises
    ------
    DatasetError
        There is no such file, or it is not JSON.
    ParameterError
        A key is missing or has a value that cannot be used.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    return _translate(settings, str(path))


def read_csv(path: Path, config: SpleeterConfig) -> list[Row]:
    """Return the tracks of a CSV, in its order.

    Raises
    ------
    DatasetError
        There is no such file, a line cannot be used, or a column that the configuration asks for is not there.
    """
    rows, findings = _parse(path, (config.mixture, *config.targets))
    if findings:
        first = findings[0]
        where = f"{path}, line {first.line}" + (f", {first.column}" if first.column else "")
        raise DatasetError(f"{where}: {first.problem}: {first.advice}")
    return [
        Row(
            name=PurePosixPath(cells[f"{config.mixture}_path"]).parent.name,
            files={
                "mixture" if signal == config.mixture else signal: PurePosixPath(cells[f"{signal}_path"])
                for signal in (config.mixture, *config.targets)
            },
            seconds=float(cells["duration"]),
        )
        for _, cells in rows
    ]


# The configuration


def _read_template(stems: int) -> tuple[dict[str, Any], SpleeterConfig]:
    """Return a template as it is, and in our words."""
    name = f"spleeter_{stems}stems.json"
    template: dict[str, Any] = json.loads(templates.read(name))
    return template, _translate(template, name)


def _translate(settings: Any, source: str) -> SpleeterConfig:
    """Return a configuration in our words."""
    if not isinstance(settings, dict):
        raise ParameterError(f"{source}: a {type(settings).__name__}, expected an object with Spleeter's keys")
    fields: dict[str, Any] = {}
    for key, (name, kind) in _CONFIG_KEYS.items():
        if key in settings:
            value = settings[key]
            if not _KINDS[kind](value):
                raise ParameterError(f"{source}: {key} is {json.dumps(value)}, expected {kind}")
            fields[name] = Path(value) if value is not None and kind.startswith("a path") else value
        elif key not in _OPTIONAL_KEYS:
            raise ParameterError(f"{source}: no {key}, which Spleeter needs")
    fields["targets"] = tuple(fields["targets"])
    network = fields["model"]
    fields |= {"model": network["type"], "model_params": network["params"]}
    config = SpleeterConfig(**fields, other={key: settings[key] for key in settings if key not in _CONFIG_KEYS})
    if config.nb_bins > config.n_fft // 2 + 1:
        raise ParameterError(f"{source}: F is {config.nb_bins}, expected at most frame_length / 2 + 1")
    if (config.chunk_seconds * config.sample_rate - config.n_fft) / config.hop_length < config.nb_frames:
        raise ParameterError(
            f"{source}: T is {config.nb_frames}, but chunk_duration ({config.chunk_seconds} s) has not as many frames"
        )
    return config


# The tracks


def _find_wav_tracks(root: Path) -> list[Track]:
    """Return the tracks of a dataset of wav files in which no name occurs twice."""
    found = find_tracks(root, complete=False)  # a missing file is said by track, and not all stems are needed
    if found[0].layout == "stems":
        raise DatasetError(f"{root}: stem files, expected wav files: convert them first: musdbkit convert {root}")
    keys: dict[str, str] = {}
    for track in found:
        name = musdb18.canonical_name(track.name)
        if name in keys:
            raise DatasetError(
                f"{root}: {keys[name]} and {track.key} are one track, "
                "which would be in two places (train, validation, test must not overlap): remove one of them"
            )
        keys[name] = track.key
    return found


def _measure(found: Sequence[Track], config: SpleeterConfig) -> tuple[dict[str, int], dict[str, str]]:
    """Return the tracks' lengths in samples, and what is wrong with broken ones, by key."""
    lengths: dict[str, int] = {}
    failed: dict[str, str] = {}
    for track in found:
        infos, problems = _read_infos(track, config)
        if not problems:
            lengths[track.key] = next(iter(infos.values())).nb_samples
        else:
            failed[track.key] = "; ".join(problems)
    return lengths, failed


def _read_infos(track: Track, config: SpleeterConfig) -> tuple[dict[str, AudioInfo], list[str]]:
    """Return what the headers of a track's files say, by file name, and what is wrong with them."""
    problems = []
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in track.name):
        problems.append("its name has a control character or is not UTF-8, which no CSV carries: rename the folder")
    signals: list[str] = ["mixture", *config.targets]
    parts = musdb18.TARGETS["accompaniment"]
    summed = "accompaniment" in signals and find_audio(track.path, "accompaniment") is None
    if summed:
        signals = ["mixture", "vocals", *parts]
    infos: dict[str, AudioInfo] = {}
    for signal in signals:
        path = find_audio(track.path, signal)
        if path is None:
            problems.append(f"no {signal} (looked for .wav and .flac in {track.path})")
            continue
        try:
            infos[path.name] = audio.info(path)
        except AudioError as error:
            problems.append(str(error))
    for name, info in infos.items():
        first_name, first = next(iter(infos.items()))
        if info.sample_rate != config.sample_rate:
            problems.append(f"{name}: {info.sample_rate} Hz, expected {config.sample_rate}: resample it")
        if info.nb_channels != config.nb_channels:
            problems.append(
                f"{name}: {info.nb_channels} channel(s), expected {config.nb_channels}: Spleeter would drop it silently"
            )
        if info.nb_samples != first.nb_samples:
            problems.append(
                f"{name}: {info.nb_samples} samples, but {first_name} has {first.nb_samples}: "
                "all files of a track must have one length"
            )
    subtypes = {info.subtype for name, info in infos.items() if name.startswith(parts)}
    if summed and len(subtypes) > 1:
        problems.append(f"{' and '.join(sorted(subtypes))} stems, expected one format to sum them to an accompaniment")
    return infos, problems


def _errata_reason(track: Track) -> str:
    """Return why a track with known faults is left out."""
    return "; ".join(f"erratum: {erratum.defect}" for erratum in musdb18.errata_of(track.name))


def _short_reason(nb_samples: int, config: SpleeterConfig) -> str:
    """Return why a short track is left out."""
    return (
        f"{nb_samples / config.sample_rate:.3f} s, but Spleeter drops what is shorter than "
        f"{config.least_samples / config.sample_rate:.3f} s ({config.nb_frames} frames)"
    )


def _hold_out(validation: str, train: Sequence[Track], usable: Sequence[Track]) -> tuple[set[str], list[str]]:
    """Return the names of the usable train tracks that are held out for validation, and notes."""
    names = {track.name for track in usable}
    if validation == "official":
        official = {track.name for track in train if track.split == "valid"}
        nb_official = len(musdb18.VALIDATION_TRACKS)
        if len(official) == nb_official:
            return official & names, []
        if official:
            return official & names, [f"validation: {len(official)} of the {nb_official} official tracks are here"]
        nb_tracks = max(1, round(len(usable) / 10))
        note = (
            f"validation: none of the {nb_official} official tracks is here, so {nb_tracks} of {len(usable)} "
            f"train tracks, picked with seed {SEED}"
        )
        return _pick(names, nb_tracks), [note]
    if re.fullmatch(r"[0-9]+", validation):
        nb_tracks = int(validation)
        if not 1 <= nb_tracks < max(len(usable), 2):
            raise ParameterError(
                f"validation is {validation}, expected 1 to {max(len(usable) - 1, 1)}: "
                f"{len(usable)} train tracks can be used, and one must be left to train on"
            )
        return _pick(names, nb_tracks), []
    return _find_names(validation, train) & names, []


def _pick(names: set[str], nb_tracks: int) -> set[str]:
    """Return some of the names, the same on every machine."""
    return set(random.Random(SEED).sample(sorted(names), min(nb_tracks, len(names))))


def _find_names(value: str, train: Sequence[Track]) -> set[str]:
    """Return the names of the tracks that a user names."""
    names = {musdb18.canonical_name(track.name): track.name for track in train}
    whole = musdb18.canonical_name(value.strip())
    lines = [[whole]] if whole in names else csv.reader(value.splitlines(), skipinitialspace=True)
    asked = [musdb18.canonical_name(cell.strip()) for cells in lines for cell in cells if cell.strip()]
    if not asked:
        raise ParameterError("validation is empty, expected official, a number or names of tracks")
    for name in asked:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else 'a name with a comma needs double quotes: "A, B"'
            raise DatasetError(f"validation track {name!r}: not among the {len(names)} train tracks: {hint}")
    return {names[name] for name in asked}


def _split(usable: Sequence[Track], held_out: set[str], limit: int | None) -> dict[str, list[Track]]:
    """Return the tracks of each CSV, sorted by name."""
    splits: dict[str, list[Track]] = {split: [] for split in SPLITS}
    for track in usable:
        splits["validation" if track.name in held_out else track.subset].append(track)
    return {split: chosen[:limit] for split, chosen in splits.items()}


def _check_not_empty(
    root: Path, train: Sequence[Track], splits: Mapping[str, Sequence[Track]], left_out: Mapping[str, str]
) -> None:
    """Refuse CSVs without a row, from which Spleeter would wait for its first example for ever."""
    for split in ("train", "validation"):
        if not splits[split]:
            out = [track.key for track in train if track.key in left_out]
            reason = f", {len(out)} left out ({out[0]}: {left_out[out[0]]})" if out else ""
            raise DatasetError(
                f"{root}: no track for the {split} CSV: {len(train)} train tracks found{reason}, "
                f"{len(splits['validation'])} held out for validation: give more tracks, or another --validation"
            )


# The files


def _compose(
    root: Path,
    stem: Path,
    settings: Mapping[str, Any],
    config: SpleeterConfig,
    splits: Mapping[str, Sequence[Track]],
    lengths: Mapping[str, int],
) -> dict[Path, bytes]:
    """Return the content of each file, less the CSVs that would be empty."""
    files = {}
    for split, chosen in splits.items():
        if chosen:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([f"{signal}_path" for signal in (config.mixture, *config.targets)] + ["duration"])
            for track in chosen:
                paths = [track.file(signal).relative_to(root) for signal in ("mixture", *config.targets)]
                # Six decimals: pandas reads a column of whole numbers as integers, on which Spleeter stops.
                duration = f"{lengths[track.key] / config.sample_rate:.6f}"
                writer.writerow([path.as_posix() for path in paths] + [duration])
            files[stem.with_name(f"{stem.name}_{split}.csv")] = text.getvalue().encode()
    files[stem.with_name(f"{stem.name}.json")] = (json.dumps(settings, indent=4) + "\n").encode()
    return files


def _find_changed(files: Mapping[Path, bytes], force: bool) -> list[Path]:
    """Return the files that are not there yet with this content."""
    changed = []
    for path, content in files.items():
        try:
            if path.exists():
                if path.read_bytes() == content:
                    continue
                if not force:
                    raise DatasetError(f"{path}: already there with another content: --force replaces it")
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
        changed.append(path)
    return changed


def _stale_notes(
    test_csv: Path, settings: Mapping[str, Any], files: Mapping[Path, bytes], changed: Sequence[Path]
) -> list[str]:
    """Return notes on files of an earlier run that no longer fit."""
    notes = []
    if test_csv not in files:
        notes.append(f"no test tracks, so no {test_csv.name}")
        if test_csv.exists():
            notes.append(f"{test_csv}: of an earlier run, remove it")
    caches = [Path(f"{settings[key]}.index") for key in ("training_cache", "validation_cache")]
    if changed:  # Spleeter looks at the name of its cache only
        notes += [f"{path}: Spleeter's cache of earlier files, remove it" for path in caches if path.exists()]
    return notes


def _write_accompaniment(track: Track) -> str:
    """Write a track's accompaniment; return the stems' subtype where the sum overflows it, else nothing."""
    parts = [track.file(stem) for stem in musdb18.TARGETS["accompaniment"]]
    hidden = track.path / ".accompaniment.wav"
    try:
        written = audio.write_sum(parts, hidden)
        hidden.replace(track.path / "accompaniment.wav")
    finally:
        hidden.unlink(missing_ok=True)
    subtype = audio.info(parts[0]).subtype
    return "" if written == subtype else subtype


def _write_files(files: Mapping[Path, bytes]) -> None:
    """Write all files, then give them their names."""
    hidden = {path: path.with_name(f".{path.name}") for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden[path].write_bytes(content)
        for path in files:
            hidden[path].replace(path)
    except OSError as error:
        raise DatasetError(f"{error.filename or path}: cannot be written: {error.strerror}") from error
    finally:
        for path in hidden.values():
            with suppress(OSError):  # gone, as its folder was never there
                path.unlink()


# The linter


def _parse(path: Path, signals: Sequence[str] = ("mix",)) -> tuple[list[tuple[int, dict[str, str]]], list[Finding]]:
    """Return the rows of a CSV that fit its header, each with its line, and what is wrong with the text."""
    findings: list[Finding] = []
    records = _read_records(path, findings)
    if not records:
        return [], findings or [Finding(1, "", "the file is empty", "write the CSV again")]
    header = [name.strip() for name in records[0][1]]
    if not any(name == "duration" or name.endswith("_path") for name in header):
        separators = [name for name, mark in (("semicolons", ";"), ("tabs", "\t")) if mark in "".join(header)]
        if separators:
            return [], [Finding(1, "", f"{separators[0]} between the fields, expected commas", "write it with commas")]
        return [], [Finding(1, "", "no header", "begin with mix_path,vocals_path,...,duration")]
    findings += _check_header(records[0][1], signals)
    rows = []
    for line, cells in records[1:]:
        if len(cells) == len(header):
            rows.append((line, dict(zip(header, cells, strict=True))))
        else:
            problem = f"{len(cells)} fields, expected {len(header)}: pandas stops, or shifts the columns silently"
            findings.append(Finding(line, "", problem, "put fields that hold a comma in double quotes"))
    if len(records) == 1:
        findings.append(Finding(1, "", "no rows: Spleeter waits for ever", "add tracks"))
    return rows, findings + _check_cells(rows, header)


def _read_records(path: Path, findings: list[Finding]) -> list[tuple[int, list[str]]]:
    """Return the fields of each line that is not blank, as far as the file can be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    if data.startswith(b"\xef\xbb\xbf"):
        findings.append(Finding(1, "", "a byte order mark before the header", "save as UTF-8 without BOM"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        findings.append(Finding(line, "", "not UTF-8: pandas stops", "save as UTF-8"))
        return []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records = []
    try:
        for cells in reader:
            if cells:
                records.append((reader.line_num, cells))
    except csv.Error as error:
        findings.append(Finding(reader.line_num, "", f"no valid CSV: {error}", "close quotes, and double those inside"))
    return records


def _check_header(header: Sequence[str], signals: Sequence[str]) -> list[Finding]:
    """Return what is wrong with the names of the columns."""
    findings = []
    names = [name.strip() for name in header]
    for name in header:
        if name != name.strip():
            findings.append(Finding(1, name, "spaces around the name: Spleeter stops with a KeyError", "remove them"))
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        findings.append(Finding(1, name, "the column is there twice", "remove one"))
    for name in (*(f"{signal}_path" for signal in signals), "duration"):
        if name not in names:
            findings.append(Finding(1, name, "no such column: Spleeter stops with a KeyError", "add it"))
    if not any(name.endswith("_path") and name != f"{signals[0]}_path" for name in names):
        findings.append(Finding(1, "", "no column of an instrument", "add vocals_path and accompaniment_path"))
    return findings


def _check_cells(rows: Sequence[tuple[int, dict[str, str]]], header: Sequence[str]) -> list[Finding]:
    """Return what is wrong with the cells, without looking at any file."""
    findings = []
    lines: dict[str, int] = {}
    for line, cells in rows:
        for column, cell in cells.items():
            if not cell.strip():
                findings.append(Finding(line, column, "an empty cell, which pandas reads as NaN", "fill it"))
        duration = cells.get("duration", "").strip()
        if duration and not (_NUMBER.fullmatch(duration) and 0 < float(duration) < math.inf):
            findings.append(Finding(line, "duration", f"{duration}: no number above 0", "write seconds as 200.000000"))
        first = lines.setdefault(cells.get("mix_path", f"line {line}"), line)
        if first != line:
            findings.append(Finding(line, "mix_path", f"the same mixture as in line {first}", "remove one of the rows"))
    for column in header:
        values = [cells[column].strip() for _, cells in rows]
        if column == "duration" and values and all(re.fullmatch("[+-]?[0-9]+", value) for value in values):
            problem = "whole numbers only: pandas reads integers, on which Spleeter stops with a TypeError"
            findings.append(Finding(1, column, problem, "write seconds as 200.000000"))
        elif column.endswith("_path") and values and all(_NUMBER.fullmatch(value) for value in values):
            problem = "numbers only: pandas does not read them as names"
            findings.append(Finding(1, column, problem, "rename the files, with their ending for instance"))
    return findings


def _check_path(line: int, column: str, cell: str, root: Path) -> Finding | None:
    """Return what is wrong with a path, whether there is a file or not."""
    if re.match(r"[/\\]|[A-Za-z]:[/\\]", cell):
        problem, advice = "an absolute path, which Spleeter joins to its data folder", "make it relative to that folder"
    elif posixpath.normpath(cell).split("/")[0] == "..":
        problem, advice = (
            "leads out of the data folder",
            "move the file, or name a folder further up as the data folder",
        )
    elif "\\" in cell and not os.path.isfile(root / cell):  # elsewhere than on Windows a name may hold one
        problem, advice = "backslashes, which only Windows takes", "write / between folders"
    else:
        return None
    return Finding(line, column, f"{cell}: {problem}", advice)


def _check_infos(line: int, infos: Mapping[str, AudioInfo], duration: str, config: SpleeterConfig) -> list[Finding]:
    """Return what is wrong with the files of a row, by their headers."""
    if not infos:
        return []
    findings = []
    first_column, first = next(iter(infos.items()))
    for column, info in infos.items():
        for what, found, expected in (
            ("samples", info.nb_samples, first.nb_samples),
            ("Hz", info.sample_rate, first.sample_rate),
            ("channels", info.nb_channels, first.nb_channels),
        ):
            if found != expected:
                problem = f"{found} {what}, but {first_column} has {expected}"
                findings.append(Finding(line, column, problem, "all files of a row must be alike"))
    if first.nb_channels != config.nb_channels:
        problem = f"{first.nb_channels} channel(s): Spleeter drops the track silently"
        findings.append(Finding(line, first_column, problem, f"write files of {config.nb_channels} channels"))
    if _NUMBER.fullmatch(duration.strip()) and abs(float(duration) - first.seconds) > _TOLERANCE:
        problem = f"{duration} s, but {first_column} has {first.seconds:.6f} s"
        findings.append(Finding(line, "duration", problem, f"write {first.seconds:.6f}"))
    least = config.least_samples / config.sample_rate
    if first.seconds < least:
        problem = f"{first.seconds:.3f} s: Spleeter drops tracks shorter than {least:.3f} s (T = {config.nb_frames})"
        findings.append(Finding(line, "", problem, "remove the row, or train with a smaller T"))
    return findings
