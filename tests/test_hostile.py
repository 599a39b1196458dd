"""Bad input of every kind: each one clear line and exit status 1, and the other tracks done.

Full disks, read-only output and unreadable folders are in test_convert.py and test_tracks.py.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from musdbkit import audio
from musdbkit.synth import FAULTS, synth

Run = Callable[..., subprocess.CompletedProcess[str]]

# What convert says of a stem file, None where it is sound as a file and only its music is odd.
STEM_FILES = {
    "silent": None,
    "dual-mono": None,
    "anti-phase": None,
    "clipping": None,
    "left-channel": None,
    "mono": r"stream 3 \(other\): 1 channel\(s\), expected 2: fetch it again$",
    "rate": r"stream 3 \(other\): 48000 Hz, but stream 0 \(mixture\) has 44100 Hz: all streams must have one rate$",
    "length": r"stream 2 \(bass\): 22050 samples, but stream 0 \(mixture\) has 44100: all streams must have one",
    "missing": r"4 audio streams, expected 5 \(mixture, drums, bass, other, vocals\): fetch it again$",
    "truncated": r"stream \d \(\w+\): decoded \d+ samples, the container says 44100: .*: fetch it again$",
    "empty": r": 0 bytes that are no readable mp4 file .*: fetch it again$",
    "garbage": r": \d+ bytes that are no readable mp4 file .*: fetch it again$",
}

# What make-csv says of a folder of wav files.
WAV_FOLDERS = {
    "silent": None,
    "dual-mono": None,
    "anti-phase": None,
    "clipping": None,
    "left-channel": None,
    "mono": r"other\.wav: 1 channel, expected 2",
    "rate": r"other\.wav: 48000 Hz, expected 44100",
    "length": r"bass\.wav: 22050 samples, expected 44100 as in mixture\.wav",
    "missing": r"no vocals \(looked for \.wav and \.flac in ",
    "truncated": r"vocals\.wav: \d+ samples, expected 44100 as in mixture\.wav",
    "empty": r"vocals\.wav: 0 bytes that are no readable wav or flac file",
    "garbage": r"vocals\.wav: \d+ bytes that are no readable wav or flac file",
}


def make(folder: Path, layout: str) -> dict[str, str]:
    """Plant every fault in a track of its own, beside sound ones; return the tracks' names by fault."""
    made = synth(folder, train=len(FAULTS) + 1, valid=0, test=1, seconds=1, layout=layout, faults=tuple(FAULTS)).made
    return {track.fault: track.name for track in made if track.fault}


def errors(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_every_fault_is_in_the_tables() -> None:
    assert list(STEM_FILES) == list(WAV_FOLDERS) == list(FAULTS)


def test_convert_names_each_broken_stem_file_and_does_the_others(run_cli: Run, tmp_path: Path) -> None:
    names = make(tmp_path / "stems", "stems")
    result = run_cli("convert", "stems", "out")
    assert result.returncode == 1
    broken = {fault: message for fault, message in STEM_FILES.items() if message}
    assert len(errors(result)) == len(broken)
    for fault, message in broken.items():
        path = re.escape(f"stems/train/{names[fault]}.stem.mp4")
        assert [
            line for line in errors(result) if re.search(f"^error: {path}: .*{message}|^error: {path}{message}", line)
        ]
    written = {path.name for path in (tmp_path / "out").glob("*/*")}
    assert written.isdisjoint(names[fault] for fault in broken)
    assert written >= {names[fault] for fault in set(FAULTS) - set(broken)}
    assert len(written) == len(FAULTS) + 2 - len(broken)
    assert result.stderr.splitlines()[-1] == f"{len(broken)} tracks failed; {len(written)} done"


def test_make_csv_names_each_broken_folder_and_writes_no_csv(run_cli: Run, tmp_path: Path) -> None:
    names = make(tmp_path / "wav", "wav")
    result = run_cli("make-csv", "wav", "--stems", "4")
    assert result.returncode == 1
    broken = {fault: message for fault, message in WAV_FOLDERS.items() if message}
    assert len(errors(result)) == len(broken)
    for fault, message in broken.items():
        assert [line for line in errors(result) if names[fault] in line and re.search(message, line)], fault
    assert result.stderr.splitlines()[-1] == f"{len(broken)} tracks failed; no CSV was written"
    assert not list(tmp_path.glob("musdb_*"))


@pytest.mark.parametrize("layout", ["stems", "wav"])
def test_check_names_each_fault(run_cli: Run, tmp_path: Path, layout: str) -> None:
    names = make(tmp_path / "data", layout)
    result = run_cli("check", "data", "--json")
    assert result.returncode == 1
    found = {finding["track"].partition("/")[2] for finding in json.loads(result.stdout)["findings"]}
    assert set(names.values()) <= found


@pytest.fixture
def whole_at_48_khz(tmp_path: Path) -> Path:
    """A dataset of two tracks, the first at 48 kHz throughout."""
    synth(tmp_path / "stems", train=2, valid=0, test=0, seconds=1)
    path, _ = sorted((tmp_path / "stems" / "train").iterdir())
    shutil.move(path, tmp_path / "source.mp4")
    with av.open(str(tmp_path / "source.mp4")) as source, av.open(str(path), "w", format="mp4") as sink:
        streams = [sink.add_stream("aac", rate=48_000) for _ in source.streams.audio]
        resamplers = [av.AudioResampler("fltp", "stereo", 48_000) for _ in streams]
        order = {stream.index: i for i, stream in enumerate(source.streams.audio)}
        for packet in source.demux(source.streams.audio):
            i = order[packet.stream_index]
            for frame in packet.decode():
                for part in resamplers[i].resample(frame):
                    sink.mux(streams[i].encode(part))
        for stream in streams:
            sink.mux(stream.encode(None))
    return path


def test_another_rate_is_refused_until_it_is_chosen(run_cli: Run, whole_at_48_khz: Path, tmp_path: Path) -> None:
    result = run_cli("convert", "stems", "out")
    assert result.returncode == 1
    (line,) = errors(result)
    assert line.endswith("48000 Hz, expected 44100: choose with --sample-rate (44100 resamples, 48000 keeps it)")
    assert "tracks: 1 converted" in result.stdout
    assert run_cli("convert", "stems", "at48", "--sample-rate", "48000").returncode == 0
    infos = [audio.info(path) for path in sorted((tmp_path / "at48").rglob("mixture.wav"))]
    assert {info.sample_rate for info in infos} == {48_000}
    assert all(abs(info.seconds - 1) < 0.05 for info in infos)


def test_wrong_extensions_are_not_taken_for_tracks(run_cli: Run, tmp_path: Path) -> None:
    synth(tmp_path / "stems", train=1, valid=0, test=0, seconds=1)
    (path,) = (tmp_path / "stems" / "train").iterdir()
    path.rename(path.with_name("song.mp4"))
    result = run_cli("convert", "stems", "out")
    assert result.returncode == 1
    (line,) = errors(result)
    assert line.endswith("looked for *.stem.mp4 files or folders with mixture.wav, found 1 other entries (song.mp4)")


def test_names_in_metadata_are_never_used(run_cli: Run, tmp_path: Path, excerpt: Path) -> None:
    path = tmp_path / "stems" / "train" / "Plain - Song.stem.mp4"
    path.parent.mkdir(parents=True)
    with av.open(str(excerpt)) as source, av.open(str(path), "w", format="mp4") as sink:
        sink.metadata["title"] = "../../escaped"
        streams = {stream.index: sink.add_stream_from_template(stream) for stream in source.streams.audio}
        for i, stream in streams.items():
            stream.metadata["title"] = "../escaped <b>"
            stream.metadata["handler_name"] = f"/tmp/escaped-{i}"
        for packet in source.demux(source.streams.audio):
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                sink.mux(packet)
    assert run_cli("convert", "stems", "out").returncode == 0
    assert not list(tmp_path.rglob("*escaped*"))
    assert (
        sorted(path.name for path in (tmp_path / "out" / "train" / "Plain - Song").glob("*.wav"))[0]
        == "accompaniment.wav"
    )
