"""Batches to train on: values against the files, the order of draws, processes, resident data, threads and errors."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from baselines import data as module
from baselines.data import ALONE, Batch, Batches, Mixing, Share, SpectrogramBatches, WaveBatches, measure_statistics
from musdbkit import stft as reference
from musdbkit.cache import Cache, Parameters, open_cache, read_record
from musdbkit.cache_request import Request
from musdbkit.errors import AudioError, DatasetError, MusdbkitError, ParameterError
from musdbkit.musdb18 import STEMS
from musdbkit.stft import PRESETS, StftParams
from musdbkit.waves import Waves, open_waves
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


# Waves


def write(
    root: Path, lengths: dict[str, int], nb_channels: int = 2, signals: Sequence[str] = ("mixture", *STEMS)
) -> Path:
    """Write tracks of noise, of which the mixture is no sum; of each the length in samples."""
    for i, (name, nb_samples) in enumerate(lengths.items()):
        folder = root / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(i)
        for signal in signals:
            samples = rng.integers(-9000, 9000, (nb_samples, nb_channels), np.int16)
            soundfile.write(folder / f"{signal}.wav", samples, RATE, "PCM_16")
    return root


@pytest.fixture
def waves(tmp_path: Path) -> Waves:
    return open_waves(write(tmp_path, LENGTHS | VALID), valid=tuple(VALID))


def wave_batches(waves: Waves, targets: Sequence[str] = ("vocals", "accompaniment"), **options: Any) -> WaveBatches:
    chosen: dict[str, Any] = {"transform": TRANSFORM, "segment_seconds": 0.05, "batch_size": 3, "seed": 7}
    return WaveBatches(waves, targets, device=CPU, **chosen | options)


def read(waves: Waves, track: str, signal: str) -> NDArray[np.float64]:
    samples: NDArray[np.float64] = soundfile.read(waves.path / "train" / track / f"{signal}.wav", always_2d=True)[0]
    return samples


def transformed(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return magnitudes with time last [shape=(nb_channels, nb_bins, nb_frames)]."""
    return np.abs(reference.stft(samples, TRANSFORM)).transpose(2, 1, 0)


@pytest.mark.parametrize("nb_channels", [1, 2])
def test_wave_batches_are_remixed_files(tmp_path: Path, nb_channels: int) -> None:
    waves = open_waves(write(tmp_path, LENGTHS | VALID, nb_channels), valid=tuple(VALID))
    batches = wave_batches(waves)
    draws = batches._draw(3, ALONE)
    swapped = set()
    for got, draw in zip(take(batches.train(3), 3), draws, strict=False):
        assert got.mixture.shape == (3, nb_channels, 33, 22)  # 400 samples hold 22 frames
        assert got.targets.shape == (3, 2, nb_channels, 33, 22)
        assert got.mixture.dtype == got.targets.dtype == torch.float32
        for k in range(3):
            sources = {}
            for i, stem in enumerate(("drums", "bass", "other", "vocals")):
                start = draw.starts[k, i]
                source = read(waves, ("A", "B", "C")[draw.tracks[k, i]], stem)[start : start + 400]
                sources[stem] = float(draw.gains[k, i]) * (source[:, ::-1] if draw.swaps[k, i] else source)
                swapped.add(bool(draw.swaps[k, i]))
            mixture = sources["drums"] + sources["bass"] + sources["other"] + sources["vocals"]
            accompaniment = sources["drums"] + sources["bass"] + sources["other"]
            for tensor, samples in (
                (got.mixture[k], mixture),
                (got.targets[k, 0], sources["vocals"]),
                (got.targets[k, 1], accompaniment),
            ):
                np.testing.assert_allclose(tensor.numpy(), transformed(samples), atol=1e-5)
    assert swapped == {False, True}


def test_sources_are_drawn_as_open_unmix_draws_them(tmp_path: Path) -> None:
    """Each source by itself: track and start uniform, gain uniform from 0.25 to 1.25, channels swapped every second."""
    waves = open_waves(write(tmp_path, {"A": 3000, "B": 403, "C": 1000, "D": 700}))
    draws = list(itertools.islice(wave_batches(waves, batch_size=500)._draw(0, ALONE), 40))
    tracks, starts, gains, swaps = (np.concatenate([draw[i] for draw in draws]) for i in range(4))
    nb_draws = len(tracks)
    assert tracks.shape == starts.shape == gains.shape == swaps.shape == (20_000, 4)
    rooms = np.array([3000, 403, 1000, 700]) - 400
    assert (starts >= 0).all()
    assert (starts <= rooms[tracks]).all()
    bound = 4.5 / np.sqrt(nb_draws)  # standard deviations of a mean
    for source in range(4):
        shares = np.bincount(tracks[:, source], minlength=4) / nb_draws
        np.testing.assert_allclose(shares, 0.25, atol=bound * np.sqrt(0.25 * 0.75))
        np.testing.assert_allclose(swaps[:, source].mean(), 0.5, atol=bound * 0.5)
        assert uniformity(gains[:, source] - 0.25) < 2 / np.sqrt(nb_draws)  # Kolmogorov and Smirnov, 1 in 1500
        for track, room in enumerate(rooms):
            places = starts[tracks[:, source] == track, source]
            if room == 3:  # all four, the last one too, equally often
                np.testing.assert_allclose(np.bincount(places) / len(places), 0.25, atol=0.03)
            else:
                spread = (places + 0.5) / (room + 1)
                assert uniformity(spread) < 2 / np.sqrt(len(places)) + 1 / room
    drawn = [tracks, (starts + 0.5) / (rooms[tracks] + 1), gains, swaps]
    table = np.corrcoef(np.concatenate(drawn, axis=1).astype(float).T)
    assert np.abs(table - np.eye(16)).max() < bound  # of all sources, all that is drawn is independent
    examples = np.concatenate([gains[:-1], gains[1:]], axis=1).astype(float)
    assert np.abs(np.corrcoef(examples.T) - np.eye(8)).max() < bound


def uniformity(values: NDArray[Any]) -> float:
    """Return the greatest distance from the uniform distribution's function, of values between 0 and 1."""
    assert values.min() >= 0
    assert values.max() <= 1
    return float(np.abs(np.sort(values) - np.linspace(0, 1, len(values))).max())


def test_processes_draw_parts_of_one_batch_of_waves(waves: Waves) -> None:
    whole = take(wave_batches(waves, batch_size=6).train(1), 4)
    parts = [take(wave_batches(waves, batch_size=2).train(1, Share(rank, 3)), 4) for rank in range(3)]
    for got, expected in zip([joined(each) for each in zip(*parts, strict=True)], whole, strict=True):
        torch.testing.assert_close(got.mixture, expected.mixture, rtol=0, atol=1e-6)
        torch.testing.assert_close(got.targets, expected.targets, rtol=0, atol=1e-6)


def test_waves_that_were_stopped_go_on_with_their_batches(waves: Waves) -> None:
    whole = take(wave_batches(waves).train(), 9)
    assert_same(take(wave_batches(waves).train(4), 5), whole[4:])
    other = take(wave_batches(waves, seed=8).train(), 1)
    assert not torch.equal(other[0].mixture, whole[0].mixture)
    assert not torch.equal(whole[0].mixture, whole[1].mixture)


def test_waves_that_are_resident_give_the_same(waves: Waves, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = take(wave_batches(waves).train(), 12)
    batches = wave_batches(waves)
    check_resident(batches, expected, monkeypatch)
    assert batches.nb_bytes == 2 * 2 * 4 * sum(LENGTHS.values())  # bytes of a sample, channels, stems


def test_validation_takes_whole_tracks_and_their_own_mixtures(waves: Waves) -> None:
    batches = wave_batches(waves)
    found = list(batches.valid())
    assert batches.valid_tracks == ("V", "W")
    for track, got in zip(("V", "W"), found, strict=True):
        stems = {stem: read(waves, track, stem) for stem in STEMS}
        accompaniment = stems["drums"] + stems["bass"] + stems["other"]
        nb_frames = 1 + (VALID[track] - 64) // 16
        assert got.mixture.shape == (1, 2, 33, nb_frames)
        assert got.targets.shape == (1, 2, 2, 33, nb_frames)
        np.testing.assert_allclose(got.mixture[0], transformed(read(waves, track, "mixture")), atol=1e-5)
        np.testing.assert_allclose(got.targets[0, 0], transformed(stems["vocals"]), atol=1e-5)
        np.testing.assert_allclose(got.targets[0, 1], transformed(accompaniment), atol=1e-5)
    shares = [list(wave_batches(waves).valid(Share(rank, 3))) for rank in range(3)]
    assert [len(share) for share in shares] == [1, 1, 0]
    assert_same([share[0] for share in shares[:2]], found)


def test_validation_passes_over_tracks_without_a_frame(tmp_path: Path) -> None:
    waves = open_waves(write(tmp_path, {"A": 500, "V": 63, "W": 64}), valid=("V", "W"))
    (only,) = wave_batches(waves).valid()
    assert only.mixture.shape == (1, 2, 33, 1)


def test_tracks_that_are_not_longer_than_a_segment(tmp_path: Path) -> None:
    waves = open_waves(write(tmp_path, {"A": 400, "B": 401, "C": 399}))
    batches = wave_batches(waves)
    assert (batches.tracks, batches.left_out) == (("B",), ("A", "C"))
    assert {int(start) for draw in itertools.islice(batches._draw(0, ALONE), 20) for start in draw.starts.flat} == {
        0,
        1,
    }
    with pytest.raises(ParameterError, match=r"no track to train on is longer than 0.0502 s"):
        wave_batches(waves, segment_seconds=0.0502)


def test_waves_that_do_not_serve(waves: Waves) -> None:
    for options, reason in (
        ({"targets": ("vocals", "piano")}, "no target piano: expected some of "),
        ({"segment_seconds": 63 / RATE}, "segment_seconds is 0.007875, expected 64 samples or more"),
        ({"batch_size": 0}, "batch_size is 0, expected 1 or more"),
    ):
        with pytest.raises(ParameterError) as caught:
            wave_batches(waves, **options)  # type: ignore[arg-type]
        assert str(caught.value).startswith(reason)
        assert "\n" not in str(caught.value)
    (batch,) = take(wave_batches(waves, segment_seconds=64 / RATE).train(), 1)
    assert batch.mixture.shape == (3, 2, 33, 1)


def test_a_wav_file_that_changes_under_the_thread(waves: Waves) -> None:
    batches = wave_batches(waves)
    path = waves.path / "train" / "B" / "other.wav"
    soundfile.write(path, np.zeros((70, 2)), RATE, "PCM_16")
    with pytest.raises(AudioError) as caught:
        take(batches.train(), 30)
    assert str(caught.value) == f"{path}: has changed since it was opened: open the dataset again"
    assert not threads()


# Other ways to mix

REMIX = Mixing("remix", 1.0, 1.0, "none", shift=100)
CENTRED = StftParams(64, 16, alignment="center", padding="reflect")


def test_a_remix_takes_each_window_once_before_any_again(tmp_path: Path) -> None:
    """Tracks of 1600, 1003 and 500 samples hold 3, 2 and 1 windows of 500; an example begins in the first 101."""
    waves = open_waves(write(tmp_path, {"A": 1600, "B": 1003, "C": 500, "D": 499}))
    batches = wave_batches(waves, batch_size=4, mixing=REMIX)
    assert (batches.nb_segments, batches.left_out) == (6, ("D",))
    draws = list(itertools.islice(batches._draw(0, ALONE), 300))
    for source in range(4):
        tracks = np.concatenate([draw.tracks[:, source] for draw in draws])
        starts = np.concatenate([draw.starts[:, source] for draw in draws])
        places = np.column_stack([tracks, starts // 500])
        assert ((starts % 500) <= 100).all()
        assert {int(start % 500) for start in starts} >= {0, 100}
        counts = np.unique(places, axis=0, return_counts=True)
        assert counts[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0]]
        assert counts[1].tolist() == [200] * 6
    epoch = [draws[i].tracks[:, 0] * 10 + draws[i].starts[:, 0] // 500 for i in range(3)]  # 12 examples: two epochs
    assert sorted(np.concatenate(epoch).tolist()) == sorted([0, 1, 2, 10, 11, 20] * 2)
    assert {float(gain) for draw in draws for gain in draw.gains.flat} == {1.0}
    assert not any(draw.swaps.any() for draw in draws)


@pytest.mark.parametrize(("batch_size", "group"), [(8, 4), (6, 6), (4, 4), (1, 1)])
def test_sources_are_exchanged_within_groups(waves: Waves, batch_size: int, group: int) -> None:
    batches = wave_batches(waves, batch_size=batch_size, mixing=REMIX)
    exchanged = 0
    for draw in itertools.islice(batches._draw(0, ALONE), 20):
        for first in range(0, batch_size, group):
            part = slice(first, first + group)
            places = np.stack([draw.tracks[part], draw.starts[part]], axis=-1)  # group, nb_sources, 2
            sets = [sorted(map(tuple, places[:, source].tolist())) for source in range(4)]
            assert sets[0] == sets[1] == sets[2] == sets[3]  # the same places, each source in an order of its own
            exchanged += any((places[:, 0] != places[:, source]).any() for source in range(1, 4))
    assert exchanged == 0 if group == 1 else exchanged > 10


def test_channels_of_half_of_the_batches_change_places(waves: Waves) -> None:
    batches = wave_batches(waves, batch_size=16, mixing=replace(REMIX, swap="batch"))
    shares = np.array([draw.swaps.mean() for draw in itertools.islice(batches._draw(0, ALONE), 400)])
    assert 0.4 < np.mean(shares == 0) < 0.6
    assert 0.47 < shares[shares > 0].mean() < 0.53


def test_processes_draw_parts_of_one_remix(waves: Waves) -> None:
    """What all processes draw is what one draws of as many examples."""
    mixing = replace(REMIX, swap="batch", group=4)
    whole = take(wave_batches(waves, batch_size=4, mixing=mixing).train(1), 3)
    again = take(wave_batches(waves, batch_size=4, mixing=mixing).train(), 4)
    assert_same(again[1:], whole)
    draws = [
        list(itertools.islice(wave_batches(waves, batch_size=2, mixing=mixing)._draw(1, Share(rank, 2)), 3))
        for rank in range(2)
    ]
    one = list(itertools.islice(wave_batches(waves, batch_size=4, mixing=mixing)._draw(1, ALONE), 3))
    for first, second, both in zip(*draws, one, strict=True):
        np.testing.assert_array_equal(np.concatenate([first.tracks, second.tracks]), both.tracks)
        np.testing.assert_array_equal(np.concatenate([first.starts, second.starts]), both.starts)
        np.testing.assert_array_equal(np.concatenate([first.swaps, second.swaps]), both.swaps)


def test_spectra_and_waves_are_given_where_they_are_wanted(waves: Waves) -> None:
    mixing = Mixing("independent", 1.0, 1.0, "none", complex=True, with_waves=True)
    complex_, plain = (
        next(wave_batches(waves, transform=CENTRED, mixing=each).train())
        for each in (mixing, replace(mixing, complex=False, with_waves=False))
    )
    assert complex_.mixture.dtype == complex_.targets.dtype == torch.complex64
    assert complex_.spectrum is complex_.mixture
    assert (plain.spectrum, plain.waves) == (None, None)
    torch.testing.assert_close(complex_.mixture.abs(), plain.mixture)
    torch.testing.assert_close(complex_.targets.abs(), plain.targets)
    assert complex_.waves is not None
    torch.testing.assert_close(module.stft(complex_.waves, CENTRED), complex_.targets)
    torch.testing.assert_close(complex_.mixture, complex_.targets.sum(1), rtol=1e-4, atol=1e-4)  # no gain, all sources


def test_validation_of_segments_takes_those_that_are_whole(waves: Waves) -> None:
    batches = wave_batches(waves, batch_size=4, mixing=replace(REMIX, whole=False))
    found = list(batches.valid())
    assert [len(batch.mixture) for batch in found] == [4, 4, 4]  # 7 segments of 400 samples, and 5
    places = [("V", start) for start in range(0, 2800, 400)] + [("W", start) for start in range(0, 2000, 400)]
    got = torch.cat([batch.mixture for batch in found])
    vocals = torch.cat([batch.targets for batch in found])[:, 0]
    for i, (track, start) in enumerate(places):
        parts = [read(waves, track, stem)[start : start + 400] for stem in STEMS]
        np.testing.assert_allclose(got[i], transformed(np.sum(parts, axis=0)), atol=1e-5)
        np.testing.assert_allclose(vocals[i], transformed(read(waves, track, "vocals")[start : start + 400]), atol=1e-5)
    whole = wave_batches(waves, segment_seconds=3000 / RATE / 3, mixing=replace(REMIX, whole=False)).valid()
    assert sum(len(batch.mixture) for batch in whole) == 3 + 2  # the last one of the first track ends with it
    shares = [list(wave_batches(waves, mixing=replace(REMIX, whole=False)).valid(Share(rank, 3))) for rank in range(3)]
    assert [sum(len(batch.mixture) for batch in share) for share in shares] == [4, 4, 4]


# Statistics


@pytest.mark.parametrize("nb_block_frames", [1, 7, 2048])
@pytest.mark.parametrize("nb_channels", [1, 2, 3])
def test_statistics_are_those_of_all_frames(
    tmp_path: Path, nb_channels: int, nb_block_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if nb_block_frames == 2048:
        lengths = {"A": 16 * 2 * 2048 + 64, "B": 70, "C": 16 * 2048 + 48, "short": 63, "V": 2000}
    else:
        lengths = {"A": 1000, "B": 70, "C": 16 * 6 + 64, "D": 16 * 7 + 64, "short": 63, "V": 2000}
        monkeypatch.setattr(module, "_BLOCK_FRAMES", nb_block_frames)
    waves = open_waves(write(tmp_path, lengths, nb_channels, ("mixture",)), valid=("V",))
    tracks = [name for name in lengths if name not in ("short", "V")]
    frames = np.concatenate([transformed(read(waves, name, "mixture")).mean(0) for name in tracks], axis=1)
    assert frames.shape == (33, sum(1 + (lengths[name] - 64) // 16 for name in tracks))
    mean, std = measure_statistics(waves, TRANSFORM, CPU)
    assert mean.dtype == std.dtype == torch.float64
    np.testing.assert_allclose(mean.numpy(), frames.mean(1), rtol=1e-5)
    np.testing.assert_allclose(std.numpy(), frames.std(1), rtol=1e-5)


def test_statistics_of_silence_and_of_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "A"
    folder.mkdir(parents=True)
    soundfile.write(folder / "mixture.wav", np.zeros((500, 2)), RATE, "PCM_16")
    mean, std = measure_statistics(open_waves(tmp_path), TRANSFORM, CPU)
    assert not mean.any()
    assert not std.any()
    soundfile.write(folder / "mixture.wav", np.zeros((63, 2)), RATE, "PCM_16")
    with pytest.raises(MusdbkitError, match=r"no track to train on has 64 samples"):
        measure_statistics(open_waves(tmp_path), TRANSFORM, CPU)


def test_the_transform_is_open_unmixs() -> None:
    """Blocks of statistics are right for frames that begin at sample 0, without padding."""
    assert (PRESETS["openunmix"].alignment, PRESETS["openunmix"].padding) == ("start", "none")
    assert replace(PRESETS["openunmix"], n_fft=64, hop_length=16) == TRANSFORM
