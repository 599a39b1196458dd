"""The command `compare` as it is typed."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.museval_json import write_submission, write_values

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def submissions(tmp_path: Path) -> Path:
    for name in ("TAK1", "UHL3", "HEL1"):
        write_submission(tmp_path / name, name)
    return tmp_path


def test_compare_prints_the_published_medians(run_cli: Run, submissions: Path) -> None:
    result = run_cli("compare", "TAK1", "UHL3", "HEL1")
    assert result.returncode == 0, result.stderr
    table = result.stdout[: result.stdout.index("SiSEC 2018 ")]
    for row in (
        r"TAK1 +6\.600 +6\.431 +5\.156 +4\.152 +12\.834",
        r"UHL3 +6\.512 +6\.719 +5\.032 +4\.433 +12\.685",
        r"HEL1 +0\.093† +0\.079 +-0\.325 +0\.261 +-",
    ):
        assert re.search(rf"^ {row}".replace(" +", r" +\*?"), table, re.MULTILINE), row
    assert "scenario of vocals differs" in result.stdout
    again = run_cli("compare", "TAK1", "UHL3", "HEL1")
    assert again.stdout == result.stdout


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (("--format", "markdown"), "SDR, sisec18"),
        (("--format", "latex"), "% SDR, sisec18"),
        (("--format", "json"), "{"),
        (("--json",), "{"),
    ],
)
def test_formats(run_cli: Run, submissions: Path, options: tuple[str, ...], start: str) -> None:
    result = run_cli("compare", "ours=TAK1", "UHL3", "--no-reference", "--changes", "0", *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(start)
    assert re.search(r"ours.*6\.(60|599)", result.stdout, re.DOTALL) or start == "{"
    assert "IRM2" not in result.stdout
    if start == "{":
        assert json.loads(result.stdout)["methods"]["ours"]["targets"]["vocals"]["value"] == pytest.approx(6.6)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing argument 'SCORES...'"),
        (("nowhere",), 1, "error: nowhere: no such file or folder, expected scores"),
        (("a", "a"), 2, "the name of two methods, expected another for each: NAME=PATH gives names"),
        (("a", "--metric", "PSNR"), 2, "metric is 'PSNR', expected one of SDR, ISR, SIR, SAR, uSDR, SI-SDR, SNR"),
        (("a", "--metric", "usdr"), 1, "error: a: no uSDR, found SDR: take --metric sdr"),
        (("a", "--aggregation", "mdx"), 2, "mdx is not made of SDR, expected sisec18 or demucs-mean"),
        (("a", "x="), 2, "no folder is named, expected one of scores, or NAME=FOLDER"),
        (("broken",), 1, "error: broken/test/T.json: is not JSON"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    run_cli: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    write_values(tmp_path / "a", {"T": {"vocals": 1.0}})
    write_values(tmp_path / "broken", {"T": {"vocals": 1.0}})
    (tmp_path / "broken" / "test" / "T.json").write_text('{"targets": [')
    result = run_cli("compare", *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
