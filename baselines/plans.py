"""Plans: what is trained on what, and how.

Reads a Spleeter configuration, and looks at the data: a spectrogram cache, or a dataset's 16-bit wav files. Writes
nothing.
"""

import dataclasses
import difflib
import hashlib
import json
import shutil
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from baselines import models
from baselines.block_unet import BlockUnetSettings, find_receptive_field
from baselines.data import Batches, SpectrogramBatches
from baselines.long_input import LongInputSettings
from baselines.losses import check_loss, needs_waves
from baselines.recipes import Recipe, change_recipe, find_recipe, follow_config
from baselines.spleeter_settings import make_settings
from baselines.wave_batches import Mixing, WaveBatches
from musdbkit.cache import MIXTURE, Cache, open_cache
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.musdb18 import STEMS, pick_validation, split_of
from musdbkit.segments import Reader
from musdbkit.spleeter_config import SpleeterConfig, read_config
from musdbkit.waves import Waves, open_waves

ALIASES: Final = {
    "T": "nb_frames",
    "F": "nb_bins",
    "num_frame": "nb_frames",
    "bn_factor_tdf": "bn_factor",
    "bias_tdf": "bias",
    "tfc_tdf_bias": "bias",
    "tdf_activation": "activation",
    "tdc_activation": "activation",
    "tfc_activation": "activation",
    "tfc_tdf_activation": "activation",
    "tdc_rnn_activation": "activation",
    "train_loss": "loss",
    "val_loss": "valid_loss",
    "loss_raw_scale": "raw_weight",
    "loss_spec_scale": "spec_weight",
    "loss_raw_mode": "raw_part",
    "loss_spec_mode": "spec_part",
    "patience": "stop_patience",
    "optimizer": "optimiser",
    "lr": "learning_rate",
}
"""The words of Spleeter and of the U-Nets' authors for settings, which may be given instead."""


_TIE: Final = "\u00a0"  # a space at which no line ends


@dataclass(frozen=True)
class Plan:
    """What is trained on what, and how.

    Attributes
    ----------
    model : one of `models.MODELS`.
    settings : the model's.
    recipe : how it is trained.
    data : folder of the cache or of the dataset's wav files, as the model reads.
    """

    model: str
    settings: Any
    recipe: Recipe
    data: Path


def make_plan(
    model: str | None = None,
    config: Path | SpleeterConfig | None = None,
    *,
    data: Path,
    recipe: str = "paper",
    targets: tuple[str, ...] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """Return what to train, from a Spleeter configuration or from a model's name.

    Parameters
    ----------
    model : one of `models.MODELS`.
    config : Spleeter's JSON, or what it says, in place of a model's name.
    data : folder of the cache, or for models that read waves, of the dataset.
    recipe : one of `recipes.list_recipes(model)`, or the path of a JSON file of one's own.
    targets : what is estimated; by default as the configuration says, or all stems.
    changes : other values, as JSON has them, of fields of the recipe or of the model's settings, or of `ALIASES`.

    Raises
    ------
    ParameterError
        There is no such model, recipe or field, or it cannot have that value.
    DatasetError
        The configuration cannot be read.
    """
    if (model is None) == (config is None):
        raise ParameterError("expected a model's name or a configuration, not both and not neither")
    if config is not None:
        found = read_config(config) if isinstance(config, Path) else config
        model = "spleeter-blstm" if found.model.startswith("blstm") else "spleeter-unet"
        chosen, overrides = find_recipe(model, recipe)
        chosen = follow_config(chosen, found)
        settings = make_settings(found, **overrides)
    else:
        assert model is not None
        kind = models.find_kind(model)
        chosen, overrides = find_recipe(model, recipe)
        settings = kind.settings(**overrides)
    recipe_fields = {entry.name for entry in dataclasses.fields(Recipe)} - {"name"}
    document = models.settings_to_json(settings)
    changes = _translate(changes or {}, recipe_fields | document.keys()) | (
        {"targets": list(targets)} if targets is not None else {}
    )
    chosen = change_recipe(chosen, {name: value for name, value in changes.items() if name in recipe_fields})
    if unknown := [name for name in changes if name not in recipe_fields | document.keys()]:
        known = sorted(recipe_fields | document.keys())
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        raise ParameterError(f"{model}: no setting {unknown[0]}: {hint}")
    document |= {name: value for name, value in changes.items() if name not in recipe_fields}
    plan = Plan(model, models.settings_from_json(model, document), chosen, data)
    if hasattr(plan.settings, "input_samples") != (chosen.segment_seconds is None):
        own = "null: the model's own settings say how long an input is" if chosen.segment_seconds else "seconds"
        raise ParameterError(f"{model}: segment_seconds is {json.dumps(chosen.segment_seconds)}, expected {own}")
    for loss in filter(None, (chosen.loss, chosen.valid_loss)):
        try:
            check_loss(
                loss,
                chosen,
                plan.settings.training_stft,
                waves=models.MODELS[model].reads == "waves",
                magnitudes=not _is_complex(plan.settings),
            )
        except ParameterError as error:
            raise ParameterError(f"{model}: {error}") from error
    return plan


def _is_complex(settings: Any) -> bool:
    """Return whether a model takes and gives complex spectra."""
    return isinstance(settings, BlockUnetSettings) and settings.spec_type == "complex"


def _translate(changes: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return changes by our names, where there are such settings."""
    if "name" in changes:
        raise ParameterError("name is the recipe's own and cannot be set: choose a recipe with --recipe")
    translated: dict[str, Any] = {}
    for name, value in changes.items():
        ours = ALIASES.get(name, name)
        ours = ours if ours in known else name
        if ours in translated:
            raise ParameterError(f"{name}: {ours} is given twice, by both of its names: give it once")
        translated[ours] = value
    return translated


def _example_seconds(plan: Plan) -> float:
    """Return how long an example is that is cut from waves."""
    if plan.recipe.segment_seconds is not None:
        return plan.recipe.segment_seconds
    return float(plan.settings.input_samples / plan.settings.sample_rate)


def _open_data(plan: Plan) -> Reader:
    """Return the reader of what a model is trained on, with tracks to validate on where there are enough."""
    if models.MODELS[plan.model].reads == "waves":
        waves = open_waves(plan.data, signals=(MIXTURE, *STEMS))
        valid = {track for track in waves.tracks if split_of(track, "train") == "valid"}
        least = WaveBatches.least_samples(round(_example_seconds(plan) * waves.sample_rate), _find_mixing(plan))
        usable = [track for track in waves.tracks if waves.nb_samples(track) >= least]
        if not valid and len(usable) > 1:
            valid = pick_validation(usable)
        waves.splits |= dict.fromkeys(valid, ("valid",))
        return waves
    cache = open_cache(plan.data)
    p, s = cache.parameters, plan.settings
    for name in ("n_fft", "hop_length", "sample_rate", "nb_channels"):
        if getattr(p, name) != getattr(s, name):
            raise ParameterError(
                f"{plan.data}: {name} is {getattr(p, name)}, expected {getattr(s, name)}: build another cache"
            )
    return cache


def make_batches(plan: Plan, device: torch.device) -> Batches:
    """Return the batches of a plan."""
    reader, recipe, settings = _open_data(plan), plan.recipe, plan.settings
    if not reader.in_split("train"):
        raise DatasetError(f"{plan.data}: no tracks of split train: nothing to train on")
    if isinstance(reader, Waves):
        nb_channels = reader.array(reader.tracks[0], MIXTURE).shape[1]
        for name, found in (("sample_rate", reader.sample_rate), ("nb_channels", nb_channels)):
            if found != (wanted := getattr(settings, name)):
                raise ParameterError(
                    f"{plan.data}: {name} is {found}, expected {wanted}: write the files anew, or train with "
                    f"--set {name}={found}"
                )
        return WaveBatches(
            reader,
            settings.targets,
            transform=settings.training_stft,
            segment_seconds=_example_seconds(plan),
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            device=device,
            mixing=_find_mixing(plan),
        )
    return SpectrogramBatches(
        reader,  # type: ignore[arg-type]
        settings.targets,
        nb_frames=settings.nb_frames,
        nb_bins=settings.nb_bins,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        device=device,
        nb_chunks=recipe.nb_chunks,
        chunk_seconds=recipe.chunk_seconds,
    )


def _find_mixing(plan: Plan) -> Mixing:
    """Return how examples are put together."""
    recipe, settings = plan.recipe, plan.settings
    return Mixing(
        recipe.mixing,
        recipe.least_gain,
        recipe.most_gain,
        recipe.swap,
        recipe.remix_group,
        shift=settings.shift_samples if isinstance(settings, LongInputSettings) else 0,
        complex=_is_complex(settings),
        with_waves=needs_waves(recipe.loss) or (recipe.valid_loss is not None and needs_waves(recipe.valid_loss)),
        whole=recipe.segment_seconds is not None,
    )


def find_epoch_steps(recipe: Recipe, batches: Batches, world_size: int) -> int:
    """Return the steps of an epoch."""
    if recipe.epoch_steps is not None:
        return recipe.epoch_steps
    if recipe.epoch_segments is not None:
        nb_segments = len(batches.tracks) * recipe.epoch_segments
    elif isinstance(batches, WaveBatches):
        nb_segments = batches.nb_segments
    else:
        raise ParameterError("epoch_segments is null, expected a number for models that read a cache")
    return max(1, round(nb_segments / (recipe.batch_size * world_size)))


def find_max_steps(recipe: Recipe, epoch_steps: int) -> int | None:
    """Return the steps that a recipe takes at most."""
    limits = [recipe.max_steps, recipe.max_epochs and recipe.max_epochs * epoch_steps]
    return min((limit for limit in limits if limit is not None), default=None)


def describe(plan: Plan, run: Path, *, replace: bool = False) -> dict[str, Any]:
    """Return what training would do, without doing it.

    Parameters
    ----------
    plan : what to train.
    run : the folder that would be written.
    replace : whether a run that is there may be replaced or gone on with.

    Raises
    ------
    DatasetError, ParameterError
        As `train`.
    """
    models.check_free(run, replace)
    with torch.device("meta"):
        network = models.create(plan.model, plan.settings)
    batches = make_batches(plan, torch.device("cpu"))
    nb_weights = sum(tensor.numel() for tensor in network.state_dict().values())
    epoch_steps = find_epoch_steps(plan.recipe, batches, 1)
    context = find_receptive_field(plan.settings) if isinstance(plan.settings, BlockUnetSettings) else None
    return {
        "model": plan.model,
        "run": str(run),
        "nb_parameters": sum(tensor.numel() for tensor in network.parameters()),
        "nb_context_frames": context,
        "nb_tracks": {"train": len(batches.tracks), "valid": len(batches.valid_tracks)},
        "valid_tracks": list(batches.valid_tracks),
        "left_out": list(batches.left_out),
        "nb_data_bytes": batches.nb_bytes,
        "nb_run_bytes": 4 * nb_weights * (5 if plan.recipe.ema_decay else 4),
        "nb_free_bytes": shutil.disk_usage(next(each for each in (run, *run.absolute().parents) if each.is_dir())).free,
        "epoch_steps": epoch_steps,
        "valid_steps": epoch_steps * plan.recipe.valid_epochs,
        "max_steps": find_max_steps(plan.recipe, epoch_steps),
        "settings": models.settings_to_json(plan.settings),
        "recipe": models.settings_to_json(plan.recipe),
    }


def fingerprint(reader: Reader) -> str:
    """Return a hash of which tracks there are, how long, and for what, and of what a cache's arrays are."""
    tracks = [(track, reader.nb_samples(track), reader.splits[track]) for track in reader.tracks]
    document = [tracks, dataclasses.asdict(reader.parameters) if isinstance(reader, Cache) else reader.sample_rate]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def describe_lines(described: Mapping[str, Any]) -> list[str]:
    """Return what `describe` found, for reading."""
    tracks = described["nb_tracks"]
    lines = [
        f"model: {described['model']}, {described['nb_parameters']:,} parameters, "
        f"of {', '.join(described['settings']['targets'])}",
        f"tracks: {tracks['train']} to train on, {tracks['valid']} to validate on; "
        f"{described['nb_data_bytes'] / 1e9:.2f} GB of data",
        f"steps: {described['max_steps'] or 'no end'}, validation every {described['valid_steps']}",
        f"to write: {described['nb_run_bytes'] / 1e9:.2f} GB; {described['nb_free_bytes'] / 1e9:.2f} GB free",
    ]
    if (context := described["nb_context_frames"]) is not None:
        of = f"the {described['settings']['nb_frames']} of a segment"
        lines.insert(1, f"an output frame depends on {context} frames at most, if they are of {of}")
    for label, names in (
        ("validation", described["valid_tracks"]),
        ("left out, too short for a segment", described["left_out"]),
    ):
        if names:
            lines.append(f"{label}: {', '.join(names)}")
    for part in ("settings", "recipe"):
        values = (f"{name} {_to_text(value)}".replace(" ", _TIE) for name, value in described[part].items())
        wrapped = textwrap.wrap(f"{part}: {', '.join(values)}", 80, subsequent_indent="  ", break_on_hyphens=False)
        lines += [line.replace(_TIE, " ") for line in wrapped]
    return lines


def _to_text(value: Any) -> str:
    """Return a JSON value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)
