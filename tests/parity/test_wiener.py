"""Wiener filters against norbert 0.2.1 and Open-Unmix 1.3, whole separations against the latter; where both err."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.open_unmix import OpenUnmixSet, OpenUnmixSettings
from baselines.torch_stft import istft, stft
from baselines.wiener import wiener
from tests.parity.peer import import_openunmix
from tests.parity.test_open_unmix import upstream_network

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # norbert imports from scipy what is deprecated
    import norbert

EPS = float(np.finfo(np.float32).eps)  # norbert's for complex64


@pytest.fixture
def music(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Magnitudes of 4 targets with errors, and their stereo mixture: 65 bins, 100 frames."""
    parts = rng.standard_normal((2, 1, 4, 2, 65, 100)) * rng.uniform(0, 30, (4, 1, 65, 100))
    parts *= rng.uniform(0.1, 1, (4, 2, 1, 1))  # where they stand
    targets = parts[0] + 1j * parts[1]
    magnitudes = np.abs(targets) * rng.uniform(0.5, 1.5, targets.shape)
    return torch.from_numpy(magnitudes).float(), torch.from_numpy(targets.sum(1)).to(torch.complex64)


def error(got: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, as a share of the largest magnitude."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def norberts(magnitudes: Tensor, mixture: Tensor, dtype: Any = np.complex64, **options: Any) -> Tensor:
    """Return norbert's estimates of one item; it changes the mixture that it is given."""
    v = magnitudes[0].permute(3, 2, 1, 0).numpy().astype(np.float64 if dtype == np.complex128 else np.float32)
    x = mixture[0].permute(2, 1, 0).numpy().astype(dtype)
    estimates: NDArray[Any] = norbert.wiener(v, x, eps=EPS, **options)
    return torch.from_numpy(estimates).permute(3, 2, 1, 0)[None]


def open_unmixs(magnitudes: Tensor, mixture: Tensor, dtype: torch.dtype = torch.float32, **options: Any) -> Tensor:
    """Return Open-Unmix's estimates of one item; it may change the mixture that it is given."""
    v = magnitudes[0].permute(3, 2, 1, 0).to(dtype)
    x = torch.view_as_real(mixture[0].permute(2, 1, 0)).to(dtype, copy=True)
    estimates = import_openunmix("filtering").wiener(v, x, **options)
    return torch.view_as_complex(estimates.movedim(3, -1).contiguous()).permute(3, 2, 1, 0)[None]


@pytest.mark.parametrize("factor", [1e-3, 1, 1e5])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("nb_iterations", [0, 1, 2])
@pytest.mark.parametrize("nb_channels", [1, 2])
def test_values_are_norberts(
    music: tuple[Tensor, Tensor], nb_channels: int, nb_iterations: int, softmask: bool, factor: float
) -> None:
    magnitudes, mixture = music[0][:, :, :nb_channels] * factor, music[1][:, :nb_channels] * factor
    got = wiener(magnitudes, mixture, nb_iterations=nb_iterations, softmask=softmask, eps=EPS)
    expected = norberts(magnitudes, mixture, iterations=nb_iterations, use_softmask=softmask)
    assert error(got, expected) < 1e-4


def test_three_channels_are_norberts(music: tuple[Tensor, Tensor]) -> None:
    magnitudes, mixture = (torch.cat([t, t[..., :1, :, :].flip(-1)], dim=-3)[..., :9, :30] for t in music)
    got = wiener(magnitudes, mixture, softmask=True, eps=EPS)
    assert error(got, norberts(magnitudes, mixture, np.complex128)) < 1e-5


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("nb_iterations", [0, 1, 2])
@pytest.mark.parametrize("nb_channels", [1, 2])
def test_values_are_open_unmixs(
    music: tuple[Tensor, Tensor], nb_channels: int, nb_iterations: int, softmask: bool, residual: bool
) -> None:
    magnitudes, mixture = music[0][:, :, :nb_channels], music[1][:, :nb_channels]
    options = {"softmask": softmask, "residual": residual}
    got = wiener(magnitudes, mixture, nb_iterations=nb_iterations, **options)
    expected = open_unmixs(magnitudes, mixture, torch.float64, iterations=nb_iterations, **options)
    assert error(got, expected) < 1e-6
    assert error(got, open_unmixs(magnitudes, mixture, iterations=nb_iterations, **options)) < 1e-4


@pytest.mark.parametrize("factor", [1e-4, 1, 1e5])
def test_levels_are_open_unmixs(music: tuple[Tensor, Tensor], factor: float) -> None:
    magnitudes, mixture = music[0] * factor, music[1] * factor
    assert error(wiener(magnitudes, mixture), open_unmixs(magnitudes, mixture, torch.float64)) < 1e-6


# Whole separations


@pytest.mark.parametrize("window", [300, None])
@pytest.mark.parametrize(
    ("nb_iterations", "softmask", "residual"), [(0, False, False), (1, False, False), (1, False, True), (2, True, True)]
)
@torch.no_grad()
def test_separation_is_open_unmixs(nb_iterations: int, softmask: bool, residual: bool, window: int | None) -> None:
    """From wave to wave: transform, networks, filter, inverse, at the beginning and the end, too."""
    torch.manual_seed(0)
    settings = OpenUnmixSettings(hidden_size=16, n_fft=256, hop_length=64)
    networks = OpenUnmixSet(settings).eval()
    theirs = {target: upstream_network(settings).eval() for target in settings.targets}
    for target, network in theirs.items():
        network.load_state_dict(networks.networks[target].state_dict(), strict=True)
    separator = import_openunmix("model").Separator(
        theirs, nb_iterations, softmask, residual, n_fft=256, n_hop=64, wiener_win_len=window
    )
    waves = torch.rand(2, 2, 700 * 64 + 13) - 0.5
    mixture = stft(waves, settings.separation_stft)
    estimates = wiener(
        networks(mixture.abs()),
        mixture,
        nb_iterations=nb_iterations,
        softmask=softmask,
        residual=residual,
        window=window,
    )
    got = istft(estimates, settings.separation_stft, nb_samples=waves.shape[-1])
    expected = separator(waves.clone())
    assert error(got, expected) < 1e-4


# Where they err


def test_open_unmix_turns_digital_silence_into_a_residual(music: tuple[Tensor, Tensor]) -> None:
    """Its arctangent adds 1 to what it is given where that is 0: the caller's tensor, from then on the mixture."""
    magnitudes, mixture = music
    mixture[..., 20:40] = 0
    magnitudes[..., 20:40] = 0
    given = torch.view_as_real(mixture[0].permute(2, 1, 0).contiguous())
    import_openunmix("filtering").wiener(magnitudes[0].permute(3, 2, 1, 0), given, 0)
    assert (given[20:40, ..., 0] == 1).all()
    for nb_iterations in (0, 1):
        theirs = open_unmixs(magnitudes, mixture, iterations=nb_iterations, residual=True)
        torch.testing.assert_close(theirs[:, -1, ..., 20:40].real.mean(), torch.tensor(1.0), rtol=1e-2, atol=0)
        ours = wiener(magnitudes, mixture, nb_iterations=nb_iterations, residual=True)
        assert not ours[..., 20:40].any()
        rest = [t for t in range(100) if not 20 <= t < 40]
        assert (ours - theirs)[:, :-1].abs().max() < 1e-2 * theirs.abs().max()
        heard = wiener(magnitudes[..., rest], mixture[..., rest], nb_iterations=nb_iterations, residual=True)
        torch.testing.assert_close(ours[..., rest], heard, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("difference", [0, 1e-3])
def test_float32_is_not_enough_for_nearly_mono_mixtures(music: tuple[Tensor, Tensor], difference: float) -> None:
    """Both compute in the precision that they are given, and fail in the one in which they are used."""
    magnitudes, mixture = music
    magnitudes[:, :, 1], mixture[:, 1] = (
        (1 - difference) * t[..., 0, :, :] + difference * t[..., 1, :, :] for t in music
    )
    expected = open_unmixs(magnitudes, mixture, torch.float64)
    assert not error(open_unmixs(magnitudes, mixture), expected) < 0.05  # or not a number
    assert error(wiener(magnitudes, mixture), expected) < 1e-6
    expected = norberts(magnitudes, mixture, np.complex128)
    assert error(norberts(magnitudes, mixture), expected) > 1e-3
    assert error(wiener(magnitudes, mixture, softmask=True, eps=EPS), expected) < 1e-6
