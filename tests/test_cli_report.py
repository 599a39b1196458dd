"""The command `report` as it is typed: from estimates and scores to one page."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from musdbkit import audio
from musdbkit.synth import synth
from musdbkit.tracks import Parallel
from tests.museval_json import write_values

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def scored(run_cli: Run, tmp_path: Path) -> Path:
    """A track, the mixture as estimate of its stems, and the scores of it."""
    synth(tmp_path / "musdb", train=0, valid=0, test=1, seconds=6, layout="wav", parallel=Parallel(1))
    for command in (
        ("oracle", "--method", "mix", "--musdb", "musdb", "--out", "estimates"),
        ("score", "estimates", "--musdb", "musdb", "--metrics", "sdr,usdr"),
    ):
        result = run_cli(*command, "-j", "1")
        assert result.returncode == 0, result.stderr
    return tmp_path


def test_report_with_sound(run_cli: Run, scored: Path) -> None:
    command = ("report", "estimates-scores", "--estimates", "estimates", "--musdb", "musdb", "-j", "1")
    dry = run_cli(*command, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "(to write, " in dry.stdout
    assert not (scored / "report.html").exists()
    result = run_cli(*command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("report.html  (written, ")
    assert "excerpts of sound: 5" in result.stdout
    assert "references: musdb" in result.stderr
    page = (scored / "report.html").read_bytes()
    assert 5_000_000 < len(page) < 12_000_000
    again = run_cli(*command)
    assert "(already there, " in again.stdout
    assert (scored / "report.html").read_bytes() == page
    result = run_cli("report", "estimates-scores", "--aggregation", "demucs-mean", "--no-reference", "--together")
    assert result.returncode == 0, result.stderr
    assert "median over frames, then mean over tracks" in (scored / "report.html").read_text(encoding="utf-8")
    changed = run_cli("report", "estimates-scores", "--metric", "usdr", "--json")
    assert changed.returncode == 0, changed.stderr
    document = json.loads(changed.stdout)
    assert document["report"]["status"] == "replaced"
    assert document["failed"] == {}
    assert (scored / "report.html").read_bytes() != page


def test_what_cannot_be_heard_is_named_and_the_page_is_written(run_cli: Run, scored: Path) -> None:
    (vocals,) = (scored / "estimates").glob("test/*/vocals.wav")
    audio.write(vocals, audio.read(vocals), 48000)
    result = run_cli(
        *("report", "estimates-scores", "--estimates", "estimates", "--musdb", "musdb", "--out", "page.html", "-j", "1")
    )
    assert result.returncode == 1
    assert (scored / "page.html").is_file()
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "48000 Hz" in lines[0]
    assert result.stderr.splitlines()[-1] == "1 track failed; the report has no sound of it"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing argument 'SCORES...'"),
        (("nowhere",), 1, "error: nowhere: no such file or folder, expected scores"),
        (("a", "--musdb", "musdb"), 2, "use it with --estimates"),
        (("a", "--metric", "PSNR"), 2, "metric is 'PSNR', expected one of SDR"),
        (("a", "--aggregation", "mdx"), 2, "mdx is not made of SDR, expected sisec18 or demucs-mean"),
        (("a", "--out", "mine.html"), 1, "mine.html"),
        (("a", "--estimates", "x", "--estimates", "y", "--musdb", "a"), 2, "2 folders of estimates for 1 of scores"),
        (("a", "--estimates", "x"), 1, "MUSDB_PATH"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    run_cli: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    write_values(tmp_path / "a", {"T": {"vocals": 1.0}})
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    result = run_cli("report", *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    assert not (tmp_path / "report.html").exists()
