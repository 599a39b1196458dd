"""On a GPU: training in bfloat16 and compiled, going on, data that lie there, and separation as on a CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines import models
from baselines.plans import make_batches
from baselines.separation import SeparationSettings, separate_wave
from baselines.train import Hardware, train
from musdbkit.cache import Parameters
from tests.sites import SMALL, Site
from tests.test_train import LONG, Make, cached, losses, make, unet_plan, waves  # noqa: F401  fixtures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

GPU = Hardware("cuda")


@pytest.mark.parametrize("compiled", [False, True])
def test_training_in_bfloat16_learns(make: Make, tmp_path: Path, compiled: bool) -> None:  # noqa: F811
    result = train(make(max_steps=40, epoch_steps=20), tmp_path / "run", hardware=replace(GPU, compile=compiled))
    assert (result.step, result.ended) == (40, "steps")
    rows = [sum(row["losses"].values()) for row in losses(tmp_path / "run") if "losses" in row]
    assert rows[-1] < rows[0]
    weights = models.load_run(tmp_path / "run").network.state_dict()
    assert all(bool(tensor.float().isfinite().all()) and tensor.dtype != torch.bfloat16 for tensor in weights.values())


def test_a_run_goes_on_as_it_would_have(make: Make, tmp_path: Path) -> None:  # noqa: F811
    hardware = Hardware("cuda", precision="float32", compile=False)
    train(make(max_steps=12, dropout=0.0), tmp_path / "whole", hardware=hardware)
    train(make(max_steps=7, dropout=0.0), tmp_path / "run", hardware=hardware)
    train(make(max_steps=12, dropout=0.0), tmp_path / "run", hardware=hardware, resume=True)
    expected = models.load_run(tmp_path / "whole").network.state_dict()
    for name, tensor in models.load_run(tmp_path / "run").network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_what_lies_on_the_gpu_is_what_is_streamed(make: Make) -> None:  # noqa: F811
    device = torch.device("cuda")
    streamed, resident = (make_batches(make(), device) for _ in range(2))
    assert resident.fits()
    resident.start_loading()
    resident.finish_loading()
    assert resident.resident
    for _, one, other in zip(range(5), streamed.train(), resident.train(), strict=False):
        assert one.mixture.device.type == other.mixture.device.type == "cuda"
        torch.testing.assert_close(one.mixture, other.mixture)
        torch.testing.assert_close(one.targets, other.targets)


def test_codes_are_decoded_on_the_gpu(site: Site) -> None:
    for name in ("A", "B"):
        site.add(name)
    parameters: Parameters = replace(SMALL, dtype="uint8")
    assert not site.build(site.request("A", "B", parameters=parameters)).failed
    plan = unet_plan(site.out)
    there, here = (next(make_batches(plan, torch.device(device)).train()) for device in ("cuda", "cpu"))
    torch.testing.assert_close(there.mixture.cpu(), here.mixture)
    torch.testing.assert_close(there.targets.cpu(), here.targets)


@pytest.mark.parametrize("nb_iterations", [0, 1])
def test_separation_is_that_of_the_cpu(make: Make, tmp_path: Path, nb_iterations: int) -> None:  # noqa: F811
    train(make(max_steps=2), tmp_path / "run", hardware=GPU)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2)).astype(np.float32)
    loaded = [models.load_run(tmp_path / "run", device) for device in ("cpu", "cuda")]
    filtered = loaded[0].model != "block-unet"  # which gives waves
    settings = SeparationSettings(nb_iterations) if filtered else SeparationSettings(residual=bool(nb_iterations))
    found: list[Any] = [separate_wave(each, wave, settings) for each in loaded]
    for target, samples in found[0].items():
        np.testing.assert_allclose(found[1][target], samples, atol=1e-4)


@pytest.mark.parametrize(("model", "changes"), LONG)
def test_an_input_of_a_minute_trains_within_80_gb(model: str, changes: dict[str, Any]) -> None:
    """The networks at their full size, one target and one example, in bfloat16; see benchmarks/memory.py."""
    device = torch.device("cuda")
    settings = models.settings_from_json(model, {"targets": ["vocals"], "input_seconds": 60, **changes})
    network = models.create(model, settings).to(device)
    optimiser = torch.optim.Adam([each for each in network.parameters() if each.requires_grad], 1e-4, fused=True)
    nb_frames = settings.training_stft.nb_frames(settings.input_samples)
    mixture = torch.rand(1, 2, settings.nb_bins, nb_frames, device=device)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            estimate = network(mixture)
        (estimate.float() - 0.5).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert torch.cuda.max_memory_allocated() < 80e9
    assert all(bool(each.isfinite().all()) for each in network.parameters())
