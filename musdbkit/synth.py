"""A small MUSDB made from nothing: drums, bass, chords and a singing voice, the same on every run.

Writes `<out>/<subset>/<track>.stem.mp4` as MUSDB18 has them (five AAC streams and a cover picture) or
`<out>/<subset>/<track>/{mixture,drums,bass,other,vocals}.wav` as MUSDB18-HQ has them, on wish with one fault in each of
the first tracks, for `check` to find. Writes and reads `<out>/.synth.json`, the record of how the tracks there were
made, so that tracks made with other settings are never taken for those that are asked for.

Conventions: pitches are MIDI numbers, times in a bar are steps (sixteenths), gains are linear. All chance comes from
generators seeded by (seed, split, number of the track), so that a track is the same whatever else is made.
"""

import functools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, lfilter, oaconvolve, resample_poly, sosfilt

from musdbkit import audio, musdb18, tracks
from musdbkit.errors import AudioError, DatasetError, ParameterError

Wave: TypeAlias = NDArray[np.float32]

FAULTS: Final = {
    "silent": "vocals are silent",
    "dual-mono": "both channels of other are the same",
    "anti-phase": "the right channel of other is the left one with its sign turned",
    "clipping": "bass is driven far beyond full scale in the middle third, where the other stems rest",
    "left-channel": "the left channel of the mixture is another balance of the stems than their sum",
    "mono": "other has one channel",
    "rate": "other is at 48 kHz",
    "length": "bass ends at half of the track",
    "missing": "vocals are not there",
    "truncated": "vocals.wav, or the stem file, is cut to a third of its bytes",
    "empty": "vocals.wav, or the stem file, has no bytes",
    "garbage": "vocals.wav, or the stem file, holds random bytes",
}
"""Faults that can be planted, each with what it does to a track."""

LAYOUTS: Final = ("stems", "wav")
"""What is written: stem files as in MUSDB18, or folders of wav files as in MUSDB18-HQ."""

RECORD: Final = ".synth.json"
"""The file in the root that says how the tracks there were made."""

_RECORD_VERSION: Final = 1

NAMES: Final = {
    "train": (
        "Q.U.I.L.L. - Paper Boats",
        "Hearth, Stone & Wren - Salt Road",
        "The Lamplighters - Don't Wake The Harbour",
        "Mira Kestrel - Low Tide (Reprise)",
        "Ninth Ferry - Glass Orchard",
        "Otto Vale - Seven Ways Down",
        "Copper Thistle - Winter Radio",
        "June & The Cartographers - Map Of A Room",
        "Low Ceiling - Vol. 2",
        "Sable Finch - Kerosene Lullaby",
    ),
    "valid": musdb18.VALIDATION_TRACKS,
    "test": (
        "Dr. Oakum & The Tidewater Band - It's Only Rain (Live, Take 3)",
        "Anna Birch - Marrow",
        "Slow Comet - Tin Cathedral",
        "The Quiet Engine - Half Past Nowhere",
        "Paloma Gray - Undertow",
    ),
}
"""Names by split, awkward ones first. Those of the validation split are the dataset's own, so that it is found."""

BIT_RATE: Final = 256_000
"""Bit rate of an AAC stream in bit/s, as in MUSDB18."""

CUTOFF: Final = 15_000
"""Where the AAC encoder's slope begins in Hz: nothing is left above 17 kHz (MUSDB18's own files end near 16 kHz)."""


@dataclass(frozen=True)
class SynthTrack:
    """One track to make.

    Attributes
    ----------
    subset : `train` or `test`.
    name : the track's name.
    path : the stem file, or the folder of wav files.
    fault : the fault planted in it, one of `FAULTS`, or empty.
    rng_seed : what its chance comes from.
    """

    subset: str
    name: str
    path: Path
    fault: str
    rng_seed: tuple[int, ...]

    @property
    def key(self) -> str:
        """Subset and name, as `test/Anna Birch - Marrow`."""
        return f"{self.subset}/{self.name}"


@dataclass(frozen=True)
class SynthResult:
    """What was made.

    Attributes
    ----------
    made : tracks that were written (with `dry_run`, that would be).
    kept : tracks that were already there and left alone.
    failed : one-line error messages by track name.
    audio_seconds : length of all tracks in `made` together, in seconds.
    nb_bytes : size of the files written; with `dry_run`, an estimate.
    """

    made: tuple[SynthTrack, ...]
    kept: tuple[SynthTrack, ...]
    failed: dict[str, str]
    audio_seconds: float
    nb_bytes: int


def synth(
    out: Path,
    *,
    train: int = 4,
    valid: int = 1,
    test: int = 2,
    seconds: float = 30.0,
    layout: str = "stems",
    seed: int = 0,
    faults: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    parallel: tracks.Parallel = tracks.ALL_CORES,
) -> SynthResult:
    """Write a small MUSDB and return what was made.

    Parameters
    ----------
    out : root folder of the dataset.
    train, valid, test : number of tracks in each split; validation tracks lie in `train` under the official names.
    seconds : length of each track.
    layout : one of `LAYOUTS`.
    seed : another seed makes other music; 0 or more.
    faults : names from `FAULTS`, planted one each in the first tracks, in the order train, valid, test.
    force : whether files that are already there are replaced; else a track is completed, or left alone. More tracks of
        the same settings may be asked for at any time.
    dry_run : whether to write nothing and only count.
    parallel : jobs and backend.

    Raises
    ------
    ParameterError
        A value is out of its range, no track is asked for, or a fault is not known or has no track to go to.
    DatasetError
        The folder holds tracks of another layout or, without `force`, tracks made otherwise or not by this function.
    """
    counts = {"train": train, "valid": valid, "test": test}
    _check(counts, seconds, layout, seed, faults)
    nb_samples = max(round(seconds * musdb18.SAMPLE_RATE), 1)
    plan = [
        (split, i, "test" if split == "test" else "train", _name(split, i))
        for split, count in counts.items()
        for i in range(count)
    ]
    suffix = tracks.STEM_SUFFIX if layout == "stems" else ""
    wanted = [
        SynthTrack(subset, name, out / subset / (name + suffix), fault, (seed, tuple(NAMES).index(split), i))
        for (split, i, subset, name), fault in zip(plan, [*faults, *[""] * len(plan)], strict=False)
    ]
    settings: dict[str, Any] = {"version": _RECORD_VERSION, "seed": seed, "seconds": float(seconds), "layout": layout}
    record = _read_record(out) or settings | {"tracks": {}}
    changed = [f"{name} was {record[name]}, now {value}" for name, value in settings.items() if record[name] != value]
    _check_layout(out, layout, changed)
    if not force:
        _check_kept(out, layout, changed, wanted, record["tracks"])
    todo = [track for track in wanted if force or not all(path.exists() for path in _files(track, layout))]
    kept = tuple(track for track in wanted if track not in todo)
    if dry_run:
        nb_bytes = len(todo) * _estimate_bytes(nb_samples, layout)
        return SynthResult(tuple(todo), kept, {}, len(todo) * nb_samples / musdb18.SAMPLE_RATE, nb_bytes)
    faults_of = ({} if changed else record["tracks"]) | {track.key: track.fault for track in wanted}
    # A track that --force replaces is in no record until it is made anew, for then a run that was killed shows
    replaced = {track.key for track in wanted if force and _is_there(track, layout)}
    _write_record(out, settings, {key: fault for key, fault in faults_of.items() if key not in replaced})
    outcome = tracks.for_each(
        functools.partial(_make_track, nb_samples=nb_samples, layout=layout, force=force),
        todo,
        key=lambda track: track.name,
        label="synth",
        parallel=parallel,
    )
    made = tuple(track for track in todo if track.name in outcome.done)
    replaced -= {track.key for track in made}
    _write_record(out, settings, {key: fault for key, fault in faults_of.items() if key not in replaced})
    audio_seconds = len(made) * nb_samples / musdb18.SAMPLE_RATE
    return SynthResult(made, kept, outcome.failed, audio_seconds, sum(outcome.done.values()))


def _check(counts: dict[str, int], seconds: float, layout: str, seed: int, faults: Sequence[str]) -> None:
    """Refuse arguments that cannot be used."""
    for split, count in counts.items():
        if count < 0:
            raise ParameterError(f"{split} is {count}, expected 0 tracks or more")
    if counts["valid"] > len(musdb18.VALIDATION_TRACKS):
        raise ParameterError(f"valid is {counts['valid']}, but there are {len(musdb18.VALIDATION_TRACKS)} such tracks")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ParameterError(f"seconds is {seconds}, expected more than 0")
    if layout not in LAYOUTS:
        raise ParameterError(f"layout is {layout}, expected one of {', '.join(LAYOUTS)}")
    if seed < 0:
        raise ParameterError(f"seed is {seed}, expected 0 or more")
    for fault in faults:
        if fault not in FAULTS:
            raise ParameterError(f"no fault is called {fault}, expected some of {', '.join(FAULTS)}")
    total = sum(counts.values())
    if not total:
        raise ParameterError("train, valid and test are 0, expected at least one track")
    if len(faults) > total:
        raise ParameterError(
            f"{len(faults)} faults need {len(faults)} tracks, {total} are asked for: "
            f"--train {counts['train'] + len(faults) - total}"
        )


def _check_layout(out: Path, layout: str, changed: Sequence[str]) -> None:
    """Refuse a folder with tracks of the other layout."""
    for path in (path for subset in musdb18.SUBSETS for path in sorted((out / subset).glob("[!.]*"))):
        if layout == "wav":
            other = path.name.endswith(tracks.STEM_SUFFIX)
        else:
            other = any(tracks.find_audio(path, name) for name in musdb18.STREAMS)
        if other:
            found = "".join(f"made otherwise: {each}: " for each in changed if each.startswith("layout"))
            raise DatasetError(f"{out}: {found or f'{path.name} is there: '}a root has one layout: choose another OUT")


def _check_kept(
    out: Path, layout: str, changed: Sequence[str], wanted: Sequence[SynthTrack], faults_of: dict[str, str]
) -> None:
    """Refuse a folder whose tracks were made otherwise or are not ours."""
    advice = "--force replaces it, or choose another OUT"
    if changed:
        raise DatasetError(f"{out}: made otherwise: {'; '.join(changed)}: {advice}")
    for track in wanted:
        if not _is_there(track, layout):
            continue
        if track.key not in faults_of:
            raise DatasetError(f"{out}: {track.key} is there, but not made by synth (not in {RECORD}): {advice}")
        if faults_of[track.key] != track.fault:
            was, now = (fault or "none" for fault in (faults_of[track.key], track.fault))
            raise DatasetError(f"{out}: made otherwise: fault of {track.key} was {was}, now {now}: {advice}")


def _is_there(track: SynthTrack, layout: str) -> bool:
    """Return whether any file of a track exists."""
    return any(path.exists() for path in _files(track, layout))


def _read_record(out: Path) -> dict[str, Any] | None:
    """Return the record of how tracks were made, None where there is none that this version reads."""
    try:
        record: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8"))
        known = record["version"] == _RECORD_VERSION and {"seed", "seconds", "layout"} <= record.keys()
        return record if known and isinstance(record["tracks"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_record(out: Path, settings: dict[str, Any], faults_of: dict[str, str]) -> None:
    """Write the record of how tracks were made, whole or not at all, where it is not there already."""
    record = settings | {"tracks": faults_of}
    if record != _read_record(out):
        with _replacing(out / RECORD) as temporary:
            text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def _name(split: str, i: int) -> str:
    """Return the name of a split's track number i; names that come again are numbered as takes."""
    names = NAMES[split]
    return names[i % len(names)] + (f" (Take {i // len(names) + 1})" if i >= len(names) else "")


def _files(track: SynthTrack, layout: str) -> list[Path]:
    """Return the files a track consists of."""
    if layout == "stems":
        return [track.path]
    names = (name for name in musdb18.STREAMS if (track.fault, name) != ("missing", "vocals"))
    return [track.path / f"{name}.wav" for name in names]


def _estimate_bytes(nb_samples: int, layout: str) -> int:
    """Return about how many bytes a track without faults takes."""
    if layout == "stems":
        return len(musdb18.STREAMS) * round(BIT_RATE / 8 * nb_samples / musdb18.SAMPLE_RATE) + 20_000
    return len(musdb18.STREAMS) * audio.wav_bytes(nb_samples, "PCM_16")


# The files


def _make_track(track: SynthTrack, *, nb_samples: int, layout: str, force: bool) -> int:
    """Render and write what a track lacks; return the number of bytes written."""
    rendered = render_track(nb_samples, musdb18.SAMPLE_RATE, track.rng_seed)
    stems = {stem: audio.quantise(rendered.pop(stem), "PCM_16") for stem in musdb18.STEMS}
    signals = _mix(stems, track.fault)
    nb_bytes = 0
    for path in _files(track, layout):
        if path.exists() and not force:
            continue
        with _replacing(path) as temporary:
            if layout == "stems":
                _write_stem_file(temporary, signals, _draw_cover(track.rng_seed))
            else:
                audio.write(temporary, *signals[path.name.removesuffix(".wav")])
            if layout == "stems" or path.name == "vocals.wav":
                _spoil_file(temporary, track.fault)
            nb_bytes += temporary.stat().st_size
    if layout == "wav" and track.fault == "missing":
        (track.path / "vocals.wav").unlink(missing_ok=True)
    return nb_bytes


def _mix(stems: dict[str, NDArray[np.int16]], fault: str) -> dict[str, tuple[NDArray[np.int16], int]]:
    """Return the samples and rate of each stream, mixture first, with those faults that lie in the signals."""
    other = stems["other"]
    if fault == "silent":
        stems["vocals"][:] = 0
    elif fault in ("dual-mono", "anti-phase", "mono"):
        other[:, 0] = other.mean(axis=1, dtype=np.float32)
        other[:, 1] = -other[:, 0] if fault == "anti-phase" else other[:, 0]
    total = audio.sum_samples(list(stems.values()))
    peak = int(np.abs(total).max())
    if peak > 32767:  # only a fault can do this: a rendered track has room to spare
        stems = {stem: (samples * (32000 / peak)).astype(np.int16) for stem, samples in stems.items()}
        total = audio.sum_samples(list(stems.values()))
    if fault == "clipping":
        third = slice(len(total) // 3, len(total) - len(total) // 3)
        # The encoder turns what is above 0.95 of full scale down to that: in a stem file the tops are flat, but there.
        loud = stems["bass"][third].astype(np.float32)
        loud *= np.float32(20 * 32767 / max(float(np.abs(loud).max()), 1.0))
        for stem, samples in stems.items():
            samples[third] = np.clip(loud, -32767, 32767) if stem == "bass" else 0
        total[third] = stems["bass"][third]
    elif fault == "left-channel":
        total[:, 0] = _other_balance(stems, total[:, 0])
    signals = {"mixture": total.astype(np.int16), **stems}
    rates = dict.fromkeys(signals, musdb18.SAMPLE_RATE)
    if fault == "mono":
        signals["other"] = stems["other"][:, :1]
    elif fault == "rate":
        rates["other"] = 48_000
        upsampled = resample_poly(stems["other"].astype(np.float32) / np.float32(32768), 160, 147, axis=0)
        signals["other"] = audio.quantise(upsampled, "PCM_16")
    elif fault == "length":
        signals["bass"] = stems["bass"][: len(total) // 2]
    elif fault == "missing":
        del signals["vocals"]
    return {name: (samples, rates[name]) for name, samples in signals.items()}


def _other_balance(stems: dict[str, NDArray[np.int16]], left: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the left channel with so much less drums and other that the difference is 8.5 dB below the sum."""
    less = stems["drums"][:, 0].astype(np.float32) + stems["other"][:, 0]
    power = float(np.mean(less**2)), float(np.mean(left.astype(np.float32) ** 2))
    gain = np.float32(math.sqrt(10**-0.85 * power[1] / max(power[0], 1.0)))
    balanced: NDArray[np.int32] = np.clip(np.rint(left - gain * less), -32768, 32767).astype(np.int32)
    return balanced


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a hidden name beside a file to write to, and put what was written in the file's place."""
    temporary = path.with_name("." + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise AudioError(f"{path}: cannot be written: {error}") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def _write_stem_file(path: Path, signals: dict[str, tuple[NDArray[np.int16], int]], cover: NDArray[np.uint8]) -> None:
    """Write the streams, with the moov box in front, and the cover as an attached picture, as MUSDB18's files are."""
    # A movie time scale of one sample makes the edit list, and so the declared lengths, exact; bitexact leaves out
    # the version of the library.
    options = {"movflags": "faststart", "fflags": "+bitexact", "movie_timescale": str(musdb18.SAMPLE_RATE)}
    with av.open(str(path.absolute()), "w", format="mp4", options=options) as container:
        streams = []
        for samples, rate in signals.values():
            layout = "stereo" if samples.shape[1] == musdb18.NB_CHANNELS else "mono"
            # the fast coder is twice as quick as the default and no worse at this bit rate; noise substitution and
            # intensity stereo, meant for low rates, would make the channels of a mono signal differ
            settings = {"aac_coder": "fast", "aac_pns": "0", "aac_is": "0", "cutoff": str(CUTOFF)}
            stream = container.add_stream("aac", rate=rate, options=settings, layout=layout)
            stream.bit_rate = BIT_RATE
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
            streams.append((stream, samples, rate, layout))
        picture = container.add_stream("png")
        picture.height, picture.width = cover.shape[:2]
        picture.pix_fmt = "rgb24"
        number = av.stream.Disposition.attached_pic.value  # PyAV before 18 takes nothing but the number
        picture.disposition = number  # type: ignore[assignment]
        for image in (av.VideoFrame.from_ndarray(cover, format="rgb24"), None):
            container.mux(picture.encode(image))
        nb_seconds = max(math.ceil(len(samples) / rate) for _, samples, rate, _ in streams)
        for second in range(nb_seconds):  # a second of each in turn, so that the muxer has little to hold back
            for stream, samples, rate, layout in streams:
                block = samples[second * rate : (second + 1) * rate].T
                if block.size:
                    planes = np.ascontiguousarray(block, dtype=np.float32) / np.float32(32768)
                    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
                    frame.sample_rate, frame.pts, frame.time_base = rate, second * rate, Fraction(1, rate)
                    container.mux(stream.encode(frame))
        for stream, *_ in streams:
            container.mux(stream.encode(None))


def _draw_cover(rng_seed: Sequence[int]) -> NDArray[np.uint8]:
    """Return a picture with colours of the track's own [shape=(64, 64, 3)]."""
    corners = np.random.default_rng([*rng_seed, 1]).uniform(0, 255, (2, 3))
    across, down = np.linspace(0, 1, 64)[:, None], np.linspace(0, 1, 64)[:, None, None]
    picture: NDArray[np.uint8] = (corners[0] * across * (1 - down) + corners[1] * down).astype(np.uint8)
    return picture


def _spoil_file(path: Path, fault: str) -> None:
    """Plant those faults that lie in the bytes of a file."""
    data = path.read_bytes() if fault in ("truncated", "empty", "garbage") else b""
    if fault == "truncated":
        path.write_bytes(data[: len(data) // 3])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "garbage":
        path.write_bytes(np.random.default_rng(len(data)).bytes(len(data)))


# The music: from here to the end nothing knows of files

# Semitones above the tonic (major, minor, dorian); degrees of the scale, bar by bar; and what is played on which of a
# bar's sixteenths.
SCALES: Final = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10))
PROGRESSIONS: Final = ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 4, 4), (1, 4, 0, 0), (0, 6, 5, 6), (0, 2, 3, 4))
FORM: Final = ("verse", "chorus", "verse", "chorus", "break", "chorus")

KICKS: Final = ("x.......x.......", "x.....x.x.......", "x..x....x.x...x.", "x...x...x...x...", "x.....x...x.....")
SNARES: Final = ("....x.......x...", "....x.......x..x", "........x.......", "....x..x....x...")
HATS: Final = ("x.x.x.x.x.x.x.x.", "xxxxxxxxxxxxxxxx", "..x...x...x...x.", "x.xxx.xxx.xxx.xx")
BASSES: Final = ("x.....x.x.......", "x.x.x.x.x.x.x.x.", "x..x..x.x..x..x.", "x.......x...x.x.", "..x...x...x...x.")
COMPS: Final = ("x...x...x...x...", "x..x..x...x..x..", "..x...x...x...x.", "x.....x.....x...")
HELD: Final = ("x...............",)
ARPEGGIOS: Final = ("x.x.x.x.x.x.x.x.", "xxxxxxxxxxxxxxxx", "x..x..x..x..x.x.")

VOWELS: Final = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""First three formants in Hz, men's (Peterson and Barney, J. Acoust. Soc. Am. 24, 1952, table II)."""

_TABLE_SIZE: Final = 2048  # samples in one period of a stored wave

_TIMBRES: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "bass": ((0.9, 1.5), (0.3, 1.0), (200, 600), (0.05, 0.4), (0.006, 0.006), (0.35, 1.5), (1, 4)),
    "struck": ((0.7, 1.3), (0.0, 1.0), (700, 2500), (0.1, 0.6), (0.004, 0.004), (0.2, 0.9), (1, 4)),
    "held": ((0.7, 1.3), (0.0, 1.0), (700, 2500), (0.1, 0.6), (0.15, 0.3), (4, 4), (4, 10)),
}
"""Ranges that an instrument's sound is drawn from: tilt (partial k has amplitude k ** -tilt), gain of the even partials
(0 is hollow), Hz above which the lasting wave fades, gain of the bright wave that dies away, seconds of attack,
seconds to fall by 1/e, and cents between the two channels."""

_ROOMS: Final = {"drums": (0.5, 0.15), "bass": (0.3, 0.06), "other": (1.2, 0.25), "vocals": (1.0, 0.2)}
"""Reverberation of each stem: seconds to fall by 60 dB, and gain."""


@dataclass(frozen=True)
class _Song:
    """What all stems of a track agree on: length, tempo, key, chords (a scale degree per bar) and sections."""

    nb_samples: int
    sample_rate: int
    step: float  # samples in a sixteenth
    swing: float  # how late every other sixteenth is, in steps
    tonic: int
    scale: tuple[int, ...]
    chords: tuple[int, ...]
    sections: tuple[str, ...]

    def sample(self, bar: int, step: float) -> int:
        """Return the sample at which a step of a bar begins."""
        late = self.swing if step % 2 == 1 else 0.0
        return round((16 * bar + step + late) * self.step)

    def pitch(self, degree: int) -> int:
        """Return the pitch of a degree of the scale, 0 being the tonic."""
        octave, place = divmod(degree, len(self.scale))
        return self.tonic + 12 * octave + self.scale[place]


def render_track(nb_samples: int, sample_rate: int, rng_seed: Sequence[int]) -> dict[str, Wave]:
    """Return the four stems of a song that nobody wrote, by `musdb18.STEMS` [shape of each=(nb_samples, 2), float32].

    Each stem is near -20 dBFS (RMS). Their sum stays below full scale, and so do each stem and the accompaniment.

    Parameters
    ----------
    nb_samples : length.
    sample_rate : Hz.
    rng_seed : non-negative integers that all chance comes from.
    """
    rng = np.random.default_rng(list(rng_seed))
    song = _compose(nb_samples, sample_rate, rng)
    renderers = {"drums": _drums, "bass": _bass, "other": _other, "vocals": _vocals}
    stems = {}
    for stem, stem_rng in zip(musdb18.STEMS, rng.spawn(len(musdb18.STEMS)), strict=True):
        dry = renderers[stem](song, stem_rng)
        _add_room(dry, sample_rate, *_ROOMS[stem], stem_rng)
        level = 10 ** (stem_rng.uniform(-21, -18) / 20)
        dry *= np.float32(level / max(math.sqrt(float(np.mean(dry**2))), 1e-9))
        stems[stem] = dry
    accompaniment = stems["drums"] + stems["bass"] + stems["other"]
    peaks = [float(np.abs(samples).max()) for samples in (*stems.values(), accompaniment)]
    accompaniment += stems["vocals"]
    peak = max(*peaks, float(np.abs(accompaniment).max()), 0.89)  # about -1 dBFS
    for samples in stems.values():
        samples *= np.float32(0.89 / peak)
    return stems


def _compose(nb_samples: int, sample_rate: int, rng: np.random.Generator) -> _Song:
    """Return a song with tempo, key, chords and sections drawn at random."""
    step = sample_rate * 60 / float(rng.uniform(78, 138)) / 4
    nb_bars = int(nb_samples / (16 * step)) + 1
    parts = dict(zip(("verse", "chorus", "break"), rng.choice(PROGRESSIONS, 3, replace=False).tolist(), strict=True))
    section_bars = int(rng.choice((4, 8)))
    sections = tuple(FORM[bar // section_bars % len(FORM)] for bar in range(nb_bars))
    chords = tuple(parts[section][bar % 4] for bar, section in enumerate(sections))
    swing = float(rng.choice((0.0, 0.0, 0.15, 0.3)))
    scale = SCALES[int(rng.integers(len(SCALES)))]
    return _Song(nb_samples, sample_rate, step, swing, int(rng.integers(12)), scale, chords, sections)


def _drums(song: _Song, rng: np.random.Generator) -> Wave:
    """Return kick, snare, hats, toms and cymbals [shape=(nb_samples, 2)]."""
    out = np.zeros((song.nb_samples, 2), np.float32)
    kit = _build_kit(song.sample_rate, rng)
    patterns = {"kick": KICKS, "snare": SNARES, "hat": HATS}
    verse = {drum: str(rng.choice(choice)) for drum, choice in patterns.items()}
    chorus = {drum: str(rng.choice(choice)) for drum, choice in patterns.items()}
    gains = {"kick": 1.0, "snare": 0.8, "hat": 0.3, "open": 0.35, "tom": 0.8, "crash": 0.5}
    gains = {drum: gain * float(rng.uniform(0.75, 1.25)) for drum, gain in gains.items()}
    for bar, section in enumerate(song.sections):
        hits = [
            (drum, step)
            for drum, pattern in (chorus if section == "chorus" else verse).items()
            for step in _steps(pattern)
            if section != "break" or drum != "snare"
        ]
        if bar == 0 or section != song.sections[bar - 1]:
            hits += [("crash", 0)]
        if bar + 1 < len(song.sections) and section != song.sections[bar + 1]:
            hits += [("tom", step) for step in (10, 12, 13, 14, 15)]
        hits += [("snare", int(step)) for step in rng.integers(16, size=2) if step % 4 and rng.random() < 0.3]
        for drum, step in hits:
            drum = "open" if drum == "hat" and step == 14 and section == "chorus" else drum
            accent = 1.0 if step % 4 == 0 else 0.65
            shot = kit[drum][int(rng.integers(len(kit[drum])))]
            late = round(song.sample_rate * float(rng.uniform(0, 0.006)))
            _add(out, shot, song.sample(bar, step) + late, gains[drum] * accent * float(rng.uniform(0.8, 1)))
    out *= np.float32(rng.uniform(0.8, 1.6))
    np.tanh(out, out=out)  # a limiter's work, for real drums do not peak 25 dB above their level either
    return out


def _build_kit(sample_rate: int, rng: np.random.Generator) -> dict[str, list[Wave]]:
    """Return the drums of a track, a few takes of each [shape=(nb_samples, 2)]."""

    def noise(seconds: float, decay: float, band: tuple[float, float]) -> Wave:
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        shot = _filter_noise(rng.standard_normal((len(time), 2)), sample_rate, band) * np.exp(-time / decay)[:, None]
        return np.asarray(shot / np.abs(shot).max(), np.float32)

    def tone(seconds: float, decay: float, start: float, end: float, drop: float) -> Wave:
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        phase = np.cumsum(end + (start - end) * np.exp(-time / drop)) / sample_rate
        return np.asarray(np.sin(2 * np.pi * phase) * np.exp(-time / decay), np.float32)

    kick, snare, tom = rng.uniform(45, 62), rng.uniform(170, 240), rng.uniform(80, 110)
    kick_decay, snare_decay, hat_decay = rng.uniform(0.09, 0.25), rng.uniform(0.05, 0.14), rng.uniform(0.02, 0.06)
    side = float(rng.choice((-1, 1)))
    kit: dict[str, list[Wave]] = {drum: [] for drum in ("kick", "snare", "hat", "open", "tom")}
    for take in range(4):
        beater = noise(0.5, 0.004, (1500, 9000)) * 0.25
        kit["kick"].append(_pan(tone(0.5, kick_decay, 5 * kick, kick, 0.015), 0.0) + beater)
        skin = tone(0.4, 0.07, 1.5 * snare, snare, 0.02)
        kit["snare"].append(_pan(0.6 * skin, 0.1 * side) + 0.7 * noise(0.4, snare_decay, (700, 20000)))
        kit["hat"].append(noise(0.2, hat_decay, (7000, 22000)) * _pan(np.ones(1, np.float32), 0.4 * side))
        kit["open"].append(noise(0.6, 0.16, (6000, 22000)) * _pan(np.ones(1, np.float32), 0.4 * side))
        kit["tom"].append(_pan(tone(0.6, 0.16, 1.6 * tom, tom, 0.05) * 0.9, (take - 1.5) * -0.4 * side))
        tom *= 0.84
    kit["crash"] = [noise(2.5, 0.7, (3000, 22000))]
    return kit


def _bass(song: _Song, rng: np.random.Generator) -> Wave:
    """Return a bass line on the roots of the chords [shape=(nb_samples, 2)]."""
    out = np.zeros((song.nb_samples, 2), np.float32)
    play = _Player("bass", song.sample_rate, rng)
    parts = {section: str(rng.choice(BASSES)) for section in FORM}
    gate = float(rng.uniform(0.55, 1.0))
    for bar, (section, chord) in enumerate(zip(song.sections, song.chords, strict=True)):
        steps = _steps(parts[section])
        for step, following in zip(steps, [*steps[1:], 16 + steps[0]], strict=True):
            degree = chord + int(rng.choice((0, 0, 0, 4, 7) if step % 8 else (0,)))
            pitch = 28 + (song.pitch(degree) - 28) % 12 + (12 if degree >= chord + 7 else 0)
            play(out, song.sample(bar, step), pitch, gate * (following - step) * song.step / song.sample_rate)
    return out


def _other(song: _Song, rng: np.random.Generator) -> Wave:
    """Return chords in two layers, struck and either held or broken [shape=(nb_samples, 2)]."""
    out = np.zeros((song.nb_samples, 2), np.float32)
    held = bool(rng.random() < 0.5)
    second, patterns = ("held", HELD) if held else ("struck", ARPEGGIOS)
    layers = [  # player, pattern, whether one note of the chord at a time, lowest pitch
        (_Player("struck", song.sample_rate, rng), str(rng.choice(COMPS)), False, 55),
        (_Player(second, song.sample_rate, rng), str(rng.choice(patterns)), not held, 64),
    ]
    sevenths = bool(rng.random() < 0.4)
    for bar, (section, chord) in enumerate(zip(song.sections, song.chords, strict=True)):
        for play, pattern, broken, lowest in layers[1:] if section == "break" else layers:
            degrees = [chord, chord + 2, chord + 4, *([chord + 6] if sevenths else [])]
            pitches = sorted(lowest + (song.pitch(degree) - lowest) % 12 for degree in degrees)
            steps = _steps(pattern)
            for i, (step, following) in enumerate(zip(steps, [*steps[1:], 16 + steps[0]], strict=True)):
                seconds = (following - step) * song.step / song.sample_rate
                for j, pitch in enumerate([pitches[i % len(pitches)]] if broken else pitches):
                    strum = round(0.008 * j * song.sample_rate)
                    play(out, song.sample(bar, step) + strum, pitch, seconds, float(rng.uniform(0.7, 1)))
    return out


class _Player:
    """Plays notes of one timbre, each rendered once."""

    def __init__(self, instrument: str, sample_rate: int, rng: np.random.Generator) -> None:
        self._timbre = [float(rng.uniform(*limits)) for limits in _TIMBRES[instrument]]
        self._sample_rate = sample_rate
        self._phases = rng.uniform() + np.array((0, rng.uniform(0.02, 0.06)))  # of left and right: near, never equal
        self._pan = _pan(np.ones(1, np.float32), float(rng.uniform(-0.15, 0.15)))
        self._notes: dict[tuple[int, int], Wave] = {}

    def __call__(self, out: Wave, start: int, pitch: int, seconds: float, gain: float = 1.0) -> None:
        """Add a note to a wave."""
        key = pitch, round(seconds * self._sample_rate)
        if key not in self._notes:
            self._notes[key] = self._render(pitch, key[1])
        _add(out, self._notes[key], start, gain)

    def _render(self, pitch: int, nb_samples: int) -> Wave:
        """Return a note, a little longer than asked for by its release [shape=(nb_samples, 2)]."""
        tilt, even, cutoff, brightness, attack, decay, detune = self._timbre
        release = round(0.06 * self._sample_rate)
        time = np.arange(nb_samples + release) / self._sample_rate
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        partial = np.arange(1, min(int(0.45 * self._sample_rate / frequency), _TABLE_SIZE // 8) + 1)
        bright = partial**-tilt * np.where(partial % 2, 1.0, even)
        dull = bright / (1 + (partial * frequency / cutoff) ** 2)
        envelope = np.minimum(time / attack, 1) * np.exp(-time / decay)
        envelope[nb_samples:] *= np.linspace(1, 0, release)
        fading = brightness * np.exp(-time / (0.3 * decay))
        channels = []
        for phase, cents in zip(self._phases, (-detune / 2, detune / 2), strict=True):
            periods = phase + time * frequency * 2 ** (cents / 1200)
            channels.append(_oscillate(dull, periods) + fading * _oscillate(bright, periods))
        return np.asarray(np.stack(channels, axis=1) * envelope[:, None] * self._pan, np.float32)


@dataclass(frozen=True)
class _Syllable:
    """One sung note: first sample and length in its phrase, degree of the scale, vowel, whether a hiss leads to it."""

    start: int
    nb_samples: int
    degree: int
    vowel: str
    hiss: bool


def _vocals(song: _Song, rng: np.random.Generator) -> Wave:
    """Return a singing voice in phrases with pauses, with thirds above it in choruses [shape=(nb_samples, 2)]."""
    out = np.zeros((song.nb_samples, 2), np.float32)
    voice = _Voice(song, rng)
    for bar in range(0, len(song.sections), 2):
        if bar and (song.sections[bar] == "break" or rng.random() < 0.08):
            continue
        first = int(rng.choice((0, 2, 4))) if bar else 0  # the shortest of tracks has a voice too
        phrase = _write_phrase(song, bar, first, rng)
        _add(out, _pan(voice.sing(phrase, 0, rng), 0.0), song.sample(bar, first))
        for position in (-0.6, 0.6) if song.sections[bar] == "chorus" else ():
            late = round(song.sample_rate * float(rng.uniform(0.005, 0.025)))
            _add(out, _pan(voice.sing(phrase, 2, rng), position), song.sample(bar, first) + late, 0.35)
    return out


def _write_phrase(song: _Song, bar: int, first: int, rng: np.random.Generator) -> list[_Syllable]:
    """Return a melody with syllables: a walk through the scale that meets the chord on the beat."""
    syllables = []
    step, end, degree = first, first + int(rng.integers(14, 25)), int(rng.choice((0, 2, 4)))
    while step < end:
        following = min(step + int(rng.choice((2, 2, 2, 3, 4, 4, 6))), end)
        degree = min(max(degree + int(rng.integers(-2, 3)), -2), 8)
        chord = song.chords[min(bar + step // 16, len(song.chords) - 1)]
        while step % 4 == 0 and (degree - chord) % 7 not in (0, 2, 4):
            degree += 1
        start = song.sample(bar, step) - song.sample(bar, first)
        nb_samples = round((following - step) * float(rng.uniform(0.85, 1)) * song.step)
        syllables.append(_Syllable(start, nb_samples, degree, str(rng.choice(list(VOWELS))), rng.random() < 0.35))
        step = following
    return syllables


class _Voice:
    """One singer: range, size of the vocal tract, vibrato, breath."""

    def __init__(self, song: _Song, rng: np.random.Generator) -> None:
        self._song = song
        lowest = int(rng.choice((43, 53)))
        self._shift = lowest + (song.tonic - lowest) % 12 - song.tonic
        self._tilt, self._breath = float(rng.uniform(0.7, 1.2)), float(rng.uniform(0.01, 0.06))
        self._vibrato = float(rng.uniform(4.8, 6.5)), float(rng.uniform(0.15, 0.5))  # Hz, semitones
        tract = float(rng.uniform(0.95, 1.05)) * (1.0 if lowest < 50 else 1.17)  # women's formants are higher
        self._vowels = {vowel: self._shape_vowel(formants, tract) for vowel, formants in VOWELS.items()}
        noise = rng.standard_normal((round(0.1 * song.sample_rate), 3))
        hiss = _filter_noise(noise, song.sample_rate, (4500, 19000)) * np.hanning(len(noise))[:, None]
        self._hisses = hiss.astype(np.float32).T

    def _shape_vowel(self, formants: tuple[int, ...], tract: float) -> Wave:
        """Return the impulse response of a vocal tract: resonances in a row [shape=(1024,)]."""
        rate = self._song.sample_rate
        response = np.zeros(1024)
        response[0] = 1
        # above the vowel's own formants, a tube of 17 cm resonates about every 1000 Hz
        for formant, bandwidth in zip((*formants, *range(3500, 10000, 1000)), range(70, 600, 50), strict=False):
            radius, angle = math.exp(-math.pi * bandwidth / rate), 2 * math.pi * formant * tract / rate
            response = lfilter([1], [1, -2 * radius * math.cos(angle), radius**2], response)
        return np.asarray(response / np.sqrt(np.sum(response**2)), np.float32)

    def sing(self, phrase: list[_Syllable], third: int, rng: np.random.Generator) -> Wave:
        """Return a phrase, moved up by some degrees of the scale [shape=(nb_samples,)]."""
        rate = self._song.sample_rate
        starts = [syllable.start for syllable in phrase]
        nb_samples = phrase[-1].start + phrase[-1].nb_samples
        lengths = np.diff([*starts, nb_samples])
        pitch = np.repeat([self._shift + self._song.pitch(s.degree + third) for s in phrase], lengths).astype(float)
        glide = math.exp(-1 / (0.02 * rate))
        pitch = pitch[0] + lfilter([1 - glide], [1, -glide], pitch - pitch[0])
        age = (np.arange(nb_samples) - np.repeat(starts, lengths)) / rate
        speed, depth = self._vibrato
        pitch += depth * np.clip((age - 0.15) / 0.3, 0, 1) * np.sin(2 * np.pi * speed * np.arange(nb_samples) / rate)
        knots = np.arange(0, nb_samples + rate // 10, rate // 10)
        pitch += np.interp(np.arange(nb_samples), knots, rng.normal(0, 0.12, len(knots)))
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        partial = np.arange(1, min(int(0.45 * rate / frequency.max()), _TABLE_SIZE // 8) + 1)
        source = _oscillate(partial**-self._tilt, np.cumsum(frequency) / rate)
        source += np.float32(self._breath) * rng.standard_normal(nb_samples, np.float32)
        out = np.zeros(nb_samples + 1024, np.float32)
        fade = rate // 40
        for syllable in phrase:
            first, last = max(syllable.start - fade, 0), min(syllable.start + syllable.nb_samples + fade, nb_samples)
            ramp = np.arange(last - first, dtype=np.float32) / (2 * fade)
            envelope = np.minimum(np.minimum(ramp, ramp[::-1]), 1) * np.float32(rng.uniform(0.7, 1))
            _add(out, fftconvolve(source[first:last] * envelope, self._vowels[syllable.vowel]), first)
            if syllable.hiss:
                hiss = self._hisses[int(rng.integers(len(self._hisses)))]
                _add(out, hiss, syllable.start - len(hiss) // 2, 0.15)
        return out


def _add_room(wave: Wave, sample_rate: int, seconds: float, gain: float, rng: np.random.Generator) -> None:
    """Add a room's echo to a wave [shape=(nb_samples, 2)]: noise that falls by 60 dB in `seconds`."""
    seconds *= float(rng.uniform(0.7, 1.3))
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    echo = rng.standard_normal((len(time), 2)) * 10 ** (-3 * time / seconds)[:, None]
    echo = lfilter([0.4], [1, -0.6], echo, axis=0)  # walls swallow the treble
    echo[: round(0.012 * sample_rate)] = 0  # the way to the nearest wall
    echo = (gain * echo / np.sqrt(np.sum(echo**2, axis=0))).astype(np.float32)
    dry = wave.mean(axis=1)
    for channel in range(2):
        wave[:, channel] += oaconvolve(dry, echo[:, channel])[: len(wave)]


def _filter_noise(noise: NDArray[np.float64], sample_rate: int, band: tuple[float, float]) -> NDArray[np.float64]:
    """Return noise limited to a band in Hz, or to what the sample rate can hold of it [same shape]."""
    limits = min(band[0], 0.3 * sample_rate), min(band[1], 0.49 * sample_rate)
    return np.asarray(sosfilt(butter(2, limits, "bandpass", fs=sample_rate, output="sos"), noise, axis=0))


def _oscillate(partials: NDArray[np.floating], periods: NDArray[np.float64]) -> Wave:
    """Return a wave made of sines with these amplitudes, at a phase given in periods [shape as `periods`]."""
    spectrum = np.zeros(_TABLE_SIZE // 2 + 1, complex)
    spectrum[1 : len(partials) + 1] = -0.5j * _TABLE_SIZE * partials
    period = np.fft.irfft(spectrum)
    table: Wave = np.append(period, period[0]).astype(np.float32)
    place = (periods % 1) * _TABLE_SIZE
    index = place.astype(np.int32)
    return np.asarray(table[index] + (table[index + 1] - table[index]) * (place - index), np.float32)


def _steps(pattern: str) -> list[int]:
    """Return the steps of a bar on which a pattern plays."""
    return [step for step, mark in enumerate(pattern) if mark == "x"]


def _pan(mono: Wave, position: float) -> Wave:
    """Return a wave between left (-1) and right (1) at constant power [shape=(nb_samples, 2)]."""
    angle = (position + 1) * math.pi / 4
    return mono[:, None] * np.array([math.cos(angle), math.sin(angle)], np.float32) * np.float32(math.sqrt(2))


def _add(out: Wave, shot: Wave, start: int, gain: float = 1.0) -> None:
    """Add a wave to another one from a sample on, as far as they overlap."""
    first, last = max(start, 0), min(start + len(shot), len(out))
    if first < last:
        out[first:last] += np.float32(gain) * shot[first - start : last - start]
