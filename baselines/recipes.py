"""Recipes: how each model is trained, as published and as we recommend.

Reads JSON files: `templates/recipes/<model>.json`, which holds all recipes of a model, and a user's own, which holds
one. A recipe is data: its fields are what a run's JSON holds.

| file | what it holds |
|---|---|
| `templates/recipes/<model>.json` | `model`, `source`, and in `recipes` by name `training` and `settings` |
| a user's `<name>.json` | `model`, `training`, `settings` and `source`, of which all but `model` may be left out |

`training` has fields of `Recipe`, `settings` of the model's settings; what is not there has its default, and in a
user's file what the model's `paper` says. Of the recipes
here, `paper` is what the publications describe, with a moving average of the weights, and of Spleeter with overlapping
segments at separation. `upstream` is what the programs do: Spleeter's normalises with statistics that stay at 0 and 1,
drops nothing out, keeps the last weights and separates segments apart.

References
----------
Each file's `source` names its own.
"""

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from baselines.losses import PARTS, normalise
from baselines.models import find_kind, from_json, settings_from_json, settings_to_json
from musdbkit import templates
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.spleeter_config import SpleeterConfig

OPTIMISERS: Final = ("adam", "adadelta", "sgd", "adagrad", "rmsprop")

MIXINGS: Final = ("independent", "remix")
"""Where an example's sources come from: tracks of their own, or one track, and are then exchanged within a batch."""

SWAPS: Final = ("source", "batch", "none")
"""Whose channels change places: half of all sources', half of the sources' in half of the batches, or nobody's."""

PRECISIONS: Final = ("auto", "float32", "bf16")
"""What is computed with: bfloat16 where it is safe, or not; `auto` is as the hardware has it."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes
    ----------
    name : `paper` or `upstream` for instance, or that of the user's file.
    loss : one of `losses.LOSSES`; other programs' names are taken, too, and become ours.
    optimiser : one of `OPTIMISERS`, with torch's settings but for those here; Adadelta's are Spleeter's.
    learning_rate : first step size.
    weight_decay : of all parameters, added to the gradient.
    batch_size : examples in a batch of each process.
    max_steps : optimiser steps to take at most; None is no limit.
    max_epochs : epochs to take at most; None is no limit.
    epoch_steps : steps of an epoch; None is as many as give `epoch_segments` of each track.
    epoch_segments : see there; None is as many as there are whole segments in the tracks.
    seed : of weights, order, crops, augmentation and dropout.
    ema_decay : of the moving average of the weights, which then is what is validated and kept; 0 is none.
    plateau_factor, plateau_patience, plateau_cooldown : what learning rates are multiplied by, after so many
        validations without a lower loss, and how many must pass after that; a patience of None leaves them alone.
    stop_patience : validations without a lower loss after which a target, or all, is done; None is no limit.
    select_best : whether the weights that validate best are the result, or else the last.
    independent : whether each target has its own learning rate, best weights and end.
    segment_seconds : length of an example, of models that read waves; None is the model's own, `input_samples`.
    nb_chunks, chunk_seconds : excerpts of each track, of models that read a cache; see `segments.Reader.chunks`.
    valid_loss : what validation measures, as `loss`; None is that.
    raw_weight, spec_weight, raw_part, spec_part : of the loss `raw-and-spec`, its two terms' weights, and which of
        `losses.PARTS` they are.
    loss_window, loss_hop : length of the stretches that some losses compare, and from one to the next, in samples;
        None is the transform's `n_fft` and `hop_length`.
    betas : of Adam.
    valid_epochs : epochs from one validation to the next.
    min_epochs : epochs before which no target ends.
    hasty_epochs : epochs after which the first validation without a lower loss ends a target, or all; None is never.
    mixing : one of `MIXINGS`, of models that read waves, as all that follows.
    least_gain, most_gain : between which each source's level is drawn; 1 and 1 leave it alone.
    swap : one of `SWAPS`.
    remix_group : examples of a batch that exchange sources among them, of `remix`.
    precision : one of `PRECISIONS`, of all models.
    """

    name: str = "paper"
    loss: str = "l1"
    optimiser: str = "adam"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    batch_size: int = 4
    max_steps: int | None = 200_000
    max_epochs: int | None = None
    epoch_steps: int | None = 1000
    epoch_segments: int | None = 64
    seed: int = 3
    ema_decay: float = 0.999
    plateau_factor: float = 0.3
    plateau_patience: int | None = None
    plateau_cooldown: int = 10
    stop_patience: int | None = None
    select_best: bool = True
    independent: bool = False
    segment_seconds: float | None = 6.0
    nb_chunks: int = 40
    chunk_seconds: float = 20.0
    valid_loss: str | None = None
    raw_weight: float = 1.0
    spec_weight: float = 1.0
    raw_part: str = "l1"
    spec_part: str = "mse"
    loss_window: int | None = None
    loss_hop: int | None = None
    betas: tuple[float, ...] = (0.9, 0.999)
    valid_epochs: int = 1
    min_epochs: int = 0
    hasty_epochs: int | None = None
    mixing: str = "independent"
    least_gain: float = 0.25
    most_gain: float = 1.25
    swap: str = "source"
    remix_group: int = 4
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be followed, and name losses as we do."""
        object.__setattr__(self, "loss", normalise(self.loss))
        if self.valid_loss is not None:
            object.__setattr__(self, "valid_loss", normalise(self.valid_loss, "valid_loss"))
        for name in ("raw_part", "spec_part"):
            if getattr(self, name) == "l2":  # as Choi et al. call it, too
                object.__setattr__(self, name, "mse")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ParameterError(f"{name} is {getattr(self, name)}, expected one of {', '.join(known)}")
        for name in ("learning_rate", "segment_seconds", "chunk_seconds", "plateau_factor"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ParameterError(f"{name} is {value}, expected a number above 0")
        if self.plateau_factor >= 1:
            raise ParameterError(f"plateau_factor is {self.plateau_factor}, expected less than 1")
        for name in _COUNTS:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ParameterError(f"{name} is {value}, expected 1 or more")
        for name in _AMOUNTS:
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise ParameterError(f"{name} is {value}, expected 0 or more")
        if self.seed >= 2**63:
            raise ParameterError(f"seed is {self.seed}, expected less than 2**63")
        if not 0 <= self.ema_decay < 1:
            raise ParameterError(f"ema_decay is {self.ema_decay}, expected 0 or more, and less than 1")
        if self.most_gain < self.least_gain:
            raise ParameterError(f"most_gain is {self.most_gain}, expected least_gain, {self.least_gain}, or more")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ParameterError(f"betas is {list(self.betas)}, expected two numbers, 0 or more and less than 1")


_CHOICES: Final = {
    "optimiser": OPTIMISERS,
    "raw_part": PARTS,
    "spec_part": PARTS,
    "mixing": MIXINGS,
    "swap": SWAPS,
    "precision": PRECISIONS,
}
_COUNTS: Final = (
    "batch_size",
    "max_steps",
    "max_epochs",
    "epoch_steps",
    "epoch_segments",
    "nb_chunks",
    "loss_window",
    "loss_hop",
    "valid_epochs",
    "hasty_epochs",
    "remix_group",
)
_AMOUNTS: Final = (
    "weight_decay",
    "seed",
    "min_epochs",
    "plateau_patience",
    "plateau_cooldown",
    "stop_patience",
    "raw_weight",
    "spec_weight",
    "least_gain",
    "most_gain",
)

_LOSS_NAMES: Final = {"L1_mask": "l1", "weighted_L1_mask": "weighted-l1"}
_OPTIMISER_NAMES: Final = {"Adadelta": "adadelta", "SGD": "sgd"}


def list_recipes(model: str) -> tuple[str, ...]:
    """Return the names of a model's recipes.

    Raises
    ------
    ParameterError
        There is no such model.
    """
    find_kind(model)
    return tuple(_read_template(model)["recipes"])


def find_recipe(model: str, name: str) -> tuple[Recipe, dict[str, Any]]:
    """Return a recipe of a model, and the model's settings that belong to it.

    Parameters
    ----------
    model : one of `models.MODELS`.
    name : one of `list_recipes`, or the path of a file of the user's own, `*.json`; the recipe then is called as the
        file is, without that ending.

    Raises
    ------
    ParameterError
        There is no such recipe, or the file holds none for this model.
    DatasetError
        The file cannot be read.
    """
    known = list_recipes(model)
    if name in known:
        return _make_recipe(model, name, _read_template(model)["recipes"][name], f"recipe {name} of {model}")
    if not name.endswith(".json"):
        raise ParameterError(f"no recipe {name} for {model}: expected one of {', '.join(known)}, or a file *.json")
    path = Path(name)
    document = _read_file(path)
    if not isinstance(document, dict):
        raise ParameterError(f"{path}: {type(document).__name__}, expected an object")
    document = {"source": "", **document}
    if unknown := [key for key in document if key not in ("model", "source", "training", "settings")]:
        raise ParameterError(
            f"{path}: unknown {unknown[0]}, expected one recipe: model, training, settings, and source if you like"
        )
    if (found := document.get("model")) != model:
        raise ParameterError(f"{path}: model is {json.dumps(found)}, expected {json.dumps(model)}")
    paper = _read_template(model)["recipes"]["paper"]
    for part in ("training", "settings"):
        own = document.get(part, {})
        if not isinstance(own, dict):
            raise ParameterError(f"{path}: {part}: {type(own).__name__}, expected an object")
        if part == "training" and "name" in own:
            raise ParameterError(f"{path}: training has name, which the file has already: remove it")
        document[part] = {**paper[part], **own}
    return _make_recipe(model, path.name.removesuffix(".json"), document, str(path))


def _make_recipe(model: str, name: str, document: dict[str, Any], where: str) -> tuple[Recipe, dict[str, Any]]:
    """Return a recipe and settings from JSON."""
    changes = document["settings"]
    recipe = from_json(Recipe, {"name": name, **document["training"]}, f"{where}: training")
    try:
        settings = settings_from_json(model, changes)
    except ParameterError as error:
        raise ParameterError(f"{where}: settings: {error}") from error
    return recipe, {key: getattr(settings, key) for key in changes}


@functools.lru_cache
def _read_template(model: str) -> Any:
    """Return the file with a model's recipes, which is not to be changed."""
    return json.loads(templates.read(f"recipes/{model}.json"))


def _read_file(path: Path) -> Any:
    """Return what a user's JSON file holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error


def follow_config(recipe: Recipe, config: SpleeterConfig) -> Recipe:
    """Return a recipe with what a Spleeter configuration says of training.

    Of Spleeter's optimisers, Adadelta has a learning rate of its own, 0.001, whatever the configuration says.
    """
    optimiser = _OPTIMISER_NAMES.get(config.optimiser, "adam")
    return replace(
        recipe,
        loss=_LOSS_NAMES[config.loss],
        optimiser=optimiser,
        learning_rate=1e-3 if optimiser == "adadelta" else float(config.learning_rate),
        batch_size=config.batch_size,
        max_steps=config.max_steps,
        epoch_steps=config.checkpoint_steps,
        seed=config.seed,
        nb_chunks=config.nb_chunks,
        chunk_seconds=float(config.chunk_seconds),
    )


def change_recipe(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Return a recipe with other values, as JSON has them.

    Raises
    ------
    ParameterError
        There is no such field, or it cannot have that value.
    """
    values = {entry.name: getattr(recipe, entry.name) for entry in fields(recipe)}
    changed: Recipe = from_json(Recipe, values | changes, f"recipe {recipe.name}")
    return changed


def complete(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's JSON with the fields that were not there yet when it was written; they have their defaults."""
    return {**settings_to_json(Recipe()), **document}


def make_optimiser(recipe: Recipe, parameters: Iterable[Tensor], device: torch.device) -> torch.optim.Optimizer:
    """Return the optimiser of some parameters."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, weight_decay=decay)
    if recipe.optimiser == "adadelta":
        return torch.optim.Adadelta(parameters, rate, rho=0.95, eps=1e-8, weight_decay=decay)
    if recipe.optimiser == "adagrad":
        return torch.optim.Adagrad(parameters, rate, weight_decay=decay)
    if recipe.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, rate, weight_decay=decay)
    first, second = recipe.betas
    fused = device.type == "cuda"
    return torch.optim.Adam(parameters, rate, betas=(first, second), weight_decay=decay, fused=fused)
