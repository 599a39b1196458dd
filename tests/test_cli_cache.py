"""`musdbkit cache` as a user meets it: lines, exit statuses, options that do not go together."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from musdbkit.cache import INDEX, RECORD, open_cache
from musdbkit.cli import app
from tests.test_caching import NB_SAMPLES, SIGNALS, Site, change_one_sample, state, tree

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two tracks and a configuration, where the command line is run."""
    site = Site(tmp_path)
    site.add("train/A")
    site.add("train/B")
    site.configure(["train/A", "train/B"])
    return site


def lines(text: str) -> list[str]:
    """Return what is said beside the progress and what depends on the disk."""
    progress = ("look: ", "cache: ", "dry run: ", "verify: ")
    return [line.partition("; ")[0] for line in text.splitlines() if not line.startswith(progress)]


def document(result: subprocess.CompletedProcess[str]) -> Any:
    """Return the one strict JSON document on stdout."""
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))


NOTE = "note: in the training and in the validation CSV: A"


def test_the_walk(run_cli: Run, site: Site) -> None:
    variables = {"MUSDB_PATH": str(site.root)}
    jobs = ("--jobs", "1")
    planned = run_cli("cache", "config.json", "--dry-run", *jobs, **variables)
    assert planned.returncode == 0, planned.stderr
    assert lines(planned.stderr) == [f"musdb: {site.root}", "out: cache"]
    assert lines(planned.stdout) == ["tracks: 2 to build", "to write: 0.1 MB", NOTE]
    assert not site.out.exists()

    built = run_cli("cache", "config.json", **variables)
    assert built.returncode == 0, built.stderr
    assert lines(built.stdout) == ["tracks: 2 built", "written: 0.1 MB", NOTE]
    assert open_cache(site.out).signals == SIGNALS

    before = state(site.out)
    again = run_cli("cache", "config.json", *jobs, **variables)
    assert (again.returncode, lines(again.stdout)) == (0, ["tracks: 2 already there", "written: 0.0 MB", NOTE])
    assert state(site.out) == before

    for arguments in ((), ("config.json",)):
        result = run_cli("cache", *arguments, "--info", *jobs, **variables)
        assert result.returncode == 0
        assert result.stdout.splitlines()[-2:] == [
            "tracks: train 2, valid 1; 0.0 min of music; 0.1 MB",
            "valid" if arguments else "whole (give CONFIG.json to compare it with its sources)",
        ]
        result = run_cli("cache", *arguments, "--verify", *jobs, **variables)
        assert (result.returncode, lines(result.stdout)) == (0, ["tracks: 2 as written"])
    assert state(site.out) == before


def test_what_has_changed_is_said(run_cli: Run, site: Site) -> None:
    options = ("config.json", "--musdb", "wav", "--jobs", "1")
    assert run_cli("cache", *options).returncode == 0
    change_one_sample(site.root / "train" / "B" / "drums.wav")
    info = run_cli("cache", *options, "--info")
    assert info.stdout.splitlines()[-2:] == [
        "not valid: drums.wav has changed: drums of B",
        "musdbkit cache CONFIG.json brings it up to date",
    ]
    assert info.returncode == 1
    verified = run_cli("cache", *options, "--verify")
    assert verified.returncode == 1
    assert lines(verified.stderr)[-2:] == [
        "error: cache/train/B: wav/train/B/drums.wav has changed: run musdbkit cache again",
        "1 track failed",
    ]
    rebuilt = run_cli("cache", *options)
    assert rebuilt.returncode == 0
    assert lines(rebuilt.stdout)[0] == "tracks: 1 already there, 1 rebuilt"
    assert "drums.wav has changed: drums of B" in rebuilt.stdout
    site.configure(["train/A"], instrument_list=["drums"])
    less = run_cli("cache", *options)
    assert less.returncode == 0
    assert "not in use: 0.1 MB in train/A" in less.stdout
    assert "(--prune removes them)" in less.stdout
    pruned = run_cli("cache", *options, "--prune")
    assert "not in use: 0.1 MB in train/A" in pruned.stdout
    assert "(removed)" in pruned.stdout
    expected = {INDEX, *(f"train/A/{name}" for name in (RECORD, "mixture.npy", "drums.npy"))}
    assert tree(site.out).keys() == expected
    (site.out / "train" / "A" / "drums.npy").write_bytes(b"no")
    verified = run_cli("cache", "--verify")
    assert verified.returncode == 1
    assert "cache/train/A: drums: its file is missing, or has another size" in verified.stderr


def test_json_is_one_document_on_stdout(run_cli: Run, site: Site) -> None:
    options = ("config.json", "--musdb", "wav", "--jobs", "1", "--json")
    soundfile.write(site.root / "train" / "B" / "vocals.wav", np.zeros((100, 2)), 8000)
    planned = document(run_cli("cache", *options, "--dry-run"))
    result = run_cli("cache", *options, "--dtype", "uint8")
    assert result.returncode == 1
    built = document(result)
    assert list(built) == ["out", "summary", "tracks", "failed", "notes", "unused", "pruned"]
    assert built["out"] == "cache"
    assert built["summary"]["nb_tracks"] == {"built": 1}
    assert list(built["tracks"]) == list(planned["tracks"]) == ["A"]
    track = built["tracks"]["A"]
    assert (track["status"], track["nb_frames"], track["folder"]) == ("built", 184, "cache/train/A")
    assert track["stale"] == dict.fromkeys(SIGNALS, "not there")
    assert track["nb_bytes"] == sum(path.stat().st_size for path in site.out.rglob("*.npy"))
    assert f"vocals.wav: 100 samples, expected {NB_SAMPLES}" in built["failed"]["B"]
    found = document(run_cli("cache", "--info", "--json"))
    assert found["valid"] is True
    assert found["index"]["parameters"]["dtype"] == "uint8"
    assert found["index"]["tracks"]["A"] == {"folder": "train/A", "splits": ["train", "valid"]}
    verified = document(run_cli("cache", "--verify", "--json"))
    assert verified == {"out": "cache", "nb_bytes": track["nb_bytes"], "verified": ["A"], "failed": {}}
    (site.out / "train" / "A" / "drums.npy").unlink()
    result = run_cli("cache", "--verify", "--json")
    assert result.returncode == 1
    assert list(document(result)["failed"]) == ["A"]
    found = document(run_cli("cache", "--info", "--json"))
    assert (found["valid"], list(found["stale"]["A"])) == (False, ["drums"])


def test_a_broken_track_is_named_and_the_others_are_done(run_cli: Run, site: Site) -> None:
    name = "train/Bad\x1b[31m - [bold]T[bold]"
    site.add(name, sample_rate=16_000)
    site.configure(["train/A", name, "train/B"])
    result = run_cli("cache", "config.json", "--musdb", "wav")
    assert result.returncode == 1
    assert lines(result.stdout)[0] == "tracks: 2 built"
    error, closing = lines(result.stderr)[-2:]
    assert closing == "1 track failed"
    assert error.startswith("error: ")
    assert error.endswith(r"wav/train/Bad\x1b[31m - [bold]T[bold]/mixture.wav: 16000 Hz, expected 8000: resample it")
    assert "\x1b" not in result.stdout + result.stderr
    site.add(name)
    result = run_cli("cache", "config.json", "--musdb", "wav")
    assert (result.returncode, lines(result.stdout)[0]) == (0, "tracks: 2 already there, 1 built")
    (site.root / name / "drums.wav").unlink()
    result = run_cli("cache", "config.json", "--musdb", "wav", "--info")
    assert "\x1b" not in result.stdout + result.stderr
    assert open_cache(site.out).tracks == ("A", "B", name.partition("/")[2])


def test_a_dataset_without_a_configuration(run_cli: Run, tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.add("train/A", ("mixture", "drums", "bass", "other", "vocals"), nb_samples=9000)
    site.add("test/B", ("mixture", "drums", "bass", "other", "vocals"), nb_samples=9000)
    command = ("cache", "--preset", "openunmix", "--targets", "vocals, bass", "--dtype", "float32")
    assert run_cli(*command, MUSDB_PATH="wav").returncode == 0
    reader = open_cache(tmp_path / "cache-openunmix")
    assert (reader.tracks, reader.signals) == (("A",), ("mixture", "vocals", "bass"))
    assert reader.segment("A", 0, 5)["bass"].shape == (5, 2049, 2)
    assert run_cli(*command, "--subset", "test", "--out", "other", MUSDB_PATH="wav").returncode == 0
    assert open_cache(tmp_path / "other").in_split("test") == ("B",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "CONFIG.json"),
        (["--dry-run"], "CONFIG.json"),
        (["--prune"], "CONFIG.json"),
        (["c.json", "--preset", "spleeter"], "--preset"),
        (["--info", "--verify"], "--verify"),
        (["--info", "--dtype", "float32"], "--musdb, --dtype"),
        (["c.json", "--targets", "vocals"], "--targets, --subset"),
        (["--info", "--force"], "--info, --verify"),
        (["--verify", "--dry-run"], "--info, --verify"),
        (["--verify", "--prune"], "--info, --verify"),
        (["--preset", "umx"], "--preset"),
        (["c.json", "--dtype", "int8"], "--dtype"),
        (["c.json", "--jobs", "0"], "--jobs"),
        (["c.json", "more.json"], "more.json"),
        (["--no-such-option"], "--no-such-option"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_are_exit_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["cache", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["config.json"], 1, "error: no dataset given: "),
        (["config.json", "--musdb", "wav", "--scheduler", "tcp://h:1"], 2, "use it with --backend dask"),
        (["absent.json", "--musdb", "wav"], 1, "error: absent.json: cannot be read: No such file or directory"),
        (["config.json", "--musdb", "wav", "--out", "spleeter/training"], 1, "Spleeter's own cache"),
        (["--preset", "spleeter", "--musdb", "wav", "--targets", "mixture"], 2, "expected distinct ones"),
        (["--info"], 1, "error: cache: no such folder: build it with musdbkit cache CONFIG.json --out cache"),
        (["--verify", "--out", "wav"], 1, "error: wav: no index.json: not a cache"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line(run_cli: Run, site: Site, arguments: list[str], status: int, message: str) -> None:
    result = run_cli("cache", *arguments)
    assert result.returncode == status
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith(("musdb: ", "out: "))]
    assert message in line
    assert result.stdout == ""
    assert not site.out.exists()
