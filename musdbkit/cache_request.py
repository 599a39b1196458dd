"""What a spectrogram cache is to hold: which signals of which tracks, for what, and by which transform.

Reads a Spleeter configuration with its CSVs, or finds a dataset in the `wav` or `hq` layout. Writes nothing; `caching`
builds what is requested.

Conventions: paths in a configuration are relative to the current folder, and those in its CSVs to the dataset's root,
as Spleeter takes them.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from musdbkit import audio, musdb18
from musdbkit.cache import DTYPES, INDEX, MIXTURE, Parameters, check_folder, check_name, read_index
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.spleeter_files import Row, SpleeterConfig, read_config, read_csv
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
