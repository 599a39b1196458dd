"""Separation of whole waves against Open-Unmix's own Separator, with the same random weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.models import Loaded, create
from baselines.open_unmix import OpenUnmixSettings
from baselines.separation import SeparationSettings, separate_wave
from tests.parity.peer import import_openunmix

SETTINGS = OpenUnmixSettings(hidden_size=32, nb_layers=1)


@pytest.fixture(scope="module")
def peer() -> Iterator[Any]:
    """Open-Unmix's module of models."""
    nb_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield import_openunmix("model")
    torch.set_num_threads(nb_threads)


@pytest.mark.parametrize(
    ("nb_iterations", "window", "softmask", "residual"),
    [(0, 300, False, False), (1, 300, False, False), (1, 0, False, True), (2, 50, True, False)],
)
def test_estimates_are_those_of_the_separator(
    peer: Any, rng: np.random.Generator, nb_iterations: int, window: int, softmask: bool, residual: bool
) -> None:
    torch.manual_seed(0)
    network = create("open-unmix", SETTINGS).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter += 0.5 * torch.randn_like(parameter)
    theirs = {}
    for target in SETTINGS.targets:
        theirs[target] = peer.OpenUnmix(nb_bins=2049, hidden_size=32, nb_layers=1, max_bin=1487)
        theirs[target].load_state_dict(network.networks[target].state_dict())
    separator = peer.Separator(
        theirs, niter=nb_iterations, softmask=softmask, residual=residual, wiener_win_len=window or None
    ).eval()
    envelope = 0.1 + np.sin(np.linspace(0, 9, 330_000))[:, None] ** 2
    wave = (0.2 * envelope * rng.standard_normal((330_000, 2)) * [1, 0.6]).astype(np.float32)
    with torch.no_grad():
        expected = separator(torch.from_numpy(wave.T)[None])[0].permute(0, 2, 1).numpy()
    settings = SeparationSettings(
        nb_wiener_iterations=nb_iterations, wiener_window=window, softmask=softmask, residual=residual
    )
    loaded = Loaded("open-unmix", SETTINGS, network, Path("run/best.safetensors"), "0" * 64, 0, "best")
    found = separate_wave(loaded, wave, settings)
    assert list(found) == [*SETTINGS.targets, *(["residual"] if residual else [])]
    assert np.abs(expected).max(axis=(1, 2)).min() > 0.01
    for name, samples in zip(found, expected, strict=True):
        np.testing.assert_allclose(found[name], samples, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def test_a_single_target_is_that_of_the_separator_too(peer: Any, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    network = create("open-unmix", replace(SETTINGS, targets=("vocals",))).eval().requires_grad_(False)
    theirs = peer.OpenUnmix(nb_bins=2049, hidden_size=32, nb_layers=1, max_bin=1487)
    theirs.load_state_dict(network.networks["vocals"].state_dict())
    wave = rng.uniform(-0.5, 0.5, (50_000, 2)).astype(np.float32)
    with torch.no_grad():
        expected = peer.Separator({"vocals": theirs}, niter=0).eval()(torch.from_numpy(wave.T)[None])[0, 0].T.numpy()
    loaded = Loaded("open-unmix", network.settings, network, Path("x"), "0" * 64, 0, "best")
    np.testing.assert_allclose(separate_wave(loaded, wave)["vocals"], expected, atol=1e-5)
