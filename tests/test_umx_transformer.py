"""Open-Unmix with transformers: sizes, values, lengths, settings; exported, under autocast, differentiated."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.attention import ATTENTIONS, encode_positions
from baselines.umx_transformer import UmxTransformer, UmxTransformerSet, UmxTransformerSettings
from musdbkit.errors import ParameterError

SMALL = UmxTransformerSettings(
    targets=("vocals", "bass"), hidden_size=8, nb_heads=2, feedforward_size=12, n_fft=64, hop_length=16, nb_layers=2
)
BIASES_OF_KEYS = ("key.depthwise.bias", "key.pointwise.bias", "key.1.bias")  # softmax does not see what all keys share


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def stir(network: torch.nn.Module) -> None:
    """Give all parameters and statistics values of their own."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            size = tensor[0].numel() if tensor.ndim > 1 else 1
            noise = torch.randn_like(tensor) / math.sqrt(size)
            positive = name.endswith(("running_var", "_scale", "softmax_temp"))
            tensor.copy_(1 + 0.3 * torch.rand_like(tensor) if positive else noise)


# Sizes


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 15_218_597),
        ({"attention": "qkv2D"}, 23_056_853),
        ({"attention": "qkv1D"}, 13_638_053),
        ({"nb_layers": 1}, 10_467_749 - 2 * 2_101_760 + 1_583_616),
        ({"padding": "depthwise", "temperature": "scale", "positional": True, "input_seconds": 60.0}, 15_218_597),
        ({"bandwidth": 22050.0}, 15_218_597 + 562 * (2 * 512 + 2)),
    ],
)
def test_parameters_are_as_many_as_they_should_be(options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        network = UmxTransformerSet(UmxTransformerSettings(targets=("vocals", "bass"), **options))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 2 * count


def test_the_network_sees_the_bins_up_to_its_bandwidth() -> None:
    found = [
        dataclasses.replace(UmxTransformerSettings(), bandwidth=bandwidth).nb_input_bins
        for bandwidth in (16000.0, None, 0.0, 22050.0, 100 * 44100 / 4096)
    ]
    assert found == [1487, 2049, 1, 2049, 101]
    assert UmxTransformerSettings(n_fft=2048).nb_input_bins == 744


# Values


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("positional", [False, True])
@torch.no_grad()
def test_values_are_those_of_the_definition(kind: str, positional: bool) -> None:
    settings = dataclasses.replace(SMALL, attention=kind, positional=positional, bandwidth=5000.0)
    network = UmxTransformer(settings).double().eval()
    stir(network)
    mixture = torch.rand(2, 2, 33, 11, dtype=torch.float64)

    def normalise(x: Tensor, norm: torch.nn.BatchNorm1d) -> Tensor:
        return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias  # type: ignore[operator]

    assert settings.nb_input_bins == 8
    x = (mixture[:, :, :8].movedim(-1, 0) + network.input_mean) * network.input_scale
    given = normalise(x.flatten(2) @ network.fc1.weight.T, network.bn1).transpose(0, 1)
    x = given + encode_positions(11, 8, torch.device("cpu")) if positional else given
    for layer in network.encoder:
        x = layer(x, network.softmax_temp) + x
    x = torch.cat([x, given], dim=-1) @ network.fc2.weight.T
    x = normalise(normalise(x, network.bn2).clamp(min=0) @ network.fc3.weight.T, network.bn3)
    mask = (x.reshape(2, 11, 2, 33) * network.output_scale + network.output_mean).clamp(min=0)
    assert (mask > 0).any()
    assert (mask == 0).any()
    torch.testing.assert_close(network(mixture), mask.permute(0, 2, 3, 1) * mixture)


@pytest.mark.parametrize("kind", ATTENTIONS)
@torch.no_grad()
def test_one_temperature_is_of_all_stages(kind: str) -> None:
    network = UmxTransformer(dataclasses.replace(SMALL, attention=kind)).eval()
    stir(network)
    mixture = torch.rand(1, 2, 33, 20)
    found = network(mixture)
    network.softmax_temp.mul_(3)
    assert not torch.allclose(network(mixture), found)
    assert sum("temp" in name for name in network.state_dict()) == 1


@torch.no_grad()
def test_temperatures_scale_or_replace() -> None:
    """With heads of 4 features, the root is 2."""
    replacing, scaling = (
        UmxTransformer(dataclasses.replace(SMALL, temperature=temperature)).eval()
        for temperature in ("replace", "scale")
    )
    stir(replacing)
    scaling.load_state_dict(replacing.state_dict())
    mixture = torch.rand(1, 2, 33, 20)
    assert not torch.allclose(replacing(mixture), scaling(mixture))
    scaling.softmax_temp.mul_(2)
    torch.testing.assert_close(replacing(mixture), scaling(mixture))


@torch.no_grad()
def test_the_set_gives_all_targets_in_order() -> None:
    network = UmxTransformerSet(SMALL).eval()
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


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("nb_frames", [1, 2, 3, 5, 351])
@torch.no_grad()
def test_any_number_of_frames_will_do(kind: str, nb_frames: int) -> None:
    network = UmxTransformer(dataclasses.replace(SMALL, attention=kind, nb_channels=1)).eval()
    mixture = torch.rand(2, 1, 33, nb_frames)
    estimate = network(mixture)
    assert estimate.shape == mixture.shape
    assert estimate.isfinite().all()
    assert torch.equal(network(mixture), estimate)
    torch.testing.assert_close(network(mixture[:1]), estimate[:1])


@torch.no_grad()
def test_all_frames_see_each_other() -> None:
    mixture = torch.rand(1, 2, 33, 200)
    other = mixture.clone()
    other[..., 100] *= 5
    for kind in ATTENTIONS:
        network = UmxTransformer(dataclasses.replace(SMALL, attention=kind)).double().eval()
        stir(network)
        differs = (network(mixture.double()) != network(other.double())).any(dim=(0, 1, 2))
        assert differs[[0, 1, 150, 199]].all()


# Training


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("positional", [False, True])
def test_all_parameters_are_trained(kind: str, positional: bool) -> None:
    network = UmxTransformer(dataclasses.replace(SMALL, attention=kind, positional=positional)).double().eval()
    stir(network)
    network(torch.rand(2, 2, 33, 20, dtype=torch.float64)).square().sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None
        assert p.grad.any() or name.endswith(BIASES_OF_KEYS), name


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_gradients_are_right(kind: str) -> None:
    settings = dataclasses.replace(
        SMALL, attention=kind, hidden_size=4, n_fft=8, hop_length=4, dropout=0.0, attention_dropout=0.0, nb_layers=1
    )
    network = UmxTransformer(settings).double()
    stir(network)
    mixture = torch.rand(2, 2, 5, 6, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)

    def forward(*values: Tensor) -> Any:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (mixture,))

    assert torch.autograd.gradcheck(forward, parameters, fast_mode=True)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_it_learns_one_batch_by_heart(kind: str) -> None:
    settings = dataclasses.replace(
        SMALL, attention=kind, hidden_size=32, nb_layers=1, dropout=0.0, attention_dropout=0.0
    )
    network = UmxTransformer(settings)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    mixture = torch.rand(2, 2, 33, 12)
    target = mixture * (torch.rand(2, 2, 33, 1) > 0.5)
    losses = []
    for _ in range(40):
        loss = (network(mixture) - target).square().mean()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.1 * losses[0]


def test_values_are_dropped_in_training_only() -> None:
    mixture = torch.rand(2, 2, 33, 10)
    for options in ({"attention_dropout": 0.0}, {"dropout": 0.0}):
        network = UmxTransformer(dataclasses.replace(SMALL, **options))
        assert not torch.equal(network(mixture), network(mixture))
        network.eval()
        assert torch.equal(network(mixture), network(mixture))


# Elsewhere


@pytest.mark.parametrize("kind", ["qkv2D", "qkvg1D"])
@torch.no_grad()
def test_it_can_be_exported(kind: str) -> None:
    network = UmxTransformerSet(dataclasses.replace(SMALL, targets=("vocals",), attention=kind, nb_layers=1)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (torch.rand(2, 2, 33, 10),), dynamic_shapes=({0: batch},)).module()
    for batch_size in (1, 5):
        mixture = torch.rand(batch_size, 2, 33, 10)
        torch.testing.assert_close(exported(mixture), network(mixture))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_it_works_in_bfloat16(kind: str) -> None:
    """Autocast on a CPU, forwards and back; what the mixture is multiplied by, and the product, are float32."""
    network = UmxTransformerSet(dataclasses.replace(SMALL, attention=kind, positional=True))
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
        ({"hidden_size": 40}, "hidden_size is 40, expected a multiple of nb_heads, 16"),
        ({"bandwidth": -1.0}, "bandwidth is -1.0, expected a frequency in Hz"),
        ({"bandwidth": math.inf}, "bandwidth is inf, expected a frequency in Hz"),
        ({"temperature": "both"}, "temperature is 'both', expected one of replace, scale"),
        (
            {"attention": "qkv2D", "hidden_size": 7, "positional": True},
            "hidden_size is 7, expected an even number for positions",
        ),
    ],
)
def test_settings_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        UmxTransformerSettings(**options)


def test_defaults_are_the_originals() -> None:
    settings = UmxTransformerSettings()
    assert (settings.nb_layers, settings.dropout, settings.attention_dropout) == (3, 0.2, 0.1)
    assert (settings.attention, settings.padding, settings.temperature) == ("qkvg1D", "pointwise", "replace")
