"""Scores: hand-computed aggregates, exact round trips, and files that are not what they should be."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from musdbkit import scores
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.scores import Scenario, TrackScores

NAN, INF = math.nan, math.inf
STEMS = ("drums", "vocals")
ODD_NAMES = (
    "M.E.R.C. Music - Knockout",
    'Jokers, Jacks & Kings - Sea "Of" Leaves',
    "Two\nLines",
    "Two\r\nLines",
    "Carriage\rReturn",
    " NA",
    "nan",
    "",
    "[bold]Markup[/bold]",
    "Motörhead - 東京",
)


def scenario(**values: list[float]) -> Scenario:
    """Return a scenario of SDR alone."""
    return Scenario(tuple(values), {target: {"SDR": tuple(column)} for target, column in values.items()})


def track(name: str, *scenarios: Scenario, **whole: float) -> TrackScores:
    """Return a track's scores, those of the whole track as uSDR."""
    return TrackScores(name, "test", 1.0, 1.0, scenarios, {target: {"uSDR": value} for target, value in whole.items()})


@pytest.fixture
def tracks() -> list[TrackScores]:
    """Three tracks whose aggregates can be computed in the head.

    | SDR | drums | vocals beside drums | vocals against accompaniment |
    |---|---|---|---|
    | A | 2 | 5 | 1 |
    | B | 12, with infinity 13 | nan | nan |
    | C | 3, with minus infinity 0 | 8 | - |
    """
    return [
        track(
            "A",
            scenario(drums=[1.0, 2.0, 3.0, NAN], vocals=[5.0, 5.0, 5.0, NAN]),
            scenario(vocals=[1.0, 1.0, 1.0, 9.0], accompaniment=[7.0, NAN, NAN, NAN]),
            vocals=1.0,
            drums=3.0,
            accompaniment=100.0,
        ),
        track(
            "B",
            scenario(drums=[10.0, INF, 12.0, 14.0], vocals=[NAN] * 4),
            scenario(vocals=[NAN] * 4, accompaniment=[-3.0, -3.0, 0.0, 4.0]),
            vocals=2.0,
            drums=6.0,
            accompaniment=100.0,
        ),
        track("C", scenario(drums=[-INF, 6.0, 0.0], vocals=[8.0, 8.0, 8.0]), drums=9.0),
    ]


def column(frame: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return one column of an aggregate, its rows in order."""
    return dict(zip(frame.index, frame[metric].tolist(), strict=True))


# Aggregates


def test_sisec18_by_hand(tracks: list[TrackScores]) -> None:
    table = scores.aggregate(scores.to_frame(tracks), "sisec18")
    assert list(table.columns) == ["SDR"]
    assert (table.index.name, table.columns.name) == ("target", None)
    assert list(table.index) == ["vocals", "drums", "accompaniment"]  # musdb's order
    assert column(table, "SDR") == {"vocals": 4.5, "drums": 3.0, "accompaniment": 2.75}
    # vocals: median of 1 (A, of the pair), none (B) and 8 (C, where there is no pair); accompaniment: of 7 and -1.5


def test_demucs_mean_by_hand(tracks: list[TrackScores]) -> None:
    table = scores.aggregate(scores.to_frame(tracks), "demucs-mean")
    expected = {"vocals": 6.5, "drums": 5.0, "accompaniment": 2.75, "mean of targets": 5.75}
    assert column(table, "SDR") == expected
    assert list(table.index) == list(expected)


def test_mdx_by_hand(tracks: list[TrackScores]) -> None:
    table = scores.aggregate(scores.to_frame(tracks), "mdx")
    # songs: 2, 4 and 9; accompaniment holds the drums and takes no part
    assert column(table, "uSDR") == {"vocals": 1.5, "drums": 6.0, "accompaniment": 100.0, "mean of targets": 5.0}


def test_mean_of_targets_counts_an_accompaniment_that_no_other_target_is_part_of() -> None:
    frame = scores.to_frame([track("A", vocals=1.0, accompaniment=4.0)])
    assert column(scores.aggregate(frame, "mdx"), "uSDR")["mean of targets"] == 2.5
    frame = scores.to_frame([track("A", vocals=1.0)])
    assert column(scores.aggregate(frame, "mdx"), "uSDR") == {"vocals": 1.0}


def test_mean_of_targets_is_missing_where_a_target_is() -> None:
    frame = scores.to_frame([track("A", scenario(drums=[NAN], vocals=[2.0]))])
    table = column(scores.aggregate(frame, "demucs-mean"), "SDR")
    assert math.isnan(table["drums"])
    assert math.isnan(table["mean of targets"])


def test_track_mean_is_of_the_other_metrics_of_whole_tracks() -> None:
    wholes = [{"vocals": {"SI-SDR": value, "SNR": -value, "uSDR": 0.0}} for value in (1.0, 4.0)]
    table = scores.aggregate(
        scores.to_frame(TrackScores(str(w), "test", 1.0, 1.0, (), w) for w in wholes), "track-mean"
    )
    assert column(table, "SI-SDR") == {"vocals": 2.5}
    assert column(table, "SNR") == {"vocals": -2.5}
    assert list(table.columns) == ["SI-SDR", "SNR"]


@pytest.mark.parametrize(("values", "mean"), [((INF, 1.0), INF), ((-INF, 1.0), -INF), ((INF, -INF), NAN)])
def test_infinities_count_in_means(values: tuple[float, ...], mean: float) -> None:
    frame = scores.to_frame(
        track(str(value), scenario(vocals=[value], drums=[value]), vocals=value, drums=value) for value in values
    )
    for name, metric in (("demucs-mean", "SDR"), ("mdx", "uSDR")):
        expected = dict.fromkeys(("vocals", "drums", "mean of targets"), mean)
        assert column(scores.aggregate(frame, name), metric) == pytest.approx(expected, nan_ok=True)


def test_sisec18_of_nothing_finite_is_missing() -> None:
    frame = scores.to_frame([track("A", scenario(vocals=[INF, NAN, -INF]))])
    assert math.isnan(scores.aggregate(frame, "sisec18")["SDR"].item())


def test_sisec18_rounds_the_frames_first() -> None:
    frame = scores.to_frame([track("A", scenario(vocals=[1.000004, 1.000016]))])
    assert scores.aggregate(frame, "sisec18")["SDR"].item() == (1.0 + 1.00002) / 2


def test_aggregates_do_not_depend_on_the_order_of_rows(tracks: list[TrackScores], rng: np.random.Generator) -> None:
    targets = ("vocals", "drums", "bass", "other", "piano", "Zither")
    for i in range(7):
        values = {target: rng.normal(0, 9, 5).tolist() for target in targets}
        whole = dict(zip(targets, rng.normal(0, 9, 6).tolist(), strict=True))
        tracks.append(
            track(f"T{i}", scenario(**values), scenario(vocals=[0.1 * i] * 5, accompaniment=[1.0] * 5), **whole)
        )
    frame = scores.to_frame(tracks)
    for seed in range(3):
        shuffled = frame.sample(frac=1, random_state=seed)
        for name in ("sisec18", "demucs-mean", "mdx"):
            table = scores.aggregate(frame, name)
            pd.testing.assert_frame_equal(scores.aggregate(shuffled, name), table, check_exact=True)
            assert list(table.index)[-2 if name == "sisec18" else -3 :][:2] == ["Zither", "piano"]
        pd.testing.assert_frame_equal(scores.dropped_frames(shuffled), scores.dropped_frames(frame))


def test_aggregates_leave_the_table_as_it_is(tracks: list[TrackScores]) -> None:
    frame = scores.to_frame(tracks)
    before = frame.copy()
    scores.summary(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_aggregate_errors(tracks: list[TrackScores]) -> None:
    frame = scores.to_frame(tracks)
    with pytest.raises(ParameterError, match="'median' is no aggregation, expected one of sisec18, demucs-mean, mdx"):
        scores.aggregate(frame, "median")
    with pytest.raises(DatasetError, match="track-mean: made of SI-SDR or SNR, found SDR, uSDR"):
        scores.aggregate(frame, "track-mean")
    with pytest.raises(DatasetError, match="found none"):
        scores.aggregate(frame[:0], "sisec18")


def test_dropped_frames(tracks: list[TrackScores]) -> None:
    table = scores.dropped_frames(scores.to_frame(tracks))
    assert table.reset_index().to_numpy().tolist() == [
        ["vocals", "drums+vocals", 3, 0, 0],
        ["vocals", "vocals+accompaniment", 8, 4, 0],
        ["drums", "drums+vocals", 11, 1, 2],
        ["accompaniment", "vocals+accompaniment", 8, 3, 0],
    ]
    assert list(table.columns) == ["frames", "dropped", "infinite"]
    assert table.index.names == ["target", "scenario"]
    main = scores.dropped_frames(scores.to_frame(tracks), "demucs-mean")
    assert main.loc[("vocals", "drums+vocals")].tolist() == [11, 5, 0]


def test_dropped_frames_are_counted_in_the_first_metric() -> None:
    both = Scenario(("vocals",), {"vocals": {"SAR": (1.0, 2.0), "ISR": (NAN, INF)}})
    assert scores.dropped_frames(scores.to_frame([track("A", both)])).to_numpy().tolist() == [[2, 1, 1]]
    assert scores.dropped_frames(scores.to_frame([track("A", vocals=1.0)])).empty


def test_summary_is_strict_json(tracks: list[TrackScores]) -> None:
    document = scores.summary(scores.to_frame([*tracks, track("D", drums=INF)]))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document) == ["sisec18", "demucs-mean", "mdx", "frames"]
    assert document["sisec18"]["drums"] == {"SDR": 3.0}
    assert document["mdx"]["drums"] == {"uSDR": "inf"}
    assert document["frames"]["drums"] == {"drums+vocals": {"frames": 11, "dropped": 1, "infinite": 2}}
    empty = scores.summary(scores.to_frame([track("A", scenario(vocals=[NAN]))]))
    assert empty["sisec18"] == {"vocals": {"SDR": None}}


def printed(frame: pd.DataFrame, **options: Any) -> str:
    """Return the tables as 80 columns of text."""
    text = io.StringIO()
    scores.print_table(frame, Console(file=text, width=80), **options)
    return text.getvalue()


def test_print_table(tracks: list[TrackScores]) -> None:
    text = printed(scores.to_frame(tracks))
    assert [line.split(":")[0] for line in text.splitlines() if ": " in line] == [
        "sisec18",
        "infinite frames",
        "demucs-mean",
        "infinite frames",
        "mdx",
    ]
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows.count("drums 3.000 11 1 (9.1%)") == 1
    assert rows.count("drums 5.000 11 1 (9.1%)") == 1
    assert rows.count("vocals 4.500 11 4 (36.4%)") == 1
    assert rows.count("mean of targets 5.750") == 1
    assert rows.count("infinite frames: drums 2") == 2
    assert printed(scores.to_frame(tracks), names=["mdx"]).startswith("mdx: ")


def test_print_table_fits_80_columns_and_shows_markup_as_text() -> None:
    by_metric = {metric: (-123.4567,) * 10_000 for metric in scores.FRAME_METRICS}
    targets = ("accompaniment", "[red]x[/red]", "two\nlines", "a target with a name that is far too long for it")
    text = printed(
        scores.to_frame([track("A", Scenario(targets, dict.fromkeys(targets, by_metric)))]), names=["sisec18"]
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "[red]x[/red]" in text
    assert "two\\nlines" in text
    assert text.count("-123.457 ") == 16
    assert text.count(" 10000 ") == 4
    assert text.count("0 (0.0%)") == 4


# Tables on disk


def odd_frame() -> pd.DataFrame:
    """A table of odd names and values."""
    values = [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 123456789.12345679, NAN, INF, -INF, 2.0]
    targets = ("[i]voc", 'a"b,c\rd')
    return scores.to_frame(
        track(name, scenario(**{target: values for target in targets}), **{targets[0]: values[i], targets[1]: NAN})
        for i, name in enumerate(ODD_NAMES)
    )


def test_to_frame_is_tidy_and_in_order(tracks: list[TrackScores]) -> None:
    both = Scenario(("vocals", "bass"), {t: {"SAR": (1.0, 2.0), "SDR": (3.0, 4.0)} for t in ("bass", "vocals")})
    frame = scores.to_frame(
        [tracks[2], TrackScores("B", "test", 1.0, 1.0, (both,), {"bass": {"SNR": 1.0, "uSDR": 2.0}})]
    )
    assert list(frame.columns) == ["track", "target", "scenario", "frame", "metric", "value"]
    assert frame["frame"].dtype == "Int64"
    assert frame["value"].dtype == "float64"
    assert frame["track"].unique().tolist() == ["C", "B"]
    of_b = frame[frame["track"] == "B"].drop(columns="track")
    assert of_b.astype(object).where(of_b.notna(), None).to_numpy().tolist() == [
        ["vocals", "vocals+bass", 0, "SDR", 3.0],
        ["vocals", "vocals+bass", 0, "SAR", 1.0],
        ["vocals", "vocals+bass", 1, "SDR", 4.0],
        ["vocals", "vocals+bass", 1, "SAR", 2.0],
        ["bass", "vocals+bass", 0, "SDR", 3.0],
        ["bass", "vocals+bass", 0, "SAR", 1.0],
        ["bass", "vocals+bass", 1, "SDR", 4.0],
        ["bass", "vocals+bass", 1, "SAR", 2.0],
        ["bass", "alone", None, "uSDR", 2.0],
        ["bass", "alone", None, "SNR", 1.0],
    ]


def test_csv_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.csv"
    frame = odd_frame()
    scores.write_csv(frame, path)
    for read in (scores.read_csv(path), scores.load(path), scores.load(path.parent)):
        pd.testing.assert_frame_equal(read, frame, check_exact=True)
        assert np.signbit(read["value"][2])  # of -0.0
    assert [each.name for each in path.parent.iterdir()] == ["scores.csv"]


def test_csv_is_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    scores.write_csv(scores.to_frame([track("A, B", scenario(vocals=[0.1, NAN, -INF]), vocals=INF)]), path)
    assert path.read_bytes().decode() == (
        "track,target,scenario,frame,metric,value\n"
        '"A, B",vocals,vocals,0,SDR,0.1\n'
        '"A, B",vocals,vocals,1,SDR,\n'
        '"A, B",vocals,vocals,2,SDR,-inf\n'
        '"A, B",vocals,alone,,uSDR,inf\n'
    )


def test_an_empty_table_round_trips(tmp_path: Path) -> None:
    scores.write_csv(scores.to_frame([]), tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(scores.load(tmp_path), scores.to_frame([]))
    assert scores.summary(scores.load(tmp_path)) == {"frames": {}}
    assert printed(scores.load(tmp_path)) == ""


def test_a_csv_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DatasetError, match=r"scores\.csv: cannot be written: No space left on device"):
        scores.write_csv(odd_frame(), path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("scores.csv", "old")]


HEADER = "track,target,scenario,frame,metric,value\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line is '', expected track,target,scenario,frame,metric,value"),
        (b"track;target\nA;vocals\n", "the first line is 'track;target'"),
        (HEADER.encode() + b"A,vocals,alone,,uSDR\n", "after line 2: not enough values"),
        (HEADER.encode() + b"A, B,vocals,alone,,uSDR,1\n", "after line 2: too many values"),
        (HEADER.encode() + b"A,vocals,x,0,SDR,1\nA,vocals,x,1.5,SDR,1\n", "after line 3: invalid literal for int"),
        (HEADER.encode() + b"A,vocals,x,0,SDR,loud\n", "could not convert string to float: 'loud'"),
        (HEADER.encode() + b"A,vocals,x,0,SDR,1\nA,vocals,x,0,SDR,2\n", "vocals of A is there twice"),
        (HEADER.encode() + b"A,vocals,alone,,uSDR,1\nA,vocals,alone,,uSDR,1\n", "vocals of A is there twice"),
        (HEADER.encode() + b"A," + b"x" * 200_000 + b",alone,,uSDR,1\n", "field larger than field limit"),
        (HEADER.encode() + b"\xff,vocals,alone,,uSDR,1\n", "can't decode byte 0xff"),
        (HEADER.encode() + b"A,vocals,x,99999999999999999999999,SDR,1\n", "after line 2: Python int too large"),
    ],
)
def test_csv_errors(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        scores.load(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_load_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="missing: no such file or folder, expected scores"):
        scores.load(tmp_path / "missing")
    with pytest.raises(DatasetError, match=r"no scores, looked for scores\.csv and for .*json"):
        scores.load(tmp_path)
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        scores.read_csv(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises(DatasetError, match="cannot be read: Is a directory"):
        scores.read_csv(tmp_path / "scores.csv")


# museval's JSON


def written(tracks: list[TrackScores], folder: Path) -> Path:
    """Write museval's JSON of tracks into a folder and return it."""
    folder.mkdir(parents=True)
    for each in tracks:
        (folder / f"{each.track}.json").write_text(scores.museval_json(each))
    return folder


def test_museval_json_of_a_single_target_and_missing_metrics() -> None:
    document = json.loads(scores.museval_json(track("A", scenario(vocals=[1.0, INF]))))
    (target,) = document["targets"]
    assert target["name"] == "vocals"
    assert [list(frame["metrics"]) for frame in target["frames"]] == [["SDR", "SIR", "SAR", "ISR"]] * 2
    assert str([list(frame["metrics"].values()) for frame in target["frames"]]) == str([[1.0, *[NAN] * 3], [NAN] * 4])


def test_museval_json_without_metrics_has_no_frames() -> None:
    document = json.loads(scores.museval_json(track("A", Scenario(("vocals",), {"vocals": {}}))))
    assert document["targets"] == [{"name": "vocals", "frames": []}]


def test_museval_json_takes_vocals_of_the_pair(tracks: list[TrackScores]) -> None:
    document = json.loads(scores.museval_json(tracks[0]))
    assert [target["name"] for target in document["targets"]] == ["drums", "vocals", "accompaniment"]
    assert [frame["metrics"]["SDR"] for frame in document["targets"][1]["frames"]] == [1.0, 1.0, 1.0, 9.0]


def test_museval_json_has_each_target_once() -> None:
    several = track("A", scenario(vocals=[1.0]), scenario(vocals=[2.0], drums=[2.0], bass=[2.0]), scenario(bass=[3.0]))
    document = json.loads(scores.museval_json(several))
    assert {t["name"]: t["frames"][0]["metrics"]["SDR"] for t in document["targets"]} == dict.fromkeys(
        ("vocals", "drums", "bass"), 2.0
    )
    assert len(document["targets"]) == 3


@pytest.mark.parametrize("nested", ["", "test", "test/deeper"])
def test_load_museval_json(nested: str, tracks: list[TrackScores], tmp_path: Path) -> None:
    tracks[0] = track("M.E.R.C. Music - Knockout", *tracks[0].scenarios)
    tracks[1] = track("...And You - Song", *tracks[1].scenarios)
    folder = written(tracks, tmp_path / "method" / nested)
    (folder / "._C.json").write_bytes(b"\0")
    if nested:  # train is not read beside test, nor is anything above
        written(tracks[:2], tmp_path / "method" / "train")
        (tmp_path / "method" / "protocol.json").write_text("{}")
    frame = scores.load(tmp_path / "method")
    assert frame["track"].unique().tolist() == ["...And You - Song", "C", "M.E.R.C. Music - Knockout"]
    assert frame["scenario"].unique().tolist() == ["museval"]
    expected = scores.aggregate(scores.to_frame(tracks), "sisec18")
    pd.testing.assert_frame_equal(scores.aggregate(frame, "sisec18")[["SDR"]], expected, check_exact=True)
    one = scores.load(folder / "M.E.R.C. Music - Knockout.json")
    assert one["track"].unique().tolist() == ["M.E.R.C. Music - Knockout"]
    assert one["frame"].max() == 3


def test_load_museval_json_of_train(tracks: list[TrackScores], tmp_path: Path) -> None:
    written(tracks[:2], tmp_path / "train")
    assert scores.load(tmp_path)["track"].unique().tolist() == ["A", "B"]


def test_load_museval_json_by_others(tmp_path: Path) -> None:
    metrics = {"SDR": None, "SIR": 3, "ISR": -INF, "own": "text"}
    document = {"targets": [{"name": "vocals", "frames": [{"metrics": metrics}, {"metrics": {"SDR": NAN}}]}]}
    (tmp_path / "A.json").write_text(json.dumps(document))
    frame = scores.load(tmp_path / "A.json")
    assert str(frame[["frame", "metric", "value"]].to_numpy().tolist()) == str(
        [[0, "SDR", NAN], [0, "ISR", -INF], [0, "SIR", 3.0], [1, "SDR", NAN]]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON: Expecting value"),
        ("\0", "is not JSON"),
        ("[" * 100_000, "is not JSON: maximum recursion depth"),
        ("[1]", r"found \[1\], expected an object with targets"),
        ("{}", r"no targets, found \[\]"),
        ('{"targets": {}}', "targets is {}, expected a list"),
        ('{"targets": [3]}', "found 3, expected an object with name"),
        ('{"targets": [{"name": 3}]}', "name is 3, expected text"),
        ('{"targets": [{"name": "x", "frames": [{}]}]}', "no metrics"),
        ('{"targets": [{"name": "x", "frames": [{"metrics": {"SDR": "1"}}]}]}', "a value is '1', expected a number"),
        ('{"targets": [{"name": "x", "frames": [{"metrics": {"SDR": true}}]}]}', "a value is True"),
        ('{"targets": [{"name": "x", "frames": [{"metrics": {"SDR": [1]}}]}]}', r"a value is \[1\]"),
        ('{"targets": [{"name": "x", "frames": [{"metrics": {"SDR": 1' + "0" * 400 + "}}]}]}", "a value is 1000"),
        (
            '{"targets": [' + ",".join(['{"name": "x", "frames": [{"metrics": {"SDR": 1}}]}'] * 2) + "]}",
            "x of A is there twice, expected the scores of one method",
        ),
    ],
)
def test_museval_json_errors(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "A.json").write_text(text)
    for path in (tmp_path, tmp_path / "A.json"):
        with pytest.raises(DatasetError, match=message) as caught:
            scores.load(path)
        assert str(caught.value).startswith(str(path))
        assert len(str(caught.value)) < len(str(path)) + 200


def test_two_methods_in_one_folder(tracks: list[TrackScores], tmp_path: Path) -> None:
    for method in ("one", "two"):
        written(tracks, tmp_path / method / "test")
    with pytest.raises(DatasetError, match="drums of A is there twice"):
        scores.load(tmp_path)


def test_a_json_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(13, "Permission denied")

    (tmp_path / "A.json").touch()
    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(DatasetError, match=r"A\.json: cannot be read: Permission denied"):
        scores.load(tmp_path)


# Records


@pytest.fixture
def record(tracks: list[TrackScores]) -> dict[str, Any]:
    """What a track's record on disk holds."""
    document: dict[str, Any] = json.loads(json.dumps(scores.to_json(tracks[1]), allow_nan=False))
    return document


@pytest.mark.parametrize("name", ODD_NAMES)
def test_record_round_trip_is_exact(name: str) -> None:
    values = (0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, NAN, INF, -INF)
    by_metric = {"SDR": values, "SAR": values[::-1]}
    pair = Scenario(scores.PAIR, dict.fromkeys(scores.PAIR, by_metric))
    given = TrackScores(name, "train", 0.1, 1 / 3, (pair, scenario(vocals=[])), {name: {"uSDR": INF, "SNR": NAN}})
    read = scores.from_json(json.loads(json.dumps(scores.to_json(given), allow_nan=False)))
    assert repr(read) == repr(given)  # nan is not equal to itself
    assert [type(value) for value in read.scenarios[0].frames["vocals"]["SDR"]] == [float] * 8


def test_record_takes_numpy_floats() -> None:
    given = track("A", scenario(vocals=list(np.array([0.1, np.nan, np.inf]))), vocals=np.float64(0.1))
    assert json.dumps(scores.to_json(given), allow_nan=False).count("0.1") == 2


def test_scenario_name(tracks: list[TrackScores]) -> None:
    assert [each.name for each in tracks[0].scenarios] == ["drums+vocals", "vocals+accompaniment"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"track": None}, "track is None, expected text"),
        ({"subset": "valid"}, "subset is 'valid', expected train or test"),
        ({"subset": ["test"]}, "subset is .'test'., expected text"),
        ({"window_seconds": "1.0"}, "a value is '1.0', expected a number"),
        ({"window_seconds": None}, "window_seconds is nan, expected a number above 0"),
        ({"hop_seconds": 0}, "hop_seconds is 0.0, expected a number above 0"),
        ({"hop_seconds": True}, "a value is True"),
        ({"hop_seconds": "inf"}, "hop_seconds is inf"),
        ({"scenarios": {}}, "scenarios is {}, expected a list"),
        ({"scenarios": [1]}, "found 1, expected an object with targets"),
        ({"scenarios": [{"targets": "vocals", "frames": {}}]}, "targets is 'vocals', expected a list"),
        ({"scenarios": [{"targets": ["vocals"], "frames": {}}]}, "targets .'vocals'. but frames of ..,"),
        ({"scenarios": [{"targets": [[]], "frames": {"x": {}}}]}, "targets .... but frames of"),
        ({"scenarios": [{"targets": ["x", 1], "frames": {"x": {}, "1": {}}}]}, "targets .'x', 1. but frames of"),
        ({"scenarios": [{"targets": ["x", "x"], "frames": {"x": {}}}]}, "targets .'x', 'x'. but frames of"),
        ({"scenarios": [{"targets": ["x"], "frames": {"x": 1}}]}, "x is 1, expected an object"),
        ({"scenarios": [{"targets": ["x"], "frames": {"x": {"PESQ": []}}}]}, "x has .'PESQ'., expected SDR, ISR"),
        ({"scenarios": [{"targets": ["x"], "frames": {"x": {"SDR": 1}}}]}, "SDR is 1, expected a list"),
        ({"scenarios": [{"targets": ["x"], "frames": {"x": {"SDR": ["x"]}}}]}, "a value is 'x'"),
        (
            {"scenarios": [{"targets": ["x", "y"], "frames": {"x": {"SDR": [1]}, "y": {"SDR": []}}}]},
            "0 and 1 frames in one scenario",
        ),
        ({"whole": None}, "whole is None, expected an object"),
        ({"whole": {"x": {"SDR": 1}}}, "x has .'SDR'., expected uSDR, SI-SDR, SNR"),
        ({"whole": {"x": {"uSDR": {}}}}, "a value is {}"),
    ],
)
def test_hostile_records(change: dict[str, Any], message: str, record: dict[str, Any]) -> None:
    scores.from_json(record)
    with pytest.raises(DatasetError, match=message):
        scores.from_json(record | change)


@pytest.mark.parametrize("key", ["track", "subset", "window_seconds", "hop_seconds", "scenarios", "whole"])
def test_records_that_lack_a_key(key: str, record: dict[str, Any]) -> None:
    del record[key]
    with pytest.raises(DatasetError, match=f"record of a track: no {key}, found"):
        scores.from_json(record)


@pytest.mark.parametrize("document", [None, [], "x", 1, True])
def test_records_that_are_no_object(document: object) -> None:
    with pytest.raises(DatasetError, match=r"record of a track: found .*, expected an object with"):
        scores.from_json(document)
