"""Is the dataset sound, and what is this machine?

Reads all audio of a dataset once, in any layout, and measures it. Writes nothing: returns a `CheckResult`, which
`dataclasses.asdict` turns into strict JSON and `print_result` into text.

Conventions: levels are dB relative to full scale (a square wave from -1 to 1 has 0 dB), rounded to 0.01 dB. None stands
for minus infinity, the level of nothing. Pairs are left and right. Findings have three levels: an error is data that
cannot be used, a warning is data to listen to before use, a note is good to know.
"""

import functools
import itertools
import math
import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musdbkit import __version__, audio, musdb18, tracks
from musdbkit.errors import AudioError, DatasetError, printable
from musdbkit.tracks import Parallel, Track

if TYPE_CHECKING:
    from rich.console import Console

Planes: TypeAlias = NDArray[np.float32]
Pair: TypeAlias = tuple[float | None, float | None]

LEVELS: Final = ("error", "warning", "note")
"""How bad a finding is, worst first."""

VARIANT_AAC: Final = "MUSDB18 (AAC, 17 kHz)"
VARIANT_FULL: Final = "full band (HQ)"
VARIANT_UNKNOWN: Final = "unknown"

PACKAGES: Final = ("numpy", "scipy", "av", "soundfile", "joblib", "torch", "musdb", "stempeg", "museval")
"""Packages whose versions are shown beside our own."""

SILENT_DB: Final = -80.0
"""Peak below which a channel is silent: three steps of 16 bits, which is what dither or a codec leave of silence.

Of the peak, not the RMS level: one breath in a track of ten minutes has an RMS level below any such limit.
"""

DUAL_MONO_DB: Final = -60.0
"""Energy of left - right, relative to equal energy in sum and difference, below which a stem is mono on two channels.

Rounding left and right apart to 16 bits leaves less than -70 dB at ordinary levels; AAC, of two equal channels, -83 to
-100 dB, measured with the encoders of ffmpeg 8 and 9.
"""

ANTI_PHASE_DB: Final = -20.0
"""The same for left + right: when such a stem is played in mono, less than a hundredth of its energy is left."""

FULL_SCALE: Final = 1 - 2**-15
"""The largest 16-bit sample, and the least magnitude that counts as full scale."""

CLIPPED_RUN: Final = 8
"""Samples in a row at full scale that count as clipped.

A pure tone that just reaches full scale is within half a 16-bit step of it for 135 / f samples at 44.1 kHz, f in Hz:
fewer than 7 for any tone above 20 Hz.
"""

RESIDUAL_LOSSY_DB: Final = -12.0
"""Mixture minus sum of stems, relative to the mixture, that AAC coding noise does not reach in a whole track.

Measured, for want of the whole dataset, on the excerpt in the stempeg package: -15 dB, or -22 dB without the clicks at
its two cuts. Sound tracks of `synth`, at the same bit rate, have -21 to -37 dB.
"""

RESIDUAL_ONE_CHANNEL_DB: Final = -20.0
"""The same where one channel is `CHANNEL_GAP_DB` worse than the other, which coding noise is not (excerpt: 0.3 dB)."""

CHANNEL_GAP_DB: Final = 6.0

RESIDUAL_EXACT_DB: Final = -60.0
"""The same for full-band wav files: five roundings to 16 bits are at -94 dB full scale, a soft mixture at -30 dB.

Not seen on the real HQ dataset. Also the limit for an accompaniment minus drums, bass and other, which as `convert`
writes it is nothing for integers and float32's rounding for FLOAT.
"""

RESIDUAL_FLOOR_DB: Final = -80.0
"""Residual relative to full scale that is never reported: in a very soft sum it is rounding, not a fault."""

LOW_BAND: Final = (14_000, 16_000)
"""Hz. Both MUSDB18 and HQ have energy here."""

HIGH_BAND: Final = (17_500, 20_000)
"""Hz. Only HQ has energy here: the excerpt ends at 15.6 kHz, MUSDB18 is said to end at 16 or 17 kHz."""

ROUNDING_DB: Final = 10 * math.log10(2.0**-30 / 12)
"""Level of 16-bit rounding noise: -101.1 dB; also its density as bands are measured here."""

CUT_DB: Final = 20.0
"""Step from the low band to the high one that shows a cut: 62 dB in the excerpt; music falls by a few dB."""

VARIANT_SHARE: Final = 0.75
"""Share of the tracks that must agree on the bandwidth: some full-band productions use sounds that were once cut."""

_ACCOMPANIMENT: Final = "accompaniment"
_SUMS: Final = {"mixture": musdb18.STEMS, _ACCOMPANIMENT: musdb18.TARGETS[_ACCOMPANIMENT]}
_FFT_SIZE: Final = 4096  # 93 ms: a block holds eight
_LOUDEST_FLOAT: Final = 1e9  # beyond any mistaken scale, as 2**15 or 2**31 for 1: not audio
_NB_SHOWN: Final = 5
_PROGRAM_SECONDS: Final = 10.0  # a program that has not answered by then hangs


@dataclass(frozen=True)
class Finding:
    """Something about the dataset that its user should know.

    Attributes
    ----------
    level : one of `LEVELS`.
    code : kind of finding, as `silent` or `length`.
    track : the track's key, or empty.
    stem : the stem, or empty.
    message : what was found, what was expected and what to do, on one line.
    """

    level: str
    code: str
    track: str
    stem: str
    message: str


@dataclass(frozen=True)
class StemCheck:
    """What was measured of one stem, the mixture or the accompaniment.

    Attributes
    ----------
    nb_samples : samples per channel.
    rms_db : RMS level of each channel, in dB full scale.
    peak_db : level of each channel's largest sample, in dB full scale.
    difference_db : energy of left - right, in dB relative to twice the energy of both channels (the most it can be).
    sum_db : energy of left + right in the same way. None in both means silence, in one of them an exact copy.
    nb_clipped : samples at full scale or beyond in runs of `CLIPPED_RUN` or more, of both channels together.
    longest_run : the longest run at full scale, in samples.
    """

    nb_samples: int
    rms_db: Pair
    peak_db: Pair
    difference_db: float | None
    sum_db: float | None
    nb_clipped: int
    longest_run: int

    @property
    def silent(self) -> tuple[bool, bool]:
        """Whether each channel is silent."""
        left, right = (peak is None or peak < SILENT_DB for peak in self.peak_db)
        return left, right


@dataclass(frozen=True)
class TrackCheck:
    """What was measured of one track.

    Attributes
    ----------
    key : subset and name.
    split : the official split.
    sample_rate : Hz of the mixture; None where it cannot be read.
    seconds : length of the mixture; None where it cannot be read.
    stems : measures of what could be read, by stem, mixture first.
    residual_db : mixture minus the sum of the stems in each channel, in dB relative to the mixture (0 where the mixture
        is silent and the stems are not); None as a whole where stems are missing or do not match.
    accompaniment_residual_db : the same for the accompaniment and the sum of drums, bass and other.
    bandwidth : `cut` where nothing is left above 17.5 kHz, `full` where there is, `unknown` where the sound is too soft
        to tell or the sample rate too low.
    bands_db : level of the mixture in `LOW_BAND` and `HIGH_BAND`: that of white noise of the same density, in dB full
        scale, in the typical one of those frames that are louder than most in the low band. None in both where it was
        not measured.
    problems : errors in reading.
    """

    key: str
    split: str
    sample_rate: int | None
    seconds: float | None
    stems: dict[str, StemCheck]
    residual_db: Pair | None
    accompaniment_residual_db: Pair | None
    bandwidth: str
    bands_db: Pair
    problems: tuple[Finding, ...]


@dataclass(frozen=True)
class DatasetCheck:
    """What the dataset is.

    Attributes
    ----------
    root : its folder.
    layout : `stems`, `wav` or `hq`.
    variant : `VARIANT_AAC`, `VARIANT_FULL` or `VARIANT_UNKNOWN`, by the tracks' bandwidth.
    splits : number of tracks in each official split; those of `train` and `valid` lie in train.
    seconds : length of all readable tracks together.
    """

    root: str
    layout: str
    variant: str
    splits: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class MachineCheck:
    """What the machine is.

    Attributes
    ----------
    platform : operating system and processor, as Python names them.
    cores : processor cores that this process may use.
    memory_bytes : size of the memory, None where the system does not say.
    free_bytes : free space on the disk of the dataset, else of the current folder.
    ffmpeg : path of the ffmpeg program, None where there is none. musdbkit never needs it; musdb, stempeg and museval
        do.
    gpus : names of the GPUs.
    versions : versions of Python, musdbkit and `PACKAGES`, None for those not installed.
    """

    platform: str
    cores: int
    memory_bytes: int | None
    free_bytes: int
    ffmpeg: str | None
    gpus: tuple[str, ...]
    versions: dict[str, str | None]


@dataclass(frozen=True)
class CheckResult:
    """All that was found.

    Attributes
    ----------
    machine : the machine.
    dataset : the dataset; None where none was given or none is there.
    tracks : the tracks' measures, train before test.
    findings : errors, then warnings, then notes.
    strict : whether a warning makes the result bad, too.
    """

    machine: MachineCheck
    dataset: DatasetCheck | None
    tracks: tuple[TrackCheck, ...]
    findings: tuple[Finding, ...]
    strict: bool

    @property
    def ok(self) -> bool:
        """Whether there is no error and, with `strict`, no warning: the exit status is 0."""
        bad = LEVELS[:2] if self.strict else LEVELS[:1]
        return not any(finding.level in bad for finding in self.findings)


def check(root: Path | None, *, strict: bool = False, parallel: Parallel = tracks.ALL_CORES) -> CheckResult:
    """Return what is on this machine and what is right and wrong with a dataset.

    A fault in the data, even the lack of it, is a finding and not an exception.

    Parameters
    ----------
    root : the folder that holds `train` and `test`; None to look at the machine only.
    strict : whether a warning makes the result bad, too.
    parallel : jobs and backend.
    """
    machine = _check_machine(root)
    if root is None:
        return CheckResult(machine, None, (), (), strict)
    try:
        found = tracks.find_tracks(root, complete=False)
    except DatasetError as error:
        return CheckResult(machine, None, (), (_finding("error", "layout", "", "", str(error)),), strict)
    outcome = tracks.for_each(_check_track, found, key=lambda track: track.key, label="check", parallel=parallel)
    checks = tuple(outcome.done.values())
    layout = "stems" if found[0].layout == "stems" else max(track.layout for track in found)  # wav, if any is
    variant = _variant_of(checks, layout)
    findings = [_finding("error", "unreadable", key, "", message) for key, message in outcome.failed.items()]
    findings += [*_judge_tracks(found, layout), *_judge_bandwidth(checks, layout, variant)]
    for each in checks:
        unsure = each.bandwidth == "unknown" and variant != VARIANT_FULL
        lossy = layout == "stems" or each.bandwidth == "cut" or unsure
        findings += [*each.problems, *_judge_stems(each)]
        findings += _judge_sum(each, "mixture", each.residual_db, lossy=lossy)
        findings += _judge_sum(each, _ACCOMPANIMENT, each.accompaniment_residual_db, lossy=False)
        for e in musdb18.errata_of(each.key.partition("/")[2]):
            message = f"known fault: {e.defect}" + (f" (at {e.position})" if e.position else "")
            findings.append(_finding("note", "errata", each.key, "", message))
    dataset = DatasetCheck(
        root=str(root),
        layout=layout,
        variant=variant,
        splits={split: sum(track.split == split for track in found) for split in ("train", "valid", "test")},
        seconds=round(sum(each.seconds or 0.0 for each in checks), 3),
    )
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return CheckResult(machine, dataset, checks, tuple(findings), strict)


# Measuring


class _RunMeter:
    """Finds runs of samples at or beyond full scale in one channel, across blocks."""

    def __init__(self) -> None:
        self.nb_clipped = 0
        self.longest = 0
        self._open = 0  # length of the run that the last block ended in, with the sign of its samples

    def add(self, samples: NDArray[np.float32]) -> None:
        """Count the runs that end in a block [shape=(nb_samples,)]."""
        signs = (samples >= FULL_SCALE).astype(np.int8) - (samples <= -FULL_SCALE)
        bounds = np.flatnonzero(np.diff(signs, prepend=2, append=2))
        runs = np.diff(bounds) * signs[bounds[:-1]]  # with sign, 0 below full scale
        if runs[0] * self._open > 0:
            runs[0] += self._open
        else:
            runs = np.concatenate(([self._open], runs))
        self._open = int(runs[-1])
        lengths = np.abs(runs[:-1])
        self.nb_clipped += int(lengths[lengths >= CLIPPED_RUN].sum())
        self.longest = max(self.longest, int(lengths.max(initial=0)))


class _StemMeter:
    """Measures one stem block by block."""

    def __init__(self) -> None:
        self.nb_samples = 0
        self.energies = np.zeros(musdb18.NB_CHANNELS)
        self._peaks = np.zeros(musdb18.NB_CHANNELS)
        self._difference = 0.0
        self._sum = 0.0
        self._runs = [_RunMeter() for _ in range(musdb18.NB_CHANNELS)]

    def add(self, planes: Planes) -> None:
        """Measure a block [shape=(2, nb_samples), float32]."""
        self.nb_samples += planes.shape[1]
        self.energies += _energies(planes)
        peaks = np.maximum(planes.max(axis=1), -planes.min(axis=1))
        self._peaks = np.maximum(self._peaks, peaks)
        # Differences of samples, not of energies: those would lose all below -60 dB to rounding
        self._difference += _energy(planes[0] - planes[1])
        self._sum += _energy(planes[0] + planes[1])
        for runs, plane, peak in zip(self._runs, planes, peaks, strict=True):
            runs.add(plane if peak >= FULL_SCALE else plane[:1])  # one sample below ends a run as well as all

    def result(self) -> StemCheck:
        """Return what was measured."""
        for runs in self._runs:
            runs.add(np.zeros(1, np.float32))
        most = 2 * self.energies.sum()
        return StemCheck(
            nb_samples=self.nb_samples,
            rms_db=_pair_db(self.energies, np.full(2, self.nb_samples)),
            peak_db=_pair_db(self._peaks**2, np.ones(2)),
            difference_db=_db(self._difference, most),
            sum_db=_db(self._sum, most),
            nb_clipped=sum(runs.nb_clipped for runs in self._runs),
            longest_run=max(runs.longest for runs in self._runs),
        )


class _BandMeter:
    """Measures two frequency bands of the mixture, frame by frame: two numbers for each 93 ms are kept."""

    def __init__(self, sample_rate: int) -> None:
        frequencies = np.fft.rfftfreq(_FFT_SIZE, 1 / sample_rate)
        self._bins = [slice(*np.searchsorted(frequencies, band)) for band in (LOW_BAND, HIGH_BAND)]
        self._measurable = sample_rate > 2 * HIGH_BAND[1] and all(bins.stop > bins.start for bins in self._bins)
        self._window = np.hanning(_FFT_SIZE).astype(np.float32)
        self._scale = 1 / float(np.sum(self._window**2))
        self._frames: list[NDArray[np.float64]] = []

    def add(self, planes: Planes) -> None:
        """Measure a block [shape=(2, nb_samples), float32], less what fills no frame."""
        nb_frames = planes.shape[1] // _FFT_SIZE
        if nb_frames and self._measurable:
            frames = planes[:, : nb_frames * _FFT_SIZE].reshape(2, nb_frames, _FFT_SIZE)
            spectra = np.fft.rfft(frames * self._window)
            bands = [np.mean(np.abs(spectra[:, :, bins]) ** 2, axis=(0, 2), dtype=np.float64) for bins in self._bins]
            self._frames.append(np.array(bands) * self._scale)

    def result(self) -> tuple[str, Pair]:
        """Return the bandwidth and the level of the two bands.

        Of the half of the frames that is louder in the low band (the rest may be too soft to show a cut) the median
        (a click, as where a track was cut, is a few frames of all frequencies).
        """
        if not self._frames:
            return "unknown", (None, None)
        bands = np.concatenate(self._frames, axis=1)
        louder = np.argsort(bands[0])[bands.shape[1] // 2 :]
        low, high = _pair_db(np.median(bands[:, louder], axis=1), np.ones(2))
        if low is None or low < ROUNDING_DB + CUT_DB:
            return "unknown", (low, high)
        return "cut" if high is None or low - high >= CUT_DB else "full", (low, high)


class _TrackMeter:
    """Measures the stems of one track, and sums against their parts: `sums` are those whose headers match."""

    def __init__(
        self, names: Sequence[str] = (), sample_rate: int = musdb18.SAMPLE_RATE, sums: Sequence[str] = ()
    ) -> None:
        self.stems = {name: _StemMeter() for name in names}
        self.bands = _BandMeter(sample_rate)
        self._residuals = {name: np.zeros(musdb18.NB_CHANNELS) for name in sums}

    def add(self, blocks: Sequence[audio.Samples | None]) -> None:
        """Measure a block of each stem [shape of each=(nb_samples, 2), float32], None for those that have ended."""
        planes = {
            name: np.stack((block[:, 0], block[:, 1]))  # contiguous: all that follows is several times faster
            for name, block in zip(self.stems, blocks, strict=True)
            if block is not None
        }
        for name, plane in planes.items():
            self.stems[name].add(plane)
        if "mixture" in planes:
            self.bands.add(planes["mixture"])
        for name in list(self._residuals):
            there = [planes[part] for part in (name, *_SUMS[name]) if part in planes]
            if len(there) <= len(_SUMS[name]) or len({plane.shape for plane in there}) > 1:
                del self._residuals[name]
                continue
            residual = there[0].copy()
            for part in there[1:]:
                residual -= part
            self._residuals[name] += _energies(residual)

    def drop(self, stem: str) -> None:
        """Forget a stem of which only a part could be read."""
        del self.stems[stem]
        self._residuals = {name: r for name, r in self._residuals.items() if stem not in (name, *_SUMS[name])}

    def residual_db(self, name: str) -> Pair | None:
        """Return a sum's residual against the sum, or None where its parts do not match."""
        if name not in self._residuals:
            return None
        residual, total = self._residuals[name], self.stems[name].energies
        return _pair_db(residual, np.where(total > 0, total, residual))


def _check_track(track: Track) -> TrackCheck:
    """Return the measures of one track, with what went wrong in reading it."""
    read = _read_stem_file if track.layout == "stems" else _read_folder
    meter, sample_rate, problems = read(track)
    stems = {name: stem.result() for name, stem in meter.stems.items()}
    bandwidth, bands_db = meter.bands.result()
    return TrackCheck(
        key=track.key,
        split=track.split,
        sample_rate=sample_rate,
        seconds=round(stems["mixture"].nb_samples / sample_rate, 3) if "mixture" in stems and sample_rate else None,
        stems=stems,
        residual_db=meter.residual_db("mixture"),
        accompaniment_residual_db=meter.residual_db(_ACCOMPANIMENT),
        bandwidth=bandwidth,
        bands_db=bands_db,
        problems=tuple(problems),
    )


def _read_stem_file(track: Track) -> tuple[_TrackMeter, int | None, list[Finding]]:
    """Return the measures of a stem file, its sample rate and what is wrong with it."""
    try:
        info = audio.probe_stems(track.path)[0]  # the others are like it, or it raises an error
        meter = _TrackMeter(musdb18.STREAMS, info.sample_rate, ["mixture"])
        for blocks in audio.decode_stems(track.path):
            meter.add(blocks)
    except AudioError as error:
        return _TrackMeter(), None, [_read_error(track, error.stem, track.path, error)]
    return meter, info.sample_rate, _compare_headers(track, {"": info})


def _read_folder(track: Track) -> tuple[_TrackMeter, int | None, list[Finding]]:
    """Return the measures of a folder of wav or flac files, the mixture's sample rate and what is wrong with them."""
    problems: list[Finding] = []
    infos: dict[str, audio.AudioInfo] = {}
    for stem in (*musdb18.STREAMS, _ACCOMPANIMENT):
        path = tracks.find_audio(track.path, stem)
        try:
            if path is not None:
                infos[stem] = audio.info(path)
            elif stem != _ACCOMPANIMENT:
                message = f"no {stem}.wav or {stem}.flac in {track.path}: fetch or convert the track again"
                problems.append(_finding("error", "missing", track.key, stem, message))
        except AudioError as error:
            problems.append(_read_error(track, stem, track.file(stem), error))
    problems += _compare_headers(track, infos)
    sample_rate = infos["mixture"].sample_rate if "mixture" in infos else None
    shapes = {
        stem: (info.sample_rate, info.nb_samples)
        for stem, info in infos.items()
        if info.nb_channels == musdb18.NB_CHANNELS
    }
    sums = [name for name in _SUMS if name in shapes and all(shapes.get(p) == shapes[name] for p in _SUMS[name])]
    meter = _TrackMeter(list(shapes), sample_rate or musdb18.SAMPLE_RATE, sums)
    failed: dict[str, AudioError] = {}
    readers = [
        _read_blocks(track.file(stem), infos[stem], functools.partial(failed.setdefault, stem)) for stem in shapes
    ]
    for blocks in itertools.zip_longest(*readers):
        meter.add(blocks)
    for stem, reason in failed.items():
        meter.drop(stem)
        problems.append(_read_error(track, stem, track.file(stem), reason))
    return meter, sample_rate, problems


def _read_blocks(
    path: Path, info: audio.AudioInfo, report: Callable[[AudioError], object]
) -> Iterator[NDArray[np.float32]]:
    """Yield the blocks of a wav or flac file as floats, up to the first that cannot be read, which is reported."""
    try:
        for block in audio.read_blocks(path):
            if info.subtype == "FLOAT" and not float(np.abs(block).max()) < _LOUDEST_FLOAT:  # so written, for NaN
                raise AudioError(f"{path}: holds values that are no audio (not numbers, or beyond {_LOUDEST_FLOAT:g})")
            yield audio.to_float(block, info.subtype)
    except AudioError as error:
        report(error)


def _compare_headers(track: Track, infos: Mapping[str, audio.AudioInfo | audio.StreamInfo]) -> list[Finding]:
    """Return what is wrong with the channels, rates and lengths of a track's files."""
    problems = []
    common = Counter((info.sample_rate, info.nb_samples) for info in infos.values()).most_common(1)
    for stem, info in infos.items():
        (sample_rate, nb_samples), _ = common[0]
        if info.nb_channels != musdb18.NB_CHANNELS:
            message = f"{info.nb_channels} channel(s), expected {musdb18.NB_CHANNELS}: write it again in stereo"
            problems.append(_finding("error", "channels", track.key, stem, message))
        if info.sample_rate != musdb18.SAMPLE_RATE:
            message = f"{info.sample_rate} Hz, expected {musdb18.SAMPLE_RATE} Hz: resample it"
            problems.append(_finding("error", "rate", track.key, stem, message))
        if not info.nb_samples:
            message = "no samples: fetch or convert the track again"
            problems.append(_finding("error", "length", track.key, stem, message))
        elif info.sample_rate == sample_rate and info.nb_samples != nb_samples:
            like = next(s for s, i in infos.items() if (i.sample_rate, i.nb_samples) == common[0][0])
            message = (
                f"{info.nb_samples} samples ({info.nb_samples / sample_rate:.2f} s), expected {nb_samples} "
                f"({nb_samples / sample_rate:.2f} s) as in {like}: fetch or convert the track again"
            )
            problems.append(_finding("error", "length", track.key, stem, message))
    return problems


def _energy(samples: NDArray[np.float32]) -> float:
    """Return the sum of squares of a block [shape=(nb_samples,)]."""
    return float(np.dot(samples, samples))


def _energies(planes: Planes) -> NDArray[np.float64]:
    """Return the sum of squares of each channel [shape=(2,)] of a block [shape=(2, nb_samples)]."""
    return np.array([_energy(plane) for plane in planes])


def _db(energy: float, reference: float) -> float | None:
    """Return a ratio of energies in dB, None for minus infinity and where there is nothing to compare with."""
    if energy <= 0 or reference <= 0:
        return None
    return round(10 * math.log10(energy / reference), 2) + 0.0  # not -0.0


def _pair_db(energies: NDArray[np.floating], references: NDArray[Any]) -> Pair:
    """Return the ratio in each channel in dB."""
    left, right = (_db(float(energy), float(reference)) for energy, reference in zip(energies, references, strict=True))
    return left, right


# Judging


def _finding(level: str, code: str, track: str, stem: str, message: str) -> Finding:
    """Return a finding whose message is one line, whatever names are in it."""
    return Finding(level, code, track, stem, printable(message))


def _read_error(track: Track, stem: str, path: Path, error: AudioError) -> Finding:
    """Return the finding for a file that cannot be read."""
    return _finding("error", error.code, track.key, stem, str(error).removeprefix(f"{path}: "))


def _variant_of(checks: Sequence[TrackCheck], layout: str) -> str:
    """Return the variant on whose bandwidth most tracks agree."""
    told = Counter(each.bandwidth for each in checks if each.bandwidth != "unknown")
    if told["cut"] >= VARIANT_SHARE * told.total() > 0:
        return VARIANT_AAC
    if told["full"] >= VARIANT_SHARE * told.total() > 0 and layout != "stems":
        return VARIANT_FULL
    return VARIANT_UNKNOWN


def _judge_tracks(found: Sequence[Track], layout: str) -> list[Finding]:
    """Return findings about the number of tracks, the subset they are in and what some of them lack."""
    findings = []
    subsets_of: dict[str, set[str]] = {}
    for track in found:
        subsets_of.setdefault(musdb18.canonical_name(track.name), set()).add(track.subset)
    counts = Counter(track.subset for track in found)
    if any(counts[subset] != expected for subset, expected in musdb18.NB_TRACKS.items()):
        # Errata tell the real dataset: the names of validation tracks are also borrowed by synthetic ones
        real = any(erratum.track in subsets_of for erratum in musdb18.ERRATA)
        message = (
            f"{counts['train']} tracks in train and {counts['test']} in test, published are "
            f"{musdb18.NB_TRACKS['train']} and {musdb18.NB_TRACKS['test']}"
        )
        advice = ": fetch the missing ones, or say so with your scores" if real else ": not the whole of MUSDB18"
        findings.append(_finding("warning" if real else "note", "count", "", "", message + advice))
    official = dict.fromkeys(musdb18.VALIDATION_TRACKS, "train") | {e.track: e.subset for e in musdb18.ERRATA}
    for name, subsets in subsets_of.items():
        if len(subsets) > 1:
            message = "in both train and test: a model would be tested on what it has learnt: remove one"
            findings.append(_finding("error", "overlap", name, "", message))
        elif official.get(name, *subsets) not in subsets:
            message = f"in {''.join(subsets)}, published in {official[name]}: move it there"
            findings.append(_finding("warning", "overlap", name, "", message))
    lacking = [track for track in found if layout == "wav" and track.layout == "hq"]
    if lacking:
        message = (
            f"{len(lacking)} of {len(found)} tracks have no accompaniment, {lacking[0].key} the first: "
            "convert them again, or make it with make-csv --make-accompaniment"
        )
        findings.append(_finding("warning", "missing", "", _ACCOMPANIMENT, message))
    return findings


def _judge_bandwidth(checks: Sequence[TrackCheck], layout: str, variant: str) -> list[Finding]:
    """Return findings about the bandwidth of the dataset and of tracks that differ from it."""
    cut = [each for each in checks if each.bandwidth == "cut"]
    full = [each for each in checks if each.bandwidth == "full"]
    message = f"{len(cut)} of {len(cut) + len(full)} tracks end below {HIGH_BAND[0] / 1000} kHz"
    if not cut and not full:
        return []
    if variant == VARIANT_UNKNOWN and cut and full:
        message += ": do not train or score on a mixture of MUSDB18 and MUSDB18-HQ"
        return [_finding("warning", "bandwidth", "", "", message)]
    if variant == VARIANT_UNKNOWN:
        return [_finding("note", "bandwidth", "", "", f"{message}, all of MUSDB18's stem files do")]
    message += f": {variant}; its scores cannot be compared with those of the other variant"
    findings = [_finding("note", "bandwidth", "", "", message)]
    odd, seen = (full, "goes on above") if variant == VARIANT_AAC else (cut, "ends below")
    for each in odd:
        bands = " and ".join("nothing" if level is None else f"{level:.0f} dB" for level in each.bands_db)
        message = f"{seen} {HIGH_BAND[0] / 1000} kHz, unlike most tracks ({bands} below and above)"
        findings.append(_finding("note", "bandwidth", each.key, "mixture", message))
    return findings


def _judge_stems(each: TrackCheck) -> list[Finding]:
    """Return findings about a track's stems, each by itself."""
    findings = []
    for stem, measured in each.stems.items():

        def add(level: str, code: str, message: str, stem: str = stem) -> None:
            findings.append(_finding(level, code, each.key, stem, message))

        if not measured.nb_samples or stem == _ACCOMPANIMENT:  # what can be said of a sum is said of its parts
            continue
        if all(measured.silent):
            if stem == "mixture":
                add("error", "silent", "the mixture is silent: fetch or convert the track again")
            else:
                add("warning", "silent", "silent throughout: scores of this stem are undefined: leave it out of means")
            continue
        if any(measured.silent):
            side = "left" if measured.silent[0] else "right"
            add("note", "one-sided", f"the {side} channel is silent throughout: listen whether this is meant")
        elif measured.difference_db is None or measured.difference_db <= DUAL_MONO_DB:
            add("note", "dual-mono", "both channels are the same: mono written as stereo")
        elif measured.sum_db is None or measured.sum_db <= ANTI_PHASE_DB:
            left = "nothing" if measured.sum_db is None else f"{measured.sum_db:.1f} dB"
            message = f"left and right are of opposite sign ({left} remains in mono): turn the sign of one channel"
            add("warning", "anti-phase", message)
        if measured.longest_run >= CLIPPED_RUN:
            message = (
                f"{measured.nb_clipped} samples at or beyond full scale, up to {measured.longest_run} in a row "
                f"(peak {max(p for p in measured.peak_db if p is not None):+.2f} dB): "
                "listen, and use a copy with more headroom if there is one"
            )
            add("warning", "clipping", message)
    return findings


def _judge_sum(each: TrackCheck, name: str, residual_db: Pair | None, *, lossy: bool) -> list[Finding]:
    """Return the finding for a mixture or accompaniment that is not the sum of its parts, with its bad channels."""
    if residual_db is None:
        return []
    levels = [-math.inf if level is None else level for level in residual_db]
    limits = [RESIDUAL_LOSSY_DB if lossy else RESIDUAL_EXACT_DB] * 2
    if lossy and abs(levels[0] - levels[1]) >= CHANNEL_GAP_DB:
        limits[levels.index(max(levels))] = RESIDUAL_ONE_CHANNEL_DB
    texts, bad = [], False
    for side, level, limit, sum_db in zip(("left", "right"), levels, limits, each.stems[name].rms_db, strict=True):
        text = f"{side} channel " + ("nothing" if level == -math.inf else f"{level:.1f} dB")
        absolute = math.inf if sum_db is None else level + sum_db  # silence, but of parts that are not silent
        if level > limit and absolute > RESIDUAL_FLOOR_DB:
            text += f" (expected below {limit:.0f} dB, {'AAC coding noise' if lossy else 'rounding'})"
            bad = True
        texts.append(text)
    if name == "mixture":
        parts, advice = "sum of stems", "score against the sum of the stems, or leave it out"
    else:
        parts = f"sum of {', '.join(_SUMS[name])}"
        advice = "remove it and make it again with make-csv --make-accompaniment"
    return (
        [_finding("warning", name, each.key, "", f"{name} minus {parts}: {', '.join(texts)}: {advice}")] if bad else []
    )


# The machine


def _check_machine(root: Path | None) -> MachineCheck:
    """Return what the machine is."""
    versions: dict[str, str | None] = {"Python": platform.python_version(), "musdbkit": __version__}
    return MachineCheck(
        platform=platform.platform(),
        cores=tracks.nb_cores(),
        memory_bytes=_memory_bytes(),
        free_bytes=tracks.free_bytes(root or Path()),
        ffmpeg=shutil.which("ffmpeg"),
        gpus=_find_gpus(),
        versions=versions | {package: _version_of(package) for package in PACKAGES},
    )


def _memory_bytes() -> int | None:
    """Return the size of the memory, None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _find_gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that torch could use, without loading torch."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ("Apple GPU (MPS)",)
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PROGRAM_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()


def _version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# Printing


def print_result(result: CheckResult, console: "Console") -> None:
    """Print a result as text: machine, dataset, findings by level and kind, and a closing line.

    On a terminal it fits the width, and of findings of a kind the first few are shown. Elsewhere each finding is one
    whole line, for grep.
    """
    from rich.table import Table
    from rich.text import Text

    def print_rows(title: str, rows: Sequence[tuple[str, str]], style: str = "") -> None:
        console.print(Text(title, style=f"bold {style}".strip()))
        if console.is_terminal:
            table = Table.grid(padding=(0, 2))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for name, text in rows:
                table.add_row(Text("  " + name), Text(printable(text)))
            console.print(table)
        else:  # a table would fill every line with blanks
            width = max(len(name) for name, _ in rows)
            for name, text in rows:
                console.print(Text(f"  {name:{width}}  {printable(text)}"), soft_wrap=True)
        console.print()

    print_rows("Machine", _machine_rows(result.machine))
    if result.dataset:
        print_rows("Dataset", _dataset_rows(result.dataset))
    for level, style in zip(LEVELS, ("red", "yellow", "cyan"), strict=True):
        findings = [finding for finding in result.findings if finding.level == level]
        rows = _finding_rows(findings, grouped=console.is_terminal)
        if rows:
            print_rows(f"{level.capitalize()}s", rows, style)
    counts = Counter(finding.level for finding in result.findings)
    what = _count(sum(result.dataset.splits.values()), "track") if result.dataset else "machine"
    closing = f"{what} checked: " + ", ".join(_count(counts[level], level) for level in LEVELS)
    if result.dataset is None and not result.findings:
        closing += "; no dataset was given: name one, or set MUSDB_PATH to it"
    console.print(Text(closing, style="bold"), soft_wrap=True)


def _machine_rows(machine: MachineCheck) -> list[tuple[str, str]]:
    """Return names and values of the machine."""
    memory = f", {machine.memory_bytes / 1e9:.1f} GB memory" if machine.memory_bytes else ""
    return [
        ("system", f"{machine.platform}, {_count(machine.cores, 'core')}{memory}"),
        ("free disk", f"{machine.free_bytes / 1e9:.1f} GB"),
        ("GPU", "; ".join(machine.gpus) or "none found"),
        ("ffmpeg", f"{machine.ffmpeg or 'not found'} (musdbkit does not need it; musdb, stempeg and museval do)"),
        ("versions", ", ".join(f"{name} {version or 'not installed'}" for name, version in machine.versions.items())),
    ]


def _dataset_rows(dataset: DatasetCheck) -> list[tuple[str, str]]:
    """Return names and values of the dataset."""
    minutes, seconds = divmod(round(dataset.seconds), 60)
    return [
        ("root", dataset.root),
        ("layout", dataset.layout),
        ("variant", dataset.variant),
        ("tracks", ", ".join(f"{split} {number}" for split, number in dataset.splits.items())),
        ("length", f"{minutes // 60} h {minutes % 60:02} min {seconds:02} s"),
    ]


def _finding_rows(findings: Sequence[Finding], *, grouped: bool) -> list[tuple[str, str]]:
    """Return kind and text of findings, sorted by kind; `grouped` names each kind once and shows only a few of it."""
    rows = []
    for code in dict.fromkeys(finding.code for finding in findings):
        same = [finding for finding in findings if finding.code == code]
        shown = _NB_SHOWN if grouped and len(same) > _NB_SHOWN + 1 else len(same)
        for i, finding in enumerate(same[:shown]):
            where = ", ".join(filter(None, (finding.track, finding.stem)))
            kind = ("" if i else code) if grouped else f"{finding.level} {code}"
            rows.append((kind, f"{where}: {finding.message}" if where else finding.message))
        if len(same) > shown:
            rows.append(("", f"... and {len(same) - shown} more (--json lists all)"))
    return rows


def _count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
