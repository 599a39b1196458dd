"""Batches from waves: values against the files, what is drawn, how sources are mixed, processes, and statistics."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from baselines import wave_batches as module
from baselines.data import ALONE, Share
from baselines.wave_batches import Mixing, WaveBatches, measure_statistics
from musdbkit import stft as reference
from musdbkit.errors import AudioError, MusdbkitError, ParameterError
from musdbkit.musdb18 import STEMS
from musdbkit.stft import PRESETS, StftParams
from musdbkit.waves import Waves, open_waves
from tests.test_data import (
    CPU,
    LENGTHS,
    RATE,
    TRANSFORM,
    VALID,
    _no_thread_is_left,  # noqa: F401  a fixture
    assert_same,
    check_resident,
    joined,
    take,
    threads,
)


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
