"""Multiply-adds: those of a formula, for convolutions, matrices, recurrent layers and attention."""

from typing import Any

import pytest
import torch

from baselines import models
from baselines.cost import count_multiply_adds


def test_recurrent_layers() -> None:
    settings = models.settings_from_json("spleeter-blstm", {"targets": ["vocals"], "nb_bins": 20, "hidden_size": 8})
    size, frames = 40, 12
    layers = 2 * 4 * 8 * (size + 8) + 2 * 2 * 4 * 8 * (16 + 8)
    assert count_multiply_adds("spleeter-blstm", settings, frames) == frames * (layers + 16 * size)


def test_open_unmix() -> None:
    document: dict[str, Any] = {"targets": ["vocals", "bass"], "hidden_size": 8, "n_fft": 64, "hop_length": 16}
    settings = models.settings_from_json("open-unmix", document)
    nb_in, nb_out = 2 * settings.nb_input_bins, 2 * settings.nb_bins
    lstm = 3 * 2 * 4 * 4 * (8 + 4)
    each = nb_in * 8 + lstm + 16 * 8 + 8 * nb_out
    bias = nb_in * 8  # of the shift of the input, once
    assert count_multiply_adds("open-unmix", settings, 10) == 2 * (10 * each + bias)


def test_convolutions() -> None:
    """A block U-Net of one TFC block: the first convolution, the block, the last."""
    document: dict[str, Any] = {"targets": ["vocals"], "block": "tfc", "n_blocks": 1, "internal_channels": 3}
    document |= {"n_internal_layers": 2, "n_fft": 32, "hop_length": 16, "nb_frames": 64, "trim": 16}
    settings = models.settings_from_json("block-unet", document)
    frames = 64
    first = 4 * 2 * 3 * 16
    block = 9 * (3 * 3 + 6 * 3) * 16
    last = 3 * 2 * 4 * 17
    assert count_multiply_adds("block-unet", settings, frames) == frames * (first + block + last)


@pytest.mark.parametrize("nb_frames", [8, 16])
def test_attention(nb_frames: int) -> None:
    """What grows with the square of the length is the two products of attention."""
    document: dict[str, Any] = {"targets": ["vocals"], "hidden_size": 16, "nb_heads": 4, "n_fft": 64, "nb_layers": 1}
    settings = models.settings_from_json("umx-transformer", document | {"attention": "qkv2D", "hop_length": 16})
    counts = [count_multiply_adds("umx-transformer", settings, nb_frames * k) for k in (1, 2, 4)]
    once = 2 * settings.nb_input_bins * 16  # of the shift of the input
    square = 2 * 4 * 16 * nb_frames * (nb_frames // 2)  # half as many keys as queries, heads as wide as the network
    assert counts[1] - 2 * counts[0] == 2 * square - once
    assert counts[2] - 2 * counts[1] == 8 * square - once


def test_weights_that_are_drawn_do_not_move_what_is_drawn_next() -> None:
    document: dict[str, Any] = {"targets": ["vocals"], "hidden_size": 8, "n_fft": 64, "hop_length": 16}
    settings = models.settings_from_json("open-unmix", document)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    count_multiply_adds("open-unmix", settings, 4)
    assert torch.equal(torch.rand(3), expected)
