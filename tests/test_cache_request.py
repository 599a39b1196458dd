"""What a spectrogram cache is to hold: configurations, CSVs, names, folders and datasets."""

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from musdbkit import cache_request
from musdbkit.cache import RECORD, Parameters, open_cache
from musdbkit.cache_request import find_folders, find_request, read_request
from musdbkit.caching import build
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError
from tests.sites import ONE, SIGNALS, SMALL, Site, magnitudes, statuses


def test_a_configuration_as_it_is_meant(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.folder)
    config = site.configure(["train/A", "train/B"], ["train/B", "train/C"])
    request = read_request(config, Path("wav"), "uint8")
    assert request == read_request(Path("config.json"), Path("wav"), "uint8")
    assert request.parameters == replace(SMALL, dtype="uint8")
    assert request.signals == SIGNALS
    assert {track.name: track.splits for track in request.tracks} == {
        "A": ("train",),
        "B": ("train", "valid"),
        "C": ("valid",),
    }
    assert request.tracks[0].folder == "train/A"
    assert request.tracks[0].files["drums"] == Path("wav/train/A/drums.wav")
    assert request.nb_frames == 4


def test_paths_of_a_configuration_are_relative_to_the_current_folder(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = site.configure(["train/A"])
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(DatasetError, match=rf"train\.csv.* from the current folder, {elsewhere}\)"):
        read_request(config, site.root)
    monkeypatch.chdir(site.folder)
    assert len(read_request(config, site.root).tracks) == 1


def test_spleeters_own_cache_is_not_written_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("train/A")
    monkeypatch.chdir(site.folder)
    request = read_request(site.configure(["train/A"]), site.root)
    for out in (Path("spleeter/training"), site.folder / "spleeter" / "x" / ".." / "training"):
        with pytest.raises(DatasetError, match="Spleeter's own cache by the configuration"):
            build(request, out, parallel=ONE)
    assert not (site.folder / "spleeter").exists()


@pytest.mark.parametrize("path", ["/etc/mixture.wav", "../A/mixture.wav", "train/../../A/mixture.wav"])
def test_paths_that_lead_out_of_the_dataset_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(site.folder)
    config = site.configure(["A"], paths={"A": path})
    with pytest.raises(DatasetError, match="expected a path inside the dataset's folder"):
        read_request(config, site.root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../x"], "signal '../x': expected a name without slashes"),
        ([""], "signal '': expected a name"),
        ([".hid"], "signal '.hid': expected a name"),
        (["a/b"], "signal 'a/b': expected a name"),
        (["a\\b"], "expected a name without slashes"),
        (["mixture"], "expected distinct names"),
        (["mix"], "expected distinct names"),
        (["vocals", "vocals"], "expected distinct names"),
    ],
)
def test_hostile_names_of_instruments_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, names: list[str], message: str
) -> None:
    monkeypatch.chdir(site.folder)
    config = site.configure(["A"], instrument_list=names)
    with pytest.raises(MusdbkitError) as caught:
        read_request(config, site.root)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_values_that_cannot_be_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.folder)
    with pytest.raises(ParameterError, match="frame_length is 96, expected a power of two"):
        read_request(site.configure(["A"], frame_length=96), site.root)
    with pytest.raises(ParameterError, match="dtype is int8, expected one of float16, float32, uint8"):
        read_request(site.configure(["A"]), site.root, "int8")
    config = site.configure(["A", "B"], paths={"B": "A/mixture.wav"})
    with pytest.raises(DatasetError, match=r"A/mixture\.wav is in two rows with different stems"):
        read_request(config, site.root)


@pytest.mark.parametrize(
    ("mixture", "folder"),
    [
        ("train/A/mixture.wav", "train/A"),
        ("./B//mix.flac", "B"),
        ("mix/1.wav", "mix/1"),
        ("1.wav", "1"),
        ("mixture.wav", "mixture"),
        ("a/A/a_mix.wav", "a/A/a_mix"),
        ("x.y - 1.2.wav", "x.y - 1.2"),
        ("a/.wav", "a/.wav"),
        ("a/...wav", "a/...wav"),
    ],
)
def test_a_tracks_folder_depends_on_the_track_alone(mixture: str, folder: str) -> None:
    assert cache_request._choose_folder(PurePosixPath(mixture), ("mixture", "mix")) == folder


@pytest.mark.parametrize(
    "mixture", ["index.json/mixture.wav", ".musdbkit-0.partial/mixture.wav", "a/.musdbkit-0.partial/mixture.wav"]
)
def test_folders_that_the_cache_needs_are_refused(mixture: str) -> None:
    with pytest.raises(ParameterError, match="the cache has files of its own named"):
        cache_request._choose_folder(PurePosixPath(mixture), ("mixture",))


@pytest.mark.parametrize(
    ("mixtures", "message"),
    [
        (["mix/1.wav", "mix/1.flac"], "mix/1.wav and mix/1.flac: would both be cached as mix/1"),
        (["a/mixture.wav", "a/b/c/mixture.wav"], "a/b/c/mixture.wav: is below the folder of a/mixture.wav"),
    ],
)
def test_tracks_that_cannot_be_kept_apart_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, mixtures: list[str], message: str
) -> None:
    monkeypatch.chdir(site.folder)
    config = site.configure(["A", "B"], paths=dict(zip("AB", mixtures, strict=True)))
    with pytest.raises(DatasetError, match=message):
        read_request(config, site.root)


def test_a_row_that_goes_leaves_the_others_where_they_are(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.folder)
    paths = {}
    for name in ("A", "B"):
        folder = site.add(name)
        paths[name] = f"songs/{name}_mix.wav"
        (site.root / "songs").mkdir(exist_ok=True)
        (folder / "mixture.wav").rename(site.root / paths[name])
    assert statuses(site.build(read_request(site.configure(["A", "B"], paths=paths), site.root))) == {
        "A_mix": "built",
        "B_mix": "built",
    }
    result = site.build(read_request(site.configure(["B"], paths=paths), site.root), prune=True)
    assert (statuses(result), result.failed) == ({"B_mix": "already there"}, {})
    assert open_cache(site.out).tracks == ("B_mix",)
    assert not (site.out / "songs" / "A_mix").exists()


def test_names_are_distinct_in_any_layout(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.folder)
    tracks = ["one/A", "two/A", "B", "flat/1", "flat/2", "x", "y/x"]
    paths = {"flat/1": "mix/1.wav", "flat/2": "mix/2.wav", "x": "x.wav"}
    for track in tracks:
        folder = site.add(track)
        if track in paths:
            (site.root / paths[track]).parent.mkdir(exist_ok=True)
            (folder / "mixture.wav").rename(site.root / paths[track])
    request = read_request(site.configure(tracks, paths=paths), site.root)
    assert [track.name for track in request.tracks] == [*("one/A", "two/A", "B", "1", "2", "x", "y/x")]
    result = site.build(request)
    assert (len(result.tracks), result.failed) == (7, {})
    assert set(site.folder.iterdir()) == {site.root, site.out, *(site.folder / n for n in FILES_OF_A_CONFIGURATION)}
    reader = open_cache(site.out)
    for track in request.tracks:
        expected = magnitudes(track.files["mixture"], SMALL)[5:9]
        assert np.abs(reader.segment(track.name, 5, 4)["mixture"] - expected).max() <= 1e-2 * expected.max()
    assert statuses(site.build(request)) == dict.fromkeys(statuses(result), "already there")


FILES_OF_A_CONFIGURATION = ("config.json", "train.csv", "valid.csv")


def test_a_dataset_without_a_configuration(site: Site) -> None:
    signals = ("mixture", "drums", "bass", "other", "vocals")
    for name in ("A", "B"):
        site.add(f"train/{name}", signals, nb_samples=5200)
    site.add("test/A", signals, suffix="flac")
    request = find_request(site.root, "spleeter", targets=("vocals",))
    assert request.parameters == Parameters(4096, 1024, "hann", 8000, 2, 1024, "float16")
    assert [(track.name, track.folder, track.splits) for track in request.tracks] == [
        ("A", "train/A", ("train",)),
        ("B", "train/B", ("train",)),
    ]
    assert find_request(site.root, "openunmix").parameters.nb_bins == 2049
    assert find_request(site.root, "openunmix").signals == signals
    both = find_request(site.root, "spleeter", subsets=("train", "test"))
    assert [track.name for track in both.tracks] == ["train/A", "B", "test/A"]
    assert both.tracks[2].files["bass"].name == "bass.flac"
    assert statuses(site.build(request)) == {"A": "built", "B": "built"}
    for targets, message in (((), "distinct ones"), (("mixture",), "distinct ones"), (("../x",), "without slashes")):
        with pytest.raises(ParameterError, match=message):
            find_request(site.root, "spleeter", targets=targets)
    with pytest.raises(ParameterError, match="preset is x, expected spleeter or openunmix"):
        find_request(site.root, "x")


@pytest.mark.parametrize("fault", ["rate", "empty", "missing"])
def test_the_first_track_decides_nothing(site: Site, fault: str) -> None:
    for name in "ABC":
        site.add(f"train/{name}", nb_samples=5200, sample_rate=16_000 if (name, fault) == ("A", "rate") else 8000)
    path = site.root / "train" / "A" / "mixture.wav"
    if fault == "empty":
        path.write_bytes(b"")
    elif fault == "missing":
        path.unlink()
    request = find_request(site.root, "spleeter", targets=("vocals", "drums"))
    assert request.parameters.sample_rate == 8000
    result = site.build(request)
    assert list(result.failed) == ["A"]
    assert list(result.tracks) == ["B", "C"]


def test_folders_are_found_while_others_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b/c", "gone"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / RECORD).touch()
    scandir = os.scandir

    def vanish(path: str) -> Any:
        if Path(path).name == "gone":
            raise FileNotFoundError(2, "No such file or directory", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert find_folders(tmp_path) == [tmp_path / "a", tmp_path / "b" / "c"]
