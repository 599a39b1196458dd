"""Methods side by side: values, ranks, tests, and what may not stand together."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musdbkit import musdb18, scores, sisec18, stats
from musdbkit.compare import Comparison, compare
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.methods import Method, load_methods
from tests.museval_json import write_submission, write_track, write_values
from tests.test_methods import FOUR, write_ours

NAMES = tuple(f"T{i:02}" for i in range(50))


def write_column(folder: Path, values: np.ndarray, *, target: str = "vocals", names: tuple[str, ...] = NAMES) -> Path:
    """Write one value for each track."""
    write_values(folder, {name: {target: float(value)} for name, value in zip(names, values, strict=True)})
    return folder


def run(*paths: Path, **options: object) -> Comparison:
    return compare(load_methods(paths), **options)  # type: ignore[arg-type]


@pytest.fixture
def tracks() -> np.ndarray:
    """Scores of 50 tracks that vary as MUSDB18's do."""
    return np.random.default_rng(1).normal(6, 3, 50)


@pytest.mark.parametrize("method", ["TAK1", "HEL1", "2DFT", "IRM2", "MIX"])
def test_medians_are_those_of_the_reference_table(tmp_path: Path, method: str) -> None:
    write_submission(tmp_path / method, method)
    published = sisec18.read_medians()[method]
    for metric in scores.FRAME_METRICS:
        comparison = run(tmp_path / method, metric=metric)
        assert set(comparison.targets) == set(published) == set(comparison.cells[method])
        for target, cell in comparison.cells[method].items():
            assert cell.value == pytest.approx(published[target][metric], abs=1e-5)
            assert cell.interval.low < cell.value < cell.interval.high
            assert (cell.nb_tracks, cell.nb_missing, cell.rank, cell.best) == (50, 0, None, False)
        assert comparison.reference[method] == {target: values[metric] for target, values in published.items()}


def test_values_are_those_of_the_aggregation(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name in ("A", "B", "C"):
        frames = {target: {"SDR": list(rng.normal(5, 4, 9)), "SAR": list(rng.normal(5, 4, 9))} for target in FOUR}
        frames["bass"]["SDR"][2] = math.nan
        write_track(tmp_path / "m" / "test", name, frames)
    table = scores.load(tmp_path / "m")
    for aggregation in ("sisec18", "demucs-mean"):
        for metric in ("SDR", "SAR"):
            comparison = run(tmp_path / "m", metric=metric.lower(), aggregation=aggregation)
            expected = scores.aggregate(table, aggregation)[metric]
            assert {target: cell.value for target, cell in comparison.cells["m"].items()} == pytest.approx(
                {target: expected[target] for target in FOUR}
            )
            assert (comparison.metric, comparison.aggregation) == (metric, aggregation)


def test_a_planted_difference_is_found_and_a_shuffled_one_is_not(tmp_path: Path, tracks: np.ndarray) -> None:
    better = tracks + 0.3 + np.random.default_rng(3).normal(0, 0.5, 50)
    a, b = write_column(tmp_path / "a", tracks), write_column(tmp_path / "b", better)
    found = run(a, b)
    cell, pair = found.cells["b"]["vocals"], found.pairs["b"]["vocals"]
    assert cell.best
    assert (cell.rank, found.cells["a"]["vocals"].rank) == (1, 2)
    assert pair.difference == pytest.approx(0.3, abs=0.15)
    assert pair.wins > 30
    assert found.rankings[0].find_p("a", "b") == found.rankings[0].find_p("b", "a") < 0.001
    assert 0.1 < pair.resolvable < 0.3
    shuffled = run(a, write_column(tmp_path / "c", np.random.default_rng(4).permutation(better)))
    assert not any(cell.best for by_target in shuffled.cells.values() for cell in by_target.values())
    assert shuffled.rankings[0].find_p("a", "c") > 0.05


def test_order_of_files_and_methods_changes_no_value(tmp_path: Path, tracks: np.ndarray) -> None:
    b = tracks + np.random.default_rng(3).normal(0.3, 0.5, 50)
    write_column(tmp_path / "a", tracks)
    write_column(tmp_path / "b", b[::-1], names=NAMES[::-1])
    forth, back = run(tmp_path / "a", tmp_path / "b"), run(tmp_path / "b", tmp_path / "a")
    assert forth.cells == back.cells
    pair, other = forth.pairs["b"]["vocals"], back.pairs["a"]["vocals"]
    assert pair.difference == -other.difference
    assert (pair.wins, pair.losses, pair.resolvable) == (other.losses, other.wins, other.resolvable)


def test_of_three_only_what_beats_all_others_is_best(tmp_path: Path, tracks: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    for name, ahead in (("a", 0.0), ("b", 1.0), ("c", 1.02)):
        write_column(tmp_path / name, tracks + ahead + rng.normal(0, 0.3, 50))
    comparison = run(*(tmp_path / name for name in "abc"))
    (ranking,) = comparison.rankings
    assert ranking.methods == ("a", "b", "c")
    assert ranking.friedman is not None
    assert ranking.friedman.p_value < 1e-6
    assert ranking.find_p("a", "b") < 1e-6
    assert ranking.find_p("b", "c") > 0.05
    assert not any(cell["vocals"].best for cell in comparison.cells.values())
    assert {comparison.cells[name]["vocals"].rank for name in "bc"} == {1, 2}
    assert run(tmp_path / "a", tmp_path / "b").cells["b"]["vocals"].best
    assert comparison.baselines == {"a": {}, "b": {"vocals": "a"}, "c": {"vocals": "a"}}


def test_unlike_protocols_are_ranked_together_only_on_request(tmp_path: Path) -> None:
    write_ours(tmp_path / "a", NAMES)
    write_ours(tmp_path / "b", NAMES, silence="per-target")
    write_ours(tmp_path / "c", NAMES)
    paths = [tmp_path / name for name in "abc"]
    apart = run(*paths)
    assert apart.groups == (("a", "c"), ("b",))
    assert apart.differences == {"silence rule": {"museval": ["a", "c"], "per-target": ["b"]}}
    assert {ranking.methods for ranking in apart.rankings} == {("a", "c")}
    assert apart.cells["b"]["vocals"].rank is None
    assert not apart.pairs["b"]
    together = run(*paths, together=True)
    assert together.groups == (("a", "b", "c"),)
    assert together.differences == apart.differences
    assert {ranking.methods for ranking in together.rankings} == {("a", "b", "c")}
    assert set(together.pairs["b"]) == {*FOUR, "accompaniment"}


def test_together_only_common_tracks_count(tmp_path: Path, tracks: np.ndarray) -> None:
    a = write_column(tmp_path / "a", tracks)
    b = write_column(tmp_path / "b", tracks[:40] + 1, names=NAMES[:40])
    apart, together = run(a, b), run(a, b, together=True)
    assert apart.cells["a"]["vocals"].nb_tracks == 50
    assert apart.cells["a"]["vocals"].value == pytest.approx(np.median(tracks), abs=1e-5)
    assert apart.rankings == ()
    assert together.cells["a"]["vocals"].nb_tracks == 40
    assert together.cells["a"]["vocals"].value == pytest.approx(np.median(tracks[:40]), abs=1e-5)
    assert together.pairs["b"]["vocals"].wins == 40
    assert "only tracks that all have are counted: 40" in together.notes
    other = write_column(tmp_path / "other", tracks[:1], names=("Z",))
    with pytest.raises(DatasetError, match="a: no track is in all the scores"):
        run(a, other, together=True)


def test_a_target_is_ranked_within_its_scenario(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for method, targets in (("two", scores.PAIR), ("four", FOUR), ("all", (*FOUR, "accompaniment")), ("four2", FOUR)):
        for name in NAMES[:12]:
            write_track(tmp_path / method / "test", name, {target: {"SDR": [rng.normal(5)]} for target in targets})
    comparison = run(*(tmp_path / name for name in ("two", "four", "all", "four2")))
    assert comparison.targets == ("vocals", "drums", "bass", "other", "accompaniment")
    ranked: dict[str, list[tuple[str, ...]]] = {}
    for ranking in comparison.rankings:
        ranked.setdefault(ranking.target, []).append(ranking.methods)
    assert ranked == {
        "vocals": [("two", "all"), ("four", "four2")],
        "drums": [("four", "all", "four2")],
        "bass": [("four", "all", "four2")],
        "other": [("four", "all", "four2")],
        "accompaniment": [("two", "all")],
    }
    assert comparison.differences == {
        "scenario of vocals": {
            "vocals+accompaniment": ["two", "all"],
            "vocals+drums+bass+other": ["four", "four2"],
        }
    }
    assert comparison.baselines["four2"]["vocals"] == "four"
    apart = {name for name, of in comparison.cells.items() if "vocals" in of and of["vocals"].apart}
    assert apart == {"four", "four2"}
    assert not any(cell.apart for of in comparison.cells.values() for target, cell in of.items() if target != "vocals")
    assert comparison.baselines["all"] == {
        **{"vocals": "two", "accompaniment": "two"},
        **dict.fromkeys(("drums", "bass", "other"), "four"),
    }


def test_oracles_have_no_rank_beside_methods(tmp_path: Path) -> None:
    for name, made in (("ceiling", "irm2"), ("floor", "mix")):
        write_ours(tmp_path / name, separation={"program": "musdbkit oracle", "model": {"name": made}})
    for name in ("a", "b"):
        write_ours(tmp_path / name)
    comparison = run(*(tmp_path / name for name in ("floor", "a", "b", "ceiling")))
    assert {ranking.methods for ranking in comparison.rankings} == {("a", "b")}
    assert comparison.cells["ceiling"]["vocals"].rank is None
    assert {name: of["vocals"] for name, of in comparison.baselines.items() if of} == {
        **{"floor": "a", "b": "a", "ceiling": "a"}  # the first that is no bound
    }
    alone = run(tmp_path / "ceiling", tmp_path / "floor")  # which is the baseline in any order
    assert alone.rankings == ()
    assert set(alone.pairs["ceiling"]) == {*FOUR, "accompaniment"}
    assert not alone.pairs["floor"]


def test_changes_are_the_largest_each_way(tmp_path: Path) -> None:
    base = np.zeros(8)
    change = np.array([0.5, -3, 2, 0, -1, 4, -0.1, math.nan])
    a = write_column(tmp_path / "a", base, names=NAMES[:8])
    b = write_column(tmp_path / "b", base + change, names=NAMES[:8])
    comparison = run(a, b, nb_changes=2)
    found = [(each.track, each.difference) for each in comparison.changes["b"]]
    assert found == [("T05", 4.0), ("T02", 2.0), ("T01", -3.0), ("T04", -1.0)]
    assert comparison.changes["a"] == ()
    assert len(run(a, b, nb_changes=9).changes["b"]) == 6
    assert run(a, b, nb_changes=0).changes["b"] == ()
    assert comparison.cells["b"]["vocals"].nb_missing == 1
    assert "b: vocals has no value in 1 of 8 tracks: silent, or every frame dropped" in comparison.notes
    assert comparison.pairs["b"]["vocals"].nb_left_out == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"metric": "SDR", "aggregation": "demucs-mean"},
            "of frames, in the aggregation sisec18, and these are SDR in",
        ),
        ({"metric": "SNR"}, "and these are SNR in track-mean"),
    ],
)
def test_reference_stands_beside_the_same_aggregation_only(
    tmp_path: Path, options: dict[str, str], reason: str
) -> None:
    row = ("A", "vocals", scores.ALONE, None, "SNR", 1.0)
    frame = [(name, "vocals", "vocals+accompaniment", 0, "SDR", 1.0) for name in musdb18.TEST_TRACKS]
    rows = [",".join(map(str, (f'"{track}"', *rest))).replace("None", "") for track, *rest in (*frame, row)]
    (tmp_path / "scores.csv").write_text("\n".join([",".join(scores.COLUMNS), *rows]) + "\n")
    comparison = run(tmp_path, **options)
    assert comparison.reference == {}
    assert any(reason in note for note in comparison.notes)


def test_reference_stands_beside_the_same_tracks_only(tmp_path: Path, tracks: np.ndarray) -> None:
    some = write_column(tmp_path / "some", tracks[:7], names=musdb18.TEST_TRACKS[:7])
    mine = write_column(tmp_path / "mine", tracks)
    assert run(some).reference == run(mine).reference == {}
    assert any("MUSDB18's 50 test tracks, and here are 7" in note for note in run(some).notes)
    assert any("some of these are not among them" in note for note in run(mine).notes)
    assert any(note.startswith("SiSEC 2018's medians are not shown") for note in run(some).notes)
    forced = run(some, together=True)
    assert forced.reference["TAK1"] == {"vocals": 6.6}
    assert any("not made like the scores of some: they are of MUSDB18's 50" in note for note in forced.notes)
    write_column(tmp_path / "all", tracks, names=musdb18.TEST_TRACKS)
    assert list(run(tmp_path / "all").reference)[:2] == ["IRM2", "MWF"]
    assert run(tmp_path / "all", reference=False).reference == {}
    write_ours(tmp_path / "per-target", musdb18.TEST_TRACKS, silence="per-target")
    assert run(tmp_path / "per-target").reference == {}


def test_wrong_requests_are_named(tmp_path: Path, tracks: np.ndarray) -> None:
    methods: list[Method] = load_methods([write_column(tmp_path / "a", tracks)])
    with pytest.raises(ParameterError, match="no scores to compare"):
        compare([])
    with pytest.raises(ParameterError, match="metric is 'PSNR', expected one of SDR, ISR"):
        compare(methods, metric="PSNR")
    with pytest.raises(ParameterError, match="mdx is not made of SDR, expected sisec18 or demucs-mean"):
        compare(methods, aggregation="mdx")
    with pytest.raises(ParameterError, match="'best' is no aggregation"):
        compare(methods, aggregation="best")
    with pytest.raises(DatasetError, match="a: no uSDR, found SDR: take --metric sdr"):
        compare(methods, metric="usdr")


def test_one_track_has_a_value_and_no_interval(tmp_path: Path) -> None:
    cell = run(write_column(tmp_path / "a", np.array([1.0]), names=("A",))).cells["a"]["vocals"]
    assert (cell.value, cell.nb_tracks) == (1, 1)
    assert math.isnan(cell.interval.low)


def test_a_target_without_any_value_is_last(tmp_path: Path, tracks: np.ndarray) -> None:
    a = write_column(tmp_path / "a", tracks * math.nan)
    b = write_column(tmp_path / "b", tracks)
    comparison = run(a, b)
    assert math.isnan(comparison.cells["a"]["vocals"].value)
    assert comparison.rankings == ()
    assert comparison.cells["b"]["vocals"].rank is None
    write_column(tmp_path / "c", tracks + 1)
    three = run(a, b, tmp_path / "c")  # it takes the others nothing away
    assert three.rankings[0].methods == ("b", "c")
    assert three.cells["c"]["vocals"].best


def test_what_is_worse_track_by_track_is_never_best(tmp_path: Path) -> None:
    """The median of b is greater, but on all but two tracks it is behind."""
    a = np.array([1.0] * 24 + [5.0] * 2 + [9.0] * 24)
    b = a - np.linspace(0.5, 0.6, 50)
    b[24:26] = 6
    paths = write_column(tmp_path / "a", a), write_column(tmp_path / "b", b)
    for order in (paths, paths[::-1]):
        comparison = run(*order)
        assert comparison.cells["b"]["vocals"].rank == 1
        assert comparison.rankings[0].find_p("a", "b") < 0.001
        assert not any(of["vocals"].best for of in comparison.cells.values())
        assert "vocals: b has the higher median, but track by track a is significantly better" in comparison.notes


def test_a_difference_that_counts_as_a_tie_is_not_best(tmp_path: Path, tracks: np.ndarray) -> None:
    a = write_column(tmp_path / "a", tracks)
    near = run(a, write_column(tmp_path / "near", tracks + 0.002))
    assert near.rankings[0].find_p("a", "near") < 0.001
    assert not near.cells["near"]["vocals"].best
    assert near.changes["near"] == ()
    assert near.pairs["near"]["vocals"].ties == 50
    assert run(a, write_column(tmp_path / "ahead", tracks + 0.02)).cells["ahead"]["vocals"].best


def test_targets_are_ranked_on_the_same_tracks_only(tmp_path: Path, tracks: np.ndarray) -> None:
    easy = set(np.argsort(tracks)[-10:])
    for name, chosen, ahead in (("full", set(range(50)), 0), ("partial", easy, -1), ("other", set(range(50)), 2)):
        values = {
            track: {"bass": 1.0, **({"vocals": tracks[i] + ahead} if i in chosen else {})}
            for i, track in enumerate(NAMES)
        }
        write_values(tmp_path / name, values)
    paths = [tmp_path / name for name in ("full", "partial", "other")]
    comparison = run(*paths)
    assert comparison.groups == (("full", "partial", "other"),)
    vocals = next(ranking for ranking in comparison.rankings if ranking.target == "vocals")
    assert vocals.methods == ("full", "other")
    assert comparison.cells["partial"]["vocals"].rank is None
    assert list(comparison.differences) == ["tracks of vocals"]
    assert ["partial"] in comparison.differences["tracks of vocals"].values()
    assert "partial: vocals was scored in 10 of 50 tracks" in comparison.notes
    together = run(*paths, together=True)
    assert together.cells["full"]["vocals"].nb_tracks == 10
    assert "only tracks that all have are counted: vocals 10, bass 50" in together.notes
    assert together.cells["other"]["vocals"].best
    assert together.pairs["partial"]["vocals"].losses == 10


def test_an_interval_is_that_of_the_aggregation(tmp_path: Path, tracks: np.ndarray) -> None:
    path = write_column(tmp_path / "a", tracks)
    values = np.round(tracks, 5)
    assert run(path).cells["a"]["vocals"].interval == stats.bootstrap_interval(values, "median")
    mean = run(path, aggregation="demucs-mean").cells["a"]["vocals"]
    assert mean.interval == stats.bootstrap_interval(values, "mean")
    assert mean.value == pytest.approx(values.mean())


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({}, True),
        ({"window_seconds": 2.0}, False),
        ({"hop_seconds": 0.5}, False),
        ({"mode": "v3"}, False),
        ({"silence": "per-target"}, False),
        ({"layout": ["hq"]}, True),
    ],
)
def test_reference_stands_beside_the_same_protocol_only(tmp_path: Path, changes: dict[str, Any], stands: bool) -> None:
    write_ours(tmp_path / "good", musdb18.TEST_TRACKS)
    write_ours(tmp_path / "m", musdb18.TEST_TRACKS, **changes)
    alone = run(tmp_path / "m")
    assert bool(alone.reference) == stands
    for paths in ((tmp_path / "m", tmp_path / "good"), (tmp_path / "good", tmp_path / "m")):  # in any order
        for together in (False, True):
            comparison = run(*paths, together=together)
            assert comparison.reference
            assert any("not made like the scores of m: they" in note for note in comparison.notes) != stands
    hq = any("references of m are wavs without accompaniment, as MUSDB18-HQ" in note for note in alone.notes)
    assert hq == ("layout" in changes)


def test_reference_names_who_was_scored_in_another_scenario(tmp_path: Path) -> None:
    write_submission(tmp_path / "mine", "HEL1")
    (note,) = [note for note in run(tmp_path / "mine").notes if "scored beside" in note]
    assert "HEL1, and here of mine, are scored beside drums, bass and other, those of all others against" in note


@pytest.mark.parametrize(("number", "said"), [(5, "too few"), (6, "only large"), (9, "only large"), (10, "")])
def test_few_tracks_are_said_to_be_few(tmp_path: Path, tracks: np.ndarray, number: int, said: str) -> None:
    names = NAMES[:number]
    paths = [write_column(tmp_path / name, tracks[:number] + i, names=names) for i, name in enumerate("ab")]
    (note,) = [note for note in run(*paths).notes if note.startswith(f"{number} tracks: ")] or [""]
    assert said in note
    assert bool(said) == bool(note)
    assert run(*paths).cells["b"]["vocals"].best == (number >= stats.LEAST_TRACKS)
    assert not any(note.startswith(f"{number} track") for note in run(paths[0]).notes)  # nothing is told apart


def test_what_is_not_recorded_is_said(tmp_path: Path) -> None:
    write_ours(tmp_path / "a", NAMES)
    write_column(tmp_path / "b", np.ones(50))
    notes = run(tmp_path / "a", tmp_path / "b").notes
    assert "references: not recorded in b, taken to be as in the others" in notes


def test_whole_tracks_are_ranked_together_whatever_the_windows(tmp_path: Path) -> None:
    for name, silence in (("a", "museval"), ("b", "per-target")):
        write_ours(tmp_path / name, NAMES, silence=silence)
        with (tmp_path / name / "scores.csv").open("a") as file:
            file.writelines(f"{track},vocals,alone,,uSDR,{i}\n" for i, track in enumerate(NAMES))
    paths = (tmp_path / "a", tmp_path / "b")
    assert [ranking.target for ranking in run(*paths, metric="usdr").rankings] == ["vocals"]
    assert run(*paths).rankings == ()


@pytest.mark.parametrize(("name", "bound"), [("MIX", "floor"), ("IRM2", "ceiling"), ("MWF", "ceiling"), ("TAK1", None)])
def test_oracles_of_sisec_are_bounds(tmp_path: Path, name: str, bound: str | None) -> None:
    write_submission(tmp_path / name, name)
    write_submission(tmp_path / "UHL3", "UHL3")
    first, _ = load_methods([tmp_path / name, tmp_path / "UHL3"])
    assert first.bound == bound
    assert bool(run(tmp_path / name, tmp_path / "UHL3").rankings) == (bound is None)
    (renamed,) = load_methods([f"mine={tmp_path / name}"])
    assert renamed.bound is None


def test_infinite_tracks_are_not_called_silent(tmp_path: Path) -> None:
    write_ours(tmp_path / "a", NAMES)
    lines = (tmp_path / "a" / "scores.csv").read_text().splitlines()
    changed = [
        line.removesuffix("1.0") + "inf" if line.startswith(("T00,drums", "T01,drums")) else line for line in lines
    ]
    changed = [line.removesuffix("1.0") if line.startswith("T02,drums") else line for line in changed]
    (tmp_path / "a" / "scores.csv").write_text("\n".join(changed) + "\n")
    comparison = run(tmp_path / "a")
    cell = comparison.cells["a"]["drums"]
    assert (cell.nb_tracks, cell.nb_missing, cell.nb_infinite) == (47, 1, 2)
    assert "a: drums has no value in 1 of 50 tracks: silent, or every frame dropped" in comparison.notes
    assert any(
        note.startswith("a: drums has no value in 2 of 50 tracks: frames are infinite") for note in comparison.notes
    )


def test_train_tracks_beside_test_tracks_are_said_to_be_left_out(tmp_path: Path, tracks: np.ndarray) -> None:
    path = write_column(tmp_path / "a", tracks)
    assert not any("left out" in note for note in run(path).notes)
    write_values(path, {"Z": {"vocals": 1.0}}, subset="train")
    comparison = run(path)
    assert any(note.startswith("a: its train tracks are left out") for note in comparison.notes)
    assert comparison.cells["a"]["vocals"].nb_tracks == 50
