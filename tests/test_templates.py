"""Templates are found from a plain checkout, a wheel and an editable install."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from musdbkit import templates
from musdbkit.errors import MusdbkitError

REPOSITORY = Path(__file__).parent.parent
NAMES = [
    "recipes/auto-transformer.json",
    "recipes/block-unet.json",
    "recipes/open-unmix.json",
    "recipes/spleeter-blstm.json",
    "recipes/spleeter-unet.json",
    "recipes/umx-transformer.json",
    "report.css",
    "report.html.j2",
    "report.js",
    "spleeter_2stems.json",
    "spleeter_4stems.json",
]


def read_in_child(folder: Path, site: Path) -> str:
    """Return where musdbkit was loaded from in a child process, after it has read the templates."""
    code = (
        f"import site; [site.addsitedir(folder) for folder in ({str(site)!r}, {sysconfig.get_path('purelib')!r})]\n"
        "import baselines, musdbkit\nfrom musdbkit import templates\n"
        f"[templates.read(name) for name in {NAMES!r}]\nprint(musdbkit.__file__)"
    )
    result = subprocess.run(  # -S: an installed musdbkit must not come first
        [sys.executable, "-I", "-S", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a build needs, in a folder of its own."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("musdbkit", "baselines", "templates"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    return copy


def build(checkout: Path, kind: str) -> Path:
    """Build a wheel with hatchling, unpack it, and return the folder."""
    code = f"import hatchling.build; print(hatchling.build.build_{kind}({str(checkout.parent)!r}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    site = checkout.parent / kind
    with zipfile.ZipFile(checkout.parent / result.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(site)
    return site


def test_plain_checkout() -> None:
    for name in NAMES:
        assert templates.read(name) == (REPOSITORY / "templates" / name).read_text(encoding="utf-8")


def test_wheel(checkout: Path, tmp_path: Path) -> None:
    site = build(checkout, "wheel")
    shutil.rmtree(checkout)
    assert read_in_child(tmp_path, site) == str(site / "musdbkit" / "__init__.py")
    folder = site / "musdbkit" / "_templates"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == NAMES
    assert (site / "musdbkit" / "py.typed").is_file()


def test_editable_install(checkout: Path, tmp_path: Path) -> None:
    site = build(checkout, "editable")
    assert read_in_child(tmp_path, site) == str(checkout / "musdbkit" / "__init__.py")


def test_missing_template_is_named() -> None:
    with pytest.raises(MusdbkitError, match=r"template nothing\.json is not in this installation"):
        templates.read("nothing.json")
