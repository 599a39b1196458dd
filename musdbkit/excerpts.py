"""The sound of the worst seconds: choose them, plan what fits, and cut it, small enough to be embedded in a page.

Reads a table of scores, the estimates as `scoring` finds them, and the dataset in any layout. Writes nothing.

Conventions: an excerpt is four signals of equal length: mixture, reference, estimate, and error, which is the estimate
minus the reference before any coding. (The difference of two decoded files would be mostly codec noise where an
estimate is good.) Each is a stereo MP3 file, since every browser decodes that, of `BIT_RATE` throughout, so that the
size is known beforehand: at 96 kb/s the codec warbles much as separation does, and from 128 to 160 kb/s its noise,
15 to 25 dB below each signal, falls by 2 to 3 dB only.

LAME puts 576 samples before the first one, and decoders add 529. It writes so in a header, by which libsndfile, ffmpeg
and browsers give the true samples: exactly as many, and none late. In a decoder that ignores the header all are 1105
samples (25 ms) late, or 1152 more where it plays the header too: the four alike, so they can be switched at one
position in any case.
"""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from musdbkit import musdb18, scores, scoring
from musdbkit.errors import AudioError, DatasetError, MissingDependencyError, MusdbkitError, ParameterError
from musdbkit.methods import Method
from musdbkit.tracks import ALL_CORES, Outcome, Parallel, for_each

if TYPE_CHECKING:
    from pandas import DataFrame

SIGNALS: Final = ("mixture", "reference", "estimate", "error")
"""What there is to be heard of an excerpt."""

BIT_RATE: Final = 128_000
"""Bits in a second of one signal, at any sample rate."""

BUDGET_BYTES: Final = 3_750_000
"""What the MP3 files of a page may have together: 5 MB as base64, some 57 s of four signals."""

SPREAD_SECONDS: Final = 5.0
"""How far apart chosen seconds of a target in a track begin: nearer ones can be heard in the same excerpt."""

_NB_SECONDS: Final = 200  # more windows than any budget holds
_SAMPLE_RATES: Final = (32000, 44100, 48000)  # of MPEG-1; those below have other bit rates
_OTHER_RATE: Final = 44100
_FRAME_SIZE: Final = 1152  # samples in a frame of MP3
_COMPRESSION: Final = (320_000 - BIT_RATE) / (320_000 - 32_000)  # libsndfile's level: 0 is 320 kb/s, 1 is 32 kb/s
_EXTRA_FRAMES: Final = 3  # at most: LAME's header, its delay and padding, and the last frame's rest
_SETTINGS: Final = scoring.Settings(("sdr",), align=True, complement=True)  # whatever was scored can be heard


@dataclass(frozen=True)
class Second:
    """A window of a score.

    Attributes
    ----------
    track, target : of what.
    frame : number of the window, from 0.
    start, seconds : where it begins and how long it is, in seconds.
    value : dB.
    """

    track: str
    target: str
    frame: int
    start: float
    seconds: float
    value: float


@dataclass(frozen=True)
class Span:
    """What to cut.

    Attributes
    ----------
    track, target : of what.
    start, stop : in seconds.
    """

    track: str
    target: str
    start: float
    stop: float


@dataclass(frozen=True)
class Excerpt:
    """What can be heard of a span.

    Attributes
    ----------
    track, target : of what.
    start, seconds : where it begins in the track and how long it is, in seconds.
    sample_rate : of the signals, in Hz: that of the track where MP3 has it.
    gain_db : what was done to the level of all four signals so that none clips: 0 mostly, else negative.
    signals : by `SIGNALS`, a stereo MP3 file.
    """

    track: str
    target: str
    start: float
    seconds: float
    sample_rate: int
    gain_db: float
    signals: dict[str, bytes]

    @property
    def nb_bytes(self) -> int:
        """Size of the four files; in a page they take four thirds of it, as base64."""
        return sum(map(len, self.signals.values()))


@dataclass(frozen=True)
class Sounds:
    """What can be heard of scored methods.

    Attributes
    ----------
    excerpts : by name of the method, the worst first.
    failed : by method and track, as `unet: A - B`, why nothing can be heard of it.
    """

    excerpts: dict[str, list[Excerpt]]
    failed: dict[str, str]


@dataclass(frozen=True)
class _Job:
    """What to cut of one track; sources are its references, each with the estimates, of which there should be one."""

    track: str
    sources: tuple[tuple[scoring.Reference, scoring.Files], ...]
    spans: tuple[Span, ...]
    estimates: Path


def cut_worst(
    methods: Sequence[Method],
    estimates: Sequence[Path],
    root: Path,
    *,
    metric: str = "SDR",
    budget_bytes: int = BUDGET_BYTES,
    parallel: Parallel = ALL_CORES,
) -> Sounds:
    """Return what can be heard of the worst seconds of methods, each with an equal part of the budget.

    Parameters
    ----------
    methods : what was scored.
    estimates : the folders of their estimates, in the same order; of methods without one nothing is cut.
    root : the dataset, in any layout.
    metric : by which seconds are bad; SDR in place of one that has no values by second.
    budget_bytes : what all MP3 files may have together, not counting base64.
    parallel : jobs and backend.

    Raises
    ------
    ParameterError
        There are more folders than methods.
    DatasetError
        There is no such dataset, or no estimates of any of its tracks.
    MissingDependencyError
        libsndfile cannot write MP3.
    """
    if len(estimates) > len(methods):
        raise ParameterError(
            f"{len(estimates)} folders of estimates for {len(methods)} of scores, expected one for each"
        )
    metric = metric if metric in scores.FRAME_METRICS else scores.FRAME_METRICS[0]
    excerpts: dict[str, list[Excerpt]] = {}
    failed: dict[str, str] = {}
    for method, folder in zip(methods, estimates, strict=False):
        protocol = method.protocol
        subset = protocol.subset if protocol.subset in musdb18.SUBSETS else None
        seconds = worst_seconds(
            method.table,
            metric,
            nb_seconds=_NB_SECONDS,
            hop_seconds=protocol.seconds[1],
            window_seconds=protocol.seconds[0],
        )
        durations = find_durations(folder, root, method.protocol.tracks, subset=subset)
        spans = plan(seconds, durations, budget_bytes=budget_bytes // len(estimates))
        outcome = cut(folder, root, spans, subset=subset, parallel=parallel)
        of_track = {track: iter(each) for track, each in outcome.done.items()}
        excerpts[method.name] = [next(of_track[span.track]) for span in spans if span.track in of_track]
        failed |= {f"{method.name}: {track}": message for track, message in outcome.failed.items()}
    return Sounds(excerpts, failed)


def worst_seconds(
    table: "DataFrame",
    metric: str = "SDR",
    *,
    nb_seconds: int,
    hop_seconds: float,
    window_seconds: float,
    per_track: int = 3,
    spread_seconds: float = SPREAD_SECONDS,
) -> list[Second]:
    """Return the windows with the lowest values, of each target in turn, so that no target takes them all.

    First comes the lowest of each target, the lowest of these before the others; then the next of each, and so on. Of
    each target, every track's worst comes before any track's second.
    Dropped windows are no candidates, nor are those of plus infinity, in which there is no error to be heard. Of a
    target in several scenarios that counts which counts for the aggregation `sisec18`.

    Parameters
    ----------
    table : a table of scores, see `scores`.
    metric : one of `scores.FRAME_METRICS`.
    nb_seconds : how many windows at most.
    hop_seconds, window_seconds : distance and length of the windows.
    per_track : how many of one target in one track at most.
    spread_seconds : how far apart such begin at least.

    Raises
    ------
    ParameterError
        The metric has no windows.
    """
    if metric not in scores.FRAME_METRICS:
        raise ParameterError(f"{metric} has no values by second, expected one of {', '.join(scores.FRAME_METRICS)}")
    rows = scores.used_rows(table, "sisec18")
    rows = rows[(rows["metric"] == metric) & (rows["value"] < math.inf)].sort_values(["value", "track", "frame"])
    waiting = {}
    for target in scores.order_targets(rows["target"].unique()):
        columns = rows.loc[rows["target"] == target, ["track", "frame", "value"]]
        ordered = [
            Second(track, target, int(frame), int(frame) * hop_seconds, window_seconds, value)
            for track, frame, value in columns.itertuples(index=False, name=None)
        ]
        waiting[target] = _spread(ordered, per_track, spread_seconds)
    chosen: list[Second] = []
    while waiting and len(chosen) < nb_seconds:
        turn = {target: second for target, each in waiting.items() if (second := next(each, None)) is not None}
        waiting = {target: waiting[target] for target in turn}
        chosen += sorted(turn.values(), key=lambda second: second.value)
    return chosen[:nb_seconds]


def _spread(seconds: Iterable[Second], per_track: int, spread_seconds: float) -> Iterator[Second]:
    """Yield the worst of a target's windows of each track, then the next of each, but for those near one before."""
    turns: list[list[Second]] = [[] for _ in range(per_track)]
    taken: dict[str, list[float]] = {}
    for second in seconds:
        starts = taken.setdefault(second.track, [])
        if len(starts) < per_track and all(abs(second.start - start) >= spread_seconds for start in starts):
            turns[len(starts)].append(second)
            starts.append(second.start)
    yield from (second for turn in turns for second in turn)


def plan(
    seconds: Sequence[Second], durations: Mapping[str, float], *, around: float = 2.0, budget_bytes: int
) -> list[Span]:
    """Return what to cut so that windows are heard with what is around them, in order, until a budget is spent.

    Spans of one target in one track that overlap are merged. One that no longer fits is left out; later ones, which may
    be shorter or merge, are still tried. A track no longer than a span is taken whole.

    Parameters
    ----------
    seconds : the windows, the most important first.
    durations : by track, its length in seconds, as `find_durations` returns; without it spans are not limited.
    around : how much to take before and after a window, in seconds.
    budget_bytes : what the MP3 files may have together, not counting base64.
    """
    spans: list[Span] = []
    for second in seconds:
        span = _around(second, durations.get(second.track, math.inf), around)
        together = [each for each in spans if _overlap(each, span)]
        for each in together:
            span = Span(span.track, span.target, min(each.start, span.start), max(each.stop, span.stop))
        place = spans.index(together[0]) if together else len(spans)
        longer = [each for each in spans if each not in together]
        longer.insert(place, span)
        if sum(map(_nb_bytes, longer)) <= budget_bytes:
            spans = longer
    return spans


def _around(second: Second, duration: float, around: float) -> Span:
    """Return a window with what is around it in the track."""
    stop = second.start + second.seconds
    if second.start >= duration:  # scores of something else, which `cut` has to say
        return Span(second.track, second.target, second.start, stop)
    if duration <= second.seconds + 2 * around:
        return Span(second.track, second.target, 0.0, duration)
    return Span(second.track, second.target, max(second.start - around, 0.0), min(stop + around, duration))


def _overlap(first: Span, second: Span) -> bool:
    """Return whether two spans of one target in one track touch."""
    same = (first.track, first.target) == (second.track, second.target)
    return same and first.start <= second.stop and second.start <= first.stop


def _nb_bytes(span: Span) -> float:
    """Return the most that the four files of a span may have."""
    extra_seconds = _EXTRA_FRAMES * _FRAME_SIZE / min(_SAMPLE_RATES)
    return len(SIGNALS) * BIT_RATE / 8 * (span.stop - span.start + extra_seconds)


def find_durations(
    estimates: Path, root: Path, tracks: Iterable[str], *, subset: str | None = None
) -> dict[str, float]:
    """Return the lengths of tracks in seconds by their headers; those that cannot be cut are left out.

    Parameters
    ----------
    estimates, root, subset : as in `cut`.
    tracks : names, as in a table of scores.

    Raises
    ------
    DatasetError
        There is no such dataset, or no estimates of any of its tracks.
    """
    durations = {}
    for track, sources in _find_sources(estimates, root, tracks, subset).items():
        if len(sources) == 1:
            reference, _ = sources[0]
            with suppress(MusdbkitError):  # which `cut` reports
                durations[track] = scoring.expect(reference, reference.targets).seconds
    return durations


def cut(
    estimates: Path,
    root: Path,
    spans: Sequence[Span],
    *,
    subset: str | None = None,
    parallel: Parallel = ALL_CORES,
) -> Outcome[list[Excerpt]]:
    """Return excerpts by track, each track's in the order of its spans; a track with a fault has none.

    Estimates are cut or padded to the length of the reference, as for scoring. Where there is no accompaniment it is
    the mixture minus the estimated vocals: it was not scored otherwise.

    Parameters
    ----------
    estimates : folder of `<subset>/<track>/<target>.wav` or `<track>/<target>.wav`, wav or flac.
    root : the dataset, in any layout.
    spans : what to cut; what of them is beyond the end of a track is left out.
    subset : of which subset the tracks are, where both hold one of that name.
    parallel : jobs and backend.

    Raises
    ------
    DatasetError
        There is no such dataset, or no estimates of any of its tracks.
    MissingDependencyError
        libsndfile cannot write MP3.
    """
    if "MP3" not in soundfile.available_formats():
        raise MissingDependencyError(
            f"libsndfile {soundfile.__libsndfile_version__} writes no MP3, which excerpts of sound are: "
            "pip install --force-reinstall soundfile, which brings its own"
        )
    by_track: dict[str, list[Span]] = {}
    for span in spans:
        by_track.setdefault(span.track, []).append(span)
    sources = _find_sources(estimates, root, by_track, subset)
    jobs = [_Job(track, sources[track], tuple(each), estimates) for track, each in by_track.items()]
    return for_each(_cut_track, jobs, key=lambda job: job.track, label="excerpts", parallel=parallel)


def _find_sources(
    estimates: Path, root: Path, tracks: Iterable[str], subset: str | None
) -> dict[str, tuple[tuple[scoring.Reference, scoring.Files], ...]]:
    """Return by name of a track all references of that name that have estimates, with these."""
    found, _ = scoring.find_estimates(estimates, scoring.find_references(root), subset)
    names = {track: musdb18.canonical_name(track) for track in tracks}
    return {
        track: tuple(source for source in found.values() if musdb18.canonical_name(source[0].name) == name)
        for track, name in names.items()
    }


def _cut_track(job: _Job) -> list[Excerpt]:
    """Return the excerpts of one track."""
    if not job.sources:
        raise DatasetError(f"{job.track}: no estimates of such a track in {job.estimates}, or it is not in the dataset")
    if len(job.sources) > 1:
        raise DatasetError(f"{job.track}: estimates in both subsets of {job.estimates}: name one subset")
    ((reference, files),) = job.sources
    targets = tuple(dict.fromkeys(span.target for span in job.spans))
    there = scoring.find_targets(reference, files, _SETTINGS)
    if lacking := [target for target in targets if target not in there]:
        raise DatasetError(f"{reference.key}: no {', '.join(lacking)} in {job.estimates}: excerpts need the estimates")
    complements = "accompaniment" in targets and "accompaniment" not in files
    needed = {target: files[target] for target in files if target in (*targets, *["vocals"] * complements)}
    if faults := scoring.inspect(reference, needed, _SETTINGS):
        raise AudioError("; ".join(faults))
    signals = [*(reference.targets[target] for target in targets), ("mixture",)]
    (*true, mixture), _, nb_samples = scoring.open_references(reference, signals, False)
    estimated, _ = scoring.open_estimates(needed, mixture if complements else None, nb_samples)
    sample_rate = scoring.expect(reference, targets).sample_rate
    excerpts = []
    for span in job.spans:
        part = slice(*(min(round(each * sample_rate), nb_samples) for each in (span.start, span.stop)))
        if part.start >= part.stop:
            raise DatasetError(
                f"{reference.key}: {nb_samples / sample_rate:.1f} s long, expected more than {span.start:.1f} s: "
                "are these the tracks that were scored?"
            )
        read = {
            "mixture": mixture(part),
            "reference": true[targets.index(span.target)](part),
            "estimate": estimated[span.target](part),
        }
        heard = {name: _convert(samples, sample_rate, reference.key) for name, samples in read.items()}
        heard["error"] = heard["estimate"] - heard["reference"]
        new_rate = sample_rate if sample_rate in _SAMPLE_RATES else _OTHER_RATE
        gain = 1 / max(1.0, *(np.abs(samples).max() for samples in heard.values()))
        excerpts.append(
            Excerpt(
                job.track,
                span.target,
                part.start / sample_rate,
                (part.stop - part.start) / sample_rate,
                new_rate,
                float(20 * np.log10(gain)),
                {name: _encode(gain * heard[name], new_rate) for name in SIGNALS},
            )
        )
    return excerpts


def _convert(samples: NDArray[np.float64], sample_rate: int, track: str) -> NDArray[np.float64]:
    """Return a signal in stereo, at a sample rate that MP3 has."""
    if samples.shape[1] > musdb18.NB_CHANNELS:
        found = f"{samples.shape[1]} channels, expected 1 or {musdb18.NB_CHANNELS}"
        raise AudioError(f"{track}: {found}: MP3 holds no more", "channels")
    if sample_rate not in _SAMPLE_RATES:
        import soxr

        samples = soxr.resample(samples, sample_rate, _OTHER_RATE)
    return np.broadcast_to(samples, (len(samples), musdb18.NB_CHANNELS))


def _encode(samples: NDArray[np.float64], sample_rate: int) -> bytes:
    """Return a signal as an MP3 file."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"bitrate_mode": "CONSTANT", "compression_level": _COMPRESSION}
    soundfile.write(buffer, samples, sample_rate, format="MP3", subtype="MPEG_LAYER_III", **options)
    return buffer.getvalue()
