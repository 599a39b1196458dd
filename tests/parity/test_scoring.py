"""Scoring against museval.eval_mus_dir, its stores and eval_mus_track, on a synthetic dataset in each layout."""

import json
import math
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from musdbkit import audio, musdb18, scores, scoring
from musdbkit.bsseval import IllConditionedWarning
from musdbkit.convert import convert
from musdbkit.errors import ParameterError
from musdbkit.scores import FRAME_METRICS, PAIR
from musdbkit.scoring import find_references
from musdbkit.synth import synth
from musdbkit.tracks import Parallel, find_tracks, read_stems
from tests.conftest import require_ffmpeg

ROUNDED = 1.5e-5
"""Values in the JSON are rounded to five decimals, of values that differ by 1e-5 at most."""

ALL = (*musdb18.STEMS, "accompaniment")
SCENARIOS = [
    ("vocals", "drums"),
    ("vocals", "drums", "accompaniment"),
    *(pytest.param(targets, marks=pytest.mark.slow) for targets in (musdb18.STEMS, ALL)),  # museval needs 8 s for four
]
NB_TRACKS = {("vocals", "drums"): 2}


@pytest.fixture(scope="module")
def museval() -> ModuleType:
    require_ffmpeg()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import museval

    return museval


@pytest.fixture(scope="module")
def musdb(museval: ModuleType) -> ModuleType:
    import musdb

    return musdb  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tracks, as stem files and as wav files."""
    root = tmp_path_factory.mktemp("dataset")
    synth(root / "stems", train=0, valid=0, test=2, seconds=4, parallel=Parallel(1))
    convert(root / "stems", root / "wav", parallel=Parallel(1))
    return {layout: root / layout for layout in ("stems", "wav")}


def estimate(root: Path, out: Path, targets: tuple[str, ...], nb_tracks: int = 2) -> Path:
    """Write estimates of some tracks: the true signals with noise and some of the mixture, drums with a pause."""
    rng = np.random.default_rng(0)
    for track in find_tracks(root, ["test"])[:nb_tracks]:
        stems = {s: x / 2**15 for s, x in read_stems(track, musdb18.STREAMS).items()}
        folder = out / track.subset / track.name
        folder.mkdir(parents=True)
        for target in targets:
            truth = np.sum([stems[stem] for stem in musdb18.TARGETS[target]], axis=0)
            samples = truth + 0.1 * stems["mixture"] + 0.003 * rng.standard_normal(truth.shape)
            if target == "drums":
                samples[44_100:88_200] = 0
            audio.write(folder / f"{target}.wav", audio.quantise(samples[:-40], "PCM_16"), 44_100)
    return out


def score(root: Path, estimates: Path, out: Path) -> scoring.Result:
    result = scoring.score(estimates, find_references(root), out, allow_missing=True, parallel=Parallel(1))
    assert result.failed == {}
    return result


def read_frames(path: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return a museval JSON's values by target and metric."""
    document = json.loads(path.read_text())
    return {
        target["name"]: {
            metric: np.array([frame["metrics"][metric] for frame in target["frames"]]) for metric in FRAME_METRICS
        }
        for target in document["targets"]
    }


def without_values(document: Any) -> Any:
    """Return a JSON document with all values but NaN replaced."""
    if isinstance(document, dict):
        return {key: without_values(value) for key, value in document.items()}
    if isinstance(document, list):
        return [without_values(value) for value in document]
    return ("nan" if math.isnan(document) else "number") if isinstance(document, float) else document


@pytest.fixture(scope="module")
def evaluated(
    museval: ModuleType, musdb: ModuleType, roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Return a function that writes estimates of some targets, and what museval.eval_mus_dir writes for them."""
    made: dict[tuple[str, ...], tuple[Path, Path]] = {}

    def make(targets: tuple[str, ...]) -> tuple[Path, Path]:
        if targets not in made:
            folder = tmp_path_factory.mktemp("estimates")
            estimates = estimate(roots["wav"], folder / "estimates", targets, NB_TRACKS.get(targets, 1))
            database = musdb.DB(root=str(roots["wav"]), is_wav=True, subsets="test")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                museval.eval_mus_dir(database, str(estimates), output_dir=str(folder / "theirs"))
            made[targets] = estimates, folder / "theirs"
        return made[targets]

    return make


@pytest.mark.parametrize("targets", SCENARIOS)
def test_files_are_those_of_eval_mus_dir(
    evaluated: Any, roots: dict[str, Path], tmp_path: Path, targets: tuple[str, ...]
) -> None:
    estimates, theirs = evaluated(targets)
    score(roots["wav"], estimates, tmp_path)
    paths = sorted(theirs.rglob("*.json"))
    assert len(paths) == NB_TRACKS.get(targets, 1)
    assert [p.relative_to(tmp_path) for p in sorted(tmp_path.glob("t*/*.json"))] == [
        p.relative_to(theirs) for p in paths
    ]
    for path in paths:
        ours = tmp_path / path.relative_to(theirs)
        assert without_values(json.loads(ours.read_text())) == without_values(json.loads(path.read_text()))
        expected, found = read_frames(path), read_frames(ours)
        assert list(found) == list(expected)
        for target, by_metric in expected.items():
            for metric, values in by_metric.items():
                np.testing.assert_allclose(found[target][metric], values, rtol=0, atol=ROUNDED)
                in_pair = target in PAIR and "accompaniment" in targets
                assert np.isnan(values).tolist() == [False, not in_pair, False, False]  # where the drums pause


@pytest.mark.parametrize("targets", SCENARIOS)
def test_stem_files_give_nearly_the_same(
    evaluated: Any, roots: dict[str, Path], tmp_path: Path, targets: tuple[str, ...]
) -> None:
    """musdb decodes with the ffmpeg program, whose version is another than PyAV's."""
    estimates, theirs = evaluated(targets)
    score(roots["stems"], estimates, tmp_path)
    for path in sorted(theirs.rglob("*.json")):
        found = read_frames(tmp_path / path.relative_to(theirs))
        for target, by_metric in read_frames(path).items():
            for metric, values in by_metric.items():
                tolerance = ROUNDED if metric == "SDR" else 5e-3
                np.testing.assert_allclose(found[target][metric], values, rtol=0, atol=tolerance)


def test_musevals_store_gives_our_table(
    museval: ModuleType, evaluated: Any, roots: dict[str, Path], tmp_path: Path
) -> None:
    estimates, _ = evaluated(("vocals", "drums"))
    result = score(roots["wav"], estimates, tmp_path)
    store = museval.EvalStore()
    store.add_eval_dir(tmp_path)
    theirs = store.agg_frames_tracks_scores()
    ours = scores.aggregate(result.table, "sisec18")
    assert len(theirs) == 2 * 4
    for (target, metric), value in theirs.items():
        assert ours.loc[target, metric] == value


@pytest.mark.parametrize("targets", [("vocals", "drums"), pytest.param(ALL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", ["wav", pytest.param("stems", marks=pytest.mark.slow)])
def test_eval_mus_track_is_musevals(
    museval: ModuleType,
    musdb: ModuleType,
    evaluated: Any,
    roots: dict[str, Path],
    tmp_path: Path,
    layout: str,
    targets: tuple[str, ...],
) -> None:
    estimates, _ = evaluated(targets)
    track = musdb.DB(root=str(roots[layout]), is_wav=layout == "wav", subsets="test").tracks[0]
    arrays = {t: audio.read(estimates / "test" / track.name / f"{t}.wav") for t in targets[::-1]}
    theirs = museval.eval_mus_track(track, arrays, output_dir=str(tmp_path / "theirs"), win=1.0, hop=0.5)
    ours = scoring.eval_mus_track(track, arrays, output_dir=tmp_path / "ours", win=1.0, hop=0.5)
    assert type(ours) is type(theirs)
    files = [tmp_path / name / "test" / f"{track.name}.json" for name in ("ours", "theirs")]
    assert files[0].read_text() == ours.json
    for path in files:
        assert set(read_frames(path)) == set(targets)
    expected, found = read_frames(files[1]), read_frames(files[0])
    assert list(found) == list(expected)
    for target, by_metric in expected.items():
        for metric, values in by_metric.items():
            np.testing.assert_allclose(found[target][metric], values, rtol=0, atol=ROUNDED)
    keys = ["time", "target", "metric"]
    assert ours.df[keys].equals(theirs.df[keys])
    np.testing.assert_allclose(ours.df["score"].astype(float), theirs.df["score"].astype(float), rtol=0, atol=ROUNDED)
    assert str(ours).splitlines()[0].split()[0] == str(theirs).splitlines()[0].split()[0]
    ours.validate()


def make_track(rng: np.random.Generator) -> SimpleNamespace:
    """Return what of musdb's Track is used."""
    targets = {t: SimpleNamespace(audio=rng.integers(-9, 9, (44_100, 2)) / 2**15) for t in ("vocals", "drums", "bass")}
    return SimpleNamespace(name="A", subset="test", rate=44_100, targets=targets)


def test_eval_mus_track_refuses_what_does_not_fit(museval: ModuleType, rng: np.random.Generator) -> None:
    track = make_track(rng)
    with pytest.raises(ParameterError, match="A: no estimates of its targets: expected some of vocals, drums, bass"):
        scoring.eval_mus_track(track, {"piano": track.targets["bass"].audio})
    with pytest.raises(ParameterError, match=r"A: drums has the shape \(44100, 1\), expected \(44100, 2\)"):
        scoring.eval_mus_track(track, {"vocals": np.ones((44_100, 2)), "drums": np.ones((44_100, 1))})
    with pytest.raises(ParameterError, match="not finite"):
        scoring.eval_mus_track(track, {"vocals": np.full((44_100, 2), np.nan)})


def test_eval_mus_track_gives_a_single_target_its_sdr(museval: ModuleType, rng: np.random.Generator) -> None:
    track = make_track(rng)
    store = scoring.eval_mus_track(track, {"drums": track.targets["drums"].audio * 1.1})
    assert store.df.query("metric == 'SDR'")["score"].astype(float).tolist() == [20.0]


def test_eval_mus_track_warns_of_ill_conditioned_references(museval: ModuleType, rng: np.random.Generator) -> None:
    track = make_track(rng)
    for i, name in enumerate(("vocals", "drums")):
        track.targets[name].audio = np.sin(np.arange(44_100)[:, None] * [0.1 + i, 0.13]) ** 3
    estimates = {name: track.targets[name].audio + 0.01 for name in ("vocals", "drums")}
    with pytest.warns(IllConditionedWarning, match="determine the filters only to"):
        scoring.eval_mus_track(track, estimates)
