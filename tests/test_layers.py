"""The walk's order: a module of musdbkit imports only modules to its left, and nothing heavy to answer --help."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "musdbkit"
LAYERS = [
    "errors",
    "musdb18",
    "sisec18",
    "templates",
    "spleeter_config",
    "audio",
    "tracks",
    "synth",
    "convert",
    "stft",
    "oracle",
    "spleeter_files",
    "segments",
    "waves",
    "cache",
    "cache_request",
    "cache_arrays",
    "caching",
    "metrics",
    "bsseval",
    "scores",
    "scoring",
    "stats",
    "methods",
    "rankings",
    "compare",
    "comparison_tables",
    "excerpts",
    "report_data",
    "report_text",
    "report",
    "check",
    "demo",
    "cli",
]
BASELINES = [
    "torch_stft",
    "wiener",
    "recurrent",
    "network_set",
    "spleeter_unet",
    "spleeter_blstm",
    "spleeter_settings",
    "open_unmix",
    "blocks",
    "block_unet",
    "attention",
    "long_input",
    "umx_transformer",
    "auto_transformer",
    "models",
    "cost",
    "data",
    "wave_batches",
    "losses",
    "recipes",
    "plans",
    "run_log",
    "train",
    "separation",
    "separate",
    "weight_files",
    "import_block_unet",
    "convert_weights",
    "study_tables",
    "study",
    "cli",
]
HEAVY = {
    "numpy",
    "pandas",
    "scipy",
    "matplotlib",
    "torch",
    "lightning_fabric",
    "safetensors",
    "av",
    "joblib",
    "soundfile",
    "plotly",
    "jinja2",
    "musdb",
    "stempeg",
    "museval",
}


def imported(source: str) -> list[str]:
    """Return the dotted names that a module imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def wrong_imports(module: str, source: str, package: str = "musdbkit") -> list[str]:
    """Return the imports that the layers forbid a module. `baselines` may import musdbkit, but not the other way."""
    layers = LAYERS if package == "musdbkit" else BASELINES
    own = layers.index(module)
    wrong = []
    for name in imported(source):
        first, _, rest = name.partition(".")
        second = rest.partition(".")[0]
        if first == "baselines" != package or (first == package and second in layers and layers.index(second) >= own):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_modules_import_only_to_their_left(path: Path) -> None:
    if path.stem == "__init__":
        assert imported(path.read_text()) == []
    elif path.stem == "__main__":
        assert imported(path.read_text()) == ["musdbkit.cli.main"]
    else:
        assert path.stem in LAYERS
        assert wrong_imports(path.stem, path.read_text()) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.with_name("baselines").glob("*.py")), ids=lambda path: path.stem)
def test_baselines_import_only_to_their_left(path: Path) -> None:
    if path.stem == "__init__":
        assert imported(path.read_text()) == []
    else:
        assert path.stem in BASELINES
        assert wrong_imports(path.stem, path.read_text(), "baselines") == []


def test_the_layer_test_can_fail() -> None:
    assert wrong_imports("data", "from baselines import train", "baselines") == ["baselines.train"]
    assert wrong_imports("data", "from musdbkit import cli\nimport baselines.wiener", "baselines") == []
    assert wrong_imports("audio", "from musdbkit.tracks import Track") == ["musdbkit.tracks.Track"]
    assert wrong_imports("audio", "def f():\n    from musdbkit import cli") == ["musdbkit.cli"]
    assert wrong_imports("cli", "import baselines.train") == ["baselines.train"]
    assert wrong_imports("tracks", "from musdbkit import audio, musdb18") == []


def loaded(statement: str) -> set[str]:
    """Return the heavy packages that a statement loads in a fresh process."""
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint('\\nloaded', *sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY, env={"COLUMNS": "100"}
    )
    return HEAVY & {name.partition(".")[0] for name in result.stdout.rpartition("loaded")[2].split()}


COMMANDS = [[], ["synth"], ["check"], ["convert"], ["make-csv"], ["oracle"], ["score"], ["compare"], ["report"]]
COMMANDS += [["demo"], ["cache"]]
COMMANDS += [["baselines", *command] for command in ([], ["train"], ["separate"], ["study"], ["import"])]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "musdbkit")
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    arguments = ["musdbkit", *command, "--help"]
    assert loaded(f"sys.argv = {arguments!r}; from musdbkit.cli import main; main()") == set()


def test_the_import_test_can_fail() -> None:
    assert loaded("import musdbkit.audio") >= {"av", "numpy", "soundfile"}


def test_nothing_on_the_main_path_imports_what_needs_ffmpeg() -> None:
    modules = ", ".join(f"musdbkit.{path.stem}" for path in PACKAGE.glob("*.py") if not path.stem.startswith("__"))
    assert loaded(f"import {modules}").isdisjoint({"musdb", "stempeg", "museval", "torch", "pandas", "matplotlib"})


def test_torch_is_named_only_inside_functions() -> None:
    for path in PACKAGE.glob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("torch" in name for node in top for name in imported(ast.unparse(node)))
