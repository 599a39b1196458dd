"""The format of the spectrogram cache and its reader: what is refused, what is read, and with what."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musdbkit.cache import (
    INDEX,
    NB_LEVELS,
    RECORD,
    Cache,
    Parameters,
    check_folder,
    check_name,
    decode_table,
    open_cache,
    read_index,
    read_record,
)
from musdbkit.cache_request import Request, Wanted
from musdbkit.caching import build
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.tracks import Parallel

REPOSITORY = Path(__file__).parent.parent
PARAMETERS = Parameters(64, 16, "hann", 8000, 2, 20, "float16")
SIGNALS = ("mixture", "vocals", "drums")


def make(folder: Path, dtype: str, tracks: tuple[str, ...] = ("A",)) -> Path:
    """Cache tracks of noise; return the cache's folder."""
    rng = np.random.default_rng(0)
    wanted = []
    for name in tracks:
        (folder / "wav" / name).mkdir(parents=True, exist_ok=True)
        files = {signal: folder / "wav" / name / f"{signal}.wav" for signal in SIGNALS}
        for path in files.values():
            soundfile.write(path, rng.uniform(-0.5, 0.5, (500, 2)), 8000)
        wanted.append(Wanted(name, f"train/{name}", ("train",), files))
    request = Request(replace(PARAMETERS, dtype=dtype), SIGNALS, tuple(wanted))
    assert not build(request, folder / "cache", parallel=Parallel(1)).failed
    return folder / "cache"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make(tmp_path, "float16")


def edit(path: Path, **changes: Any) -> None:
    """Change values of a JSON file; names may be paths with "__" in them."""
    document = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        if value is KeyError:
            del place[last]
        else:
            place[last] = value
    path.write_text(json.dumps(document))


# The reader


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_segments_are_read_only_views_of_what_is_stored(tmp_path: Path, dtype: str) -> None:
    path = make(tmp_path, dtype)
    reader = open_cache(path)
    assert isinstance(reader, Cache)
    assert (reader.tracks, reader.signals, reader.splits) == (("A",), SIGNALS, {"A": ("train",)})
    assert (reader.sample_rate, reader.nb_samples("A"), reader.nb_frames("A")) == (8000, 500, 28)
    assert reader.parameters == replace(PARAMETERS, dtype=dtype)
    segment = reader.segment("A", 3, 7)
    assert list(segment) == list(SIGNALS)
    for signal, values in segment.items():
        stored = np.load(path / "train" / "A" / f"{signal}.npy")
        assert values.dtype == stored.dtype == dtype
        np.testing.assert_array_equal(values, stored[3:10])
        assert not values.flags.writeable
        assert not values.flags.owndata
        assert reader.table("A", signal) is None
    with pytest.raises(ValueError, match="read-only"):
        segment["drums"][0] = 0


def test_codes_are_decoded_unless_they_are_asked_for(tmp_path: Path) -> None:
    path = make(tmp_path, "uint8")
    reader = open_cache(str(path), signals=["drums", "mixture"])
    assert reader.signals == ("drums", "mixture")
    record = read_record(path / "train" / "A")
    assert record is not None
    for signal, values in reader.segment("A", 3, 7).items():
        codes = np.load(path / "train" / "A" / f"{signal}.npy")
        np.testing.assert_array_equal(reader.array("A", signal), codes)
        assert reader.array("A", signal).dtype == np.uint8
        entry = record.signals[signal]
        assert entry.lo is not None
        assert entry.hi is not None
        decibels = entry.lo + codes[3:10].astype(np.float64) * (entry.hi - entry.lo) / 255.9999
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, 10 ** (decibels / 20), rtol=2e-5)
        np.testing.assert_array_equal(values, reader.table("A", signal)[codes[3:10]])  # type: ignore[index]


def test_decoded_magnitudes_are_at_most_one_step_too_low() -> None:
    lo, hi = -60.0, 40.0
    levels = np.linspace(lo, hi, 100_001)
    codes = np.floor((levels - lo) / (hi - lo) * NB_LEVELS).astype(int)
    assert (codes[0], codes[-1]) == (0, 255)
    error = 20 * np.log10(decode_table(lo, hi)[codes].astype(np.float64)) - levels
    assert error.max() <= 1e-4
    assert -0.391 <= error.min() <= -0.39
    assert error.mean() == pytest.approx(-0.195, abs=1e-3)
    np.testing.assert_allclose(decode_table(-180, -180), 1e-9, rtol=1e-5)


def test_what_is_not_there_is_named(cache: Path) -> None:
    reader = open_cache(cache)
    for call in (reader.array, reader.table):
        with pytest.raises(ParameterError, match="no track B"):
            call("B", "drums")
        with pytest.raises(ParameterError, match="no signal bass of A: expected one of mixture, vocals, drums"):
            call("A", "bass")
    with pytest.raises(ParameterError, match="no signal bass, only mixture, vocals, drums"):
        open_cache(cache, signals=["bass"])
    for start, nb_frames in ((-1, 2), (0, 29), (28, 1), (3, -1)):
        with pytest.raises(ParameterError, match="expected frames between 0 and 28"):
            reader.segment("A", start, nb_frames)
    assert reader.segment("A", 28, 0)["drums"].shape == (0, 20, 2)


def test_a_reader_may_be_pickled_at_any_time(cache: Path) -> None:
    reader = open_cache(cache)
    before = reader.segment("A", 0, 28)
    data = pickle.dumps(reader)
    assert len(data) < 10_000
    for signal, values in pickle.loads(data).segment("A", 0, 28).items():
        np.testing.assert_array_equal(values, before[signal])


READ = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "musdbkit"}:
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Block())
import musdbkit.waves
from musdbkit.cache import open_cache

for path in sys.argv[1:3]:
    reader = open_cache(path)
    print(reader.segment("A", 3, 7)["drums"].shape)
    print(next(reader.batches(4, 2, seed=0, rule="uniform"))["mixture"].shape)
print(musdbkit.waves.open_waves(sys.argv[3]).segment("A", 3, 7)["drums"].shape)
print(*sorted(name for name in sys.modules if name.startswith("musdbkit.")))
try:
    import soundfile
except ImportError:
    print("blocked")
"""


def test_reading_needs_nothing_but_numpy(tmp_path: Path) -> None:
    caches = [make(tmp_path / dtype, dtype) for dtype in ("float16", "uint8")]
    (tmp_path / "waves").mkdir()
    (tmp_path / "waves" / "train").symlink_to(tmp_path / "uint8" / "wav")
    command = [sys.executable, "-c", READ, *map(str, caches), str(tmp_path / "waves")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        *["(7, 20, 2)", "(2, 4, 20, 2)"] * 2,
        "(7, 2)",
        "musdbkit.cache musdbkit.errors musdbkit.segments musdbkit.waves",
        "blocked",
    ]


# Files that are not what they should be


class Trap:
    """Unpickling this leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["objects", "pickle", "npz", "text", "empty", "header alone", "folder", "absent"])
def test_what_is_no_array_is_refused_and_never_unpickled(cache: Path, tmp_path: Path, kind: str) -> None:
    path, trace = cache / "train" / "A" / "drums.npy", tmp_path / "trace"
    data = path.read_bytes()
    path.unlink()
    if kind == "objects":
        np.save(path, np.full((28, 20, 2), Trap(trace), object), allow_pickle=True)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, drums=np.zeros((28, 20, 2), np.float16))
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        content = {"pickle": pickle.dumps(Trap(trace)), "text": b"no", "empty": b"", "header alone": data[:128]}
        path.write_bytes(content[kind])
    reader = open_cache(cache)
    with pytest.raises(DatasetError, match=r"drums\.npy: .*: run musdbkit cache again"):
        reader.segment("A", 0, 1)
    assert not trace.exists()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((28, 20, 1), np.float16),
        np.zeros((27, 20, 2), np.float16),
        np.zeros((28, 20, 2), np.float32),
        np.zeros((28, 20, 2), np.uint16),
        np.zeros((28, 40, 1), np.float16),
    ],
    ids=["channels", "frames", "dtype", "dtype of the same size", "shape of the same size"],
)
def test_arrays_that_the_record_does_not_mean_are_refused(cache: Path, array: Any) -> None:
    np.save(cache / "train" / "A" / "drums.npy", array)
    with pytest.raises(DatasetError, match=r"drums\.npy: .*, expected float16 \(28, 20, 2\) up to 2368: remove it"):
        open_cache(cache).array("A", "drums")


def test_no_byte_of_a_header_makes_another_error(cache: Path) -> None:
    path = cache / "train" / "A" / "drums.npy"
    data = path.read_bytes()
    expected = np.load(path)
    for place in range(0, 128):
        for value in (0, 40, 44, 57, 62, 66, 97, 102, 255):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            with contextlib.suppress(DatasetError):
                np.testing.assert_array_equal(open_cache(cache).array("A", "drums"), expected)


# Indexes and records


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "3", '{"version": 1}', "\xff", "[" * 100_000, '{"version": 1, "parameters": {}}']
)
def test_an_index_that_makes_no_sense_is_refused(cache: Path, content: str) -> None:
    (cache / INDEX).write_text(content, encoding="latin-1")
    with pytest.raises(DatasetError, match=r"index\.json: not an index of format 1: build the cache again"):
        read_index(cache)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": KeyError},
        {"parameters": KeyError},
        {"parameters__nb_bins": 34},
        {"parameters__nb_bins": 0},
        {"parameters__n_fft": "64"},
        {"parameters__hop_length": 16.0},
        {"parameters__nb_channels": True},
        {"parameters__dtype": "object"},
        {"parameters__more": 1},
        {"signals": []},
        {"signals": "mixture"},
        {"signals": ["../x"]},
        {"signals": ["mixture", ""]},
        {"signals": [".hid"]},
        {"signals": [3]},
        {"signals": {"mixture": 1}},
        {"tracks": []},
        {"tracks": {"A": {}}},
        {"tracks": {"A": {"folder": "../../etc", "splits": []}}},
        {"tracks": {"A": {"folder": "/etc", "splits": []}}},
        {"tracks": {"A": {"folder": "a/../../b", "splits": []}}},
        {"tracks": {"A": {"folder": "", "splits": []}}},
        {"tracks": {"A": {"folder": 3, "splits": []}}},
        {"tracks": {"A": {"folder": "A", "splits": "train"}}},
        {"tracks": {"A": {"folder": "A", "splits": None}}},
    ],
    ids=str,
)
def test_values_of_an_index_that_cannot_be_are_refused(cache: Path, changes: dict[str, Any]) -> None:
    edit(cache / INDEX, **changes)
    with pytest.raises(DatasetError, match="not an index of format 1"):
        open_cache(cache)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"nb_samples": "500"},
        {"nb_samples": 500.0},
        {"nb_samples": None},
        {"nb_frames": 27},
        {"nb_frames": "28"},
        {"parameters": {}},
        {"parameters__nb_bins": 0},
        {"signals": []},
        {"signals__drums": 3},
        {"signals__drums__source": None},
        {"signals__drums__source__nb_bytes": "many"},
        {"signals__drums__nb_bytes": None},
        {"signals__drums__nb_bytes": KeyError},
        {"signals__drums__more": 1},
        {"signals__drums__lo": KeyError, "parameters__dtype": "uint8"},
        {"signals__drums__lo": -1.0, "signals__drums__hi": 1.0},
    ],
    ids=str,
)
def test_values_of_a_record_that_cannot_be_count_as_none(cache: Path, changes: dict[str, Any]) -> None:
    edit(cache / "train" / "A" / RECORD, **changes)
    assert read_record(cache / "train" / "A") is None
    with pytest.raises(DatasetError, match=r"no \.cache\.json that this version reads: the cache is being changed"):
        open_cache(cache)


@pytest.mark.parametrize("level", [None, "loud", float("nan"), float("inf"), KeyError, True], ids=str)
def test_codes_without_their_range_are_refused(tmp_path: Path, level: Any) -> None:
    path = make(tmp_path, "uint8")
    open_cache(path)
    edit(path / "train" / "A" / RECORD, signals__drums__lo=level)
    assert read_record(path / "train" / "A") is None


def test_a_record_that_lacks_a_signal_is_refused_where_it_is_asked_for(cache: Path) -> None:
    edit(cache / "train" / "A" / RECORD, signals__drums=KeyError)
    with pytest.raises(DatasetError, match="no drums: the cache is being changed, or is broken"):
        open_cache(cache)
    assert open_cache(cache, signals=["vocals"]).segment("A", 0, 1)["vocals"].shape == (1, 20, 2)


def test_records_and_indexes_are_read_as_they_were_written(cache: Path) -> None:
    index = read_index(cache)
    assert json.loads((cache / INDEX).read_text()) == json.loads(json.dumps(index.to_json()))
    record = read_record(cache / "train" / "A")
    assert record is not None
    assert json.loads((cache / "train" / "A" / RECORD).read_text()) == json.loads(json.dumps(record.to_json()))
    assert record.signals["drums"].nb_bytes == (cache / "train" / "A" / "drums.npy").stat().st_size == 128 + 2 * 28 * 40


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder: build it with musdbkit cache"):
        open_cache(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"no index\.json: not a cache, or not built to the end"):
        open_cache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="is a file, expected the cache's folder"):
        open_cache(tmp_path / "file")
    (tmp_path / INDEX).mkdir()
    with pytest.raises(DatasetError, match=r"index\.json: cannot be read: Is a directory"):
        open_cache(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "/a", "a\\b", "a\0b"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="expected a name without slashes"):
        check_name(name)


@pytest.mark.parametrize("folder", ["", ".", "/", "/a", "..", "a/..", "../a", "a/../b", "a\0b"])
def test_folders_outside_of_the_cache_are_refused(folder: str) -> None:
    with pytest.raises(ParameterError, match="expected one inside the cache"):
        check_folder(folder)


def test_names_of_all_kinds_are_kept() -> None:
    for name in ("vocals", "...And You", "a b", "ä", "x.y"):
        assert check_folder(f"train/{name}") == f"train/{name}"
    assert check_name("x.y ä") == "x.y ä"
