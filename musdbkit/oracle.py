"""Oracles and floors: the best that masks and filters can do when the true stems are known, as SiSEC 2018 defined them.

Reads a dataset in any layout. Writes `<out>/<subset>/<track>/{drums,bass,other,vocals,accompaniment}.wav` as FLOAT, for
estimates may exceed full scale, and beside them `.oracle.json`, a record of the method and of the source, by which a
second run knows what is done; and `<out>/separation.json`, which says how the estimates were made, for the protocol of
their scores. A track's folder is whole or not there.

Conventions: the transform is that of scipy.signal.stft and istft by default at 2048 samples: periodic Hann window, half
overlap, frames centred on multiples of 1024 samples with zeros beyond both ends, spectra divided by the window's sum.
It is computed block by block, which gives the same values as in one piece, so that memory hardly grows with a track.

References
----------
Stöter, Liutkus, Ito: The 2018 Signal Separation Evaluation Campaign, LVA/ICA 2018, arXiv:1804.06267. What it leaves
open is as in its program, github.com/sigsep/sigsep-mus-oracle, except for one mistake there (see `estimate`).
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from musdbkit import audio, musdb18
from musdbkit.convert import NEW, OLD, Totals, Written, add_up, partial_folder, remove_partials, write_record
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.stft import StftParams, istft, stft
from musdbkit.tracks import ALL_CORES, SEPARATION, Outcome, Parallel, Track, find_tracks, for_each, read_stems

Spectrogram: TypeAlias = NDArray[np.complex128]

METHODS: Final = ("mix", "ibm1", "ibm2", "irm1", "irm2", "mwf")
"""The mixture as it is, ideal binary masks, ideal ratio masks (both on amplitudes or powers), multichannel Wiener."""

TARGETS: Final = (*musdb18.STEMS, "accompaniment")
"""What is written of each track."""

PROGRAM: Final = "musdbkit oracle"
"""The program that `separation.json` names; its model is the method."""

RECORD: Final = ".oracle.json"
"""Name of the record in a track's folder."""

_RECORD_VERSION: Final = 1
_FILES: Final = tuple(f"{target}.wav" for target in TARGETS)

_HOP_LENGTH: Final = 1024
_TRANSFORM: Final = StftParams(2 * _HOP_LENGTH, _HOP_LENGTH, scaling="window")
_BLOCK_SIZE: Final = 31 * _HOP_LENGTH  # a multiple of the hop, here of 32 frames; larger ones are no faster
_EPS: Final = float(np.finfo(np.float64).eps)


class _Record(TypedDict):
    """What `.oracle.json` holds: SHA-256 by source file, bytes by written file."""

    version: int
    method: str
    source: dict[str, str]
    files: dict[str, int]


@dataclass(frozen=True)
class Estimated(Written):
    """What was done for one track.

    Attributes
    ----------
    status : `estimated`, `already there`, or, in a dry run, `to estimate`.
    """


@dataclass(frozen=True)
class _Job:
    """One track to estimate."""

    track: Track
    folder: Path
    method: str
    force: bool
    dry_run: bool


def estimate(method: str, mixture: audio.Samples, stems: Mapping[str, audio.Samples]) -> dict[str, NDArray[np.float32]]:
    """Return the estimate of every stem, and of the accompaniment [shape of each=(nb_samples, nb_channels), float32].

    The accompaniment is the sum of all estimates but the vocals'; it is left out where there are no vocals, or nothing
    else, among the stems. X is the mixture's spectrogram, Y_j that of stem j, eps 2**-52; masks multiply X.

    - `mix`: the mixture divided by the number of stems.
    - `ibm1`, `ibm2`: 1 where abs(Y_j)**a / (eps + abs(X)**a) is 0.5 or more, else 0, with a = 1 or 2, in each channel.
      The masks of several stems may claim a bin, or none.
    - `irm1`, `irm2`: abs(Y_j)**a / (eps + sum over k of abs(Y_k)**a), in each channel. The masks sum to one.
    - `mwf`: P_j(t, f) is the mean of abs(Y_j)**2 over channels. R_j(f) is the mean over t of Y_j Y_j^H / (eps + P_j),
      scaled to have the number of channels as its trace, plus eps on the diagonal. P_j then becomes
      trace(R_j^-1 Y_j Y_j^H) / nb_channels, and the estimate is P_j R_j C^-1 X with C the sum over k of P_k R_k; zero
      where all stems are. The original takes the trace over the wrong axes of an array of one matrix for each
      frequency, so that what it scales by is not a frequency's own; here it is.

    Parameters
    ----------
    method : one of `METHODS`.
    mixture : floats in [-1, 1], or int16 samples as written [shape=(nb_samples, nb_channels)].
    stems : the true stems by name, as many as there are, each like the mixture.

    Raises
    ------
    ParameterError
        The method is not known, there are no stems, shapes differ, or there are values that are no numbers.
    """
    _check(method, mixture, stems)
    nb_samples = 0
    targets = (*stems, "accompaniment") if _has_accompaniment(stems) else tuple(stems)
    estimates = {target: np.empty(mixture.shape, np.float32) for target in targets}
    for block in _estimate_blocks(method, mixture, stems):
        for target, samples in block.items():
            estimates[target][nb_samples : nb_samples + len(samples)] = samples
        nb_samples += len(samples)
    return estimates


def _check_method(method: str) -> None:
    """Refuse a method that is not known."""
    if method not in METHODS:
        raise ParameterError(f"method is {method}, expected one of {', '.join(METHODS)}")


def _check(method: str, mixture: audio.Samples, stems: Mapping[str, audio.Samples]) -> None:
    """Refuse arguments that cannot be used."""
    _check_method(method)
    if not stems:
        raise ParameterError("there are no stems, expected one or more")
    limit = np.finfo(np.float32).max  # estimates are float32
    for name, samples in {"mixture": mixture, **stems}.items():
        if samples.ndim != 2 or samples.shape[1] == 0 or samples.shape != mixture.shape:
            raise ParameterError(
                f"{name}: shape {samples.shape}, expected (nb_samples, nb_channels), the mixture's: {mixture.shape}"
            )
        if not (np.issubdtype(samples.dtype, np.floating) or samples.dtype == np.int16):
            raise ParameterError(f"{name}: {samples.dtype} samples, expected floats, or int16 as written")
        if not (samples.min(initial=0) >= -limit and samples.max(initial=0) <= limit):  # so written, NaN is refused too
            raise ParameterError(f"{name}: holds values that are no finite numbers")


def _has_accompaniment(stems: Mapping[str, audio.Samples]) -> bool:
    """Return whether an accompaniment is to be summed up, and not one of the stems itself."""
    return "vocals" in stems and len(stems) > 1 and "accompaniment" not in stems


def _estimate_blocks(
    method: str, mixture: audio.Samples, stems: Mapping[str, audio.Samples]
) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Yield the estimates block by block [shape of each=(_BLOCK_SIZE or fewer, nb_channels)]."""
    models = [_spatial_model(samples) for samples in stems.values()] if method == "mwf" else []
    for start, stop in _blocks(len(mixture)):
        nb_samples = min(stop, len(mixture)) - start
        if method == "mix":
            share = _cut(mixture, start, start + nb_samples) / len(stems)
            estimates = dict.fromkeys(stems, share)
        else:
            x = _spectrogram(mixture, start, stop)
            y = [_spectrogram(samples, start, stop) for samples in stems.values()]
            filtered = _filter(x, y, models) if models else _mask(method, x, y)
            waves = (istft(s, _TRANSFORM, start=_HOP_LENGTH, nb_samples=nb_samples, workers=1) for s in filtered)
            estimates = dict(zip(stems, waves, strict=True))
        if _has_accompaniment(stems):
            others = [samples for name, samples in estimates.items() if name != "vocals"]
            estimates["accompaniment"] = np.sum(others, axis=0)
        yield estimates


def _blocks(nb_samples: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last frame's centres of each block; the last block ends with the first hop past the end."""
    end = -(-nb_samples // _HOP_LENGTH) * _HOP_LENGTH
    for start in range(0, end, _BLOCK_SIZE):
        yield start, min(start + _BLOCK_SIZE, end)


def _cut(samples: audio.Samples, start: int, stop: int) -> NDArray[np.float64]:
    """Return a part of a signal in [-1, 1], with zeros beyond its ends [shape=(stop - start, nb_channels)]."""
    cut = np.zeros((stop - start, samples.shape[1]))
    inside = samples[max(start, 0) : stop]
    first = max(-start, 0)
    cut[first : first + len(inside)] = inside
    return cut * 2.0**-15 if samples.dtype == np.int16 else cut


def _spectrogram(samples: audio.Samples, start: int, stop: int) -> Spectrogram:
    """Return the frames centred from `start` to `stop`, both included [shape=(nb_frames, nb_bins, nb_channels)]."""
    spectrogram = stft(_cut(samples, start - _HOP_LENGTH, stop + _HOP_LENGTH), _TRANSFORM, workers=1)
    return np.moveaxis(np.moveaxis(spectrogram, -1, 0).copy(), 0, -1)  # whole channels: sums over them are faster


def _mask(method: str, x: Spectrogram, y: Sequence[Spectrogram]) -> Iterator[Spectrogram]:
    """Yield the mixture's spectrogram through the binary or ratio mask of each stem."""
    exponent = int(method[-1])
    amplitudes = [np.abs(spectrogram) ** exponent for spectrogram in y]
    binary = method.startswith("ibm")
    whole = _EPS + (np.abs(x) ** exponent if binary else sum(amplitudes))
    for amplitude in amplitudes:
        ratio = amplitude / whole
        yield x * (ratio >= 0.5 if binary else ratio)


def _spatial_model(samples: audio.Samples) -> tuple[Spectrogram, Spectrogram]:
    """Return a stem's R and a W with W^H W = R^-1, for each frequency [shape=(nb_bins, nb_channels, nb_channels)].

    W comes from R's eigenvalues, none of which is below eps: the determinant of a stem with equal channels is rounding.
    """
    nb_channels = samples.shape[1]
    total = np.zeros((_TRANSFORM.nb_bins, nb_channels, nb_channels), np.complex128)
    for start, stop in _blocks(len(samples)):
        y = _spectrogram(samples, start, stop)
        if stop < len(samples):
            y = y[:-1]  # the next block begins with this frame
        weighted = y / (_EPS + np.mean(np.abs(y) ** 2, axis=-1, keepdims=True))
        total += np.einsum("tfi,tfj->fij", weighted, y.conj())
    trace = np.trace(total, axis1=1, axis2=2).real[:, None, None]  # it takes the mean's divisor away, too
    normalised = total / np.where(trace > 0, trace, 1) * nb_channels
    eigenvalues, eigenvectors = np.linalg.eigh(normalised)
    whitener = eigenvectors.conj().swapaxes(1, 2) / np.sqrt(np.maximum(eigenvalues, 0) + _EPS)[:, :, None]
    return normalised + _EPS * np.eye(nb_channels), whitener


def _filter(
    x: Spectrogram, y: Sequence[Spectrogram], models: Sequence[tuple[Spectrogram, Spectrogram]]
) -> Iterator[Spectrogram]:
    """Yield the mixture's spectrogram through the multichannel Wiener filter of each stem.

    Powers are taken relative to their sum, which changes nothing in P_j R_j C^-1, so that no scale is too small.
    """
    channels = range(x.shape[-1])
    whitened = (_apply(whitener, y_j) for (_, whitener), y_j in zip(models, y, strict=True))
    powers = [np.mean(np.abs(spectrogram) ** 2, axis=-1) for spectrogram in whitened]
    whole = np.sum(powers, axis=0)
    shares = [power / np.where(whole > 0, whole, 1) for power in powers]
    c = {
        (i, j): sum(share * r[:, i, j] for share, (r, _) in zip(shares, models, strict=True))
        for i in channels
        for j in channels[i:]
    }
    z = _solve(c, x)
    for share, (r, _) in zip(shares, models, strict=True):
        yield share[..., None] * _apply(r, z)


def _apply(matrices: Spectrogram, spectrogram: Spectrogram) -> Spectrogram:
    """Return each frequency's matrix times each frame's channels [shape=(nb_frames, nb_bins, nb_channels)]."""
    channels = range(spectrogram.shape[-1])
    product = [sum(matrices[:, i, j] * spectrogram[..., j] for j in channels) for i in channels]
    return np.moveaxis(np.array(product), 0, -1)


def _solve(c: dict[tuple[int, int], Spectrogram], x: Spectrogram) -> Spectrogram:
    """Return C^-1 X [shape=(nb_frames, nb_bins, nb_channels)]; C's upper triangle is used up.

    Elimination over all bins at once. Its pivots cannot be below C's smallest eigenvalue, and that is eps or more: a
    smaller pivot is rounding, or silence, where any solution will do.
    """
    channels = range(x.shape[-1])
    z = [x[..., k] for k in channels]
    pivots = []
    for k in channels:
        pivots.append(np.maximum(c[k, k].real, _EPS))
        for i in channels[k + 1 :]:
            factor = c[k, i].conj() / pivots[k]
            z[i] = z[i] - factor * z[k]
            for j in channels[i:]:
                c[i, j] = c[i, j] - factor * c[k, j]
    for k in reversed(channels):
        z[k] = (z[k] - sum(c[k, j] * z[j] for j in channels[k + 1 :])) / pivots[k]
    return np.moveaxis(np.array(z), 0, -1)


def oracle(
    root: Path,
    out: Path,
    method: str,
    *,
    subsets: Sequence[str] = musdb18.SUBSETS,
    force: bool = False,
    dry_run: bool = False,
    parallel: Parallel = ALL_CORES,
) -> Outcome[Estimated]:
    """Write a method's estimates of all tracks of a dataset; return what was done and what failed, by track.

    Tracks that are there already, made by the same method from the same source, are left alone.

    Parameters
    ----------
    root : the dataset's root, in any layout.
    out : the folder to write to, which holds one method's estimates.
    method : one of `METHODS`; see `estimate`.
    subsets : which subsets.
    force : write all tracks anew, and replace files that are in the way.
    dry_run : write nothing; say what would be done.
    parallel : jobs and backend.

    Raises
    ------
    DatasetError
        There are no tracks, or `out` is among them, or holds estimates of another program. What is wrong with a single
        track is in the outcome instead.
    ParameterError
        The method is not known.
    """
    _check_method(method)
    found = find_tracks(root, subsets)
    for subset in musdb18.SUBSETS:
        source, target = (root / subset).resolve(), (out / subset).resolve()
        if source == target or source in target.parents:
            raise DatasetError(f"{out}: is in the dataset's own folders, expected another folder to write to")
    jobs = [_Job(track, out / track.subset / track.name, method, force, dry_run) for track in found]
    label = "dry run" if dry_run else f"oracle {method}"
    description = out / SEPARATION
    try:
        if not _is_described(description, method, force) and description.exists() and not dry_run:
            _write_description(description, method)  # before the tracks: after a kill the next run goes on
        outcome = for_each(_estimate_track, jobs, key=lambda job: job.track.key, label=label, parallel=parallel)
        if outcome.done and not dry_run and not description.exists():
            _write_description(description, method)
        return outcome
    finally:
        if not dry_run:
            remove_partials([out, *(out / subset for subset in musdb18.SUBSETS)])


def summarise(outcome: Outcome[Estimated], out: Path) -> Totals:
    """Return the totals of a run."""
    return add_up(outcome.done.values(), out)


def _describe(method: str) -> dict[str, Any]:
    """Return what `separation.json` says of a method's estimates."""
    return {"program": PROGRAM, "model": {"name": method}, "options": {}}


def _is_described(path: Path, method: str, force: bool) -> bool:
    """Return whether a folder says that its estimates are a method's; refuse others, unless they are to be replaced."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        found = None  # whatever it is, it is of others
    if found != _describe(method) and not force:
        maker = next((other for other in METHODS if found == _describe(other)), "another program")
        raise DatasetError(
            f"{path}: the estimates are of {maker}, not of {method}: --force replaces them, or choose another --out"
        )
    return bool(found == _describe(method))


def _write_description(path: Path, method: str) -> None:
    """Write `separation.json`, whole or not at all, also where another run does."""
    try:
        with partial_folder(path) as partial:
            write_record(path, _describe(method), partial / NEW)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error.strerror}") from error


def _estimate_track(job: _Job) -> Estimated:
    """Bring one track's folder up to date."""
    try:
        sample_rate, nb_samples = _measure(job.track)
        seconds = nb_samples / sample_rate
        source = functools.cache(functools.partial(_hash_files, job.track))
        if _is_done(job, job.folder, source):
            return Estimated("already there", job.folder, seconds, 0)
        if job.dry_run:
            nb_bytes = len(TARGETS) * audio.wav_bytes(nb_samples, "FLOAT")
            return Estimated("to estimate", job.folder, seconds, nb_bytes)
        nb_bytes = _write_track(job, sample_rate, source)
        return Estimated("estimated" if nb_bytes else "already there", job.folder, seconds, nb_bytes)
    except OSError as error:
        raise AudioError(f"{error.filename or job.folder}: {error.strerror or error}", "unwritable") from error


def _measure(track: Track) -> tuple[int, int]:
    """Return a track's sample rate in Hz and its samples per channel."""
    if track.layout == "stems":
        stream = audio.probe_stems(track.path)[0]
        return stream.sample_rate, stream.nb_samples
    mixture = audio.info(track.file("mixture"))
    return mixture.sample_rate, mixture.nb_samples


def _hash_files(track: Track) -> dict[str, str]:
    """Return the SHA-256 of each file a track is read from, by name."""
    paths = [track.path] if track.layout == "stems" else [track.file(stem) for stem in musdb18.STREAMS]
    hashes = {}
    for path in paths:
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _is_done(job: _Job, folder: Path, source: Callable[[], dict[str, str]]) -> bool:
    """Return whether nothing is to do; refuse to replace what is not ours or not the same."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is a file, expected a folder: move it away")
    if folder.resolve() == job.track.path.resolve():
        raise DatasetError(f"{folder}: is the track itself, expected another folder to write to")
    for path in (folder / file for file in _FILES):
        if path.is_dir():
            raise DatasetError(f"{path}: is a folder, expected a file: move it away")
    if job.force or not any(folder.iterdir()):
        return False
    record = _read_record(folder)
    if record is None:
        raise DatasetError(
            f"{folder}: is there, but not made by oracle (no {RECORD} that this version reads): "
            "--force replaces its files, or choose another --out"
        )
    changed = [] if record["method"] == job.method else [f"method was {record['method']}, now {job.method}"]
    if record["source"] != source():
        changed.append("the track's files have changed")
    if changed:
        raise DatasetError(
            f"{folder}: made otherwise: {'; '.join(changed)}: --force replaces it, or choose another --out"
        )
    sizes = {file: (folder / file).stat().st_size for file in _FILES if (folder / file).is_file()}
    return record["files"] == sizes


def _write_track(job: _Job, sample_rate: int, source: Callable[[], dict[str, str]]) -> int:
    """Write a track's folder; return the bytes written, none if another run has just done it."""
    with partial_folder(job.folder) as partial:
        new, hidden = partial / NEW, partial / OLD
        current = hidden if hidden.exists() else job.folder
        if _is_done(job, current, source):
            return 0
        _write_estimates(job, sample_rate, new)
        sizes = {file: (new / file).stat().st_size for file in _FILES}
        record: _Record = {"version": _RECORD_VERSION, "method": job.method, "source": source(), "files": sizes}
        if not current.exists() or not any(current.iterdir()):
            write_record(new / RECORD, record, new)
            new.rename(job.folder)
            return sum(sizes.values())
        if current != hidden:  # hidden while its files are replaced, so that no one reads a mixture of old and new
            current.rename(hidden)
        write_record(hidden / RECORD, {**record, "files": {}}, new)  # so after a kill none of them counts as sound
        for file in _FILES:
            (new / file).replace(hidden / file)
        write_record(hidden / RECORD, record, new)
        hidden.rename(job.folder)
        return sum(sizes.values())


def _write_estimates(job: _Job, sample_rate: int, folder: Path) -> None:
    """Write a track's estimates into a folder."""
    stems = read_stems(job.track, musdb18.STREAMS)
    mixture = stems.pop("mixture")
    _check(job.method, mixture, stems)
    with ExitStack() as stack:
        writers = {
            target: stack.enter_context(audio.Writer(folder / file, sample_rate, mixture.shape[1], "FLOAT"))
            for target, file in zip(TARGETS, _FILES, strict=True)
        }
        for block in _estimate_blocks(job.method, mixture, stems):
            for target, samples in block.items():
                writers[target].write(samples.astype(np.float32))


def _read_record(folder: Path) -> _Record | None:
    """Return the record in a track's folder, None where there is none that this version reads."""
    try:
        record: _Record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sound = record.keys() == _Record.__annotations__.keys() and record["version"] == _RECORD_VERSION
        return record if sound else None
    except (OSError, ValueError, AttributeError):
        return None
