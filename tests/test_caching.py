"""Building the spectrogram cache: what is computed again and why, kills, broken tracks, disks."""

import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musdbkit import cache_arrays, caching
from musdbkit.cache import INDEX, RECORD, Index, IndexedTrack, Parameters, open_cache, read_index
from musdbkit.cache_request import Request, find_dtype, find_request, read_request
from musdbkit.caching import build, inspect, verify
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.tracks import Parallel
from tests.sites import (
    NB_SAMPLES,
    ONE,
    REPOSITORY,
    SIGNALS,
    SMALL,
    Site,
    change_one_sample,
    changed,
    forbid_hashes,
    magnitudes,
    stale,
    state,
    statuses,
    tree,
)

# What is computed again


def test_second_run_does_nothing(pair: tuple[Site, Request], monkeypatch: pytest.MonkeyPatch) -> None:
    site, request = pair
    before = state(site.out)
    assert before.keys() == {INDEX, *(f"{t}/{f}" for t in "AB" for f in (RECORD, *(f"{s}.npy" for s in SIGNALS)))}
    forbid_hashes(monkeypatch)
    result = site.build(request)
    assert statuses(result) == {"A": "already there", "B": "already there"}
    assert (result.failed, result.unused, result.notes) == ({}, {}, ())
    assert caching.describe(result) == []
    assert state(site.out) == before


@pytest.mark.parametrize("restored", [False, True], ids=["new date", "old date"])
def test_one_sample_of_one_stem(pair: tuple[Site, Request], restored: bool) -> None:
    site, request = pair
    before = state(site.out)
    source = site.root / "A" / "vocals.wav"
    stat = source.stat()
    change_one_sample(source)
    if restored:
        os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    info = inspect(site.out, request, parallel=ONE)
    assert info.stale == {"A": {"vocals": "vocals.wav has changed"}}
    assert "A: " in verify(site.out, request, parallel=ONE).failed["A"]
    assert verify(site.out, parallel=ONE).failed == {}  # the cache itself is sound
    result = site.build(request)
    assert stale(result) == {"A": {"vocals": "vocals.wav has changed"}}
    assert statuses(result) == {"A": "rebuilt", "B": "already there"}
    assert caching.describe(result) == ["vocals.wav has changed: vocals of A"]
    assert changed(before, state(site.out)) == {"A/vocals.npy", f"A/{RECORD}"}
    expected = magnitudes(source, SMALL)
    assert np.abs(np.load(site.out / "A" / "vocals.npy") - expected).max() <= 1e-3 * expected.max()
    assert verify(site.out, request, parallel=ONE).failed == {}


def test_touched_files_are_hashed_once(pair: tuple[Site, Request], monkeypatch: pytest.MonkeyPatch) -> None:
    site, request = pair
    before = state(site.out)
    os.utime(site.root / "A" / "vocals.wav", (1, 1))
    assert inspect(site.out, request, parallel=ONE).valid
    assert statuses(site.build(request)) == {"A": "already there", "B": "already there"}
    assert changed(before, state(site.out)) == {f"A/{RECORD}"}
    forbid_hashes(monkeypatch)
    assert not site.build(request).failed


@pytest.mark.parametrize(
    ("name", "value"), [("nb_bins", 16), ("n_fft", 128), ("hop_length", 32), ("dtype", "uint8"), ("dtype", "float32")]
)
def test_another_parameter_makes_all_anew(pair: tuple[Site, Request], name: str, value: Any) -> None:
    site, request = pair
    reason = f"{name} was {getattr(SMALL, name)}, now {value}"
    request = replace(request, parameters=replace(SMALL, **{name: value}))
    every = {track: dict.fromkeys(SIGNALS, reason) for track in "AB"}
    assert inspect(site.out, request, parallel=ONE).stale == every
    with pytest.raises(DatasetError, match=f"made otherwise: {reason}"):
        verify(site.out, request, parallel=ONE)
    result = site.build(request)
    assert stale(result) == every
    assert caching.describe(result) == [f"{reason}: A; B"]
    assert inspect(site.out, request, parallel=ONE).valid
    build(request, site.folder / "fresh", parallel=ONE)
    assert tree(site.out) == tree(site.folder / "fresh")


def test_what_does_not_concern_the_arrays_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("train/A")
    monkeypatch.chdir(site.folder)
    site.build(read_request(site.configure(["train/A"]), site.root))
    before = state(site.out)
    other = {"T": 8, "batch_size": 9, "learning_rate": 0.5, "chunk_duration": 0.3, "n_chunks_per_song": 7}
    request = read_request(site.configure(["train/A"], **other, train_max_steps=3, separation_exponent=1), site.root)
    assert inspect(site.out, request, parallel=ONE).valid
    assert statuses(site.build(request)) == {"A": "already there"}
    assert state(site.out) == before


def test_another_target_is_added_and_one_less_stays_until_it_is_pruned(pair: tuple[Site, Request]) -> None:
    site, _ = pair
    before = state(site.out)
    for track in "AB":
        site.add(track, ("bass",))
    more = site.request("A", "B", signals=(*SIGNALS, "bass"))
    result = site.build(more)
    assert stale(result) == {track: {"bass": "not there"} for track in "AB"}
    after = state(site.out)
    assert changed(before, after) == {INDEX, *(f"{t}/{f}" for t in "AB" for f in (RECORD, "bass.npy"))}
    less = site.request("A", "B", signals=("mixture", "bass"))
    assert "signals were mixture, vocals" in inspect(site.out, less, parallel=ONE).stale[INDEX][""]
    result = site.build(less)
    assert stale(result) == {}
    assert changed(after, state(site.out)) == {INDEX}
    assert read_index(site.out).signals == ("mixture", "bass")
    size = sum((site.out / "A" / f"{s}.npy").stat().st_size for s in ("vocals", "drums"))
    assert result.unused == {"A": size, "B": size}
    assert inspect(site.out, parallel=ONE).unused == result.unused
    assert caching.describe(result) == ["not in use: 0.1 MB in A; B (--prune removes them)"]
    result = site.build(less, prune=True)
    assert not list(site.out.rglob("vocals.npy"))
    names = {f"{t}/{f}" for t in "AB" for f in (RECORD, "mixture.npy", "bass.npy")}
    assert tree(site.out).keys() == {INDEX, *names}
    build(less, site.folder / "fresh", parallel=ONE)
    assert tree(site.out) == tree(site.folder / "fresh")
    assert statuses(site.build(less)) == {"A": "already there", "B": "already there"}


def test_tracks_come_and_go(pair: tuple[Site, Request]) -> None:
    site, request = pair
    before = state(site.out)
    site.add("C")
    result = site.build(site.request("A", "B", "C"))
    assert statuses(result) == {"A": "already there", "B": "already there", "C": "built"}
    assert {name.partition("/")[0] for name in changed(before, state(site.out))} == {INDEX, "C"}
    before = state(site.out)
    request = site.request("C", "A")
    assert inspect(site.out, request, parallel=ONE).stale == {"B": {"": "in the cache, but not asked for"}}
    result = site.build(request)
    assert changed(before, state(site.out)) == {INDEX}
    assert open_cache(site.out).tracks == ("A", "C")
    assert list(result.unused) == ["B"]
    (site.out / "B" / "notes.txt").write_text("mine")
    site.build(request, prune=True)
    assert {path.name for path in (site.out / "B").iterdir()} == {RECORD, "notes.txt"}
    assert statuses(site.build(site.request("C", "A", "B")))["B"] == "rebuilt"  # the folder is still the cache's
    (site.out / "B" / "notes.txt").unlink()
    site.build(request, prune=True)
    assert not (site.out / "B").exists()
    build(request, site.folder / "fresh", parallel=ONE)
    assert tree(site.out) == tree(site.folder / "fresh")


def test_prune_leaves_what_is_not_this_caches(pair: tuple[Site, Request]) -> None:
    site, request = pair
    build(site.request("B"), site.out / "another", parallel=ONE)
    folder = site.out / "foreign"
    folder.mkdir()
    (folder / RECORD).write_text('{"of": "another program"}')
    np.save(folder / "mine.npy", np.zeros(3))
    before = state(site.out)
    assert site.build(request, prune=True).unused == {}
    assert state(site.out) == before


def test_what_failed_is_not_pruned(pair: tuple[Site, Request]) -> None:
    site, request = pair
    (site.root / "B" / "vocals.wav").unlink()
    result = site.build(request, prune=True)
    assert list(result.failed) == ["B"]
    assert (site.out / "B" / "drums.npy").exists()
    assert open_cache(site.out).tracks == ("A",)


def test_a_track_that_moves_to_validation_changes_the_index_alone(pair: tuple[Site, Request]) -> None:
    site, request = pair
    before = state(site.out)
    moved = replace(request, tracks=(request.tracks[0], replace(request.tracks[1], splits=("valid",))))
    assert inspect(site.out, moved, parallel=ONE).stale == {"B": {"": "splits were train, now valid"}}
    assert statuses(site.build(moved)) == {"A": "already there", "B": "already there"}
    assert changed(before, state(site.out)) == {INDEX}
    assert open_cache(site.out).in_split("valid") == ("B",)
    assert inspect(site.out, moved, parallel=ONE).valid


def test_a_longer_track(pair: tuple[Site, Request]) -> None:
    site, request = pair
    before = state(site.out)
    site.add("B", nb_samples=NB_SAMPLES + 500)
    result = site.build(request)
    reason = f"the track had {NB_SAMPLES} samples, now {NB_SAMPLES + 500}"
    assert stale(result) == {"B": dict.fromkeys(SIGNALS, reason)}
    assert {name.partition("/")[0] for name in changed(before, state(site.out))} == {"B"}
    assert open_cache(site.out).segment("B", 200, 10)["drums"].shape == (10, 20, 2)


@pytest.mark.parametrize("damage", ["deleted", "cut", "grown", "folder"])
def test_a_damaged_array_is_made_again(pair: tuple[Site, Request], damage: str) -> None:
    site, request = pair
    before, path = state(site.out), site.out / "A" / "vocals.npy"
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "deleted":
        path.write_bytes(data[:-10] if damage == "cut" else data + b"0")
    reason = "its file is missing, or has another size"
    assert inspect(site.out, parallel=ONE).stale == {"A": {"vocals": reason}}
    result = site.build(request)
    if damage == "folder":
        assert result.failed["A"].startswith(f"{path}: is a folder")
        path.rmdir()
        result = site.build(request)
    assert stale(result) == {"A": {"vocals": reason}}
    after = state(site.out)
    assert changed(before, after) - {INDEX} == {"A/vocals.npy", f"A/{RECORD}"}
    assert {name: content for name, (content, *_) in after.items()} == {n: c for n, (c, *_) in before.items()}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "\xff", "[" * 100_000, "null", '{"version": 1}', "other version", "text for a number", "wrong frames"],
)
def test_a_record_that_makes_no_sense_counts_as_none(pair: tuple[Site, Request], content: str) -> None:
    site, request = pair
    before, path = tree(site.out), site.out / "A" / RECORD
    edits: dict[str, tuple[str, Any]] = {
        "other version": ("version", 2),
        "text for a number": ("nb_samples", str(NB_SAMPLES)),
        "wrong frames": ("nb_frames", 183),
    }
    if content in edits:
        name, value = edits[content]
        content = json.dumps(json.loads(path.read_text()) | {name: value})
    path.write_text(content, encoding="latin-1")
    assert "A" in inspect(site.out, parallel=ONE).stale
    assert "A" in verify(site.out, parallel=ONE).failed
    with pytest.raises(DatasetError, match="run musdbkit cache again"):
        open_cache(site.out)
    result = site.build(request)
    assert statuses(result) == {"A": "rebuilt", "B": "already there"}
    assert tree(site.out) == before


def test_force_makes_all_anew(pair: tuple[Site, Request]) -> None:
    site, request = pair
    before = state(site.out)
    assert stale(site.build(request, force=True)) == {t: dict.fromkeys(SIGNALS, "asked for again") for t in "AB"}
    after = state(site.out)
    assert {name for name in changed(before, after) if name.endswith(".npy")} == {
        f"{t}/{s}.npy" for t in "AB" for s in SIGNALS
    }
    assert {name: content for name, (content, *_) in after.items()} == {n: c for n, (c, *_) in before.items()}


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_the_users_is_left_alone(site: Site, force: bool) -> None:
    for name in "ABC":
        site.add(name)
    (site.out / "A").mkdir(parents=True)
    (site.out / "A" / "mixture.npy").write_text("mine")
    (site.out / "B").write_text("mine")
    result = site.build(site.request("A", "B", "C"), force=force)
    assert "A: is there, but not made by cache" in result.failed["A"]
    assert "B: is a file, expected a folder" in result.failed["B"]
    assert list(result.tracks) == ["C"]
    assert (site.out / "A" / "mixture.npy").read_text() == (site.out / "B").read_text() == "mine"
    assert open_cache(site.out).tracks == ("C",)


def test_other_files_in_a_tracks_folder_stay(pair: tuple[Site, Request]) -> None:
    site, request = pair
    (site.out / "A" / "notes.txt").write_text("mine")
    site.build(request, force=True)
    site.build(replace(request, parameters=replace(SMALL, dtype="float32")), prune=True)
    assert (site.out / "A" / "notes.txt").read_text() == "mine"


def test_the_index_tells_of_a_build_that_did_not_end(pair: tuple[Site, Request]) -> None:
    site, request = pair
    old = (site.out / INDEX).read_bytes()
    other = replace(request, parameters=replace(SMALL, dtype="float32"))
    site.build(other)
    (site.out / INDEX).write_bytes(old)
    assert "dtype was float16, now float32" in inspect(site.out, other, parallel=ONE).stale[INDEX][""]
    assert set(inspect(site.out, parallel=ONE).stale) == {"A", "B"}
    with pytest.raises(DatasetError, match="made with other parameters than the index says"):
        open_cache(site.out)
    site.build(other)
    assert inspect(site.out, other, parallel=ONE).valid


# Broken tracks


def break_track(site: Site, fault: str) -> None:
    """Make track B one that cannot be cached."""
    path = site.root / "B" / "vocals.wav"
    samples = np.zeros((NB_SAMPLES, 2))
    if fault == "rate":
        site.add("B", ("vocals",), sample_rate=16_000)
    elif fault == "channels":
        site.add("B", ("vocals",), nb_channels=1)
    elif fault == "length":
        site.add("B", ("vocals",), nb_samples=NB_SAMPLES - 1)
    elif fault == "missing":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "short":
        site.add("B", nb_samples=63)
    else:
        samples[2000:2010] = {"nan": np.nan, "inf": np.inf, "large": 7e4, "huge": 3e38}[fault]
        soundfile.write(path, samples, 8000, "FLOAT")


FAULTS = {
    "rate": r"vocals\.wav: 16000 Hz, expected 8000",
    "channels": r"vocals\.wav: 1 channel\(s\), expected 2",
    "length": r"vocals\.wav: 2999 samples, expected 3000",
    "missing": r"vocals\.wav: ",
    "cut": r"vocals\.wav: ",
    "empty": r"vocals\.wav: ",
    "short": r"mixture\.wav: 63 samples, expected at least one frame of 64",
    "nan": r"vocals\.wav: a magnitude of nan, expected at most 6.55e\+04: correct the file$",
    "inf": r"vocals\.wav: a magnitude of (nan|inf), expected at most 6.55e\+04: correct the file$",
    "large": r"vocals\.wav: a magnitude of \S+e\+05, expected at most .* or use --dtype float32$",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "cached before"])
def test_a_broken_track_does_not_stop_the_others(site: Site, fault: str, fresh: bool) -> None:
    for name in "ABC":
        site.add(name)
    request = site.request("A", "B", "C")
    if not fresh:
        site.build(request)
    before = state(site.out)
    break_track(site, fault)
    result = site.build(request)
    assert list(result.tracks) == ["A", "C"]
    (message,) = result.failed.values()
    assert "\n" not in message
    assert re.search(FAULTS[fault], message)
    assert open_cache(site.out).tracks == ("A", "C")
    if fresh:
        assert sorted(path.name for path in site.out.iterdir()) == ["A", "C", INDEX]
    else:
        assert changed(before, state(site.out)) == {INDEX}


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(("fault", "fails"), [("nan", True), ("inf", True), ("huge", True), ("large", False)])
def test_no_type_holds_what_is_no_number(site: Site, dtype: str, fault: str, fails: bool) -> None:
    for name in "AB":
        site.add(name)
    break_track(site, fault)
    result = site.build(site.request("A", "B", parameters=replace(SMALL, dtype=dtype)))
    assert list(result.failed) == ["B"] * fails
    assert not fails or result.failed["B"].endswith("expected at most 3.4e+38: correct the file")


def test_short_tracks_are_cached_and_named(site: Site) -> None:
    site.add("A")
    site.add("B", nb_samples=64 + 16 * 2)
    result = site.build(replace(site.request("A", "B"), nb_frames=4))
    assert result.notes == ("shorter than a segment of T = 4 frames: B",)
    assert result.tracks["B"].nb_frames == 3
    assert caching.describe(result) == ["note: shorter than a segment of T = 4 frames: B"]


def test_tracks_to_train_and_to_validate_on_are_named(site: Site) -> None:
    for name in "ABC":
        site.add(name)
    wanted = [site.wanted("A", splits=("train", "valid")), site.wanted("B"), site.wanted("C", splits=("valid",))]
    result = site.build(Request(SMALL, SIGNALS, tuple(wanted)))
    assert result.notes == ("in the training and in the validation CSV: A",)


def test_a_source_that_changes_while_it_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("A")
    original = cache_arrays._header

    def touch(*arguments: Any) -> bytes:
        os.utime(site.root / "A" / "drums.wav", (1, 1))
        return original(*arguments)

    monkeypatch.setattr(cache_arrays, "_header", touch)
    result = site.build(site.request("A"))
    assert "changed while it was read: run again" in result.failed["A"]
    assert not (site.out / "A").exists()


# Disks


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_dry_run_writes_nothing_and_foretells_the_size(site: Site, dtype: str) -> None:
    site.add("A")
    site.add("B", nb_samples=2000)
    request = site.request("A", "B", parameters=replace(SMALL, dtype=dtype))
    planned = site.build(request, dry_run=True)
    assert statuses(planned) == {"A": "to build", "B": "to build"}
    assert not site.out.exists()
    done = site.build(request)
    sizes = {name: track.nb_bytes for name, track in planned.tracks.items()}
    assert sizes == {name: track.nb_bytes for name, track in done.tracks.items()}
    assert sum(sizes.values()) == sum(path.stat().st_size for path in site.out.rglob("*.npy"))
    change_one_sample(site.root / "A" / "drums.wav")
    before = state(site.out)
    planned = site.build(request, dry_run=True)
    assert statuses(planned) == {"A": "to rebuild", "B": "already there"}
    assert planned.tracks["A"].nb_bytes == (site.out / "A" / "drums.npy").stat().st_size
    assert caching.describe(planned) == ["drums.wav has changed: drums of A"]
    site.build(replace(request, tracks=request.tracks[:1]), dry_run=True, prune=True, force=True)
    assert state(site.out) == before


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_what_does_not_fit_is_refused_at_once(site: Site, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    for name in "AB":
        site.add(name)
    request = site.request("A", "B", parameters=replace(SMALL, dtype=dtype))
    needed = sum(track.nb_bytes for track in site.build(request, dry_run=True).tracks.values())
    monkeypatch.setattr(caching, "free_bytes", lambda _: needed - 1)
    with pytest.raises(DatasetError, match=r"needs 0\.1 MB more, 0\.[01] MB are free: make room"):
        site.build(request)
    assert not site.out.exists()
    monkeypatch.setattr(caching, "free_bytes", lambda _: 2 * needed)
    assert not site.build(request).failed
    monkeypatch.setattr(caching, "free_bytes", lambda _: 0)
    assert not site.build(request).failed  # nothing to write


def test_full_disk_is_a_clear_error_and_leaves_no_half_track(
    site: Site, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = Parameters(64, 4, "hann", 8000, 2, 33, "float32")
    for name in "AB":
        site.add(name, ("mixture",), nb_samples=100_000)  # 6.6 MB
    request = site.request("A", "B", parameters=parameters, signals=("mixture",))
    with pytest.raises(DatasetError, match=r"needs 13\.2 MB more, 10\.\d MB are free"):
        build(request, small_disk, parallel=ONE)
    assert list(small_disk.iterdir()) == []
    monkeypatch.setattr(caching, "free_bytes", lambda _: 10**9)  # as if others wrote there meanwhile
    result = build(request, small_disk, parallel=ONE)
    assert list(result.tracks) == ["A"]
    assert result.failed["B"].endswith("No space left on device")
    assert sorted(path.name for path in small_disk.iterdir()) == ["A", INDEX]


# Jobs, kills, and several runs at once


@pytest.mark.parametrize("backend", ["loky", "threading", pytest.param("dask", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_nothing_depends_on_the_number_of_jobs(site: Site, backend: str, dtype: str) -> None:
    if backend == "dask":
        pytest.importorskip("distributed")
    names = [f"{i}" for i in range(5)]
    for name in names:
        site.add(name)
    request = site.request(*names, parameters=replace(SMALL, dtype=dtype))
    site.build(request)
    assert not build(request, site.folder / "other", parallel=Parallel(2, backend)).failed
    assert tree(site.out) == tree(site.folder / "other")


STEPS = ("mkdir", "rename", "replace", "unlink", "write_text", "rmdir", "open")
CHANGES: dict[str, Callable[[Request], tuple[Request, dict[str, bool]]]] = {
    "first build": lambda request: (request, {}),
    "other parameters": lambda request: (replace(request, parameters=replace(SMALL, dtype="uint8")), {}),
    "one source": lambda request: (request, {}),
    "fewer targets": lambda request: (
        Request(
            SMALL, SIGNALS[:2], tuple(replace(t, files={s: t.files[s] for s in SIGNALS[:2]}) for t in request.tracks)
        ),
        {"prune": True},
    ),
    "one track less": lambda request: (replace(request, tracks=request.tracks[:1]), {"prune": True}),
}


def prepare(site: Site, change: str) -> tuple[Path, Request, dict[str, bool]]:
    """Return where a build starts from, and what it is to do; what comes of it undisturbed is in `undisturbed`."""
    start = site.folder / "start"
    start.mkdir()
    for name in "AB":
        site.add(name, nb_samples=200)
    first = site.request("A", "B")
    if change != "first build":
        build(first, start, parallel=ONE)
        (start / "A" / "notes.txt").write_text("mine")
    if change == "one source":
        site.add("A", ("vocals",), nb_samples=200)
    request, options = CHANGES[change](first)
    shutil.copytree(start, site.folder / "undisturbed")
    build(request, site.folder / "undisturbed", parallel=ONE, **options)
    return start, request, options


def fail_after(nb_steps: int, stop: Callable[[], object], patch: Callable[[object, str, object], None]) -> None:
    """Let all operations on files fail after some."""
    left = nb_steps

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal left
            if function is not opened or arguments[:1] == ("wb",):
                left -= 1
                if left < 0:
                    stop()
            return function(path, *arguments, **options)

        return call

    opened = pathlib.Path.open
    for name in STEPS:
        patch(pathlib.Path, name, counted(getattr(pathlib.Path, name)))


def refuse() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), "some file")


@pytest.mark.parametrize("stop", [lambda: os._exit(9), refuse], ids=["killed", "refused"])
@pytest.mark.parametrize(
    "change",
    ["one source", "one track less"]
    + [pytest.param(change, marks=pytest.mark.slow) for change in ("first build", "other parameters", "fewer targets")],
)
def test_stopped_between_any_two_steps_and_run_again(site: Site, change: str, stop: Callable[[], object]) -> None:
    start, request, options = prepare(site, change)
    nb_hidden = 0
    for nb_steps in range(200):
        shutil.rmtree(site.out, ignore_errors=True)
        shutil.copytree(start, site.out)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside BLAS's threads, which do nothing here
            child = os.fork()
        if not child:
            signal.alarm(20)
            try:
                fail_after(nb_steps, stop, setattr)
                failed = bool(site.build(request, **options).failed)
                os._exit(1 if failed else 0)
            except OSError:
                os._exit(1)
            finally:
                os._exit(3)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9 if stop is not refuse else 1)
        nb_hidden += not (site.out / "A").exists()
        assert site.build(request, **options).failed == {}
        assert tree(site.out) == tree(site.folder / "undisturbed")
        assert not list(site.out.rglob(".musdbkit-*"))
        assert verify(site.out, request, parallel=ONE).failed == {}
        if status == 0:
            break
    assert status == 0
    assert nb_steps > 10
    assert nb_hidden >= (5 if change != "one track less" and stop is not refuse else 0)


def test_a_track_that_another_run_is_writing_is_waited_for(pair: tuple[Site, Request]) -> None:
    site, request = pair
    change_one_sample(site.root / "A" / "drums.wav")
    digest = hashlib.sha256(b"A").hexdigest()[:16]
    partial = site.out / f".musdbkit-{digest}.partial"
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    command = [sys.executable, "-c", WAITER, str(site.folder)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    build(request, site.folder / "other", parallel=ONE)
    os.close(lock)
    out, _ = process.communicate(timeout=20)
    assert out == "{'A': 'rebuilt'}\n"
    assert tree(site.out / "A") == tree(site.folder / "other" / "A")


WAITER = """
import pathlib, sys
from tests.test_caching import Site, statuses
site = Site(pathlib.Path(sys.argv[1]))
print(statuses(site.build(site.request("A"))))
"""


def large(site: Site) -> tuple[Path, list[str]]:
    """Write tracks that take a while; return the configuration."""
    names = [f"train/{i}" for i in range(8)]
    for name in names:
        site.add(name, nb_samples=8 * 44_100, sample_rate=44_100)
    options = {"sample_rate": 44_100, "frame_length": 4096, "frame_step": 1024, "F": 1024, "chunk_duration": 5}
    return site.configure(names, **options), names


def command(config: Path, site: Site, *options: str) -> list[str]:
    arguments = ["cache", str(config), "--musdb", str(site.root), "--jobs", "2", *options]
    return [sys.executable, "-m", "musdbkit", *arguments]


def entries(root: Path) -> set[str]:
    """Return what is in a folder in which others are at work."""
    return {os.path.join(folder, name) for folder, folders, files in os.walk(root) for name in (*folders, *files)}


@pytest.mark.slow
def test_killed_ten_times_and_run_once_equals_an_undisturbed_run(site: Site, rng: np.random.Generator) -> None:
    config, _ = large(site)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    nb_killed = 0
    for i in range(10):
        dtype = ["float16", "float32", "uint8"][i % 3]  # so that there is always something to change
        process = subprocess.Popen(
            command(config, site, "--dtype", dtype),
            env=environment,
            cwd=site.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        before = entries(site.out)
        while process.poll() is None and not entries(site.out) - before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        nb_killed += process.poll() is None
        if i % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:  # the workers live on for a while
            process.kill()
        process.wait()
    assert nb_killed >= 7
    for out in ("cache", "undisturbed"):
        run = command(config, site, "--out", out, "--dtype", "float16")
        subprocess.run(run, env=environment, cwd=site.folder, capture_output=True, check=True)
    assert tree(site.out) == tree(site.folder / "undisturbed")
    assert not list(site.out.rglob("*.partial"))


@pytest.mark.slow
def test_two_builders_at_once_make_one_cache(site: Site) -> None:
    config, names = large(site)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for options in ([], ["--dtype", "uint8"], ["--force"]):
        processes = [
            subprocess.Popen(
                command(config, site, *options), env=environment, cwd=site.folder, stderr=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        errors = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], errors
        assert not list(site.out.rglob("*.partial"))
        outcome = verify(site.out, parallel=ONE)
        assert (len(outcome.done), outcome.failed) == (len(names), {})


# Looking


def test_what_a_cache_says_of_itself(pair: tuple[Site, Request]) -> None:
    site, request = pair
    for asked in (None, request):
        info = inspect(site.out, asked, parallel=ONE)
        assert info.valid
        assert info.index == Index(
            SMALL, SIGNALS, {"A": IndexedTrack("A", ("train",)), "B": IndexedTrack("B", ("train",))}
        )
        assert info.nb_bytes == sum(path.stat().st_size for path in site.out.rglob("*.npy"))
        assert info.seconds == 2 * NB_SAMPLES / 8000
        assert caching.describe_info(info) == [
            "transform: frames of 64 samples every 16 at 8000 Hz, window hann",
            "arrays: 20 bins (0 to 2375 Hz), 2 channels, float16",
            "signals: mixture, vocals, drums",
            "tracks: train 2; 0.0 min of music; 0.1 MB",
            "valid" if asked else "whole (give CONFIG.json to compare it with its sources)",
        ]
    with pytest.raises(DatasetError, match="no such folder: build it with musdbkit cache"):
        inspect(site.folder / "absent")
    with pytest.raises(DatasetError, match=r"no index\.json: not a cache, or not built to the end"):
        verify(site.root)


def test_tracks_that_cannot_be_looked_at_are_not_valid(pair: tuple[Site, Request]) -> None:
    site, request = pair
    (site.root / "B" / "drums.wav").unlink()
    info = inspect(site.out, request, parallel=ONE)
    assert not info.valid
    assert "drums.wav" in info.stale["B"][""]
    site.add("C")
    info = inspect(site.out, site.request("A", "C"), parallel=ONE)
    assert info.stale == {
        "B": {"": "in the cache, but not asked for"},
        "C": dict.fromkeys(SIGNALS, "not there"),
    }
    assert "not valid: not there: C" in caching.describe_info(info)


@pytest.mark.parametrize("place", [3, 30, 70, 128, -1], ids=["magic", "header", "padding", "first value", "last value"])
def test_verify_finds_one_bit(pair: tuple[Site, Request], place: int) -> None:
    site, request = pair
    path = site.out / "B" / "vocals.npy"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    for asked in (None, request):
        outcome = verify(site.out, asked, parallel=ONE)
        assert outcome.failed == {
            "B": f"{site.out / 'B'}: vocals.npy is not what was written: remove it and run musdbkit cache again"
        }
        assert outcome.done == {"A": sum(f.stat().st_size for f in (site.out / "A").glob("*.npy"))}
    path.unlink()
    site.build(request)
    assert verify(site.out, request, parallel=ONE).failed == {}


def test_verify_names_a_source_that_has_changed_only_where_asked(pair: tuple[Site, Request]) -> None:
    site, request = pair
    source = site.root / "B" / "vocals.wav"
    change_one_sample(source)
    assert verify(site.out, parallel=ONE).failed == {}
    assert verify(site.out, request, parallel=ONE).failed == {
        "B": f"{site.out / 'B'}: {source} has changed: run musdbkit cache again"
    }
    source.unlink()
    assert str(source) in verify(site.out, request, parallel=ONE).failed["B"]
    with pytest.raises(DatasetError, match="signals were mixture, vocals, drums, now mixture, vocals"):
        verify(site.out, site.request("A", "B", signals=SIGNALS[:2]), parallel=ONE)


def test_errors_of_the_system_name_the_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("A")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(site.root / "A" / "mixture.wav"))

    request = site.request("A")
    site.build(request)
    forbidden = f"{site.root / 'A' / 'mixture.wav'}: Permission denied"
    monkeypatch.setattr(hashlib, "file_digest", refuse)
    os.utime(site.root / "A" / "mixture.wav", (1, 1))
    assert site.build(request).failed == {"A": forbidden}
    assert verify(site.out, request, parallel=ONE).failed == {"A": forbidden}


def test_magnitudes_are_checked_where_they_are_made(site: Site) -> None:
    folder = site.add("A", subtype="FLOAT", level=1e4)
    with pytest.raises(AudioError, match=r"mixture\.wav: a magnitude of .*, expected at most 6\.55e\+04"):
        list(cache_arrays._magnitudes(folder / "mixture.wav", SMALL))
    assert len(list(cache_arrays._magnitudes(folder / "mixture.wav", replace(SMALL, dtype="uint8")))) == 3


# Readers while it changes


def rebuild_a_source(site: Site, request: Request, signal: str) -> None:
    samples, rate = soundfile.read(site.root / "A" / f"{signal}.wav")
    soundfile.write(site.root / "A" / f"{signal}.wav", 0.1 * samples, rate, "PCM_16")
    assert statuses(site.build(request))["A"] == "rebuilt"


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_reader_mixes_no_old_arrays_with_new_ones(site: Site, dtype: str, signal: str) -> None:
    site.add("A")
    site.add("B")
    request = site.request("A", "B", parameters=replace(SMALL, dtype=dtype))
    site.build(request)
    reader = open_cache(site.out)
    reader.array("A", "mixture")
    rebuild_a_source(site, request, signal)
    with pytest.raises(DatasetError, match="A: was built again since the cache was opened: open it again"):
        reader.segment("A", 0, 5)
    assert reader.segment("B", 0, 5)["drums"].shape == (5, 20, 2)
    assert open_cache(site.out).segment("A", 0, 5)["drums"].shape == (5, 20, 2)


def test_a_reader_does_not_mind_touched_sources(pair: tuple[Site, Request]) -> None:
    site, request = pair
    reader = open_cache(site.out)
    folder = (site.out / "A").stat().st_ino
    (site.root / "A" / "drums.wav").touch()
    assert statuses(site.build(request))["A"] == "already there"
    assert (site.out / "A").stat().st_ino == folder
    assert reader.segment("A", 0, 5)["drums"].shape == (5, 20, 2)


def test_the_dtype_of_an_unfinished_cache_is_known(site: Site, tmp_path: Path) -> None:
    assert find_dtype(tmp_path / "absent") == "float16"
    site.add("A")
    site.build(site.request("A", parameters=replace(SMALL, dtype="uint8")))
    assert find_dtype(site.out) == "uint8"
    (site.out / INDEX).unlink()
    assert find_dtype(site.out) == "uint8"


def test_smaller_arrays_need_room_before_larger_ones_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("A")
    site.add("B")
    site.build(site.request("A", "B", parameters=replace(SMALL, dtype="float32")))
    smaller = site.request("A", "B")
    least = sum(path.stat().st_size for path in (site.out / "A").glob("*.npy")) // 2  # of one track, as float16
    monkeypatch.setattr(caching, "free_bytes", lambda _: least // 2)
    with pytest.raises(DatasetError, match="make room"):
        site.build(smaller)
    monkeypatch.setattr(caching, "free_bytes", lambda _: 2 * least)
    assert set(statuses(site.build(smaller)).values()) == {"rebuilt"}


def test_nothing_is_pruned_while_a_track_fails(pair: tuple[Site, Request]) -> None:
    site, request = pair
    (site.root / "B" / "drums.wav").unlink()
    before = tree(site.out / "B")
    result = site.build(
        replace(request, signals=SIGNALS[:2], tracks=(site.wanted("A", SIGNALS[:2]), request.tracks[1])), prune=True
    )
    assert list(result.failed) == ["B"]
    assert not result.pruned
    assert tree(site.out / "B") == before
    assert (site.out / "A" / "drums.npy").is_file()


def test_wrong_places_are_refused_once(site: Site) -> None:
    site.add("A")
    request = site.request("A")
    with pytest.raises(DatasetError, match="holds the tracks themselves"):
        build(request, site.root, parallel=ONE)
    (site.folder / "file").write_text("mine")
    with pytest.raises(DatasetError, match="is a file, expected the cache's folder"):
        build(request, site.folder / "file", parallel=ONE)
    site.add("train/A")
    with pytest.raises(ParameterError, match="no track has vocal, train/A has drums, mixture, vocals"):
        find_request(site.root, "spleeter", targets=["vocal"])
