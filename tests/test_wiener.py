"""Wiener filters: the equations, bin by bin; windows, batches and blocks; loud, quiet, silent and mono mixtures."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines import wiener as module
from baselines.wiener import wiener
from musdbkit.errors import ParameterError

Spectra = NDArray[np.complex128]


def spectra(rng: np.random.Generator, *shape: int) -> Spectra:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@pytest.fixture
def music(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Magnitudes of 3 targets with errors, and their stereo mixture: a batch of 2, 7 bins, 50 frames."""
    targets = spectra(rng, 2, 3, 2, 7, 50) * rng.uniform(0, 20, (2, 3, 1, 7, 50))
    mixture = targets.sum(1)
    magnitudes = np.abs(targets) * rng.uniform(0.5, 1.5, targets.shape)
    return torch.from_numpy(magnitudes), torch.from_numpy(mixture)


def by_the_equations(
    magnitudes: NDArray[Any], mixture: Spectra, nb_iterations: int, softmask: bool, residual: bool, eps: float
) -> Spectra:
    """Return estimates of one item and window [shape=(nb_targets, nb_channels, nb_bins, nb_frames)]."""
    scale = max(1, np.abs(mixture).max() / 10)
    if softmask:
        estimates = mixture * magnitudes / (eps + magnitudes.sum(0))
    else:
        estimates = magnitudes * np.exp(1j * np.angle(mixture))
    if residual:
        estimates = np.concatenate([estimates, [mixture - estimates.sum(0)]])
    if not nb_iterations:
        return estimates
    nb_targets, nb_channels, nb_bins, nb_frames = estimates.shape
    for f in range(nb_bins):
        x, y = mixture[:, f] / scale, estimates[:, :, f] / scale
        for _ in range(nb_iterations):
            v = (np.abs(y) ** 2).mean(1)
            r = [y[j] @ y[j].conj().T / (eps + v[j].sum()) for j in range(nb_targets)]
            for t in range(nb_frames):
                covariance = sum(v[j, t] * r[j] for j in range(nb_targets)) + np.sqrt(eps) * np.eye(nb_channels)
                whitened = np.linalg.solve(covariance, x[:, t])
                for j in range(nb_targets):
                    y[j, :, t] = v[j, t] * r[j] @ whitened
        estimates[:, :, f] = y * scale
    return estimates


# Values


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("nb_iterations", [0, 1, 2, 3])
@pytest.mark.parametrize("nb_channels", [1, 2, 3, 4])
def test_values_are_those_of_the_equations(
    rng: np.random.Generator, nb_channels: int, nb_iterations: int, softmask: bool, residual: bool
) -> None:
    targets = spectra(rng, 1, 3, nb_channels, 4, 9) * rng.uniform(0, 20, (3, 1, 4, 9))
    magnitudes, mixture = np.abs(targets) * rng.uniform(0.5, 1.5, targets.shape), targets.sum(1)
    options: dict[str, Any] = {"softmask": softmask, "residual": residual, "eps": 1e-7}
    got = wiener(torch.from_numpy(magnitudes), torch.from_numpy(mixture), nb_iterations=nb_iterations, **options)
    expected = by_the_equations(magnitudes[0], mixture[0], nb_iterations, **options)
    assert got.shape == (1, 3 + residual, nb_channels, 4, 9)
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_one_target_is_nearly_the_mixture(music: tuple[Tensor, Tensor]) -> None:
    magnitudes, mixture = music
    estimate = wiener(magnitudes.sum(1, keepdim=True), mixture)[:, 0]
    assert float((estimate - mixture).abs().max() / mixture.abs().max()) < 0.01


@pytest.mark.parametrize("softmask", [False, True])
def test_estimates_add_up_to_the_mixture(music: tuple[Tensor, Tensor], softmask: bool) -> None:
    """But for the noise that is allowed for."""
    magnitudes, mixture = music
    total = wiener(magnitudes, mixture, softmask=softmask).sum(1)
    assert float((total - mixture).abs().max() / mixture.abs().max()) < 1e-3


def test_float32_is_as_good_as_its_inputs(music: tuple[Tensor, Tensor]) -> None:
    magnitudes, mixture = music
    got = wiener(magnitudes.float(), mixture.to(torch.complex64), nb_iterations=2)
    assert got.dtype == torch.complex64
    expected = wiener(magnitudes, mixture, nb_iterations=2)
    assert expected.dtype == torch.complex128
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-6


# Windows, batches, blocks, layouts


@pytest.mark.parametrize("window", [1, 16, 25, 49, 50, 51])
def test_windows_are_filtered_on_their_own(music: tuple[Tensor, Tensor], window: int) -> None:
    magnitudes, mixture = music
    got = wiener(magnitudes, mixture, window=window)
    for start in range(0, 50, window):
        part = slice(start, start + window)
        torch.testing.assert_close(got[..., part], wiener(magnitudes[..., part], mixture[..., part]))
    if window < 50:
        assert not torch.allclose(got, wiener(magnitudes, mixture))


def test_items_of_a_batch_are_filtered_on_their_own(music: tuple[Tensor, Tensor]) -> None:
    magnitudes, mixture = music
    mixture[1] *= 100
    got = wiener(magnitudes, mixture, window=20)
    for i in range(2):
        torch.testing.assert_close(got[i : i + 1], wiener(magnitudes[i : i + 1], mixture[i : i + 1], window=20))


@pytest.mark.parametrize("values", [1, 40, 200, 1000])
def test_blocks_change_nothing(music: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    expected = wiener(*music, nb_iterations=2, residual=True, window=20)
    monkeypatch.setattr(module, "_LEAST_BINS", 2)
    monkeypatch.setitem(module._BLOCK_VALUES, "cpu", values)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    nb_blocks = len(list(module._blocks((2, 3, 2, 2, 20, 7), torch.device("cpu"))))
    assert nb_blocks == {1: 16, 40: 16, 200: 4, 1000: 1}[values]
    torch.testing.assert_close(wiener(*music, nb_iterations=2, residual=True, window=20), expected)


def test_layouts_change_nothing_and_inputs_stay(music: tuple[Tensor, Tensor]) -> None:
    """Spectrograms come with frames or with bins side by side; what leaves has bins so, as torch_stft likes it."""
    magnitudes, mixture = music
    copies = magnitudes.clone(), mixture.clone()
    got = wiener(magnitudes, mixture, window=20)
    assert torch.equal(magnitudes, copies[0])
    assert torch.equal(mixture, copies[1])
    other = wiener(magnitudes.mT.contiguous().mT, mixture.mT.contiguous().mT, window=20)
    torch.testing.assert_close(other, got)
    assert got.stride()[-2:] == other.stride()[-2:] == (1, 7)


def test_networks_outputs_can_be_given(music: tuple[Tensor, Tensor]) -> None:
    magnitudes, mixture = music
    expected = wiener(magnitudes, mixture)
    assert torch.equal(wiener(magnitudes.requires_grad_(), mixture), expected)
    halves = magnitudes.detach().bfloat16()
    assert torch.equal(wiener(halves, mixture), wiener(halves.double(), mixture))


def test_no_frames_give_no_frames() -> None:
    mixture = torch.zeros(2, 2, 5, 0, dtype=torch.complex64)
    assert wiener(torch.zeros(2, 3, 2, 5, 0), mixture, window=300).shape == (2, 3, 2, 5, 0)


# Loud, quiet, silent, mono


@pytest.mark.parametrize("factor", [1e3, 1e12, 1e25])
def test_loud_mixtures_are_scaled(music: tuple[Tensor, Tensor], factor: float) -> None:
    """In float32, whose largest number is 3e38, squares of these would be too large."""
    magnitudes, mixture = music[0].float(), music[1].to(torch.complex64)
    assert float(mixture.abs().max()) > 10
    expected = wiener(magnitudes, mixture, nb_iterations=2)
    got = wiener(magnitudes * factor, mixture * factor, nb_iterations=2)
    torch.testing.assert_close(got / factor, expected, rtol=1e-4, atol=1e-5)


def test_quiet_mixtures_are_not_scaled(music: tuple[Tensor, Tensor]) -> None:
    """As upstream: what is far below the noise that is allowed for is taken for it."""
    magnitudes, mixture = music
    magnitudes, mixture = magnitudes * 1e-4, mixture * 1e-4
    got = wiener(magnitudes, mixture)
    expected = by_the_equations(magnitudes[0].numpy(), mixture[0].numpy(), 1, False, False, 1e-10)
    torch.testing.assert_close(got[0], torch.from_numpy(expected))
    quieter = wiener(magnitudes.float() * 1e-30, (mixture * 1e-30).to(torch.complex64), nb_iterations=2)
    assert torch.isfinite(torch.view_as_real(quieter)).all()
    assert float(quieter.abs().max()) < 1e-35


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("nb_iterations", [0, 1, 2])
def test_silence_stays_silent(music: tuple[Tensor, Tensor], nb_iterations: int, softmask: bool, residual: bool) -> None:
    """Some frames, one channel of some, or all of it; the rest is as it would be without."""
    magnitudes, mixture = music[0].clone(), music[1].clone()
    mixture[..., 10:20] = 0
    mixture[0, 0, 3, 30:40] = 0
    mixture[1] = 0
    magnitudes[(mixture == 0)[:, None].expand_as(magnitudes)] = 0
    got = wiener(magnitudes, mixture, nb_iterations=nb_iterations, softmask=softmask, residual=residual)
    assert torch.isfinite(torch.view_as_real(got)).all()
    assert not got[1].any()
    assert not got[..., 10:20].any()
    if not nb_iterations:
        assert not got[0, :, 0, 3, 30:40].any()
    heard = [t for t in range(50) if not 10 <= t < 20]
    without = wiener(
        magnitudes[..., heard], mixture[..., heard], nb_iterations=nb_iterations, softmask=softmask, residual=residual
    )
    torch.testing.assert_close(got[..., heard], without)


def test_zero_has_the_angle_zero() -> None:
    """Of either sign: upstream's arctangent says so, numpy's says pi of minus zero."""
    mixture = torch.complex(torch.tensor([0.0, -0.0, -0.0]), torch.tensor([0.0, 0.0, -0.0])).reshape(1, 1, 3, 1)
    assert torch.equal(wiener(torch.ones(1, 2, 1, 3, 1), mixture, nb_iterations=0), torch.ones(1, 2, 1, 3, 1) + 0j)


@pytest.mark.parametrize("nb_iterations", [1, 2, 5])
@pytest.mark.parametrize("difference", [0, 1e-6, 1e-3])
def test_mono_in_stereo_is_as_mono(rng: np.random.Generator, difference: float, nb_iterations: int) -> None:
    """Covariances are singular but for the noise, a ten-millionth of the loudest powers: float32 would not do."""
    targets = spectra(rng, 1, 4, 1, 65, 200) * rng.uniform(0, 20, (4, 1, 65, 200))
    magnitudes = torch.from_numpy(np.abs(targets) * rng.uniform(0.5, 1.5, targets.shape)).float()
    mixture = torch.from_numpy(targets.sum(1)).to(torch.complex64)
    mono = wiener(magnitudes, mixture, nb_iterations=nb_iterations)
    other = torch.from_numpy(spectra(rng, *mixture.shape)).to(torch.complex64)
    pair = torch.cat([mixture, mixture + difference * other], dim=1)
    stereo = wiener(magnitudes.expand(-1, -1, 2, -1, -1), pair, nb_iterations=nb_iterations)
    assert torch.isfinite(torch.view_as_real(stereo)).all()
    if difference == 0:
        assert float((stereo - mono).abs().max() / mono.abs().max()) < 1e-4  # half the noise for each channel's power
    precise = wiener(
        magnitudes.double().expand(-1, -1, 2, -1, -1), pair.to(torch.complex128), nb_iterations=nb_iterations
    )
    assert float((stereo - precise).abs().max() / precise.abs().max()) < 1e-6


# Errors


def test_what_does_not_fit_together_is_refused() -> None:
    magnitudes, mixture = torch.rand(1, 3, 2, 5, 4), torch.rand(1, 2, 5, 4, dtype=torch.complex64)
    with pytest.raises(ParameterError, match=r"^magnitudes of torch.float32 and a mixture of torch.float32, expected"):
        wiener(magnitudes, mixture.real)
    with pytest.raises(
        ParameterError, match=r"^magnitudes of torch.complex64 and a mixture of torch.complex64, expected"
    ):
        wiener(magnitudes + 0j, mixture)
    for wrong in (magnitudes[..., :3], magnitudes[:, :, :1], magnitudes[0], magnitudes.expand(2, -1, -1, -1, -1)):
        with pytest.raises(
            ParameterError, match=r"^magnitudes of shape .* mixture of \(1, 2, 5, 4\), expected \(batch"
        ):
            wiener(wrong, mixture)


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"nb_iterations": -1}, "nb_iterations -1, eps 1e-10, window None: expected"),
        ({"eps": 0.0}, "nb_iterations 1, eps 0.0, window None: expected"),
        ({"eps": float("nan")}, "nb_iterations 1, eps nan, window None: expected"),
        ({"window": 0}, "nb_iterations 1, eps 1e-10, window 0: expected"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], start: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{start}"):
        wiener(torch.rand(1, 3, 2, 5, 4), torch.rand(1, 2, 5, 4, dtype=torch.complex64), **options)
