"""Training with several processes, on the CPU with gloo."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines import models
from tests.sites import REPOSITORY
from tests.test_train import UNET, cached  # noqa: F401  a fixture

SETTINGS = UNET | {"learning_rate": 1e-3, "max_steps": 6, "epoch_steps": 3}


def run(cache: Path, out: Path, nb_processes: int, launcher: str = "torchrun", **changes: Any) -> dict[str, Any]:
    """Train from the command line; return what it printed as JSON."""
    command = ["baselines", "train", "--model", "spleeter-unet", "--cache", str(cache), "--targets", "vocals,drums"]
    command += ["--out", str(out), "--device", "cpu", "--json"]
    for name, value in (SETTINGS | changes).items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    start = [sys.executable, "-m", "musdbkit"]
    if launcher == "torchrun" and nb_processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nb_processes}"]
        start += ["-m", "musdbkit"]
    elif nb_processes > 1:
        command += ["--devices", str(nb_processes)]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, *command], env=environment, cwd=out.parent, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "devices"])
def test_two_processes_are_one_with_twice_the_batch(cached: Path, tmp_path: Path, launcher: str) -> None:  # noqa: F811
    """Without batch statistics and dropout; float sums are taken in another order."""
    plain = {"batch_norm": "frozen", "dropout": 0.0, "ema_decay": 0.5}
    two = run(cached, tmp_path / "two", 2, launcher, batch_size=2, **plain)
    one = run(cached, tmp_path / "one", 1, batch_size=4, **plain)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["best"]["all"][0] == pytest.approx(one["best"]["all"][0], rel=1e-4)
    expected = models.load_run(tmp_path / "one").network.state_dict()
    for name, tensor in models.load_run(tmp_path / "two").network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-5, msg=name)
    start = models.create("spleeter-unet", models.load_run(tmp_path / "one").settings).state_dict()
    assert any(not torch.equal(tensor, start[name]) for name, tensor in expected.items())


@pytest.mark.slow
def test_batch_statistics_leave_the_processes_alike(cached: Path, tmp_path: Path) -> None:  # noqa: F811
    """Each process writes down a hash of its parameters; and a run of two goes on as two."""
    script = tmp_path / "hashes.py"
    script.write_text(
        "import hashlib, os, sys\n"
        "from pathlib import Path\n"
        "from baselines import train as module\n"
        "module._SAVE_SECONDS = 0.02 + 0.01 * int(os.environ['RANK'])\n"  # clocks never agree
        "save = module._Training._save\n"
        "def write(self):\n"
        "    data = b''.join(p.detach().numpy().tobytes() for p in self._network.parameters())\n"
        "    Path(sys.argv[1], f'rank{self._share.rank}').write_text(hashlib.sha256(data).hexdigest())\n"
        "    save(self)\n"
        "module._Training._save = write\n"
        "from baselines.plans import make_plan\n"
        "changes = eval(sys.argv[2])\n"
        "plan = make_plan('spleeter-unet', data=Path(sys.argv[3]), targets=('vocals', 'drums'), changes=changes)\n"
        "module.train(plan, Path(sys.argv[1], 'run'), hardware=module.Hardware('cpu', 2), resume=True)\n"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    digests = []
    for nb_steps in (3, 6):
        changes = SETTINGS | {"max_steps": nb_steps}
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
        done = subprocess.run(
            [*start, str(tmp_path), repr(changes), str(cached)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        digests.append({(tmp_path / f"rank{rank}").read_text() for rank in range(2)})
    assert [len(each) for each in digests] == [1, 1]
    assert digests[0] != digests[1]
    assert models.load_run(tmp_path / "run").step == 6
