"""Batches from a cache: values against the files, the order of draws, processes, resident data, threads and errors."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines.data import ALONE, Batch, Batches, Share, SpectrogramBatches
from musdbkit.cache import Cache, Parameters, open_cache, read_record
from musdbkit.cache_request import Request
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.stft import StftParams
from tests.sites import SIGNALS, SMALL, Site, magnitudes

CPU = torch.device("cpu")
RATE = 8000
TRANSFORM = StftParams(64, 16)
LENGTHS = {"A": 3000, "B": 2600, "C": 2000}
VALID = {"V": 3000, "W": 2222}
CHUNKS = {"nb_chunks": 3, "chunk_seconds": 0.2}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Compute in one thread, and see that no test leaves one that prepares data."""
    nb_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(nb_threads)
    assert not threads()


def threads() -> list[str]:
    """Return the names of our threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("baselines")]


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    """Return the first batches, and let go of the rest."""
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def assert_same(got: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.mixture, other.mixture)
        assert torch.equal(one.targets, other.targets)


def joined(parts: Sequence[Batch]) -> Batch:
    return Batch(torch.cat([part.mixture for part in parts]), torch.cat([part.targets for part in parts]))


# Spectrograms


def build(
    site: Site, dtype: str = "float16", train: dict[str, int] = LENGTHS, valid: dict[str, int] = VALID, **options: Any
) -> Cache:
    """Cache tracks of noise; of each the lengths in samples."""
    parameters = Parameters(**vars(SMALL) | {"dtype": dtype} | options)
    tracks = []
    for splits, lengths in ((("train",), train), (("valid",), valid)):
        for name, nb_samples in lengths.items():
            site.add(name, nb_samples=nb_samples, nb_channels=parameters.nb_channels)
            tracks.append(site.wanted(name, splits=splits))
    assert not site.build(Request(parameters, SIGNALS, tuple(tracks))).failed
    return open_cache(site.out)


def spectrogram_batches(cache: Cache, **options: Any) -> SpectrogramBatches:
    chosen: dict[str, Any] = {"nb_frames": 5, "nb_bins": 18, "batch_size": 3, "seed": 7, "device": CPU, **CHUNKS}
    return SpectrogramBatches(cache, ("drums", "vocals"), **chosen | options)


def values(site: Site, cache: Cache, track: str, signal: str) -> NDArray[Any]:
    """Return what a file holds, by the definition of the format [shape=(nb_frames, nb_bins, nb_channels)]."""
    stored = np.load(site.out / track / f"{signal}.npy")
    if stored.dtype != np.uint8:
        return stored.astype(np.float32)
    record = read_record(site.out / track)
    assert record is not None
    entry = record.signals[signal]
    assert entry.lo is not None
    assert entry.hi is not None
    return np.asarray(10 ** ((stored * (entry.hi - entry.lo) / 255.9999 + entry.lo) / 20))


@pytest.mark.parametrize("nb_channels", [1, 2])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_spectrogram_batches_are_the_caches(site: Site, dtype: str, nb_channels: int) -> None:
    cache = build(site, dtype, nb_channels=nb_channels)
    batches = spectrogram_batches(cache)
    positions = cache.positions(5, seed=7, **CHUNKS)
    for got, expected in zip(take(batches.train(), 5), cache.batches(5, 3, seed=7, **CHUNKS), strict=False):
        assert got.mixture.shape == (3, nb_channels, 18, 5)
        assert got.targets.shape == (3, 2, nb_channels, 18, 5)
        assert got.mixture.dtype == got.targets.dtype == torch.float32
        for k, (track, start) in enumerate(itertools.islice(positions, 3)):
            for signal, tensor in (
                ("mixture", got.mixture[k]),
                ("drums", got.targets[k, 0]),
                ("vocals", got.targets[k, 1]),
            ):
                by_reader = expected[signal][k].astype(np.float32).transpose(2, 1, 0)[:, :18]
                np.testing.assert_array_equal(tensor.numpy(), by_reader)
                by_file = values(site, cache, track, signal)[start : start + 5, :18].transpose(2, 1, 0)
                np.testing.assert_allclose(tensor.numpy(), by_file, rtol=2e-5 if dtype == "uint8" else 0)


def test_spectrogram_batches_are_transforms_of_the_waves(site: Site) -> None:
    cache = build(site, "float32")
    batches = spectrogram_batches(cache, nb_bins=20)
    (got,) = take(batches.train(), 1)
    for k, (track, start) in enumerate(itertools.islice(cache.positions(5, seed=7, **CHUNKS), 3)):
        for signal, tensor in (("mixture", got.mixture[k]), ("vocals", got.targets[k, 1])):
            expected = magnitudes(site.root / track / f"{signal}.wav", SMALL)[start : start + 5].transpose(2, 1, 0)
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_only_tracks_to_train_on_are_drawn(site: Site) -> None:
    cache = build(site)
    batches = spectrogram_batches(cache)
    assert (batches.tracks, batches.valid_tracks) == (("A", "B", "C"), ("V", "W"))
    drawn = [track for draw in itertools.islice(batches._draw(0, ALONE), 60) for track, _ in draw]
    assert {track: drawn.count(track) for track in drawn} == {"A": 60, "B": 60, "C": 60}  # 20 rounds of 3 chunks each


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_a_cache_that_is_resident_gives_the_same(site: Site, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = build(site, dtype)
    expected = take(spectrogram_batches(cache).train(), 12)
    batches = spectrogram_batches(cache)
    check_resident(batches, expected, monkeypatch)


def check_resident(batches: Batches, expected: Sequence[Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the batches before, while and after data are moved to the device."""
    gathered = []
    gather = batches._gather_all
    monkeypatch.setattr(batches, "_gather_all", lambda draw: gathered.append(draw) or gather(draw))
    assert not batches.resident
    batches.finish_loading()  # of what was not begun: no wait
    steps = batches.train()
    got = [next(steps) for _ in range(2)]
    batches.start_loading()
    batches.finish_loading()
    assert batches.resident
    got += [next(steps) for _ in range(4)]
    assert 3 <= len(gathered) <= 4  # of those that came after it was resident, but perhaps the first
    assert not threads()
    got += take(batches.train(6), 6)
    assert len(gathered) >= 9
    assert_same(got, expected)
    nb_bytes = sum(tensor.numel() * tensor.element_size() for tensor in batches._resident.values())
    assert batches.nb_bytes == nb_bytes > 0


def test_files_are_not_moved_to_a_processor(site: Site) -> None:
    assert not spectrogram_batches(build(site)).fits()


@pytest.mark.parametrize("resident", [False, True])
def test_processes_draw_parts_of_one_batch(site: Site, resident: bool) -> None:
    cache = build(site, "uint8")
    whole = take(spectrogram_batches(cache, batch_size=6).train(2), 5)
    parts = []
    for rank in range(3):
        batches = spectrogram_batches(cache, batch_size=2)
        if resident:
            batches.start_loading()
            batches.finish_loading()
        parts.append(take(batches.train(2, Share(rank, 3)), 5))
    assert_same([joined(each) for each in zip(*parts, strict=True)], whole)


def test_what_was_stopped_goes_on_with_its_batches(site: Site) -> None:
    cache = build(site)
    whole = take(spectrogram_batches(cache).train(), 9)
    assert_same(take(spectrogram_batches(cache).train(4), 5), whole[4:])
    share = Share(1, 2)
    whole = take(spectrogram_batches(cache).train(0, share), 9)
    assert_same(take(spectrogram_batches(cache).train(4, share), 5), whole[4:])


def test_a_seed_of_its_own(site: Site) -> None:
    cache = build(site)
    one, same, other = (take(spectrogram_batches(cache, seed=seed).train(), 4) for seed in (1, 1, 2))
    assert_same(one, same)
    assert not all(torch.equal(a.mixture, b.mixture) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("nb_frames", [4, 513, 6500])
def test_validation_excerpts_are_spleeters(site: Site, nb_frames: int) -> None:
    """Spleeter 2.4.2 cuts 12 s from the middle of a track, transforms them, and crops the frames in their middle."""
    nb_samples = 112_000  # 14 s: the excerpt of 12 s begins 1 s after the track does, at a whole frame
    cache = build(site, "float32", {"A": 2000}, {"V": nb_samples})
    nb_needed = 64 + (nb_frames - 1) * 16
    nb_excerpt = max(12 * RATE, nb_needed)  # Spleeter cannot take more than 12 s; ours is as long as is needed
    start = (nb_samples - nb_excerpt) // 2
    start = round(start / 16) * 16  # a whole frame
    whole = magnitudes(site.root / "V" / "mixture.wav", SMALL)
    frames = whole[start // 16 :][: 1 + (nb_excerpt - 64) // 16]
    crop = int(max(len(frames) / 2 - nb_frames / 2, 0))
    options = {"nb_frames": 4, "nb_bins": 20}
    batches = spectrogram_batches(cache, **options)
    batches._nb_frames = nb_frames  # of which there are none to train on
    (got,) = batches.valid()
    assert got.mixture.shape == (1, 2, 20, nb_frames)
    expected = frames[crop : crop + nb_frames].transpose(2, 1, 0)
    np.testing.assert_allclose(got.mixture[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert_same(list(batches.valid()), [got])


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_validation_of_short_tracks(site: Site, dtype: str) -> None:
    """Tracks shorter than 12 s are cropped in their middle; those without a whole segment are left out."""
    valid = {"V": 3000, "one": 64 + 29 * 16, "none": 64 + 28 * 16, "W": 2222, "X": 64 + 29 * 16 + 15}
    cache = build(site, dtype, valid=valid)
    batches = spectrogram_batches(cache, nb_frames=30, nb_bins=20, batch_size=3)
    first, second = batches.valid()
    assert (len(first.mixture), len(second.mixture)) == (3, 1)
    for track, mixture, targets in zip(
        ("V", "W", "X", "one"), [*first.mixture, *second.mixture], [*first.targets, *second.targets], strict=True
    ):
        nb_frames = 1 + (valid[track] - 64) // 16
        start = int(nb_frames / 2 - 15)
        for signal, tensor in (("mixture", mixture), ("drums", targets[0]), ("vocals", targets[1])):
            expected = values(site, cache, track, signal)[start : start + 30].transpose(2, 1, 0)
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=2e-5)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_processes_share_the_validation_tracks(site: Site, world_size: int) -> None:
    cache = build(site, valid={name: 1500 + 100 * i for i, name in enumerate("VWXYZ")})
    (alone,) = spectrogram_batches(cache, batch_size=9).valid()
    assert len(alone.mixture) == 5
    found = []
    for rank in range(world_size):
        for batch in spectrogram_batches(cache, batch_size=2).valid(Share(rank, world_size)):
            for mixture in batch.mixture:
                found += [i for i in range(5) if torch.equal(mixture, alone.mixture[i])]
    assert sorted(found) == [0, 1, 2, 3, 4]


def test_no_tracks_to_validate_on(site: Site) -> None:
    batches = spectrogram_batches(build(site, valid={}))
    assert list(batches.valid()) == []
    assert len(take(batches.train(), 1)) == 1


def test_caches_that_do_not_serve(site: Site) -> None:
    cache = build(site)
    only = open_cache(site.out, signals=("mixture", "drums"))
    for options, reason in (
        ({"cache": only}, f"{site.out}: no vocals, only mixture, drums: build one with musdbkit cache CONFIG.json "),
        ({"nb_bins": 21}, f"{site.out}: 20 bins, expected 21 or more: build the cache with them"),
        ({"batch_size": 0}, "batch_size is 0, expected 1 or more"),
        ({"nb_frames": 98}, f"{site.out}: no segment of 98 frames (0.202 s): the longest of 3 tracks, A, has 184"),
        ({"nb_chunks": 0}, "nb_frames 5, nb_chunks 0, chunk_seconds 0.2: expected 1 or more"),
    ):
        chosen: dict[str, Any] = {"cache": cache, **options}
        with pytest.raises(ParameterError) as caught:
            spectrogram_batches(**chosen)
        assert str(caught.value).startswith(reason)
        assert "\n" not in str(caught.value)
    assert len(take(spectrogram_batches(cache, nb_frames=97).train(), 1)) == 1  # as many as a chunk has


def test_tracks_without_a_chunk_are_left_out(site: Site) -> None:
    least = 64 + 96 * 16  # samples of 97 frames, which a chunk of 0.2 s has
    cache = build(site, train={"A": 3000, "short": least - 1, "B": least, "shorter": 70})
    assert spectrogram_batches(cache, nb_frames=1).left_out == ()
    batches = spectrogram_batches(cache, nb_frames=97)
    assert (batches.tracks, batches.left_out) == (("A", "B"), ("short", "shorter"))
    expected = next(cache.batches(97, 3, seed=7, **CHUNKS))["mixture"].transpose(0, 3, 2, 1)[:, :, :18]
    (got,) = take(batches.train(), 1)
    np.testing.assert_array_equal(got.mixture.numpy(), expected)  # the draws are as if they were not there
    batches.start_loading()
    batches.finish_loading()
    (resident,) = take(batches.train(), 1)
    assert_same([resident], [got])


@pytest.mark.parametrize(("track", "signal"), [("C", "drums"), ("W", "mixture")])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_arrays_are_looked_at_before_training(site: Site, track: str, signal: str, damage: str) -> None:
    cache = build(site)
    path = site.out / track / f"{signal}.npy"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-1])
    with pytest.raises(DatasetError) as caught:
        spectrogram_batches(cache)
    assert str(caught.value).startswith(f"{path}: ")
    assert "musdbkit cache" in str(caught.value)


def test_no_track_to_train_on(site: Site) -> None:
    cache = build(site, train={})
    with pytest.raises(ParameterError, match=r"no tracks of split train, only of valid"):
        spectrogram_batches(cache)


# The thread that stages


def test_an_error_in_the_thread_comes_where_the_batch_is_wanted(site: Site) -> None:
    cache = build(site)
    batches = spectrogram_batches(cache)
    cache._arrays.clear()  # as where more files are mapped than may be open
    (site.out / "B" / "vocals.npy").unlink()
    with pytest.raises(DatasetError) as caught:
        take(batches.train(), 30)
    assert str(caught.value) == (
        f"{site.out / 'B' / 'vocals.npy'}: No such file or directory: run musdbkit cache again"
    )
    assert not threads()
    # What lies before the error is given.
    before = next(i for i, draw in enumerate(batches._draw(0, ALONE)) if "B" in [track for track, _ in draw])
    steps = batches.train()
    assert len([next(steps) for _ in range(before)]) == before
    with pytest.raises(DatasetError):
        next(steps)


def test_an_error_while_loading_comes_at_the_next_batch(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = spectrogram_batches(build(site))
    array = batches._array

    def refuse(track: str, signal: str) -> NDArray[Any]:
        if threading.current_thread().name == "baselines-load":
            raise DatasetError(f"{track}: gone")
        return array(track, signal)

    monkeypatch.setattr(batches, "_array", refuse)
    steps = batches.train()
    next(steps)
    batches.start_loading()
    with pytest.raises(DatasetError, match="A: gone"):
        batches.finish_loading()
    assert not batches.resident
    with pytest.raises(DatasetError, match="A: gone"):
        next(steps)
    assert not threads()


@pytest.mark.parametrize("how", ["close", "delete", "raise"])
def test_the_thread_ends_with_its_generator(site: Site, how: str) -> None:
    steps = spectrogram_batches(build(site)).train()
    assert not threads()  # before a batch is wanted
    next(steps)
    assert threads() == ["baselines-data"]
    time.sleep(0.2)  # until the thread waits for room
    began = time.perf_counter()
    if how == "close":
        steps.close()  # type: ignore[attr-defined]
    elif how == "raise":
        with pytest.raises(ZeroDivisionError):
            steps.throw(ZeroDivisionError)  # type: ignore[attr-defined]
    del steps
    assert not threads()
    assert time.perf_counter() - began < 1


def test_the_thread_is_only_some_steps_ahead(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = spectrogram_batches(build(site))
    staged = []
    stage = batches._stage
    monkeypatch.setattr(batches, "_stage", lambda draw: staged.append(draw) or stage(draw))
    steps = batches.train()
    for nb_taken in (1, 2, 5):
        for _ in range(nb_taken):
            next(steps)
        deadline = time.perf_counter() + 5
        while len(staged) < 5 and time.perf_counter() < deadline:
            time.sleep(0.01)
    time.sleep(0.2)
    assert 8 + 4 <= len(staged) <= 8 + 4 + 1  # taken, waiting, and in hand
    steps.close()  # type: ignore[attr-defined]
