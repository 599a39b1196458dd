"""What a spectrogram cache is to hold: which signals of which tracks, for what, and by which transform.

Reads a Spleeter configuration with its CSVs, or finds a dataset in the `wav` or `hq` layout. Writes nothing; `caching`
builds what is requested.

Conventions: paths in a configuration are relative to the current folder, and those in its CSVs to the dataset's root,
as Spleeter takes them.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from musdbkit import audio, musdb18
from musdbkit.cache import (
    DTYPES,
    INDEX,
    MIXTURE,
    RECORD,
    Parameters,
    check_folder,
    check_name,
    read_index,
    read_record,
)
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.spleeter_config import SpleeterConfig, read_config
from musdbkit.spleeter_files import Row, read_csv
from musdbkit.stft import PRESETS as TRANSFORMS
from musdbkit.stft import StftParams
from musdbkit.tracks import PARTIAL_PREFIX, find_tracks

PRESETS: Final = {"spleeter": 1024, "openunmix": 2049}
"""Transforms that a dataset can be cached with, by the names of `stft.PRESETS`, and how many bins their models read."""


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


def find_folders(out: Path) -> list[Path]:
    """Return the folders below one that hold a track's record, also while other runs make and remove folders there."""
    return sorted(Path(folder) for folder, _, names in os.walk(out) if RECORD in names)  # rglob fails at removed ones


def find_dtype(out: Path) -> str:
    """Return the dtype of the cache in a folder, which may be unfinished; `float16` where there is none."""
    try:
        return read_index(out).parameters.dtype
    except DatasetError:
        records = (read_record(folder) for folder in find_folders(out))
        return next((record.parameters.dtype for record in records if record is not None), DTYPES[0])


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
        folders = {mixture: _choose_folder(mixture, (MIXTURE, settings.mixture)) for mixture in rows}
        _check_apart(folders)
    except ParameterError as error:
        raise DatasetError(f"{settings.train_csv}, {settings.validation_csv}: {error}") from error
    names = Counter(PurePosixPath(folder).name for folder in folders.values())
    tracks = tuple(
        Wanted(
            name if names[name := PurePosixPath(folders[mixture]).name] == 1 else folders[mixture],
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
    for signal in signals:
        if not any(track.files[signal].is_file() for track in tracks):
            files = [path for path in found[0].path.iterdir() if path.suffix in (".wav", ".flac")]
            there = sorted({path.name.rpartition(".")[0] for path in files})
            raise ParameterError(f"{root}: no track has {signal}, {found[0].key} has {', '.join(there)}")
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


def _choose_folder(mixture: PurePosixPath, names: Sequence[str]) -> str:
    """Return a track's folder: its mixture's, if that is named as one, or else one of the mixture's own name in there.

    It depends on nothing but the track, so that other rows come and go without it.
    """
    name = mixture.name.rpartition(".")[0]
    folder = mixture.parent
    if not folder.name or name not in names:
        folder /= name if name.strip(".") else mixture.name
    if folder.parts[0] == INDEX or any(part.startswith(PARTIAL_PREFIX) for part in folder.parts):
        raise ParameterError(f"{mixture}: the cache has files of its own named {folder.parts[0]}: rename the folder")
    return check_folder(str(folder))


def _check_apart(folders: Mapping[PurePosixPath, str]) -> None:
    """Refuse tracks of which one's folder is, or is in, that of another."""
    owners: dict[PurePosixPath, PurePosixPath] = {}
    for mixture, folder in folders.items():
        other = owners.setdefault(PurePosixPath(folder), mixture)
        if other != mixture:
            raise ParameterError(f"{other} and {mixture}: would both be cached as {folder}: rename one")
    for folder_, mixture in owners.items():
        for parent in folder_.parents:
            if parent in owners:
                raise ParameterError(f"{mixture}: is below the folder of {owners[parent]}: move one of them")
