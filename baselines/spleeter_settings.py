"""The settings of our networks from a Spleeter configuration: Spleeter's words for its models end here.

Reads a `SpleeterConfig` (see `musdbkit.spleeter_config`). Writes nothing.
"""

import dataclasses
import json
from typing import Any

from baselines.spleeter_blstm import BlstmSettings
from baselines.spleeter_unet import SpleeterSettings, UnetSettings
from musdbkit.errors import ParameterError
from musdbkit.spleeter_config import SpleeterConfig

_OUTPUTS = {"unet.unet": "sigmoid", "unet.softmax_unet": "softmax"}
_BLSTM = "blstm.blstm"


def make_settings(config: SpleeterConfig, **overrides: Any) -> UnetSettings | BlstmSettings:
    """Return the settings of the networks that a Spleeter configuration describes.

    Where the configuration says nothing, it is what Spleeter does itself; what it has no words for (`overlap`,
    `batch_norm`, `dropout`) is by default as in the settings.

    Parameters
    ----------
    config : Spleeter's configuration.
    **overrides : fields of the settings that shall have other values.

    Raises
    ------
    ParameterError
        The model is of a type that we have no network for, or one of its parameters cannot be used.
    """
    names = {field.name for field in dataclasses.fields(SpleeterSettings)}
    common = {name: value for name, value in vars(config).items() if name in names}
    common["mask_exponent"] = float(config.mask_exponent)
    params = config.model_params
    if config.model == _BLSTM:
        return BlstmSettings(**common | {"hidden_size": params.get("lstm_units", 250)} | overrides)
    if config.model not in _OUTPUTS:
        known = ", ".join((*_OUTPUTS, _BLSTM))
        raise ParameterError(f"model type {config.model}: expected one of {known}")
    filters = params.get("conv_n_filters", list(UnetSettings.filters))
    if not isinstance(filters, list) or len(filters) != len(UnetSettings.filters):
        raise ParameterError(f"conv_n_filters is {json.dumps(filters)}, expected {len(UnetSettings.filters)} numbers")
    # Spleeter takes any other name for its default: slope 0.2 in the encoder, none in the decoder.
    encoder, decoder = str(params.get("conv_activation")), str(params.get("deconv_activation"))
    special = {
        "filters": tuple(filters),
        "encoder_activation": {"ReLU": "relu", "ELU": "elu"}.get(encoder, "leaky-relu"),
        "decoder_activation": {"LeakyReLU": "leaky-relu", "ELU": "elu"}.get(decoder, "relu"),
        "output": _OUTPUTS[config.model],
    }
    return UnetSettings(**common | special | overrides)
