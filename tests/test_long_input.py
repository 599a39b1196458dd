"""Settings of networks for inputs of one length: lengths, shifts, what is refused."""

import dataclasses
import math
from typing import Any

import pytest

from baselines.long_input import LongInputSettings
from musdbkit.errors import ParameterError
from musdbkit.stft import PRESETS


@pytest.mark.parametrize(
    ("seconds", "nb_samples", "nb_frames", "nb_block_frames"),
    [
        (7.0, 261_600, 256, 301),
        (20.0, 818_512, 800, 861),
        (40.0, 1_703_584, 1664, 1722),
        (60.0, 2_582_512, 2522, 2583),
    ],
)
def test_examples_are_as_long_as_the_originals(
    seconds: float, nb_samples: int, nb_frames: int, nb_block_frames: int
) -> None:
    settings = LongInputSettings(input_seconds=seconds)
    assert settings.input_samples == nb_samples
    assert settings.training_stft.nb_frames(nb_samples) == nb_frames
    assert settings.nb_block_frames == nb_block_frames


@pytest.mark.parametrize(
    ("seconds", "shift", "expected"),
    [
        (10.0, None, 47100),
        (39.9, None, 63488),
        (90.0, None, 63488),
        (3.0, None, 47100),
        (2.0, None, 44100),
        (0.1, None, 2205),
        (7.0, 0, 0),
        (7.0, 300_000, 300_000),
    ],
)
def test_shifts_are_those_of_the_nearest_shorter_length(seconds: float, shift: int | None, expected: int) -> None:
    settings = LongInputSettings(input_seconds=seconds, shift=shift)
    assert settings.shift_samples == expected
    assert settings.input_samples == round(seconds * 44100) - expected


def test_transforms_are_centred() -> None:
    settings = LongInputSettings(n_fft=64, hop_length=16)
    expected = dataclasses.replace(PRESETS["openunmix-inference"], n_fft=64, hop_length=16)
    assert settings.training_stft == settings.separation_stft == expected
    assert settings.nb_bins == 33


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ()}, r"targets is \(\), expected one name or more"),
        ({"nb_channels": 0}, "nb_channels is 0, expected a whole number, 1 or more"),
        ({"hidden_size": 512.0}, "hidden_size is 512.0, expected a whole number"),
        ({"hidden_size": 40}, "hidden_size is 40, expected a multiple of nb_heads, 16"),
        ({"nb_heads": 0}, "nb_heads is 0, expected a whole number"),
        ({"nb_layers": True}, "nb_layers is True, expected a whole number"),
        ({"feedforward_size": 0}, "feedforward_size is 0, expected a whole number"),
        ({"sample_rate": 0}, "sample_rate is 0, expected a whole number"),
        ({"wiener_window": 0}, "wiener_window is 0, expected a whole number"),
        ({"nb_wiener_iterations": -1}, "nb_wiener_iterations is -1, expected 0 or more"),
        ({"attention": "qkv"}, "attention is 'qkv', expected one of qkv2D, qkv1D, qkvg1D"),
        ({"padding": "none"}, "padding is 'none', expected one of pointwise, depthwise"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 or more and less than 1"),
        ({"attention_dropout": math.nan}, "attention_dropout is nan, expected 0 or more"),
        ({"n_fft": 63}, "n_fft is 63, expected an even number"),
        ({"hop_length": 2049}, "hop_length is 2049, expected at most half of n_fft, 2048"),
        ({"input_seconds": 0.0}, "input_seconds is 0.0, expected at least 0.046"),
        ({"input_seconds": math.inf}, "input_seconds is inf, expected at least"),
        ({"input_seconds": math.nan}, "input_seconds is nan, expected at least"),
        ({"input_seconds": 0.04}, "input_seconds is 0.04, expected at least 0.046.*, 2049 samples"),
        ({"shift": -1}, "shift is -1, expected none, or a whole number of samples, 0 or more"),
        ({"shift": 1.5}, "shift is 1.5, expected none, or a whole number of samples"),
        ({"shift": 308_700}, "shift is 308700 samples of 308700, expected it to leave 2049 or more"),
        ({"input_seconds": 0.06}, "shift is 1323 samples of 2646, expected it to leave 2049 or more"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        LongInputSettings(**options)


def test_heads_of_images_need_not_divide_features() -> None:
    assert LongInputSettings(attention="qkv2D", hidden_size=40).hidden_size == 40
