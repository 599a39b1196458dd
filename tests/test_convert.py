"""Converting the real excerpt: exact sums, resuming, refusing, verifying."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from musdbkit import audio, musdb18
from musdbkit.convert import (
    DEFAULT_SETTINGS,
    DEFAULT_TARGETS,
    RECORD,
    Converted,
    Settings,
    convert,
    remove_partials,
    summarise,
)
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.tracks import Outcome, Parallel, find_tracks

REPOSITORY = Path(__file__).parent.parent
ONE = Parallel(1)
KEYS = ["train/M.E.R.C. & Co - It's 1, 2 (Live)", "test/Plain - Song"]


def run(stems: Path, out: Path, settings: Settings = DEFAULT_SETTINGS, **options: bool) -> Outcome[Converted]:
    return convert(stems, out, settings, parallel=ONE, **options)


def ints(path: Path) -> np.ndarray:
    samples, _ = soundfile.read(path, dtype="int16")
    return samples.astype(int)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def statuses(outcome: Outcome[Converted]) -> list[str]:
    return [track.status for track in outcome.done.values()]


@pytest.fixture(scope="module")
def wavs(excerpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The excerpt, converted once with the default settings."""
    root = tmp_path_factory.mktemp("default")
    (root / "stems" / "test").mkdir(parents=True)
    shutil.copy(excerpt, root / "stems" / "test" / "A - B.stem.mp4")
    assert not run(root / "stems", root / "out").failed
    return root / "out" / "test" / "A - B"


def test_default_writes_streams_and_accompaniment(wavs: Path) -> None:
    assert sorted(path.name for path in wavs.iterdir()) == sorted([RECORD, *(f"{t}.wav" for t in DEFAULT_TARGETS)])
    for target in musdb18.STREAMS:
        assert audio.info(wavs / f"{target}.wav") == audio.AudioInfo(44100, 2, 268_288, "PCM_16")


def test_written_stems_are_the_quantised_streams(wavs: Path, excerpt: Path) -> None:
    blocks = list(audio.decode_stems(excerpt))
    for i, stem in enumerate(musdb18.STREAMS):
        stream = np.concatenate([block[i] for block in blocks])
        np.testing.assert_array_equal(ints(wavs / f"{stem}.wav"), audio.quantise(stream, "PCM_16"))


def test_overflowing_accompaniment_is_the_exact_sum_as_float(wavs: Path) -> None:
    expected = sum(ints(wavs / f"{stem}.wav") for stem in ("drums", "bass", "other"))
    assert np.abs(expected).max() > 32768  # the excerpt's own click; nothing may be clipped
    assert audio.info(wavs / "accompaniment.wav").subtype == "FLOAT"
    samples, _ = soundfile.read(wavs / "accompaniment.wav", dtype="float64")
    np.testing.assert_array_equal(samples * 32768, expected)


@pytest.mark.parametrize(("subtype", "scale"), [("PCM_24", 2**23), ("FLOAT", 2**15)])
def test_sums_in_other_subtypes(stems_root: Path, tmp_path: Path, subtype: str, scale: int) -> None:
    outcome = run(stems_root, tmp_path / "out", Settings(("drums", "bass", "other", "accompaniment"), subtype=subtype))
    assert not outcome.failed
    folder = tmp_path / "out" / KEYS[1]
    stems = [soundfile.read(folder / f"{s}.wav", dtype="float64")[0] * scale for s in ("drums", "bass", "other")]
    written, _ = soundfile.read(folder / "accompaniment.wav", dtype="float64")
    np.testing.assert_array_equal(written, (sum(stems) / scale).astype(np.float32))


def test_second_run_does_nothing(stems_root: Path, tmp_path: Path) -> None:
    assert statuses(run(stems_root, tmp_path / "out")) == ["converted"] * 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert statuses(run(stems_root, tmp_path / "out")) == ["already there"] * 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_more_targets_are_added_to_those_there(stems_root: Path, tmp_path: Path) -> None:
    run(stems_root, tmp_path / "some", Settings(("vocals",)))
    vocals = tmp_path / "some" / KEYS[0] / "vocals.wav"
    mtime = vocals.stat().st_mtime_ns
    outcome = run(stems_root, tmp_path / "some", Settings(tuple(musdb18.TARGETS)))
    assert "vocals" not in outcome.done[KEYS[0]].files
    assert vocals.stat().st_mtime_ns == mtime
    run(stems_root, tmp_path / "all", Settings(tuple(musdb18.TARGETS)))
    assert tree(tmp_path / "some") == tree(tmp_path / "all")
    assert statuses(run(stems_root, tmp_path / "some", Settings(("vocals",)))) == ["already there"] * 2


@pytest.mark.parametrize("damage", ["deleted", "shortened"])
def test_a_damaged_file_is_written_again(stems_root: Path, tmp_path: Path, damage: str) -> None:
    run(stems_root, tmp_path / "out")
    before = tree(tmp_path / "out")
    bass = tmp_path / "out" / KEYS[0] / "bass.wav"
    bass.unlink() if damage == "deleted" else bass.write_bytes(bass.read_bytes()[:-10])
    outcome = run(stems_root, tmp_path / "out")
    assert outcome.done[KEYS[0]].files == {"bass": "bass.wav"}
    assert tree(tmp_path / "out") == before


def test_changed_settings_are_refused_without_force(stems_root: Path, tmp_path: Path) -> None:
    run(stems_root, tmp_path / "out")
    before = tree(tmp_path / "out")
    outcome = run(stems_root, tmp_path / "out", Settings(subtype="PCM_24"))
    assert list(outcome.failed) == KEYS
    assert "made otherwise: subtype was PCM_16, now PCM_24: --force" in outcome.failed[KEYS[0]]
    assert tree(tmp_path / "out") == before
    assert statuses(run(stems_root, tmp_path / "out", Settings(subtype="PCM_24"), force=True)) == ["converted"] * 2
    assert audio.info(tmp_path / "out" / KEYS[0] / "bass.wav").subtype == "PCM_24"


def test_a_source_changed_under_the_same_size_and_date_is_noticed(stems_root: Path, tmp_path: Path) -> None:
    run(stems_root, tmp_path / "out")
    source = stems_root / f"{KEYS[1]}.stem.mp4"
    status = source.stat()
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    outcome = run(stems_root, tmp_path / "out")
    assert statuses(outcome) == ["already there"]
    assert "the stem file has changed" in outcome.failed[KEYS[1]]


def test_what_convert_did_not_make_is_left_alone(stems_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / KEYS[0]
    folder.mkdir(parents=True)
    (folder / "drums.wav").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    outcome = run(stems_root, tmp_path / "out")
    assert f"{folder}: is there, but not made by convert" in outcome.failed[KEYS[0]]
    assert list(outcome.done) == [KEYS[1]]
    assert sorted(path.name for path in folder.iterdir()) == ["drums.wav", "notes.txt"]
    assert not run(stems_root, tmp_path / "out", force=True).failed
    assert (folder / "notes.txt").read_text() == "mine"
    assert tree(folder).keys() == {"notes.txt", RECORD, *(f"{target}.wav" for target in DEFAULT_TARGETS)}


def test_a_file_of_the_users_is_not_replaced_by_a_new_target(stems_root: Path, tmp_path: Path) -> None:
    run(stems_root, tmp_path / "out", Settings(("drums",)))
    (tmp_path / "out" / KEYS[0] / "accompaniment.wav").write_text("mine")
    outcome = run(stems_root, tmp_path / "out")
    assert "accompaniment.wav: is there, but not made by convert" in outcome.failed[KEYS[0]]
    assert (tmp_path / "out" / KEYS[0] / "accompaniment.wav").read_text() == "mine"


def test_another_format_replaces_the_files_of_the_first(stems_root: Path, tmp_path: Path) -> None:
    run(stems_root, tmp_path / "out")
    run(stems_root, tmp_path / "out", Settings(format="flac"), force=True)
    names = {path.name for path in (tmp_path / "out" / KEYS[0]).iterdir()}
    assert names == {RECORD, *(f"{stem}.flac" for stem in musdb18.STREAMS), "accompaniment.wav"}


def test_flac_holds_the_same_samples(stems_root: Path, tmp_path: Path, wavs: Path) -> None:
    run(stems_root, tmp_path / "out", Settings(("vocals",), format="flac"))
    assert audio.hash_pcm(tmp_path / "out" / KEYS[1] / "vocals.flac") == audio.hash_pcm(wavs / "vocals.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_the_users_files_in_the_other_format_stay(stems_root: Path, tmp_path: Path, suffix: str) -> None:
    run(stems_root, tmp_path / "out", Settings(("drums",), format="flac"))
    mine = tmp_path / "out" / KEYS[0] / f"accompaniment.{suffix}"
    mine.write_text("mine")
    outcome = run(stems_root, tmp_path / "out", Settings(format="flac"))
    assert f"{mine}: is there, but not made by convert" in outcome.failed[KEYS[0]]
    assert mine.read_text() == "mine"


def test_force_keeps_sound_targets_that_are_not_asked_for(stems_root: Path, tmp_path: Path) -> None:
    run(stems_root, tmp_path / "out")
    before = tree(tmp_path / "out")
    outcome = run(stems_root, tmp_path / "out", Settings(("vocals",)), force=True)
    assert outcome.done[KEYS[0]].files == {"vocals": "vocals.wav"}
    assert tree(tmp_path / "out") == before


def test_a_folder_in_the_way_is_named_and_nothing_is_lost(stems_root: Path, tmp_path: Path) -> None:
    run(stems_root, tmp_path / "out", Settings(("drums",)))
    (tmp_path / "out" / KEYS[0] / "bass.wav").mkdir()
    before = tree(tmp_path / "out" / KEYS[0])
    outcome = run(stems_root, tmp_path / "out", force=True)
    assert "bass.wav: is a folder, expected a file: move it away" in outcome.failed[KEYS[0]]
    assert tree(tmp_path / "out" / KEYS[0]) == before


KILLER = """
import os, pathlib, sys
from musdbkit.convert import Settings, convert
from musdbkit.tracks import Parallel

left = int(sys.argv[1])

def counted(function):
    def call(path, *arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(path, *arguments, **options)
    return call

for name in ("mkdir", "rename", "replace", "unlink", "write_text", "rmdir"):
    setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
stems, out, targets, subtype, force = sys.argv[2:]
settings = Settings(tuple(targets.split(",")), subtype=subtype)
convert(pathlib.Path(stems), pathlib.Path(out), settings, force=bool(int(force)), parallel=Parallel(1))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "subtype", "force"),
    [("linear_mixture", "PCM_16", False), ("mixture,vocals,accompaniment", "PCM_24", True)],
    ids=["another target", "other settings by force"],
)
def test_killed_between_any_two_steps_of_a_change_and_run_again(
    stems_root: Path, tmp_path: Path, targets: str, subtype: str, force: bool
) -> None:
    shutil.rmtree(stems_root / "test")
    settings = Settings(tuple(targets.split(",")), subtype=subtype)
    run(stems_root, tmp_path / "start", Settings(("drums", "vocals", "accompaniment")))
    (tmp_path / "start" / KEYS[0] / "notes.txt").write_text("mine")
    shutil.copytree(tmp_path / "start", tmp_path / "undisturbed")
    run(stems_root, tmp_path / "undisturbed", settings, force=force)
    out = tmp_path / "out"
    nb_hidden = 0
    for nb_steps in range(100):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "start", out)
        command = [sys.executable, "-c", KILLER, nb_steps, stems_root, out, targets, subtype, int(force)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        result = subprocess.run([*map(str, command)], env=environment, capture_output=True, check=False)
        if result.returncode == 9 and list((out / "train").glob(".musdbkit-*")):
            nb_hidden += not (out / KEYS[0]).exists()
            with pytest.raises(DatasetError, match="convert is at work here, or was killed"):
                find_tracks(out)
        else:
            assert tree(out) in (tree(tmp_path / "start"), tree(tmp_path / "undisturbed"))
        outcome = run(stems_root, out, settings)  # without force
        if outcome.failed:  # only what was not begun may be refused
            assert force
            assert "made otherwise" in outcome.failed[KEYS[0]]
            assert tree(out) == tree(tmp_path / "start")
            run(stems_root, out, settings, force=True)
        assert tree(out) == tree(tmp_path / "undisturbed")
        if result.returncode == 0:
            break
    assert result.returncode == 0, result.stderr
    assert nb_hidden >= 5


def test_two_runs_at_once_wait_for_each_other(stems_root: Path, tmp_path: Path) -> None:
    settings = [Settings(("vocals",)), Settings(("drums",)), Settings(("bass", "vocals"))]
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(partial(run, stems_root, tmp_path / "out"), settings))
    assert [outcome.failed for outcome in outcomes] == [{}] * 3
    run(stems_root, tmp_path / "alone", Settings(("vocals", "drums", "bass")))
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")


def test_of_two_runs_with_other_settings_one_is_refused(stems_root: Path, tmp_path: Path) -> None:
    settings = [Settings(("vocals",)), Settings(("drums",), subtype="PCM_24")]
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(partial(run, stems_root, tmp_path / "out"), settings))
    for key in KEYS:
        (failure,) = [outcome.failed[key] for outcome in outcomes if key in outcome.failed]
        assert "made otherwise: subtype was PCM_" in failure


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 1}', '{"version": 1, "files": {"drums": {"file": "../x"}}}']
)
def test_a_record_that_makes_no_sense_counts_as_none(stems_root: Path, tmp_path: Path, content: str) -> None:
    run(stems_root, tmp_path / "out", Settings(("drums",)))
    (tmp_path / "out" / KEYS[0] / RECORD).write_text(content)
    outcome = run(stems_root, tmp_path / "out", Settings(("drums",)))
    assert "not made by convert" in outcome.failed[KEYS[0]]


def test_verify_gives_pcm_hashes_and_finds_changed_samples(stems_root: Path, tmp_path: Path) -> None:
    outcome = run(stems_root, tmp_path / "out", verify=True)
    folder = tmp_path / "out" / KEYS[0]
    assert outcome.done[KEYS[0]].pcm_hashes == {t: audio.hash_pcm(folder / f"{t}.wav") for t in DEFAULT_TARGETS}
    data = bytearray((folder / "other.wav").read_bytes())
    data[100_000] ^= 1
    (folder / "other.wav").write_bytes(data)
    outcome = run(stems_root, tmp_path / "out", verify=True)
    assert list(outcome.done) == [KEYS[1]]
    assert "other.wav: not what" in outcome.failed[KEYS[0]]


def test_dry_run_writes_nothing_and_foretells_the_size(stems_root: Path, tmp_path: Path) -> None:
    settings = Settings(musdb18.STREAMS)
    planned = run(stems_root, tmp_path / "out", settings, dry_run=True)
    assert statuses(planned) == ["to convert"] * 2
    assert not (tmp_path / "out").exists()
    done = run(stems_root, tmp_path / "out", settings)
    for key in KEYS:
        assert planned.done[key].nb_bytes == done.done[key].nb_bytes
        assert planned.done[key].seconds == done.done[key].seconds
    assert statuses(run(stems_root, tmp_path / "out", settings, dry_run=True)) == ["already there"] * 2
    assert summarise(planned, tmp_path / "out").nb_tracks == {"to convert": 2}


@pytest.mark.parametrize("rate", [22_050, 48_000])
def test_resampling_is_soxrs(stems_root: Path, tmp_path: Path, excerpt: Path, rate: int) -> None:
    assert not run(stems_root, tmp_path / "out", Settings(("vocals", "accompaniment"), sample_rate=rate)).failed
    vocals = np.concatenate([block[4] for block in audio.decode_stems(excerpt)])
    expected = audio.quantise(soxr.resample(vocals, 44_100, rate, "VHQ"), "PCM_16")
    written = tmp_path / "out" / KEYS[0] / "vocals.wav"
    assert audio.info(written).sample_rate == rate
    assert np.abs(ints(written) - expected).max() <= 1


def test_nothing_depends_on_the_number_of_jobs(stems_root: Path, tmp_path: Path) -> None:
    convert(stems_root, tmp_path / "one", parallel=Parallel(1))
    convert(stems_root, tmp_path / "two", parallel=Parallel(2))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_broken_track_does_not_stop_the_others(stems_root: Path, tmp_path: Path, excerpt: Path) -> None:
    (stems_root / "test" / "Cut - Off.stem.mp4").write_bytes(excerpt.read_bytes()[:400_000])
    outcome = run(stems_root, tmp_path / "out")
    assert list(outcome.done) == KEYS
    assert "the container says 268288" in outcome.failed["test/Cut - Off"]
    assert sorted(path.name for path in (tmp_path / "out" / "test").iterdir()) == ["Plain - Song"]


def test_folders_that_cannot_be_converted_are_refused(stems_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds the stem files, expected another folder"):
        run(stems_root, stems_root)
    run(stems_root, tmp_path / "out")
    with pytest.raises(DatasetError, match="wav files already"):
        run(tmp_path / "out", tmp_path / "again")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ("piano",)}, "targets piano: expected some of mixture, "),
        ({"targets": ()}, r"targets \(none\)"),
        ({"format": "mp3"}, "format mp3: expected wav or flac"),
        ({"subtype": "PCM_8"}, "subtype PCM_8: expected one of PCM_16, PCM_24, FLOAT"),
        ({"format": "flac", "subtype": "FLOAT"}, "flac holds no FLOAT"),
        ({"sample_rate": 3}, "sample rate 3 Hz"),
    ],
)
def test_unusable_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Settings(**arguments)  # type: ignore[arg-type]


def test_read_only_output_is_one_clear_error_per_track(stems_root: Path) -> None:
    outcome = run(stems_root, Path("/proc/musdbkit"))  # not writable even for root
    assert list(outcome.failed) == KEYS
    assert all(message.startswith("/proc/musdbkit") for message in outcome.failed.values())


def test_folders_of_dead_runs_go_and_all_others_stay(tmp_path: Path) -> None:
    dead, living, holding = (f".musdbkit-{digit * 16}.partial" for digit in "123")
    others = [".mine.partial", "track"]
    for name in (dead, living, holding, *others):
        (tmp_path / name).mkdir()
    (tmp_path / dead / "new").mkdir()
    (tmp_path / holding / "old").mkdir()
    lock = os.open(tmp_path / living, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    remove_partials([tmp_path, tmp_path / "absent"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living, holding, *others])
    os.close(lock)


@pytest.mark.parametrize("settings", [Settings(), Settings(format="flac", subtype="PCM_24")], ids=["wav", "flac"])
def test_full_disk_is_a_clear_error_and_leaves_no_half_track(
    stems_root: Path, small_disk: Path, settings: Settings
) -> None:
    outcome = run(stems_root, small_disk, settings)
    assert list(outcome.done) == KEYS[:1]
    assert outcome.failed[KEYS[1]].endswith("the disk is full: free some space and run again")
    assert list((small_disk / "test").iterdir()) == []


def entries(root: Path) -> set[str]:
    """Return what is in a folder in which others are at work (rglob fails where a folder vanishes)."""
    return {os.path.join(folder, name) for folder, folders, files in os.walk(root) for name in (*folders, *files)}


@pytest.mark.slow
def test_killed_ten_times_and_run_once_equals_an_undisturbed_run(
    stems_root: Path, excerpt: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    for i in range(6):
        shutil.copy(excerpt, stems_root / "train" / f"Extra - {i}.stem.mp4")
    command = [sys.executable, "-m", "musdbkit", "convert", str(stems_root), str(tmp_path / "killed"), "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    out = tmp_path / "killed"
    for i in range(10):
        for folder in out.glob("*/[!.]*"):  # keep something to do
            if rng.random() < 0.5:
                shutil.rmtree(folder, ignore_errors=True)  # a living worker may just rename it
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        before = entries(out)
        while process.poll() is None and not entries(out) - before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        if i % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:  # the workers live on for a while
            process.kill()
        process.wait()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert not run(stems_root, tmp_path / "undisturbed").failed
    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")
    assert not list((tmp_path / "killed").rglob("*.partial"))
