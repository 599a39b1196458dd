"""Separation of files: what is read, what is written where, running it again, and what the scorer makes of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from baselines import separate as module
from baselines.models import create, load_run, settings_to_json, write_checkpoint
from baselines.open_unmix import OpenUnmixSettings
from baselines.separate import PROGRAM, RECORD, Separated, separate, summarise
from baselines.separation import SeparationSettings, separate_wave
from baselines.spleeter_unet import UnetSettings
from musdbkit import audio, musdb18, scoring
from musdbkit.errors import DatasetError, MusdbkitError
from musdbkit.tracks import Outcome, Parallel

REPOSITORY = Path(__file__).parent.parent
RATE = 8000
TARGETS = ("drums", "vocals")
SMALL = OpenUnmixSettings(
    targets=TARGETS, hidden_size=8, nb_layers=1, sample_rate=RATE, n_fft=256, hop_length=64, bandwidth=None
)
UNET = UnetSettings(
    targets=TARGETS,
    nb_bins=64,
    nb_frames=64,
    filters=(2, 3, 4, 5, 6, 7),
    sample_rate=RATE,
    n_fft=256,
    hop_length=64,
)
AWKWARD = ["M.E.R.C. & Co - It's 1, 2 (Live)", '...And You - "Song"']


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute in one thread: for such small arrays several cost more than they help."""
    nb_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(nb_threads)


def write_run(folder: Path, settings: Any = SMALL, seed: int = 0) -> Path:
    """Write a run of random weights."""
    torch.manual_seed(seed)
    name = "spleeter-unet" if isinstance(settings, UnetSettings) else "open-unmix"
    network = create(name, settings)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.5 * torch.randn_like(parameter)
    write_checkpoint(folder, "best", name, settings, network.state_dict(), step=7, training={})
    return folder


def write_wave(path: Path, nb_samples: int = 3000, nb_channels: int = 2, rate: int = RATE, level: float = 0.3) -> Path:
    """Write noise, each file its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).uniform(-level, level, (nb_samples, nb_channels))
    soundfile.write(path, noise, rate, "FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "my run")


@pytest.fixture
def songs(tmp_path: Path) -> list[Path]:
    return [write_wave(tmp_path / "songs" / f"{name}.wav") for name in "AB"]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def statuses(outcome: Outcome[Separated]) -> list[str]:
    return [track.status for track in outcome.done.values()]


def protocol(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "separation.json").read_text())
    return document


def expected(run: Path, samples: NDArray[Any], **options: Any) -> dict[str, NDArray[np.float32]]:
    return separate_wave(load_run(run), samples.astype(np.float32), SeparationSettings(**options))


# What is read


@pytest.mark.parametrize("settings", [SMALL, UNET], ids=["open-unmix", "unet"])
def test_files_become_folders(tmp_path: Path, settings: Any) -> None:
    run, out = write_run(tmp_path / "run", settings), tmp_path / "out"
    songs = [write_wave(tmp_path / "songs" / f"{name}.wav") for name in (*AWKWARD, "a.b.c", "plain")]
    outcome = separate(run, songs, out)
    assert not outcome.failed
    names = [*AWKWARD, "a.b.c", "plain"]
    assert list(outcome.done) == names
    files = {f"{name}/{file}" for name in names for file in ("drums.wav", "vocals.wav", RECORD)}
    assert set(tree(out)) == {*files, "separation.json"}
    for name, song in zip(names, songs, strict=True):
        for target, samples in expected(run, audio.read(song)).items():
            path = out / name / f"{target}.wav"
            assert audio.info(path) == audio.AudioInfo(RATE, 2, 3000, "FLOAT")
            np.testing.assert_allclose(audio.read(path), samples, atol=1e-6)
    done = outcome.done["plain"]
    assert (done.status, done.folder, done.seconds) == ("separated", out / "plain", 3000 / RATE)
    assert done.nb_bytes == sum((out / "plain" / f"{target}.wav").stat().st_size for target in TARGETS)
    totals = summarise(outcome, out)
    assert (totals.nb_tracks, totals.nb_bytes, totals.clipped) == ({"separated": 4}, 4 * done.nb_bytes, {})


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg", "aiff"])
def test_other_kinds_of_files(run: Path, tmp_path: Path, suffix: str) -> None:
    song = write_wave(tmp_path / f"song.{suffix}")
    assert not separate(run, [song], tmp_path / "out").failed
    samples = expected(run, np.concatenate(list(audio.decode(song))))["vocals"]
    assert len(samples) == 3000
    np.testing.assert_allclose(audio.read(tmp_path / "out" / "song" / "vocals.wav"), samples, atol=1e-6)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A run at the rate of the real excerpt."""
    return write_run(tmp_path / "wide", replace(UNET, sample_rate=44_100, n_fft=2048, hop_length=512))


def test_stem_files_give_the_same_as_their_wavs(wide: Path, stems_root: Path, excerpt: Path, tmp_path: Path) -> None:
    mixture = np.concatenate([block[0] for block in audio.decode_stems(excerpt, dtype=np.int16)])
    audio.write(write_wave(tmp_path / "wavs" / "test" / "Plain - Song" / "mixture.flac"), mixture, 44_100)
    for root in (stems_root, tmp_path / "wavs"):
        assert list(separate(wide, [root], tmp_path / f"from {root.name}").done) == ["test/Plain - Song"]
    for target in TARGETS:
        one, two = (tmp_path / f"from {name}" / "test/Plain - Song" / f"{target}.wav" for name in ("stems", "wavs"))
        assert one.read_bytes() == two.read_bytes()
        assert audio.info(one) == audio.AudioInfo(44_100, 2, len(mixture), "FLOAT")
    outcome = separate(wide, [stems_root], tmp_path / "from stems", subset="train")
    assert list(outcome.done) == [f"train/{AWKWARD[0]}"]
    assert set(protocol(tmp_path / "from stems")["tracks"]) == {"test/Plain - Song", f"train/{AWKWARD[0]}"}


def test_the_first_stream_of_a_stem_file_is_its_mixture(wide: Path, excerpt: Path, tmp_path: Path) -> None:
    song = tmp_path / "My. Song.stem.mp4"
    shutil.copy(excerpt, song)
    assert list(separate(wide, [song], tmp_path / "out").done) == ["My. Song"]
    mixture = np.concatenate([block[0] for block in audio.decode_stems(excerpt)])
    samples = audio.read(tmp_path / "out" / "My. Song" / "drums.wav")
    np.testing.assert_allclose(samples, expected(wide, mixture)["drums"], atol=1e-6)


@pytest.mark.parametrize("rate", [11_025, 6000, 48_000])
def test_other_sample_rates(run: Path, tmp_path: Path, rate: int) -> None:
    """A slow sine is heard at its own rate and place, whatever the rate of its file."""
    time = np.arange(3 * rate + 1) / rate
    sine = (0.5 * np.sin(2 * np.pi * 300 * time) * np.sin(np.pi * time / 3) ** 2)[:, None] * np.array([1, 0.5])
    soundfile.write(tmp_path / "sine.wav", sine, rate, "FLOAT")
    settings = SeparationSettings(residual=True, nb_wiener_iterations=0)
    assert not separate(run, [tmp_path / "sine.wav"], tmp_path / "out", settings).failed
    estimates = {t: audio.read(tmp_path / "out" / "sine" / f"{t}.wav") for t in (*TARGETS, "residual")}
    assert {audio.info(tmp_path / "out" / "sine" / f"{t}.wav").sample_rate for t in estimates} == {rate}
    np.testing.assert_allclose(np.sum(list(estimates.values()), axis=0), sine, atol=1e-3)
    time = np.arange(3 * RATE + 1) / RATE
    own = (0.5 * np.sin(2 * np.pi * 300 * time) * np.sin(np.pi * time / 3) ** 2)[:, None] * np.array([1, 0.5])
    vocals = expected(run, own, nb_wiener_iterations=0, residual=True)["vocals"]
    rms = [np.sqrt(np.mean(each.astype(float) ** 2, axis=0)) for each in (vocals, estimates["vocals"])]
    np.testing.assert_allclose(rms[1], rms[0], rtol=0.02)


def test_lengths_are_kept_whatever_is_resampled(run: Path, tmp_path: Path) -> None:
    """Resampled to 8000 Hz and back, these lengths come out as much as 5 samples shorter or 6 longer."""
    lengths = {(48_000, 3), (48_000, 1000), (48_000, 1003), (96_000, 1001), (96_000, 1002)}
    songs = [write_wave(tmp_path / f"{rate} {n}.wav", nb_samples=n, rate=rate) for rate, n in lengths]
    assert not separate(run, songs, tmp_path / "out").failed
    found = {audio.info(tmp_path / "out" / song.name[:-4] / "drums.wav") for song in songs}
    assert {(info.sample_rate, info.nb_samples) for info in found} == lengths


def test_mono_is_doubled(run: Path, tmp_path: Path) -> None:
    song = write_wave(tmp_path / "song.wav", nb_channels=1)
    assert not separate(run, [song], tmp_path / "out").failed
    samples = expected(run, audio.read(song))["vocals"]
    np.testing.assert_allclose(audio.read(tmp_path / "out" / "song" / "vocals.wav"), samples, atol=1e-6)
    assert samples.shape == (3000, 2)


def test_an_empty_file_has_empty_estimates(run: Path, tmp_path: Path) -> None:
    song = write_wave(tmp_path / "song.wav", nb_samples=0)
    assert not separate(run, [song], tmp_path / "out").failed
    assert audio.info(tmp_path / "out" / "song" / "vocals.wav").nb_samples == 0


def test_long_tracks_go_through_in_chunks(run: Path, tmp_path: Path) -> None:
    song = write_wave(tmp_path / "song.wav", nb_samples=10 * RATE)
    options = {"chunk_seconds": 3.0, "overlap_seconds": 0.5, "nb_wiener_iterations": 0}
    assert not separate(run, [song], tmp_path / "out", SeparationSettings(**options)).failed
    vocals = audio.read(tmp_path / "out" / "song" / "vocals.wav")
    np.testing.assert_allclose(vocals, expected(run, audio.read(song), **options)["vocals"], atol=1e-6)
    assert np.abs(vocals - expected(run, audio.read(song), nb_wiener_iterations=0)["vocals"]).max() > 1e-6


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from baselines.separate import separate
from baselines.separation import SeparationSettings
torch.set_num_threads(1)
run, *songs = map(Path, sys.argv[1:])
for song in songs:
    outcome = separate(run, [song], song.parent / "out", SeparationSettings(chunk_seconds=4.0, overlap_seconds=0.1))
    assert not outcome.failed, outcome.failed
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """A minute and a half more would take 17 MB as samples of mixture and estimates, and 90 MB as spectra."""
    run = write_run(tmp_path / "run", UNET)
    songs = [write_wave(tmp_path / f"{seconds}.wav", nb_samples=seconds * RATE) for seconds in (20, 110)]
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, run, *songs],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    short, long = (int(line) * 1024 for line in result.stdout.split())
    assert long - short < 8e6


# What is refused


def test_two_inputs_of_one_name_are_refused_before_any_work(run: Path, tmp_path: Path) -> None:
    songs = [write_wave(tmp_path / folder / name) for folder, name in (("a", "song.wav"), ("b", "song.flac"))]
    with pytest.raises(DatasetError, match=r"song\.wav and .*song\.flac: both would go to .*out/song"):
        separate(run, songs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [".wav", "..wav", "...wav", "....flac"])
def test_no_name_leads_out_of_the_folder(run: Path, tmp_path: Path, name: str) -> None:
    song = tmp_path / name
    song.write_bytes(write_wave(tmp_path / "x.wav").read_bytes())
    with pytest.raises(DatasetError, match="no name for a folder is left without the ending: rename the file"):
        separate(run, [song], tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


def test_unusable_arguments_are_refused(run: Path, songs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: separate(run, [], out), "nothing to separate"),
        (lambda: separate(run, songs, out, subtype="PCM_U8"), "subtype is PCM_U8, expected one of PCM_16"),
        (lambda: separate(run, songs, out, device="tpu"), "device is tpu, expected one of auto, cpu, cuda"),
        (lambda: separate(run, songs, songs[0]), r"A\.wav: is a file, expected a folder to write to"),
        (lambda: separate(tmp_path / "none", songs, out), "none: no such folder: expected the folder that"),
        (lambda: separate(run, songs, out, SeparationSettings(mask_exponent=1.0)), "means nothing to open-unmix"),
        (lambda: separate(run, songs, out, SeparationSettings(chunk_seconds=0.001)), "chunk_seconds is 0.001"),
        (lambda: separate(run, [tmp_path / "songs"], out), "no tracks"),
        (lambda: separate(run, songs, out, SeparationSettings(precision="bf16"), device="cpu"), "bf16 is for CUDA"),
    ]
    if not torch.cuda.is_available():
        cases.append((lambda: separate(run, songs, out, device="cuda"), "device cuda: torch .* sees no GPU: use"))
    for call, message in cases:
        with pytest.raises(MusdbkitError, match=message):
            call()
    assert not out.exists()


def test_estimates_do_not_go_among_what_they_are_made_of(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "wavs"
    for stem in musdb18.STREAMS:
        write_wave(root / "test" / "Song" / f"{stem}.wav")
    before = tree(root)
    for out in (root, root / "test", root / "test" / "Song"):
        with pytest.raises(DatasetError, match="is in the dataset's own folders"):
            separate(run, [root], out, force=True)
    (tmp_path / "linked" / "test").mkdir(parents=True)
    (tmp_path / "linked" / "test" / "Song").symlink_to(root / "test" / "Song")
    assert "itself lies" in separate(run, [root], tmp_path / "linked", force=True).failed["test/Song"]
    song = write_wave(tmp_path / "vocals" / "vocals.wav")
    samples = song.read_bytes()
    assert "is where vocals.wav itself lies" in separate(run, [song], tmp_path, force=True).failed["vocals"]
    assert tree(root) == before
    assert song.read_bytes() == samples


def test_a_track_that_fails_does_not_stop_the_others(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "songs"
    songs = [write_wave(folder / "first.wav"), folder / "none.wav", folder / "text.wav", folder / "cut.flac"]
    songs += [write_wave(folder / "six.wav", nb_channels=6), folder / "nan.wav", write_wave(folder / "last.wav")]
    songs[2].write_text("hello")
    write_wave(songs[3], nb_samples=60_000)
    songs[3].write_bytes(songs[3].read_bytes()[:-20_000])
    samples = np.zeros((20_000, 2), np.float32)
    samples[17_001, 1] = np.nan
    soundfile.write(songs[5], samples, RATE, "FLOAT")
    outcome = separate(run, songs, tmp_path / "out")
    assert statuses(outcome) == ["separated", "separated"]
    assert list(outcome.done) == ["first", "last"]
    for name, message in {
        "none": r"none\.wav: no such file",
        "text": r"text\.wav: 5 bytes that are no readable audio file",
        "cut": r"cut\.flac: .*(cut off|cannot be read)",
        "six": r"six\.wav: 6 channels, expected 2 as the model has or 1: mix it down",
        "nan": r"nan\.wav: sample 17001 is not a finite number",
    }.items():
        assert re.search(message, outcome.failed.pop(name))
    assert not outcome.failed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "last", "separation.json"]
    assert list(protocol(tmp_path / "out")["tracks"]) == ["first", "last"]


def test_nothing_is_left_of_what_went_wrong(
    run: Path, songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    inner = module.separate_chunks

    def fail(*arguments: Any) -> Iterator[NDArray[np.float32]]:
        yield next(inner(*arguments))
        raise error

    monkeypatch.setattr(module, "separate_chunks", fail)
    error: BaseException = torch.OutOfMemoryError("no room")
    outcome = separate(run, songs, out)
    assert [text.partition(": ")[2] for text in outcome.failed.values()] == [
        "the GPU's memory is full: choose a smaller --chunk, or --device cpu"
    ] * 2
    assert set(tree(out)) == {"separation.json"}
    error = RuntimeError("broken")
    assert "RuntimeError: broken" in separate(run, songs, out).failed["A"]
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        separate(run, songs, out)
    assert [path.name for path in out.iterdir()] == ["separation.json"]
    assert not [t.name for t in threading.enumerate() if t.name.startswith("ThreadPool")]
    monkeypatch.undo()
    assert statuses(separate(run, songs, out)) == ["separated"] * 2


def test_a_full_disk_is_named(run: Path, small_disk: Path, tmp_path: Path) -> None:
    songs = [write_wave(tmp_path / "long.wav", nb_samples=2_000_000), write_wave(tmp_path / "short.wav")]
    outcome = separate(run, songs, small_disk / "out", SeparationSettings(chunk_seconds=10.0, overlap_seconds=0.1))
    assert "the disk is full: free some space and run again" in outcome.failed["long"]
    assert list(outcome.done) == ["short"]
    assert sorted(path.name for path in (small_disk / "out").iterdir()) == ["separation.json", "short"]


# Running it again


def test_a_second_run_does_nothing(run: Path, songs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    separate(run, songs, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    content = tree(out)
    outcome = separate(run, songs, out)
    assert statuses(outcome) == ["already there"] * 2
    assert [track.nb_bytes for track in outcome.done.values()] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} == before
    assert tree(out) == content


@pytest.mark.parametrize("damage", ["deleted", "shortened", "without its folder"])
def test_what_is_not_whole_is_done_again(run: Path, songs: list[Path], tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    separate(run, songs, out)
    before = tree(out)
    vocals = out / "A" / "vocals.wav"
    if damage == "deleted":
        vocals.unlink()
    elif damage == "shortened":
        vocals.write_bytes(vocals.read_bytes()[:-10])
    else:
        shutil.rmtree(vocals.parent)
    assert statuses(separate(run, songs, out)) == ["separated", "already there"]
    assert tree(out) == before


def test_other_settings_of_the_same_weights_are_refused_without_force(songs: list[Path], tmp_path: Path) -> None:
    """Weights that were imported once more, with another guess at what their tensors do not tell."""
    out = tmp_path / "out"
    separate(write_run(tmp_path / "one", replace(SMALL, sample_rate=RATE)), songs, out)
    with pytest.raises(DatasetError, match=f"made otherwise: sample_rate was {RATE}, now {RATE // 2}: --force"):
        separate(write_run(tmp_path / "two", replace(SMALL, sample_rate=RATE // 2)), songs, out)
    for path in (out / "separation.json", out / "A" / RECORD, out / "B" / RECORD):  # as older versions wrote them
        document = json.loads(path.read_text())
        del document["options"]["settings"]
        path.write_text(json.dumps(document))
    assert statuses(separate(tmp_path / "one", songs, out)) == ["already there"] * 2


def test_other_options_and_weights_are_refused_without_force(run: Path, songs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    separate(run, songs, out)
    before = tree(out)
    settings = SeparationSettings(nb_wiener_iterations=0)
    other = write_run(tmp_path / "other", seed=1)
    with pytest.raises(
        DatasetError,
        match="out: made otherwise: nb_wiener_iterations was 1, now 0; wiener_window was 300, now None: --f",
    ):
        separate(run, songs, out, settings)
    with pytest.raises(
        DatasetError, match=r"made otherwise: weights were [0-9a-f]{8}, now [0-9a-f]{8}: --force replaces"
    ):
        separate(other, songs, out)
    with pytest.raises(DatasetError, match="made otherwise: subtype was FLOAT, now PCM_16"):
        separate(run, songs, out, subtype="PCM_16")
    with pytest.raises(
        DatasetError, match=r"holds estimates made otherwise \(.*\) of tracks that are not .* B for one"
    ):
        separate(other, songs[:1], out, force=True)
    assert tree(out) == before
    (out / "separation.json").unlink()
    failed = separate(other, songs, out).failed
    assert list(failed) == ["A", "B"]
    assert "A: made otherwise: weights were" in failed["A"]
    (out / "A" / "notes.txt").write_text("mine")
    assert statuses(separate(other, songs, out, settings, force=True)) == ["separated"] * 2
    assert (out / "A" / "notes.txt").read_text() == "mine"
    (out / "A" / "notes.txt").unlink()
    separate(other, songs, tmp_path / "fresh", settings)
    assert tree(out) == tree(tmp_path / "fresh")


def test_force_leaves_no_target_of_the_model_before(run: Path, songs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    separate(run, songs, out, SeparationSettings(residual=True))
    separate(run, songs, out, force=True)
    assert sorted(path.name for path in (out / "A").iterdir()) == [RECORD, "drums.wav", "vocals.wav"]


def test_another_source_is_refused(run: Path, songs: list[Path], tmp_path: Path) -> None:
    separate(run, songs, tmp_path / "out")
    write_wave(songs[0], level=0.2)
    outcome = separate(run, songs, tmp_path / "out")
    assert "A: made otherwise: the source has changed: --force replaces it" in outcome.failed["A"]
    assert statuses(outcome) == ["already there"]


@pytest.mark.parametrize("record", [None, "", "[]", '{"version": 1}', '{"files": {"../x.wav": 1}}'])
def test_what_separate_did_not_make_is_left_alone(
    run: Path, songs: list[Path], tmp_path: Path, record: str | None
) -> None:
    folder = tmp_path / "out" / "A"
    folder.mkdir(parents=True)
    (folder / "vocals.wav").write_text("mine")
    if record is not None:
        (folder / RECORD).write_text(record)
    outcome = separate(run, songs, tmp_path / "out")
    assert f"{folder}: is there, but not made by separate" in outcome.failed["A"]
    assert list(outcome.done) == ["B"]
    assert (folder / "vocals.wav").read_text() == "mine"
    assert not separate(run, songs, tmp_path / "out", force=True).failed
    assert audio.info(folder / "vocals.wav").nb_samples == 3000


@pytest.mark.parametrize("text", ["", "[]", '{"program": "another", "tracks": {}}'])
def test_a_separation_json_of_others_is_left_alone(run: Path, songs: list[Path], tmp_path: Path, text: str) -> None:
    path = tmp_path / "out" / "separation.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"separation\.json: was not made by separate: --force replaces it"):
        separate(run, songs, path.parent)
    assert path.read_text() == text
    assert not separate(run, songs, path.parent, force=True).failed
    assert protocol(path.parent)["program"] == PROGRAM


def test_what_is_in_the_way_is_named(run: Path, songs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out" / "B" / "drums.wav").mkdir(parents=True)
    (tmp_path / "out" / "A").write_text("mine")
    outcome = separate(run, songs, tmp_path / "out", force=True)
    assert "A: is a file, expected a folder: move it away" in outcome.failed["A"]
    assert "drums.wav: is a folder, expected a file: move it away" in outcome.failed["B"]


def test_what_a_killed_run_left_is_no_hindrance(run: Path, songs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out" / "A").mkdir(parents=True)
    (tmp_path / "out" / ".musdbkit-0123456789abcdef.partial" / "new").mkdir(parents=True)
    assert statuses(separate(run, songs, tmp_path / "out")) == ["separated"] * 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["A", "B", "separation.json"]


@pytest.mark.parametrize("step", ["unlink", "replace"])
def test_a_change_that_is_interrupted_is_done_again(
    run: Path, songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    other = write_run(tmp_path / "other", seed=1)
    separate(other, songs, tmp_path / "expected")
    separate(run, songs, tmp_path / "out")
    inner = getattr(Path, step)

    def interrupt(path: Path, *arguments: Any, **options: Any) -> object:
        if path.name == ("vocals.wav" if step == "replace" else "drums.wav"):
            raise KeyboardInterrupt
        return inner(path, *arguments, **options)

    monkeypatch.setattr(Path, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        separate(other, songs, tmp_path / "out", force=True)
    monkeypatch.undo()
    outcome = separate(other, songs, tmp_path / "out")
    assert statuses(outcome) == ["separated"]
    assert list(outcome.failed) == ["B"]  # which was not begun
    separate(other, songs, tmp_path / "out", force=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_dry_run_writes_nothing(run: Path, songs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = separate(run, songs, out, dry_run=True)
    assert statuses(planned) == ["to separate"] * 2
    assert not out.exists()
    done = separate(run, songs, out)
    for key in done.done:
        assert planned.done[key].seconds == done.done[key].seconds
        assert planned.done[key].nb_bytes == pytest.approx(done.done[key].nb_bytes, rel=1e-2)  # headers
    assert statuses(separate(run, songs, out, dry_run=True)) == ["already there"] * 2


# What is recorded


def test_clipped_samples_are_counted(run: Path, tmp_path: Path) -> None:
    songs = [write_wave(tmp_path / "quiet.wav", level=0.01), write_wave(tmp_path / "loud.wav", level=3.0)]
    outcome = separate(run, songs, tmp_path / "out", subtype="PCM_16")
    estimates = expected(run, audio.read(songs[1]))
    counts = {}
    for target, samples in estimates.items():
        path = tmp_path / "out" / "loud" / f"{target}.wav"
        assert audio.info(path).subtype == "PCM_16"
        np.testing.assert_allclose(audio.read(path), samples.clip(-1, 1 - 2**-15), atol=2**-15)
        counts[target] = int(np.count_nonzero((samples * 32768 > 32767.5) | (samples * 32768 < -32768.5)))
    assert sum(counts.values()) > 0
    found = {target: number for target, number in counts.items() if number}
    assert outcome.done["loud"].clipped == found
    assert outcome.done["quiet"].clipped == {}
    assert summarise(outcome, tmp_path / "out").clipped == {"loud": found}
    assert protocol(tmp_path / "out")["tracks"] == {"quiet": {"clipped": {}}, "loud": {"clipped": found}}
    again = separate(run, songs, tmp_path / "out", subtype="PCM_16")
    assert again.done["loud"].clipped == found
    floats = separate(run, songs, tmp_path / "floats")
    assert floats.done["loud"].clipped == {}
    assert np.abs(audio.read(tmp_path / "floats" / "loud" / "vocals.wav")).max() > 1


def test_the_protocol_says_how_estimates_were_made(run: Path, songs: list[Path], tmp_path: Path) -> None:
    separate(run, songs, tmp_path / "out", SeparationSettings(residual=True, wiener_window=50))
    document = protocol(tmp_path / "out")
    loaded = load_run(run)
    assert document["model"] == {
        "name": "open-unmix",
        "run": "my run",
        "targets": list(TARGETS),
        "weights": loaded.sha256,
        "step": 7,
        "checkpoint": "best",
    }
    assert document["options"] == {
        "sources": [*TARGETS, "residual"],
        "nb_wiener_iterations": 1,
        "wiener_window": 50,
        "softmask": False,
        "residual": True,
        "segment_overlap": None,
        "mask_exponent": None,
        "mask_extension": None,
        "chunk_seconds": 600.0,
        "overlap_seconds": 10.0,
        "precision": "float32",
        "subtype": "FLOAT",
        "settings": settings_to_json(SMALL),
    }
    assert document["devices"] == ["cuda" if torch.cuda.is_available() else "cpu"]
    assert document["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json"))
    record = json.loads((tmp_path / "out" / "A" / RECORD).read_text())
    assert record["weights"] == loaded.sha256
    assert record["options"] == document["options"]
    assert list(record["source"]) == ["A.wav"]


def test_the_scorer_reads_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", replace(UNET, targets=("vocals", "drums", "bass", "other")))
    root = tmp_path / "wavs"
    for stem in musdb18.STREAMS:
        write_wave(root / "test" / AWKWARD[0] / f"{stem}.wav", nb_samples=2 * RATE)
    fingerprints = set()
    for i, settings in enumerate((SeparationSettings(), SeparationSettings(mask_exponent=1.0))):
        estimates, out = tmp_path / f"estimates {i}", tmp_path / f"scores {i}"
        assert not separate(run, [root], estimates, settings).failed
        chosen = scoring.Settings(metrics=("sdr",))
        result = scoring.score(estimates, scoring.find_references(root), out, chosen, parallel=Parallel(1))
        assert list(result.done) == [f"test/{AWKWARD[0]}"]
        assert len(result.table)
        document = json.loads((out / "protocol.json").read_text())
        assert document["separation"] == protocol(estimates)
        fingerprints.add(document["fingerprint"])
    assert len(fingerprints) == 2


# Doing several things at a time


def test_the_next_track_is_read_while_one_is_separated(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = [write_wave(tmp_path / f"{i}.wav") for i in range(4)]
    read: list[str] = []
    read_again = threading.Semaphore(0)
    inner_decode, inner_separate = audio.decode, module.separate_chunks

    def decode(path: Path) -> Iterator[NDArray[np.float32]]:
        yield from inner_decode(path)
        read.append(path.stem)
        read_again.release()

    seen = []

    def wait(*arguments: Any) -> Iterator[NDArray[np.float32]]:
        if len(seen) < 3:
            for _ in range(2 if not seen else 1):
                assert read_again.acquire(timeout=10)
        seen.append(list(read))
        yield from inner_separate(*arguments)

    monkeypatch.setattr(audio, "decode", decode)
    monkeypatch.setattr(module, "separate_chunks", wait)
    assert not separate(run, songs, tmp_path / "out").failed
    assert [len(each) for each in seen] == [2, 3, 4, 4]  # one ahead, never more


def test_an_error_of_writing_is_that_of_the_track(
    run: Path, songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = audio.Writer.write

    def fail(writer: audio.Writer, samples: NDArray[Any]) -> None:
        if writer.path.name == "vocals.wav" and len(samples):
            raise audio.AudioError("the disk is on fire")
        inner(writer, samples)

    monkeypatch.setattr(audio.Writer, "write", fail)
    assert separate(run, songs, tmp_path / "out").failed == dict.fromkeys("AB", "the disk is on fire")
    assert set(tree(tmp_path / "out")) == {"separation.json"}


def test_cores_are_those_of_before(run: Path, songs: list[Path], tmp_path: Path) -> None:
    """The function that loops over tracks gives each one core, which is not enough for a network."""
    found = []
    inner = module.separate_chunks

    def look(*arguments: Any) -> Iterator[NDArray[np.float32]]:
        found.append(torch.get_num_threads())
        yield from inner(*arguments)

    torch.set_num_threads(2)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "separate_chunks", look)
            separate(run, songs, tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert found == [2, 2]
