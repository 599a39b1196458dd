"""The network against Open-Unmix 1.3 itself: its state, its values, its steps in training."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from baselines.open_unmix import OpenUnmix, OpenUnmixSettings
from baselines.torch_stft import stft
from tests.parity.peer import import_openunmix

SMALL = OpenUnmixSettings(hidden_size=16, n_fft=256, hop_length=64)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"bidirectional": False},
    {"nb_layers": 1},
    {"nb_layers": 1, "bidirectional": False},
    {"nb_channels": 1},
    {"bandwidth": None},
    {"n_fft": 130, "hop_length": 65, "sample_rate": 16000},
]


def upstream_network(settings: OpenUnmixSettings, **options: Any) -> torch.nn.Module:
    """Return Open-Unmix's own network for our settings."""
    network: torch.nn.Module = import_openunmix("model").OpenUnmix(
        nb_bins=settings.nb_bins,
        nb_channels=settings.nb_channels,
        hidden_size=settings.hidden_size,
        nb_layers=settings.nb_layers,
        unidirectional=not settings.bidirectional,
        max_bin=settings.nb_input_bins,
        **options,
    )
    return network


def pair(options: dict[str, Any], seed: int = 0) -> tuple[OpenUnmix, torch.nn.Module]:
    """Return our network and theirs, with the same values, none of them as they begin."""
    settings = dataclasses.replace(SMALL, **options)
    ours, theirs = OpenUnmix(settings), upstream_network(settings)
    generator = torch.Generator().manual_seed(seed)
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("options", VARIANTS)
def test_values_are_upstreams(options: dict[str, Any]) -> None:
    ours, theirs = pair(options)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    mixture = torch.rand(3, ours.settings.nb_channels, ours.settings.nb_bins, 20) * 10
    with torch.no_grad():
        expected = theirs.eval()(mixture)
        got = ours.eval()(mixture)
    assert (expected > 0).any()
    assert got.shape == expected.shape
    assert float((got - expected).abs().max() / expected.max()) < 1e-5


@pytest.mark.parametrize("options", VARIANTS)
def test_training_is_upstreams(options: dict[str, Any]) -> None:
    """Outputs with dropout, gradients, and statistics of batches, in double precision, over two steps."""
    ours, theirs = pair(options)
    mixture = torch.rand(3, ours.settings.nb_channels, ours.settings.nb_bins, 20, dtype=torch.float64) * 10
    target = mixture * torch.rand(mixture.shape, dtype=torch.float64)
    estimates = []
    for network in (ours.double(), theirs.double()):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
        for _ in range(2):
            optimizer.zero_grad()
            estimate = network(mixture)
            torch.nn.functional.mse_loss(estimate, target).backward()
            optimizer.step()
        estimates.append(estimate)
    torch.testing.assert_close(*estimates)
    parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()
        torch.testing.assert_close(parameter.grad, parameters[name].grad)
    state = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, state[name])


def test_gradients_of_mixtures_are_upstreams() -> None:
    """They come from the mask alone: what it is multiplied by counts as given."""
    mixture = torch.rand(3, 2, SMALL.nb_bins, 20, dtype=torch.float64)
    gradients = []
    for network in pair({}):
        given = mixture.clone().requires_grad_()
        network.double().eval()(given).square().sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)


def test_it_begins_as_upstream() -> None:
    """The same seed gives the same weights: they are drawn in the same order."""
    torch.manual_seed(2)
    theirs = upstream_network(SMALL)
    torch.manual_seed(2)
    ours = OpenUnmix(SMALL)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_statistics_are_set_as_upstream() -> None:
    mean, std = np.random.default_rng(0).uniform(1, 2, (2, SMALL.nb_bins))
    theirs = upstream_network(SMALL, input_mean=mean, input_scale=std)
    ours = OpenUnmix(SMALL)
    ours.set_statistics(torch.from_numpy(mean), torch.from_numpy(std))
    for name in ("input_mean", "input_scale"):
        torch.testing.assert_close(ours.state_dict()[name], theirs.state_dict()[name])


@pytest.mark.parametrize("sample_rate", [16000, 22050, 44100, 48000])
@pytest.mark.parametrize("n_fft", [512, 1024, 2048, 4096])
def test_bandwidths_are_upstreams(n_fft: int, sample_rate: int) -> None:
    for bandwidth in (1000.0, 8000.0, 16000.0, 15999.999, 100 * sample_rate / n_fft):
        settings = OpenUnmixSettings(n_fft=n_fft, hop_length=256, sample_rate=sample_rate, bandwidth=bandwidth)
        assert settings.nb_input_bins == import_openunmix("utils").bandwidth_to_max_bin(sample_rate, n_fft, bandwidth)


def test_magnitudes_are_upstreams() -> None:
    waves = torch.rand(2, 2, 5000) - 0.5
    encoder, norm = (
        import_openunmix("transforms").make_filterbanks(n_fft=256, n_hop=64)[0],
        import_openunmix("transforms").ComplexNorm(),
    )
    with torch.no_grad():
        expected = norm(encoder(waves))
    torch.testing.assert_close(stft(waves, SMALL.training_stft).abs(), expected, rtol=1e-5, atol=1e-5)
