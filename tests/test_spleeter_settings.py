"""Settings of our networks from Spleeter's configurations."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from baselines.spleeter_blstm import BlstmSettings
from baselines.spleeter_settings import make_settings
from baselines.spleeter_unet import UnetSettings
from musdbkit.errors import ParameterError
from musdbkit.spleeter_config import SpleeterConfig, read_config

TEMPLATES = Path(__file__).parent.parent / "templates"


def changed(tmp_path: Path, **values: Any) -> SpleeterConfig:
    """Return the configuration of 2 stems with other values."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads((TEMPLATES / "spleeter_2stems.json").read_text()) | values))
    return read_config(path)


def test_the_templates_are_the_published_models() -> None:
    two, four = (make_settings(read_config(TEMPLATES / f"spleeter_{stems}stems.json")) for stems in (2, 4))
    expected = UnetSettings(
        targets=("vocals", "accompaniment"), encoder_activation="leaky-relu", decoder_activation="relu"
    )
    assert two == expected
    assert type(two.mask_exponent) is float
    assert four == UnetSettings()


def test_every_value_is_taken(tmp_path: Path) -> None:
    config = changed(
        tmp_path,
        instrument_list=["b", "a", "c"],
        n_channels=1,
        T=128,
        F=100,
        separation_exponent=1.5,
        mask_extension="average",
        sample_rate=22050,
        frame_length=2048,
        frame_step=512,
        model={"type": "unet.softmax_unet", "params": {"conv_n_filters": [1, 2, 3, 4, 5, 6]}},
    )
    expected = UnetSettings(
        targets=("b", "a", "c"),
        nb_channels=1,
        nb_frames=128,
        nb_bins=100,
        mask_exponent=1.5,
        mask_extension="average",
        sample_rate=22050,
        n_fft=2048,
        hop_length=512,
        filters=(1, 2, 3, 4, 5, 6),
        encoder_activation="leaky-relu",
        decoder_activation="relu",
        output="softmax",
    )
    assert make_settings(config) == expected
    changes = {"overlap": 0.0, "batch_norm": "frozen", "dropout": 0.0, "nb_frames": 64}
    assert make_settings(config, **changes) == dataclasses.replace(expected, **changes)


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [
        ("ReLU", "relu", "relu"),
        ("ELU", "elu", "elu"),
        ("LeakyReLU", "leaky-relu", "leaky-relu"),
        ("elu", "leaky-relu", "relu"),  # Spleeter takes what it does not know for its defaults
    ],
)
def test_activations(tmp_path: Path, name: str, encoder: str, decoder: str) -> None:
    model = {"type": "unet.unet", "params": {"conv_activation": name, "deconv_activation": name}}
    settings = make_settings(changed(tmp_path, model=model))
    assert isinstance(settings, UnetSettings)
    assert (settings.encoder_activation, settings.decoder_activation) == (encoder, decoder)


def test_recurrent_networks(tmp_path: Path) -> None:
    config = changed(tmp_path, model={"type": "blstm.blstm", "params": {}}, T=100)
    assert make_settings(config) == BlstmSettings(targets=("vocals", "accompaniment"), nb_frames=100)
    config = changed(tmp_path, model={"type": "blstm.blstm", "params": {"lstm_units": 32}})
    assert make_settings(config, overlap=0.0) == BlstmSettings(
        targets=("vocals", "accompaniment"), hidden_size=32, overlap=0.0
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"type": "unet.u", "params": {}}, "model type unet.u: expected one of unet.unet, unet.softmax_unet, blstm"),
        ({"type": "unet.unet", "params": {"conv_n_filters": [1, 2]}}, r"conv_n_filters is \[1, 2\], expected 6"),
        ({"type": "unet.unet", "params": {"conv_n_filters": None}}, "conv_n_filters is null, expected 6"),
        ({"type": "blstm.blstm", "params": {"lstm_units": "9"}}, "hidden_size is 9, expected a whole number"),
    ],
)
def test_what_we_have_no_network_for_is_refused(tmp_path: Path, model: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_settings(changed(tmp_path, model=model))
