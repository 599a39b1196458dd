"""Blocks of U-Nets: values against plain formulas, sizes, initialisation, recurrence under autocast."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.blocks import (
    ACTIVATIONS,
    Block,
    FrequencyConv,
    FrequencyDown,
    FrequencyUp,
    MixingTdf,
    Tdc,
    TdcRnn,
    Tdf,
    Tfc,
    TfcTdf,
    TimeFrequencyConv,
    draw_weights,
    make_sampling,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_tdf(nb_channels: int = 3, nb_inputs: int = 8, nb_outputs: int = 8, nb_units: int | None = 4) -> Tdf:
    return Tdf(nb_channels, nb_inputs, nb_outputs, nb_units, bias=True, affine=True, activation="tanh")


def make_tdc_rnn(nb_layers: int = 1) -> TdcRnn:
    return TdcRnn(Tdc(2, 3, 2, 3, "tanh"), 3, 8, 5, nb_layers, True, make_tdf(nb_inputs=10))


def drop(block: Block) -> nn.Module:
    """Return a block as it is used: with statistics that are not those of its making."""
    block.train()(torch.randn(4, 2, 6, 8))
    return block.eval()


# Convolutions


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (4, 2), (2, 3), (6, 1)])
@torch.no_grad()
def test_convolutions_keep_frames_and_bins(kernel: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 7, 9)
    conv = TimeFrequencyConv(3, 4, kernel)
    before, after = [(size - 1) // 2 for size in kernel], [size // 2 for size in kernel]
    padded = F.pad(x, (before[1], after[1], before[0], after[0]))
    expected = torch.stack(
        [
            torch.einsum("bitf,oitf->bo", padded[:, :, t : t + kernel[0], f : f + kernel[1]], conv.weight)
            for t in range(7)
            for f in range(9)
        ],
        dim=-1,
    ).reshape(2, 4, 7, 9)
    assert conv.bias is not None
    torch.testing.assert_close(conv(x), expected + conv.bias.reshape(-1, 1, 1))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@torch.no_grad()
def test_convolutions_along_frequency_are_those_of_each_frame(kernel: int) -> None:
    x = torch.randn(2, 3, 5, 8)
    conv = FrequencyConv(3, 4, kernel)
    expected = torch.stack([F.conv1d(x[:, :, t], conv.weight, conv.bias, padding=kernel // 2) for t in range(5)], dim=2)
    torch.testing.assert_close(conv(x), expected)
    down, up = FrequencyDown(3, 2), FrequencyUp(3, 2)
    expected = torch.stack([F.conv1d(x[:, :, t], down.weight, down.bias, stride=2) for t in range(5)], dim=2)
    torch.testing.assert_close(down(x), expected)
    expected = torch.stack([F.conv_transpose1d(x[:, :, t], up.weight, up.bias, stride=2) for t in range(5)], dim=2)
    torch.testing.assert_close(up(x), expected)


@torch.no_grad()
def test_even_convolutions_along_frequency_keep_bins() -> None:
    x = torch.randn(2, 3, 5, 8)
    for kernel in (2, 4):
        conv = FrequencyConv(3, 4, kernel)
        padded = F.pad(x, ((kernel - 1) // 2, kernel // 2))
        expected = torch.stack([F.conv1d(padded[:, :, t], conv.weight, conv.bias) for t in range(5)], dim=2)
        torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("by_frame", [False, True])
@pytest.mark.parametrize("scale", [(1, 1), (1, 2), (2, 1), (2, 2)])
@torch.no_grad()
def test_sampling_changes_frames_and_bins(scale: tuple[int, int], by_frame: bool) -> None:
    x = torch.randn(2, 5, 4, 8)
    down, up = (make_sampling(5, scale, up=up, by_frame=by_frame) for up in (False, True))
    assert down(x).shape == (2, 5, 4 // scale[0], 8 // scale[1])
    assert up(down(x)).shape == x.shape
    expected = ["conv", "bn"] if by_frame else ["0", "1"]
    assert [name for name, _ in down.named_children()] == [name for name, _ in up.named_children()] == expected


# Blocks


@pytest.mark.parametrize("block", [Tfc(2, 3, 3, (3, 5), "tanh"), Tdc(2, 3, 3, 5, "tanh")], ids=["tfc", "tdc"])
@torch.no_grad()
def test_layers_see_the_newest_output_first(block: Tfc | Tdc) -> None:
    drop(block)
    x = torch.randn(4, 2, 6, 8)
    (first, second, third) = block.H
    y = first(x)
    z = second(torch.cat([y, x], dim=1))
    expected = third(torch.cat([z, y, x], dim=1))
    assert torch.equal(block(x), expected)
    assert expected.shape == (4, 3, 6, 8)


def test_batches_are_normalised_over_frames_and_bins() -> None:
    """Also where the original folds frames into the batch: then over batch, frames and bins."""
    block = Tdc(2, 3, 1, 3, "identity")
    y = block(torch.randn(4, 2, 6, 8))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("nb_units", [None, 4])
@torch.no_grad()
def test_fully_connected_layers_are_along_frequency(nb_units: int | None) -> None:
    block = make_tdf(nb_channels=2, nb_outputs=7, nb_units=nb_units)
    drop(block)
    x = torch.randn(4, 2, 6, 8)
    y = x
    layers = list(block.tif)
    assert len(layers) == (3 if nb_units is None else 6)
    for linear, norm in zip(layers[0::3], layers[1::3], strict=True):
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.BatchNorm2d)
        y = torch.einsum("bctf,gf->bctg", y, linear.weight) + linear.bias
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        y = (y - mean.reshape(-1, 1, 1)) / (var.reshape(-1, 1, 1) + 1e-5).sqrt()
        y = torch.tanh(y * norm.weight.reshape(-1, 1, 1) + norm.bias.reshape(-1, 1, 1))
    torch.testing.assert_close(block(x), y)
    assert y.shape == (4, 2, 6, 7)


@torch.no_grad()
def test_blocks_are_added_up() -> None:
    x = torch.randn(4, 2, 6, 8)
    tfc, tdf = Tfc(2, 3, 2, (3, 3), "tanh"), make_tdf()
    drop(both := TfcTdf(tfc, tdf))
    torch.testing.assert_close(both(x), tfc(x) + tdf(tfc(x)))
    drop(block := make_tdc_rnn())
    y = block.bn(block.tic(x))
    states = torch.stack([block.rnn(y[:, c])[0] for c in range(3)], dim=1)
    torch.testing.assert_close(block(x), y + block.tif_f1_to_f2(states))


@torch.no_grad()
def test_channels_are_mixed_after_fully_connected_layers() -> None:
    block = MixingTdf(tdf := make_tdf(nb_channels=4), 4, 3).eval()
    x = torch.randn(2, 4, 6, 8)
    mixing = block[1]
    assert isinstance(mixing, nn.Conv2d)
    assert mixing.bias is not None
    expected = torch.einsum("bitf,oi->botf", tdf(x), mixing.weight[..., 0, 0]) + mixing.bias.reshape(-1, 1, 1)
    torch.testing.assert_close(block(x), expected)


@torch.no_grad()
def test_recurrence_is_float32_under_autocast() -> None:
    drop(block := make_tdc_rnn(nb_layers=2))
    seen: list[Tensor] = []
    block.rnn.register_forward_hook(lambda _, inputs, outputs: seen.extend([inputs[0], outputs[0]]))
    with torch.autocast("cpu", torch.bfloat16):
        y = block(torch.randn(4, 2, 6, 8))
    assert [each.dtype for each in seen] == [torch.float32, torch.float32]
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name: str) -> None:
    x = torch.randn(2, 3, 4, 5)
    function = {"leaky-relu": "leaky_relu", "identity": "dropout"}.get(name, name)
    arguments = {"softmax": {"dim": 1}, "identity": {"p": 0.0}}.get(name, {})
    assert torch.equal(ACTIVATIONS[name]()(x), getattr(F, function)(x, **arguments))


# Initialisation


@pytest.mark.parametrize(
    ("activation", "variance"),
    [
        *((name, 2 / (20 * 9)) for name in ("relu", "leaky-relu", "elu", "gelu")),
        *((name, 2 / ((20 + 40) * 9)) for name in ("sigmoid", "tanh", "identity", "softmax")),
    ],
)
def test_weights_are_drawn_by_what_follows(activation: str, variance: float) -> None:
    conv = nn.Conv2d(20, 40, 3)
    assert conv.bias is not None
    bias = conv.bias.clone()
    draw_weights(conv, activation)
    weight = conv.weight.detach()
    assert float(weight.var()) == pytest.approx(variance, rel=0.08)
    assert float(weight.abs().max()) > 3 * math.sqrt(variance)
    assert torch.equal(conv.bias, bias)


@pytest.mark.parametrize(
    ("nb_inputs", "nb_units", "rows"),
    [
        (6, 3, [[0, 1], [2, 3], [4, 5]]),
        (7, 3, [[0, 1, 2], [3, 4], [5, 6]]),
        (4, 4, [[0], [1], [2], [3]]),
        (3, 6, [[0], [0], [1], [1], [2], [2]]),
        (3, 7, [[0], [0], [0], [1], [1], [2], [2]]),
    ],
)
def test_averages_are_of_neighbours(nb_inputs: int, nb_units: int, rows: list[list[int]]) -> None:
    block = Tdf(2, nb_inputs, nb_inputs, nb_units, bias=True, affine=False, activation="relu")
    linear, back = block.tif[0], block.tif[3]
    assert isinstance(linear, nn.Linear)
    assert isinstance(back, nn.Linear)
    bias = linear.bias.clone()
    block.set_averages()
    expected = torch.zeros(nb_units, nb_inputs)
    for row, columns in zip(expected, rows, strict=True):
        row[columns] = 1 / math.sqrt(math.ceil(max(nb_inputs / nb_units, nb_units / nb_inputs)))
    torch.testing.assert_close(linear.weight, expected)
    torch.testing.assert_close(back.weight, expected.T)
    assert torch.equal(linear.bias, bias)
