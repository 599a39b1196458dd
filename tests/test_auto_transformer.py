"""The transformer of encoder and decoder: sizes, values, lengths, settings; exported, in bfloat16, differentiated."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.attention import ATTENTIONS, encode_positions
from baselines.auto_transformer import (
    AutoTransformer,
    AutoTransformerSet,
    AutoTransformerSettings,
    DecoderLayer,
    FrameNorm,
)
from musdbkit.errors import ParameterError
from tests.test_umx_transformer import BIASES_OF_KEYS, stir

SMALL = AutoTransformerSettings(
    targets=("vocals", "bass"), hidden_size=8, nb_heads=2, feedforward_size=12, n_fft=64, hop_length=16, nb_layers=2
)
STILL = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Sizes


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 32_958_482),
        ({"attention": "qkv2D"}, 64_311_506),
        ({"attention": "qkv1D"}, 26_636_306),
        ({"padding": "depthwise", "input_seconds": 60.0}, 32_958_482),
        ({"decoder_feedforward_size": 2048}, 32_958_482 + 4 * 2044 * 1025),
    ],
)
def test_parameters_are_as_many_as_they_should_be(options: dict[str, Any], count: int) -> None:
    """Of which those of a normalisation that serves nothing are not trained: 1024 in each stage of the decoder."""
    with torch.device("meta"):
        network = AutoTransformerSet(AutoTransformerSettings(targets=("vocals", "bass"), **options))
    assert sum(p.numel() for p in network.parameters()) == 2 * count
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == 2 * 4 * 1024


# Values


def normalise(x: Tensor, frame_norm: FrameNorm) -> Tensor:
    norm: Any = frame_norm.norm
    result: Tensor = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return result


def decode(layer: DecoderLayer, x: Tensor, memory: Tensor) -> Tensor:
    """Return what a stage of the decoder shall give."""
    x = normalise(x, layer.norm1)
    x = normalise(x + layer.self_attention(x, x), layer.norm2)
    x = layer.cross_attention(memory, x)
    return x + F.gelu(x @ layer.linear1.weight.T + layer.linear1.bias) @ layer.linear2.weight.T + layer.linear2.bias


@pytest.mark.parametrize("kind", ATTENTIONS)
@torch.no_grad()
def test_values_are_those_of_the_definition(kind: str) -> None:
    network = AutoTransformer(dataclasses.replace(SMALL, attention=kind)).double().eval()
    stir(network)
    state = network.state_dict()
    mixture = torch.rand(2, 2, 33, 11, dtype=torch.float64)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = torch.cat([mixture[:, 0], mixture[:, 1]], dim=1).mT  # first the bins of the left channel, then of the right
    x = F.silu(normalise(linear(linear(x, "pre_net.0"), "pre_net.1"), network.pre_net[2]))
    x = F.silu(normalise(linear(x, "pre_net.5"), network.pre_net[6]))
    x = x + encode_positions(11, 8, torch.device("cpu"))
    first = network.encoder[0](x)
    second = network.encoder[1](first)
    one, other = network.decoder
    assert isinstance(one, DecoderLayer)
    assert isinstance(other, DecoderLayer)
    x = decode(other, decode(one, second, second), first)
    x = F.silu(normalise(linear(x, "post_net.0"), network.post_net[1]))
    mask = linear(F.silu(linear(linear(x, "post_net.3"), "post_net.4")), "post_net.6").clamp(min=0)
    assert (mask > 0).any()
    assert (mask == 0).any()
    estimate = network(mixture)
    for channel in (0, 1):  # masks hold bin after bin, of each first the left channel
        torch.testing.assert_close(estimate[:, channel], mask[:, :, channel::2].mT * mixture[:, channel])


@torch.no_grad()
def test_stages_of_the_encoder_are_activated_by_silu_and_have_no_temperature() -> None:
    layer: Any = AutoTransformer(SMALL).encoder[0]
    x = torch.randn(5)
    torch.testing.assert_close(layer.activation(x), x * x.sigmoid())
    assert not any("temp" in name for name in AutoTransformer(SMALL).state_dict())


@torch.no_grad()
def test_the_set_gives_all_targets_in_order() -> None:
    network = AutoTransformerSet(SMALL).eval()
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
    """Those of 20 s are more than the original has positions for."""
    network = AutoTransformer(dataclasses.replace(SMALL, attention=kind, nb_channels=1)).eval()
    mixture = torch.rand(2, 1, 33, nb_frames)
    estimate = network(mixture)
    assert estimate.shape == mixture.shape
    assert estimate.isfinite().all()
    assert torch.equal(network(mixture), estimate)
    torch.testing.assert_close(network(mixture[:1]), estimate[:1])


@torch.no_grad()
def test_positions_make_a_difference() -> None:
    network = AutoTransformer(dataclasses.replace(SMALL, padding="depthwise")).eval()
    stir(network)
    estimate = network(torch.ones(1, 2, 33, 40))
    assert not torch.allclose(estimate[..., 10], estimate[..., 20])


# Training


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("padding", ["pointwise", "depthwise"])
def test_all_parameters_are_trained_but_for_those_that_serve_nothing(kind: str, padding: str) -> None:
    network = AutoTransformer(dataclasses.replace(SMALL, attention=kind, padding=padding)).double().eval()
    stir(network)
    network(torch.rand(2, 2, 33, 20, dtype=torch.float64)).square().sum().backward()
    for name, p in network.named_parameters():
        if name.startswith("decoder") and ".norm3." in name:
            assert p.grad is None
        else:
            assert p.grad is not None
            assert p.grad.any() or name.endswith(BIASES_OF_KEYS), name


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_gradients_are_right(kind: str) -> None:
    settings = dataclasses.replace(SMALL, attention=kind, hidden_size=4, n_fft=8, hop_length=4, nb_layers=1, **STILL)
    network = AutoTransformer(settings).double()
    stir(network)
    mixture = torch.rand(2, 2, 5, 6, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)

    def forward(*values: Tensor) -> Any:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (mixture,))

    assert torch.autograd.gradcheck(forward, parameters, fast_mode=True)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_it_learns_one_batch_by_heart(kind: str) -> None:
    network = AutoTransformer(dataclasses.replace(SMALL, attention=kind, hidden_size=32, nb_layers=1, **STILL))
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
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", STILL)
def test_values_are_dropped_in_training_only(name: str) -> None:
    mixture = torch.rand(2, 2, 33, 10)
    network = AutoTransformer(dataclasses.replace(SMALL, **STILL | {name: 0.3}))
    assert not torch.equal(network(mixture), network(mixture))
    network.eval()
    assert torch.equal(network(mixture), network(mixture))


# Elsewhere


@torch.no_grad()
def test_it_can_be_exported() -> None:
    network = AutoTransformerSet(dataclasses.replace(SMALL, targets=("vocals",), nb_layers=1)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (torch.rand(2, 2, 33, 10),), dynamic_shapes=({0: batch},)).module()
    for batch_size in (1, 5):
        mixture = torch.rand(batch_size, 2, 33, 10)
        torch.testing.assert_close(exported(mixture), network(mixture))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_it_works_in_bfloat16(kind: str) -> None:
    """Autocast on a CPU, forwards and back; the product with the mixture is float32."""
    network = AutoTransformerSet(dataclasses.replace(SMALL, attention=kind))
    mixture = torch.rand(2, 2, 33, 10)
    with torch.autocast("cpu", torch.bfloat16):
        estimates = network(mixture)
    assert estimates.dtype == torch.float32
    estimates.square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters() if p.requires_grad)
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
        ({"nb_layers": 0}, "nb_layers is 0, expected a whole number"),
        ({"decoder_feedforward_size": 0}, "decoder_feedforward_size is 0, expected a whole number"),
        ({"input_dropout": -0.1}, "input_dropout is -0.1, expected 0 or more and less than 1"),
        ({"attention": "qkv2D", "hidden_size": 7}, "hidden_size is 7, expected an even number for positions"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        AutoTransformerSettings(**options)


def test_defaults_are_the_originals() -> None:
    settings = AutoTransformerSettings()
    assert (settings.nb_layers, settings.dropout, settings.input_dropout) == (4, 0.1, 0.2)
    assert (settings.attention_dropout, settings.feedforward_size) == (0.1, 2048)
