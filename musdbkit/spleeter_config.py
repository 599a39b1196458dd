"""Spleeter's configuration in our words.

Reads `musdb_<N>stems.json`, or any configuration that Spleeter 2.4.2 takes. Writes nothing. Spleeter's words
(frame_length, T, F, ...) end here: `SpleeterConfig` has ours.
"""

import json
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from musdbkit.errors import DatasetError, ParameterError

_COUNT: Final = "a whole number above 0"
_AMOUNT: Final = "a number above 0"

_KINDS: Final[dict[str, Callable[[Any], bool]]] = {
    "a path": lambda value: isinstance(value, str) and value != "",
    "a path or null": lambda value: value is None or (isinstance(value, str) and value != ""),
    "a name": lambda value: isinstance(value, str) and value != "",
    "a list of names": lambda value: isinstance(value, list) and value != [] and all(isinstance(v, str) for v in value),
    _COUNT: lambda value: type(value) is int and value > 0,
    _AMOUNT: lambda value: type(value) in (int, float) and 0 < value < math.inf,
    "a whole number": lambda value: type(value) is int,
    "zeros or average": lambda value: value in ("zeros", "average"),
    "L1_mask or weighted_L1_mask": lambda value: value in ("L1_mask", "weighted_L1_mask"),
    "true or false": lambda value: type(value) is bool,
    "an object with type and params": lambda value: (
        isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("params"), dict)
    ),
}
"""What a value of the configuration may be."""


def _key(key: str, kind: str) -> dict[str, str]:
    """Return what a field of `SpleeterConfig` holds beside its value: Spleeter's key, and which of `_KINDS`."""
    return {"key": key, "kind": kind}


@dataclass(frozen=True)
class SpleeterConfig:
    """A Spleeter configuration in our words; defaults are what Spleeter itself takes where a key is missing.

    Attributes
    ----------
    train_csv, validation_csv : CSVs of tracks.
    model_dir : folder of checkpoints.
    mixture : name of the mixture's column, less `_path`.
    targets : names of the targets' columns, less `_path`, in the order of the model's outputs.
    sample_rate : Hz.
    n_fft, hop_length : samples.
    nb_frames, nb_bins : size of a training example; bins count from 0 Hz.
    nb_channels : channels of every file.
    mask_exponent : power of the magnitudes that a mask is the ratio of.
    mask_extension : what a mask is above `nb_bins`: `zeros` or `average`.
    max_steps : number of gradient steps.
    eval_seconds : least time between two evaluations, in seconds.
    seed : seed of shuffling, crops and weights.
    checkpoint_steps, summary_steps : steps between checkpoints, and between log entries.
    model, model_params : Spleeter's name of the network, and its settings.
    learning_rate : Adam's step.
    batch_size : examples in a batch.
    nb_chunks : excerpts taken of each track.
    chunk_seconds : length of such an excerpt in seconds.
    wiener : whether to separate with a multichannel Wiener filter.
    training_cache, validation_cache : Spleeter's caches of spectrograms.
    optimiser : `Adam`, `Adadelta` or `SGD`; Spleeter takes any other name for Adam.
    loss : `L1_mask` or `weighted_L1_mask`.
    other : keys that are none of these, which Spleeter ignores or which belong to another of its models.
    """

    train_csv: Path = field(metadata=_key("train_csv", "a path"))
    validation_csv: Path = field(metadata=_key("validation_csv", "a path"))
    model_dir: Path = field(metadata=_key("model_dir", "a path"))
    mixture: str = field(metadata=_key("mix_name", "a name"))
    targets: tuple[str, ...] = field(metadata=_key("instrument_list", "a list of names"))
    sample_rate: int = field(metadata=_key("sample_rate", _COUNT))
    n_fft: int = field(metadata=_key("frame_length", _COUNT))
    hop_length: int = field(metadata=_key("frame_step", _COUNT))
    nb_frames: int = field(metadata=_key("T", _COUNT))
    nb_bins: int = field(metadata=_key("F", _COUNT))
    nb_channels: int = field(metadata=_key("n_channels", _COUNT))
    mask_exponent: float = field(metadata=_key("separation_exponent", _AMOUNT))
    mask_extension: str = field(metadata=_key("mask_extension", "zeros or average"))
    max_steps: int = field(metadata=_key("train_max_steps", _COUNT))
    eval_seconds: float = field(metadata=_key("throttle_secs", _AMOUNT))
    seed: int = field(metadata=_key("random_seed", "a whole number"))
    checkpoint_steps: int = field(metadata=_key("save_checkpoints_steps", _COUNT))
    summary_steps: int = field(metadata=_key("save_summary_steps", _COUNT))
    model: str = field(metadata=_key("model", "an object with type and params"))
    model_params: dict[str, Any]
    learning_rate: float = field(metadata=_key("learning_rate", _AMOUNT))
    batch_size: int = field(default=8, metadata=_key("batch_size", _COUNT))
    nb_chunks: int = field(default=2, metadata=_key("n_chunks_per_song", _COUNT))
    chunk_seconds: float = field(default=20.0, metadata=_key("chunk_duration", _AMOUNT))
    wiener: bool = field(default=False, metadata=_key("MWF", "true or false"))
    training_cache: Path | None = field(default=None, metadata=_key("training_cache", "a path or null"))
    validation_cache: Path | None = field(default=None, metadata=_key("validation_cache", "a path or null"))
    optimiser: str = field(default="Adam", metadata=_key("optimizer", "a name"))
    loss: str = field(default="L1_mask", metadata=_key("loss_type", "L1_mask or weighted_L1_mask"))
    other: dict[str, Any] = field(default_factory=dict)

    @property
    def least_samples(self) -> int:
        """Length in samples of the shortest track that Spleeter gets an example from.

        Spleeter frames without padding and drops an excerpt of fewer than `nb_frames` frames. It takes excerpts of
        at most `chunk_seconds` (12 s in validation), both long enough, and of a track shorter than that at least one
        starts at 0: in training the last, in validation the only one. So the track itself must hold `nb_frames` frames.
        """
        return self.n_fft + (self.nb_frames - 1) * self.hop_length


def read_config(path: Path) -> SpleeterConfig:
    """Return a Spleeter configuration.

    Its paths are relative to the folder Spleeter is started in, which is not known here; they are as in the file.

    Raises
    ------
    DatasetError
        There is no such file, or it is not JSON.
    ParameterError
        A key is missing or has a value that cannot be used.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    return translate(settings, str(path))


def translate(settings: Any, source: str) -> SpleeterConfig:
    """Return a configuration in our words."""
    if not isinstance(settings, dict):
        raise ParameterError(f"{source}: a {type(settings).__name__}, expected an object with Spleeter's keys")
    values: dict[str, Any] = {}
    keys = {entry.metadata["key"]: entry for entry in fields(SpleeterConfig) if entry.metadata}
    for key, entry in keys.items():
        kind = entry.metadata["kind"]
        if key in settings:
            value = settings[key]
            if not _KINDS[kind](value):
                raise ParameterError(f"{source}: {key} is {json.dumps(value)}, expected {kind}")
            values[entry.name] = Path(value) if value is not None and kind.startswith("a path") else value
        elif entry.default is MISSING:
            raise ParameterError(f"{source}: no {key}, which Spleeter needs")
    values["targets"] = tuple(values["targets"])
    values |= {"model": settings["model"]["type"], "model_params": settings["model"]["params"]}
    config = SpleeterConfig(**values, other={key: settings[key] for key in settings if key not in keys})
    if config.nb_bins > config.n_fft // 2 + 1:
        raise ParameterError(f"{source}: F is {config.nb_bins}, expected at most frame_length / 2 + 1")
    if (config.chunk_seconds * config.sample_rate - config.n_fft) / config.hop_length < config.nb_frames:
        raise ParameterError(
            f"{source}: T is {config.nb_frames}, but chunk_duration ({config.chunk_seconds} s) has not as many frames"
        )
    return config
