"""The examples run as they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from musdbkit.cache_request import find_request
from musdbkit.caching import build
from musdbkit.synth import synth

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = sorted(path.name for path in (REPOSITORY / "examples").iterdir() if path.is_file())


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `musdbkit` is this checkout."""
    program = tmp_path / "bin" / "musdbkit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m musdbkit "$@"\n')
    program.chmod(0o755)
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def test_each_example_has_a_test() -> None:
    """Those of the exports are elsewhere: one needs Spleeter, the other is of test_import_block_unet.py."""
    here = ["dataloader.py", "learn_synthetic.py", "loudness_of_stems.py", "prepare_spleeter.sh", "score_your_model.py"]
    assert sorted([*here, "export_lightning_checkpoint.py", "export_spleeter_weights.py"]) == EXAMPLES


def test_dataloader(tmp_path: Path, environment: dict[str, str]) -> None:
    synth(tmp_path / "musdb", train=2, valid=0, test=0, seconds=12.5, layout="wav")
    build(find_request(tmp_path / "musdb", "spleeter", targets=["vocals"]), tmp_path / "cache")
    command = [sys.executable, REPOSITORY / "examples" / "dataloader.py", tmp_path / "cache", "2"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *signals, speed = result.stdout.splitlines()
    assert signals == [f"{signal} (4, 512, 1024, 2) torch.float16" for signal in ("mixture", "vocals")]
    assert "2 workers" in speed


def test_loudness_of_stems(excerpt: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, REPOSITORY / "examples" / "loudness_of_stems.py", excerpt]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [words[0] for words in lines] == ["mixture", "drums", "bass", "other", "vocals"]
    assert all(-40 < float(words[1]) < -5 for words in lines)


def test_prepare_spleeter(tmp_path: Path, environment: dict[str, str]) -> None:
    synth(tmp_path / "stems", train=1, valid=1, test=0, seconds=12.5)
    command = ["bash", REPOSITORY / "examples" / "prepare_spleeter.sh", tmp_path / "stems", tmp_path / "out"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "musdb_2stems_train.csv: tracks 1, faults 0" in result.stdout


def test_score_your_model(excerpt: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, REPOSITORY / "examples" / "score_your_model.py", excerpt, excerpt]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    medians = {words[0]: float(words[1]) for words in map(str.split, result.stdout.splitlines())}
    assert medians.keys() == {"drums", "bass", "other", "vocals"}
    assert all(-1 < median < 3 for median in medians.values())  # a quarter of the mixture is near the floor


@pytest.mark.slow
def test_learn_synthetic(tmp_path: Path, environment: dict[str, str]) -> None:
    """What was learned in a minute or two separates tracks that were held out better than doing nothing does."""
    command = [sys.executable, REPOSITORY / "examples" / "learn_synthetic.py", tmp_path, "--steps", "200"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    *rest, last = result.stdout.splitlines()[3:]
    rows = {words[0]: [float(word) for word in words[1:]] for words in map(str.split, rest)}
    assert last == f"to read and to listen to: {tmp_path / 'report.html'}"
    assert "oracle, a ceiling" in (tmp_path / "report.html").read_text(encoding="utf-8")
    for target in ("vocals", "drums"):
        floor, model, ceiling = rows[target]
        assert floor < model < ceiling
