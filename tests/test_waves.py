"""Waves: samples against soundfile, headers as other programs write them, and what is refused."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from musdbkit.errors import AudioError, DatasetError, MusdbkitError, ParameterError
from musdbkit.waves import open_waves

RATE = 8000


def noise(rng: np.random.Generator, nb_samples: int = 50, nb_channels: int = 2) -> NDArray[np.int16]:
    return rng.integers(-(2**15), 2**15, (nb_samples, nb_channels), np.int16)


def write(
    root: Path, track: str, samples: NDArray[Any], signals: Sequence[str] = ("mixture",), rate: int = RATE
) -> Path:
    """Write a track's wav files and return its folder."""
    folder = root / track
    folder.mkdir(parents=True, exist_ok=True)
    for signal in signals:
        soundfile.write(folder / f"{signal}.wav", samples, rate, "PCM_16")
    return folder


def chunk(name: bytes, content: bytes, nb_bytes: int | None = None) -> bytes:
    """Return a chunk of a RIFF file, padded to even length; with a size that is a lie if one is given."""
    return (
        name + struct.pack("<I", len(content) if nb_bytes is None else nb_bytes) + content + b"\0" * (len(content) % 2)
    )


def layout(nb_channels: int = 2, *, tag: int = 1, nb_bits: int = 16, nb_bytes_each: int | None = None) -> bytes:
    """Return a format chunk."""
    each = nb_channels * nb_bits // 8 if nb_bytes_each is None else nb_bytes_each
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, nb_channels, RATE, RATE * each, each, nb_bits))


def riff(*chunks: bytes, name: bytes = b"RIFF") -> bytes:
    content = b"WAVE" + b"".join(chunks)
    return name + struct.pack("<I", len(content)) + content


def place(root: Path, content: bytes) -> Path:
    """Write the mixture of a dataset's only track and return it."""
    path = root / "train" / "song" / "mixture.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(root: Path) -> NDArray[np.int16]:
    """Return the mixture of a dataset's only track."""
    waves = open_waves(root)
    (track,) = waves.tracks
    array = waves.array(track, "mixture")
    assert len(array) == waves.nb_samples(track) == waves.nb_frames(track)
    return array


# Samples


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
@pytest.mark.parametrize("nb_channels", [1, 2])
@pytest.mark.parametrize("nb_samples", [1, 777])
def test_samples_are_soundfiles(
    tmp_path: Path, rng: np.random.Generator, nb_samples: int, nb_channels: int, form: str
) -> None:
    samples = noise(rng, nb_samples, nb_channels)
    path = place(tmp_path, b"")
    soundfile.write(path, samples, RATE, "PCM_16", format=form)
    expected, rate = soundfile.read(path, dtype="int16", always_2d=True)
    got = read(tmp_path)
    assert got.dtype == np.int16
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(got, samples)
    assert open_waves(tmp_path).sample_rate == rate


@pytest.mark.parametrize("nb_bytes", [0, 1, 2, 33])
def test_chunks_before_the_samples(tmp_path: Path, rng: np.random.Generator, nb_bytes: int) -> None:
    samples = noise(rng)
    info = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"data" * 9))  # that a search for "data" would find
    odd = chunk(b"junk", bytes(range(nb_bytes)))
    for order in ((info, layout(), odd), (odd, info, layout()), (layout(), odd, info, odd)):
        path = place(tmp_path, riff(*order, chunk(b"data", samples.tobytes()), chunk(b"LIST", b"after")))
        np.testing.assert_array_equal(read(tmp_path), samples)
        np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], samples)


def test_streamed(tmp_path: Path, rng: np.random.Generator) -> None:
    samples = noise(rng)
    content = samples.tobytes()
    for more in (b"", b"\0"):  # a sample that is not whole
        place(tmp_path, riff(layout(), chunk(b"data", content, 0xFFFFFFFF)) + more)
        np.testing.assert_array_equal(read(tmp_path), samples)


def test_no_samples(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "train", "empty", noise(rng, 0))
    write(tmp_path / "train", "full", noise(rng, 9))
    waves = open_waves(tmp_path)
    assert waves.nb_samples("empty") == waves.nb_frames("empty") == 0
    array = waves.array("empty", "mixture")
    assert array.shape == (0, 2)
    assert array.dtype == np.int16
    assert not array.flags.writeable
    assert waves.segment("empty", 0, 0)["mixture"].shape == (0, 2)
    assert {track for track, _ in zip(waves.positions(3, seed=0, rule="uniform"), range(20), strict=False)} == {
        ("full", start) for start in range(7)
    }
    assert next(waves.batches(3, 2, seed=0, rule="uniform"))["mixture"].shape == (2, 3, 2)


def test_only_the_pad_byte_is_missing(tmp_path: Path) -> None:
    place(tmp_path, riff(layout(1), chunk(b"data", b"\1\0\2\0\3")[:-1]))
    np.testing.assert_array_equal(read(tmp_path), [[1], [2]])


def test_samples_cannot_be_written_to(tmp_path: Path, rng: np.random.Generator) -> None:
    samples = noise(rng)
    folder = write(tmp_path / "train", "song", samples)
    before = (folder / "mixture.wav").read_bytes()
    waves = open_waves(tmp_path)
    for array in (waves.array("song", "mixture"), waves.segment("song", 3, 4)["mixture"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    batch = next(waves.batches(50, 1, seed=0, rule="uniform"))["mixture"]
    batch[...] = 1
    np.testing.assert_array_equal(waves.array("song", "mixture"), samples)
    assert (folder / "mixture.wav").read_bytes() == before


# Refusals


@pytest.mark.parametrize(
    ("subtype", "what"), [("PCM_24", "24-bit integers"), ("PCM_U8", "8-bit integers"), ("FLOAT", "32-bit floats")]
)
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_other_samples_are_refused(
    tmp_path: Path, rng: np.random.Generator, form: str, subtype: str, what: str
) -> None:
    path = place(tmp_path, b"")
    soundfile.write(path, noise(rng), RATE, subtype, format=form)
    expected = (
        f"{path}: {what}, expected 16-bit integers: convert stem files with musdbkit convert --subtype PCM_16, "
        "or write it anew as 16-bit wav"
    )
    with pytest.raises(AudioError) as caught:
        open_waves(tmp_path)
    assert str(caught.value) == expected


WHOLE = riff(layout(), chunk(b"data", bytes(80)))
DAMAGED = {
    "cut in the samples": (WHOLE[:-30], "50 bytes of samples, expected 80: the file is cut off"),
    "cut before the samples": (WHOLE[:44], "0 bytes of samples, expected 80: the file is cut off"),
    "cut in the header": (WHOLE[:30], "cannot be read: no whole header"),
    "cut between": (WHOLE[:36], "no samples: the file is cut off"),
    "cut in a chunk's head": (WHOLE[:40], "no samples: the file is cut off"),
    "no format": (riff(chunk(b"data", bytes(80))), "no samples: the file is cut off"),
    "format behind": (riff(chunk(b"data", bytes(80)), layout()), "no samples: the file is cut off"),
    "empty": (b"", "0 bytes that are no wav file: convert it with musdbkit convert"),
    "text": (b"file or directory\n", "18 bytes that are no wav file: convert it with musdbkit convert"),
    "RF64": (riff(layout(), name=b"RF64"), "36 bytes that are no wav file: convert it with musdbkit convert"),
    "big-endian": (riff(layout(), name=b"RIFX"), "36 bytes that are no wav file: convert it with musdbkit convert"),
    "no channels": (riff(layout(0), chunk(b"data", b"")), "16-bit integers, expected 16-bit integers"),
    "MP3 inside": (riff(layout(tag=85), chunk(b"data", b"")), "16-bit of format 85, expected 16-bit integers"),
    "in 4 bytes": (
        riff(layout(nb_bytes_each=8), chunk(b"data", bytes(80))),
        "8 bytes for 2 channel(s) of 16 bits, expected 4: the header is damaged",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, case: str) -> None:
    content, reason = DAMAGED[case]
    path = place(tmp_path, content)
    with pytest.raises(AudioError) as caught:
        open_waves(tmp_path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def test_every_cut_is_refused_or_read(tmp_path: Path) -> None:
    for length in range(len(WHOLE)):
        place(tmp_path, WHOLE[:length])
        with pytest.raises(AudioError, match=r"mixture\.wav: "):
            open_waves(tmp_path)
    place(tmp_path, WHOLE)
    assert read(tmp_path).shape == (20, 2)


def test_files_that_do_not_match(tmp_path: Path, rng: np.random.Generator) -> None:
    train = tmp_path / "train"
    write(train, "a", noise(rng, 50), ("mixture", "vocals"))
    for code, change, reason in (
        ("rate", {"samples": noise(rng, 50), "rate": 16_000}, "16000 Hz, expected 8000 as in {}/a/mixture.wav"),
        ("channels", {"samples": noise(rng, 50, 1)}, "1 channel(s), expected 2 as in {}/a/mixture.wav"),
        ("length", {"samples": noise(rng, 49)}, "49 samples, expected 50 as in {}/b/mixture.wav"),
    ):
        write(train, "b", noise(rng, 50), ("mixture", "vocals"))
        write(train, "b", signals=("vocals",), **change)
        with pytest.raises(AudioError) as caught:
            open_waves(tmp_path)
        assert str(caught.value) == f"{train / 'b' / 'vocals.wav'}: {reason.format(train)}"
        assert caught.value.code == code
    write(train, "b", noise(rng, 70), ("mixture", "vocals"))  # another length than a's is no fault
    assert open_waves(tmp_path).nb_samples("b") == 70


def test_signals_that_are_not_there(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "train", "a", noise(rng), ("mixture", "vocals"))
    write(tmp_path / "train", "b", noise(rng), ("mixture",))
    with pytest.raises(DatasetError, match=r"a: no drums: complete the folder, or name other signals"):
        open_waves(tmp_path, signals=["vocals", "drums", "mixture"])
    waves = open_waves(tmp_path)
    with pytest.raises(ParameterError, match=r"no signal vocals: expected one of mixture"):
        waves.array("a", "vocals")  # which not every track has


def test_nothing_to_read(tmp_path: Path, rng: np.random.Generator) -> None:
    looked = r"no tracks with wav files \(looked for .*train/TRACK/mixture\.wav\)"
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetError, match=looked):
            open_waves(root)
    write(tmp_path / "test", "song", noise(rng))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "file").write_text("")
    (tmp_path / "train" / "no audio").mkdir()
    with pytest.raises(DatasetError, match=looked):
        open_waves(tmp_path)
    with pytest.raises(DatasetError, match=r"no tracks .*train/TRACK/mixture\.wav, .*valid/TRACK/mixture\.wav"):
        open_waves(tmp_path, subsets=("train", "valid"))
    write(tmp_path / "train", "a", noise(rng), ("vocals",))
    write(tmp_path / "train", "b", noise(rng), ("drums",))
    with pytest.raises(DatasetError, match="no a common signal"):
        open_waves(tmp_path)


def test_flac_files(tmp_path: Path, rng: np.random.Generator) -> None:
    expected = "flac files, expected 16-bit wav files: write them as wav, as musdbkit convert does by default"
    folder = tmp_path / "train" / "song"
    folder.mkdir(parents=True)
    for signal in ("mixture", "vocals"):
        soundfile.write(folder / f"{signal}.flac", noise(rng), RATE)
    with pytest.raises(DatasetError) as caught:
        open_waves(tmp_path)
    assert str(caught.value) == f"{tmp_path}: {expected}"
    write(tmp_path / "train", "song", noise(rng), ("accompaniment",))  # some are wav, where a sum overflows
    with pytest.raises(DatasetError) as caught:
        open_waves(tmp_path, signals=["accompaniment", "vocals"])
    assert str(caught.value) == f"{tmp_path}: song: {expected}"
    with pytest.raises(DatasetError, match="song: no drums: complete"):
        open_waves(tmp_path, signals=["accompaniment", "drums"])


def test_refusals_are_ours(tmp_path: Path) -> None:
    path = place(tmp_path, WHOLE)
    path.unlink()
    path.mkdir()  # a folder by the name of a wav file
    with pytest.raises(MusdbkitError, match=r"mixture\.wav: cannot be read: Is a directory"):
        open_waves(tmp_path)


# Tracks, signals and splits


def test_hidden_files_and_unfinished_tracks(tmp_path: Path, rng: np.random.Generator) -> None:
    train = tmp_path / "train"
    for name in ("...And You", "M.E.R.C. Music - Knockout", ".musdbkit-Song.partial"):
        folder = write(train, name, noise(rng), ("mixture", "vocals"))
        (folder / "._mixture.wav").write_bytes(b"resource fork")
    (train / ".DS_Store").write_bytes(b"")
    waves = open_waves(tmp_path)
    assert waves.tracks == ("...And You", "M.E.R.C. Music - Knockout")
    assert waves.signals == ("mixture", "vocals")


def test_signals_and_their_order(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("a", "b"):
        write(tmp_path / "train", name, noise(rng), ("vocals", "bass", "other", "mixture", "drums"))
    write(tmp_path / "train", "b", noise(rng), ("linear_mixture",))
    assert open_waves(tmp_path).signals == ("mixture", "bass", "drums", "other", "vocals")
    waves = open_waves(tmp_path, signals=["vocals", "mixture"])
    assert waves.signals == tuple(waves.segment("a", 0, 5)) == ("vocals", "mixture")
    assert tuple(next(waves.batches(5, 2, seed=0, rule="uniform"))) == ("vocals", "mixture")


def test_signals_not_asked_for_are_not_looked_at(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = write(tmp_path / "train", "a", noise(rng))
    (folder / "broken.wav").write_bytes(b"")
    assert open_waves(tmp_path, signals=["mixture"]).signals == ("mixture",)
    with pytest.raises(AudioError, match=r"broken\.wav"):
        open_waves(tmp_path)


def test_subsets_are_splits(tmp_path: Path, rng: np.random.Generator) -> None:
    for track in ("train/b", "train/a", "test/c", "test/both", "train/both"):
        write(tmp_path, track, noise(rng, 10 + (track == "test/both")))
    waves = open_waves(tmp_path)
    assert waves.tracks == ("a", "b", "both")
    assert waves.splits == {"a": ("train",), "b": ("train",), "both": ("train",)}
    waves = open_waves(tmp_path, valid=["b", "elsewhere"])
    assert waves.splits == {"a": ("train",), "b": ("valid",), "both": ("train",)}
    assert open_waves(tmp_path, subsets=["test"]).tracks == ("both", "c")
    for subsets in (("train", "test"), ("test", "train")):
        waves = open_waves(tmp_path, subsets=subsets)
        assert sorted(waves.tracks) == ["a", "b", "c", "test/both", "train/both"]
        assert waves.nb_samples("test/both") == 11
        assert waves.nb_samples("train/both") == 10
        assert waves.in_split("test") == tuple(track for track in waves.tracks if track in ("c", "test/both"))
        drawn = {track for (track, _), _ in zip(waves.positions(5, seed=0, rule="uniform"), range(99), strict=False)}
        assert drawn == {"a", "b", "train/both"}
