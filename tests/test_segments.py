"""Segments: what is drawn, in which order and how evenly, and that workers, pickles and later runs get the same."""

import inspect
import itertools
import json
import math
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from musdbkit.cache import INDEX, RECORD, Cache, Entry, Index, IndexedTrack, Parameters, Record, Source, open_cache
from musdbkit.convert import write_record
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.segments import Reader
from musdbkit.waves import open_waves

REPOSITORY = Path(__file__).parent.parent
N_FFT, HOP_LENGTH, NB_BINS, RATE = 16, 4, 5, 100
LENGTHS = {"Duo - Train 1": 700, "Duo - Train 2": 803, "Solo - Valid": 600, "Solo - Tiny": 20}  # samples
SPLITS = {"Solo - Valid": ("valid",), "Duo - Train 2": ("train", "valid")}
SIGNALS = ("mixture", "vocals", "bass")
LO, HI = -80.0, 20.0
FORKED = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # a process with threads, from Python 3.12 on

Segments = list[tuple[str, int]]


class Lengths(Reader):
    """Tracks of given lengths, without files: what chunks and positions depend on."""

    def __init__(self, nb_samples: dict[str, int], rate: int, n_fft: int = 1, hop_length: int = 1) -> None:
        super().__init__()
        self.path = Path("lengths")
        self.signals = ("mixture",)
        self.tracks = tuple(nb_samples)
        self.splits = dict.fromkeys(nb_samples, ("train",))
        self.sample_rate, self._span, self._hop_length = rate, n_fft, hop_length
        self._lengths = nb_samples

    def nb_samples(self, track: str) -> int:
        if track not in self._lengths:
            raise self._unknown(track)
        return self._lengths[track]

    def _map(self, track: str, signal: str) -> NDArray[Any]:
        raise NotImplementedError


class Batches(torch.utils.data.IterableDataset[Any]):
    """The dataset of the docstring, where a spawned worker can import it."""

    def __init__(self, reader: Reader, first: int) -> None:
        self.reader, self.first = reader, first

    def __iter__(self) -> Iterator[Any]:
        info = torch.utils.data.get_worker_info()
        assert info is not None
        return self.reader.batches(
            9, 4, seed=5, first=self.first, worker=info.id, nb_workers=info.num_workers, **CHUNKS
        )


class Some(torch.utils.data.IterableDataset[Any]):
    """The first batches of an endless dataset: workers that end by themselves are not torn from their work."""

    def __init__(self, dataset: Any, nb_batches: int) -> None:
        self.dataset, self.nb_batches = dataset, nb_batches

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.dataset), self.nb_batches)


CHUNKS: dict[str, Any] = {"nb_chunks": 3, "chunk_seconds": 1.0}


def values(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    if dtype == "uint8":
        return rng.integers(256, size=shape, dtype=np.uint8)
    return rng.uniform(0, 60_000, shape).astype(dtype)


def decoded(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return magnitudes by the words of the format."""
    level: NDArray[np.float64] = LO + codes.astype(np.float64) * (HI - LO) / 255.9999
    return 10.0 ** (level / 20)


def write_cache(folder: Path, dtype: str, rng: np.random.Generator) -> dict[tuple[str, str], NDArray[Any]]:
    """Write a cache and return its arrays."""
    parameters = Parameters(N_FFT, HOP_LENGTH, "hann", RATE, 2, NB_BINS, dtype)
    arrays = {}
    (folder / "partial").mkdir(parents=True)
    for name, nb_samples in LENGTHS.items():
        (folder / name).mkdir()
        nb_frames = 1 + (nb_samples - N_FFT) // HOP_LENGTH
        entries = {}
        for signal in SIGNALS:
            arrays[name, signal] = values(dtype, (nb_frames, NB_BINS, 2), rng)
            path = folder / name / f"{signal}.npy"
            np.save(path, arrays[name, signal])
            span = (LO, HI) if dtype == "uint8" else (None, None)
            entries[signal] = Entry(Source(1, "", 1, 1), path.stat().st_size, "", *span)
        record = Record(parameters, nb_samples, nb_frames, entries)
        write_record(folder / name / RECORD, record.to_json(), folder / "partial")
    tracks = {name: IndexedTrack(name, SPLITS.get(name, ("train",))) for name in LENGTHS}
    write_record(folder / INDEX, Index(parameters, SIGNALS, tracks).to_json(), folder / "partial")
    return arrays


def write_waves(root: Path, rng: np.random.Generator) -> dict[tuple[str, str], NDArray[Any]]:
    """Write a dataset of wav files and return its samples."""
    arrays = {}
    for name, nb_samples in LENGTHS.items():
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for signal in SIGNALS:
            arrays[name, signal] = rng.integers(-(2**15), 2**15, (nb_samples, 2), np.int16)
            soundfile.write(folder / f"{signal}.wav", arrays[name, signal], RATE, "PCM_16")
    return arrays


def read(kind: str, folder: Path, rng: np.random.Generator) -> tuple[Reader, dict[tuple[str, str], NDArray[Any]]]:
    """Return a reader of a new cache of a dtype, or of new waves, and what was written."""
    if kind == "waves":
        arrays = write_waves(folder, rng)
        return open_waves(folder, signals=SIGNALS), arrays
    arrays = write_cache(folder, kind, rng)
    return open_cache(folder), arrays


@pytest.fixture(params=["float16", "float32", "uint8", "waves"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Reader, dict[tuple[str, str], NDArray[Any]]]:
    return read(request.param, tmp_path / "data", np.random.default_rng(1))


@pytest.fixture
def cache(tmp_path: Path, rng: np.random.Generator) -> Cache:
    write_cache(tmp_path / "cache", "float16", rng)
    return open_cache(tmp_path / "cache")


def take(positions: Iterator[Any], count: int, first: int = 0) -> list[Any]:
    return list(itertools.islice(positions, first, first + count))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether batches, of arrays or tensors, are equal to the bit."""
    pairs = [(np.asarray(one[name]), np.asarray(other[name])) for name in one]
    return list(one) == list(other) and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def chi_square(counts: list[int]) -> float:
    """Return how far counts are from equal ones; for n of them n - 1 is usual, and 4n very rare."""
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 for count in counts) / mean


def in_child(code: str, *arguments: object) -> str:
    """Return what a program prints in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Segments


def test_segment_is_what_is_on_disk(written: tuple[Reader, dict[tuple[str, str], NDArray[Any]]]) -> None:
    reader, arrays = written
    track = "Duo - Train 2"
    length = reader.nb_frames(track)
    assert length == len(arrays[track, "bass"])
    for start, nb_frames in ((0, 9), (7, 1), (length - 9, 9), (0, length), (3, 0), (length, 0)):
        segment = reader.segment(track, start, nb_frames)
        assert tuple(segment) == SIGNALS
        for signal, got in segment.items():
            expected = arrays[track, signal][start : start + nb_frames]
            assert got.shape == expected.shape
            if expected.dtype == np.uint8:
                assert got.dtype == np.float32
                np.testing.assert_allclose(got, decoded(expected), rtol=2e-6)
            else:
                assert got.dtype == expected.dtype
                np.testing.assert_array_equal(got, expected)


def test_segment_is_a_view_that_cannot_be_written_to(
    written: tuple[Reader, dict[tuple[str, str], NDArray[Any]]],
) -> None:
    reader, arrays = written
    track = "Duo - Train 1"
    for signal, got in reader.segment(track, 2, 9).items():
        whole = reader.array(track, signal)
        assert not whole.flags.writeable
        assert type(whole) is np.ndarray
        np.testing.assert_array_equal(whole, arrays[track, signal])
        if whole.dtype == np.uint8:
            assert got.flags.writeable  # decoded, it is the caller's own
        else:
            assert np.shares_memory(got, whole)
            with pytest.raises(ValueError, match="read-only"):
                got[0] = 0


def test_whole_codes_are_decoded_by_their_table(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = write_cache(tmp_path / "cache", "uint8", rng)
    cache = open_cache(tmp_path / "cache")
    table = cache.table("Solo - Valid", "bass")
    assert table is not None
    assert table.dtype == np.float32
    np.testing.assert_allclose(
        table[cache.array("Solo - Valid", "bass")], decoded(arrays["Solo - Valid", "bass"]), 2e-6
    )
    with pytest.raises(ParameterError, match=r"no signal drums of Solo - Valid: expected one of mixture, vocals, bass"):
        cache.table("Solo - Valid", "drums")


def test_magnitudes_have_no_table(cache: Cache) -> None:
    assert cache.table("Solo - Valid", "bass") is None


@pytest.mark.parametrize(("start", "nb_frames"), [(-1, 5), (0, 173), (172, 1), (173, 0), (5, -1), (10**12, 1)])
def test_frames_that_are_not_there(cache: Cache, start: int, nb_frames: int) -> None:
    expected = f"Duo - Train 1: frames {start} to {start + nb_frames}, expected frames between 0 and 172"
    with pytest.raises(ParameterError, match=expected):
        cache.segment("Duo - Train 1", start, nb_frames)


def test_unknown_tracks(written: tuple[Reader, dict[tuple[str, str], NDArray[Any]]]) -> None:
    reader, _ = written
    for call in (
        lambda name: reader.segment(name, 0, 1),
        lambda name: reader.array(name, "mixture"),
        lambda name: reader.nb_samples(name),
        lambda name: reader.chunks(name, 5),
        lambda name: reader.positions(5, seed=0, tracks=[name]),
    ):
        with pytest.raises(ParameterError, match=r"no track duo - train 2: did you mean Duo - Train 2\?"):
            call("duo - train 2")
        with pytest.raises(ParameterError, match=r"no track Zzz: there are 4, see \.tracks"):
            call("Zzz")


def test_unknown_signals(written: tuple[Reader, dict[tuple[str, str], NDArray[Any]]]) -> None:
    reader, _ = written
    with pytest.raises(ParameterError, match=r"no signal drums.*: expected one of mixture, vocals, bass"):
        reader.array("Solo - Valid", "drums")


def test_signals_in_the_order_asked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    write_cache(tmp_path / "cache", "float32", rng)
    cache = open_cache(tmp_path / "cache", signals=["bass", "mixture"])
    assert tuple(cache.segment("Solo - Valid", 0, 1)) == cache.signals == ("bass", "mixture")
    assert tuple(next(cache.batches(5, 1, seed=0, rule="uniform"))) == ("bass", "mixture")
    for signals, message in ((["drums"], "no signal drums, only mixture"), ([], "no signal named, only mixture")):
        with pytest.raises(ParameterError, match=message):
            open_cache(tmp_path / "cache", signals=signals)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04 no zip", b"gone"])
def test_arrays_that_are_none(cache: Cache, content: bytes) -> None:
    path = cache.path / "Solo - Valid" / "vocals.npy"
    path.write_bytes(content)
    if content == b"gone":
        path.unlink()
    with pytest.raises(DatasetError, match=r"vocals\.npy: (no whole \.npy file|No such file.*): run musdbkit cache"):
        cache.segment("Solo - Valid", 0, 1)
    np.save(path, np.zeros((3, NB_BINS, 2), np.float16))
    with pytest.raises(DatasetError, match=r"float16 \(3, 5, 2\) .*, expected float16 \(147, 5, 2\) .*: remove it"):
        cache.segment("Solo - Valid", 0, 1)


def test_waves_that_have_changed(tmp_path: Path, rng: np.random.Generator) -> None:
    write_waves(tmp_path, rng)
    waves = open_waves(tmp_path)
    path = tmp_path / "train" / "Solo - Valid" / "vocals.wav"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AudioError, match=r"vocals\.wav: has changed since it was opened"):
        waves.segment("Solo - Valid", 0, 1)
    path.unlink()
    with pytest.raises(AudioError, match=r"vocals\.wav: has changed since it was opened"):
        waves.segment("Solo - Valid", 0, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units")
def test_segment_of_a_big_file_does_not_read_it(tmp_path: Path, rng: np.random.Generator) -> None:
    write_cache(tmp_path / "cache", "float16", rng)
    write_waves(tmp_path / "waves", rng)
    nb_frames = 2**30 // (2 * NB_BINS * 2)  # a file of 1 GB, but a hole
    folder = tmp_path / "cache" / "Duo - Train 1"
    record = json.loads((folder / RECORD).read_text())
    record |= {"nb_samples": nb_frames * 4 + 12, "nb_frames": nb_frames}
    for signal in SIGNALS:
        np.lib.format.open_memmap(folder / f"{signal}.npy", "w+", np.float16, (nb_frames, NB_BINS, 2))
        wave = tmp_path / "waves" / "train" / "Duo - Train 1" / f"{signal}.wav"
        header = wave.read_bytes()[:44]
        with wave.open("r+b") as file:
            file.write(header[:40] + (2**30).to_bytes(4, "little"))
            file.truncate(44 + 2**30)
        record["signals"][signal]["nb_bytes"] = (folder / f"{signal}.npy").stat().st_size
    (folder / RECORD).write_text(json.dumps(record))
    code = """
        import resource, sys
        from musdbkit.cache import open_cache
        from musdbkit.waves import open_waves
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for reader in (open_cache(sys.argv[1]), open_waves(sys.argv[2])):
            length = reader.nb_frames("Duo - Train 1")
            for start in range(0, length - 100, length // 7):
                sum(array.sum() for array in reader.segment("Duo - Train 1", start, 100).values())
            reader.segment("Duo - Train 1", 0, length)
        print(length, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    length, grown = map(int, in_child(code, tmp_path / "cache", tmp_path / "waves").split())
    assert length == 2**28
    assert grown < 30_000  # kB; with a single file read it would be a million


def test_more_files_than_may_be_open(tmp_path: Path, rng: np.random.Generator) -> None:
    root = tmp_path / "data" / "train"
    for i in range(60):
        (root / f"{i}").mkdir(parents=True)
        soundfile.write(root / f"{i}" / "mixture.wav", np.full((10, 2), i, np.int16), RATE, "PCM_16")
    code = """
        import resource, sys
        from musdbkit.waves import open_waves
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        waves = open_waves(sys.argv[1])
        held = waves.segment("0", 0, 10)["mixture"]
        for _ in range(2):
            for track in waves.tracks:
                assert (waves.array(track, "mixture") == int(track)).all()
        assert (held == 0).all()
        others = [waves.path.joinpath("train", "0", "mixture.wav").open("rb") for _ in range(10)]
        print("all")
    """
    assert in_child(code, tmp_path / "data") == "all\n"


# Chunks


def test_chunks_are_spleeters() -> None:
    # the length of a track of MUSDB18, and where Spleeter 2.4.2 begins its three chunks
    song = Lengths({"song": 7_552_000}, 44_100, 4096, 1024)
    assert song.nb_samples("song") / 44_100 == pytest.approx(171.247166, abs=1e-6)
    seconds = (0.5, 75.623583, 150.747166)
    for nb_frames in (512, 858):
        places = song.chunks("song", nb_frames, nb_chunks=3)
        for (first, last), start in zip(places, seconds, strict=True):
            assert abs(first - start * 44_100 / 1024) <= 0.5
            assert last - first == 858 - nb_frames
    assert [first for first, _ in places] == [22, 3257, 6492]
    assert song.chunks("song", 859, nb_chunks=3) == []
    assert len(song.chunks("song", 512)) == 40


def test_chunks_of_waves() -> None:
    song = Lengths({"song": 7_552_000}, 44_100)
    places = song.chunks("song", 44_100, nb_chunks=3)
    assert [first for first, _ in places] == [22_050, 3_335_000, 6_647_950]
    assert {last - first for first, last in places} == {19 * 44_100}
    assert len(song.chunks("song", 882_000)) == 40
    assert song.chunks("song", 882_001) == []


def test_one_chunk_lies_in_the_middle() -> None:
    song = Lengths({"song": 1000, "short": 150}, 10)
    assert song.chunks("song", 30, nb_chunks=1) == [(400, 570)]  # 40 s to 60 s
    assert song.chunks("short", 30, nb_chunks=1) == [(0, 120)]


def test_chunks_of_short_songs() -> None:
    songs = Lengths({"21.5 s": 215, "20.5 s": 205, "12 s": 120, "3 s": 30, "1.0 s": 10}, 10)
    assert songs.chunks("21.5 s", 200, nb_chunks=2) == [(5, 5), (10, 10)]
    # begins go backwards by 0.5 s, from 0.5 s on, and would be before the song's begin
    assert songs.chunks("20.5 s", 100, nb_chunks=3) == [(5, 105), (3, 103), (0, 100)]  # at 0.25 s, to 3
    assert songs.chunks("12 s", 100, nb_chunks=3) == [(5, 20), (0, 20), (0, 20)]
    assert songs.chunks("12 s", 116, nb_chunks=3) == [(0, 4), (0, 4)]  # from 0.5 s on, 115 frames are left
    assert songs.chunks("3 s", 31, nb_chunks=3) == []


def test_chunks_of_a_length_that_floats_do_not_hold() -> None:
    # 2.3 * 44100 is 101429.99999999999
    assert Lengths({"song": 10**6}, 44_100).chunks("song", 101_430, nb_chunks=2, chunk_seconds=2.3)


def test_validation_in_the_middle_of_chunks() -> None:
    """The middle between the first and the last place is where Spleeter crops validation chunks of 12 s."""
    song = Lengths({"song": 7_552_000}, 44_100, 4096, 1024)
    for nb_frames in (512, 511, 128):
        for first, last in song.chunks("song", nb_frames, chunk_seconds=12.0):
            assert (first + last) // 2 - first == int(max(513 / 2 - nb_frames / 2, 0))


@pytest.mark.parametrize(
    ("nb_frames", "options"),
    [
        (0, {}),
        (-5, {}),
        (5, {"nb_chunks": 0}),
        (5, {"chunk_seconds": 0.0}),
        (5, {"chunk_seconds": math.nan}),
        (5, {"chunk_seconds": math.inf}),
    ],
)
def test_chunks_that_cannot_be(nb_frames: int, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="expected 1 or more"):
        Lengths({"song": 1000}, 10).chunks("song", nb_frames, **options)


# Positions

SONGS = {"one": 1000, "two": 1400, "three": 1000, "short": 30}
EACH: dict[str, Any] = {"nb_chunks": 3, "chunk_seconds": 2.0}  # chunks that do not overlap


def chunk_of(songs: Reader, position: tuple[str, int], nb_frames: int) -> tuple[str, int]:
    """Return the chunk that a position is in, by its track and first place."""
    track, start = position
    (first,) = [first for first, last in songs.chunks(track, nb_frames, **EACH) if first <= start <= last]
    return track, first


def test_every_chunk_once_a_round() -> None:
    songs = Lengths(SONGS, 100)
    drawn = take(songs.positions(50, seed=3, **EACH), 45)
    chunks = [chunk_of(songs, position, 50) for position in drawn]
    rounds = [chunks[i : i + 9] for i in range(0, 45, 9)]
    every = {(track, first) for track in SONGS for first, _ in songs.chunks(track, 50, **EACH)}
    assert {track for track, _ in every} == {"one", "two", "three"}
    for each in rounds:
        assert set(each) == every
    assert len({tuple(each) for each in rounds}) == 5  # in another order each
    assert len(set(drawn)) > 40  # and at other places


def test_places_in_chunks_are_equally_probable() -> None:
    songs = Lengths({"song": 1000}, 100)
    drawn = take(songs.positions(195, seed=3, nb_chunks=2, chunk_seconds=2.0), 6000)
    counts = Counter(start for _, start in drawn)
    assert sorted(counts) == [*range(50, 56), *range(750, 756)]
    assert chi_square(list(counts.values())) < 40


def test_orders_are_equally_probable() -> None:
    songs = Lengths({"song": 1000}, 100)
    drawn = [start for _, start in take(songs.positions(200, seed=0, nb_chunks=3, chunk_seconds=2.0), 3 * 1200)]
    counts = Counter(tuple(drawn[i : i + 3]) for i in range(0, len(drawn), 3))
    assert len(counts) == 6
    assert chi_square(list(counts.values())) < 24


def test_uniform_draws_every_place_alike() -> None:
    songs = Lengths({"long": 12, "none": 4, "one": 5, "some": 7}, 10)
    drawn = take(songs.positions(5, seed=1, rule="uniform"), 12_000)
    counts = Counter(drawn)
    assert set(counts) == {("long", i) for i in range(8)} | {("one", 0)} | {("some", i) for i in range(3)}
    assert chi_square(list(counts.values())) < 48


def test_uniform_needs_no_memory_for_all_places() -> None:
    songs = Lengths({f"{i}": 2**40 for i in range(4)}, 44_100)
    drawn = take(songs.positions(1, seed=0, rule="uniform"), 100)
    assert {track for track, _ in drawn} == set(songs.tracks)
    assert max(start for _, start in drawn) > 2**39


@pytest.mark.parametrize(("rule", "nb_rounds"), [("spleeter", 9), ("uniform", 4096)])
def test_first_passes_over(rule: str, nb_rounds: int) -> None:
    songs = Lengths(SONGS, 100)
    drawn = take(songs.positions(50, seed=3, rule=rule, **EACH), 3 * nb_rounds + 20)
    for first in (0, 1, nb_rounds - 1, nb_rounds, nb_rounds + 1, 2 * nb_rounds + 5, 3 * nb_rounds):
        assert take(songs.positions(50, seed=3, rule=rule, first=first, **EACH), 20) == drawn[first : first + 20]


def test_first_is_at_once_wherever_it_is() -> None:
    songs = Lengths(SONGS, 100)
    assert len(take(songs.positions(50, seed=3, first=10**15, **EACH), 20)) == 20


@pytest.mark.parametrize("rule", ["spleeter", "uniform"])
def test_seeds(rule: str) -> None:
    songs = Lengths(SONGS, 100)
    drawn = [take(songs.positions(50, seed=seed, rule=rule, **EACH), 18) for seed in (0, 1, 2, 2, 12345)]
    assert drawn[2] == drawn[3]
    assert len({tuple(each) for each in drawn}) == 4


def test_rounds_and_seeds_are_not_mixed_up() -> None:
    """Seed 1 does not begin where seed 0 has its second round."""
    songs = Lengths(SONGS, 100)
    rounds = [
        tuple(take(songs.positions(50, seed=seed, first=9 * i, **EACH), 9)) for seed in range(4) for i in range(4)
    ]
    assert len(set(rounds)) == 16


@pytest.mark.parametrize("rule", ["spleeter", "uniform"])
def test_tracks_are_those_of_split_train(cache: Cache, rule: str) -> None:
    def names(tracks: list[str] | None) -> set[str]:
        return {name for name, _ in take(cache.positions(9, seed=0, rule=rule, tracks=tracks, **CHUNKS), 60)}

    assert cache.in_split("train") == ("Duo - Train 1", "Duo - Train 2", "Solo - Tiny")
    assert cache.in_split("valid") == ("Duo - Train 2", "Solo - Valid")
    assert cache.in_split("else") == ()
    assert names(None) == {"Duo - Train 1", "Duo - Train 2"}  # and none too short
    assert names(["Solo - Valid"]) == {"Solo - Valid"}
    assert names(["Solo - Valid", "Solo - Tiny"]) == {"Solo - Valid"}


def test_no_training_tracks(cache: Cache) -> None:
    cache.splits = dict.fromkeys(cache.tracks, ("test",)) | {"Solo - Tiny": ("valid", "test")}
    with pytest.raises(ParameterError, match=r"cache: no tracks of split train, only of test, valid: name tracks"):
        cache.positions(9, seed=0)
    with pytest.raises(
        ParameterError, match=r"an empty list of tracks: name some, or give no list for those of split train"
    ):
        cache.positions(9, seed=0, tracks=[])


def test_segments_too_long() -> None:
    songs = Lengths({"a": 44_100 * 5, "b": 44_100 * 30}, 44_100, 4096, 1024)
    reason = r"no segment of 859 frames \(20\.016 s\): the longest of 2 tracks, b, has 1288 frames"
    with pytest.raises(ParameterError, match=reason + r", and chunks are 20\.0 s long$"):
        songs.positions(859, seed=0)
    assert next(songs.positions(859, seed=0, rule="uniform"))[0] == "b"
    with pytest.raises(ParameterError, match=r"no segment of 1289 frames \(30\.000 s\).* has 1288 frames$"):
        songs.positions(1289, seed=0, rule="uniform")


@pytest.mark.parametrize(
    "wrong",
    [
        {"nb_frames": 0},
        {"nb_frames": -1},
        {"seed": -1},
        {"first": -1},
        {"rule": "other"},
        {"nb_chunks": 0},
        {"chunk_seconds": -1.0},
        {"batch_size": 0},
        {"worker": 2},
        {"worker": -1},
        {"nb_workers": 0},
    ],
)
def test_arguments_are_refused_at_once(cache: Cache, wrong: dict[str, Any]) -> None:
    arguments = {"nb_frames": 9, "batch_size": 2, "seed": 0, "nb_workers": 2, **wrong}
    (name,) = wrong
    with pytest.raises(ParameterError, match=name.removeprefix("nb_")):
        cache.batches(**arguments)
    if name not in ("batch_size", "worker", "nb_workers"):
        with pytest.raises(ParameterError, match=name):
            cache.positions(**{"nb_frames": 9, "seed": 0, **wrong})


# Batches


@pytest.mark.parametrize("rule", ["spleeter", "uniform"])
def test_batches_are_segments(written: tuple[Reader, dict[tuple[str, str], NDArray[Any]]], rule: str) -> None:
    reader, _ = written
    options: dict[str, Any] = {"seed": 7, "rule": rule, **CHUNKS}
    positions = reader.positions(9, **options)
    for batch in take(reader.batches(9, 4, **options), 5):
        segments = [reader.segment(track, start, 9) for track, start in itertools.islice(positions, 4)]
        expected = {signal: np.stack([segment[signal] for segment in segments]) for signal in SIGNALS}
        assert same(batch, expected)
        assert all(array.flags.c_contiguous and array.flags.writeable for array in batch.values())


def test_batches_go_on_where_a_run_was(cache: Cache) -> None:
    batches = take(cache.batches(9, 4, seed=7, **CHUNKS), 9)
    for first in (0, 1, 5):
        again = cache.batches(9, 4, seed=7, first=first, **CHUNKS)
        assert all(same(a, b) for a, b in zip(batches[first:], again, strict=False))
    assert not same(batches[0], batches[1])


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("nb_workers", [1, 2, 3])
def test_workers_share_the_batches(cache: Cache, nb_workers: int, first: int) -> None:
    batches = take(cache.batches(9, 4, seed=7, **CHUNKS), 12, first)
    for worker in range(nb_workers):
        part = cache.batches(9, 4, seed=7, first=first, worker=worker, nb_workers=nb_workers, **CHUNKS)
        for expected in batches[worker::nb_workers]:
            assert same(next(part), expected)


def test_batches_are_fresh(written: tuple[Reader, dict[tuple[str, str], NDArray[Any]]]) -> None:
    reader, arrays = written
    options: dict[str, Any] = {"seed": 7, **CHUNKS}
    expected = take(reader.batches(9, 4, **options), 3)
    got = []
    for batch in itertools.islice(reader.batches(9, 4, **options), 3):
        got.append({signal: array.copy() for signal, array in batch.items()})
        for array in batch.values():
            array[...] = 1
    assert all(same(a, b) for a, b in zip(got, expected, strict=True))
    for (track, signal), array in arrays.items():
        np.testing.assert_array_equal(reader.array(track, signal), array)


# Other processes


def test_pickles_hold_no_arrays(written: tuple[Reader, dict[tuple[str, str], NDArray[Any]]]) -> None:
    reader, arrays = written
    before = pickle.dumps(reader)
    for track, signal in arrays:
        reader.array(track, signal)
    after = pickle.dumps(reader)
    assert after == before
    assert len(after) < 5000
    copy = pickle.loads(after)
    for (track, signal), array in arrays.items():
        np.testing.assert_array_equal(copy.array(track, signal), array)
    assert same(next(copy.batches(9, 4, seed=1, **CHUNKS)), next(reader.batches(9, 4, seed=1, **CHUNKS)))


def test_pickles_do_not_forget_what_is_mapped(cache: Cache) -> None:
    array = cache.array("Solo - Valid", "bass")
    pickle.dumps(cache)
    assert cache.array("Solo - Valid", "bass") is array


def _send_batch(reader: Reader, pipe: Connection) -> None:
    pipe.send(next(reader.batches(9, 4, seed=1, **CHUNKS)))


@FORKED
def test_forked_while_files_are_mapped(written: tuple[Reader, dict[tuple[str, str], NDArray[Any]]]) -> None:
    reader, _ = written
    batch = next(reader.batches(9, 4, seed=1, **CHUNKS))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_send_batch, args=(reader, theirs))
    child.start()
    try:
        assert ours.poll(30)
        assert same(ours.recv(), batch)
    finally:
        child.join()
    assert child.exitcode == 0
    assert same(next(reader.batches(9, 4, seed=1, **CHUNKS)), batch)


def load(dataset: Any, method: str, nb_batches: int) -> list[Any]:
    """Return batches of a torch DataLoader with two workers, an even number of them."""
    some = Some(dataset, nb_batches // 2)
    batches = list(torch.utils.data.DataLoader(some, batch_size=None, num_workers=2, multiprocessing_context=method))
    assert len(batches) == nb_batches
    return batches


@FORKED
def test_forked_workers_of_the_docstring(cache: Cache) -> None:
    text = inspect.getdoc(Reader) or ""
    example = textwrap.dedent(text[text.index("    class Batches") : text.index("The batches come")])
    example = example.replace("batches(512, 4, ", "batches(9, 4, rule='uniform', ")
    names: dict[str, Any] = {"torch": torch, "cache": cache}
    exec(example, names)
    expected = take(cache.batches(9, 4, rule="uniform", seed=0), 6)  # which also maps the files
    assert names["loader"].num_workers == 2
    for got in (load(names["Batches"](cache), "fork", 6), take(iter(names["Batches"](cache)), 6)):
        assert [same(a, b) for a, b in zip(got, expected, strict=True)] == [True] * 6


@pytest.mark.parametrize("kind", ["uint8", pytest.param("waves", marks=pytest.mark.slow)])  # 5 s to import torch
def test_spawned_workers(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    reader, _ = read(kind, tmp_path, rng)
    expected = take(reader.batches(9, 4, seed=5, **CHUNKS), 6, 2)
    got = load(Batches(reader, first=2), "spawn", 6)
    assert all(isinstance(tensor, torch.Tensor) for batch in got for tensor in batch.values())
    assert [same(a, b) for a, b in zip(got, expected, strict=True)] == [True] * 6


def test_reused_batches_hold_the_same_in_the_same_arrays(cache: Cache) -> None:
    options = {"seed": 3, "rule": "uniform", "tracks": cache.tracks}
    fresh, reused = cache.batches(4, 2, **options), cache.batches(4, 2, reuse=True, **options)
    first = next(reused)
    for batch in (first, next(reused), next(reused)):
        assert batch["mixture"] is first["mixture"]
        expected = next(fresh)
    for signal in expected:
        np.testing.assert_array_equal(first[signal], expected[signal])


def test_readers_share_the_limit_of_open_files(tmp_path: Path, rng: np.random.Generator) -> None:
    write_cache(tmp_path / "cache", "float16", rng)
    code = """
        import resource, sys
        from musdbkit.cache import open_cache
        readers = [open_cache(sys.argv[1]) for _ in range(20)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for _ in range(2):
            for reader in readers:
                for track in reader.tracks:
                    reader.segment(track, 0, 1)
        print(sum(len(reader._arrays) for reader in readers))
        kept = []
        try:
            for reader in readers:
                kept += [reader.segment(track, 0, 1) for track in reader.tracks]
        except Exception as error:
            print(type(error).__name__, error)
    """
    open_maps, error = in_child(code, tmp_path / "cache").splitlines()
    assert int(open_maps) <= 12
    assert error.startswith("DatasetError")
    assert error.endswith("too many open files: raise the limit (ulimit -n), or keep fewer segments")


def test_waves_that_were_written_anew(tmp_path: Path, rng: np.random.Generator) -> None:
    write_waves(tmp_path, rng)
    waves = open_waves(tmp_path)
    path = tmp_path / "train" / "Solo - Valid" / "vocals.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples, rate, "FLOAT")
    with pytest.raises(AudioError, match=r"vocals\.wav: has changed since it was opened: open the dataset again"):
        waves.segment("Solo - Valid", 0, 5)
