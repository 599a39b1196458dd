"""The README's commands are commands that exist, with options that exist; its Python runs."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command

from baselines.attention import ATTENTIONS
from baselines.block_unet import BLOCKS, find_receptive_field
from baselines.cli import app as baselines
from baselines.models import create, find_kind
from baselines.recipes import find_recipe
from musdbkit.cli import app
from musdbkit.synth import synth
from tests.museval_json import write_values

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [
    shlex.split(part, comments=True)
    for line in SHELL
    for part in line.split("&&")
    if shlex.split(part, comments=True)[:1] == ["musdbkit"]
]


def test_the_two_setup_commands_are_there() -> None:
    assert "pip install . && musdbkit demo" in SHELL
    assert "pip install '.[dev]' && pytest" in SHELL
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    group, first = (get_command(baselines), 2) if words[1] == "baselines" else (get_command(app), 1)
    command = group.commands[words[first]]  # type: ignore[attr-defined]
    context = group.make_context("musdbkit", [words[first]])
    command.make_context(words[first], words[first + 1 :], parent=context)


def test_the_parse_test_can_fail() -> None:
    command = get_command(app).commands["convert"]  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="No such option"):
        command.make_context("convert", ["--no-such-option"])


def test_other_shell_lines_are_known() -> None:
    known = ("musdbkit ", "pip install", "export MUSDB_PATH=", "python examples/")
    assert [line for line in SHELL if line and not line.startswith(known)] == []


def test_every_command_is_in_the_readme() -> None:
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"musdbkit {name}" in README
    for name in get_command(baselines).commands:  # type: ignore[attr-defined]
        assert f"musdbkit baselines {name}" in README


def test_python_examples_run(tmp_path: Path) -> None:
    codes = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(codes) == 4
    synth(tmp_path / "musdb18", train=2, valid=1, test=0, seconds=12.5)
    for name in ("estimates-scores", "other-scores"):
        write_values(tmp_path / name, {"A": {"vocals": 1.0, "bass": 3.0}, "B": {"vocals": 2.0, "bass": 4.0}})
    for code in codes:
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, check=True, capture_output=True)
    assert (tmp_path / "spleeter" / "musdb_2stems_train.csv").is_file()
    assert (tmp_path / "cache" / "index.json").is_file()


def test_the_cost_of_each_dtype_is_as_the_benchmark_measures() -> None:
    spec = importlib.util.spec_from_file_location("cache_error", REPOSITORY / "benchmarks" / "cache_error.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = re.findall(r"\| `(\w+)` \| \d+ GB \| ([0-9.]+) dB \| ([0-9.]+) dB \| (<?) ?([0-9.]+) dB \|", README)
    said = {dtype: (float(a), float(b), less, float(c)) for dtype, a, b, less, c in rows}
    costs = module.measure()
    assert said.keys() == costs.keys()
    for dtype, (spectral, estimate, less, lost) in said.items():
        assert costs[dtype][:2] == pytest.approx((spectral, estimate), abs=0.2)
        assert abs(costs[dtype][2]) < lost if less else costs[dtype][2] == pytest.approx(lost, abs=0.0002)


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("spleeter-unet", {}),
        ("spleeter-blstm", {}),
        ("open-unmix", {}),
        ("open-unmix", {"hidden_size": 1024}),
        *(("block-unet", {"block": block}) for block in BLOCKS),
        ("block-unet", find_recipe("block-unet", "large")[1]),
        *((model, {"attention": kind}) for model in ("umx-transformer", "auto-transformer") for kind in ATTENTIONS),
    ],
)
def test_the_table_of_models_counts_right(model: str, changes: dict[str, Any]) -> None:
    settings = find_kind(model).settings(targets=("vocals",), **changes)
    with torch.device("meta"):
        count = sum(tensor.numel() for tensor in create(model, settings).parameters())
    start = README.index(f"| `{model}` |")
    rows = README[start : README.index("\n\n", start)].splitlines()
    (row,) = [row for row in rows if f" {count:,} " in row or f" {count:,};" in row]
    if model == "block-unet":
        frames = find_receptive_field(settings)
        assert {None: "its 128 frames |", 1: "1 frame |"}.get(frames, f"({frames}") in row
