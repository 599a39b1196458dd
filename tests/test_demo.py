"""The demo runs the whole walk on real input, without ffmpeg, and a second time does only what is missing."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np

Run = Callable[..., subprocess.CompletedProcess[str]]


def vocals_sdr(folder: Path) -> float:
    """Return the median over tracks of the median over frames."""
    medians = []
    for path in (folder / "test").glob("*.json"):
        targets = {target["name"]: target["frames"] for target in json.loads(path.read_text())["targets"]}
        medians.append(np.nanmedian([frame["metrics"]["SDR"] for frame in targets["vocals"]]))
    assert len(medians) == 2
    return float(np.median(medians))


def test_demo_makes_what_it_says(run_cli: Run, tmp_path: Path) -> None:
    result = run_cli("demo", "out", COLUMNS="120")
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    assert (out / "musdb18" / "test" / "The Easton Ellises - Falcon 69.stem.mp4").stat().st_size == 950_721
    assert len(list((out / "musdb18-wav").rglob("*.wav"))) == 6 * 6
    with (out / "spleeter" / "musdb_2stems_train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert all((out / "musdb18-wav" / row["accompaniment_path"]).is_file() for row in rows)
    assert "left out: test/The Easton Ellises - Falcon 69: 268288 samples (6.084 s)" in result.stdout
    floor, ceiling = (vocals_sdr(out / "estimates" / f"{method}-scores") for method in ("mix", "irm2"))
    assert -5 < floor < 5 < ceiling < 15
    assert "sisec18: median over frames" in result.stdout
    assert "export MUSDB_PATH" in result.stdout
    assert len(list((out / "cache").rglob("*.npy"))) == 4 * 3
    (picture,) = out.glob("*.png")
    image = matplotlib.image.imread(picture)
    assert image.shape == (675, 1350, 4)
    top, bottom = image[100:150, 200:1100, :3].mean(), image[550:600, 200:1100, :3].mean()
    assert top < 0.1 < 0.3 < bottom  # AAC holds nothing above 16 kHz, music most below 2
    assert "The report is out/report.html." in result.stdout
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The Easton Ellises - Falcon 69" in page
    assert 5_000_000 < len(page) < 12_000_000
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert run_cli("demo", "out").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
