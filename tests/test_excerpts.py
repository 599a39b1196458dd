"""Excerpts: which seconds are chosen, what fits into a budget, and whether what is heard is what was scored."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.typing import NDArray

from musdbkit import audio, excerpts, musdb18, scores
from musdbkit.errors import DatasetError, MissingDependencyError, ParameterError
from musdbkit.excerpts import SIGNALS, Excerpt, Second, Span, cut, cut_worst, find_durations, plan, worst_seconds
from musdbkit.methods import Method, Protocol
from musdbkit.scores import Scenario, TrackScores
from musdbkit.tracks import Outcome, Parallel

NAN, INF = math.nan, math.inf
RATE = 44100
SECONDS = 2
ODD_NAMES = (
    'A & <b>"B" - It\'s 1, 2',
    "M.E.R.C. Music - Knockout",
    "...And You - Song",
    "Beyoncé - Ü",
)

Signals = dict[str, NDArray[Any]]


# Choice


def table(*tracks: tuple[str, Sequence[Mapping[str, Sequence[float]]]]) -> pd.DataFrame:
    """Return the SDR of tracks by scenario, target and frame; ISR is that less 100."""
    return scores.to_frame(
        TrackScores(
            name,
            "test",
            1.0,
            1.0,
            tuple(
                Scenario(tuple(each), {t: {"SDR": tuple(v), "ISR": tuple(x - 100 for x in v)} for t, v in each.items()})
                for each in scenarios
            ),
            {},
        )
        for name, scenarios in tracks
    )


def choose(frame: pd.DataFrame, nb_seconds: int = 100, **options: Any) -> list[tuple[str, str, int, float]]:
    """Return the chosen windows of 1 s every 1 s, which may be next to each other."""
    options = {"hop_seconds": 1.0, "window_seconds": 1.0, "spread_seconds": 0.0} | options
    found = worst_seconds(frame, nb_seconds=nb_seconds, **options)
    return [(each.track, each.target, each.frame, each.value) for each in found]


def test_each_target_has_its_turn_and_the_lowest_of_a_turn_is_first() -> None:
    frame = table(
        ("A", [{"drums": [9.0, 3.0, 8.0], "vocals": [-5.0, -4.0, 20.0]}]),
        ("B", [{"drums": [2.0, 30.0], "vocals": [-6.0, 40.0]}]),
    )
    expected = [
        ("B", "vocals", 0, -6.0),
        ("B", "drums", 0, 2.0),
        ("A", "vocals", 0, -5.0),
        ("A", "drums", 1, 3.0),
        ("A", "vocals", 1, -4.0),
        ("A", "drums", 2, 8.0),
    ]
    assert choose(frame, 6) == expected
    assert choose(frame, 3) == expected[:3]
    assert choose(frame.sample(frac=1, random_state=1), 6) == expected
    assert choose(frame, 0) == []
    assert len(choose(frame)) == 10  # when one has no more, the other goes on
    assert choose(frame)[-1] == ("A", "vocals", 2, 20.0)  # the third of A comes after the second of B


def test_equal_values_have_one_order() -> None:
    frame = table(*((name, [{"vocals": [1.0, 1.0], "drums": [1.0, 1.0]}]) for name in ("B", "A")))
    expected = [(t, s, i, 1.0) for t, i in (("A", 0), ("B", 0), ("A", 1), ("B", 1)) for s in ("vocals", "drums")]
    assert list(musdb18.TARGETS).index("vocals") < list(musdb18.TARGETS).index("drums")
    assert choose(frame) == expected
    assert choose(frame.iloc[::-1]) == expected


def test_dropped_and_perfect_windows_are_no_candidates_and_minus_infinity_is_worst() -> None:
    frame = table(("A", [{"drums": [NAN, 4.0, INF, -INF, -50.0], "bass": [NAN, INF, NAN, INF, INF]}]))
    assert choose(frame) == [("A", "drums", 3, -INF), ("A", "drums", 4, -50.0), ("A", "drums", 1, 4.0)]


def test_no_track_has_too_many_and_none_too_near() -> None:
    frame = table(("A", [{"drums": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}]), ("B", [{"drums": [10.0, 9.0, 8.0]}]))
    assert [each[:3:2] for each in choose(frame, per_track=2)] == [("A", 0), ("B", 2), ("A", 1), ("B", 1)]
    assert [each[:3:2] for each in choose(frame, spread_seconds=2.0)] == [
        *[("A", 0), ("B", 2)],
        *[("A", 2), ("B", 0)],
        ("A", 4),
    ]
    assert [each[2] for each in choose(frame, spread_seconds=2.0, hop_seconds=0.5, per_track=9)] == [0, 2, 4]
    default = worst_seconds(frame, nb_seconds=9, hop_seconds=1.0, window_seconds=1.0)
    assert [(each.track, each.frame) for each in default] == [("A", 0), ("B", 2), ("A", 5)]


def test_windows_are_where_the_hop_says() -> None:
    frame = table(("A", [{"drums": [5.0, 6.0, 4.0]}]))
    found = worst_seconds(frame, "ISR", nb_seconds=1, hop_seconds=0.25, window_seconds=1.5)
    assert found == [Second("A", "drums", 2, 0.5, 1.5, -96.0)]


def test_the_scenario_that_counts_is_that_of_sisec18() -> None:
    """Vocals against accompaniment where that was scored, else beside the other stems."""
    frame = table(
        ("A", [{"drums": [0.0], "vocals": [-9.0]}, {"vocals": [7.0], "accompaniment": [1.0]}]),
        ("B", [{"drums": [0.0], "vocals": [8.0]}]),
    )
    assert [each for each in choose(frame) if each[1] == "vocals"] == [("A", "vocals", 0, 7.0), ("B", "vocals", 0, 8.0)]


@pytest.mark.parametrize("metric", ["uSDR", "sdr"])
def test_a_metric_without_windows_is_refused(metric: str) -> None:
    with pytest.raises(ParameterError, match=f"{metric} has no values by second, expected one of SDR, ISR, SIR, SAR"):
        worst_seconds(table(), metric, nb_seconds=1, hop_seconds=1.0, window_seconds=1.0)


def test_a_table_without_the_metric_has_no_seconds() -> None:
    assert choose(table()) == []
    frame = table(("A", [{"drums": [1.0]}]))
    assert choose(frame[frame["metric"] == "ISR"]) == []


# Plan


def second(start: float, track: str = "A", target: str = "drums", seconds: float = 1.0) -> Second:
    return Second(track, target, int(start), start, seconds, 0.0)


def spans(seconds: Sequence[Second], duration: float = 100.0, budget: float = 1e9, **options: Any) -> list[Any]:
    """Return starts and stops."""
    durations = dict.fromkeys((each.track for each in seconds), duration)
    return [(s.start, s.stop) for s in plan(seconds, durations, budget_bytes=int(budget), **options)]


def test_spans_are_windows_with_what_is_around_them() -> None:
    assert spans([second(10), second(50)]) == [(8.0, 13.0), (48.0, 53.0)]
    assert spans([second(10.5, seconds=0.25)], around=0.5) == [(10.0, 11.25)]
    assert spans([second(1), second(98)]) == [(0.0, 4.0), (96.0, 100.0)]
    assert plan([second(7, "B", "vocals")], {"B": 50.0}, budget_bytes=10**7) == [Span("B", "vocals", 5.0, 10.0)]
    assert plan([second(7)], {}, budget_bytes=10**7) == [Span("A", "drums", 5.0, 10.0)]


def test_a_short_track_is_taken_whole() -> None:
    assert spans([second(0)], 4.5) == [(0.0, 4.5)]
    assert spans([second(3)], 5.0) == [(0.0, 5.0)]
    assert spans([second(0)], 5.1) == [(0.0, 3.0)]


def test_spans_that_overlap_are_merged_in_the_place_of_the_first() -> None:
    assert spans([second(10), second(50), second(13)]) == [(8.0, 16.0), (48.0, 53.0)]
    assert spans([second(50), second(15), second(10)]) == [(48.0, 53.0), (8.0, 18.0)]  # which touch
    assert spans([second(10), second(18), second(14)]) == [(8.0, 21.0)]  # a bridge
    assert spans([second(10), second(16)]) == [(8.0, 13.0), (14.0, 19.0)]
    others = [second(10), second(10, "B"), second(10, target="vocals")]
    assert spans(others) == [(8.0, 13.0)] * 3


def test_the_budget_is_spent_in_order() -> None:
    """Four signals of 16 kB a second, and up to three frames of 576 bytes each: 5 s have 327 kB."""
    seconds = [second(10 * i) for i in range(1, 6)]
    one = 4 * (16_000 * 5 + 3 * 576)
    assert [len(spans(seconds, budget=n * one)) for n in (0, 0.99, 1, 2.5, 5)] == [0, 0, 1, 2, 5]
    assert spans(seconds, budget=2.5 * one) == [(8.0, 13.0), (18.0, 23.0)]
    later = [second(10), second(30, seconds=60), second(11)]  # the long one does not fit, what merges does
    assert spans(later, budget=1.5 * one) == [(8.0, 14.0)]


def test_a_window_beyond_the_end_is_left_to_be_reported() -> None:
    assert spans([second(30)], 20.0) == [(30.0, 31.0)]
    assert spans([second(30)], 3.0) == [(30.0, 31.0)]


# Sound


def tones(rng: np.random.Generator, nb_samples: int, nb_channels: int, rate: int) -> NDArray[np.int16]:
    """Return tones that come and go, which have one position in time and which MP3 codes well."""
    time = np.arange(nb_samples)[:, None] / rate
    pitches, rates, phases = (rng.uniform(*limits, (8, nb_channels)) for limits in ((80, 3000), (0.5, 6), (0, 6.28)))
    waves = np.zeros((nb_samples, nb_channels))
    for pitch, beat, phase in zip(pitches, rates, phases, strict=True):
        waves += np.sin(2 * np.pi * pitch * time + phase) * np.sin(np.pi * beat * time)
    return (500 * waves).astype(np.int16)


class Case:
    """A dataset, estimates of it, and what was written."""

    def __init__(self, root: Path, rng: np.random.Generator) -> None:
        self.refs, self.estimates, self.rng = root / "refs", root / "estimates", rng
        self.songs: dict[str, Signals] = {}
        self.estimated: dict[str, Signals] = {}

    def add(
        self,
        name: str,
        *targets: str,
        subset: str = "test",
        folder: str = "test",
        suffix: str = ".wav",
        rate: int = RATE,
        nb_channels: int = 2,
        seconds: float = SECONDS,
    ) -> None:
        """Write a track and estimates of some targets."""
        nb_samples = round(seconds * rate)
        song: Signals = {stem: tones(self.rng, nb_samples, nb_channels, rate) for stem in musdb18.STEMS}
        song["mixture"] = np.sum(list(song.values()), axis=0, dtype=np.int16)
        self.songs[name] = song
        spoilt = {t: tones(self.rng, nb_samples, nb_channels, rate) for t in targets}
        self.estimated[name] = {t: self.sum(name, t) + (spoilt[t] * 0.7).astype(np.int16) for t in targets}
        self.write(self.refs / subset / name, song, rate, suffix)
        self.write(self.estimates / folder / name, self.estimated[name], rate, suffix)

    def sum(self, name: str, target: str) -> NDArray[Any]:
        return np.sum([self.songs[name][stem] for stem in musdb18.TARGETS[target]], axis=0, dtype=np.int16)

    def write(self, folder: Path, signals: Mapping[str, NDArray[Any]], rate: int, suffix: str) -> None:
        folder.mkdir(parents=True)
        for name, samples in signals.items():
            audio.write(folder / (name + suffix), samples, rate)

    def cut(self, *wanted: Span, jobs: int = 1, **options: Any) -> Outcome[list[Excerpt]]:
        return cut(self.estimates, self.refs, wanted, parallel=Parallel(jobs), **options)

    def true(self, span: Span, rate: int = RATE) -> Signals:
        """Return the four signals of a span in [-1, 1]."""
        part = slice(round(span.start * rate), round(span.stop * rate))
        reference = self.sum(span.track, span.target)[part] / 2**15
        estimate = self.estimated[span.track][span.target][part] / 2**15
        mixture = self.songs[span.track]["mixture"][part] / 2**15
        return {"mixture": mixture, "reference": reference, "estimate": estimate, "error": estimate - reference}


@pytest.fixture
def case(tmp_path: Path, rng: np.random.Generator) -> Case:
    return Case(tmp_path, rng)


def decode(excerpt: Excerpt) -> Signals:
    """Return what is heard, which has one rate and length in all four signals."""
    found = {}
    for name, content in excerpt.signals.items():
        found[name], rate = soundfile.read(io.BytesIO(content), dtype="float64", always_2d=True)
        assert rate == excerpt.sample_rate
    assert list(found) == list(SIGNALS)
    assert {samples.shape for samples in found.values()} == {(round(excerpt.seconds * excerpt.sample_rate), 2)}
    return found


def snr(true: NDArray[Any], found: NDArray[Any]) -> float:
    """Return by how many dB a signal is louder than what was done to it."""
    return float(10 * np.log10(np.sum(true**2) / np.sum((true - found) ** 2)))


def delay(true: NDArray[Any], found: NDArray[Any]) -> int:
    """Return by how many samples a signal is late, by the peak of the correlation."""
    size = 2 * len(true)
    spectra = [np.fft.rfft(samples.mean(axis=1), size) for samples in (found, true)]
    late = int(np.argmax(np.fft.irfft(spectra[0] * spectra[1].conj(), size)))
    return late - size if late > size // 2 else late


def only(outcome: Outcome[list[Excerpt]]) -> Excerpt:
    assert outcome.failed == {}
    ((excerpt,),) = outcome.done.values()
    return excerpt


@pytest.mark.parametrize(("suffix", "folder"), [(".wav", "test"), (".flac", "")])
def test_what_is_heard_is_what_was_scored(case: Case, suffix: str, folder: str) -> None:
    case.add("A", "vocals", "drums", suffix=suffix, folder=folder)
    span = Span("A", "drums", 0.7123, 1.9)
    excerpt = only(case.cut(span))
    assert (excerpt.track, excerpt.target, excerpt.sample_rate, excerpt.gain_db) == ("A", "drums", RATE, 0.0)
    assert excerpt.start == pytest.approx(0.7123, abs=1 / RATE)
    assert excerpt.seconds == pytest.approx(1.9 - 0.7123, abs=1 / RATE)
    heard, true = decode(excerpt), case.true(span)
    assert {name: delay(true[name], heard[name]) for name in SIGNALS} == dict.fromkeys(SIGNALS, 0)
    assert min(snr(true[name], heard[name]) for name in SIGNALS) > 25


@pytest.mark.parametrize("files", [("accompaniment",), ("vocals", "accompaniment"), ("vocals",)])
def test_a_target_may_be_a_sum(case: Case, files: tuple[str, ...]) -> None:
    """The accompaniment is the sum of stems, and its estimate where there is none the mixture less the vocals'."""
    case.add("A", *files)
    if "accompaniment" not in files:
        case.estimated["A"]["accompaniment"] = case.songs["A"]["mixture"] - case.estimated["A"]["vocals"]
    span = Span("A", "accompaniment", 0.5, 1.5)
    heard, true = decode(only(case.cut(span))), case.true(span)
    assert np.array_equal(case.sum("A", "accompaniment"), case.songs["A"]["mixture"] - case.songs["A"]["vocals"])
    assert min(snr(true[name], heard[name]) for name in SIGNALS) > 25


def test_real_music_from_stem_files(stems_root: Path, tmp_path: Path) -> None:
    """A quarter of what leaks into the vocals: the codec's noise is far below what is to be heard."""
    track = "M.E.R.C. & Co - It's 1, 2 (Live)"
    decoded = list(audio.decode_stems(stems_root / "train" / f"{track}.stem.mp4", dtype=np.int16))
    stems = {stem: np.concatenate([block[i] for block in decoded]) for i, stem in enumerate(musdb18.STREAMS)}
    estimate = (stems["vocals"] + (stems["mixture"] - stems["vocals"]) // 4).astype(np.int16)
    folder = tmp_path / "estimates" / "train" / track
    folder.mkdir(parents=True)
    audio.write(folder / "vocals.wav", estimate, RATE)
    excerpt = only(cut(tmp_path / "estimates", stems_root, [Span(track, "vocals", 1.0, 4.0)], parallel=Parallel(1)))
    part = slice(RATE, 4 * RATE)
    true = {"mixture": stems["mixture"], "reference": stems["vocals"], "estimate": estimate}
    floats = {name: samples[part] / 2**15 for name, samples in true.items()}
    floats["error"] = floats["estimate"] - floats["reference"]
    heard = decode(excerpt)
    assert {name: delay(floats[name], heard[name]) for name in SIGNALS} == dict.fromkeys(SIGNALS, 0)
    assert min(snr(floats[name], heard[name]) for name in SIGNALS) > 18


def test_tracks_of_any_name(case: Case) -> None:
    for name in ODD_NAMES:
        case.add(name, "vocals", seconds=1)
    wanted = [Span(name, "vocals", 0.0, 0.5) for name in (*reversed(ODD_NAMES), ODD_NAMES[0])]
    outcome = case.cut(*wanted, jobs=2)
    assert {name: len(found) for name, found in outcome.done.items()} == {
        name: 1 + (name == ODD_NAMES[0]) for name in reversed(ODD_NAMES)
    }
    assert all(each.track == name for name, found in outcome.done.items() for each in found)
    assert outcome == case.cut(*wanted)  # to the byte, with any number of jobs


def test_a_name_of_another_source_is_found(case: Case) -> None:
    case.add("Patrick Talbot - Set Me Free", "vocals", seconds=1)
    excerpt = only(case.cut(Span("Patrick Talbot - Set Free Me", "vocals", 0.0, 1.0)))
    assert excerpt.track == "Patrick Talbot - Set Free Me"


def test_a_track_is_cut_in_the_order_of_its_spans(case: Case) -> None:
    case.add("A", "vocals", "bass")
    wanted = [Span("A", "bass", 1.0, 1.5), Span("A", "vocals", 0.5, 1.0), Span("A", "bass", 0.0, 0.5)]
    found = case.cut(*wanted).done["A"]
    assert [(each.target, each.start) for each in found] == [("bass", 1.0), ("vocals", 0.5), ("bass", 0.0)]
    for excerpt, span in zip(found, wanted, strict=True):
        assert snr(case.true(span)["error"], decode(excerpt)["error"]) > 25


@pytest.mark.parametrize(
    ("rate", "nb_channels", "expected"), [(44100, 1, 44100), (48000, 2, 48000), (32000, 2, 32000), (16000, 1, 44100)]
)
def test_other_rates_and_mono(case: Case, rate: int, nb_channels: int, expected: int) -> None:
    case.add("A", "vocals", rate=rate, nb_channels=nb_channels)
    span = Span("A", "vocals", 0.5, 1.5)
    excerpt = only(case.cut(span))
    assert (excerpt.sample_rate, excerpt.start, excerpt.seconds) == (expected, 0.5, 1.0)
    heard = decode(excerpt)
    for name, true in case.true(span, rate).items():
        true = np.broadcast_to(true, (len(true), 2))
        if expected != rate:  # band-limited tones are interpolated exactly, but for the ends
            spectrum = np.fft.rfft(true, axis=0)
            true = np.fft.irfft(spectrum, len(heard[name]), axis=0) * len(heard[name]) / len(true)
        inner = slice(expected // 10, -expected // 10)
        assert snr(true[inner], heard[name][inner]) > 25


@pytest.mark.parametrize("nb_samples", [1, 1152, RATE // 2 + 7])
@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_sizes_are_known_before(rng: np.random.Generator, nb_samples: int, rate: int) -> None:
    """Noise needs all bits, silence none, but the rate is constant."""
    stop = nb_samples / rate
    span = Span("A", "drums", 0.0, stop)
    contents = [
        excerpts._encode(samples, rate) for samples in (rng.uniform(-1, 1, (nb_samples, 2)), np.zeros((nb_samples, 2)))
    ]
    assert len({len(content) for content in contents}) == 1
    bound = excerpts._nb_bytes(span)
    assert bound - 4 * 3 * 576 <= 4 * len(contents[0]) <= bound
    for content in contents:
        assert len(soundfile.read(io.BytesIO(content))[0]) == nb_samples


def test_a_plan_is_cut_within_its_budget(case: Case) -> None:
    for name in ("A", "B"):
        case.add(name, "vocals", "drums")
    seconds = [second(i // 2, name, target) for i, name in enumerate("ABAB") for target in ("vocals", "drums")]
    durations = find_durations(case.estimates, case.refs, ["A", "B", "C"])
    assert durations == {"A": SECONDS, "B": SECONDS}
    for budget in (150_000, 300_000):
        wanted = plan(seconds, durations, around=0.0, budget_bytes=budget)
        outcome = case.cut(*wanted)
        assert outcome.failed == {}
        assert 0.9 * budget < sum(each.nb_bytes for found in outcome.done.values() for each in found) <= budget


@pytest.mark.parametrize("nb_lacking", [1000, 3000])
def test_an_estimate_that_is_short_is_padded(case: Case, nb_lacking: int) -> None:
    """By any number of samples: what scoring refuses was not scored."""
    case.add("A", "vocals")
    path = case.estimates / "test" / "A" / "vocals.wav"
    audio.write(path, case.estimated["A"]["vocals"][:-nb_lacking], RATE)
    case.estimated["A"]["vocals"][-nb_lacking:] = 0
    span = Span("A", "vocals", 1.0, 3.0)
    excerpt = only(case.cut(span))
    assert excerpt.seconds == 1.0  # the track has no more
    heard, true = decode(excerpt), case.true(span)
    assert min(snr(true[name], heard[name]) for name in SIGNALS) > 20
    assert np.abs(heard["estimate"][-300:]).max() < 0.01
    assert snr(-true["reference"][-300:], heard["error"][-300:]) > 10


def test_what_would_clip_is_turned_down_with_all_others(case: Case) -> None:
    case.add("A", "vocals")
    case.estimated["A"]["vocals"] = case.sum("A", "vocals") * np.float32(-16)
    samples = case.estimated["A"]["vocals"] / np.float32(2**15)
    audio.write(case.estimates / "test" / "A" / "vocals.wav", samples, RATE, "FLOAT")
    span = Span("A", "vocals", 0.0, 2.0)
    excerpt, true = only(case.cut(span)), case.true(span)
    peak = np.abs(true["error"]).max()
    assert peak > np.abs(true["estimate"]).max() > 1
    assert excerpt.gain_db == pytest.approx(-20 * math.log10(peak))
    heard = decode(excerpt)
    assert np.abs(heard["error"]).max() == pytest.approx(1, abs=0.1)
    for name in SIGNALS:
        assert snr(true[name], heard[name] / 10 ** (excerpt.gain_db / 20)) > 20


def test_silence_is_heard_as_silence(case: Case) -> None:
    case.add("A", "vocals")
    case.songs["A"]["vocals"][:] = 0
    audio.write(case.refs / "test" / "A" / "vocals.wav", case.songs["A"]["vocals"], RATE)
    excerpt = only(case.cut(Span("A", "vocals", 0.0, 0.5)))
    assert excerpt.gain_db == 0
    assert np.abs(decode(excerpt)["reference"]).max() == 0
    assert len({len(content) for content in excerpt.signals.values()}) == 1


# What cannot be cut


def test_a_track_with_a_fault_is_named_and_the_others_are_cut(case: Case) -> None:
    for name in ("Good", "Lacking", "Rate", "Short", "Torn"):
        case.add(name, "vocals", seconds=1)
    case.add("Surround", "vocals", nb_channels=3, seconds=1)
    folder = case.estimates / "test"
    audio.write(folder / "Rate" / "vocals.wav", case.estimated["Rate"]["vocals"], 48000)
    (folder / "Torn" / "vocals.wav").write_bytes(b"RIFF")
    outcome = case.cut(
        Span("Lacking", "vocals", 0.0, 1.0),
        Span("Lacking", "bass", 0.0, 1.0),
        Span("Lacking", "accompaniment", 0.0, 1.0),
        Span("Nowhere", "vocals", 0.0, 1.0),
        Span("Rate", "vocals", 0.0, 1.0),
        Span("Short", "vocals", 30.0, 31.0),
        Span("Surround", "vocals", 0.0, 1.0),
        Span("Torn", "vocals", 0.0, 1.0),
        Span("Good", "vocals", 0.0, 1.0),
    )
    assert list(outcome.done) == ["Good"]
    assert outcome.failed.pop("Torn").startswith(f"{folder / 'Torn' / 'vocals.wav'}: ")
    assert outcome.failed == {
        "Lacking": f"test/Lacking: no bass in {case.estimates}: excerpts need the estimates",
        "Nowhere": f"Nowhere: no estimates of such a track in {case.estimates}, or it is not in the dataset",
        "Rate": f"{folder / 'Rate' / 'vocals.wav'}: 48000 Hz, expected 44100 as in the reference: convert it",
        "Short": "test/Short: 1.0 s long, expected more than 30.0 s: are these the tracks that were scored?",
        "Surround": "test/Surround: 3 channels, expected 1 or 2: MP3 holds no more",
    }


def test_of_a_name_in_both_subsets_one_must_be_meant(case: Case) -> None:
    case.add("A", "vocals", seconds=1, subset="train", folder="train")
    case.add("A", "vocals", seconds=1.5)
    case.add("B", "vocals", seconds=1)
    wanted = [Span("A", "vocals", 0.0, 2.0), Span("B", "vocals", 0.0, 0.5)]
    outcome = case.cut(*wanted)
    assert outcome.failed == {"A": f"A: estimates in both subsets of {case.estimates}: name one subset"}
    assert list(outcome.done) == ["B"]
    assert find_durations(case.estimates, case.refs, ["A", "B"]) == {"B": 1.0}
    for subset, seconds in (("train", 1.0), ("test", 1.5)):
        assert only(case.cut(wanted[0], subset=subset)).seconds == seconds
        assert find_durations(case.estimates, case.refs, ["A"], subset=subset) == {"A": seconds}


def test_a_folder_without_estimates_or_without_the_dataset_is_refused(case: Case, tmp_path: Path) -> None:
    case.add("A", "vocals", seconds=1)
    for estimates, root in ((tmp_path / "none", case.refs), (case.estimates, tmp_path / "none")):
        with pytest.raises(DatasetError, match="none: no such folder"):
            cut(estimates, root, [Span("A", "vocals", 0.0, 1.0)], parallel=Parallel(1))
        with pytest.raises(DatasetError, match="none: no such folder"):
            find_durations(estimates, root, ["A"])


def test_lengths_of_tracks_that_cannot_be_read_are_left_out(case: Case) -> None:
    for name, seconds in (("A", 1.0), ("B", 1.5)):
        case.add(name, "vocals", seconds=seconds)
    (case.refs / "test" / "A" / "drums.wav").write_bytes(b"RIFF")
    assert find_durations(case.estimates, case.refs, ["A", "B", "C"]) == {"B": 1.5}


def test_a_library_without_mp3_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": ""})
    with pytest.raises(MissingDependencyError, match=r"libsndfile [\d.]+ writes no MP3.*pip install"):
        case.cut()


def make_method(name: str, frame: pd.DataFrame, subset: str | None = "test") -> Method:
    """Return a method that was scored by windows of half a second."""
    return Method(
        name, Path(name), frame, Protocol("museval", 0.5, 0.5, "v4", subset, None, None, frozenset("AB"), None)
    )


def test_the_worst_of_methods_is_cut_worst_first(case: Case) -> None:
    for name in "AB":
        case.add(name, "vocals", "drums")
    first = make_method("one", table(("A", [{"vocals": [5.0, 1.0]}]), ("B", [{"vocals": [NAN, -3.0]}])))
    second = make_method("two", table(("A", [{"drums": [2.0]}])), subset="train+test")
    third = make_method("three", table(("A", [{"bass": [2.0]}])))
    folders = [case.estimates, case.estimates]
    sounds = cut_worst([first, second, third], folders, case.refs, parallel=Parallel(1))
    assert sounds.failed == {}
    assert {name: [(each.track, each.target) for each in of] for name, of in sounds.excerpts.items()} == {
        "one": [("B", "vocals"), ("A", "vocals")],
        "two": [("A", "drums")],
    }
    assert sounds.excerpts["one"][0].start == 0
    assert sounds.excerpts["one"][0].seconds == SECONDS
    one = 4 * (16_000 * SECONDS + 3 * 576)
    least = cut_worst([first, second], folders, case.refs, budget_bytes=2 * one, parallel=Parallel(1))
    assert [len(of) for of in least.excerpts.values()] == [1, 1]
    whole = cut_worst([first], folders[:1], case.refs, metric="uSDR", parallel=Parallel(1))
    assert [each.track for each in whole.excerpts["one"]] == ["B", "A"]


def test_what_cannot_be_heard_is_named_and_the_rest_is_cut(case: Case) -> None:
    case.add("A", "vocals")
    case.add("B", "drums")
    method = make_method("m", table(("A", [{"vocals": [5.0]}]), ("B", [{"vocals": [1.0]}])))
    sounds = cut_worst([method], [case.estimates], case.refs, parallel=Parallel(1))
    assert [each.track for each in sounds.excerpts["m"]] == ["A"]
    assert list(sounds.failed) == ["m: B"]
    assert "test/B: no vocals in" in sounds.failed["m: B"]
    with pytest.raises(ParameterError, match="2 folders of estimates for 1 of scores, expected one for each"):
        cut_worst([method], [case.estimates] * 2, case.refs, parallel=Parallel(1))
