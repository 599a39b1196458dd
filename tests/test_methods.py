"""Loading scored methods, ours and others', and naming in what their protocols differ."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from musdbkit import musdb18, scores
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.methods import Method, find_differences, find_unrecorded, group_alike, load_methods
from musdbkit.scores import Scenario, TrackScores
from tests.museval_json import write_track, write_values

FOUR = ("vocals", "drums", "bass", "other")
MIX = {"program": "musdbkit oracle", "model": {"name": "mix"}}
ONE = {"A": {"vocals": 1.0}, "B": {"vocals": 2.0}}


def write_ours(
    folder: Path,
    tracks: tuple[str, ...] = ("A", "B"),
    scenarios: tuple[tuple[str, ...], ...] = (FOUR, scores.PAIR),
    **changes: Any,
) -> None:
    """Write a folder of our own scores; `changes` replace settings, entries of the dataset, or `separation`."""
    folder.mkdir(parents=True)
    scored = [
        TrackScores(
            name,
            "test",
            1.0,
            1.0,
            tuple(Scenario(each, {target: {"SDR": (1.0, math.nan)} for target in each}) for each in scenarios),
            {},
        )
        for name in tracks
    ]
    scores.write_csv(scores.to_frame(scored), folder / "scores.csv")
    settings = {"window_seconds": 1.0, "hop_seconds": 1.0, "mode": "v4", "silence": "museval", "align": False}
    dataset = {"layout": ["wav"], "subsets": ["test"], "fingerprint": "0123456789abcdef"}
    document = {
        "settings": settings | {key: value for key, value in changes.items() if key in settings},
        "dataset": dataset | {key: value for key, value in changes.items() if key in dataset},
        "separation": changes.get("separation"),
    }
    (folder / "protocol.json").write_text(json.dumps(document))


def load(*paths: Path | str) -> list[Method]:
    return load_methods(paths)


def test_our_scores_bring_their_protocol(tmp_path: Path) -> None:
    write_ours(tmp_path / "unet-scores")
    (method,) = load(tmp_path / "unet-scores")
    assert (method.name, method.bound) == ("unet", None)
    protocol = method.protocol
    assert (protocol.silence, protocol.window, protocol.mode) == ("museval", "1 s every 1 s", "v4")
    assert (protocol.subset, protocol.references) == ("test", "wav 0123456789ab")
    assert protocol.tracks == {"A", "B"}
    assert method.find_scenarios("sisec18")["vocals"] == "vocals+accompaniment"
    assert method.find_scenarios("demucs-mean")["vocals"] == "vocals+drums+bass+other"
    assert method.find_scenarios("sisec18")["bass"] == "vocals+drums+bass+other"
    (of_file,) = load(tmp_path / "unet-scores" / "scores.csv")
    assert (of_file.name, of_file.protocol) == ("unet", protocol)


def test_a_part_of_our_scores_has_their_protocol(tmp_path: Path) -> None:
    write_ours(tmp_path / "unet-scores", silence="per-target", separation=MIX)
    write_values(tmp_path / "unet-scores", ONE)
    for part in ("test", "test/A.json"):
        (method,) = load(tmp_path / "unet-scores" / part)
        assert (method.protocol.silence, method.bound) == ("per-target", "floor")
    (tmp_path / "unet-scores").rename(tmp_path / "test")  # a folder of that name is not always such a part
    assert load(tmp_path / "test" / "scores.csv")[0].protocol.silence == "per-target"


@pytest.mark.parametrize(
    "document", ["{}", '{"settings": [], "dataset": 3, "separation": "x"}', '{"settings": {"mode": 4}}']
)
def test_what_a_protocol_lacks_is_not_recorded(tmp_path: Path, document: str) -> None:
    write_ours(tmp_path / "a")
    (tmp_path / "a" / "protocol.json").write_text(document)
    (method,) = load(tmp_path / "a")
    protocol = method.protocol
    assert (protocol.silence, protocol.window, protocol.mode) == (None, None, None)
    assert (protocol.subset, protocol.references, method.bound) == (None, None, None)


def test_a_broken_protocol_is_named(tmp_path: Path) -> None:
    write_ours(tmp_path / "a")
    (tmp_path / "a" / "protocol.json").write_text("[")
    with pytest.raises(DatasetError, match=r"a/protocol\.json: not JSON"):
        load(tmp_path / "a")


def test_musevals_json_tells_windows_and_scenarios(tmp_path: Path) -> None:
    frames = {"SDR": [1.0, 2.0, math.nan]}
    write_track(tmp_path / "TAK" / "test", "A", dict.fromkeys((*FOUR, "accompaniment"), frames), duration=2.0, hop=1.5)
    write_track(tmp_path / "HEL" / "test", "A", dict.fromkeys(FOUR, frames))
    write_track(tmp_path / "RPCA" / "test", "A", {target: {"SDR": [1.0]} for target in scores.PAIR})
    tak, hel, rpca = load(*(tmp_path / name for name in ("TAK", "HEL", "RPCA")))
    assert (tak.name, tak.protocol.window, tak.protocol.silence) == ("TAK", "2 s every 1.5 s", "museval")
    assert (tak.protocol.mode, tak.protocol.references, tak.protocol.subset) == (None, None, "test")
    assert tak.find_scenarios("sisec18")["vocals"] == "vocals+accompaniment"
    assert tak.find_scenarios("sisec18")["drums"] == "vocals+drums+bass+other"
    assert hel.find_scenarios("sisec18")["vocals"] == "vocals+drums+bass+other"
    assert (rpca.find_scenarios("sisec18")["accompaniment"], rpca.protocol.window) == ("vocals+accompaniment", "1 s")


@pytest.mark.parametrize("inner", ["test", "", "test/A.json"])
def test_subset_and_name_come_from_the_path(tmp_path: Path, inner: str) -> None:
    write_values(tmp_path / "TAK1", ONE)
    (method,) = load(tmp_path / "TAK1" / inner if inner else tmp_path / "TAK1")
    assert method.protocol.subset == "test"
    assert method.name == ("A" if inner.endswith("json") else "TAK1")


def test_windows_of_two_evaluations_are_refused(tmp_path: Path) -> None:
    frames = {"vocals": {"SDR": [1.0, 2.0]}}
    write_track(tmp_path / "m", "A", frames)
    write_track(tmp_path / "m", "B", {"vocals": {"SDR": [1.0]}}, duration=2.0)
    with pytest.raises(DatasetError, match="m: windows of 1 s and 2 s, expected those of one evaluation"):
        load(tmp_path / "m")


def test_tracks_are_named_as_the_dataset_names_them(tmp_path: Path) -> None:
    write_values(tmp_path / "a", {"M": {"vocals": 1.0}})  # as tools that take it for a file name leave it
    write_values(tmp_path / "b", {"M": {"vocals": 1.0}, "M.E.R.C. Music - Knockout": {"vocals": 1.0}})
    a, b = load(tmp_path / "a", tmp_path / "b")
    assert set(a.table["track"]) == a.protocol.tracks == {"M.E.R.C. Music - Knockout"} < set(musdb18.TEST_TRACKS)
    assert b.protocol.tracks == {"M", "M.E.R.C. Music - Knockout"}  # two tracks are not made one


def test_names_are_unique(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("x/umx-scores", "y/umx-scores", "z/umx", "other")]
    for path in paths:
        write_values(path, ONE)
    assert [method.name for method in load(*paths)] == ["x/umx", "y/umx", "z/umx", "other"]
    assert [method.name for method in load(f"umx={paths[3]}", paths[0])] == ["umx", "x/umx"]
    assert [m.name for m in load(paths[3] / "test", paths[3])] == ["other/test", f"{tmp_path.name}/other"]
    (paths[3] / "train").mkdir()
    (paths[3] / "test" / "A.json").rename(paths[3] / "train" / "A.json")
    assert [m.name for m in load(paths[3] / "test", paths[3] / "train")] == ["other/test", "other/train"]
    with pytest.raises(ParameterError, match="mine: the name of two methods, expected another for each: NAME=PATH"):
        load(f"mine={paths[0]}", f"mine={paths[1]}")
    with pytest.raises(ParameterError, match=f"{paths[0].parent}/umx: the name of two methods"):
        load(paths[0], paths[0])


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_values(tmp_path / "lr=1e-3", ONE)
    monkeypatch.chdir(tmp_path)
    assert load("lr=1e-3")[0].name == "lr=1e-3"
    assert load("a=lr=1e-3")[0].name == "a"
    assert load("./lr=1e-3")[0].name == "lr=1e-3"


@pytest.mark.parametrize(("made", "bound"), [("mix", "floor"), ("irm2", "ceiling")])
def test_oracles_are_bounds(tmp_path: Path, made: str, bound: str) -> None:
    write_ours(tmp_path / "a", separation={"program": "musdbkit oracle", "model": {"name": made}})
    assert load(tmp_path / "a")[0].bound == bound


def test_nothing_to_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nothing: no such file or folder"):
        load(tmp_path / "nothing")
    (tmp_path / "scores.csv").write_text(",".join(scores.COLUMNS) + "\n")
    with pytest.raises(DatasetError, match="no scores, expected at least those of one track"):
        load(tmp_path)


def test_what_is_alike_is_grouped(tmp_path: Path) -> None:
    write_ours(tmp_path / "a")
    write_ours(tmp_path / "b", separation={"program": "other"})
    write_values(tmp_path / "c", ONE)  # of whose references nothing is known
    methods = load(*(tmp_path / name for name in "abc"))
    assert find_differences(methods) == {}
    assert [[method.name for method in group] for group in group_alike(methods)] == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("field", "changes", "value"),
    [
        ("silence rule", {"silence": "per-target"}, "per-target"),
        ("window", {"window_seconds": 2.0}, "2 s"),
        ("hop", {"hop_seconds": 0.5}, "0.5 s"),
        ("BSSEval", {"mode": "v3"}, "v3"),
        ("align", {"align": True}, "on"),
        ("subset", {"subsets": ["train"]}, "train"),
        ("references", {"fingerprint": "fedcba9876543210", "layout": ["hq"]}, "hq fedcba987654"),
        ("tracks", {"tracks": ("A",)}, "1 track, without B"),
    ],
)
def test_unlike_protocols_are_named_and_kept_apart(
    tmp_path: Path, field: str, changes: dict[str, Any], value: str
) -> None:
    write_ours(tmp_path / "a")
    write_ours(tmp_path / "b", **changes)
    write_ours(tmp_path / "c")
    methods = load(*(tmp_path / name for name in "abc"))
    differences = find_differences(methods)
    assert list(differences) == [field]
    assert differences[field][value] == ["b"]
    assert ["a", "c"] in differences[field].values()
    assert [[method.name for method in group] for group in group_alike(methods)] == [["a", "c"], ["b"]]


def test_many_missing_tracks_are_counted(tmp_path: Path) -> None:
    write_ours(tmp_path / "a", tuple("ABCDEFG"))
    write_ours(tmp_path / "b", tuple("AB"))
    differences = find_differences(load(tmp_path / "a", tmp_path / "b"))
    assert differences == {"tracks": {"7 tracks": ["a"], "2 tracks, without C; D; E and 2 more": ["b"]}}


@pytest.mark.parametrize("path", ["", "a="])
def test_a_path_must_be_named(path: str) -> None:
    with pytest.raises(ParameterError, match="no folder is named, expected one of scores, or NAME=FOLDER"):
        load(path)


def test_windows_have_no_influence_on_metrics_of_whole_tracks(tmp_path: Path) -> None:
    write_ours(tmp_path / "a")
    write_ours(tmp_path / "b", silence="per-target", window_seconds=2.0, hop_seconds=0.5, mode="v3")
    methods = load(tmp_path / "a", tmp_path / "b")
    assert list(find_differences(methods)) == ["silence rule", "window", "hop", "BSSEval"]
    assert find_differences(methods, "uSDR") == {}
    assert len(group_alike(methods)) == 2
    assert len(group_alike(methods, "uSDR")) == 1
    write_ours(tmp_path / "c", subsets=["train"])
    assert len(group_alike(load(tmp_path / "a", tmp_path / "c"), "uSDR")) == 2


def test_references_are_compared_on_the_same_tracks_only(tmp_path: Path) -> None:
    write_ours(tmp_path / "a")
    write_ours(tmp_path / "b", ("A",), fingerprint="other")  # the hash of fewer files is another in any case
    assert list(find_differences(load(tmp_path / "a", tmp_path / "b"))) == ["tracks"]


def test_what_is_not_recorded_is_known_to_be(tmp_path: Path) -> None:
    write_ours(tmp_path / "a")
    write_values(tmp_path / "b", ONE)
    methods = load(tmp_path / "a", tmp_path / "b")
    assert find_unrecorded(methods) == {"BSSEval": ["b"], "align": ["b"], "references": ["b"]}
    assert find_unrecorded(methods[:1]) == find_unrecorded(methods[1:]) == {}


def test_different_tracks_have_different_texts(tmp_path: Path) -> None:
    write_ours(tmp_path / "a", tuple("ABCDEF"))
    write_ours(tmp_path / "b", tuple("GHIJAB"))
    write_ours(tmp_path / "c", tuple("GHIJAC"))
    texts = find_differences(load(*(tmp_path / name for name in "abc")))["tracks"]
    assert [names for names in texts.values()] == [["a"], ["b"], ["c"]]


def test_tracks_without_scores_are_tracks(tmp_path: Path) -> None:
    write_values(tmp_path / "m", ONE)
    for name, text in (("C", '{"targets": []}'), ("D", '{"targets": [{"name": "vocals", "frames": []}]}')):
        (tmp_path / "m" / "test" / f"{name}.json").write_text(text)
    (method,) = load(tmp_path / "m")
    assert method.protocol.tracks == {"A", "B", "C", "D"}
    assert set(method.table["track"]) == {"A", "B"}


def test_json_of_others_may_lack_times_and_have_a_byte_order_mark(tmp_path: Path) -> None:
    write_values(tmp_path / "m", ONE)
    frames = [{"metrics": {"SDR": 1.0}}, {"metrics": {"SDR": 2.0}}]
    document = json.dumps({"targets": [{"name": "vocals", "frames": frames}]})
    for name in "AB":
        (tmp_path / "m" / "test" / f"{name}.json").write_text(document, encoding="utf-8-sig")
    (method,) = load(tmp_path / "m")
    assert (method.protocol.window, method.protocol.hop_seconds) == (None, None)
    (tmp_path / "m" / "test" / "B.json").write_text(document.replace('"metrics"', '"time": NaN, "metrics"'))
    with pytest.raises(DatasetError, match=r"B\.json: a time or duration is no number of seconds"):
        load(tmp_path / "m")


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_values(tmp_path / "m", ONE)
    (tmp_path / "m" / "test" / "more").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:  # as the system does to all but root, which runs tests in containers
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError, match="more: cannot be read: Permission denied"):
        load(tmp_path / "m")
