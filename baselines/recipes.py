"""Recipes: how each model is trained, as published and as we recommend.

Reads and writes nothing. A recipe is data: its fields are what a run's JSON holds.

References
----------
Spleeter: github.com/deezer/spleeter, version 2.4.2, `spleeter/model/__init__.py` and `configs/musdb_config.json`.
Open-Unmix: github.com/sigsep/open-unmix-pytorch, version 1.3, `scripts/train.py`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from torch import Tensor

from baselines.models import from_json
from musdbkit.errors import ParameterError
from musdbkit.spleeter_config import SpleeterConfig

LOSSES: Final = ("l1", "weighted-l1", "mse")
"""Distances of magnitudes; see `measure_losses`."""

OPTIMISERS: Final = ("adam", "adadelta", "sgd")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes
    ----------
    name : `paper` or `upstream`.
    loss : one of `LOSSES`.
    optimiser : one of `OPTIMISERS`, with torch's settings but for the learning rate.
    learning_rate : first step size.
    weight_decay : of all parameters, added to the gradient.
    batch_size : examples in a batch of each process.
    max_steps : optimiser steps to take at most; None is no limit.
    max_epochs : epochs to take at most; None is no limit.
    epoch_steps : steps from one validation to the next; None is as many as give `epoch_segments` of each track.
    epoch_segments : see there.
    seed : of weights, order, crops, augmentation and dropout.
    ema_decay : of the moving average of the weights, which then is what is validated and kept; 0 is none.
    plateau_factor, plateau_patience, plateau_cooldown : what learning rates are multiplied by, after so many
        validations without a lower loss, and how many must pass after that; a patience of None leaves them alone.
    stop_patience : validations without a lower loss after which a target, or all, is done; None is no limit.
    select_best : whether the weights that validate best are the result, or else the last.
    independent : whether each target has its own learning rate, best weights and end.
    segment_seconds : length of an example, of models that read waves.
    nb_chunks, chunk_seconds : excerpts of each track, of models that read a cache; see `segments.Reader.chunks`.
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
    epoch_segments: int = 64
    seed: int = 3
    ema_decay: float = 0.999
    plateau_factor: float = 0.3
    plateau_patience: int | None = None
    plateau_cooldown: int = 10
    stop_patience: int | None = None
    select_best: bool = True
    independent: bool = False
    segment_seconds: float = 6.0
    nb_chunks: int = 40
    chunk_seconds: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        for name, known in (("loss", LOSSES), ("optimiser", OPTIMISERS)):
            if getattr(self, name) not in known:
                raise ParameterError(f"{name} is {getattr(self, name)}, expected one of {', '.join(known)}")
        for name in ("learning_rate", "segment_seconds", "chunk_seconds", "plateau_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ParameterError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if self.plateau_factor >= 1:
            raise ParameterError(f"plateau_factor is {self.plateau_factor}, expected less than 1")
        for name in ("batch_size", "max_steps", "max_epochs", "epoch_steps", "epoch_segments", "nb_chunks"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ParameterError(f"{name} is {value}, expected 1 or more")
        for name in ("weight_decay", "seed", "plateau_patience", "plateau_cooldown", "stop_patience"):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise ParameterError(f"{name} is {value}, expected 0 or more")
        if self.seed >= 2**63:
            raise ParameterError(f"seed is {self.seed}, expected less than 2**63")
        if not 0 <= self.ema_decay < 1:
            raise ParameterError(f"ema_decay is {self.ema_decay}, expected 0 or more, and less than 1")


_SPLEETER: Final = Recipe()
_SPLEETER_UPSTREAM: Final = replace(_SPLEETER, name="upstream", ema_decay=0.0, select_best=False)
_OPEN_UNMIX: Final = Recipe(
    loss="mse",
    learning_rate=1e-3,
    weight_decay=1e-5,
    batch_size=16,
    max_steps=None,
    max_epochs=1000,
    epoch_steps=None,
    seed=42,
    plateau_patience=80,
    stop_patience=140,
    independent=True,
)

RECIPES: Final[dict[str, dict[str, tuple[Recipe, dict[str, Any]]]]] = {
    "spleeter-unet": {
        "paper": (_SPLEETER, {}),
        "upstream": (_SPLEETER_UPSTREAM, {"batch_norm": "frozen", "dropout": 0.0, "overlap": 0.0}),
    },
    "spleeter-blstm": {
        "paper": (_SPLEETER, {}),
        "upstream": (_SPLEETER_UPSTREAM, {"overlap": 0.0}),
    },
    "open-unmix": {
        "paper": (_OPEN_UNMIX, {}),
        "upstream": (replace(_OPEN_UNMIX, name="upstream", ema_decay=0.0), {}),
    },
}
"""Recipes by model and name, each with the model's settings that belong to it.

`paper` is what the publications describe, with a moving average of the weights, and of Spleeter with overlapping
segments at separation. `upstream` is what the programs do: Spleeter's normalises with statistics that stay at 0 and 1,
drops nothing out, keeps the last weights and separates segments apart.
"""

_LOSS_NAMES: Final = {"L1_mask": "l1", "weighted_L1_mask": "weighted-l1"}
_OPTIMISER_NAMES: Final = {"Adadelta": "adadelta", "SGD": "sgd"}


def find_recipe(model: str, name: str) -> tuple[Recipe, dict[str, Any]]:
    """Return a recipe of a model, and the model's settings that belong to it.

    Raises
    ------
    ParameterError
        There is no such recipe.
    """
    known = RECIPES[model]
    if name not in known:
        raise ParameterError(f"no recipe {name} for {model}: expected one of {', '.join(known)}")
    return known[name]


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


def measure_losses(loss: str, estimates: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each target [shape=(nb_targets,)].

    `l1` and `mse` are means over the batch, channels, bins and frames. `weighted-l1` multiplies each example by the
    mean of the target in it.

    Parameters
    ----------
    loss : one of `LOSSES`.
    estimates, targets : magnitudes [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames)].
    """
    difference = estimates.float() - targets
    if loss == "mse":
        return difference.square().mean((0, 2, 3, 4))
    if loss == "weighted-l1":
        return (difference.abs() * targets.mean((2, 3, 4), keepdim=True)).mean((0, 2, 3, 4))
    return difference.abs().mean((0, 2, 3, 4))


def make_optimiser(recipe: Recipe, parameters: Iterable[Tensor], device: torch.device) -> torch.optim.Optimizer:
    """Return the optimiser of some parameters."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, weight_decay=decay)
    if recipe.optimiser == "adadelta":
        return torch.optim.Adadelta(parameters, rate, rho=0.95, eps=1e-8, weight_decay=decay)
    return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=device.type == "cuda")
