"""Finding tracks in each layout and refusing what is none; running functions over tracks."""

import os
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from musdbkit import audio, musdb18
from musdbkit.errors import AudioError, DatasetError, MusdbkitError, ParameterError
from musdbkit.tracks import Parallel, Track, default_root, find_tracks, for_each, read_stems

AWKWARD = [
    "M.E.R.C. Music - Knockout",
    "Jokers, Jacks & Kings - Sea Of Leaves",
    "The Wrong'Uns - Rothko",
    "A [b] - (C)",
]


def make_stems(root: Path, subset: str, *names: str) -> None:
    (root / subset).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / subset / f"{name}.stem.mp4").touch()


def make_folder(root: Path, subset: str, name: str, *stems: str, suffix: str = ".wav") -> None:
    (root / subset / name).mkdir(parents=True)
    for stem in stems:
        (root / subset / name / (stem + suffix)).touch()


def test_stem_files_are_found_sorted_with_their_whole_names(tmp_path: Path) -> None:
    make_stems(tmp_path, "test", "Z - Last", "._hidden")
    make_stems(tmp_path, "train", *AWKWARD, "ANiMAL - Rockshow", ".synth")
    (tmp_path / "train" / "notes.txt").touch()
    tracks = find_tracks(tmp_path)
    assert [track.name for track in tracks] == [*sorted([*AWKWARD, "ANiMAL - Rockshow"]), "Z - Last"]
    assert {track.layout for track in tracks} == {"stems"}
    assert {track.name: track.split for track in tracks}["ANiMAL - Rockshow"] == "valid"
    assert tracks[-1] == Track("Z - Last", "test", "stems", tmp_path / "test" / "Z - Last.stem.mp4")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_wav_layouts_are_told_apart(tmp_path: Path, suffix: str) -> None:
    make_folder(tmp_path, "train", "A", *musdb18.STREAMS, suffix=suffix)
    make_folder(tmp_path, "train", "B", *musdb18.STREAMS, "accompaniment", suffix=suffix)
    tracks = find_tracks(tmp_path)
    assert [(track.name, track.layout) for track in tracks] == [("A", "hq"), ("B", "wav")]
    assert tracks[0].file("bass") == tmp_path / "train" / "A" / f"bass{suffix}"


def test_one_subset_can_be_asked_for(tmp_path: Path) -> None:
    make_stems(tmp_path, "train", "A")
    make_stems(tmp_path, "test", "B")
    assert [track.name for track in find_tracks(tmp_path, ["test"])] == ["B"]


def test_wrong_roots_are_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nothing: no such folder \(looked for .*train and .*test\)"):
        find_tracks(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty: no tracks \(looked for"):
        find_tracks(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="file: a file, expected the folder"):
        find_tracks(tmp_path / "file")


def test_near_misses_are_recognised(tmp_path: Path) -> None:
    make_stems(tmp_path / "musdb18", "train", "A")
    with pytest.raises(DatasetError, match=r"did you mean .*musdb18\?"):
        find_tracks(tmp_path)
    with pytest.raises(DatasetError, match=r"did you mean its parent, .*musdb18\?"):
        find_tracks(tmp_path / "musdb18" / "train")


def test_an_empty_subset_is_refused(tmp_path: Path) -> None:
    make_stems(tmp_path, "train", "A")
    (tmp_path / "test").mkdir()
    with pytest.raises(
        DatasetError, match=r"test: looked for \*\.stem\.mp4 files or folders with mixture.wav, found nothing"
    ):
        find_tracks(tmp_path)
    (tmp_path / "test" / "A.mp4").touch()
    with pytest.raises(DatasetError, match=r"found 1 other entries \(A\.mp4\)"):
        find_tracks(tmp_path)


def test_a_missing_subset_is_refused_when_asked_for(tmp_path: Path) -> None:
    make_stems(tmp_path, "train", "A")
    assert len(find_tracks(tmp_path)) == 1
    with pytest.raises(DatasetError, match="no tracks in test, only in train"):
        find_tracks(tmp_path, ["test"])


def test_half_a_layout_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, "train", "Half", "mixture", "drums", "other", "vocals")
    make_folder(tmp_path, "train", "None")
    with pytest.raises(DatasetError, match=r"train/Half: no bass \(looked for .*; 1 more tracks lack stems"):
        find_tracks(tmp_path)
    assert [track.name for track in find_tracks(tmp_path, complete=False)] == ["Half", "None"]


def test_mixed_layouts_are_refused(tmp_path: Path) -> None:
    make_stems(tmp_path, "train", "A")
    make_folder(tmp_path, "train", "B", *musdb18.STREAMS)
    with pytest.raises(DatasetError, match=r"both stem files \(A\.stem\.mp4\) and wav folders \(B\)"):
        find_tracks(tmp_path)


def test_an_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_stems(tmp_path, "train", "A")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError, match="train: cannot be listed: Permission denied"):
        find_tracks(tmp_path)


def test_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"no dataset given: name its folder \(ROOT or --musdb\), or set MUSDB_PATH"):
        default_root(None)
    make_stems(tmp_path / "stems", "train", "A")
    monkeypatch.setenv("MUSDB_PATH", str(tmp_path / "stems"))
    assert default_root(None) == tmp_path / "stems"
    with pytest.raises(DatasetError, match="stem files, expected wav files: convert them first: musdbkit convert"):
        default_root(None, wav=True)
    (tmp_path / "musdb18-wav").mkdir()
    assert default_root(None, wav=True) == Path("musdb18-wav")
    with pytest.raises(DatasetError, match="convert them first"):
        default_root(tmp_path / "stems", wav=True)


def test_streams_of_a_stem_file_are_read_as_16_bit(excerpt: Path) -> None:
    samples = read_stems(Track("A", "test", "stems", excerpt), ["vocals", "mixture"])
    assert list(samples) == ["vocals", "mixture"]
    blocks = list(audio.decode_stems(excerpt))
    for stem, i in (("mixture", 0), ("vocals", 4)):
        assert samples[stem].dtype == np.int16
        expected = audio.quantise(np.concatenate([block[i] for block in blocks]), "PCM_16")
        np.testing.assert_array_equal(samples[stem], expected)


@pytest.mark.parametrize(("suffix", "nb_samples"), [(".wav", 40_000), (".flac", 40_000), (".wav", 0)])
def test_files_are_read_as_written(tmp_path: Path, rng: np.random.Generator, suffix: str, nb_samples: int) -> None:
    integers = rng.integers(-(2**15), 2**15, (nb_samples, 1), np.int16)
    floats = rng.integers(-(2**23), 2**23, (nb_samples, 1)).astype(np.float32) / 2**23
    audio.write(tmp_path / f"mixture{suffix}", integers, 22_050)
    audio.write(tmp_path / f"bass{suffix}", floats, 22_050, "PCM_24")
    audio.write(tmp_path / "drums.wav", 2 * floats, 22_050, "FLOAT")
    samples = read_stems(Track("A", "test", "hq", tmp_path), ["mixture", "bass", "drums"])
    assert [each.dtype for each in samples.values()] == [np.int16, np.float32, np.float32]
    for each, expected in zip(samples.values(), (integers, floats, 2 * floats), strict=True):
        assert each.shape == (nb_samples, 1)
        np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize(
    ("shape", "rate", "code", "message"),
    [
        ((99, 2), 44_100, "length", "bass.wav: 99 samples, expected 100 as in mixture.wav"),
        ((100, 2), 48_000, "rate", "bass.wav: 48000 Hz, expected 44100 as in mixture.wav"),
        ((100, 1), 44_100, "channels", r"bass.wav: 1 channel\(s\), expected 2 as in mixture.wav"),
    ],
)
def test_files_that_differ_are_refused(
    tmp_path: Path, shape: tuple[int, int], rate: int, code: str, message: str
) -> None:
    audio.write(tmp_path / "mixture.wav", np.zeros((100, 2), np.int16), 44_100)
    audio.write(tmp_path / "bass.wav", np.zeros(shape, np.int16), rate)
    with pytest.raises(AudioError, match=message) as caught:
        read_stems(Track("A", "test", "hq", tmp_path), ["mixture", "bass"])
    assert (caught.value.code, caught.value.stem) == (code, "bass")


def test_streams_that_are_not_there_are_refused(excerpt: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="test/A: no stream accompaniment: expected mixture, drums"):
        read_stems(Track("A", "test", "stems", excerpt), ["accompaniment"])
    with pytest.raises(AudioError, match=r"bass\.wav: no such file"):
        read_stems(Track("A", "test", "hq", tmp_path), ["bass"])


def double(number: int) -> int:
    if number == 3:
        raise MusdbkitError("three\nlines")
    if number == 4:
        raise ZeroDivisionError("four")
    time.sleep(0.2 / number)  # later items finish first
    return 2 * number


@pytest.mark.parametrize(
    "parallel", [Parallel(1), Parallel(2), Parallel(2, "threading"), Parallel(2, "multiprocessing")]
)
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_order_is_kept_and_failures_are_gathered(parallel: Parallel, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = for_each(double, [1, 2, 3, 4, 5], key=str, label="double", parallel=parallel)
    assert list(outcome.done.items()) == [("1", 2), ("2", 4), ("5", 10)]
    assert outcome.failed == {"3": r"three\nlines", "4": "ZeroDivisionError: four (MUSDBKIT_DEBUG=1 shows where)"}
    lines = capfd.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{i}/5" for i in range(1, 6)]
    assert any(line.endswith(" 3: failed") for line in lines)


def nb_blas_threads(_: int) -> int:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return max(pool["num_threads"] for pool in threadpool_info())


@pytest.mark.parametrize("jobs", [1, 2])
def test_threads_are_capped(jobs: int) -> None:
    outcome = for_each(nb_blas_threads, [0, 1], key=str, label="threads", parallel=Parallel(jobs))
    assert set(outcome.done.values()) == {1}


def die(folder: Path, number: int) -> int:
    if number == 1:
        os._exit(9)
    return number


def test_a_worker_that_dies_costs_its_tracks_a_clear_line(tmp_path: Path) -> None:
    outcome = for_each(partial(die, tmp_path), [1, 2, 3], key=str, label="die", parallel=Parallel(2))
    assert "1" in outcome.failed
    assert outcome.done.keys() | outcome.failed.keys() == {"1", "2", "3"}
    assert set(outcome.failed.values()) == {
        "not done, a worker process died (out of memory?): run again with fewer --jobs"
    }


def test_what_convert_is_at_work_on_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, "train", "A", *musdb18.STREAMS)
    (tmp_path / "train" / ".musdbkit-0123456789abcdef.partial").mkdir()
    with pytest.raises(DatasetError, match="convert is at work here, or was killed: wait for it, or run it again"):
        find_tracks(tmp_path)


def test_links_in_a_circle_are_no_tracks_and_do_no_harm(tmp_path: Path) -> None:
    make_folder(tmp_path, "train", "A", *musdb18.STREAMS)
    (tmp_path / "train" / "loop").symlink_to("loop")
    assert [track.name for track in find_tracks(tmp_path)] == ["A"]


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(ParameterError, match="jobs is 0, expected 1 or more"):
        Parallel(0)
    with pytest.raises(ParameterError, match="use it with --backend dask"):
        Parallel(scheduler="tcp://host:1")


def test_dask_runs_the_same_code() -> None:
    pytest.importorskip("distributed")
    outcome = for_each(double, [1, 2, 3], key=str, label="double", parallel=Parallel(2, "dask"))
    assert outcome.done == {"1": 2, "2": 4}
    assert outcome.failed == {"3": r"three\nlines"}


def test_a_second_dask_run_finds_its_own_port() -> None:
    pytest.importorskip("distributed")
    with socket.socket() as other:  # where another run, or another user, has Dask's own choice of a port
        with suppress(OSError):
            other.bind(("0.0.0.0", 8787))
            other.listen()
        outcome = for_each(double, [1], key=str, label="double", parallel=Parallel(1, "dask"))
    assert outcome.done == {"1": 2}
