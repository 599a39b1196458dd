"""Recipes: values of the publications and programs, a user's own files, updates against their formulas, refusals."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.losses import LOSSES
from baselines.models import MODELS, from_json, settings_to_json
from baselines.recipes import (
    OPTIMISERS,
    Recipe,
    change_recipe,
    find_recipe,
    follow_config,
    list_recipes,
    make_optimiser,
)
from musdbkit.errors import DatasetError, ParameterError
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


BLOCK_UNET = {
    "n_fft": 2048,
    "hop_length": 1024,
    "nb_frames": 128,
    "block": "tfc-tdf",
    "spec_type": "complex",
    "spec_est_mode": "mapping",
    "n_blocks": 7,
    "internal_channels": 24,
    "n_internal_layers": 5,
    "kernel_size_t": 3,
    "kernel_size_f": 3,
    "bn_factor": 16,
    "min_bn_units": 16,
    "bias": False,
    "activation": "relu",
    "first_conv_activation": "relu",
}


@pytest.mark.parametrize("name", ["paper", "upstream", "large"])
def test_block_unets_training(name: str) -> None:
    """Choi et al.'s command line, and that of their large model; bfloat16 in place of float16."""
    recipe, settings = find_recipe("block-unet", name)
    assert (recipe.name, recipe.loss, recipe.valid_loss, recipe.optimiser) == (name, "mse", "raw-l1", "adam")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.betas) == (1e-3, 0, (0.9, 0.999))
    assert (recipe.max_steps, recipe.epoch_steps, recipe.epoch_segments, recipe.valid_epochs) == (None, None, None, 1)
    assert (recipe.plateau_patience, recipe.hasty_epochs, recipe.segment_seconds) == (None, None, None)
    assert (recipe.mixing, recipe.least_gain, recipe.most_gain, recipe.swap) == ("independent", 1, 1, "none")
    assert (recipe.seed, recipe.precision, recipe.min_epochs) == (2020, "auto", 2000 if name == "large" else 1000)
    assert recipe.select_best
    assert recipe.independent
    assert recipe.ema_decay == {"paper": 0.999, "upstream": 0, "large": 0.999}[name]
    lengths = (recipe.batch_size, recipe.max_epochs, recipe.stop_patience)
    assert lengths == ((12, 3000, 200) if name == "large" else (16, 2000, 100))
    large = {"n_fft": 4096, "n_blocks": 9, "bias": True}
    assert settings == (BLOCK_UNET | large if name == "large" else BLOCK_UNET)


@pytest.mark.parametrize("name", ["paper", "upstream"])
@pytest.mark.parametrize("model", ["umx-transformer", "auto-transformer"])
def test_transformers_training(model: str, name: str) -> None:
    """The training script of the transformers; patiences count validations, which come every 5 epochs."""
    recipe, settings = find_recipe(model, name)
    assert (recipe.name, recipe.loss, recipe.valid_loss, recipe.optimiser) == (name, "mse", None, "adam")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.betas) == (1e-4, 1e-5, (0.5, 0.999))
    assert (recipe.batch_size, recipe.max_steps, recipe.max_epochs) == (8, None, 10_000)
    assert (recipe.epoch_steps, recipe.epoch_segments, recipe.valid_epochs) == (None, None, 5)
    assert (recipe.plateau_factor, recipe.plateau_patience, recipe.plateau_cooldown) == (0.3, 16, 10)
    assert (recipe.stop_patience, recipe.hasty_epochs, recipe.segment_seconds) == (51, 1000, None)
    assert (recipe.mixing, recipe.remix_group, recipe.swap) == ("remix", 4, "batch")
    assert (recipe.least_gain, recipe.most_gain) == (1, 1)
    assert recipe.select_best
    assert recipe.independent
    assert recipe.ema_decay == {"paper": 0.999, "upstream": 0}[name]
    expected: dict[str, Any] = {
        "attention": "qkvg1D",
        "input_seconds": 7.0,
        "n_fft": 4096,
        "hop_length": 1024,
        "hidden_size": 512,
        "nb_heads": 16,
        "attention_dropout": 0.1,
        "feedforward_size": 2048,
    }
    if model == "umx-transformer":
        expected |= {"nb_layers": 3, "dropout": 0.2, "bandwidth": 16000.0}
    else:
        expected |= {"nb_layers": 4, "dropout": 0.1}
    assert settings == expected


def test_every_model_has_recipes_and_they_fit_it() -> None:
    assert sorted(path.name for path in (TEMPLATES / "recipes").iterdir()) == sorted(f"{each}.json" for each in MODELS)
    for model, kind in MODELS.items():
        assert list_recipes(model) == ("paper", "upstream", *(["large"] if model == "block-unet" else []))
        for name in list_recipes(model):
            recipe, settings = find_recipe(model, name)
            assert recipe.name == name
            made = kind.settings(**settings)
            assert hasattr(made, "input_samples") == (recipe.segment_seconds is None)


@pytest.mark.parametrize("path", sorted((TEMPLATES / "recipes").iterdir()), ids=lambda path: path.stem)
def test_files_say_whose_they_are_and_hold_all_that_is_not_a_default(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document.keys() == {"model", "source", "recipes"}
    assert document["model"] == path.stem
    assert "github.com/" in document["source"]
    for name, recipe in document["recipes"].items():
        assert recipe.keys() == {"training", "settings"}
        found = settings_to_json(find_recipe(path.stem, name)[0])
        assert recipe["training"].items() <= found.items()
        defaults = settings_to_json(Recipe(name=name))
        assert [field for field in found if found[field] != defaults[field] and field not in recipe["training"]] == []


def test_what_is_found_may_be_changed() -> None:
    find_recipe("open-unmix", "paper")[1]["bandwidth"] = 1
    find_recipe("block-unet", "paper")[1]["n_fft"] = 1
    assert find_recipe("open-unmix", "paper")[1] == {}
    assert find_recipe("block-unet", "paper")[1] == BLOCK_UNET


def test_there_is_no_such_recipe() -> None:
    expected = r"^no recipe papers for open-unmix: expected one of paper, upstream, or a file \*\.json$"
    with pytest.raises(ParameterError, match=expected):
        find_recipe("open-unmix", "papers")
    with pytest.raises(ParameterError, match=r"^no model open-umix: did you mean open-unmix\?$"):
        find_recipe("open-umix", "paper")


def test_runs_of_before_are_read() -> None:
    """Recipes had 21 fields; what the others say now was the same then."""
    added = {
        "valid_loss": None,
        "raw_weight": 1,
        "spec_weight": 1,
        "raw_part": "l1",
        "spec_part": "mse",
        "loss_window": None,
        "loss_hop": None,
        "betas": [0.9, 0.999],
        "valid_epochs": 1,
        "min_epochs": 0,
        "hasty_epochs": None,
        "mixing": "independent",
        "least_gain": 0.25,
        "most_gain": 1.25,
        "swap": "source",
        "remix_group": 4,
        "precision": "auto",
    }
    document = settings_to_json(Recipe(name="old"))
    before = {name: value for name, value in document.items() if name not in added}
    assert len(before) == 21
    assert document == before | added
    assert from_json(Recipe, before, "run") == Recipe(name="old")


# A user's own


def write(path: Path, document: Any) -> Path:
    """Write JSON."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_users_own_file(tmp_path: Path) -> None:
    document = {
        "model": "open-unmix",
        "training": {"loss": "spec_l1", "learning_rate": 1, "betas": [0.5, 0.9]},
        "settings": {"targets": ["vocals"], "hidden_size": 64, "bandwidth": 8000},
    }
    recipe, settings = find_recipe("open-unmix", str(write(tmp_path / "my.own.json", document)))
    paper, given = find_recipe("open-unmix", "paper")
    assert recipe == replace(paper, name="my.own", loss="l1", learning_rate=1.0, betas=(0.5, 0.9))
    assert settings == given | {"targets": ("vocals",), "hidden_size": 64, "bandwidth": 8000.0}
    MODELS["open-unmix"].settings(**settings)


def test_a_users_own_file_may_say_little_and_whence(tmp_path: Path) -> None:
    """What it does not say is as in the model's `paper`."""
    for model in MODELS:
        path = write(tmp_path / "a.json", {"model": model, "source": "a friend"})
        paper, settings = find_recipe(model, "paper")
        assert find_recipe(model, str(path)) == (replace(paper, name="a"), settings)


def test_a_users_own_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"model": "open-unmix", "training": {"seed": 1}})
    assert find_recipe("open-unmix", str(path))[0].seed == 1
    write(path, {"model": "open-unmix", "training": {"seed": 2}})
    assert find_recipe("open-unmix", str(path))[0].seed == 2


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "list, expected an object"),
        ({}, 'model is null, expected "open-unmix"'),
        ({"model": "spleeter-unet"}, 'model is "spleeter-unet", expected "open-unmix"'),
        ({"model": "open-unmix", "recipes": {}}, "unknown recipes, expected one recipe: model, "),
        ({"model": "open-unmix", "training": []}, "training: list, expected an object"),
        ({"model": "open-unmix", "training": {"name": "x"}}, "training has name, which the file has already: "),
        ({"model": "open-unmix", "training": {"lr": 1}}, "training: no setting lr: expected some of "),
        ({"model": "open-unmix", "training": {"seed": 0.5}}, "training: seed is 0.5, expected a whole number"),
        ({"model": "open-unmix", "training": {"seed": -1}}, "training: seed is -1, expected 0 or more"),
        ({"model": "open-unmix", "settings": 1}, "settings: int, expected an object"),
        ({"model": "open-unmix", "settings": {"n_ftt": 1}}, "settings: open-unmix: no setting n_ftt: did you mean "),
        ({"model": "open-unmix", "settings": {"n_fft": "1"}}, 'settings: open-unmix: n_fft is "1", expected a whole '),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, document: Any, reason: str) -> None:
    path = write(tmp_path / "a.json", document)
    with pytest.raises(ParameterError) as caught:
        find_recipe("open-unmix", str(path))
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read: No such file"), (b"{", "not JSON: "), (b"\xff", "not JSON: ")]
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        find_recipe("open-unmix", str(path))
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


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


# Optimisers


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_updates_are_their_formulas(optimiser: str, decay: float) -> None:
    """Two steps, of a square: the second one depends on what is remembered of the first."""
    rate = 0.25
    value = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    recipe = Recipe(optimiser=optimiser, learning_rate=rate, weight_decay=decay, betas=(0.6, 0.9))
    made = make_optimiser(recipe, [value], CPU)
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
            mean, square = 0.6 * mean + 0.4 * gradient, 0.9 * square + 0.1 * gradient**2
            corrected = np.sqrt(square / (1 - 0.9**step)) + 1e-8
            expected = expected - rate * mean / (1 - 0.6**step) / corrected
        elif optimiser == "adagrad":
            square = square + gradient**2
            expected = expected - rate * gradient / (np.sqrt(square) + 1e-10)
        elif optimiser == "rmsprop":
            square = 0.99 * square + 0.01 * gradient**2
            expected = expected - rate * gradient / (np.sqrt(square) + 1e-8)
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
        ({"loss": "l2"}, f"loss is l2, expected one of {', '.join(LOSSES)}"),
        ({"optimiser": "Adam"}, "optimiser is Adam, expected one of adam, adadelta, sgd, adagrad, rmsprop"),
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
        ({"min_epochs": -3}, "min_epochs is -3, expected 0 or more"),
        ({"plateau_cooldown": -1}, "plateau_cooldown is -1, expected 0 or more"),
        ({"stop_patience": -1}, "stop_patience is -1, expected 0 or more"),
        ({"ema_decay": 1}, "ema_decay is 1.0, expected 0 or more, and less than 1"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1, expected 0 or more, and less than 1"),
        ({"valid_loss": "l2"}, "valid_loss is l2, expected one of l1, weighted-l1, mse, "),
        ({"raw_part": "raw-l1"}, "raw_part is raw-l1, expected one of l1, mse"),
        ({"spec_part": "weighted-l1"}, "spec_part is weighted-l1, expected one of l1, mse"),
        ({"raw_weight": -1}, "raw_weight is -1.0, expected 0 or more"),
        ({"spec_weight": float("inf")}, "spec_weight is inf, expected 0 or more"),
        ({"loss_window": 0}, "loss_window is 0, expected 1 or more"),
        ({"loss_hop": 0}, "loss_hop is 0, expected 1 or more"),
        ({"betas": [0.9]}, "betas is [0.9], expected two numbers, 0 or more and less than 1"),
        ({"betas": [0.9, 1.0]}, "betas is [0.9, 1.0], expected two numbers, 0 or more and less than 1"),
        ({"betas": [-0.1, 0.9]}, "betas is [-0.1, 0.9], expected two numbers, 0 or more and less than 1"),
        ({"betas": 0.9}, "betas is 0.9, expected a list, each a number"),
        ({"valid_epochs": 0}, "valid_epochs is 0, expected 1 or more"),
        ({"hasty_epochs": 0}, "hasty_epochs is 0, expected 1 or more"),
        ({"mixing": "random"}, "mixing is random, expected one of independent, remix"),
        ({"least_gain": -0.5}, "least_gain is -0.5, expected 0 or more"),
        ({"least_gain": 2}, "most_gain is 1.25, expected least_gain, 2.0, or more"),
        ({"most_gain": float("nan")}, "most_gain is nan, expected 0 or more"),
        ({"swap": True}, "swap is true, expected text"),
        ({"swap": "all"}, "swap is all, expected one of source, batch, none"),
        ({"remix_group": 0}, "remix_group is 0, expected 1 or more"),
        ({"precision": "float16"}, "precision is float16, expected one of auto, float32, bf16"),
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
