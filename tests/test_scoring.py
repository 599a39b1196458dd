"""Scoring: what is paired with what, what is refused before any work, what comes out, and running it again."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from musdbkit import audio, musdb18, scores, scoring
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError
from musdbkit.scoring import METRICS, Result, Settings, _basis, find_other_references, find_references, find_scenarios
from musdbkit.tracks import SEPARATION, Parallel, available_memory

REPOSITORY = Path(__file__).parent.parent
RATE = 8000
SECONDS = 3
SDR = Settings(metrics=("sdr",))
FULL = Settings()
AWKWARD = [
    "M.E.R.C. Music - Knockout",
    "Jokers, Jacks & Kings - Sea Of Leaves",
    "...And You - Song",
    'A [b] - "C" (D)',
    "Beyoncé - Ü",
]

Signals = dict[str, NDArray[np.int16]]


def draw(rng: np.random.Generator, *names: str, nb_samples: int = SECONDS * RATE, nb_channels: int = 2) -> Signals:
    return {name: rng.integers(-3000, 3000, (nb_samples, nb_channels), np.int16) for name in names}


def draw_song(rng: np.random.Generator, **options: int) -> Signals:
    """Return the stems and their mixture."""
    stems = draw(rng, *musdb18.STEMS, **options)
    return stems | {"mixture": np.sum(list(stems.values()), axis=0, dtype=np.int16)}


def spoil(rng: np.random.Generator, signals: Mapping[str, NDArray[Any]], *targets: str) -> Signals:
    """Return estimates: the true signals with noise."""
    return {t: (signals[t] + rng.integers(-900, 900, signals[t].shape)).astype(np.int16) for t in targets}


def write(folder: Path, signals: Mapping[str, NDArray[Any]], suffix: str = ".wav", rate: int = RATE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in signals.items():
        subtype = "PCM_16" if samples.dtype == np.int16 else "FLOAT"
        audio.write(folder / (name + suffix), samples, rate, subtype)
    return folder


def with_accompaniment(song: Signals) -> Signals:
    return song | {"accompaniment": song["drums"] + song["bass"] + song["other"]}


class Case:
    """A dataset `refs`, estimates of it and a folder for their scores, of which each track can be written anew."""

    def __init__(self, root: Path, rng: np.random.Generator) -> None:
        self.refs, self.estimates, self.out = root / "refs", root / "estimates", root / "scores"
        self.rng = rng
        self.songs: dict[str, Signals] = {}

    def add(self, name: str, *targets: str, song: Signals | None = None, subset: str = "test") -> Signals:
        """Write a track and estimates of some targets; return the estimates."""
        self.songs[name] = draw_song(self.rng) if song is None else song
        write(self.refs / subset / name, self.songs[name])
        estimated = spoil(self.rng, with_accompaniment(self.songs[name]), *targets)
        write(self.estimates / subset / name, estimated)
        return estimated

    def run(self, settings: Settings = SDR, jobs: int = 1, out: Path | None = None, **options: Any) -> Result:
        references = find_references(self.refs)
        return scoring.score(self.estimates, references, out or self.out, settings, parallel=Parallel(jobs), **options)

    def protocol(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "protocol.json").read_text())
        return document


@pytest.fixture
def case(tmp_path: Path, rng: np.random.Generator) -> Case:
    return Case(tmp_path, rng)


@pytest.fixture
def pair(case: Case) -> Case:
    """Two tracks with estimates of two targets."""
    for name in ("A", "B"):
        case.add(name, "vocals", "drums")
    return case


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def statuses(result: Result) -> list[str]:
    return [track.status for track in result.done.values()]


def notes(result: Result) -> dict[str, tuple[str, ...]]:
    return {key: track.notes for key, track in result.done.items()}


def values(result: Result, target: str, metric: str = "SDR", scenario: str | None = None) -> NDArray[np.float64]:
    table = result.table
    chosen = (table["target"] == target) & (table["metric"] == metric)
    if scenario is not None:
        chosen &= table["scenario"] == scenario
    return table.loc[chosen, "value"].to_numpy()


def defined_sdr(reference: NDArray[Any], estimate: NDArray[Any], rate: int = RATE) -> list[float]:
    """Return the SDR of each second from 16-bit samples."""
    found = []
    for start in range(0, len(reference) - rate + 1, rate):
        s, y = (each[start : start + rate].astype(float) for each in (reference, estimate))
        found.append(10 * math.log10(np.sum(s**2) / np.sum((s - y) ** 2)))
    return found


# What is paired with what


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("subset", ["test", ""])
def test_estimates_in_both_layouts_are_paired_by_name(case: Case, subset: str, suffix: str) -> None:
    expected = {}
    for name in AWKWARD:
        estimated = case.add(name, "vocals")
        expected[f"test/{name}"] = defined_sdr(case.songs[name]["vocals"], estimated["vocals"])
        shutil.rmtree(case.estimates / "test" / name)
        decomposed = unicodedata.normalize("NFD", name)
        write(case.estimates / subset / decomposed, estimated, suffix)
    result = case.run()
    assert result.failed == {}
    assert list(result.done) == sorted(expected)
    for key, track in result.done.items():
        assert track.scores is not None
        np.testing.assert_allclose(track.scores.scenarios[0].frames["vocals"]["SDR"], expected[key], atol=1e-9)
        assert (case.out / f"{key}.json").is_file()
    table = scores.load(case.out)
    assert list(table["track"].unique()) == sorted(AWKWARD)


def test_the_order_of_a_folders_listing_does_not_matter(pair: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    references = find_other_references(pair.refs)
    scoring.score(pair.estimates, references, pair.out, SDR, parallel=Parallel(1))
    before = tree(pair.out)
    plain = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(plain(path), reverse=True)))
    again = find_other_references(pair.refs)
    assert again == references
    scoring.score(pair.estimates, again, pair.out, SDR, force=True, parallel=Parallel(1))
    assert tree(pair.out) == before


@pytest.mark.parametrize("nested", [True, False])
def test_other_references_may_have_any_targets(tmp_path: Path, rng: np.random.Generator, nested: bool) -> None:
    refs, estimates = (tmp_path / name for name in ("refs", "estimates"))
    truth, estimated = {}, {}
    for name in ("A", "B"):
        truth[name] = draw(rng, "piano", "guitar", "mixture")
        estimated[name] = spoil(rng, truth[name], "piano", "guitar", "mixture")
        write(refs / ("train" if nested else "") / name, truth[name], ".flac")
        write(estimates / name, estimated[name])
    references = find_other_references(refs)
    assert [(r.name, r.subset, r.layout) for r in references] == [
        (name, "train" if nested else "test", "refs") for name in ("A", "B")
    ]
    assert list(references[0].targets) == ["guitar", "piano"]
    result = scoring.score(estimates, references, tmp_path / "out", FULL, parallel=Parallel(1))
    assert result.failed == {}
    assert [note.split(": ")[1] for note in result.notes] == ["mixture", "mixture"]
    for target in ("guitar", "piano"):
        expected = [value for name in truth for value in defined_sdr(truth[name][target], estimated[name][target])]
        np.testing.assert_allclose(values(result, target, scenario="guitar+piano"), expected, atol=1e-9)
        assert np.isfinite(values(result, target, "SIR")).all()


def test_references_are_found_in_each_layout(pair: Case, excerpt: Path, tmp_path: Path) -> None:
    (hq, _) = find_references(pair.refs)
    assert (hq.layout, hq.files["mixture"]) == ("hq", pair.refs / "test" / "A" / "mixture.wav")
    write(pair.refs / "test" / "A", {"accompaniment": np.zeros((9, 1), np.int16)})
    wav = find_references(pair.refs)[0]
    assert (wav.layout, wav.files, wav.targets) == ("wav", hq.files, musdb18.TARGETS)
    (tmp_path / "stems" / "train").mkdir(parents=True)
    shutil.copy(excerpt, tmp_path / "stems" / "train" / "A.stem.mp4")
    (stems,) = find_references(tmp_path / "stems")
    assert (stems.key, stems.layout, stems.files) == ("train/A", "stems", {})


def test_stem_files_are_decoded_through_16_bit(excerpt: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "stems" / "test").mkdir(parents=True)
    shutil.copy(excerpt, tmp_path / "stems" / "test" / "A.stem.mp4")
    streams = zip(musdb18.STREAMS, zip(*audio.decode_stems(excerpt, dtype=np.int16), strict=True), strict=True)
    truth = {stem: np.concatenate(blocks) for stem, blocks in streams}
    estimated = spoil(rng, truth, "vocals")
    write(tmp_path / "estimates" / "A", estimated, rate=44_100)
    references = find_references(tmp_path / "stems")
    result = scoring.score(tmp_path / "estimates", references, tmp_path / "out", SDR, parallel=Parallel(1))
    np.testing.assert_allclose(
        values(result, "vocals"), defined_sdr(truth["vocals"], estimated["vocals"], 44_100), atol=1e-9
    )


@pytest.mark.parametrize("layout", ["hq", "refs"])
def test_accompaniment_is_the_sum_of_the_stems_whatever_its_file_holds(pair: Case, layout: str) -> None:
    estimated = pair.add("A", "vocals", "accompaniment")
    shutil.rmtree(pair.estimates / "test" / "B")
    song = pair.songs["A"]
    write(pair.refs / "test" / "A", {"accompaniment": song["vocals"]})
    references = find_references(pair.refs) if layout == "hq" else find_other_references(pair.refs)
    options: dict[str, Any] = {"allow_missing": True, "parallel": Parallel(1)}
    (result, again) = (
        scoring.score(pair.estimates, references, out, SDR, **options) for out in (pair.out, pair.out.with_name("o"))
    )
    expected = defined_sdr(with_accompaniment(song)["accompaniment"], estimated["accompaniment"])
    np.testing.assert_allclose(values(result, "accompaniment"), expected, atol=1e-9)
    assert result.table.equals(again.table)


def test_accompaniment_has_a_file_of_its_own_where_there_are_no_stems(tmp_path: Path, rng: np.random.Generator) -> None:
    truth = draw(rng, "vocals", "accompaniment")
    write(tmp_path / "refs" / "A", truth)
    estimated = spoil(rng, truth, "vocals", "accompaniment")
    write(tmp_path / "estimates" / "A", estimated)
    references = find_other_references(tmp_path / "refs")
    assert references[0].targets == {"vocals": ("vocals",), "accompaniment": ("accompaniment",)}
    result = scoring.score(tmp_path / "estimates", references, tmp_path / "out", SDR, parallel=Parallel(1))
    expected = defined_sdr(truth["accompaniment"], estimated["accompaniment"])
    np.testing.assert_allclose(values(result, "accompaniment"), expected, atol=1e-9)


def test_a_subset_can_be_asked_for(case: Case) -> None:
    for name, subset in (("A", "train"), ("B", "test"), ("C", "test")):
        case.add(name, "vocals", subset=subset)
    assert list(case.run().done) == ["train/A", "test/B", "test/C"]
    assert list(case.run(subset="train", out=case.out / "a").done) == ["train/A"]
    shutil.rmtree(case.estimates / "train")
    assert list(case.run(out=case.out / "b").done) == ["test/B", "test/C"]
    with pytest.raises(DatasetError, match=r"no estimates \(looked for .* of 1 tracks in subset train; found test/B"):
        case.run(subset="train", out=case.out / "c")


def test_a_name_in_both_subsets_needs_a_choice(case: Case) -> None:
    for subset in ("train", "test"):
        estimated = case.add("A", "vocals", subset=subset)
    with pytest.raises(DatasetError, match="A: in both subsets: score one with --subset, then the other"):
        case.run()
    for subset in ("train", "test"):
        assert list(case.run(subset=subset, out=case.out / subset).done) == [f"{subset}/A"]
    shutil.rmtree(case.estimates)
    write(case.estimates / "A", estimated)
    for subset in ("train", "test"):
        assert list(case.run(subset=subset, out=case.out / f"{subset}2").done) == [f"{subset}/A"]


# What is refused before any work


def refuse(case: Case, *messages: str, tracks: Sequence[str] = ("test/A",), **options: Any) -> Result:
    """Score what cannot be scored, and check that all is named and nothing written."""
    result = case.run(**options)
    assert list(result.failed) == list(tracks)
    for message in messages:
        assert re.search(message, " | ".join(result.failed.values())), result.failed
    assert result.done == {}
    assert not case.out.exists()
    return result


def test_missing_tracks_and_targets_are_named_and_can_be_allowed(pair: Case) -> None:
    pair.add("C", "vocals", "drums")
    shutil.rmtree(pair.estimates / "test" / "B")
    (pair.estimates / "test" / "C" / "drums.wav").unlink()
    result = refuse(
        pair,
        r"test/B: no estimates in .*estimates: --allow-missing scores what is there",
        r"test/C: no drums in",
        tracks=("test/B", "test/C"),
    )
    assert result.missing == ("test/B: no estimates", "test/C: no drums")
    result = pair.run(allow_missing=True)
    assert (list(result.done), result.failed) == (["test/A", "test/C"], {})
    assert pair.protocol()["tracks"] == {
        "scored": 2,
        "missing": ["test/B: no estimates", "test/C: no drums"],
        "failed": {},
        "verified": {},
    }


def test_all_that_is_wrong_with_a_track_is_named(pair: Case) -> None:
    (pair.estimates / "test" / "A" / "drums.wav").unlink()
    audio.write(pair.estimates / "test" / "A" / "vocals.wav", np.zeros((10, 1), np.int16), 100)
    refuse(
        pair,
        "no drums in",
        r"vocals\.wav: 100 Hz, expected 8000 as in the reference",
        r"vocals\.wav: 1 channel\(s\), expected 2 as in the reference: convert it",
        r"vocals\.wav: 10 samples, expected 24000 as in the reference",
    )
    refuse(pair, "100 Hz", allow_missing=True)


def test_what_is_not_among_the_references_is_noted(pair: Case) -> None:
    pair.add("C", "vocals")
    shutil.rmtree(pair.refs / "test" / "C")
    write(pair.estimates / "test" / "A", {"piano": pair.songs["A"]["bass"], "mixture": pair.songs["A"]["mixture"]})
    result = pair.run()
    assert list(result.done) == ["test/A", "test/B"]
    assert result.notes == (
        "test/C: no such track among the references",
        "test/A: mixture, piano: not among the reference's targets",
    )


@pytest.mark.parametrize("difference", [3, -3, 1024, -1024, -300])
def test_lengths_that_hardly_differ_are_cut_or_padded(case: Case, difference: int) -> None:
    song = draw_song(case.rng, nb_samples=2 * RATE + 100)
    case.add("A", song=song)
    nb_samples = 2 * RATE + 100 + difference
    estimate = np.full((nb_samples, 2), 700, np.int16)
    write(case.estimates / "test" / "A", {"vocals": estimate})
    result = case.run()
    verb = "cut" if difference > 0 else "padded with zeros"
    note = f"vocals: {verb} by {abs(difference)} samples to the length of the reference"
    assert (result.failed, notes(result)) == ({}, {"test/A": (note,)})
    assert case.protocol()["notes"] == {"test/A": [note]}
    same = np.zeros_like(song["vocals"])
    same[:nb_samples] = 700
    np.testing.assert_allclose(values(result, "vocals"), defined_sdr(song["vocals"], same), atol=1e-9)


@pytest.mark.parametrize("difference", [2000, -2000, 1025, -1025, -RATE - 500])
def test_lengths_that_differ_need_align(pair: Case, difference: int) -> None:
    nb_samples = SECONDS * RATE + difference
    write(pair.estimates / "test" / "A", {"vocals": np.full((nb_samples, 2), 700, np.int16)})
    refuse(
        pair,
        rf"A/vocals\.wav: {nb_samples} samples, expected 24000 as in the reference \(up to 1024 more or less are cut "
        r"or padded\): separate it again, or --align",
    )
    result = pair.run(replace(SDR, align=True))
    assert result.failed == {}
    assert f"by {abs(difference)} samples" in notes(result)["test/A"][0]
    same = np.zeros_like(pair.songs["A"]["vocals"])
    same[:nb_samples] = 700
    last = SECONDS - 1 if difference < -RATE else SECONDS  # a frame without estimate has no score
    expected = defined_sdr(pair.songs["A"]["vocals"], same)[:last]
    np.testing.assert_allclose(values(result, "vocals")[:last], expected, atol=1e-9)
    assert np.isnan(values(result, "vocals")[last:SECONDS]).all()


def test_unreadable_files_are_named(pair: Case) -> None:
    (pair.estimates / "test" / "A" / "vocals.wav").write_bytes(b"no audio")
    (pair.refs / "test" / "B" / "vocals.wav").write_bytes(b"")
    refuse(pair, r"estimates/test/A/vocals\.wav: ", r"refs/test/B/vocals\.wav: ", tracks=("test/A", "test/B"))


def test_a_truncated_file_is_named(pair: Case) -> None:
    path = pair.estimates / "test" / "A" / "vocals.wav"
    path.write_bytes(path.read_bytes()[:-40_000])
    refuse(pair, r"A/vocals\.wav: 14000 samples, expected 24000")


def test_references_that_differ_among_themselves_are_named(pair: Case) -> None:
    write(pair.refs / "test" / "B", {"drums": np.zeros((10, 2), np.int16), "bass": np.zeros((10, 1), np.int16)})
    refuse(
        pair,
        r"B/drums\.wav: 10 samples, 8000 Hz, 2 channel\(s\), expected 24000 samples, .* as vocals\.wav$",
        tracks=["test/B"],
    )


def test_folders_without_anything_to_score_are_refused(pair: Case, tmp_path: Path) -> None:
    def check(estimates: Path, message: str, **options: Any) -> None:
        references = find_references(pair.refs)
        with pytest.raises(DatasetError, match=message):
            scoring.score(estimates, references, pair.out, SDR, parallel=Parallel(1), **options)
        assert not pair.out.exists()

    check(tmp_path / "nothing", "nothing: no such folder")
    check(pair.estimates / "test" / "A" / "vocals.wav", "vocals.wav: is a file, expected a folder")
    (tmp_path / "empty").mkdir()
    looked = r"looked for <track>/<target>\.wav and <subset>/<track>/<target>\.wav of 2 tracks"
    check(tmp_path / "empty", rf"empty: no estimates \({looked}\)$")
    check(tmp_path, rf"no estimates \({looked}\): did you mean .*/estimates\?")
    write(tmp_path / "others" / "C", pair.songs["A"])
    for lenient in (False, True):
        check(tmp_path / "others", rf"{looked}; found C with bass, .*: no such track", allow_missing=lenient)
    for name in ("A", "B"):
        write(tmp_path / "targets" / name, {"mixture": pair.songs["A"]["mixture"]})
    for lenient in (False, True):
        check(tmp_path / "targets", r"found A with mixture: .* none of its targets", allow_missing=lenient)
    write(pair.estimates / "A", {"vocals": pair.songs["A"]["vocals"]})
    check(pair.estimates, "test/A and .*estimates/A: two estimates of test/A")
    with pytest.raises(DatasetError, match=r"empty: no references \(looked for <track>/<target>\.wav or"):
        find_other_references(tmp_path / "empty")


def test_the_same_reference_twice_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in (unicodedata.normalize(form, "É") for form in ("NFC", "NFD")):
        write(tmp_path / "refs" / name, draw(rng, "vocals"))
    references = find_other_references(tmp_path / "refs")
    with pytest.raises(DatasetError, match="the same track twice"):
        scoring.score(tmp_path / "refs", references, tmp_path / "out", SDR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("sdr", "pesq")}, "metrics pesq: expected some of sdr, isr, sir, sar, usdr, si-sdr, snr"),
        ({"metrics": ()}, r"metrics \(none\)"),
        ({"window_seconds": 0}, "window 0 s: expected more than 0"),
        ({"hop_seconds": -1.0}, "hop -1.0 s"),
        ({"hop_seconds": math.nan}, "hop nan s"),
        ({"window_seconds": math.inf}, "window inf s"),
        ({"mode": "v5"}, "mode v5: expected v4 or v3"),
        ({"silence": "never"}, "silence never: expected museval or per-target"),
        ({"engine": "slow"}, "engine slow: expected fast or museval"),
        ({"engine": "museval", "silence": "per-target"}, "museval is there for silence museval and mode v4 only"),
        ({"engine": "museval", "mode": "v3"}, "museval is there for"),
    ],
)
def test_unusable_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Settings(**options)


def test_what_museval_cannot_verify_is_refused_before_any_work(pair: Case) -> None:
    with pytest.raises(ParameterError, match="museval is there for"):
        pair.run(replace(SDR, silence="per-target"), verify=1)
    assert not pair.out.exists()


# What comes out


@pytest.mark.parametrize(
    ("targets", "scenarios", "order"),
    [
        (("vocals",), ["vocals"], ["vocals"]),
        (("accompaniment",), ["accompaniment"], ["accompaniment"]),
        (("drums", "vocals"), ["vocals+drums"], ["vocals", "drums"]),
        (("vocals", "accompaniment"), ["vocals+accompaniment"], ["vocals", "accompaniment"]),
        (musdb18.STEMS, ["vocals+drums+bass+other"], ["vocals", "drums", "bass", "other"]),
        (
            (*musdb18.STEMS, "accompaniment"),
            ["vocals+drums+bass+other", "vocals+accompaniment"],
            ["drums", "bass", "other", "vocals", "accompaniment"],
        ),
        (
            ("vocals", "accompaniment", "drums"),
            ["vocals+drums", "vocals+accompaniment"],
            ["drums", "vocals", "accompaniment"],
        ),
        (
            ("drums", "bass", "other", "accompaniment"),
            ["drums+bass+other+accompaniment"],
            ["drums", "bass", "other", "accompaniment"],
        ),
    ],
)
def test_scenarios(case: Case, targets: tuple[str, ...], scenarios: list[str], order: list[str]) -> None:
    estimated = case.add("A", *targets)
    truth = with_accompaniment(case.songs["A"])
    result = case.run()
    found = result.done["test/A"].scores
    assert found is not None
    assert [scenario.name for scenario in found.scenarios] == scenarios
    for scenario in found.scenarios:
        for target in scenario.targets:
            sdr = scenario.frames[target]["SDR"]
            np.testing.assert_allclose(sdr, defined_sdr(truth[target], estimated[target]), atol=1e-9)
    document = json.loads((case.out / "test" / "A.json").read_text())
    assert [target["name"] for target in document["targets"]] == order
    assert [set(frame["metrics"]) for frame in document["targets"][0]["frames"]] == [set(scores.FRAME_METRICS)] * 3
    assert set(case.protocol()["frames"]) == set(targets)


@pytest.mark.parametrize(
    ("targets", "signals", "accompaniment"),
    [
        ((*musdb18.STEMS, "accompaniment"), [("vocals",), ("drums",), ("bass",), ("other",)], (1, 2, 3)),
        (("vocals", "accompaniment"), [("vocals",), ("drums", "bass", "other")], (1,)),
        (("vocals", "drums", "accompaniment"), [("vocals",), ("drums",), ("drums", "bass", "other")], (2,)),
    ],
)
def test_scenarios_share_as_few_references_as_there_can_be(
    targets: tuple[str, ...], signals: list[tuple[str, ...]], accompaniment: tuple[int, ...]
) -> None:
    groups = find_scenarios([target for target in musdb18.TARGETS if target in targets])
    found, sums = _basis(musdb18.TARGETS, groups)
    assert (found, sums["accompaniment"], sums["vocals"]) == (signals, accompaniment, (0,))


def test_a_linear_mixture_is_the_sum_of_all_stems(case: Case) -> None:
    case.add("A")
    song = case.songs["A"]
    write(case.estimates / "test" / "A", spoil(case.rng, song | {"linear_mixture": song["mixture"]}, "linear_mixture"))
    write(case.refs / "test" / "A", {"mixture": song["vocals"]})
    estimate = audio.read(case.estimates / "test" / "A" / "linear_mixture.wav") * 2**15
    np.testing.assert_allclose(values(case.run(), "linear_mixture"), defined_sdr(song["mixture"], estimate), atol=1e-9)


def test_accompaniment_beside_its_own_stems_has_filters_too(case: Case) -> None:
    song = draw_song(case.rng, nb_samples=RATE)
    case.add("A", "drums", "bass", "other", "accompaniment", song=song)
    result = case.run(FULL)
    assert (result.failed, result.done["test/A"].notes) == ({}, ())
    assert np.isfinite(result.table["value"]).all()


def test_a_single_target_has_an_sdr_and_says_so(case: Case) -> None:
    estimated = case.add("A", "vocals")
    result = case.run(FULL)
    note = "vocals: the only target: SDR, but no ISR, SIR and SAR, which need the others"
    assert notes(result) == {"test/A": (note,)}
    assert list(result.table["metric"].unique()) == ["SDR"]
    document = json.loads((case.out / "test" / "A.json").read_text())
    frames = [frame["metrics"] for frame in document["targets"][0]["frames"]]
    expected = defined_sdr(case.songs["A"]["vocals"], estimated["vocals"])
    np.testing.assert_allclose([frame["SDR"] for frame in frames], expected, atol=6e-6)
    assert all(math.isnan(frame[metric]) for frame in frames for metric in ("ISR", "SIR", "SAR"))
    shutil.rmtree(case.out)
    refuse(case, "only vocals is estimated, but isr, sir and sar need", settings=Settings(metrics=("isr", "sar")))


def test_the_complement_is_the_mixture_minus_the_vocals(case: Case) -> None:
    for name in ("A", "B"):
        case.add(name, "vocals", song=draw_song(case.rng, nb_samples=2 * RATE, nb_channels=1))
    complemented = case.run(replace(FULL, complement=True))
    note = "accompaniment: the mixture minus the estimated vocals"
    assert notes(complemented) == {"test/A": (note,), "test/B": (note,)}
    for name, song in case.songs.items():
        vocals = audio.read(case.estimates / "test" / name / "vocals.wav")
        mixture = audio.to_float(song["mixture"], "PCM_16")
        write(case.estimates / "test" / name, {"accompaniment": mixture - vocals})
    written = case.run(FULL, out=case.out.with_name("written"))
    assert complemented.table.equals(written.table)
    assert len(values(written, "accompaniment")) == 4
    (case.estimates / "test" / "B" / "accompaniment.wav").unlink()
    mixed = case.run(replace(FULL, complement=True), out=case.out.with_name("mixed"))
    assert mixed.failed == {}
    assert mixed.table.equals(written.table)


def test_a_complement_needs_a_mixture(tmp_path: Path, rng: np.random.Generator) -> None:
    truth = draw(rng, "vocals", "accompaniment")
    write(tmp_path / "refs" / "A", truth)
    write(tmp_path / "estimates" / "A", spoil(rng, truth, "vocals"))
    references, settings = find_other_references(tmp_path / "refs"), replace(SDR, complement=True)
    result = scoring.score(tmp_path / "estimates", references, tmp_path / "out", settings, parallel=Parallel(1))
    assert "refs/A: no mixture, which --complement needs" in result.failed["test/A"]
    assert not (tmp_path / "out").exists()


def test_measures_of_whole_tracks(case: Case) -> None:
    estimated = case.add("A", "vocals", "drums")
    result = case.run(Settings(metrics=("usdr", "si-sdr", "snr")))
    assert list(result.table["metric"].unique()) == ["uSDR", "SI-SDR", "SNR"]
    for target in ("vocals", "drums"):
        s, y = (each[target].astype(float) / 2**15 for each in (case.songs["A"], estimated))
        scaled = s * np.sum(s * y) / np.sum(s * s)
        for metric, top, bottom in (
            ("uSDR", np.sum(s**2) + 1e-7, np.sum((s - y) ** 2) + 1e-7),
            ("SI-SDR", np.sum(scaled**2), np.sum((scaled - y) ** 2)),
            ("SNR", np.sum(s**2), np.sum((s - y) ** 2)),
        ):
            np.testing.assert_allclose(values(result, target, metric), [10 * np.log10(top / bottom)], atol=1e-9)


@pytest.mark.parametrize("metrics", [("sir",), ("sdr", "sar"), ("isr", "usdr"), tuple(METRICS)])
def test_only_what_was_asked_for_is_recorded(case: Case, metrics: tuple[str, ...]) -> None:
    case.add("A", "vocals", "drums", song=draw_song(case.rng, nb_samples=RATE))
    result = case.run(Settings(metrics=metrics))
    assert set(result.table["metric"]) == {METRICS[metric] for metric in metrics}
    assert case.protocol()["settings"]["metrics"] == list(metrics)
    assert Settings(metrics=metrics[::-1]) == Settings(metrics=metrics)
    json.loads((case.out / "protocol.json").read_text(), parse_constant=pytest.fail)


def test_other_windows(case: Case) -> None:
    estimated = case.add("A", "vocals", "drums", song=draw_song(case.rng, nb_samples=RATE + 100))
    result = case.run(replace(FULL, window_seconds=0.5, hop_seconds=0.25))
    starts = range(0, RATE // 2 + 1, RATE // 4)
    expected = [
        defined_sdr(*(each["vocals"][start : start + RATE // 2] for each in (case.songs["A"], estimated)), RATE // 2)
        for start in starts
    ]
    np.testing.assert_allclose(values(result, "vocals"), np.ravel(expected), atol=1e-9)
    document = json.loads((case.out / "test" / "A.json").read_text())
    times = [(frame["time"], frame["duration"]) for frame in document["targets"][0]["frames"]]
    assert times == [(0, 0.5), (0.25, 0.5), (0.5, 0.5)]
    assert np.isfinite(result.table["value"]).all()


def test_perfect_estimates_are_infinite_in_the_table_and_strict_json(case: Case) -> None:
    case.add("A")
    write(case.estimates / "test" / "A", {target: case.songs["A"][target] for target in ("vocals", "bass")})
    result = case.run(Settings(metrics=("sdr", "usdr", "snr")))
    assert np.isposinf(values(result, "vocals")).all()
    assert np.isposinf(scores.load(case.out)["value"][:3]).all()
    for path in [case.out / "protocol.json", *case.out.rglob(".records/*/*.json")]:
        json.loads(path.read_text(), parse_constant=pytest.fail)
    json.dumps(scoring.summarise(result), allow_nan=False)
    assert case.protocol()["frames"]["vocals"]["vocals+bass"] == {"frames": 3, "dropped": 0, "infinite": 3}
    assert statuses(case.run(Settings(metrics=("sdr", "usdr", "snr")))) == ["already there"]


def test_the_protocol_says_how_the_scores_came_about(pair: Case) -> None:
    pair.run()
    protocol = pair.protocol()
    assert "no filters" in protocol["definition"]["SDR"]
    assert protocol["devices"] == ["cpu"]
    assert protocol["settings"] == json.loads(json.dumps(SDR.__dict__))
    assert protocol["dataset"].items() >= {"layout": ["hq"], "subsets": ["test"]}.items()
    assert protocol["conditioning"].items() >= {"least_independence": 1.0, "ill_conditioned": []}.items()
    assert protocol["versions"]["numpy"] == np.__version__
    assert set(protocol["aggregations"]) == set(scores.AGGREGATIONS)
    fingerprints = [protocol[name]["fingerprint"] for name in ("dataset", "estimates")]
    write(pair.estimates / "test" / "A", {"vocals": pair.songs["A"]["vocals"]})
    pair.run()
    after = [pair.protocol()[name]["fingerprint"] for name in ("dataset", "estimates")]
    assert [a == b for a, b in zip(fingerprints, after, strict=True)] == [True, False]


def test_how_estimates_were_made_is_part_of_the_protocol(case: Case) -> None:
    case.add("A", "vocals")
    case.run()
    without = case.protocol()
    assert without["separation"] is None
    made = {"model": {"name": "mine"}, "options": {"wiener": 1}, "versions": {"torch": "2"}, "tracks": {"test/A": 1}}
    path = case.estimates / SEPARATION
    found = {}
    for name, changes in {
        "first": {},
        "elsewhere": {"versions": {"torch": "3"}, "devices": ["cuda"], "tracks": {}},
        "other options": {"options": {"wiener": 0}},
        "other model": {"model": {"name": "yours"}},
    }.items():
        path.write_text(json.dumps(made | changes))
        assert statuses(case.run()) == ["already there"]  # the scores are the same files' scores
        assert case.protocol()["separation"] == made | changes
        found[name] = case.protocol()["fingerprint"]
    assert found["elsewhere"] == found["first"]
    assert len({*found.values(), without["fingerprint"]}) == 4
    case.run(Settings(metrics=("sdr",), window_seconds=0.5), force=True)
    assert case.protocol()["fingerprint"] not in {*found.values()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', r"separation\.json: not JSON: .*: mend it or remove it"),
        ('{"a": NaN}', r"separation\.json: not JSON: NaN is no number"),
        ("[1]", r"separation\.json: a list, expected an object"),
        (None, r"separation\.json: cannot be read: Is a directory"),
    ],
)
def test_how_estimates_were_made_must_be_json(case: Case, text: str | None, message: str) -> None:
    case.add("A", "vocals")
    path = case.estimates / SEPARATION
    if text is None:
        path.mkdir()
    else:
        path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        case.run()
    assert not case.out.exists()


def test_ill_conditioned_references_are_flagged(case: Case) -> None:
    song = draw_song(case.rng, nb_samples=RATE)
    smooth = np.sin(np.arange(RATE)[:, None] * [0.1, 0.13]).astype(np.float32)
    case.add("A", "vocals", "drums", song=song)
    for target, gain in (("vocals", 0.5), ("drums", 0.3)):
        write(case.refs / "test" / "A", {target: gain * smooth[:, :: 1 if gain == 0.5 else -1] ** 3})
    result = case.run(FULL)
    (note,) = notes(result)["test/A"]
    assert "vocals+drums: ill-conditioned: the references determine the filters only to" in note
    conditioning = case.protocol()["conditioning"]
    assert conditioning["ill_conditioned"] == ["test/A: vocals+drums"]
    assert conditioning["least_independence"] < conditioning["threshold"]


# Silence


@pytest.mark.parametrize("what", ["reference", "estimate"])
def test_a_silent_track_of_one_target_has_no_score_and_leaves_the_others_alone(case: Case, what: str) -> None:
    song = draw_song(case.rng, nb_samples=2 * RATE)
    case.add("A", "vocals", "bass", song=song)
    alone = values(case.run(out=case.out.with_name("full")), "vocals")
    zeros = np.zeros((2 * RATE, 2), np.int16)
    write((case.refs if what == "reference" else case.estimates) / "test" / "A", {"bass": zeros})
    result = case.run(Settings(metrics=("sdr", "isr", "sir", "sar", "usdr")))
    note = f"bass: the {what} is silent in the whole track: no score; the others lose no frames by it"
    assert case.protocol()["notes"] == {"test/A": [note]}
    assert result.failed == {}
    np.testing.assert_array_equal(values(result, "vocals"), alone)
    for metric in scores.FRAME_METRICS:
        assert np.isnan(values(result, "bass", metric)).all()
        assert np.isfinite(values(result, "vocals", metric)).all()
    assert np.isnan(values(result, "bass", "uSDR")).all()
    verified = case.run(result.settings, verify=1).verified["test/A"]
    assert verified.metrics == ()  # museval raises an error for such a track


def test_a_track_in_which_all_is_silent_is_no_error(case: Case) -> None:
    case.add("A", "vocals")
    zeros = np.zeros((2 * RATE, 2), np.int16)
    for folder in (case.refs, case.estimates):
        write(folder / "test" / "A", dict.fromkeys(case.songs["A"] if folder == case.refs else ["vocals"], zeros))
    result = case.run(Settings(metrics=tuple(METRICS)))
    assert result.failed == {}
    assert len(notes(result)["test/A"]) == 3  # reference, estimate, and that it is alone
    assert np.isnan(values(result, "vocals")).all()
    assert np.isnan(values(result, "vocals", "uSDR")).all()
    json.dumps(scoring.summarise(result), allow_nan=False)


def test_one_silent_second_drops_a_frame_for_all_or_for_its_own_target(pair: Case) -> None:
    settings = {rule: replace(FULL, silence=rule) for rule in ("museval", "per-target")}  # type: ignore[arg-type]
    shutil.rmtree(pair.refs / "test" / "B")
    before = pair.run(settings["per-target"], out=pair.out / "before")
    drums = audio.read(pair.estimates / "test" / "A" / "drums.wav")
    drums[RATE : 2 * RATE] = 0
    write(pair.estimates / "test" / "A", {"drums": drums})
    results = {rule: pair.run(settings[rule], out=pair.out / rule) for rule in settings}
    vocals = values(before, "vocals")
    np.testing.assert_array_equal(values(results["per-target"], "vocals"), vocals)
    np.testing.assert_array_equal(values(results["museval"], "vocals"), [vocals[0], np.nan, vocals[2]])
    for rule in settings:
        assert np.isnan(values(results[rule], "drums")).tolist() == [False, True, False]
        assert np.isfinite(values(results[rule], "vocals", "SIR")).tolist() == [True, rule == "per-target", True]
    counts = json.loads((pair.out / "museval" / "protocol.json").read_text())["frames"]["vocals"]
    assert counts == {"vocals+drums": {"frames": 3, "dropped": 1, "infinite": 0}}


@pytest.mark.parametrize("whole", [True, False])
def test_channels_that_cancel_are_silence_only_for_museval(pair: Case, whole: bool) -> None:
    shutil.rmtree(pair.refs / "test" / "B")
    vocals = pair.songs["A"]["vocals"].copy()
    part = slice(None) if whole else slice(RATE, 2 * RATE)
    vocals[part, 1] = -vocals[part, 0]
    write(pair.refs / "test" / "A", {"vocals": vocals})
    strict = pair.run(FULL, out=pair.out / "museval")
    own = pair.run(replace(FULL, silence="per-target"), out=pair.out / "per-target")
    rule = "silent by museval's rule"
    where = f"in the whole track: {rule}, no score" if whole else f"in 1 frames: {rule}"
    assert notes(strict) == {"test/A": (f"vocals: the reference's channels cancel {where}",)}
    assert notes(own) == {"test/A": ()}
    assert np.isnan(values(strict, "vocals")).tolist() == ([True] * 3 if whole else [False, True, False])
    assert np.isnan(values(strict, "drums")).tolist() == ([False] * 3 if whole else [False, True, False])
    estimate = audio.read(pair.estimates / "test" / "A" / "vocals.wav") * 2**15
    np.testing.assert_allclose(values(own, "vocals"), defined_sdr(vocals, estimate), atol=1e-9)
    assert np.isfinite(own.table["value"]).all()


def test_mono(case: Case) -> None:
    song = draw_song(case.rng, nb_channels=1)
    estimated = case.add("A", "vocals", "drums", song=song)
    result = case.run(FULL)
    np.testing.assert_allclose(values(result, "vocals"), defined_sdr(song["vocals"], estimated["vocals"]), atol=1e-9)
    assert np.isfinite(result.table["value"]).all()


# What goes wrong at work


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("settings", [SDR, FULL], ids=["sdr", "full"])
def test_samples_that_are_no_numbers_fail_their_track_only(pair: Case, settings: Settings, value: float) -> None:
    vocals = audio.read(pair.estimates / "test" / "A" / "vocals.wav")
    vocals[RATE + 70, 1] = value
    write(pair.estimates / "test" / "A", {"vocals": vocals})
    result = pair.run(settings)
    assert list(result.done) == ["test/B"]
    path = pair.estimates / "test" / "A" / "vocals.wav"
    assert result.failed == {"test/A": f"{path}: sample {RATE + 70} is not a finite number: write the file anew"}
    assert sorted(p.name for p in (pair.out / "test").iterdir()) == ["B.json"]
    assert pair.protocol()["tracks"].items() >= {"scored": 1, "failed": result.failed}.items()


def test_what_a_track_had_goes_when_it_fails_with_new_files(pair: Case) -> None:
    pair.run()
    path = pair.estimates / "test" / "A" / "vocals.wav"
    vocals = audio.read(path)
    vocals[0] = np.nan
    audio.write(path, vocals, RATE, "FLOAT")
    result = pair.run()
    assert (list(result.done), list(result.failed)) == (["test/B"], ["test/A"])
    assert not (pair.out / "test" / "A.json").exists()
    assert set(scores.load(pair.out)["track"]) == {"B"}


def test_a_folder_that_cannot_be_written_to_is_named(pair: Case) -> None:
    pair.out.write_text("a file")
    with pytest.raises(MusdbkitError, match="scores"):
        raise MusdbkitError("; ".join(pair.run().failed.values()))


# Running it again


def test_a_second_run_finds_all_there(pair: Case) -> None:
    first = pair.run(FULL)
    before = tree(pair.out)
    dates = {path: path.stat().st_mtime_ns for path in (pair.out / "test").iterdir()}
    second = pair.run(FULL)
    assert (statuses(first), statuses(second)) == (["scored"] * 2, ["already there"] * 2)
    assert tree(pair.out) == before
    assert {path: path.stat().st_mtime_ns for path in dates} == dates
    assert second.table.equals(first.table)
    (pair.out / "test" / "A.json").unlink()
    (pair.out / "test" / "B.json").write_text("{")
    (pair.out / "scores.csv").unlink()
    assert statuses(pair.run(FULL)) == ["already there"] * 2
    assert tree(pair.out) == before


@pytest.mark.parametrize("what", ["estimate", "reference", "more targets", "fewer targets"])
def test_what_changed_is_scored_anew(pair: Case, what: str) -> None:
    pair.run()
    other = draw(pair.rng, "vocals")
    for folder in (pair.estimates / "test").iterdir() if "targets" in what else ():
        if what == "more targets":
            write(folder, {"bass": other["vocals"]})
        else:
            (folder / "drums.wav").unlink()
    if "targets" not in what:
        write((pair.estimates if what == "estimate" else pair.refs) / "test" / "B", other)
    result = pair.run()
    assert statuses(result) == ["scored" if "targets" in what else "already there", "scored"]
    fresh = pair.run(out=pair.out.with_name("fresh"))
    assert tree(pair.out) == tree(pair.out.with_name("fresh"))
    assert result.table.equals(fresh.table)


def test_what_has_no_influence_may_change(pair: Case) -> None:
    pair.run()
    write(pair.refs / "test" / "A", {"mixture": pair.songs["B"]["mixture"], "other": pair.songs["B"]["other"]})
    assert statuses(pair.run()) == ["already there"] * 2


def test_changed_settings_are_refused_before_any_work(pair: Case) -> None:
    pair.run()
    pair.add("C", "vocals", "drums")
    before = tree(pair.out)
    result = pair.run(replace(SDR, window_seconds=0.5, metrics=("sdr", "snr")))
    assert (result.done, list(result.failed)) == ({}, ["test/A", "test/B"])
    assert result.failed["test/A"] == (
        f"{pair.out / 'test' / 'A.json'}: scored otherwise: metrics was ['sdr'], now ['sdr', 'snr']; "
        "window_seconds was 1.0, now 0.5: --force scores it anew, or choose another --out"
    )
    assert tree(pair.out) == before
    forced = pair.run(replace(SDR, window_seconds=0.5), force=True)
    assert statuses(forced) == ["scored"] * 3
    assert pair.protocol()["settings"]["window_seconds"] == 0.5


def test_scores_of_other_programs_are_left_alone(pair: Case) -> None:
    theirs = pair.out / "test" / "A.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    result = pair.run()
    reason = f"{theirs}: was not made by score: choose another --out, or --force replaces it"
    assert (result.done, result.failed) == ({}, {"test/A": reason})
    assert tree(pair.out) == {"test/A.json": b"{}"}
    assert statuses(pair.run(force=True)) == ["scored"] * 2


def test_scores_of_other_tracks_are_refused_or_removed_by_force(pair: Case) -> None:
    pair.run()
    shutil.rmtree(pair.refs / "test" / "B")
    with pytest.raises(DatasetError, match=r"B\.json: scores of a track that is not among these: --force removes"):
        pair.run()
    assert "test/B.json" in tree(pair.out)
    with pytest.raises(DatasetError, match="not among these"):
        pair.run(dry_run=True)
    pair.run(force=True, dry_run=True)
    assert "test/B.json" in tree(pair.out)
    assert statuses(pair.run(force=True)) == ["scored"]
    assert "test/B.json" not in tree(pair.out)
    (pair.out / "train").mkdir()
    (pair.out / "train" / "mine.json").write_text("{}")
    for force in (False, True):
        with pytest.raises(DatasetError, match=r"mine\.json: scores of a track that is not among these: "):
            pair.run(force=force)
    assert "train/mine.json" in tree(pair.out)


def changed(**entries: Any) -> Callable[[dict[str, Any]], str]:
    return lambda record: json.dumps(record | entries)


def without(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda record: json.dumps({key: value for key, value in record.items() if key != name})


def with_scores(**entries: Any) -> Callable[[dict[str, Any]], str]:
    return lambda record: json.dumps(record | {"scores": record["scores"] | entries})


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda _: "null",
        lambda _: "[]",
        lambda _: "[" * 100_000,
        lambda record: json.dumps(record)[:-9],
        *(without(name) for name in ("version", "settings", "inputs", "scores", "independence", "notes")),
        changed(version=99),
        changed(settings=[]),
        changed(settings="none"),
        changed(inputs=[]),
        changed(inputs={"references": ""}),
        changed(notes=[1]),
        changed(notes=1),
        changed(independence={}),
        changed(independence={"vocals+drums": math.nan}),
        changed(independence={"vocals+drums": math.inf}),
        changed(independence={"vocals+drums": "1"}),
        changed(independence={"vocals+drums": 1.0, "x": 1.0}),
        changed(scores=[]),
        with_scores(track="B"),
        with_scores(subset="train"),
        with_scores(scenarios=[]),
        with_scores(scenarios=[{"targets": ["x", "\ud800"], "frames": {"x": {}, "\ud800": {}}}]),
        lambda record: json.dumps(record | {"independence": {"vocals+x": 1.0}}).replace('"drums"', '"x"'),
        with_scores(whole={"\ud800": {"SNR": 1}}),
    ],
)
def test_a_record_that_makes_no_sense_counts_as_none(pair: Case, damage: Callable[[dict[str, Any]], str]) -> None:
    pair.run()
    before = tree(pair.out)
    path = pair.out / scoring.RECORDS / "test" / "A.json"
    path.write_text(damage(json.loads(path.read_text())))
    result = pair.run()
    assert (statuses(result), result.failed) == (["scored", "already there"], {})
    assert tree(pair.out) == before


class Killed(BaseException):
    """Stops a run at once, as kill -9 does."""


@pytest.mark.parametrize("start", ["nothing", "other estimates"])
def test_killed_between_any_two_writes_and_run_again(
    pair: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    if start == "other estimates":
        other = {path: path.read_bytes() for path in pair.estimates.rglob("*.wav")}
        for name in ("A", "B"):
            write(pair.estimates / "test" / name, draw(pair.rng, "vocals", "drums"))
        pair.run()
        for path, content in other.items():
            path.write_bytes(content)
        shutil.copytree(pair.out, tmp_path / "start")
    pair.run(out=tmp_path / "undisturbed")
    nb_steps = 0
    for allowed in range(100):
        shutil.rmtree(pair.out, ignore_errors=True)
        if start != "nothing":
            shutil.copytree(tmp_path / "start", pair.out)
        left = allowed

        def step(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return method(*arguments, **options)

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                method = getattr(Path, name)
                patch.setattr(Path, name, lambda *a, method=method, **k: step(method, *a, **k))
            try:
                pair.run()
                killed = False
            except Killed:
                killed = True
        nb_steps += killed
        assert pair.run().failed == {}
        found = {name: content for name, content in tree(pair.out).items() if not name.endswith(".partial")}
        assert {name for name in tree(pair.out) if "scores.csv" in name} == {"scores.csv"}
        assert found == tree(tmp_path / "undisturbed")
        if not killed:
            break
    assert not killed
    assert nb_steps >= 6


@pytest.mark.slow
def test_killed_ten_times_and_run_once_equals_an_undisturbed_run(case: Case) -> None:
    for i in range(8):
        case.add(f"Song - {i}", "vocals", "drums")
    case.run(FULL, out=case.out.with_name("undisturbed"))
    command = [sys.executable, "-m", "musdbkit", "score", str(case.estimates), "--musdb", str(case.refs), "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    killed = 0
    for _ in range(10):
        for path in [*case.out.rglob("*.json")]:  # keep something to do
            if case.rng.random() < 0.4:
                path.unlink()
        for path in list((case.out / "test").glob("*.json")):
            if not (case.out / scoring.RECORDS / "test" / path.name).exists():
                path.unlink()  # else it would be another program's
        process = subprocess.Popen(
            [*command, "--out", str(case.out)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        before = set(case.out.rglob("*"))
        while process.poll() is None and not set(case.out.rglob("*")) - before:
            time.sleep(0.002)
        time.sleep(case.rng.random() * 0.3)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed
    assert case.run(FULL).failed == {}
    found = {name: content for name, content in tree(case.out).items() if not name.endswith(".partial")}
    assert found == tree(case.out.with_name("undisturbed"))


# Where it runs


def test_nothing_depends_on_jobs_or_threads(case: Case) -> None:
    for name in ("A", "B"):
        case.add(name, "vocals", "drums", "accompaniment", song=draw_song(case.rng, nb_samples=4 * RATE, nb_channels=1))
    case.run(Settings(metrics=tuple(METRICS)))
    case.run(Settings(metrics=tuple(METRICS)), jobs=2, out=case.out.with_name("two"))
    assert tree(case.out) == tree(case.out.with_name("two"))


def test_nothing_depends_on_the_number_of_threads(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.add("A", "vocals", "drums", song=draw_song(case.rng, nb_samples=6 * RATE))
    for nb_cores in (1, 3):
        monkeypatch.setattr(scoring, "nb_cores", lambda nb_cores=nb_cores: nb_cores)
        case.run(Settings(metrics=tuple(METRICS)), out=case.out / str(nb_cores))
    assert tree(case.out / "1") == tree(case.out / "3")


def test_jobs_are_bounded_by_memory(
    pair: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("C", "D", "E"):
        pair.add(name, "vocals", "drums")
    pairs = [(r, {"vocals": Path(), "drums": Path()}) for r in find_references(pair.refs)]
    need = max(scoring._memory_bytes(reference, files, FULL) for reference, files in pairs)

    def limit(available: float, jobs: int | None = 4, device: str = "cpu", **options: Any) -> int:
        monkeypatch.setattr(scoring, "available_memory", lambda: available)
        return scoring._limit(Parallel(jobs), pairs, FULL, device, **options)

    assert [limit(n * need) for n in (0, 0.9, 1.1, 2.1, 100)] == [1, 1, 1, 2, 4]
    assert f"jobs: 2 instead of 4: each needs {need / 1e9:.1f} GB of memory" in capsys.readouterr().err
    assert [limit(100 * need, jobs) for jobs in (1, 5, 9)] == [1, 5, 5]
    assert limit(100 * need, device="cuda") == 2
    monkeypatch.setattr(scoring, "nb_cores", lambda: 3)
    capsys.readouterr()
    assert [limit(100 * need, None), limit(need, None)] == [3, 1]
    assert capsys.readouterr().err == ""
    assert scoring._limit(Parallel(7, "dask"), pairs, FULL, "cpu") == 7


def test_memory_grows_with_what_is_computed(pair: Case) -> None:
    reference = find_references(pair.refs)[0]
    two, four = ({target: Path() for target in targets} for targets in (("vocals", "drums"), musdb18.STEMS))
    sizes = [scoring._memory_bytes(reference, files, settings) for settings in (SDR, FULL) for files in (two, four)]
    assert sizes == sorted(sizes)
    assert 3e8 <= sizes[0] < sizes[-1] < 2e9
    assert 1e8 < available_memory() < 1e14


def test_auto_is_no_gpu_where_there_is_none_that_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [scoring._choose_device(device) for device in ("cpu", "cuda:1")] == ["cpu", "cuda:1"]
    if not Path("/dev/nvidiactl").exists():
        assert scoring._choose_device("auto") == "cpu"
    torch = type(sys)("torch")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(scoring.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    for there, capability, device in (
        (False, (9, 0), "cpu"),
        (True, (9, 0), "cuda"),
        (True, (8, 0), "cuda"),
        (True, (8, 9), "cpu"),
        (True, (12, 0), "cpu"),
    ):
        torch.cuda = type("cuda", (), {"is_available": lambda: there, "get_device_capability": lambda: capability})  # type: ignore[attr-defined] # noqa: B023
        assert scoring._choose_device("auto") == device


def test_an_unusable_device_is_refused_and_costs_no_score(pair: Case) -> None:
    pair.run()
    before = {path: path.read_bytes() for path in pair.out.rglob("*") if path.is_file()}
    with pytest.raises(ParameterError, match="device no-such-device"):
        pair.run(device="no-such-device", force=True)
    assert {path: path.read_bytes() for path in pair.out.rglob("*") if path.is_file()} == before


# Dry runs, and museval itself


def test_a_dry_run_writes_nothing_and_counts(pair: Case) -> None:
    assert statuses(pair.run(dry_run=True)) == ["to score"] * 2
    assert not pair.out.exists()
    pair.run()
    before = tree(pair.out)
    write(pair.estimates / "test" / "B", draw(pair.rng, "drums"))
    result = pair.run(dry_run=True, verify=2)
    assert statuses(result) == ["already there", "to score"]
    assert (result.failed, result.verified) == ({}, {})
    assert scoring.summarise(result)["tracks"] == {"already there": 1, "to score": 1}
    assert statuses(pair.run(dry_run=True, force=True)) == ["to score"] * 2
    (pair.out / "test" / "A.json").unlink()
    del before["test/A.json"]
    pair.run(dry_run=True)
    assert tree(pair.out) == before


@pytest.fixture
def tiny(case: Case) -> Case:
    """Three tracks of two seconds with two mono targets, cheap for museval, one with a silent second."""
    for name in ("A", "B", "C"):
        song = draw_song(case.rng, nb_samples=2 * RATE, nb_channels=1)
        if name == "B":
            song["vocals"][:RATE] = 0
        case.add(name, "vocals", "drums", song=song)
    return case


def test_verify_computes_with_museval_too(tiny: Case) -> None:
    result = tiny.run(FULL, verify=2)
    assert result.failed == {}
    assert list(result.verified) == ["test/A", "test/B"]
    assert all(each.metrics == scores.FRAME_METRICS for each in result.verified.values())
    assert max(each.difference for each in result.verified.values()) < 1e-6
    assert tiny.protocol()["tracks"]["verified"]["test/B"]["difference"] == result.verified["test/B"].difference


def test_verify_takes_rounding_errors_for_what_they_are(tiny: Case) -> None:
    for name, song in tiny.songs.items():  # perfect estimates: ISR, SIR and SAR are some 300 dB of rounding errors
        write(tiny.estimates / "test" / name, {target: song[target] for target in ("vocals", "drums")})
    result = tiny.run(FULL, verify=1)
    assert result.failed == {}
    assert list(result.verified) == ["test/A"]


def test_verify_takes_as_many_tracks_as_asked_for(tiny: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_verify_track", lambda job: scoring.Verified((), 0.0))
    for number, names in ((0, ""), (1, "A"), (2, "AB"), (3, "ABC"), (9, "ABC")):
        assert list(tiny.run(verify=number).verified) == [f"test/{name}" for name in names]


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [
        ("SDR", 0.001, r"SDR of drums in vocals\+drums, frame 1: \S+ dB, museval \S+"),
        ("SIR", -0.001, r"SIR of drums in vocals\+drums, frame 1: \S+ dB, museval \S+"),
        ("SAR", "inf", r"SAR of drums in vocals\+drums, frame 1: inf dB, museval \S+"),
        ("ISR", None, r"drums in vocals\+drums: museval drops other frames of ISR"),
    ],
)
def test_verify_finds_a_score_that_is_not_musevals(tiny: Case, metric: str, value: Any, message: str) -> None:
    tiny.run(FULL)
    path = tiny.out / scoring.RECORDS / "test" / "A.json"
    record = json.loads(path.read_text())
    frames = record["scores"]["scenarios"][0]["frames"]["drums"][metric]
    frames[1] = frames[1] + value if isinstance(value, float) else value
    path.write_text(json.dumps(record))
    result = tiny.run(FULL, verify=1)
    assert statuses(result) == ["already there"] * 3
    assert list(result.failed) == ["test/A"]
    assert re.fullmatch(f"verification failed: {message}", result.failed["test/A"])


def test_musevals_own_code_gives_the_same(tiny: Case) -> None:
    fast = tiny.run(FULL)
    own = tiny.run(replace(FULL, engine="museval"), out=tiny.out.with_name("own"))
    keys = ["track", "target", "scenario", "frame", "metric"]
    assert fast.table[keys].equals(own.table[keys])
    np.testing.assert_allclose(fast.table["value"], own.table["value"], atol=1e-5, rtol=0)
    assert np.isnan(fast.table["value"]).sum() == 8
    assert not np.array_equal(fast.table["value"], own.table["value"], equal_nan=True)  # it was other code indeed


def test_musevals_own_errors_are_named(tiny: Case) -> None:
    write(tiny.estimates / "test" / "A", {"drums": np.zeros((2 * RATE, 1), np.int16)})
    result = tiny.run(replace(FULL, engine="museval"))
    assert list(result.done) == ["test/B", "test/C"]
    assert result.failed["test/A"].startswith("museval: ValueError: ")


def test_a_summary_is_strict_json(pair: Case) -> None:
    pair.run()
    write(pair.estimates / "test" / "A", {"piano": pair.songs["A"]["vocals"]})
    summary = json.loads(json.dumps(scoring.summarise(pair.run()), allow_nan=False))
    assert summary["tracks"] == {"already there": 2}
    assert summary["notes"] == ["test/A: piano: not among the reference's targets"]
    vocals = summary["scores"]["sisec18"]["vocals"]["SDR"]
    table = scores.aggregate(scores.load(pair.out), "sisec18")
    assert vocals == pytest.approx(table.loc["vocals", "SDR"])


# What others made, and what is left behind


@pytest.mark.parametrize("name", scoring.TABLES)
def test_tables_of_others_are_not_replaced(pair: Case, name: str) -> None:
    pair.out.mkdir()
    (pair.out / name).write_text("precious")
    with pytest.raises(DatasetError, match=f"{name}: was not made by score: choose another --out"):
        pair.run()
    assert [path.name for path in pair.out.iterdir()] == [name]
    assert pair.run(force=True).failed == {}


def test_an_out_that_is_a_file_is_refused(pair: Case) -> None:
    pair.out.write_text("")
    with pytest.raises(DatasetError, match="is a file, expected a folder to write to"):
        pair.run()


def test_tables_go_before_a_track_is_scored_anew(pair: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.run()
    write(pair.estimates / "test" / "A", {"vocals": np.ones((3 * RATE, 2), np.int16)})
    seen = []
    monkeypatch.setattr(scoring, "_compute", lambda job: seen.append(sorted(p.name for p in pair.out.iterdir())))
    pair.run()
    assert seen == [[".records", "test"]]


def test_changed_settings_are_refused_though_targets_change_too(pair: Case) -> None:
    pair.run(replace(SDR, silence="per-target"))
    (pair.estimates / "test" / "A" / "drums.wav").unlink()
    result = pair.run(SDR, allow_missing=True)
    assert "silence was per-target, now museval" in result.failed["test/A"]


def test_unfinished_files_of_dead_processes_are_removed(pair: Case) -> None:
    pair.run()
    dead = pair.out / "test" / f".musdbkit-0123456789abcdef-{2**22 + 1}.partial"
    living = pair.out / "test" / f".musdbkit-0123456789abcdef-{os.getpid()}.partial"
    for path in (dead, living):
        path.write_text("")
    pair.run()
    assert (dead.exists(), living.exists()) == (False, True)


def test_files_that_no_target_needs_do_not_matter(pair: Case) -> None:
    write(pair.refs / "test" / "A", {"bass": np.zeros((10, 1), np.int16)})
    assert pair.run().failed == {}


def test_less_than_a_sample_is_refused(pair: Case) -> None:
    refuse(pair, "window 1e-05 s is less than a sample at 8000 Hz", settings=replace(SDR, window_seconds=1e-5),
           tracks=("test/A", "test/B"))  # fmt: skip


def test_scores_of_other_settings_say_so(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    scoring.print_result(pair.run(replace(SDR, window_seconds=0.5)), Console())
    assert "frames of 0.5 s every 1 s" in capsys.readouterr().out
    scoring.print_result(pair.run(SDR, out=pair.out / "usual"), Console())
    assert "not comparable" not in capsys.readouterr().out


def test_without_frames_there_is_no_json_that_museval_could_not_read(pair: Case) -> None:
    result = pair.run(Settings(metrics=("usdr",)))
    assert result.failed == {}
    assert not (pair.out / "test").exists()
    assert statuses(pair.run(Settings(metrics=("usdr",)))) == ["already there"] * 2
