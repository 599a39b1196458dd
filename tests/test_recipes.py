"""Recipes: values of the publications and programs, losses and updates against their formulas, and refusals."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines.models import MODELS, settings_to_json
from baselines.recipes import (
    LOSSES,
    OPTIMISERS,
    RECIPES,
    Recipe,
    change_recipe,
    find_recipe,
    follow_config,
    make_optimiser,
    measure_losses,
)
from musdbkit.errors import ParameterError
from musdbkit.spleeter_config import SpleeterConfig, read_config

TEMPLATES = Path(__file__).parent.parent / "templates"
CPU = torch.device("cpu")


def changed(tmp_path: Path, **values: Any) -> SpleeterConfig:
    """Return the configuration of 2 stems with other values."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads((TEMPLATES / "spleeter_2stems.json").read_text()) | values))
    return read_config(path)


# What is published


@pytest.mark.parametrize("model", ["spleeter-unet", "spleeter-blstm"])
@pytest.mark.parametrize("name", ["paper", "upstream"])
def test_spleeters_training(model: str, name: str) -> None:
    """Spleeter 2.4.2: Adam at a constant 0.0001, batches of 4, no decay; 200,000 steps and seed 3 for MUSDB18."""
    recipe, settings = find_recipe(model, name)
    assert (recipe.name, recipe.loss, recipe.optimiser) == (name, "l1", "adam")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.batch_size) == (1e-4, 0, 4)
    assert (recipe.max_steps, recipe.max_epochs, recipe.epoch_steps, recipe.seed) == (200_000, None, 1000, 3)
    assert (recipe.plateau_patience, recipe.stop_patience, recipe.independent) == (None, None, False)
    assert (recipe.nb_chunks, recipe.chunk_seconds) == (40, 20)
    assert (recipe.ema_decay, recipe.select_best) == {"paper": (0.999, True), "upstream": (0, False)}[name]
    upstream: dict[str, Any] = {"overlap": 0.0}
    if model == "spleeter-unet":
        upstream |= {"batch_norm": "frozen", "dropout": 0.0}
    assert settings == {"paper": {}, "upstream": upstream}[name]


@pytest.mark.parametrize("name", ["paper", "upstream"])
def test_open_unmixs_training(name: str) -> None:
    """Open-Unmix 1.3, the defaults of its training script; each target by itself."""
    recipe, settings = find_recipe("open-unmix", name)
    assert (recipe.name, recipe.loss, recipe.optimiser) == (name, "mse", "adam")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.batch_size) == (1e-3, 1e-5, 16)
    assert (recipe.max_steps, recipe.max_epochs, recipe.epoch_steps, recipe.epoch_segments) == (None, 1000, None, 64)
    assert (recipe.plateau_factor, recipe.plateau_patience, recipe.plateau_cooldown) == (0.3, 80, 10)
    assert (recipe.stop_patience, recipe.segment_seconds, recipe.seed) == (140, 6.0, 42)
    assert recipe.select_best
    assert recipe.independent
    assert recipe.ema_decay == {"paper": 0.999, "upstream": 0}[name]
    assert settings == {}


def test_every_model_has_both_recipes_and_they_fit_it() -> None:
    assert RECIPES.keys() == MODELS.keys()
    for model, recipes in RECIPES.items():
        assert tuple(recipes) == ("paper", "upstream")
        for name, (recipe, settings) in recipes.items():
            assert recipe.name == name
            MODELS[model].settings(**settings)


def test_there_is_no_such_recipe() -> None:
    with pytest.raises(ParameterError, match=r"^no recipe papers for open-unmix: expected one of paper, upstream$"):
        find_recipe("open-unmix", "papers")


# Spleeter's configurations


@pytest.mark.parametrize("stems", [2, 4])
@pytest.mark.parametrize("name", ["paper", "upstream"])
def test_the_templates_are_followed(stems: int, name: str) -> None:
    path = TEMPLATES / f"spleeter_{stems}stems.json"
    written = json.loads(path.read_text())
    before = find_recipe("spleeter-unet", name)[0]
    recipe = follow_config(before, read_config(path))
    expected = {
        "loss": "l1",
        "optimiser": "adam",
        "learning_rate": written["learning_rate"],
        "batch_size": written["batch_size"],
        "max_steps": written["train_max_steps"],
        "epoch_steps": written["save_checkpoints_steps"],
        "seed": written["random_seed"],
        "nb_chunks": written["n_chunks_per_song"],
        "chunk_seconds": written["chunk_duration"],
    }
    assert settings_to_json(recipe) == settings_to_json(before) | expected


def test_every_value_of_a_configuration_is_followed(tmp_path: Path) -> None:
    config = changed(
        tmp_path,
        optimizer="SGD",
        loss_type="weighted_L1_mask",
        learning_rate=1,
        batch_size=7,
        train_max_steps=11,
        save_checkpoints_steps=13,
        random_seed=17,
        n_chunks_per_song=19,
        chunk_duration=23,
    )
    before = find_recipe("spleeter-unet", "paper")[0]
    recipe = follow_config(before, config)
    assert recipe == dataclasses.replace(
        before,
        optimiser="sgd",
        loss="weighted-l1",
        learning_rate=1.0,
        batch_size=7,
        max_steps=11,
        epoch_steps=13,
        seed=17,
        nb_chunks=19,
        chunk_seconds=23.0,
    )
    assert type(recipe.learning_rate) is type(recipe.chunk_seconds) is float


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("Adam", ("adam", 0.5)),
        ("Adadelta", ("adadelta", 0.001)),  # whatever the configuration says
        ("SGD", ("sgd", 0.5)),
        ("adadelta", ("adam", 0.5)),  # Spleeter takes what it does not know for Adam
        ("RMSProp", ("adam", 0.5)),
    ],
)
def test_optimisers_of_configurations(tmp_path: Path, optimizer: str, expected: tuple[str, float]) -> None:
    recipe = follow_config(Recipe(), changed(tmp_path, optimizer=optimizer, learning_rate=0.5))
    assert (recipe.optimiser, recipe.learning_rate) == expected


# Losses


def loss_by_hand(loss: str, estimates: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return the loss of one target, example by example [shape of both=(batch_size, channels, bins, frames)]."""
    found = []
    for estimate, target in zip(estimates, targets, strict=True):
        distance = np.abs(estimate - target)
        if loss == "mse":
            found.append(np.mean(distance**2))
        else:
            found.append(np.mean(distance) * (np.mean(target) if loss == "weighted-l1" else 1))
    return float(np.mean(found))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_their_formulas(loss: str, rng: np.random.Generator) -> None:
    estimates, targets = rng.uniform(0, 2, (2, 3, 4, 2, 5, 6))
    targets *= np.arange(1, 4)[:, None, None, None, None]  # so that examples weigh differently
    got = measure_losses(loss, torch.tensor(estimates), torch.tensor(targets))
    assert got.shape == (4,)
    expected = [loss_by_hand(loss, estimates[:, i], targets[:, i]) for i in range(4)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_half_precision_are_computed_in_single(loss: str, rng: np.random.Generator) -> None:
    estimates, targets = torch.tensor(rng.uniform(0, 300, (2, 3, 4, 2, 5, 6)), dtype=torch.float32)
    got = measure_losses(loss, estimates.bfloat16(), targets)
    assert got.dtype == torch.float32
    assert torch.equal(got, measure_losses(loss, estimates.bfloat16().float(), targets))
    assert torch.isfinite(got).all()


# Optimisers


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_updates_are_their_formulas(optimiser: str, decay: float) -> None:
    """Two steps, of a square: the second one depends on what is remembered of the first."""
    rate = 0.25
    value = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    made = make_optimiser(Recipe(optimiser=optimiser, learning_rate=rate, weight_decay=decay), [value], CPU)
    expected = np.array([3.0, -2.0])
    mean, square, updates = np.zeros(2), np.zeros(2), np.zeros(2)
    for step in (1, 2):
        made.zero_grad()
        (value**2).sum().backward()
        made.step()
        gradient = 2 * expected + decay * expected
        if optimiser == "sgd":
            expected = expected - rate * gradient
        elif optimiser == "adam":
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            corrected = np.sqrt(square / (1 - 0.999**step)) + 1e-8
            expected = expected - rate * mean / (1 - 0.9**step) / corrected
        else:
            square = 0.95 * square + 0.05 * gradient**2
            update = gradient * np.sqrt(updates + 1e-8) / np.sqrt(square + 1e-8)
            updates = 0.95 * updates + 0.05 * update**2
            expected = expected - rate * update
        np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-9)


# Changes and refusals


def test_changes() -> None:
    before = find_recipe("open-unmix", "paper")[0]
    after = change_recipe(before, {"learning_rate": 1, "max_steps": 5, "stop_patience": None, "loss": "l1"})
    assert after == dataclasses.replace(before, learning_rate=1.0, max_steps=5, stop_patience=None, loss="l1")
    assert type(after.learning_rate) is float
    assert change_recipe(before, {}) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lerning_rate": 1}, "no setting lerning_rate: did you mean learning_rate?"),
        ({"q": 1}, "no setting q: expected some of name, loss, "),
        ({"batch_size": "4"}, 'batch_size is "4", expected a whole number'),
        ({"batch_size": 4.0}, "batch_size is 4.0, expected a whole number"),
        ({"max_steps": True}, "max_steps is true, expected a whole number or null"),
        ({"learning_rate": None}, "learning_rate is null, expected a number"),
        ({"independent": 1}, "independent is 1, expected true or false"),
        ({"loss": "l2"}, "loss is l2, expected one of l1, weighted-l1, mse"),
        ({"optimiser": "Adam"}, "optimiser is Adam, expected one of adam, adadelta, sgd"),
        ({"learning_rate": 0}, "learning_rate is 0.0, expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, expected a number above 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf, expected a number above 0"),
        ({"segment_seconds": -1}, "segment_seconds is -1.0, expected a number above 0"),
        ({"chunk_seconds": 0}, "chunk_seconds is 0.0, expected a number above 0"),
        ({"plateau_factor": 1}, "plateau_factor is 1.0, expected less than 1"),
        ({"batch_size": 0}, "batch_size is 0, expected 1 or more"),
        ({"max_steps": 0}, "max_steps is 0, expected 1 or more"),
        ({"max_epochs": -1}, "max_epochs is -1, expected 1 or more"),
        ({"epoch_steps": 0}, "epoch_steps is 0, expected 1 or more"),
        ({"epoch_segments": 0}, "epoch_segments is 0, expected 1 or more"),
        ({"nb_chunks": 0}, "nb_chunks is 0, expected 1 or more"),
        ({"weight_decay": -1e-9}, "weight_decay is -1e-09, expected 0 or more"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"seed": 2**63}, "seed is 9223372036854775808, expected less than 2**63"),
        ({"plateau_patience": -1}, "plateau_patience is -1, expected 0 or more"),
        ({"plateau_cooldown": -1}, "plateau_cooldown is -1, expected 0 or more"),
        ({"stop_patience": -1}, "stop_patience is -1, expected 0 or more"),
        ({"ema_decay": 1}, "ema_decay is 1.0, expected 0 or more, and less than 1"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1, expected 0 or more, and less than 1"),
        ({"learning_rate": 10**400}, "learning_rate is 1000"),
    ],
)
def test_what_cannot_be_followed(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParameterError) as caught:
        change_recipe(Recipe(), changes)
    assert str(caught.value).startswith(f"recipe paper: {reason}")
    assert "\n" not in str(caught.value)


def test_what_is_allowed_is_what_torch_takes() -> None:
    """Values next to those that are refused."""
    recipe = change_recipe(Recipe(), {"seed": 2**63 - 1, "plateau_factor": 0.999, "plateau_patience": 0})
    torch.manual_seed(recipe.seed)
    torch.manual_seed(0)
    made = make_optimiser(recipe, [torch.zeros(1, requires_grad=True)], CPU)
    torch.optim.lr_scheduler.ReduceLROnPlateau(
        made, factor=recipe.plateau_factor, patience=recipe.plateau_patience or 0
    )
    with pytest.raises(ValueError, match="Factor"):
        torch.optim.lr_scheduler.ReduceLROnPlateau(made, factor=1.0)
