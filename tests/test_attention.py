"""Attention: sizes, values against explicit sums, lengths; the encoder's layer; positions."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.attention import (
    ATTENTIONS,
    PADDINGS,
    Attention,
    Branch1d,
    Branch2d,
    EncoderLayer,
    encode_positions,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(kind: str, **options: Any) -> Attention:
    """Return a small attention in float64."""
    values = {"hidden_size": 8, "nb_heads": 2, "dropout": 0.1, "padding": "pointwise", "temperature": "replace"}
    return ATTENTIONS[kind](**values | options).double()


def sequences(nb_frames: int, count: int = 1) -> tuple[Tensor, ...]:
    return tuple(torch.randn(count, 3, nb_frames, 8, dtype=torch.float64))


# Sizes


@pytest.mark.parametrize(("kind", "count"), [("qkv2D", 4_196_368), ("qkv1D", 1_056_768), ("qkvg1D", 1_583_616)])
def test_parameters_are_as_many_as_they_should_be(kind: str, count: int) -> None:
    with torch.device("meta"):
        attention = ATTENTIONS[kind](512, 16, 0.1, "pointwise", "replace")
    assert sum(p.numel() for p in attention.parameters()) == count


# Values


def convolve(branch: Branch1d, x: Tensor) -> Tensor:
    """Return what a branch shall give, frame by frame."""
    weight, bias = branch.depthwise.weight[:, 0], branch.depthwise.bias
    pointwise = branch.pointwise
    margin = int(branch.padding == "depthwise")
    zeros = torch.zeros(len(x), margin, x.shape[2], dtype=x.dtype)
    padded = torch.cat([zeros, x, zeros], dim=1)
    frames = [
        pointwise.bias + (bias + (padded[:, t : t + 3] * weight.T).sum(1)) @ pointwise.weight.T
        for t in range(0, padded.shape[1] - 2, branch.stride)
    ]
    edge = [pointwise.bias.expand(len(x), -1)] * (not margin)
    return torch.stack(edge + frames + edge, dim=1)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("padding", PADDINGS)
@torch.no_grad()
def test_branches_are_convolutions_of_each_feature_and_then_of_all(stride: int, padding: str) -> None:
    branch = Branch1d(8, stride, padding).double()
    (x,) = sequences(13)
    torch.testing.assert_close(branch(x), convolve(branch, x))


@torch.no_grad()
def test_frames_at_the_ends_hold_the_bias_where_the_original_pads() -> None:
    (x,) = sequences(14)
    for stride in (1, 4):
        branch = Branch1d(8, stride, "pointwise").double()
        made = branch(x)
        for edge in (made[:, 0], made[:, -1]):
            torch.testing.assert_close(edge, branch.pointwise.bias.expand(3, -1))
        assert not torch.allclose(made[:, 1], made[:, 0])
        other = Branch1d(8, stride, "depthwise").double()
        assert not torch.allclose(other(x)[:, 0], other.pointwise.bias)


@pytest.mark.parametrize("nb_frames", [1, 2, 3, 4, 5, 6, 7, 8, 9, 40, 301, 801])
@torch.no_grad()
def test_branches_give_the_frames_they_should(nb_frames: int) -> None:
    (x,) = sequences(nb_frames)
    for padding in PADDINGS:
        assert Branch1d(8, 1, padding).double()(x).shape[1] == nb_frames
    keys = Branch1d(8, 4, "pointwise").double()(x).shape[1]
    assert keys == (max(nb_frames, 3) - 3) // 4 + 3
    assert Branch1d(8, 4, "depthwise").double()(x).shape[1] == math.ceil(nb_frames / 4)
    for stride in (1, 2):
        assert Branch2d(5, stride).double().eval()(x[:, None]).shape == (3, 5, math.ceil(nb_frames / stride), 8)


def test_forty_frames_have_twelve_keys() -> None:
    assert Branch1d(8, 4, "pointwise")(torch.rand(1, 40, 8)).shape[1] == 12


def explain(
    query: Tensor, key: Tensor, attended: Tensor, scale: float | Tensor, *, nb_heads: int, heads_first: bool
) -> Tensor:
    """Return attention by an explicit softmax, head by head, of tensors that hold all heads."""
    found = []
    for head in range(nb_heads):
        if heads_first:
            q, k, v = (x[:, head] for x in (query, key, attended))
        else:
            q, k, v = (x.chunk(nb_heads, dim=-1)[head] for x in (query, key, attended))
        weights = torch.einsum("btf,bsf->bts", q, k) * scale
        weights = weights.exp() / weights.exp().sum(-1, keepdim=True)
        found.append(torch.einsum("bts,bsf->btf", weights, v))
    return torch.cat(found, dim=-1)


@pytest.mark.parametrize("nb_frames", [1, 17, 40])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["none", "replace", "scale"])
@torch.no_grad()
def test_gated_attention_is_its_sums(nb_frames: int, padding: str, mode: str) -> None:
    attention = make("qkvg1D", padding=padding, temperature="replace" if mode == "none" else mode).eval()
    x, other = sequences(nb_frames, 2)
    temperature = None if mode == "none" else torch.tensor(1.7, dtype=torch.float64)
    scale = {"none": 0.5, "replace": 1.7, "scale": 0.5 * 1.7}[mode]  # heads of 4 features
    query, key, gate, value = attention.query(x), attention.key(other), attention.gate(x), attention.value(other)
    found = explain(query, key, gate, scale, nb_heads=2, heads_first=False)
    expected = torch.cat([found, value], dim=-1) @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(attention(x, other, temperature), expected)


@pytest.mark.parametrize("mode", ["none", "replace", "scale"])
@torch.no_grad()
def test_plain_attention_is_its_sums(mode: str) -> None:
    """Its temperature never replaces the root of the head's size."""
    attention = make("qkv1D", temperature="replace" if mode == "none" else mode).eval()
    x, other = sequences(17, 2)
    temperature = None if mode == "none" else torch.tensor(1.7, dtype=torch.float64)
    query, key, value = attention.query(x), attention.key(other), attention.value(other)
    found = explain(query, key, value, 0.5 if mode == "none" else 0.85, nb_heads=2, heads_first=False)
    torch.testing.assert_close(attention(x, other, temperature), found @ attention.out.weight.T + attention.out.bias)


@pytest.mark.parametrize("mode", ["none", "replace", "scale"])
@torch.no_grad()
def test_attention_of_images_is_its_sums(mode: str) -> None:
    attention = make("qkv2D", nb_heads=3, temperature="replace" if mode == "none" else mode).eval()
    x, other = sequences(17, 2)
    temperature = None if mode == "none" else torch.tensor(1.7, dtype=torch.float64)

    def project(branch: Branch2d, y: Tensor, stride: int) -> Tensor:
        convolution, norm, heads = branch
        assert isinstance(norm, nn.BatchNorm2d)
        norm.running_mean, norm.running_var = torch.rand(16).double(), 1 + torch.rand(16).double()
        image = F.conv2d(F.pad(y[:, None], (2, 2, 2, 2)), convolution.weight)[:, :, ::stride]
        image = (image - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        return torch.einsum("bctf,hc->bhtf", image, heads.weight[:, :, 0, 0])

    query, key, value = project(attention.query, x, 1), project(attention.key, other, 2), None
    value = project(attention.value, other, 2)
    assert (query.shape, key.shape) == ((3, 3, 17, 8), (3, 3, 9, 8))
    found = explain(query, key, value, (1 if mode == "none" else 1.7) / math.sqrt(8), nb_heads=3, heads_first=True)
    torch.testing.assert_close(attention(x, other, temperature), found @ attention.out.weight.T)


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("nb_frames", [1, 2, 3, 4, 6, 351])
@torch.no_grad()
def test_any_number_of_frames_will_do(kind: str, padding: str, nb_frames: int) -> None:
    attention = make(kind, padding=padding).eval()
    x, other = sequences(nb_frames, 2)
    before = x.clone(), other.clone()
    found = attention(x, other)
    assert found.shape == x.shape
    assert found.isfinite().all()
    assert torch.equal(attention(x, other), found)
    assert torch.equal(x, before[0])
    assert torch.equal(other, before[1])


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_weights_of_keys_are_dropped_in_training_only(kind: str) -> None:
    (x,) = sequences(20)
    attention = make(kind, dropout=0.5)
    assert not torch.equal(attention(x, x), attention(x, x))
    without = make(kind, dropout=0.0)
    assert torch.equal(without(x, x), without(x, x))
    attention.eval()
    assert torch.equal(attention(x, x), attention(x, x))


# The encoder's layer


@torch.no_grad()
def test_the_encoders_layer_adds_and_then_normalises() -> None:
    layer = EncoderLayer(make("qkvg1D"), 12, 0.1, F.silu).double().eval()
    for p in layer.parameters():
        p.copy_(torch.randn_like(p))
    (x,) = sequences(9)

    def normalise(y: Tensor, norm: nn.LayerNorm) -> Tensor:
        y = y - y.mean(-1, keepdim=True)
        return y / (y.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias

    temperature = torch.tensor(0.3, dtype=torch.float64)
    y = normalise(x + layer.attention(x, x, temperature), layer.norm1)
    hidden = y @ layer.linear1.weight.T + layer.linear1.bias
    made = (hidden * hidden.sigmoid()) @ layer.linear2.weight.T + layer.linear2.bias
    assert hidden.shape[-1] == 12
    torch.testing.assert_close(layer(x, temperature), normalise(y + made, layer.norm2))


# Positions


@pytest.mark.parametrize("nb_frames", [1, 351, 3000])
def test_positions_are_sines_and_cosines_for_any_length(nb_frames: int) -> None:
    found = encode_positions(nb_frames, 6, torch.device("cpu"))
    assert found.shape == (nb_frames, 6)
    assert found.dtype == torch.float32
    for t in {0, nb_frames // 2, nb_frames - 1}:
        expected = [f(t / 10000 ** (i / 6)) for i in (0, 2, 4) for f in (math.sin, math.cos)]
        assert found[t].tolist() == pytest.approx(expected, abs=1e-3)
