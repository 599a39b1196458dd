"""Fixtures that several test files share."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from musdbkit.cache_request import Request
from tests.sites import Site

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no setting of the user's reach a test."""
    for name in ("MUSDB_PATH", "MUSDBKIT_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Let torch have one thread, where it is loaded: on tiny tensors more of them only wait for each other."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def excerpt() -> Path:
    """The real stem file that the stempeg package ships."""
    spec = importlib.util.find_spec("stempeg")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (path,) = (Path(spec.submodule_search_locations[0]) / "data").glob("*.stem.mp4")
    return path


@pytest.fixture
def stems_root(excerpt: Path, tmp_path: Path) -> Path:
    """A dataset of two tracks, both the real excerpt."""
    root = tmp_path / "stems"
    for subset, name in (("train", "M.E.R.C. & Co - It's 1, 2 (Live)"), ("test", "Plain - Song")):
        (root / subset).mkdir(parents=True)
        shutil.copy(excerpt, root / subset / f"{name}.stem.mp4")
    return root


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a child process, in tmp_path and without any ffmpeg on the PATH."""
    bin_folder = tmp_path / ".no-programs"
    bin_folder.mkdir(exist_ok=True)

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONWARNINGS"}
        } | {"PATH": str(bin_folder), "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error"}
        return subprocess.run(
            [sys.executable, "-m", "musdbkit", *map(str, arguments)],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 10 MB: room for one excerpt as wav (7.5 MB), not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def require_ffmpeg() -> None:
    """Skip a test where there is no ffmpeg program, but never in CI, which installs one."""
    if shutil.which("ffmpeg") is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no ffmpeg program")
        pytest.skip("needs an ffmpeg program")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def pair(site: Site) -> tuple[Site, Request]:
    """Two tracks, cached."""
    site.add("A")
    site.add("B")
    request = site.request("A", "B")
    assert not site.build(request).failed
    return site, request
