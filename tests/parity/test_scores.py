"""Scores against museval's own stores: the same text, and the same aggregates of it."""

import warnings
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from musdbkit import musdb18, scores
from musdbkit.compare import compare
from musdbkit.methods import load_methods
from musdbkit.scores import FRAME_METRICS, PAIR, Scenario, TrackScores
from tests.conftest import require_ffmpeg

STEMS = ("vocals", "drums", "bass", "other")
ROUNDED = (0.000005, -0.000005, 0.000015, -1e-9, 12.345675, 0.1, -0.0, 5e-324, 1e15, np.inf, -np.inf, np.nan, 123.0)
"""Values on and beside the halves of the fifth decimal, and those that museval does not keep."""


@pytest.fixture
def museval() -> ModuleType:
    require_ffmpeg()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import museval

    return museval


def draw(rng: np.random.Generator, targets: tuple[str, ...], nb_frames: int) -> Scenario:
    """Return a scenario of drawn values, some dropped, with infinities and hard cases of rounding."""
    values = rng.normal(5, 8, (len(targets), len(FRAME_METRICS), nb_frames))
    values[rng.random(values.shape) < 0.1] = np.inf
    values[..., rng.random(nb_frames) < 0.2] = np.nan
    values[0, :, : len(ROUNDED)] = ROUNDED[:nb_frames]
    values[-1, 0, : len(ROUNDED)] = ROUNDED[:nb_frames]
    return Scenario(
        targets,
        {
            target: {metric: tuple(row.tolist()) for metric, row in zip(FRAME_METRICS, rows, strict=True)}
            for target, rows in zip(targets, values, strict=True)
        },
    )


def museval_writes(museval: ModuleType, track: TrackScores, out: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what museval.eval_mus_track writes, given our values in place of its evaluation."""
    by_number = {len(scenario.targets): scenario for scenario in track.scenarios}

    def evaluate(references: list[Any], *_: object, **__: object) -> list[np.ndarray]:
        scenario = by_number[len(references)]
        return [np.array([scenario.frames[t][m] for t in scenario.targets]) for m in FRAME_METRICS]

    monkeypatch.setattr(museval, "evaluate", evaluate)
    estimated = {target for scenario in track.scenarios for target in scenario.targets}
    targets = OrderedDict((target, SimpleNamespace(audio=target)) for target in musdb18.TARGETS)
    song = SimpleNamespace(name=track.track, subset=track.subset, rate=44100, targets=targets)
    museval.eval_mus_track(
        song, dict.fromkeys(estimated, 0), output_dir=str(out), win=track.window_seconds, hop=track.hop_seconds
    )
    return (out / track.subset / f"{track.track}.json").read_text()


@pytest.mark.parametrize("with_pair", [False, True])
@pytest.mark.parametrize(("win", "hop"), [(1.0, 1.0), (2.0, 1.5), (0.1, 0.1), (1, 1)])
def test_text_is_musevals(
    with_pair: bool,
    win: float,
    hop: float,
    museval: ModuleType,
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenarios = (draw(rng, STEMS, 20), draw(rng, PAIR, 20))[: 1 + with_pair]
    track = TrackScores('M.E.R.C. "Ü" - Knockout', "test", win, hop, scenarios, {"vocals": {"uSDR": 1.0}})
    assert scores.museval_json(track) == museval_writes(museval, track, tmp_path, monkeypatch)


def test_text_of_the_pair_alone_is_musevals(
    museval: ModuleType, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = TrackScores("A", "train", 1.0, 1.0, (draw(rng, PAIR, 3),), {})
    assert scores.museval_json(track) == museval_writes(museval, track, tmp_path, monkeypatch)


@pytest.mark.parametrize("targets", [(), ("vocals",), ('odd "name"\n\x7f\u2028é',)])
def test_text_is_a_track_stores(targets: tuple[str, ...], museval: ModuleType) -> None:
    values = {"SDR": ROUNDED}
    track = TrackScores("A", "test", 1.0, 1.0, tuple(Scenario((t,), {t: values}) for t in targets), {})
    store = museval.TrackStore("A", win=1.0, hop=1.0)
    for target in targets:
        store.add_target(target, values | {metric: [np.nan] * len(ROUNDED) for metric in ("ISR", "SIR", "SAR")})
    assert scores.museval_json(track) == store.json


def test_text_fits_musevals_schema(museval: ModuleType, rng: np.random.Generator) -> None:
    import jsonschema
    import simplejson

    track = TrackScores("A", "test", 1.0, 1.0, (draw(rng, ("vocals", "drums"), 20), draw(rng, PAIR, 20)), {})
    document = simplejson.loads(scores.museval_json(track), allow_nan=True)
    assert len(document["targets"]) == 3
    schema = museval.TrackStore("A").schema
    jsonschema.validate(document, schema)
    document["targets"][0]["frames"][0]["metrics"]["SDR"] = "1"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_aggregates_are_musevals(museval: ModuleType, rng: np.random.Generator, tmp_path: Path) -> None:
    tracks = []
    for i, name in enumerate(("M.E.R.C. Music - Knockout", "B", "C, D", "E", "F", "G")):
        scenarios = [draw(rng, STEMS, 14 + i), draw(rng, PAIR, 14 + i)]
        if name == "B":  # bass was silent all the time
            scenarios[0].frames["bass"] = {metric: (np.nan,) * 15 for metric in FRAME_METRICS}
        tracks.append(TrackScores(name, "test", 1.0, 1.0, tuple(scenarios[: 2 - (name == "G")]), {}))
    silent = {metric: (np.nan,) * 3 for metric in FRAME_METRICS}
    tracks.append(
        TrackScores("H", "test", 1.0, 1.0, (Scenario(("piano", "hum"), {"piano": silent, "hum": silent}),), {})
    )
    folder = tmp_path / "method" / "test"
    folder.mkdir(parents=True)
    for track in tracks:
        (folder / f"{track.track}.json").write_text(scores.museval_json(track))

    store, methods = museval.EvalStore(), museval.MethodStore()
    store.add_eval_dir(tmp_path / "method")
    methods.add_eval_dir(tmp_path / "method")
    expected = store.agg_frames_tracks_scores()
    assert len(expected) == 7 * 4
    for frame in (scores.to_frame(tracks), scores.load(tmp_path / "method")):
        table = scores.aggregate(frame, "sisec18")
        assert tuple(table.columns) == FRAME_METRICS
        assert list(table.index) == [*STEMS, "accompaniment", "hum", "piano"]
        for (target, metric), value in expected.items():
            np.testing.assert_array_equal(table.loc[target, metric], value)
            np.testing.assert_array_equal(methods.agg_frames_tracks_scores()["method"][target][metric], value)
    assert table.notna().sum().sum() == 5 * 4
    for metric in FRAME_METRICS:
        cells = compare(load_methods([tmp_path / "method"]), metric=metric).cells["method"]
        values = {target: cell.value for target, cell in cells.items()}
        np.testing.assert_equal(values, {target: expected[target, metric] for target in table.index})
