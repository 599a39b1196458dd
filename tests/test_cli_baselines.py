"""The commands `musdbkit baselines ...`: what they print, what they write, and how they end."""

import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from baselines import cli, models
from baselines.open_unmix import OpenUnmix, OpenUnmixSettings
from baselines.recipes import list_recipes
from musdbkit import cli as core
from musdbkit import musdb18
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError
from musdbkit.synth import synth
from musdbkit.tracks import Parallel
from tests.sites import Site
from tests.test_train import BLOCKS, LONG, OPEN_UNMIX, STEMS, UNET, cached, waves  # noqa: F401  fixtures
from tests.test_train import SMALL as FURTHER


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def sets(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def document(result: Result) -> Any:
    """Return the one strict JSON document that a command printed."""
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout, parse_constant=pytest.fail)


def refusal(result: Result) -> MusdbkitError:
    """Return the error that the program prints in one line."""
    assert isinstance(result.exception, MusdbkitError), result.output + repr(result.exception)
    assert "\n" not in str(result.exception)
    return result.exception


def test_the_names_are_those_there_are() -> None:
    assert typing.get_args(cli.ModelName) == tuple(models.MODELS)
    help_text = typing.get_args(cli.RecipeName)[1].help
    assert all(f"{name}:" in help_text for model in models.MODELS for name in list_recipes(model))


@pytest.fixture
def spleeter(cached: Path, tmp_path: Path) -> Callable[..., Result]:  # noqa: F811
    """Trains a tiny U-Net."""

    def train(*words: object, **changes: Any) -> Result:
        settings = UNET | {"max_steps": 2, "epoch_steps": 2} | changes
        fixed = ["--model", "spleeter-unet", "--cache", cached, "--targets", "vocals,drums", "--out", tmp_path / "run"]
        return run("train", *fixed, *sets(settings), "--device", "cpu", *words)

    return train


def test_train_a_dry_run_writes_nothing(spleeter: Callable[..., Result], tmp_path: Path) -> None:
    result = spleeter("--dry-run")
    assert result.exit_code == 0
    assert "tracks: 3 to train on, 1 to validate on" in result.stdout
    assert "nb_frames 8" in result.stdout
    assert document(spleeter("--dry-run", "--json"))["nb_tracks"] == {"train": 3, "valid": 1}
    assert not (tmp_path / "run").exists()


def test_train_and_resume(spleeter: Callable[..., Result], tmp_path: Path) -> None:
    result = spleeter()
    assert result.exit_code == 0
    assert "steps: 2, in" in result.stdout
    assert f"run: {tmp_path / 'run'}" in result.stdout
    assert "best validation loss:" in result.stdout
    assert "step 1/2" in result.stderr
    assert isinstance(refusal(spleeter()), DatasetError)
    trained = document(spleeter("--resume", "--json", max_steps=4))
    assert (trained["step"], trained["ended"]) == (4, "steps")
    assert document(spleeter("--force", "--json"))["step"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one, or --model NAME"),
        (["--config", "c.json", "--model", "open-unmix"], "give one, or --model NAME"),
        (["--model", "open-unmix", "--cache", "cache"], "open-unmix reads wav files"),
        (["--model", "spleeter-unet", "--musdb", "wav"], "Spleeter's models read a cache"),
        (["--model", "spleeter-unet", "--resume", "--force"], "either this or --resume"),
        (["--model", "spleeter-unet", "--set", "batch_size"], "expected NAME=VALUE"),
        (["--model", "umx"], "is not one of"),
    ],
)
def test_train_words_that_do_not_go_together(words: list[str], message: str) -> None:
    result = run("train", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_train_settings_that_do_not_exist(spleeter: Callable[..., Result]) -> None:
    error = refusal(spleeter("--set", "batch_sise=3"))
    assert isinstance(error, ParameterError)
    assert "did you mean batch_size?" in str(error)


@pytest.fixture
def umx(waves: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A run of a tiny Open-Unmix."""
    settings = OPEN_UNMIX | {"max_steps": 1, "epoch_steps": 1}
    result = run("train", "--model", "open-unmix", "--musdb", waves, "--out", tmp_path / "umx", *sets(settings))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return tmp_path / "umx"


def test_separate(umx: Path, site: Site, tmp_path: Path) -> None:
    site.add("test/T", STEMS)
    out = tmp_path / "estimates"
    assert "to write" in run("separate", umx, site.root, "--out", out, "--dry-run").stdout
    assert not out.exists()
    result = run("separate", umx, site.root, "--out", out)
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "tracks: 1 separated" in result.stdout
    assert sorted(path.stem for path in (out / "test" / "T").glob("*.wav")) == sorted(musdb18.STEMS)
    again = document(run("separate", umx, site.root, "--out", out, "--json"))
    assert again["tracks"]["test/T"]["status"] == "already there"
    changed = run("separate", umx, site.root, "--out", out, "--wiener", "2")
    assert "nb_wiener_iterations was 1, now 2" in str(refusal(changed))
    assert document(run("separate", umx, site.root, "--out", out, "--wiener", "2", "--force", "--json"))["failed"] == {}


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic tracks of 3 s: one to train on, one to validate on, one to test."""
    folder = tmp_path_factory.mktemp("music") / "wav"
    synth(folder, train=1, valid=1, test=1, seconds=3.0, layout="wav", parallel=Parallel(1))
    return folder


@pytest.mark.parametrize(("model", "changes"), [*BLOCKS, *LONG])
def test_every_block_and_attention_from_music_to_scores(
    music: Path, tmp_path: Path, model: str, changes: dict[str, Any]
) -> None:
    """Train, go on, separate and score, each by its command."""
    settings = FURTHER[model] | changes | {"batch_size": 2, "epoch_steps": 2}
    if model != "block-unet":
        settings |= {"input_seconds": 1.0, "shift": 20000, "n_fft": 512, "hop_length": 256, "valid_epochs": 1}
    else:
        settings |= {"n_fft": 512, "hop_length": 256, "trim": 512, "nb_frames": 64}
    words = ["train", "--model", model, "--musdb", music, "--out", tmp_path / "run", "--targets", "vocals"]
    words += [*sets({name: value for name, value in settings.items() if name != "bandwidth"}), "--device", "cpu"]
    for step, more in ((2, []), (4, ["--resume"])):
        trained = document(run(*words, "--max-steps", step, "--json", *more))
        assert (trained["step"], list(trained["best"])) == (step, ["vocals"])
    out = tmp_path / "estimates"
    assert run("separate", tmp_path / "run", music, "--out", out, "--residual").exit_code == 0
    (track,) = (out / "test").iterdir()
    mixture = soundfile.read(music / "test" / track.name / "mixture.wav")[0]
    parts = [soundfile.read(track / f"{name}.wav")[0] for name in ("vocals", "residual")]
    assert np.abs(parts[0]).max() > 1e-4
    np.testing.assert_allclose(sum(parts), mixture, atol=1e-4)
    words = ["score", out, "--musdb", music, "--metrics", "sdr", "--json", "--jobs", 1]
    result = CliRunner().invoke(core.app, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert '"vocals"' in result.stdout


def test_separate_names_what_failed(umx: Path, site: Site, tmp_path: Path) -> None:
    folder = site.add("songs")
    (folder / "broken.wav").write_bytes(b"RIFF")
    result = run("separate", umx, folder / "broken.wav", folder / "mixture.wav", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "broken" in result.stderr
    assert "1 track failed; 1 done" in result.stderr
    assert (tmp_path / "out" / "mixture" / "vocals.wav").is_file()


def test_import(tmp_path: Path) -> None:
    torch.save(OpenUnmix(OpenUnmixSettings(targets=("vocals",), hidden_size=8)).state_dict(), tmp_path / "vocals.pth")
    words = ["import", tmp_path / "vocals.pth", "--model", "open-unmix", "--out", tmp_path / "run"]
    assert "vocals" in run(*words, "--dry-run").stdout
    assert not (tmp_path / "run").exists()
    assert document(run(*words, "--json"))["settings"]["hidden_size"] == 8
    assert models.load_run(tmp_path / "run").settings.targets == ("vocals",)
    assert "holds a run already" in str(refusal(run(*words)))
    assert run(*words, "--force").exit_code == 0


def test_study(waves: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("baselines.study._TIMED_SECONDS", 0.1)
    site.add("test/T", STEMS, nb_samples=12000)
    settings = sets({name: value for name, value in OPEN_UNMIX.items() if name != "hidden_size"})
    words = ["study", "--parameter", "hidden_size", "--values", "4,8", "--model", "open-unmix", "--musdb", waves]
    words += ["--max-steps", "1", "--out", tmp_path / "study", "--jobs", "1", "--device", "cpu", *settings]
    assert run(*words, "--dry-run").exit_code == 0
    assert not (tmp_path / "study").exists()
    points = document(run(*words, "--json"))
    assert [point["value"] for point in points] == [4, 8]
    assert set(points[0]["sdr"]) == set(musdb18.STEMS)
    result = run(*words)
    assert result.exit_code == 0
    assert "hidden_size" in result.stdout
    assert str(tmp_path / "study" / "study.png") in result.stdout


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    error = refusal(run("train", "--model", "open-unmix"))
    assert str(error) == "no torch, lightning_fabric, safetensors: pip install 'musdbkit[baselines]'"
