"""Spleeter 2.4.2 itself, in the Python that MUSDBKIT_SPLEETER_PYTHON names; set up with setup_spleeter.sh."""

import os
import subprocess
from pathlib import Path
from typing import Final

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
