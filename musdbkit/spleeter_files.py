"""Spleeter's training files: CSVs of tracks and a configuration; written, read and checked.

Reads a dataset in the `wav` or `hq` layout and `templates/spleeter_<N>stems.json`. Writes `musdb_<N>stems_train.csv`,
`..._validation.csv`, `..._test.csv` and `musdb_<N>stems.json`, and on wish each track's missing accompaniment.

Conventions, which are Spleeter 2.4.2's: a CSV holds paths relative to the dataset's root (its `--data`), with `/`, and
durations in seconds; the configuration holds paths relative to the folder that `spleeter train` is started in.

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
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from musdbkit import audio, musdb18, templates
from musdbkit.audio import AudioInfo
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.spleeter_config import SpleeterConfig, translate
from musdbkit.tracks import ALL_CORES, Parallel, Track, default_root, find_audio, find_tracks, for_each, free_bytes

STEMS: Final = (2, 4)
"""Numbers of stems that there are templates for."""

SPLITS: Final = ("train", "validation", "test")
"""The CSV files, by Spleeter's words."""

_PATH_KEYS: Final = ("train_csv", "validation_csv", "model_dir", "training_cache", "validation_cache")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TOLERANCE: Final = 0.001  # s; between a CSV's duration and its files'
_NAN: Final = frozenset(("", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null"))
"""Cells that the pandas of Spleeter takes for no value."""


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
    validation : names of the tracks in the validation CSV.
    left_out : tracks that are in no CSV, by key, each with the reason.
    accompaniments : keys of the tracks whose accompaniment was written (with `dry_run`, that would be).
    nb_bytes : size of all files written; with `dry_run`, of those that would be (a sum that overflows takes more).
    free_bytes : what is free where most of them go: beside the tracks with `accompaniments`, else in `out`.
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
    free_bytes: int = 0
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
        is there a tenth of the tracks, picked at random (`musdb18.pick_validation`). A whole number: so many, picked
        alike. Else names, separated by commas; a name with a comma may be put in double quotes.
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
        The root holds no wav tracks or none to train on, has a name twice, lacks accompaniments, or leaves a CSV empty;
        a validation track is not there; a file is there with another content, or cannot be written.
    """
    template, config = _read_template(stems)
    if limit is not None and limit < 1:
        raise ParameterError(f"limit is {limit}, expected 1 or more")
    found = _find_wav_tracks(root)
    errata = {track.key: musdb18.errata_of(track.name) for track in found if exclude_errata}
    left_out = {key: "; ".join(f"erratum: {e.defect}" for e in known) for key, known in errata.items() if known}
    mixtures: dict[str, AudioInfo] = {}
    failed: dict[str, str] = {}
    for track in found:
        if track.key not in left_out:
            infos, problems = _read_infos(track, config)
            if problems:
                failed[track.key] = "; ".join(problems)
            else:
                mixtures[track.key] = next(iter(infos.values()))
    if failed:
        return CsvResult(left_out=left_out, failed=failed)
    left_out |= {key: reason for key, info in mixtures.items() if (reason := _too_short(info, config))}
    usable = [track for track in found if track.key not in left_out]
    held_out, notes = _hold_out(validation, found, usable)
    splits: dict[str, list[Track]] = {split: [] for split in SPLITS}
    for track in usable:
        splits["validation" if track.name in held_out else track.subset].append(track)
    _check_not_empty(root, found, splits, left_out)
    if nb_cut := max(len(splits["validation"]) - (limit or len(found)), 0):
        notes.append(f"validation: {_count(nb_cut, 'more track')} held out, in no CSV with --limit {limit}")
    splits = {split: tracks[:limit] for split, tracks in splits.items()}
    chosen = [track for split in SPLITS for track in splits[split]]
    lacking = [t for t in chosen if "accompaniment" in config.targets and not find_audio(t.path, "accompaniment")]
    if lacking and not make_accompaniment:
        raise DatasetError(
            f"{root}: no accompaniment in {len(lacking)} of {_count(len(chosen), 'track')} "
            f"({lacking[0].key} is the first), which 2 stems need: run again with --make-accompaniment "
            "to write drums + bass + other"
        )
    filled = template | {key: (out / template[key]).as_posix() for key in _PATH_KEYS}
    files = _compose(root, out / f"musdb_{stems}stems", filled, config, splits, mixtures)
    changed = _find_changed(files, force)
    notes += _stale_notes(out / f"musdb_{stems}stems_test.csv", filled, files, changed)
    nb_bytes = sum(len(files[path]) for path in changed)
    if dry_run:
        nb_bytes += sum(_sum_bytes(track) for track in lacking)
    else:
        made = for_each(
            _write_accompaniment, lacking, key=lambda track: track.key, label="accompaniment", parallel=parallel
        )
        made_bytes = sum(track.file("accompaniment").stat().st_size for track in lacking if track.key in made.done)
        if made.failed:
            return CsvResult(
                left_out=left_out,
                accompaniments=tuple(made.done),
                nb_bytes=made_bytes,
                free_bytes=free_bytes(root if lacking else out),
                failed=made.failed,
            )
        notes += [f"{key}: accompaniment is FLOAT, its sum overflows {old}" for key, old in made.done.items() if old]
        nb_bytes += made_bytes
        _write_files({path: files[path] for path in changed})
    return CsvResult(
        written=tuple(changed),
        kept=tuple(path for path in files if path not in changed),
        rows={split: len(splits[split]) for split in SPLITS},
        validation=tuple(track.name for track in splits["validation"]),
        left_out=left_out,
        accompaniments=tuple(track.key for track in lacking),
        nb_bytes=nb_bytes,
        free_bytes=free_bytes(root if lacking else out),
        notes=tuple(notes),
    )


def check_csv(path: Path, root: Path | None = None, stems: int | None = None) -> CsvCheck:
    """Return what in a CSV, whoever wrote it, makes Spleeter stop or silently drop tracks.

    Parameters
    ----------
    path : the CSV.
    root : folder that its paths are relative to; by default the dataset that MUSDB_PATH names, and where that is not
        set the CSV's own folder.
    stems : one of `STEMS`, the instruments that must be there; others are not looked at. By default any two or more,
        and all columns of files that are not empty are looked at.

    Raises
    ------
    ParameterError
        `stems` has a value that cannot be used.
    DatasetError
        There is no such file or folder.
    """
    config = _read_template(STEMS[0] if stems is None else stems)[1]
    rows, findings = _parse(path, (config.mixture, *(config.targets if stems else ())))
    if root is None:
        root = default_root(None, wav=True) if os.environ.get("MUSDB_PATH") else path.parent
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder: name the one that the paths in {path.name} are relative to")
    missing: list[Finding] = []
    nb_files = 0
    for line, cells in rows:
        infos: dict[str, AudioInfo] = {}
        for column, cell in cells.items():
            if column == "duration" or cell.strip() in _NAN:
                continue
            nb_files += 1
            if finding := _check_path(line, column, cell, root):
                findings.append(finding)
            elif not os.path.isfile(root / cell):  # no error for a name that is too long, unlike Path.is_file
                missing.append(Finding(line, column, f"{cell}: no such file in {root}", "correct the path"))
            else:
                try:
                    infos[column] = audio.info(root / cell)
                except AudioError as error:
                    findings.append(Finding(line, column, str(error), "write the file again"))
        findings += _check_infos(line, infos, cells.get("duration", ""), config)
    if missing and len(missing) == nb_files:
        advice = "name the folder that the paths are relative to"
        missing = [Finding(1, "", f"none of the files ({nb_files}) is in {root}", advice)]
    return CsvCheck(path, root, len(rows), tuple(sorted(findings + missing, key=lambda finding: finding.line)))


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


def _count(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# The configuration


def _read_template(stems: int) -> tuple[dict[str, Any], SpleeterConfig]:
    """Return a template as it is, and in our words."""
    if stems not in STEMS:
        raise ParameterError(f"stems is {stems}, expected 2 or 4")
    name = f"spleeter_{stems}stems.json"
    template: dict[str, Any] = json.loads(templates.read(name))
    return template, translate(template, name)


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
    if all(track.subset == "test" for track in found):
        raise DatasetError(
            f"{root}: {_count(len(found), 'test track')}, but no {root / 'train'}, which Spleeter trains and validates "
            "on: put train tracks there, or name a root that has them"
        )
    return found


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
    problems += [": ".join(problem) for problem in _compare(infos, config.sample_rate, config.nb_channels)]
    subtypes = {info.subtype for name, info in infos.items() if name.startswith(parts)}
    if summed and (len(subtypes) > 1 or not subtypes <= set(audio.SUBTYPES)):
        expected = ", ".join(audio.SUBTYPES)
        problems.append(f"{' and '.join(sorted(subtypes))} stems, expected one format of {expected} to sum them")
    return infos, problems


def _compare(infos: Mapping[str, AudioInfo], sample_rate: int, nb_channels: int) -> list[tuple[str, str, str]]:
    """Return what is wrong with the files of one track by their headers: the file, the problem, what to do."""
    problems = []
    for name, info in infos.items():
        first_name, first = next(iter(infos.items()))
        if info.sample_rate != sample_rate:
            problems.append((name, f"{info.sample_rate} Hz, expected {sample_rate}", "resample it"))
        if info.nb_channels != nb_channels:
            problem = f"{_count(info.nb_channels, 'channel')}, expected {nb_channels}"
            problems.append((name, problem, "write it anew, Spleeter would drop the track silently"))
        if info.nb_samples != first.nb_samples:
            problem = f"{_count(info.nb_samples, 'sample')}, expected {first.nb_samples} as in {first_name}"
            problems.append((name, problem, "all files of a track must have one length"))
    return problems


def _too_short(info: AudioInfo, config: SpleeterConfig) -> str:
    """Return why Spleeter gets no example from a track, empty where it does."""
    least = math.ceil(config.least_samples * info.sample_rate / config.sample_rate)
    if info.nb_samples >= least:
        return ""
    return (
        f"{_count(info.nb_samples, 'sample')} ({info.seconds:.3f} s): Spleeter drops tracks of fewer than {least} "
        f"({least / info.sample_rate:.3f} s, T = {config.nb_frames})"
    )


def _hold_out(validation: str, found: Sequence[Track], usable: Sequence[Track]) -> tuple[set[str], list[str]]:
    """Return the names of the usable train tracks that are held out for validation, and notes."""
    names = {track.name for track in usable if track.subset == "train"}
    notes = []
    if validation == "official":
        official = {track.name for track in found if track.split == "valid"}
        nb_official = len(musdb18.VALIDATION_TRACKS)
        if official:
            if len(official) < nb_official:
                notes.append(f"validation: only {len(official)} of the {nb_official} official tracks found")
            return official & names, notes
        picked = musdb18.pick_validation(names)
        notes.append(
            f"validation: none of the {nb_official} official tracks is here, so {len(picked)} of "
            f"{_count(len(names), 'train track')}, picked with seed {musdb18.VALIDATION_SEED}"
        )
        return picked, notes
    if _NUMBER.fullmatch(validation.strip()):
        most = len(names) - 1
        if not validation.strip().isdigit() or int(validation) < 1 or (int(validation) > most > 0):
            raise ParameterError(
                f"validation is {validation}, expected a whole number of 1 or more, and {max(most, 1)} at most: "
                f"{_count(len(names), 'train track')} can be used, and one must be left to train on"
            )
        return musdb18.pick_validation(names, int(validation)), notes
    return _find_names(validation, found) & names, notes


def _find_names(value: str, found: Sequence[Track]) -> set[str]:
    """Return the names of the tracks that a user names."""
    names = {musdb18.canonical_name(track.name): track for track in found}
    whole = musdb18.canonical_name(value.strip())
    lines = [[whole]] if whole in names else csv.reader(value.splitlines(), skipinitialspace=True)
    asked = [musdb18.canonical_name(cell.strip()) for cells in lines for cell in cells if cell.strip()]
    if not asked:
        raise ParameterError("validation is empty, expected official, a number or names of tracks")
    train = [name for name, track in names.items() if track.subset == "train"]
    for name in asked:
        if name in train:
            continue
        if name in names:
            raise DatasetError(f"validation track {name!r}: it is in test, expected tracks of train")
        split_up = [other for other in train if "," in other and name in other and other in whole]
        near = difflib.get_close_matches(name, train, n=3) or difflib.get_close_matches(whole, train, n=3)
        if split_up:
            hint = f'a name with a comma needs double quotes: "{split_up[0]}"'
        else:
            hint = f"did you mean {' or '.join(near)}?" if near else "expected names of folders in train"
        raise DatasetError(f"validation track {name!r}: not among {_count(len(train), 'train track')}: {hint}")
    return {names[name].name for name in asked}


def _check_not_empty(
    root: Path, found: Sequence[Track], splits: Mapping[str, Sequence[Track]], left_out: Mapping[str, str]
) -> None:
    """Refuse CSVs without a row, from which Spleeter would wait for its first example for ever."""
    train = [track.key for track in found if track.subset == "train"]
    out = [key for key in train if key in left_out]
    reason = f", {len(out)} left out ({out[0]}: {left_out[out[0]]})" if out else ""
    for split in ("train", "validation"):
        if not splits[split]:
            raise DatasetError(
                f"{root}: no track for the {split} CSV: {_count(len(train), 'train track')} found{reason}, "
                f"{len(splits['validation'])} held out for validation: give more tracks, or another --validation"
            )


# The files


def _compose(
    root: Path,
    stem: Path,
    settings: Mapping[str, Any],
    config: SpleeterConfig,
    splits: Mapping[str, Sequence[Track]],
    mixtures: Mapping[str, AudioInfo],
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
                duration = f"{mixtures[track.key].seconds:.6f}"
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


def _sum_bytes(track: Track) -> int:
    """Return the size of a track's accompaniment as it will be, if its sum does not overflow."""
    stem = audio.info(track.file(musdb18.TARGETS["accompaniment"][0]))
    return audio.wav_bytes(stem.nb_samples, stem.subtype)


def _write_accompaniment(track: Track) -> str:
    """Write a track's accompaniment; return the stems' subtype where the sum overflows it, else nothing."""
    parts = [track.file(stem) for stem in musdb18.TARGETS["accompaniment"]]
    path = track.path / "accompaniment.wav"
    hidden = path.with_name(f".{path.name}")
    try:
        hidden.touch()  # unlike libsndfile, says why it cannot
        written = audio.write_sum(parts, hidden)
        hidden.replace(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be written: {error.strerror}", "unwritable") from error
    except AudioError as error:
        raise AudioError(str(error).replace(str(hidden), str(path)), error.code, error.stem) from error
    finally:
        with suppress(OSError):
            hidden.unlink()
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


def _parse(path: Path, signals: Sequence[str]) -> tuple[list[tuple[int, dict[str, str]]], list[Finding]]:
    """Return the rows of a CSV that can be used, each with its line, and what is wrong with the text.

    A row holds the columns of the signals, the mixture's first, and `duration`. With the mixture alone, it holds all
    columns of files that are not empty.
    """
    records, findings = _read_records(path)
    if not records:
        return [], findings or [Finding(1, "", "the file is empty", "write the CSV again")]
    (_, names), *body = records
    header = [name.strip() for name in names]
    if not any(name == "duration" or name.endswith("_path") for name in header):
        marks = " (separated by semicolons or tabs?)" if re.search("[;\t]", "".join(header)) else ""
        advice = "begin with mix_path,vocals_path,...,duration and put commas between the fields"
        return [], [Finding(1, "", f"no header{marks}", advice)]
    if not body and not findings:
        findings.append(Finding(1, "", "no rows: Spleeter waits for ever", "add tracks"))
    used = _used_columns(header, [cells for _, cells in body], signals)
    findings += _check_header(names, used, signals)
    rows = []
    for line, cells in body:
        nb_missing = len(header) - len(cells)
        fields = f"{_count(len(cells), 'field')}, expected {len(header)}"
        if nb_missing < 0:
            problem = f"{fields}: pandas stops, or shifts the columns silently"
            findings.append(
                Finding(line, "", problem, "put fields that hold a comma in double quotes, end no line with a comma")
            )
        elif not set(used).isdisjoint(header[len(cells) :]):
            problem = f"{fields}: pandas fills the rest with NaN, and Spleeter gets a float for a path or no duration"
            findings.append(Finding(line, "", problem, "write all fields"))
        else:
            rows.append((line, dict(zip(header, cells + [""] * nb_missing, strict=True))))
    findings += _check_cells(rows, used) + _check_columns(rows, used)
    return [(line, {column: cells[column] for column in used}) for line, cells in rows], findings


def _read_records(path: Path) -> tuple[list[tuple[int, list[str]]], list[Finding]]:
    """Return the fields of each line that pandas does not skip, as far as the file can be read, and why not further."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return [], [Finding(line, "", "not UTF-8: pandas stops", "save as UTF-8")]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records = []
    line = 1
    try:
        for cells in reader:
            if cells and (len(cells) > 1 or cells == [""] or cells[0].strip(" \t")):
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error:
        problem = "a double quote that is not closed, so that pandas stops or takes lines for one"
        return records, [Finding(line, "", problem, "close quotes, and double those inside")]
    return records, []


def _used_columns(header: Sequence[str], body: Sequence[Sequence[str]], signals: Sequence[str]) -> list[str]:
    """Return the columns that Spleeter reads, the mixture's first."""
    named = [f"{signal}_path" for signal in signals]
    if len(signals) == 1:
        named += [
            name
            for i, name in enumerate(header)
            if name.endswith("_path") and (not body or any(cells[i] not in _NAN for cells in body if i < len(cells)))
        ]
    return [name for name in dict.fromkeys((*named, "duration")) if name in header]


def _check_header(names: Sequence[str], used: Sequence[str], signals: Sequence[str]) -> list[Finding]:
    """Return what is wrong with the names of the columns."""
    findings = []
    for name in dict.fromkeys((*(f"{signal}_path" for signal in signals), *used, "duration")):
        if names.count(name) > 1:
            findings.append(Finding(1, name, "the column is there twice", "remove one"))
        elif name not in names:
            what = "spaces around the name" if name in used else "no such column"
            findings.append(Finding(1, name, f"{what}: Spleeter stops with a KeyError", "name a column so"))
    instruments = [name for name in used if name not in (f"{signals[0]}_path", "duration")]
    if len(signals) == 1 and len(instruments) < 2:
        problem = f"{instruments[0]} alone" if instruments else "no instrument"
        lacking = {
            stems: [f"{target}_path" for target in _read_template(stems)[1].targets if f"{target}_path" not in used]
            for stems in STEMS
        }
        advice = " or ".join(f"{', '.join(columns)} for {stems} stems" for stems, columns in lacking.items())
        findings.append(Finding(1, "", f"{problem}: Spleeter's masks need two instruments", f"add {advice}"))
    return findings


def _check_cells(rows: Sequence[tuple[int, dict[str, str]]], used: Sequence[str]) -> list[Finding]:
    """Return what is wrong with the cells that Spleeter reads, without looking at any file."""
    findings = []
    for line, cells in rows:
        columns: dict[str, str] = {}
        for column in used:
            cell = cells[column].strip()
            if cell in _NAN:
                problem = f"{cell or 'an empty cell'}, which pandas reads as NaN"
                findings.append(Finding(line, column, problem, "fill it"))
            elif column == "duration":
                if not (_NUMBER.fullmatch(cell) and 0 < float(cell) < math.inf):
                    findings.append(Finding(line, column, f"{cell}: no number above 0", "write seconds as 200.000000"))
            elif (first := columns.setdefault(posixpath.normpath(cell), column)) != column:
                findings.append(Finding(line, column, f"{cell}: the file of {first}", "name the instrument's own file"))
    return findings


def _check_columns(rows: Sequence[tuple[int, dict[str, str]]], used: Sequence[str]) -> list[Finding]:
    """Return the columns that pandas reads as a type on which Spleeter stops."""
    findings = []
    for column in rows[0][1] if rows else ():
        values = [cells[column].strip() for _, cells in rows]
        given = [value for value in values if value not in _NAN]
        numeric = all(_NUMBER.fullmatch(value) for value in given)
        if column == "duration" and all(re.fullmatch("[+-]?[0-9]+", value) for value in values):
            problem = "whole numbers only: pandas reads integers, on which Spleeter stops with a TypeError"
            findings.append(Finding(1, column, problem, "write seconds as 200.000000"))
        elif column != "duration" and column in used and given and numeric:
            problem = "numbers only: pandas does not read them as names"
            findings.append(Finding(1, column, problem, "rename the files, with their ending for instance"))
        elif column not in used and given and not numeric:
            problem = "an empty cell among texts, on which Spleeter stops with a ValueError"
            lines = [line for (line, _), value in zip(rows, values, strict=True) if value in _NAN]
            findings += [Finding(line, column, problem, "fill it, or remove the column") for line in lines]
    return findings


def _check_path(line: int, column: str, cell: str, root: Path) -> Finding | None:
    """Return what is wrong with a path, whether there is a file or not."""
    if re.match(r"[/\\]|[A-Za-z]:[/\\]", cell):
        problem, advice = "an absolute path, which Spleeter joins to its data folder", "make it relative to that folder"
    elif posixpath.normpath(cell).split("/")[0] == "..":
        problem, advice = "leads out of the data folder", "move the file, or name a folder further up as data folder"
    elif "\\" in cell and not os.path.isfile(root / cell):  # elsewhere than on Windows a name may hold one
        problem, advice = "backslashes, which only Windows takes", "write / between folders"
    else:
        return None
    return Finding(line, column, f"{cell}: {problem}", advice)


def _check_infos(line: int, infos: Mapping[str, AudioInfo], duration: str, config: SpleeterConfig) -> list[Finding]:
    """Return what is wrong with the files of a row, by their headers."""
    if not infos:
        return []
    first_column, first = next(iter(infos.items()))
    findings = [Finding(line, *problem) for problem in _compare(infos, first.sample_rate, config.nb_channels)]
    if _NUMBER.fullmatch(duration.strip()) and abs(float(duration) - first.seconds) > _TOLERANCE:
        problem = f"{duration} s, but {first_column} has {first.seconds:.6f} s"
        findings.append(Finding(line, "duration", problem, f"write {first.seconds:.6f}"))
    if problem := _too_short(first, config):
        findings.append(Finding(line, "", problem, "remove the row, or train with a smaller T"))
    return findings
