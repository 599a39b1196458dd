"""The commands `score` and `oracle` as a user meets them: in a child process, without ffmpeg, with two streams."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musdbkit import audio, scores
from tests.test_scoring import FULL, Case, draw, draw_song, tree, write

Run = Callable[..., subprocess.CompletedProcess[str]]
JOBS = ("--jobs", 1)  # worker processes would take a second to start
HOSTILE = "Bad\x1b[31m - [bold]Track[bold]"


@pytest.fixture
def case(tmp_path: Path, rng: np.random.Generator) -> Case:
    """Two tracks with estimates of two targets in the folders `refs` and `estimates`."""
    made = Case(tmp_path, rng)
    for name in ("A", HOSTILE):
        made.add(name, "vocals", "drums")
    return made


def read_json(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    return document


def test_score_as_typed(run_cli: Run, case: Case, tmp_path: Path) -> None:
    result = run_cli("score", "estimates/", *JOBS, MUSDB_PATH="refs")
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if not line.startswith("score: ")] == [
        "estimates: estimates",
        "references: refs",
        "out: estimates-scores",
    ]
    for name in ("sisec18: median over frames", "demucs-mean: median over frames"):
        assert any(line.startswith(name) for line in result.stdout.splitlines())
    assert result.stdout.splitlines()[-2:] == ["tracks: 2 scored", "scores: estimates-scores"]
    out = tmp_path / "estimates-scores"
    assert sorted(path.name for path in out.iterdir()) == [".records", "protocol.json", "scores.csv", "test"]
    assert sorted(path.name for path in (out / "test").iterdir()) == ["A.json", f"{HOSTILE}.json"]
    before = tree(out)
    again = run_cli("score", "estimates", "--musdb", "refs", *JOBS)
    assert (again.returncode, again.stdout.splitlines()[-2]) == (0, "tracks: 2 already there")
    assert tree(out) == before
    other = run_cli("score", "estimates", "--musdb", "refs", "--window", 0.5, *JOBS)
    assert other.returncode == 1
    assert other.stderr.splitlines()[-1] == "2 tracks failed; 0 done"
    assert "A.json: scored otherwise: window_seconds was 1.0, now 0.5: --force scores it anew" in other.stderr
    assert tree(out) == before


def test_all_that_is_wrong_is_named_and_nothing_written(run_cli: Run, case: Case, tmp_path: Path) -> None:
    case.add("C", "vocals", "drums")
    case.add("D", "vocals", "drums")
    (case.estimates / "test" / "C" / "vocals.wav").unlink()
    for name in ("vocals", "drums"):
        (case.estimates / "test" / "A" / f"{name}.wav").unlink()
    write(case.estimates / "test" / HOSTILE, draw(case.rng, "vocals", nb_samples=99))
    result = run_cli("score", "estimates", "--musdb", "refs", *JOBS)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    text = "\n".join(errors)
    assert "error: test/A: no estimates in estimates: --allow-missing scores what is there" in text
    assert "error: test/C: no vocals in estimates" in text
    assert r"Bad\x1b[31m - [bold]Track[bold]/vocals.wav: 99 samples, expected 24000" in text
    assert "\x1b" not in result.stdout + result.stderr
    assert result.stderr.splitlines()[-1] == "3 tracks failed; 0 done"
    assert not (tmp_path / "estimates-scores").exists()
    options = ("--allow-missing", "--align", "--metrics", "sdr", *JOBS)
    result = run_cli("score", "estimates", "--musdb", "refs", *options, "--json")
    assert result.returncode == 0, result.stderr
    assert read_json(result)["missing"] == ["test/A: no estimates", "test/C: no vocals"]
    assert read_json(result)["tracks"] == {"scored": 3}


def test_a_track_that_fails_at_work_does_not_stop_the_others(run_cli: Run, case: Case, tmp_path: Path) -> None:
    vocals = audio.read(case.estimates / "test" / "A" / "vocals.wav")
    vocals[12_345] = np.nan
    write(case.estimates / "test" / "A", {"vocals": vocals})
    result = run_cli("score", "estimates", "--musdb", "refs", "--metrics", "sdr", "--json", *JOBS)
    assert result.returncode == 1
    document = read_json(result)
    assert document["tracks"] == {"scored": 1}
    assert list(document["failed"]) == ["test/A"]
    assert "A/vocals.wav: sample 12345 is not a finite number" in result.stderr
    assert result.stderr.splitlines()[-1] == "1 track failed; 1 done"
    assert set(scores.load(tmp_path / "estimates-scores")["track"]) == {HOSTILE}


def test_options_reach_what_is_computed(run_cli: Run, case: Case, tmp_path: Path) -> None:
    vocals = audio.read(case.estimates / "test" / HOSTILE / "vocals.wav")
    write(case.estimates / "test" / HOSTILE, {"vocals": vocals[:-9]})  # a note of its own
    options = "--out o --metrics sdr,snr --window 0.5 --hop 0.25 --silence per-target --align --complement --device cpu"
    result = run_cli("score", "estimates", "--musdb", "refs", *options.split(), "--subset", "test", *JOBS)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "o" / "protocol.json").read_text())["settings"] == {
        "metrics": ["sdr", "snr"],
        "window_seconds": 0.5,
        "hop_seconds": 0.25,
        "mode": "v4",
        "silence": "per-target",
        "engine": "fast",
        "align": True,
        "complement": True,
    }
    assert "note: test/A and 1 more: accompaniment: the mixture minus the estimated vocals" in result.stdout
    assert r"note: test/Bad\x1b[31m - [bold]Track[bold]: vocals: padded with zeros by 9 samples" in result.stdout
    assert "track-mean: " in result.stdout


def test_other_references(run_cli: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    for folder in ("refs", "estimates"):
        write(tmp_path / folder / "A", draw(rng, "guitar", "piano"))
    result = run_cli("score", "estimates", "--refs", "refs", "--metrics", "sdr", *JOBS, MUSDB_PATH="/nothing")
    assert result.returncode == 0, result.stderr
    assert list(scores.load(tmp_path / "estimates-scores")["target"].unique()) == ["guitar", "piano"]


def test_a_dry_run_writes_nothing(run_cli: Run, case: Case, tmp_path: Path) -> None:
    before = tree(tmp_path)
    result = run_cli("score", "estimates", "--musdb", "refs", "--dry-run", *JOBS)
    assert (result.returncode, result.stdout.splitlines()[-2]) == (0, "tracks: 2 to score")
    assert tree(tmp_path) == before


def test_verify_needs_no_ffmpeg_and_fails_where_a_score_is_not_musevals(run_cli: Run, tmp_path: Path) -> None:
    case = Case(tmp_path, np.random.default_rng(0))
    case.add("A", "vocals", "drums", song=draw_song(case.rng, nb_samples=16_000, nb_channels=1))
    command = ("score", "estimates", "--musdb", "refs", "--verify", 1, *JOBS)
    result = run_cli(*command)
    assert result.returncode == 0, result.stderr
    assert "verified: test/A: SDR, ISR, SIR, SAR within " in result.stdout
    path = tmp_path / "estimates-scores" / ".records" / "test" / "A.json"
    record = json.loads(path.read_text())
    record["scores"]["scenarios"][0]["frames"]["vocals"]["SAR"][1] += 0.01
    path.write_text(json.dumps(record))
    result = run_cli(*command)
    assert result.returncode == 1
    assert "error: test/A: verification failed: SAR of vocals in vocals+drums, frame 1: " in result.stderr


def test_jobs_and_a_cluster_write_the_same(run_cli: Run, case: Case, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    command = ("score", "estimates", "--musdb", "refs", "--out")
    case.run(FULL, out=tmp_path / "jobs1")
    assert run_cli(*command, "jobs2", "--jobs", 2).returncode == 0
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        result = run_cli(*command, "cluster", "--backend", "dask", "--scheduler", cluster.scheduler_address)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2] == "tracks: 2 scored"
    assert tree(tmp_path / "jobs1") == tree(tmp_path / "jobs2") == tree(tmp_path / "cluster")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'ESTIMATES'"),
        (["e", "--musdb", "a", "--refs", "b"], "either this or --musdb"),
        (["e", "--musdb", "refs", "--metrics", "sdr,pesq"], "metrics pesq: expected some of sdr, isr"),
        (["e", "--musdb", "refs", "--engine", "slow"], "slow"),
        (["estimates", "--musdb", "refs", "--verify", "1", "--silence", "per-target"], "museval is there for silence"),
        (["estimates", "--musdb", "refs", "--scheduler", "tcp://h:1"], "use it with --backend dask"),
    ],
)
def test_wrong_usage_of_score_is_exit_status_2(run_cli: Run, case: Case, arguments: list[str], message: str) -> None:
    result = run_cli("score", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["e"], "error: no dataset given: name its folder (ROOT or --musdb), or set MUSDB_PATH to it"),
        (["e", "--musdb", "refs"], "error: e: no such folder"),
        ([".", "--musdb", "refs", "--out", "o"], "did you mean"),
        (["estimates", "--musdb", "refs", "--subset", "train"], "of 0 tracks in subset train; found test/A with"),
    ],
)
def test_folders_that_cannot_be_scored_are_one_line(
    run_cli: Run, case: Case, arguments: list[str], message: str
) -> None:
    result = run_cli("score", *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr.splitlines()[-1]


def test_oracle_as_typed_and_scored(run_cli: Run, case: Case, tmp_path: Path) -> None:
    case.add("Not this", subset="train")
    planned = run_cli("oracle", "--method", "mix", "--musdb", "refs", "--dry-run", *JOBS)
    assert planned.returncode == 0, planned.stderr
    assert "tracks: 2 to estimate" in planned.stdout
    assert not (tmp_path / "estimates" / "mix").exists()
    result = run_cli("oracle", "--method", "mix", *JOBS, MUSDB_PATH="refs")
    assert result.returncode == 0, result.stderr
    assert {"musdb: refs", "out: estimates/mix"} <= set(result.stderr.splitlines())
    assert "tracks: 2 estimated" in result.stdout
    assert sorted(path.name for path in (tmp_path / "estimates" / "mix").iterdir()) == ["separation.json", "test"]
    mixture = case.songs["A"]["mixture"] / 2**15
    bass, rate = soundfile.read(tmp_path / "estimates" / "mix" / "test" / "A" / "bass.wav")
    assert rate == 8000
    np.testing.assert_allclose(bass, mixture / 4, atol=1e-6)
    scored = run_cli("score", "estimates/mix", "--musdb", "refs", "--metrics", "sdr", "--json", *JOBS)
    assert scored.returncode == 0, scored.stderr
    assert set(read_json(scored)["scores"]["sisec18"]) == {"vocals", "drums", "bass", "other", "accompaniment"}
    assert (tmp_path / "estimates" / "mix-scores" / "scores.csv").is_file()
    (case.refs / "test" / "A" / "bass.wav").write_bytes(b"no audio")
    failed = run_cli("oracle", "--method", "mix", "--musdb", "refs", "--json", "--force", *JOBS)
    assert failed.returncode == 1
    assert list(read_json(failed)["failed"]) == ["test/A"]
    assert read_json(failed)["summary"]["nb_tracks"] == {"estimated": 1}
    assert failed.stderr.splitlines()[-1] == "1 track failed; 1 done"


def test_oracle_writes_other_subsets_elsewhere_and_refuses_another_method(
    run_cli: Run, case: Case, tmp_path: Path
) -> None:
    case.add("Train", subset="train", song=draw_song(case.rng, nb_samples=4000))
    command = ("oracle", "--musdb", "refs", "--out", "o", "--subset", "train", *JOBS, "--method")
    assert run_cli(*command, "irm1").returncode == 0
    assert [path.name for path in (tmp_path / "o").glob("*/*")] == ["Train"]
    result = run_cli(*command, "ibm2")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: o/separation.json: the estimates are of irm1, not of ibm2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--method'"),
        (["--method", "best"], "best"),
    ],
)
def test_wrong_usage_of_oracle_is_exit_status_2(run_cli: Run, arguments: list[str], message: str) -> None:
    result = run_cli("oracle", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
