"""Open-Unmix: sizes, values, statistics, settings; exported, under autocast, differentiated."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.open_unmix import OpenUnmix, OpenUnmixSet, OpenUnmixSettings
from musdbkit.errors import ParameterError
from musdbkit.stft import PRESETS

SMALL = OpenUnmixSettings(targets=("vocals", "bass"), hidden_size=8, n_fft=64, hop_length=16)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def fill(network: OpenUnmix) -> None:
    """Give the network the acceptance test's values."""
    state = network.state_dict()
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        waves = torch.sin(0.37 * torch.arange(1, tensor.numel() + 1, dtype=torch.float64)).reshape(tensor.shape)
        if tensor.ndim > 1:
            values = 1.5 / math.sqrt(tensor.numel() / len(tensor)) * waves
        elif name.endswith("_scale") or (name.startswith("bn") and name.endswith("weight")):
            values = 1 + 0.2 * waves
        elif name.endswith("running_var"):
            values = 1 + 0.5 * waves
        else:
            values = 0.1 * waves
        tensor.copy_(values)


# Sizes


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 8_893_348),  # UMX, UMXHQ
        ({"hidden_size": 1024}, 28_257_188),  # UMXL
        ({"bidirectional": False}, 10_466_212),
        ({"bandwidth": None}, 9_469_960),
        ({"nb_channels": 1}, 7_078_818),
        ({"nb_channels": 1, "hidden_size": 256, "sample_rate": 16000, "n_fft": 1024, "hop_length": 512}, 1_583_622),
    ],
)
def test_parameters_are_as_many_as_upstream(options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        network = OpenUnmixSet(OpenUnmixSettings(targets=("vocals", "bass"), **options))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 2 * count


def test_state_has_upstreams_keys() -> None:
    with torch.device("meta"):
        keys = OpenUnmix(OpenUnmixSettings()).state_dict().keys()
    lstm = [
        f"lstm.{kind}_{part}_l{layer}{direction}"
        for layer in range(3)
        for direction in ("", "_reverse")
        for kind in ("weight", "bias")
        for part in ("ih", "hh")
    ]
    norms = [
        f"bn{i}.{name}"
        for i in (1, 2, 3)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    scalers = ["input_mean", "input_scale", "output_mean", "output_scale"]
    assert sorted(keys) == sorted([*scalers, "fc1.weight", "fc2.weight", "fc3.weight", *norms, *lstm])
    assert len(keys) == 46


@pytest.mark.parametrize(
    ("options", "nb_bins", "nb_input_bins"),
    [
        ({}, 2049, 1487),
        ({"n_fft": 2048, "hop_length": 512}, 1025, 744),
        ({"n_fft": 1024, "hop_length": 512, "sample_rate": 16000}, 513, 513),
        ({"bandwidth": None}, 2049, 2049),
        ({"bandwidth": 0.0}, 2049, 1),
        ({"bandwidth": 22050.0}, 2049, 2049),
        ({"bandwidth": 22049.0}, 2049, 2048),
        ({"bandwidth": 100 * 44100 / 4096}, 2049, 101),
    ],
)
def test_the_network_sees_the_bins_up_to_its_bandwidth(
    options: dict[str, Any], nb_bins: int, nb_input_bins: int
) -> None:
    settings = OpenUnmixSettings(**options)
    assert (settings.nb_bins, settings.nb_input_bins) == (nb_bins, nb_input_bins)


def test_transforms_are_open_unmixs() -> None:
    settings = OpenUnmixSettings()
    assert settings.training_stft == PRESETS["openunmix"]
    assert settings.separation_stft == PRESETS["openunmix-inference"]
    assert (SMALL.separation_stft.n_fft, SMALL.separation_stft.hop_length) == (64, 16)


# Values


@pytest.mark.parametrize(
    ("bidirectional", "total", "largest", "nb_positive", "values"),
    [
        (True, 1.559930e4, 3.753423, 16078, {(2, 0): 1.446151, (83, 1): 1.673917, (362, 5): 1.607016}),
        (False, 1.454101e4, 3.592410, 15989, {(2, 0): 1.434353, (88, 0): 0.6490668, (389, 0): 1.660760}),
    ],
)
@torch.no_grad()
def test_values_are_upstreams(
    bidirectional: bool, total: float, largest: float, nb_positive: int, values: dict[tuple[int, int], float]
) -> None:
    network = OpenUnmix(OpenUnmixSettings(bidirectional=bidirectional)).eval()
    fill(network)
    mixture = 10 * torch.sin(0.05 * torch.arange(1, 2 * 2049 * 8 + 1, dtype=torch.float64)).abs()
    estimate = network(mixture.float().reshape(1, 2, 2049, 8))
    assert float(estimate.sum()) == pytest.approx(total, rel=1e-4)
    assert float(estimate.max()) == pytest.approx(largest, rel=1e-4)
    assert int((estimate > 0).sum()) == nb_positive
    for (f, t), value in values.items():
        assert float(estimate[0, 0, f, t]) == pytest.approx(value, rel=1e-4)


@torch.no_grad()
def test_the_set_gives_all_targets_in_order() -> None:
    network = OpenUnmixSet(SMALL).eval()
    mixture = torch.rand(3, 2, 33, 10)
    before = mixture.clone()
    estimates = network(mixture)
    assert torch.equal(mixture, before)
    assert estimates.shape == (3, 2, 2, 33, 10)
    assert estimates.dtype == torch.float32
    assert list(network.networks) == ["vocals", "bass"]
    for j, target in enumerate(network.networks.values()):
        assert torch.equal(estimates[:, j], target(mixture))
    assert not torch.equal(estimates[:, 0], estimates[:, 1])
    assert estimates.stride()[-2:] == (1, 33)


@torch.no_grad()
def test_masks_cover_bins_that_the_network_does_not_see() -> None:
    network = OpenUnmix(dataclasses.replace(SMALL, bandwidth=4000.0)).eval()
    assert network.settings.nb_input_bins == 6
    mixture = torch.rand(1, 2, 33, 10)
    louder = mixture.clone()
    louder[:, :, 6:] *= 2
    estimate = network(mixture)
    assert (estimate[:, :, 6:] > 0).any()
    torch.testing.assert_close(network(louder)[:, :, 6:], 2 * estimate[:, :, 6:])


@torch.no_grad()
def test_a_unidirectional_network_does_not_look_ahead() -> None:
    mixture = torch.rand(1, 2, 33, 10)
    for bidirectional in (False, True):
        network = OpenUnmix(dataclasses.replace(SMALL, bidirectional=bidirectional)).eval()
        same = torch.allclose(network(mixture)[..., :6], network(mixture[..., :6]), atol=1e-6)
        assert same != bidirectional


# Training


def test_dropout_is_between_layers() -> None:
    for nb_layers, expected in ((3, 0.4), (1, 0.0)):
        assert OpenUnmix(dataclasses.replace(SMALL, nb_layers=nb_layers)).lstm.dropout == expected
    network = OpenUnmix(SMALL)
    mixture = torch.rand(2, 2, 33, 10)
    assert not torch.equal(network(mixture), network(mixture))


def test_all_parameters_are_trained_and_gradients_are_right() -> None:
    network = OpenUnmix(dataclasses.replace(SMALL, hidden_size=4, n_fft=16, hop_length=8, dropout=0.0)).double()
    fill(network)
    mixture = torch.rand(2, 2, 9, 3, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)

    def forward(*values: Tensor) -> Any:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (mixture,))

    assert torch.autograd.gradcheck(forward, parameters, fast_mode=True)
    network(mixture).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in parameters)


def test_statistics_bring_bins_to_mean_0_and_deviation_1() -> None:
    network = OpenUnmix(dataclasses.replace(SMALL, bandwidth=4000.0))
    mean, std = torch.arange(33.0), torch.arange(1.0, 34.0)
    std[2] = 0
    network.set_statistics(mean, std)
    assert torch.equal(network.input_mean, -mean[:6])
    torch.testing.assert_close(network.input_scale, 1 / torch.tensor([1, 2, 33e-4, 4, 5, 6]))
    assert network.input_mean.requires_grad
    assert (mean[3], std[2]) == (3, 0)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (torch.zeros(32), torch.ones(33), r"mean and std of shapes \(32,\) and \(33,\), expected 33 bins"),
        (torch.zeros(33), torch.zeros(33), "mean or std is not finite, or std is 0 everywhere"),
        (torch.full((33,), math.nan), torch.ones(33), "mean or std is not finite"),
        (torch.zeros(33), torch.full((33,), math.inf), "mean or std is not finite"),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(mean: Tensor, std: Tensor, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        OpenUnmix(SMALL).set_statistics(mean, std)


# Elsewhere


@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning")  # torch, of its own LSTM
@pytest.mark.parametrize("bidirectional", [True, False])
@torch.no_grad()
def test_it_can_be_exported(bidirectional: bool) -> None:
    network = OpenUnmixSet(dataclasses.replace(SMALL, bidirectional=bidirectional)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (torch.rand(2, 2, 33, 10),), dynamic_shapes=({0: batch},)).module()
    for batch_size in (1, 2, 5):
        mixture = torch.rand(batch_size, 2, 33, 10)
        torch.testing.assert_close(exported(mixture), network(mixture))


def test_it_works_in_bfloat16() -> None:
    """Autocast on a CPU, forwards and back; what the mixture is multiplied by, and the product, are float32."""
    network = OpenUnmixSet(SMALL)
    mixture = torch.rand(2, 2, 33, 10)
    with torch.autocast("cpu", torch.bfloat16):
        estimates = network(mixture)
    assert estimates.dtype == torch.float32
    estimates.square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        estimates = network(mixture)
    with torch.no_grad():
        expected = network(mixture)
    assert not torch.equal(estimates, expected)
    assert float((estimates - expected).abs().max()) < 0.05 * float(expected.max())


# Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("bass", "bass")}, "targets are "),
        ({"targets": ("a.b",)}, "target a.b: expected "),
        ({"nb_channels": 0}, "nb_channels is 0, expected a whole number, 1 or more"),
        ({"hidden_size": 2.0}, "hidden_size is 2.0, expected a whole number"),
        ({"hidden_size": 7}, "hidden_size is 7, expected an even number for two directions"),
        ({"nb_layers": 0}, "nb_layers is 0, expected a whole number"),
        ({"sample_rate": True}, "sample_rate is True, expected a whole number"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 or more and less than 1"),
        ({"dropout": math.nan}, "dropout is nan, expected 0 or more"),
        ({"bandwidth": -1.0}, "bandwidth is -1.0, expected a frequency in Hz"),
        ({"bandwidth": math.inf}, "bandwidth is inf, expected a frequency in Hz"),
        ({"n_fft": 63}, "n_fft is 63, expected an even number"),
        ({"hop_length": 0}, "hop_length is 0, expected 1 to n_fft"),
        ({"nb_wiener_iterations": -1}, "nb_wiener_iterations is -1, expected 0 or more"),
        ({"wiener_window": 0}, "wiener_window is 0, expected a whole number"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        OpenUnmixSettings(**options)
