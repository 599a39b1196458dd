"""The peers themselves: Open-Unmix, and Spleeter 2.4.2 in the Python that MUSDBKIT_SPLEETER_PYTHON names.

That Python is set up with setup_spleeter.sh.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

PYTHON: Final = os.environ.get("MUSDBKIT_SPLEETER_PYTHON")


def run_spleeter(script: str, *arguments: str, cwd: Path) -> str:
    """Return what a script prints, run on the CPU by the Python that has Spleeter."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(PYTHON), "-c", script, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def import_openunmix(name: str) -> Any:
    """Return a module of Open-Unmix, which imports torchaudio but needs it for none of this: an empty one stands in."""
    if importlib.util.find_spec("openunmix") is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no openunmix")
        pytest.skip("needs openunmix: pip install --no-deps openunmix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
        return importlib.import_module(f"openunmix.{name}")
