"""Plans: what is trained on what, from configurations and names; how long; and data that do not go with it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from baselines import models
from baselines.auto_transformer import AutoTransformerSettings
from baselines.block_unet import BlockUnetSettings, find_receptive_field
from baselines.data import SpectrogramBatches
from baselines.open_unmix import OpenUnmixSettings
from baselines.plans import (
    Plan,
    describe,
    describe_lines,
    find_epoch_steps,
    find_max_steps,
    fingerprint,
    make_batches,
    make_plan,
)
from baselines.recipes import Recipe, find_recipe, list_recipes
from baselines.spleeter_blstm import BlstmSettings
from baselines.spleeter_unet import UnetSettings
from baselines.umx_transformer import UmxTransformerSettings
from baselines.wave_batches import WaveBatches
from musdbkit.cache import Parameters, open_cache
from musdbkit.cache_request import Request
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError
from musdbkit.musdb18 import STEMS, VALIDATION_TRACKS, pick_validation
from musdbkit.spleeter_config import read_config
from musdbkit.waves import open_waves
from tests.sites import SIGNALS, SMALL, Site

TEMPLATES = Path(__file__).parent.parent / "templates"
CPU = torch.device("cpu")
RATE = 8000
UNET: dict[str, Any] = {
    "filters": [2, 3, 4, 5, 6, 7],
    "nb_bins": 20,
    "nb_frames": 8,
    "sample_rate": RATE,
    "n_fft": 64,
    "hop_length": 16,
    "chunk_seconds": 0.2,
    "nb_chunks": 2,
}
OPEN_UNMIX: dict[str, Any] = {
    "hidden_size": 8,
    "sample_rate": RATE,
    "n_fft": 64,
    "hop_length": 16,
    "segment_seconds": 0.05,
    "batch_size": 2,
}


def unet_plan(data: Path, **changes: Any) -> Plan:
    return make_plan("spleeter-unet", data=data, targets=("vocals", "drums"), changes=UNET | changes)


def open_unmix_plan(data: Path, **changes: Any) -> Plan:
    return make_plan("open-unmix", data=data, changes=OPEN_UNMIX | changes)


def cached(site: Site, train: tuple[str, ...] = ("A", "B"), valid: tuple[str, ...] = ("V",), **options: Any) -> Path:
    """Cache tracks of noise; return the folder."""
    parameters = Parameters(**vars(SMALL) | options)
    for name in (*train, *valid):
        if not (site.root / name).exists():
            site.add(name, nb_channels=parameters.nb_channels, sample_rate=parameters.sample_rate)
    tracks = [site.wanted(name) for name in train] + [site.wanted(name, splits=("valid",)) for name in valid]
    assert not site.build(Request(parameters, SIGNALS, tuple(tracks))).failed
    return site.out


def write(root: Path, lengths: dict[str, int], nb_channels: int = 2, rate: int = RATE) -> Path:
    """Write tracks of noise as wav files."""
    for name, nb_samples in lengths.items():
        folder = root / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        for signal in ("mixture", *STEMS):
            samples = np.random.default_rng(0).integers(-9000, 9000, (nb_samples, nb_channels), np.int16)
            soundfile.write(folder / f"{signal}.wav", samples, rate, "PCM_16")
    return root


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    return write(tmp_path / "waves", {"A": 900, "B": 800, "C": 401, VALIDATION_TRACKS[3]: 700})


def refused(plan: Plan) -> str:
    """Return with what words the data of a plan are refused, which are one line."""
    with pytest.raises(MusdbkitError) as caught:
        make_batches(plan, CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# From configurations


@pytest.mark.parametrize("stems", [2, 4])
@pytest.mark.parametrize("name", ["paper", "upstream"])
def test_plans_of_the_templates(stems: int, name: str) -> None:
    path = TEMPLATES / f"spleeter_{stems}stems.json"
    written = json.loads(path.read_text())
    plan = make_plan(config=path, data=Path("cache"), recipe=name)
    assert (plan.model, plan.data) == ("spleeter-unet", Path("cache"))
    settings = plan.settings
    assert settings.targets == tuple(written["instrument_list"])
    assert (settings.nb_frames, settings.nb_bins) == (written["T"], written["F"]) == (512, 1024)
    assert (settings.n_fft, settings.hop_length) == (written["frame_length"], written["frame_step"])
    assert (settings.sample_rate, settings.nb_channels) == (written["sample_rate"], written["n_channels"])
    activations = {2: ("leaky-relu", "relu"), 4: ("elu", "elu")}[stems]
    assert (settings.encoder_activation, settings.decoder_activation) == activations
    upstream = (settings.batch_norm, settings.dropout, settings.overlap) == ("frozen", 0, 0)
    assert upstream is (name == "upstream")
    recipe = plan.recipe
    assert recipe.name == name
    assert recipe.max_steps == written["train_max_steps"]
    assert recipe.epoch_steps == written["save_checkpoints_steps"]
    assert (recipe.batch_size, recipe.seed) == (written["batch_size"], written["random_seed"])
    assert (recipe.nb_chunks, recipe.chunk_seconds) == (written["n_chunks_per_song"], written["chunk_duration"])
    assert make_plan(config=read_config(path), data=Path("cache"), recipe=name) == plan


def test_a_configuration_of_the_blstm(site: Site) -> None:
    model = {"type": "blstm.blstm", "params": {"lstm_units": 8}}
    plan = make_plan(config=site.configure(["A"], model=model), data=site.out, recipe="upstream")
    assert plan.model == "spleeter-blstm"
    assert plan.settings == BlstmSettings(
        targets=("vocals", "drums"),
        sample_rate=RATE,
        n_fft=64,
        hop_length=16,
        nb_bins=20,
        nb_frames=4,
        hidden_size=8,
        overlap=0.0,
    )
    assert (plan.recipe.max_steps, plan.recipe.epoch_steps, plan.recipe.nb_chunks) == (10, 5, 2)


def test_a_configuration_of_another_model(site: Site) -> None:
    path = site.configure(["A"], model={"type": "resnet", "params": {}})
    with pytest.raises(ParameterError, match=r"model type resnet: expected one of unet\.unet"):
        make_plan(config=path, data=site.out)
    with pytest.raises(DatasetError, match=r"none\.json: cannot be read: No such file"):
        make_plan(config=site.folder / "none.json", data=site.out)


# From names


def test_plans_by_name() -> None:
    for model, settings in (
        ("spleeter-unet", UnetSettings()),
        ("spleeter-blstm", BlstmSettings()),
        ("open-unmix", OpenUnmixSettings()),
        ("block-unet", BlockUnetSettings()),
        ("umx-transformer", UmxTransformerSettings()),
        ("auto-transformer", AutoTransformerSettings()),
    ):
        assert make_plan(model, data=Path("x")) == Plan(model, settings, find_recipe(model, "paper")[0], Path("x"))
        for name in list_recipes(model):
            plan = make_plan(model, data=Path("x"), recipe=name)
            assert (plan.recipe.name, type(plan.settings)) == (name, type(settings))
    plan = make_plan("spleeter-unet", data=Path("x"), recipe="upstream")
    assert plan.settings == UnetSettings(batch_norm="frozen", dropout=0.0, overlap=0.0)
    assert plan.recipe == find_recipe("spleeter-unet", "upstream")[0]


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"model": "block-unet", "training": {"loss": "raw_l1", "segment_seconds": null}, "settings": {}}')
    plan = make_plan("block-unet", data=Path("x"), recipe=str(path))
    assert (plan.recipe.name, plan.recipe.loss) == ("mine", "raw-l1")
    with pytest.raises(ParameterError, match=r'mine\.json: model is "block-unet", expected "umx-transformer"'):
        make_plan("umx-transformer", data=Path("x"), recipe=str(path))


def test_the_words_of_the_unets_authors() -> None:
    changes = {"num_frame": 256, "tfc_tdf_bias": True, "tfc_tdf_activation": "leaky-relu", "val_loss": "spec_mse"}
    changes |= {"lr": 0.1, "train_loss": "raw_l2", "t_down_layers": [0, 2], "bn_factor": None}
    plan = make_plan("block-unet", data=Path("x"), changes=changes)
    assert (plan.recipe.learning_rate, plan.recipe.loss, plan.recipe.valid_loss) == (0.1, "raw-mse", "mse")
    expected = BlockUnetSettings(
        nb_frames=256, bias=True, activation="leaky-relu", t_down_layers=(0, 2), bn_factor=None
    )
    assert plan.settings == expected
    with pytest.raises(ParameterError, match="val_loss: valid_loss is given twice"):
        make_plan("block-unet", data=Path("x"), changes={"valid_loss": "l1", "val_loss": "l1"})
    with pytest.raises(ParameterError, match="open-unmix: no setting tfc_tdf_bias"):
        make_plan("open-unmix", data=Path("x"), changes={"tfc_tdf_bias": True})


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (
            "spleeter-unet",
            {"valid_loss": "raw-l1"},
            "loss raw-l1 is of waves, expected l1, weighted-l1, mse: ",
        ),
        (
            "block-unet",
            {"valid_loss": "weighted-l1"},
            "loss weighted-l1 is of magnitudes, expected another: ",
        ),
        ("block-unet", {"loss": "nsdr", "loss_window": 100}, "loss_hop is 1024, expected at most loss_window, .* 100"),
        ("block-unet", {"loss": "sdr"}, "loss is sdr, which grows with what is right"),
    ],
)
def test_losses_that_a_model_cannot_have(model: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_plan(model, data=Path("x"), changes=changes)


def test_validation_leaves_what_can_be_trained_on(site: Site) -> None:
    """Windows of 1000 samples: of four tracks only one is long enough, and that is not taken for validation."""
    for name, nb_samples in (("A", 900), ("B", 900), ("C", 900), ("D", 1500)):
        site.add(f"train/{name}", ("mixture", *STEMS), nb_samples=nb_samples)
    changes = {"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "input_seconds": 0.125, "shift": 200}
    batches = make_batches(make_plan("umx-transformer", data=site.root, changes=changes), torch.device("cpu"))
    assert (batches.tracks, batches.valid_tracks) == (("D",), ())


def test_what_a_block_unet_hears(site: Site) -> None:
    site.add("train/A", ("mixture", *STEMS), nb_samples=3000)
    changes = {"sample_rate": 8000, "n_fft": 64, "hop_length": 32, "nb_frames": 16, "trim": 64, "n_blocks": 3}
    described = describe(make_plan("block-unet", data=site.root, changes=changes), site.folder / "run")
    assert described["nb_context_frames"] == find_receptive_field(BlockUnetSettings(**changes))
    line = describe_lines(described)[1]
    assert line.startswith(f"an output frame depends on {described['nb_context_frames']} frames at most, if they are")


def test_who_says_how_long_an_example_is() -> None:
    with pytest.raises(ParameterError, match=r"^block-unet: segment_seconds is 3\.0, expected null: the model's own"):
        make_plan("block-unet", data=Path("x"), changes={"segment_seconds": 3})
    with pytest.raises(ParameterError, match=r"^open-unmix: segment_seconds is null, expected seconds$"):
        make_plan("open-unmix", data=Path("x"), changes={"segment_seconds": None})


def test_either_a_name_or_a_configuration() -> None:
    for arguments in ((None, None), ("open-unmix", TEMPLATES / "spleeter_2stems.json")):
        with pytest.raises(ParameterError, match=r"^expected a model's name or a configuration, not both"):
            make_plan(*arguments, data=Path("x"))


@pytest.mark.parametrize("config", [None, TEMPLATES / "spleeter_2stems.json"])
def test_changes_go_to_the_recipe_or_to_the_settings(config: Path | None) -> None:
    model = "spleeter-unet" if config is None else None
    before = make_plan(model, config, data=Path("x"))
    changes = {"learning_rate": 1, "max_epochs": 3, "filters": [1, 2, 3, 4, 5, 6], "dropout": 0, "epoch_steps": None}
    after = make_plan(model, config, data=Path("x"), targets=("piano", "vocals"), changes=changes)
    assert after.recipe == dataclasses.replace(before.recipe, learning_rate=1.0, max_epochs=3, epoch_steps=None)
    assert after.settings == dataclasses.replace(
        before.settings, targets=("piano", "vocals"), filters=(1, 2, 3, 4, 5, 6), dropout=0.0
    )
    assert changes == {  # as they were
        "learning_rate": 1,
        "max_epochs": 3,
        "filters": [1, 2, 3, 4, 5, 6],
        "dropout": 0,
        "epoch_steps": None,
    }


def test_spleeters_words_for_settings() -> None:
    for model in ("spleeter-unet", "spleeter-blstm"):
        ours = make_plan(model, data=Path("x"), changes={"nb_frames": 64, "nb_bins": 512})
        assert make_plan(model, data=Path("x"), changes={"T": 64, "F": 512}) == ours
        assert (ours.settings.nb_frames, ours.settings.nb_bins) == (64, 512)


def test_no_name_belongs_to_recipe_and_settings_both() -> None:
    recipe = {entry.name for entry in dataclasses.fields(Recipe)}
    for kind in models.MODELS.values():
        assert not recipe & {entry.name for entry in dataclasses.fields(kind.settings)}


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("open-unmx", {}, "no model open-unmx: did you mean open-unmix?"),
        ("open-unmix", {"recipe": "best"}, "no recipe best for open-unmix: expected one of paper, upstream"),
        (
            "open-unmix",
            {"changes": {"lerning_rate": 1}},
            "open-unmix: no setting lerning_rate: did you mean learning_rate?",
        ),
        (
            "open-unmix",
            {"changes": {"hiden_size": 1}},
            "open-unmix: no setting hiden_size: did you mean hidden_size?",
        ),
        (
            "open-unmix",
            {"changes": {"qqq": 1}},
            "open-unmix: no setting qqq: expected one of bandwidth, batch_size, ",
        ),
        ("open-unmix", {"changes": {"model.hidden_size": 8}}, "open-unmix: no setting model.hidden_size: did you mean"),
        ("open-unmix", {"changes": {"filters": [1]}}, "open-unmix: no setting filters: "),
        ("open-unmix", {"changes": {"T": 64}}, "open-unmix: no setting T: expected one of bandwidth, batch_size, "),
        ("open-unmix", {"changes": {"name": "mine"}}, "name is the recipe's own and cannot be set: choose a recipe "),
        ("spleeter-unet", {"changes": {"T": 64, "nb_frames": 64}}, "nb_frames: nb_frames is given twice, by both "),
        ("open-unmix", {"changes": {"hidden_size": "8"}}, 'open-unmix: hidden_size is "8", expected a whole number'),
        ("open-unmix", {"changes": {"batch_size": 0}}, "recipe paper: batch_size is 0, expected 1 or more"),
        ("open-unmix", {"targets": ()}, "open-unmix: targets "),
        ("open-unmix", {"targets": ("a", "a")}, "open-unmix: targets "),
        ("spleeter-unet", {"changes": {"nb_bins": 3000}}, "spleeter-unet: nb_bins is 3000, expected at most n_fft / 2"),
    ],
)
def test_plans_that_cannot_be_made(model: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParameterError) as caught:
        make_plan(model, data=Path("x"), **options)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


# Data


def test_batches_of_a_cache(site: Site) -> None:
    batches = make_batches(unet_plan(cached(site), batch_size=3, seed=5), CPU)
    assert isinstance(batches, SpectrogramBatches)
    assert (batches.tracks, batches.valid_tracks, batches.batch_size) == (("A", "B"), ("V",), 3)
    steps = batches.train()
    got = next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert got.mixture.shape == (3, 2, 20, 8)
    options: dict[str, Any] = {"seed": 5, "nb_chunks": 2, "chunk_seconds": 0.2}
    expected = next(open_cache(site.out).batches(8, 3, **options))
    np.testing.assert_array_equal(got.mixture, expected["mixture"].transpose(0, 3, 2, 1).astype(np.float32))
    np.testing.assert_array_equal(got.targets[:, 0], expected["vocals"].transpose(0, 3, 2, 1).astype(np.float32))
    np.testing.assert_array_equal(got.targets[:, 1], expected["drums"].transpose(0, 3, 2, 1).astype(np.float32))


def test_batches_of_waves(waves: Path) -> None:
    batches = make_batches(open_unmix_plan(waves, targets=["vocals"]), CPU)
    assert isinstance(batches, WaveBatches)
    assert (batches.tracks, batches.valid_tracks, batches.batch_size) == (("A", "B", "C"), (VALIDATION_TRACKS[3],), 2)
    steps = batches.train()
    assert next(steps).targets.shape == (2, 1, 2, 33, 22)
    steps.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "value"), [("n_fft", 128), ("hop_length", 32), ("sample_rate", 16_000), ("nb_channels", 1)]
)
def test_a_cache_that_does_not_go_with_the_model(site: Site, name: str, value: int) -> None:
    out = cached(site, **{name: value})
    expected = f"{out}: {name} is {value}, expected {getattr(SMALL, name)}: build another cache"
    assert refused(unet_plan(out)) == expected


def test_a_cache_that_lacks_something(site: Site) -> None:
    out = cached(site, nb_bins=19)
    assert refused(unet_plan(out)) == f"{out}: 19 bins, expected 20 or more: build the cache with them"
    plan = make_plan("spleeter-unet", data=out, targets=("vocals", "bass"), changes=UNET | {"nb_bins": 19})
    assert refused(plan) == (
        f"{out}: no bass, only mixture, vocals, drums: build one with musdbkit cache CONFIG.json --out DIR, of a "
        "configuration of these targets, or with musdbkit cache --preset spleeter --targets vocals,bass --out DIR"
    )
    plan = unet_plan(out, nb_bins=19, nb_frames=98)
    assert refused(plan).startswith(f"{out}: no segment of 98 frames (0.202 s): the longest of 2 tracks")
    missing = site.folder / "none"
    assert refused(unet_plan(missing)).startswith(f"{missing}: no such folder: build it with musdbkit cache")


def test_nothing_to_train_on(site: Site, tmp_path: Path) -> None:
    out = cached(site, train=())
    assert refused(unet_plan(out)) == f"{out}: no tracks of split train: nothing to train on"
    root = write(tmp_path / "waves", {VALIDATION_TRACKS[0]: 700})
    assert refused(open_unmix_plan(root)) == f"{root}: no tracks of split train: nothing to train on"
    short = write(tmp_path / "short", {"A": 400})
    assert refused(open_unmix_plan(short)).startswith(
        f"{short}: no track to train on is longer than 0.05 s: the longest"
    )


def test_waves_that_do_not_go_with_the_model(waves: Path) -> None:
    assert refused(open_unmix_plan(waves, sample_rate=44100)) == (
        f"{waves}: sample_rate is 8000, expected 44100: write the files anew, or train with --set sample_rate=8000"
    )
    assert refused(open_unmix_plan(waves, nb_channels=1)) == (
        f"{waves}: nb_channels is 2, expected 1: write the files anew, or train with --set nb_channels=2"
    )
    plan = open_unmix_plan(waves, targets=["vocals", "piano"])
    assert refused(plan).startswith("no target piano: expected some of ")


def test_waves_that_lack_a_stem(waves: Path) -> None:
    """All four stems make the mixture, whatever is estimated; which track lacks one is said before training begins."""
    (waves / "train" / "B" / "other.wav").unlink()
    plan = open_unmix_plan(waves, targets=["vocals"])
    expected = f"{waves}: B: no other: complete the folder, or name other signals"
    assert refused(plan) == expected
    with pytest.raises(DatasetError, match=r"B: no other"):
        describe(plan, waves / "run")


def test_tracks_are_held_out_where_no_official_ones_are(tmp_path: Path) -> None:
    """As `make-csv` does: of the tracks that can be used, and as long as one is left to train on."""
    names = [f"T{i}" for i in range(15)]
    root = write(tmp_path / "own", dict.fromkeys(names, 500) | {"short": 400, "shorter": 70})
    batches = make_batches(open_unmix_plan(root), CPU)
    held_out = pick_validation(names)
    assert set(batches.valid_tracks) == held_out
    assert len(held_out) == 2
    assert set(batches.tracks) == set(names) - held_out
    assert batches.left_out == ("short", "shorter")
    two = write(tmp_path / "two", {"A": 500, "B": 500, "short": 400})
    batches = make_batches(open_unmix_plan(two), CPU)
    assert (len(batches.tracks), len(batches.valid_tracks)) == (1, 1)
    one = write(tmp_path / "one", {"A": 500, "short": 400})
    batches = make_batches(open_unmix_plan(one), CPU)
    assert (batches.tracks, batches.valid_tracks) == (("A",), ())


def test_files_that_training_does_not_read_do_not_matter(waves: Path) -> None:
    for folder in (waves / "train").iterdir():
        soundfile.write(folder / "click.wav", np.zeros((10, 1)), 44100, "FLOAT")
    assert make_batches(open_unmix_plan(waves), CPU).tracks == ("A", "B", "C")


# How long


def test_steps_of_an_epoch(waves: Path) -> None:
    batches = make_batches(open_unmix_plan(waves), CPU)
    assert find_epoch_steps(Recipe(epoch_steps=7), batches, 2) == 7
    recipe = Recipe(epoch_steps=None, epoch_segments=64, batch_size=16)
    assert find_epoch_steps(recipe, batches, 1) == 12  # 3 tracks, 64 of each, in batches of 16
    assert find_epoch_steps(recipe, batches, 4) == 3
    assert find_epoch_steps(dataclasses.replace(recipe, batch_size=1000), batches, 1) == 1
    batches.tracks = tuple(map(str, range(86)))  # of MUSDB18, and of Open-Unmix's 344 batches
    assert find_epoch_steps(recipe, batches, 1) == 344


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "expected"),
    [(None, None, None), (100, None, 100), (None, 4, 40), (100, 4, 40), (30, 4, 30), (40, 4, 40)],
)
def test_most_steps(max_steps: int | None, max_epochs: int | None, expected: int | None) -> None:
    assert find_max_steps(Recipe(max_steps=max_steps, max_epochs=max_epochs), 10) == expected


# What would be done


def test_what_would_be_trained(site: Site) -> None:
    plan = unet_plan(cached(site), max_epochs=2, epoch_steps=5)
    run = site.folder / "runs" / "new"
    found = describe(plan, run)
    network = models.create(plan.model, plan.settings)
    nb_parameters = sum(tensor.numel() for tensor in network.parameters())
    nb_weights = sum(tensor.numel() for tensor in network.state_dict().values())
    frames = {name: np.load(site.out / name / "drums.npy").shape for name in ("A", "B")}
    free = found.pop("nb_free_bytes")
    assert found == {
        "model": "spleeter-unet",
        "run": str(run),
        "nb_parameters": nb_parameters,
        "nb_context_frames": None,
        "nb_tracks": {"train": 2, "valid": 1},
        "valid_tracks": ["V"],
        "left_out": [],
        "nb_data_bytes": sum(2 * 3 * int(np.prod(shape)) for shape in frames.values()),  # float16, three signals
        "nb_run_bytes": 5 * 4 * nb_weights,
        "epoch_steps": 5,
        "valid_steps": 5,
        "max_steps": 10,
        "settings": models.settings_to_json(plan.settings),
        "recipe": models.settings_to_json(plan.recipe),
    }
    assert free > 0
    json.dumps(found, allow_nan=False)
    assert not run.parent.exists()
    assert describe(unet_plan(site.out, ema_decay=0), run)["nb_run_bytes"] == 4 * 4 * nb_weights
    lines = describe_lines(found | {"nb_free_bytes": 2_500_000_000})
    assert lines[0] == f"model: spleeter-unet, {nb_parameters:,} parameters, of vocals, drums"
    assert lines[1] == "tracks: 2 to train on, 1 to validate on; 0.00 GB of data"
    assert lines[2] == "steps: 10, validation every 5"
    assert lines[3].endswith(" GB; 2.50 GB free")
    assert lines[4] == "validation: V"
    assert max(map(len, lines[5:])) <= 80, lines
    settings, recipe = " ".join(map(str.strip, lines[5:])).split(" recipe:")
    assert settings.startswith('settings: targets ["vocals", "drums"], nb_channels 2, ')
    assert ", output sigmoid, " in settings
    assert recipe.startswith(" name paper, ")
    assert "max_epochs 2" in recipe
    assert "stop_patience null" in recipe
    assert settings.count(" ") >= len(found["settings"])
    assert all(f" {name} " in settings for name in found["settings"])
    assert all(f" {name} " in recipe for name in found["recipe"])
    endless = describe(unet_plan(site.out, max_steps=None), run)
    assert describe_lines(endless)[2] == "steps: no end, validation every 1000"


def test_what_would_be_refused(waves: Path, tmp_path: Path) -> None:
    """As training itself would, before it writes."""
    plan = open_unmix_plan(waves)
    file, other, run = tmp_path / "file", tmp_path / "other", tmp_path / "run"
    file.write_text("")
    for folder, name in ((other, "song.wav"), (run, "last.json")):
        folder.mkdir()
        (folder / name).write_text("{}")
    for path, reason in ((file, "is a file"), (other, "holds song.wav"), (run, "holds a run already: --force")):
        with pytest.raises(DatasetError, match=reason):
            describe(plan, path)
    assert describe(plan, run, replace=True)["run"] == str(run)
    with pytest.raises(DatasetError, match=r"holds song\.wav"):
        describe(plan, other, replace=True)


def test_tracks_left_out_are_said(tmp_path: Path) -> None:
    root = write(tmp_path / "own", {"A": 500, "short, too": 400})
    described = describe(open_unmix_plan(root), tmp_path / "run")
    assert described["left_out"] == ["short, too"]
    assert "left out, too short for a segment: short, too" in describe_lines(described)


@pytest.mark.parametrize("ema_decay", [0, 0.999])
def test_what_is_written_is_what_was_said(waves: Path, tmp_path: Path, ema_decay: float) -> None:
    from baselines.train import Hardware, train

    plan = open_unmix_plan(waves, targets=["vocals"], max_steps=1, epoch_steps=1, ema_decay=ema_decay, hidden_size=64)
    said = describe(plan, tmp_path / "run")["nb_run_bytes"]
    train(plan, tmp_path / "run", hardware=Hardware("cpu"))
    written = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.safetensors"))
    assert 0.9 * said < written < 1.1 * said + 40_000  # of names in the files' heads


# Which data


def test_the_fingerprint_is_of_the_tracks(waves: Path) -> None:
    def now() -> str:
        return fingerprint(open_waves(waves, valid=VALIDATION_TRACKS))

    first = now()
    assert first == now() != fingerprint(open_waves(waves))  # in which no track is to validate on
    write(waves, {"D": 900})
    added = now()
    write(waves, {"D": 901})
    lengthened = now()
    (waves / "train" / "D").rename(waves / "train" / "E")
    renamed = now()
    assert len({first, added, lengthened, renamed}) == 4
    assert all(len(each) == 64 for each in (first, added))


def test_the_fingerprint_of_a_cache(site: Site) -> None:
    first = fingerprint(open_cache(cached(site)))
    assert fingerprint(open_cache(cached(site))) == first
    assert fingerprint(open_cache(cached(site, train=("A",), valid=("B", "V")))) != first
