"""Transforms: values of torch, scipy and Spleeter, their inverses, and what they refuse."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from numpy.typing import NDArray

from musdbkit.errors import ParameterError
from musdbkit.stft import PRESETS, StftParams, istft, magnitude, stft

GOLDEN = Path(__file__).parent / "golden" / "spleeter_stft.npz"
REPOSITORY = Path(__file__).parent.parent

KINDS = [("start", "none"), ("start", "zeros"), ("center", "zeros"), ("center", "reflect"), ("end", "zeros")]


def noise(rng: np.random.Generator, *shape: int, dtype: Any = np.float64) -> NDArray[Any]:
    return rng.uniform(-1, 1, shape).astype(dtype)


def error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest absolute difference, as a share of the largest magnitude."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def torch_stft(samples: NDArray[Any], n_fft: int, hop_length: int, center: bool, **options: Any) -> NDArray[Any]:
    """Return torch's spectrogram [shape=(nb_frames, nb_bins, nb_channels)]."""
    wave = torch.from_numpy(samples.T.copy())
    window = torch.hann_window(n_fft, dtype=wave.dtype)
    spectra = torch.stft(wave, n_fft, hop_length, window=window, center=center, return_complex=True, **options)
    return spectra.permute(2, 1, 0).numpy()


def in_frames(samples: NDArray[Any], params: StftParams, places: list[int]) -> NDArray[np.complex128]:
    """Return the spectra of frames that begin at places, zeros beyond the ends, one frame at a time."""
    n_fft = params.n_fft
    window = scipy.signal.get_window(params.window, n_fft)
    padded = np.pad(samples.astype(np.float64), ((2 * n_fft, 2 * n_fft), (0, 0)))
    frames = [padded[place + 2 * n_fft : place + 3 * n_fft] * window[:, None] for place in places]
    return np.array([np.fft.rfft(frame, axis=0) for frame in frames])


# Values


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize(("preset", "center"), [("openunmix", False), ("openunmix-inference", True)])
def test_presets_are_torchs(rng: np.random.Generator, preset: str, center: bool, dtype: Any, limit: float) -> None:
    samples = noise(rng, 30_000, 2, dtype=dtype)
    got = stft(samples, PRESETS[preset])
    assert error(got, torch_stft(samples, 4096, 1024, center, pad_mode="reflect")) < limit
    assert error(magnitude(samples, PRESETS[preset]), np.abs(got)) < 1e-7


@pytest.mark.parametrize("window", ["hann", "hamming", "blackman"])
@pytest.mark.parametrize("hop_length", [100, 128, 200])
def test_centred_frames_are_scipys(rng: np.random.Generator, window: str, hop_length: int) -> None:
    samples = noise(rng, 20 * hop_length, 3)
    expected = scipy.signal.stft(samples, window=window, nperseg=256, noverlap=256 - hop_length, axis=0)[2]
    params = StftParams(256, hop_length, window=window, alignment="center", padding="zeros", scaling="window")
    got = stft(samples, params)
    assert error(got, np.moveaxis(expected, -1, 0)[: len(got)]) < 1e-14  # scipy may fill one frame more


@pytest.mark.parametrize("hop_length", [64, 100, 256])
@pytest.mark.parametrize(
    ("alignment", "padding", "lead"), [("start", "none", 0), ("start", "zeros", 0), ("end", "zeros", 256)]
)
def test_frames_lie_where_they_should(
    rng: np.random.Generator, alignment: str, padding: str, lead: int, hop_length: int
) -> None:
    params = StftParams(256, hop_length, alignment=alignment, padding=padding)
    samples = noise(rng, 2345, 2)
    places = range(-lead, len(samples) if padding == "zeros" else len(samples) - 255, hop_length)
    assert error(stft(samples, params), in_frames(samples, params, list(places))) < 1e-14


def test_frames_are_the_same_across_blocks(rng: np.random.Generator) -> None:
    samples = noise(rng, 150_001, 2)  # frames of 5 MB, of which a block is 1 MB or less
    for alignment, padding in (("start", "zeros"), ("end", "zeros"), ("center", "zeros")):
        params = StftParams(512, 256, alignment=alignment, padding=padding)
        places = [256 * t - params.lead for t in range(params.nb_frames(len(samples)))]
        assert error(stft(samples, params), in_frames(samples, params, places)) < 1e-14


def test_scalings(rng: np.random.Generator) -> None:
    sine = 0.5 * np.sin(2 * np.pi * 16 * np.arange(1024) / 256)[:, None]
    by_sum = magnitude(sine, StftParams(256, 64, scaling="window"))
    np.testing.assert_allclose(by_sum.max(axis=1), 0.25, rtol=1e-12)
    samples = noise(rng, 1024, 1)
    energies = magnitude(samples, StftParams(256, 256, window="boxcar", scaling="orthonormal")) ** 2
    both_sides = 2 * energies.sum() - energies[:, [0, -1]].sum()
    np.testing.assert_allclose(both_sides, (samples**2).sum(), rtol=1e-12)
    plain = stft(samples, StftParams(256, 64))
    np.testing.assert_allclose(stft(samples, StftParams(256, 64, scaling="orthonormal")), plain / 16, rtol=1e-12)


def test_windows_are_scipys_periodic_ones() -> None:
    for window in ("hann", "hamming", "boxcar"):
        samples = np.zeros((64, 1))
        samples[17] = 1  # its spectrum is flat, as high as the window there
        heights = magnitude(samples, StftParams(64, 1, window=window, alignment="center", padding="zeros"))[:, 5, 0]
        expected = scipy.signal.get_window(window, 64, fftbins=True)[49 - np.arange(49)]
        np.testing.assert_allclose(heights[:49], expected, rtol=0, atol=1e-15)


# Spleeter's own values


def golden_signal() -> NDArray[np.float32]:
    """Return the signal of golden/make_spleeter_stft.py, which float32 holds exactly."""
    n = np.arange(4096 + 5 * 1024 + 777)
    channels = [(n * n * 31 + n * 977) % 65521 - 32760, (n * n * n * 7 + n * 4099) % 65519 - 32759]
    return (np.stack(channels, axis=1) / 32768).astype(np.float32)


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_presets_are_spleeters(dtype: Any, limit: float) -> None:
    samples = golden_signal().astype(dtype)
    with np.load(GOLDEN, allow_pickle=False) as golden:
        bins = golden["bins"]
        assert error(magnitude(samples, PRESETS["spleeter"])[:, bins], golden["training"]) < limit
        spectrogram = stft(samples, PRESETS["spleeter-inference"])
        assert error(spectrogram[:, bins], golden["inference"]) < limit
        spectrogram *= np.array([0.25, 0.5, 1], dtype)[np.arange(len(spectrogram[0])) % 3, None]
        wave = istft(spectrogram, PRESETS["spleeter-inference"], nb_samples=int(golden["nb_samples"]))
        assert np.abs(wave[golden["places"]] - golden["inverse"]).max() < limit


# How many frames


@pytest.mark.parametrize("hop_length", [3, 4, 8])
@pytest.mark.parametrize(("alignment", "padding"), KINDS)
def test_number_of_frames(rng: np.random.Generator, alignment: str, padding: str, hop_length: int) -> None:
    params = StftParams(8, hop_length, alignment=alignment, padding=padding)
    for nb_samples in range(0, 35):
        t = np.arange(100)
        expected = {
            "start none": np.sum(t * hop_length + 8 <= nb_samples),
            "start zeros": np.sum(t * hop_length < nb_samples),
            "center zeros": np.sum(t * hop_length <= nb_samples),
            "center reflect": np.sum(t * hop_length <= nb_samples),
            "end zeros": np.sum(t * hop_length - 8 < nb_samples),
        }[f"{alignment} {padding}"]
        assert params.nb_frames(nb_samples) == expected
        if padding != "reflect" or nb_samples > 4:
            samples = noise(rng, nb_samples, 2)
            assert stft(samples, params).shape == (expected, 5, 2)
            assert magnitude(samples, params, nb_bins=3).shape == (expected, 3, 2)


@pytest.mark.parametrize("nb_samples", [4096, 5119, 5120, 44_100])
def test_number_of_frames_is_torchs(rng: np.random.Generator, nb_samples: int) -> None:
    samples = noise(rng, nb_samples, 1)
    assert PRESETS["openunmix"].nb_frames(nb_samples) == len(torch_stft(samples, 4096, 1024, False))
    assert PRESETS["openunmix-inference"].nb_frames(nb_samples) == len(torch_stft(samples, 4096, 1024, True))


# Properties


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("alignment", "padding"), KINDS)
def test_axes_types_threads_and_inputs(rng: np.random.Generator, alignment: str, padding: str, dtype: Any) -> None:
    params = StftParams(512, 100, alignment=alignment, padding=padding)
    samples = noise(rng, 2, 2, 30_000, 2, dtype=dtype)  # several blocks each
    samples.flags.writeable = False
    spectrogram = stft(samples, params)
    spectrogram.flags.writeable = False
    magnitudes = magnitude(samples, params)
    wave = istft(spectrogram, params, start=500, nb_samples=29_000)
    assert (spectrogram.dtype, magnitudes.dtype, wave.dtype) == (np.result_type(dtype, 1j), dtype, dtype)
    assert spectrogram.shape == (2, 2, params.nb_frames(30_000), 257, 2)
    assert wave.shape == (2, 2, 29_000, 2)
    assert error(magnitudes, np.abs(spectrogram)) < 1e-6
    np.testing.assert_array_equal(magnitude(samples, params, nb_bins=100), magnitudes[..., :100, :])
    for i in np.ndindex(2, 2):
        np.testing.assert_array_equal(spectrogram[i], stft(samples[i].copy(), params))
        np.testing.assert_array_equal(magnitudes[i], magnitude(samples[i].copy(), params))
        np.testing.assert_array_equal(wave[i], istft(spectrogram[i], params, start=500, nb_samples=29_000))
    for workers in (1, 2, 7):
        np.testing.assert_array_equal(stft(samples, params, workers=workers), spectrogram)
        np.testing.assert_array_equal(magnitude(samples, params, workers=workers), magnitudes)
        again = istft(spectrogram, params, start=500, nb_samples=29_000, workers=workers)
        np.testing.assert_array_equal(again, wave)


def test_arrays_on_disk_and_of_any_order(rng: np.random.Generator, tmp_path: Path) -> None:
    samples = noise(rng, 20_000, 2, dtype=np.float32)
    params = PRESETS["spleeter-inference"]
    expected = stft(samples, params)
    np.save(tmp_path / "wave.npy", samples)
    np.save(tmp_path / "spectrogram.npy", expected)
    mapped = np.load(tmp_path / "wave.npy", mmap_mode="r")
    np.testing.assert_array_equal(stft(mapped, params), expected)
    np.testing.assert_array_equal(magnitude(mapped, params), magnitude(samples, params))
    np.testing.assert_array_equal(stft(np.asfortranarray(samples), params), expected)
    np.testing.assert_array_equal(stft(samples[::-1][::-1], params), expected)
    wave = istft(np.load(tmp_path / "spectrogram.npy", mmap_mode="r"), params, nb_samples=20_000)
    np.testing.assert_allclose(wave, samples, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(istft(np.asfortranarray(expected), params, nb_samples=20_000), wave)


# Inverses


@pytest.mark.parametrize("window", ["hann", "hamming", "boxcar"])
@pytest.mark.parametrize("hop_length", [64, 100, 128])
@pytest.mark.parametrize(("alignment", "padding"), KINDS)
def test_the_inverse_of_a_spectrogram_is_its_wave(
    rng: np.random.Generator, alignment: str, padding: str, hop_length: int, window: str
) -> None:
    params = StftParams(256, hop_length, window, alignment, padding, "window")
    for nb_channels in (1, 2, 3):
        samples = noise(rng, 3000, nb_channels)
        spectrogram = stft(samples, params)
        start = 20 if alignment == "start" else 0
        last = {"start none": 2800, "center zeros": 2900, "center reflect": 2900}.get(f"{alignment} {padding}", 2960)
        wave = istft(spectrogram, params, start=start, nb_samples=last - start)
        np.testing.assert_allclose(wave, samples[start:last], rtol=0, atol=1e-12)
        assert not np.array_equal(wave, istft(spectrogram * 1.001, params, start=start, nb_samples=last - start))


@pytest.mark.parametrize("preset", ["spleeter-inference", "openunmix-inference"])
def test_presets_for_separation_give_the_whole_wave_back(rng: np.random.Generator, preset: str) -> None:
    for nb_samples in (2049, 4096, 5000, 44_100):
        samples = noise(rng, nb_samples, 2, dtype=np.float32)
        wave = istft(stft(samples, PRESETS[preset]), PRESETS[preset], nb_samples=nb_samples)
        np.testing.assert_allclose(wave, samples, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("alignment", "padding"), KINDS)
def test_length_of_the_inverse(rng: np.random.Generator, alignment: str, padding: str) -> None:
    params = StftParams(8, 3, "hamming", alignment, padding)
    for nb_samples in (0, 5, 8, 11, 20, 21):
        if padding == "reflect" and nb_samples <= 4:
            continue
        nb_frames = params.nb_frames(nb_samples)
        expected = {"start none": 3 * nb_frames + 5 if nb_frames else 0, "start zeros": 3 * nb_frames}
        expected |= {"end zeros": max(0, 3 * nb_frames - 8)}
        length = expected.get(f"{alignment} {padding}", 3 * (nb_frames - 1))
        samples = noise(rng, nb_samples, 2)
        wave = istft(stft(samples, params), params)
        assert wave.shape == (length, 2)
        common = min(length, nb_samples)
        np.testing.assert_allclose(wave[:common], samples[:common], rtol=0, atol=1e-12)
        assert istft(stft(samples, params), params, nb_samples=0).shape == (0, 2)


@pytest.mark.parametrize(("alignment", "padding"), KINDS)
def test_a_part_of_the_inverse_is_a_slice_of_the_whole(rng: np.random.Generator, alignment: str, padding: str) -> None:
    params = StftParams(256, 100, alignment=alignment, padding=padding)
    spectrogram = noise(rng, 900, 129, 2, 2) @ [1, 1j]  # no signal's
    whole = istft(spectrogram, params, start=100, nb_samples=89_000)
    for start, nb_samples in ((100, 1), (101, 99), (5000, 64_000), (33_333, 1234), (89_099, 1)):
        part = istft(spectrogram, params, start=start, nb_samples=nb_samples)
        np.testing.assert_allclose(part, whole[start - 100 : start - 100 + nb_samples], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(4096, 1024), (256, 100)])
def test_the_inverse_is_the_nearest_wave_as_in_torch(rng: np.random.Generator, n_fft: int, hop_length: int) -> None:
    params = StftParams(n_fft, hop_length, alignment="center", padding="reflect")
    spectrogram = noise(rng, 20, n_fft // 2 + 1, 2, 2) @ [1, 1j]
    window = torch.hann_window(n_fft, dtype=torch.float64)
    expected = torch.istft(torch.from_numpy(spectrogram).permute(2, 1, 0), n_fft, hop_length, window=window)
    assert error(istft(spectrogram, params), expected.T.numpy()) < 1e-12


def test_the_inverse_is_the_nearest_wave_by_definition(rng: np.random.Generator) -> None:
    params = StftParams(16, 5, scaling="window")
    spectrogram = noise(rng, 6, 9, 1, 2) @ [1, 1j]
    spectrogram[:, [0, -1]] = spectrogram[:, [0, -1]].real
    matrix = np.zeros((6, 16, 41))  # from a wave to its windowed frames
    window = scipy.signal.get_window("hann", 16)
    for t in range(6):
        matrix[t, np.arange(16), 5 * t + np.arange(16)] = window
    frames = np.fft.irfft(spectrogram[..., 0] * window.sum(), 16)
    expected = np.linalg.lstsq(matrix.reshape(-1, 41), frames.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(istft(spectrogram, params, start=1, nb_samples=39)[:, 0], expected[1:40], atol=1e-12)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_fft": 255}, "n_fft is 255, expected an even number of samples, 2 or more"),
        ({"n_fft": 0}, "n_fft is 0, expected an even"),
        ({"n_fft": 256.0}, "n_fft is 256.0, expected an even"),
        ({"hop_length": 0}, "hop_length is 0, expected 1 to n_fft, which is 256 samples"),
        ({"hop_length": 257}, "hop_length is 257, expected 1 to n_fft"),
        ({"window": "hat"}, r"window hat: scipy.signal.get_window makes none"),
        ({"alignment": "middle"}, "alignment middle with padding none: expected start with none or zeros; center with"),
        ({"alignment": "center"}, "alignment center with padding none: expected"),
        ({"padding": "reflect"}, "alignment start with padding reflect: expected"),
        ({"scaling": "db"}, "scaling is db, expected one of none, window, orthonormal"),
    ],
)
def test_impossible_transforms_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        StftParams(**({"n_fft": 256, "hop_length": 64} | options))


def test_impossible_arrays_are_refused(rng: np.random.Generator) -> None:
    params = StftParams(256, 64, alignment="center", padding="reflect")
    for function in (stft, magnitude):
        with pytest.raises(ParameterError, match="samples of int16, expected float32 or float64"):
            function(np.zeros((1000, 2), np.int16), params)
        with pytest.raises(
            ParameterError, match=r"samples of shape \(1000,\), expected \(..., nb_samples, nb_channels\)"
        ):
            function(np.zeros(1000), params)
        with pytest.raises(ParameterError, match="128 samples, expected more than 128 to mirror half a frame"):
            function(np.zeros((128, 2)), params)
        function(np.zeros((129, 2)), params)
    for nb_bins in (0, 130):
        with pytest.raises(ParameterError, match=f"nb_bins is {nb_bins}, expected 1 to 129, which n_fft 256 gives"):
            magnitude(np.zeros((1000, 2)), params, nb_bins=nb_bins)
    with pytest.raises(ParameterError, match="spectrogram of float64, expected complex64 or complex128"):
        istft(np.zeros((10, 129, 2)), params)
    for shape in ((10, 128, 2), (129, 2), (10, 2, 129)):
        with pytest.raises(
            ParameterError, match=r"spectrogram of shape .*, expected \(..., nb_frames, 129, nb_channels\)"
        ):
            istft(np.zeros(shape, np.complex64), params)
    with pytest.raises(ParameterError, match="nb_samples is -1, expected 0 or more"):
        istft(np.zeros((10, 129, 2), np.complex64), params, nb_samples=-1)


RANGE = r"not determined by \d+ frames of 64 samples .*: ask for some of (\d+) to (\d+), or take a transform with more"


@pytest.mark.parametrize("window", ["hann", "hamming", "boxcar", "flattop"])
@pytest.mark.parametrize("nb_frames", [1, 2, 3, 50])
@pytest.mark.parametrize("hop_length", [16, 20, 32])
@pytest.mark.parametrize(("alignment", "padding"), [kind for kind in KINDS if kind != ("end", "zeros")])
def test_the_range_that_is_advised_is_the_greatest(
    rng: np.random.Generator, alignment: str, padding: str, hop_length: int, nb_frames: int, window: str
) -> None:
    params = StftParams(64, hop_length, window, alignment, padding)
    spectrogram = noise(rng, nb_frames, 33, 1, 2) @ [1, 1j]
    with pytest.raises(ParameterError, match=RANGE) as raised:
        istft(spectrogram, params, nb_samples=10_000)
    found = re.search(RANGE, str(raised.value))
    assert found is not None
    first, last = int(found[1]), int(found[2])
    assert 0 <= first < last < 10_000
    istft(spectrogram, params, start=first, nb_samples=last + 1 - first)
    with pytest.raises(ParameterError, match=f"sample {last + 1}: not determined"):
        istft(spectrogram, params, start=first, nb_samples=last + 2 - first)
    if first > 0:
        with pytest.raises(ParameterError, match=f"sample {first - 1}: not determined"):
            istft(spectrogram, params, start=first - 1, nb_samples=1)


def test_what_no_frames_determine_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ParameterError, match=r"sample 0: not determined by 0 frames .*: they determine no sample"):
        istft(np.zeros((0, 33, 1), np.complex64), StftParams(64, 16), nb_samples=1)
    gaps = StftParams(64, 64, alignment="center", padding="zeros")  # a Hann window is zero at the seams
    spectrogram = stft(noise(rng, 640, 1), gaps)
    with pytest.raises(ParameterError, match=r"sample 30: not determined .*: use a shorter hop_length"):
        istft(spectrogram, gaps)
    istft(spectrogram, gaps, start=0, nb_samples=30)


def test_a_gap_in_the_middle_of_a_long_signal_is_seen() -> None:
    params = StftParams(16, 16, "hann", "end", "zeros")
    with pytest.raises(ParameterError, match="use a shorter hop_length"):
        istft(np.ones((1000, 9, 1), np.complex64), params, start=4, nb_samples=15_000)


# Memory

MEASURE = """
import json, sys, tracemalloc
import numpy as np
from musdbkit.stft import PRESETS, StftParams, istft, magnitude, stft
params = PRESETS["spleeter"]
samples = np.load(sys.argv[1], mmap_mode="r")
stft(np.zeros((8192, 2), np.float32), params)  # imports and windows
tracemalloc.start()
extra = {}
for name, function in {
    "stft": lambda: stft(samples, params, workers=2),
    "magnitude": lambda: magnitude(samples, params, nb_bins=64, workers=2),
    "istft": lambda: istft(spectrogram, params, start=1024, nb_samples=2_000_000, workers=2),
}.items():
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    result = function()
    extra[name] = tracemalloc.get_traced_memory()[1] - before - result.nbytes
    if name == "stft":
        spectrogram = result
    del result
print(json.dumps(extra))
"""


def test_memory_beyond_the_result_is_a_few_blocks(tmp_path: Path) -> None:
    samples = np.lib.format.open_memmap(tmp_path / "long.npy", "w+", np.float32, (4_000_000, 2))  # 32 MB
    samples[::1000] = 0.5
    samples.flush()
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "long.npy")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    extra = json.loads(done.stdout)
    assert max(extra.values()) < 12 * 2**20, extra
    assert min(extra.values()) >= 0
