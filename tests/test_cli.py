"""The command line as a user meets it: in a child process, without ffmpeg, with exit statuses and two streams."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from musdbkit import __version__
from musdbkit.cli import app

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = list(get_command(app).commands)  # type: ignore[attr-defined]


def test_version(run_cli: Run) -> None:
    result = run_cli("--version")
    assert (result.returncode, result.stdout) == (0, f"musdbkit {__version__}\n")


def test_all_commands_have_help(run_cli: Run) -> None:
    overview = run_cli("--help")
    assert overview.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in overview.stdout
        result = run_cli(command, "--help")
        assert (result.returncode, result.stderr) == (0, "")


def test_completion_can_be_installed(run_cli: Run) -> None:
    result = run_cli("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert result.returncode == 0
    assert "_MUSDBKIT_COMPLETE" in result.stdout or "_completion" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-command"], "No such command"),
        (["convert", "--no-such-option"], "No such option"),
        (["convert", "--subtype", "PCM_8", "."], "PCM_8"),
        (["convert", "--jobs", "0", "."], "--jobs"),
        (["convert", ".", "--targets", "piano"], "error: targets piano: expected some of mixture"),
        (["convert", ".", "--format", "flac", "--subtype", "FLOAT"], "error: flac holds no FLOAT"),
        (["convert", ".", "--scheduler", "tcp://host:1"], "error: a scheduler was given for backend loky"),
        (["make-csv", ".", "--stems", "3"], "--stems"),
        (["make-csv", "."], "--stems"),
        (["make-csv", "--check", "a.csv", "--force"], "--check"),
        (["synth", "out", "--faults", "rain"], "error: no fault is called rain"),
        (["synth", "out", "--seconds", "0"], "error: seconds is 0"),
    ],
)
def test_wrong_usage_is_exit_status_2(run_cli: Run, arguments: list[str], message: str) -> None:
    result = run_cli(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [["convert"], ["make-csv", "--stems", "2"]])
def test_a_missing_dataset_is_one_line(run_cli: Run, command: list[str]) -> None:
    result = run_cli(*command)
    assert result.returncode == 1
    assert result.stderr == "error: no dataset given: name its folder (ROOT or --musdb), or set MUSDB_PATH to it\n"
    result = run_cli(*command, MUSDB_PATH="/nothing/here")
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert "/nothing/here: no such folder (looked for /nothing/here/train and /nothing/here/test)" in line


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_the_next_goes_on(
    stems_root: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    for i in range(30):
        shutil.copy(stems_root / "test" / "Plain - Song.stem.mp4", stems_root / "test" / f"Extra - {i}.stem.mp4")
    command = [sys.executable, "-m", "musdbkit", "convert", str(stems_root), str(tmp_path / "out"), "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("t*/*")):
        time.sleep(0.02)
    process.send_signal(stop)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted: what is done is kept; run again to go on, train with --resume"
    assert "Traceback" not in err
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert len(list((tmp_path / "out").glob("t*/*"))) == 32


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">/dev/full"])
def test_odd_outputs_do_no_harm(stems_root: Path, tmp_path: Path, redirection: str) -> None:
    command = f'"{sys.executable}" -m musdbkit convert "{stems_root}" out --targets bass {redirection}'
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    result = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == (redirection == ">/dev/full")
    assert "Traceback" not in result.stderr
    assert len(list((tmp_path / "out").glob("*/*/bass.wav"))) == 2


def test_debug_shows_the_traceback(run_cli: Run) -> None:
    assert "Traceback" not in run_cli("convert", "/nothing").stderr
    assert "Traceback" in run_cli("--debug", "convert", "/nothing").stderr


def test_the_walk_as_typed_in_the_readme(run_cli: Run, tmp_path: Path) -> None:
    assert run_cli("synth", "musdb18", "--train", 1, "--valid", 1, "--test", 1, "--seconds", 13).returncode == 0
    environment = {"MUSDB_PATH": str(tmp_path / "musdb18")}
    result = run_cli("check", **environment)
    assert result.returncode == 0, result.stdout
    assert "3 tracks checked: 0 errors" in result.stdout
    result = run_cli("convert", **environment)
    assert (result.returncode, "3 converted" in result.stdout) == (0, True)
    assert (tmp_path / "musdb18-wav" / "train").is_dir()
    assert "out: musdb18-wav" in result.stderr
    result = run_cli("make-csv", "--stems", "2", **environment)
    assert result.returncode == 0, result.stderr
    assert "root: musdb18-wav" in result.stderr
    written = ["musdb_2stems.json", *(f"musdb_2stems_{split}.csv" for split in ("test", "train", "validation"))]
    assert sorted(path.name for path in tmp_path.glob("musdb_*")) == written
    result = run_cli("make-csv", "musdb18-wav", "--check", "musdb_2stems_train.csv")
    assert (result.returncode, result.stdout) == (0, "musdb_2stems_train.csv: tracks 1, faults 0\n")


def test_make_csv_says_what_it_writes_into_the_dataset(run_cli: Run, tmp_path: Path) -> None:
    assert run_cli("synth", "hq", "--layout", "wav", "--train", 2, "--valid", 0, "--test", 0).returncode == 0
    planned = run_cli("make-csv", "hq", "--stems", "2", "--make-accompaniment", "--dry-run")
    assert planned.stdout.count("accompaniment.wav  (would be written)") == 2
    assert not list((tmp_path / "hq").rglob("accompaniment.wav"))
    done = run_cli("make-csv", "hq", "--stems", "2", "--make-accompaniment")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("/accompaniment.wav\n") == 2
    sizes = [re.search(r"(?:to write|written): ([0-9.]+) MB", result.stdout)[1] for result in (planned, done)]  # type: ignore[index]
    assert sizes == ["10.6", "10.6"]


def test_json_is_one_document_on_stdout(run_cli: Run, stems_root: Path, tmp_path: Path) -> None:
    (stems_root / "test" / "Bad - Track.stem.mp4").write_bytes(b"no")
    result = run_cli("convert", stems_root, "out", "--json", "--targets", "vocals")
    document = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    assert result.returncode == 1
    assert list(document["failed"]) == ["test/Bad - Track"]
    assert document["tracks"]["test/Plain - Song"]["files"] == {"vocals": "vocals.wav"}
    for arguments in (["check", stems_root, "--json"], ["check", "--json"], ["synth", "s", "--dry-run", "--json"]):
        json.loads(run_cli(*arguments).stdout, parse_constant=lambda name: pytest.fail(name))


def test_failures_are_named_at_the_end_and_the_rest_is_done(run_cli: Run, stems_root: Path, tmp_path: Path) -> None:
    (stems_root / "train" / "Bad\x1b[31m - [bold]Track[bold].stem.mp4").write_bytes(b"no")
    result = run_cli("convert", stems_root, "out")
    assert result.returncode == 1
    assert "tracks: 2 converted" in result.stdout
    assert result.stderr.splitlines()[-1] == "1 track failed; 2 done"
    assert "\x1b" not in result.stdout + result.stderr
    assert r"/train/Bad\x1b[31m - [bold]Track[bold].stem.mp4: 2 bytes that" in result.stderr


def test_verify_prints_hashes_as_sha256sum_does(run_cli: Run, stems_root: Path) -> None:
    result = run_cli("convert", stems_root, "out", "--targets", "bass", "--verify")
    assert len(re.findall(r"^[0-9a-f]{64}  (train|test)/.*/bass$", result.stdout, re.MULTILINE)) == 2


def test_progress_on_a_terminal_is_a_bar(stems_root: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "musdbkit", "convert", str(stems_root), str(tmp_path / "out"), "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True)
    out, _ = process.communicate()
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "tracks: 2 converted" in out
    assert "2/2" in shown
    assert "━" in shown


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder with a package that adds the command `hello`, and one whose command cannot be loaded."""
    folder = tmp_path / "plugins"
    (folder / "hello-1.0.dist-info").mkdir(parents=True)
    (folder / "hello-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
    (folder / "hello-1.0.dist-info" / "entry_points.txt").write_text(
        "[musdbkit.commands]\nhello = hello_plugin:app\nbroken = hello_plugin:nothing\n"
    )
    (folder / "hello_plugin.py").write_text(
        "import typer\napp = typer.Typer(help='Says hello.')\n@app.command()\ndef world():\n    print('hello world')\n"
        "@app.command()\ndef moon():\n    print('hello moon')\n"
    )
    return folder


def test_other_packages_add_commands(run_cli: Run, plugins: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(plugins)])
    result = run_cli("hello", "world", PYTHONPATH=path)
    assert (result.returncode, result.stdout) == (0, "hello world\n")
    result = run_cli("--help", PYTHONPATH=path)
    assert "Says hello." in result.stdout
    assert "warning: command broken of hello_plugin:nothing cannot be loaded" in result.stderr
    assert run_cli("--version", PYTHONPATH=path).returncode == 0


def test_commands_of_our_own_do_not_load_plugins(run_cli: Run, plugins: Path) -> None:
    (plugins / "hello_plugin.py").write_text("raise SystemExit('loaded')")
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(plugins)])
    assert run_cli("convert", "--help", PYTHONPATH=path).returncode == 0
