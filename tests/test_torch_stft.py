"""Transforms in torch: the values of musdbkit.stft and its inverse, on all kinds, lengths and axes; gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines import torch_stft
from baselines.torch_stft import istft, stft
from musdbkit import stft as reference
from musdbkit.errors import ParameterError
from musdbkit.stft import PRESETS, StftParams

KINDS = [("start", "none"), ("start", "zeros"), ("center", "zeros"), ("center", "reflect"), ("end", "zeros")]
SMALL = StftParams(16, 4, alignment="center", padding="zeros")


def noise(rng: np.random.Generator, *shape: int, dtype: Any = np.float64) -> NDArray[Any]:
    return rng.uniform(-1, 1, shape).astype(dtype)


def numpy_stft(waves: NDArray[Any], params: StftParams) -> NDArray[Any]:
    """Return musdbkit's spectrogram of waves, axes as in torch."""
    spectra = reference.stft(waves[..., None], params)
    return np.moveaxis(spectra[..., 0], -1, -2)


def numpy_istft(spectrogram: NDArray[Any], params: StftParams, nb_samples: int) -> NDArray[Any]:
    """Return musdbkit's wave of a spectrogram, axes as in torch."""
    wave = reference.istft(np.moveaxis(spectrogram, -1, -2)[..., None], params, nb_samples=nb_samples)
    return wave[..., 0]


def assert_near(got: torch.Tensor, expected: NDArray[Any]) -> None:
    """Compare shapes, types and, within rounding, values."""
    assert got.shape == expected.shape
    assert got.numpy().dtype == expected.dtype
    if expected.size:
        limit = 1e-6 if expected.dtype in (np.float32, np.complex64) else 2e-15
        assert np.abs(got.numpy() - expected).max() <= limit * max(np.abs(expected).max(), 1e-3)


# Values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nb_samples", [0, 1, 2049, 4095, 4096, 5120, 30_001])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_musdbkits(rng: np.random.Generator, preset: str, nb_samples: int, dtype: Any) -> None:
    params = PRESETS[preset]
    waves = noise(rng, 2, nb_samples, dtype=dtype)
    if params.padding == "reflect" and nb_samples <= 2048:
        with pytest.raises(ParameterError, match="expected more than 2048 to mirror half a frame"):
            stft(torch.from_numpy(waves), params)
        return
    before = waves.copy()
    expected = numpy_stft(waves, params)
    spectrogram = stft(torch.from_numpy(waves), params)
    assert_near(spectrogram, expected)
    np.testing.assert_array_equal(waves, before)
    if params.padding != "none":
        masked = expected * noise(rng, *expected.shape, dtype=dtype)
        copy = torch.from_numpy(masked.copy())
        assert_near(istft(copy, params, nb_samples=nb_samples), numpy_istft(masked, params, nb_samples))
        np.testing.assert_array_equal(copy.numpy(), masked)


@pytest.mark.parametrize("nb_samples", [20, 64, 333])
@pytest.mark.parametrize("hop_length", [1, 7, 8, 11, 16, 20, 32])
@pytest.mark.parametrize(("alignment", "padding"), KINDS)
def test_all_kinds_are_musdbkits(
    rng: np.random.Generator, alignment: str, padding: str, hop_length: int, nb_samples: int
) -> None:
    """Spectra for all; waves where musdbkit can tell them, which must be in the same places."""
    for window, scaling in (("hann", "none"), ("hamming", "window"), ("blackman", "orthonormal")):
        params = StftParams(32, hop_length, window, alignment, padding, scaling)
        waves = noise(rng, 3, nb_samples)
        expected = numpy_stft(waves, params)
        assert_near(stft(torch.from_numpy(waves), params), expected)
        masked = expected * noise(rng, *expected.shape)
        for length in (0, 1, nb_samples // 2, nb_samples, nb_samples + 17, nb_samples + 99):
            try:
                inverse = numpy_istft(masked, params, length)
            except ParameterError:
                with pytest.raises(ParameterError, match=rf"^sample \d+ of {length}: not determined by "):
                    istft(torch.from_numpy(masked), params, nb_samples=length)
            else:
                got = istft(torch.from_numpy(masked), params, nb_samples=length).numpy()
                assert got.shape == inverse.shape
                if inverse.size:
                    assert np.abs(got - inverse).max() < 1e-12  # weights go down to 1e-4: errors grow a hundredfold


@pytest.mark.parametrize("shape", [(500,), (1, 500), (2, 3, 500), (2, 0, 500)])
def test_leading_axes_are_kept(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    waves = torch.from_numpy(noise(rng, *shape))
    spectrogram = stft(waves, SMALL)
    assert spectrogram.shape == (*shape[:-1], 9, 126)
    inverse = istft(spectrogram, SMALL, nb_samples=500)
    assert inverse.shape == shape
    torch.testing.assert_close(inverse, waves)
    for index in np.ndindex(shape[:-1]):
        torch.testing.assert_close(spectrogram[index], stft(waves[index], SMALL))


def test_waves_may_be_strided_and_spectrograms_in_any_order(rng: np.random.Generator) -> None:
    waves = torch.from_numpy(noise(rng, 500, 2)).mT
    spectrogram = stft(waves, SMALL)
    assert torch.equal(spectrogram, stft(waves.contiguous(), SMALL))
    torch.testing.assert_close(istft(spectrogram.contiguous(), SMALL, nb_samples=500), waves)


def test_bins_lie_side_by_side(rng: np.random.Generator) -> None:
    assert stft(torch.from_numpy(noise(rng, 2, 500)), SMALL).stride() == (126 * 9, 1, 9)


def test_many_waves_are_inverted_in_blocks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    spectrogram = stft(torch.from_numpy(noise(rng, 5, 500)), SMALL)
    at_once = istft(spectrogram, SMALL, nb_samples=500)
    monkeypatch.setattr(torch_stft, "_BLOCK_VALUES", 2 * 126 * 16)
    assert torch.equal(istft(spectrogram, SMALL, nb_samples=500), at_once)


# Gradients


@pytest.mark.parametrize("hop_length", [4, 5])
def test_both_directions_have_gradients(rng: np.random.Generator, hop_length: int) -> None:
    params = StftParams(16, hop_length, alignment="center", padding="reflect")
    waves = torch.from_numpy(noise(rng, 2, 20)).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: stft(w, params), waves)
    spectrogram = stft(waves, params).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: istft(s, params, nb_samples=20), spectrogram)


def test_gradients_follow_a_use_without(rng: np.random.Generator) -> None:
    """Windows that are kept from where nothing is ever differentiated serve where it is."""
    params = StftParams(18, 6, alignment="center", padding="zeros")
    waves = torch.from_numpy(noise(rng, 100))
    with torch.inference_mode():
        istft(stft(waves, params), params, nb_samples=100)
    waves.requires_grad_()
    istft(stft(waves, params), params, nb_samples=100).sum().backward()
    assert waves.grad is not None
    torch.testing.assert_close(waves.grad, torch.ones_like(waves))


# Errors


def test_what_is_no_wave_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"^waves of torch.int16, expected torch.float32 or torch.float64"):
        stft(torch.zeros(100, dtype=torch.int16), SMALL)
    with pytest.raises(ParameterError, match=r"^waves of shape \(\), expected \(\.\.\., nb_samples\)"):
        stft(torch.zeros(()), SMALL)


def test_what_is_no_spectrogram_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"^spectrogram of torch.float32, expected torch.complex64 or"):
        istft(torch.zeros(9, 5), SMALL, nb_samples=4)
    with pytest.raises(ParameterError, match=r"^spectrogram of shape \(5, 9\), expected \(\.\.\., 9, nb_frames\)"):
        istft(torch.zeros(5, 9, dtype=torch.complex64), SMALL, nb_samples=4)
    with pytest.raises(ParameterError, match=r"^nb_samples is -1, expected 0 or more"):
        istft(torch.zeros(9, 5, dtype=torch.complex64), SMALL, nb_samples=-1)
    with pytest.raises(ParameterError, match=r"^sample 0 of 4: not determined by 0 frames"):
        istft(torch.zeros(9, 0, dtype=torch.complex64), SMALL, nb_samples=4)


@pytest.mark.parametrize(
    ("params", "nb_frames", "nb_samples", "first"),
    [
        (StftParams(16, 4), 20, 50, 0),  # a window that begins with 0
        (StftParams(16, 4, alignment="center", padding="zeros"), 20, 100, 84),  # beyond the last frame
        (StftParams(16, 16, alignment="end", padding="zeros"), 20, 50, 0),  # between frames
        (StftParams(16, 16, alignment="center", padding="zeros"), 20, 50, 8),
        (StftParams(16, 4, alignment="end", padding="zeros"), 1, 50, 0),  # the only frame ends there
        (StftParams(16, 4, alignment="end", padding="zeros"), 0, 50, 0),
    ],
)
def test_the_first_sample_that_frames_do_not_determine_is_named(
    params: StftParams, nb_frames: int, nb_samples: int, first: int
) -> None:
    spectrogram = torch.zeros(9, nb_frames, dtype=torch.complex64)
    with pytest.raises(ParameterError, match=rf"^sample {first} of {nb_samples}: not determined by {nb_frames} frames"):
        istft(spectrogram, params, nb_samples=nb_samples)
    assert istft(spectrogram, params, nb_samples=first).shape == (first,)
