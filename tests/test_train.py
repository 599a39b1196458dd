"""Training: runs that stop and go on, exactly; what is validated, averaged, kept and logged; and what is refused."""

import copy
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines import models
from baselines import train as module
from baselines.plans import Plan, make_plan
from baselines.recipes import Recipe
from baselines.torch_stft import istft
from baselines.train import Hardware, Trained, train
from musdbkit import musdb18
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError
from tests.sites import REPOSITORY, Site

STEMS = ("mixture", *musdb18.STEMS)
VALID = musdb18.VALIDATION_TRACKS[:2]
CPU = Hardware("cpu")
UNET: dict[str, Any] = {"n_fft": 64, "hop_length": 16, "sample_rate": 8000, "nb_bins": 20, "nb_frames": 8}
UNET |= {"filters": [2, 2, 2, 3, 3, 4], "nb_chunks": 4, "chunk_seconds": 0.2, "batch_size": 2, "learning_rate": 1e-2}
OPEN_UNMIX: dict[str, Any] = {"n_fft": 64, "hop_length": 16, "sample_rate": 8000, "hidden_size": 8, "bandwidth": 3000.0}
OPEN_UNMIX |= {"segment_seconds": 0.1, "batch_size": 2, "learning_rate": 1e-2}
SMALL: dict[str, dict[str, Any]] = {
    "block-unet": {"n_fft": 64, "hop_length": 32, "nb_frames": 16, "trim": 64, "n_blocks": 3, "internal_channels": 4},
    "umx-transformer": {"n_fft": 64, "hop_length": 16, "hidden_size": 16, "nb_heads": 2, "input_seconds": 0.1},
    "auto-transformer": {"n_fft": 64, "hop_length": 16, "hidden_size": 16, "nb_heads": 2, "input_seconds": 0.1},
}
SMALL["block-unet"] |= {"n_internal_layers": 2}
SMALL["umx-transformer"] |= {"feedforward_size": 8, "nb_layers": 1, "bandwidth": 3000.0, "shift": 200}
SMALL["auto-transformer"] |= {"feedforward_size": 8, "nb_layers": 1, "shift": 200}
FIRST = ("spleeter-unet", "open-unmix")
THREE = pytest.mark.parametrize("make", [*FIRST, "block-unet"], indirect=True)
"""For what does not depend on the network: of each kind of data and of spectrograms one."""
BLOCKS = [("block-unet", {"block": block}) for block in ("tdf", "tdc", "tfc", "tfc-tdf", "tdc-rnn")]
LONG = [
    (model, {"attention": attention})
    for model in ("umx-transformer", "auto-transformer")
    for attention in ("qkv2D", "qkv1D", "qkvg1D")
]


@pytest.fixture
def cached(site: Site) -> Path:
    """A cache of three tracks to train on and one to validate on."""
    for name in ("A", "B", "C", "V"):
        site.add(name)
    request = site.request("A", "B", "C")
    valid = site.request("V", splits=("valid",))
    assert not site.build(replace(request, tracks=request.tracks + valid.tracks)).failed
    return site.out


@pytest.fixture
def waves(site: Site) -> Path:
    """A dataset of three tracks to train on and two to validate on."""
    for name in ("A", "B", "C", *VALID):
        site.add(f"train/{name}", STEMS)
    return site.root


def unet_plan(data: Path, **changes: Any) -> Plan:
    changes = UNET | {"max_steps": 12, "epoch_steps": 4} | changes
    return make_plan("spleeter-unet", data=data, targets=("vocals", "drums"), changes=changes)


def open_unmix_plan(data: Path, **changes: Any) -> Plan:
    changes = OPEN_UNMIX | {"max_steps": 12, "epoch_steps": 4} | changes
    return make_plan("open-unmix", data=data, targets=("vocals", "accompaniment"), changes=changes)


def further_plan(model: str, data: Path, **changes: Any) -> Plan:
    changes = SMALL[model] | {"sample_rate": 8000, "batch_size": 2, "learning_rate": 1e-2, "valid_epochs": 1} | changes
    if model == "block-unet":
        changes = {name: value for name, value in changes.items() if "dropout" not in name}
    changes = {"max_steps": 12, "epoch_steps": 4} | changes
    return make_plan(model, data=data, targets=("vocals", "accompaniment"), changes=changes)


Make = Callable[..., Plan]


@pytest.fixture(params=["spleeter-unet", "open-unmix", *SMALL])
def make(request: pytest.FixtureRequest, cached: Path, waves: Path) -> Make:
    """What makes plans for one of the kinds of model."""
    if request.param == "spleeter-unet":
        return lambda **changes: unet_plan(cached, **changes)
    if request.param == "open-unmix":
        return lambda **changes: open_unmix_plan(waves, **changes)
    return lambda **changes: further_plan(request.param, waves, **changes)


def hashes(run: Path) -> dict[str, str]:
    """Return what a run has come to: the SHA-256 of its tensors, and what else it must remember."""
    found = {}
    for choice in models.CHOICES:
        checkpoint = models.read_checkpoint(run, choice)
        if checkpoint is not None:
            found |= {f"{choice} {name}": digest for name, digest in checkpoint.files.items()}
            training = {name: value for name, value in checkpoint.training.items() if name not in ("seconds", "recipe")}
            found[choice] = json.dumps(training, sort_keys=True)
    return found


def losses(run: Path) -> list[dict[str, Any]]:
    """Return the log without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in ("step", "losses", "valid", "better") if name in row} for row in rows]


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SIGTERM arrive in the midst of a step, counted from 1."""
    nb_steps, measure = 0, module.measure_losses

    def measured(recipe: Recipe, loss: str, estimates: Tensor, targets: Tensor, **options: Any) -> Tensor:
        nonlocal nb_steps
        nb_steps += estimates.requires_grad
        if nb_steps == step and estimates.requires_grad:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(recipe, loss, estimates, targets, **options)

    monkeypatch.setattr(module, "measure_losses", measured)


@pytest.mark.parametrize(
    ("make", "step"),
    [*itertools.product(FIRST, [1, 7, 8, 11]), *((model, 7) for model in SMALL)],
    indirect=["make"],
)
def test_a_run_that_was_stopped_goes_on_exactly(
    make: Make, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(make(), tmp_path / "whole", hardware=CPU)
    with monkeypatch.context() as context:
        interrupt_at(step, context)
        first = train(make(), tmp_path / "stopped", hardware=CPU)
    assert (first.step, first.ended, first.interrupted) == (step, "SIGTERM", True)
    second = train(make(), tmp_path / "stopped", hardware=CPU, resume=True)
    assert (whole.step, second.step, second.ended) == (12, 12, "steps")
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert second.best == whole.best


@THREE
def test_another_seed_gives_another_run(make: Make, tmp_path: Path) -> None:
    """The test above could not fail if nothing in a run were random, or if weights did not change."""
    runs = {name: tmp_path / name for name in ("one", "same", "other", "start")}
    train(make(max_steps=3), runs["one"], hardware=CPU)
    train(make(max_steps=3), runs["same"], hardware=CPU)
    train(make(max_steps=3, seed=5), runs["other"], hardware=CPU)
    train(make(max_steps=1), runs["start"], hardware=CPU)
    digests = [models.load_run(run).sha256 for run in runs.values()]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@THREE
def test_what_was_killed_goes_on_exactly(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a step and its checkpoint nothing is lost but the steps since the last checkpoint."""
    train(make(), tmp_path / "whole", hardware=CPU)

    write = models.write_checkpoint

    def die(run: Path, choice: str, *arguments: Any, step: int, **options: Any) -> models.Checkpoint:
        if choice == "last" and step > 4:
            raise SystemExit("killed")
        return write(run, choice, *arguments, step=step, **options)

    with monkeypatch.context() as context:
        context.setattr(models, "write_checkpoint", die)
        with pytest.raises(SystemExit, match="killed"):
            train(make(), tmp_path / "killed", hardware=CPU)
    assert checkpoint_of(tmp_path / "killed").step == 4
    train(make(), tmp_path / "killed", hardware=CPU, resume=True)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@THREE
def test_resume_without_a_run_begins(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(make(max_steps=2), tmp_path / "run", hardware=CPU, resume=True)
    assert result.step == 2
    assert "no run yet: begins" in capsys.readouterr().err


@THREE
def test_resume_of_a_run_that_was_killed_before_it_saved(make: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    train(make(max_steps=2), tmp_path / "run", hardware=CPU, resume=True)
    assert [row["step"] for row in losses(tmp_path / "run")] == [1]


@THREE
def test_resume_of_a_run_that_was_killed_after_its_first_best(make: Make, tmp_path: Path) -> None:
    train(make(), tmp_path / "whole", hardware=CPU)
    train(make(max_steps=4), tmp_path / "run", hardware=CPU)
    for name in ("last.json", *[name for name in checkpoint_of(tmp_path / "run").files]):
        (tmp_path / "run" / name).unlink()
    train(make(), tmp_path / "run", hardware=CPU, resume=True)
    assert hashes(tmp_path / "run") == hashes(tmp_path / "whole")


def test_one_trains_in_a_folder_at_a_time(cached: Path, tmp_path: Path) -> None:
    with (
        models.lock_run(tmp_path / "run"),
        pytest.raises(DatasetError, match="run: another process trains here: wait for it, or name another folder"),
    ):
        train(unet_plan(cached, max_steps=1), tmp_path / "run", hardware=CPU, resume=True)
    train(unet_plan(cached, max_steps=1), tmp_path / "run", hardware=CPU, resume=True)


def test_resume_of_what_is_no_training(cached: Path, tmp_path: Path) -> None:
    run, plan = tmp_path / "run", unet_plan(cached, max_steps=2)
    models.write_weights(
        run, plan.model, plan.settings, models.create(plan.model, plan.settings).state_dict(), step=0, source={}
    )
    with pytest.raises(DatasetError, match="holds weights, but no training to go on with: name another with"):
        train(plan, run, hardware=CPU, resume=True)
    train(plan, run, hardware=CPU, force=True)
    document = json.loads((run / "last.json").read_text())
    del document["training"]["parts"]
    (run / "last.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"last\.json: not what training wrote: --force begins anew"):
        train(plan, run, hardware=CPU, resume=True)


def test_resume_refuses_what_was_begun_otherwise(cached: Path, waves: Path, site: Site, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(unet_plan(cached, max_steps=1), run, hardware=CPU)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for plan, message in (
        (unet_plan(cached, learning_rate=1.0), "learning_rate was 0.01, now 1.0"),
        (unet_plan(cached, dropout=0.1), "dropout was 0.5, now 0.1"),
        (unet_plan(cached, batch_size=3), "examples in a step were 2, now 3"),
        (open_unmix_plan(waves), "model was spleeter-unet, now open-unmix"),
    ):
        with pytest.raises(DatasetError, match=f"was begun otherwise: .*{message}"):
            train(plan, run, hardware=CPU, resume=True)
    site.add("D")
    assert not site.build(site.request("A", "B", "C", "D")).failed
    with pytest.raises(DatasetError, match="the data are others"):
        train(unet_plan(cached), run, hardware=CPU, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_run_that_is_there_is_kept(cached: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(unet_plan(cached, max_steps=2), run, hardware=CPU)
    before = hashes(run)
    with pytest.raises(
        DatasetError, match="holds a run already: --force replaces it, or train --resume goes on with it"
    ):
        train(unet_plan(cached, max_steps=1), run, hardware=CPU)
    assert hashes(run) == before
    train(unet_plan(cached, max_steps=1), run, hardware=CPU, force=True)
    assert models.load_run(run).step == 1
    assert [row["step"] for row in losses(run)] == [1]


def test_minutes_end_a_run(cached: Path, tmp_path: Path) -> None:
    result = train(unet_plan(cached, max_steps=None), tmp_path / "run", hardware=CPU, max_minutes=0.001)
    assert result.ended == "minutes"
    assert not result.interrupted
    checkpoint = models.read_checkpoint(tmp_path / "run", "last")
    assert checkpoint is not None
    assert checkpoint.step == result.step
    assert 0.06 <= checkpoint.training["seconds"] < 30
    again = train(unet_plan(cached, max_steps=None), tmp_path / "run", hardware=CPU, max_minutes=0.001, resume=True)
    assert again.step > result.step
    assert again.seconds > checkpoint.training["seconds"]


# What a run computes


def test_a_step_is_adams(cached: Path, tmp_path: Path) -> None:
    """One step of the whole program against one written out here."""
    plan = unet_plan(cached, max_steps=1, dropout=0.0, ema_decay=0.0)
    train(plan, tmp_path / "run", hardware=CPU)
    torch.manual_seed(plan.recipe.seed)
    network = models.create(plan.model, plan.settings)
    batch = next(module.make_batches(plan, torch.device("cpu")).train())
    (2 * (network(batch.mixture) - batch.targets).abs().mean()).backward()  # a sum over two targets of means
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 1e-2 * parameter.grad / (parameter.grad.abs() + 1e-8)
    found = models.load_run(tmp_path / "run").network.state_dict()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found[name], tensor, msg=name)


@pytest.mark.parametrize(("model", "changes"), [*BLOCKS, LONG[0], LONG[5]])
def test_every_block_and_both_transformers_learn_one_batch_by_heart(
    waves: Path, model: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of attention does in test_umx_transformer.py and test_auto_transformer.py."""
    learn_by_heart(lambda **more: further_plan(model, waves, **changes, **more), tmp_path / "run", monkeypatch, 80)


@pytest.mark.parametrize("make", FIRST, indirect=True)
def test_the_first_models_learn_one_batch_by_heart(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_by_heart(make, tmp_path / "run", monkeypatch)


def learn_by_heart(make: Make, run: Path, monkeypatch: pytest.MonkeyPatch, nb_steps: int = 150) -> None:
    plan = make(max_steps=nb_steps, epoch_steps=1000, dropout=0.0, ema_decay=0.0)
    batches = module.make_batches(plan, torch.device("cpu"))
    batch = next(batches.train())
    monkeypatch.setattr(type(batches), "train", lambda *_: iter([batch] * (nb_steps + 1)))
    train(plan, run, hardware=CPU)
    rows = losses(run)
    first, last = (sum(row["losses"].values()) for row in (rows[0], rows[-1]))
    assert last < 0.65 * first


def test_weights_are_averaged_and_the_average_is_kept(cached: Path, tmp_path: Path) -> None:
    runs = []
    for nb_steps in (1, 2, 3):
        train(unet_plan(cached, max_steps=nb_steps, ema_decay=0.0, select_best=False), run := tmp_path / str(nb_steps))
        runs.append(models.load_run(run).network.state_dict())
    torch.manual_seed(3)
    start = models.create("spleeter-unet", unet_plan(cached).settings).state_dict()
    train(unet_plan(cached, max_steps=3, ema_decay=0.25, select_best=False), tmp_path / "average", hardware=CPU)
    found = models.load_run(tmp_path / "average").network.state_dict()
    for name, tensor in start.items():
        mean = tensor
        for step, weights in enumerate(runs, 1):
            decay = min(0.25, step / (step + 9))
            mean = decay * mean + (1 - decay) * weights[name]
        torch.testing.assert_close(found[name], mean, msg=name)


def test_validation_is_of_what_is_kept(make: Make, tmp_path: Path) -> None:
    """The loss in the log is that of the weights in best.json, on the validation tracks, without dropout."""
    plan = make(max_steps=4)
    train(plan, tmp_path / "run", hardware=CPU)
    (valid,) = [row["valid"] for row in losses(tmp_path / "run") if "valid" in row]
    network = models.load_run(tmp_path / "run").network
    sums = torch.zeros(2)
    nb_examples = 0
    for batch in module.make_batches(plan, torch.device("cpu")).valid():
        estimates = network(batch.mixture)
        if plan.model == "block-unet":  # which is trained on spectra, and validated on waves
            assert batch.waves is not None
            nb_samples = batch.waves.shape[-1]
            waves = istft(estimates, plan.settings.training_stft, nb_samples=nb_samples)
            each = (waves - batch.waves).abs()[..., None]
        else:
            difference = estimates - batch.targets
            each = difference.abs() if plan.model == "spleeter-unet" else difference.square()
        sums += each.mean((2, 3, 4)).sum(0)
        nb_examples += len(batch.mixture)
    assert list(valid) == list(plan.settings.targets)
    np.testing.assert_allclose(list(valid.values()), (sums / nb_examples).tolist(), rtol=1e-5)


def test_frozen_statistics_stay(cached: Path, tmp_path: Path) -> None:
    upstream = make_plan(
        "spleeter-unet", data=cached, recipe="upstream", targets=("vocals", "drums"), changes=UNET | {"max_steps": 3}
    )
    train(upstream, tmp_path / "upstream", hardware=CPU)
    train(unet_plan(cached, max_steps=3), tmp_path / "paper", hardware=CPU)
    assert not (tmp_path / "upstream" / "best.json").exists()
    for run, moved in (("upstream", False), ("paper", True)):
        weights = models.load_run(tmp_path / run).network.state_dict()
        means = [tensor for name, tensor in weights.items() if name.endswith("running_mean")]
        assert means
        assert any(bool(mean.any()) for mean in means) == moved


def test_the_input_is_scaled_by_the_statistics_of_the_mixtures(waves: Path, tmp_path: Path) -> None:
    plan = open_unmix_plan(waves, max_steps=1, learning_rate=1e-30, ema_decay=0.0)
    train(plan, tmp_path / "run", hardware=CPU)
    network = models.load_run(tmp_path / "run").network.get_submodule("networks.vocals")
    batches = module.make_batches(plan, torch.device("cpu"))
    mean, std = module.measure_statistics(batches.reader, plan.settings.training_stft, torch.device("cpu"))
    nb_bins = len(network.get_parameter("input_mean"))
    torch.testing.assert_close(network.get_parameter("input_mean").double(), -mean[:nb_bins], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(network.get_parameter("input_scale").double(), 1 / std[:nb_bins], rtol=1e-5, atol=1e-7)


def test_normalisation_over_processes_is_ready_to_train(cached: Path) -> None:
    """torch's wants a counter of batches, which Spleeter's has not; what is saved stays the same."""
    network = models.create("spleeter-unet", unet_plan(cached, dropout=0.0).settings)
    x = torch.rand(2, 2, 20, 8)
    names = list(network.state_dict())
    expected = network.train()(x)
    again = module.synchronise(network)
    assert any(isinstance(each, nn.SyncBatchNorm) for each in again.modules())
    assert list(again.state_dict()) == names
    torch.testing.assert_close(again.train()(x), expected)


@pytest.mark.parametrize(("model", "changes"), [*BLOCKS, *LONG])
def test_normalisation_over_processes_computes_the_same(waves: Path, model: str, changes: dict[str, Any]) -> None:
    plan = further_plan(model, waves, dropout=0.0, attention_dropout=0.0, **changes)
    network = models.create(model, plan.settings).train()
    x = next(module.make_batches(plan, torch.device("cpu")).train()).mixture
    again = module.synchronise(copy.deepcopy(network))
    assert any(isinstance(each, nn.SyncBatchNorm) for each in again.modules())
    assert list(again.state_dict()) == list(network.state_dict())
    for mode in (False, True):
        torch.manual_seed(0)  # of what is dropped
        found = again.train(mode)(x)
        torch.manual_seed(0)
        torch.testing.assert_close(found, network.train(mode)(x), rtol=1e-4, atol=1e-4)


# Schedules: the losses of validations are made up


def follow(plan: Plan, run: Path, valid: list[list[float]], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Trained:
    """Train with given validation losses of the targets, one validation a step."""
    found = iter([*valid, *valid])
    measure = module.measure_losses

    def measured(recipe: Recipe, loss: str, estimates: Tensor, targets: Tensor, **options: Any) -> Tensor:
        if estimates.requires_grad:
            return measure(recipe, loss, estimates, targets, **options)
        return torch.tensor(next(found))

    batch = next(module.make_batches(plan, torch.device("cpu")).valid())
    monkeypatch.setattr(module, "measure_losses", measured)
    monkeypatch.setattr("baselines.wave_batches.WaveBatches.valid", lambda *_: iter([batch]))
    return train(plan, run, hardware=CPU, **options)


def test_a_target_that_has_ended_stays_as_it_is(waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither weights nor statistics nor averages of a target move after its end, and the others learn on."""
    plan = open_unmix_plan(waves, max_steps=6, epoch_steps=1, stop_patience=1)
    valid = [[5.0, 1.0], [4, 2], [3, 3], [2, 4], [1, 5], [0.5, 6]]
    follow(plan, tmp_path / "run", valid, monkeypatch)
    shorter = replace(plan, recipe=replace(plan.recipe, max_steps=2))
    follow(shorter, tmp_path / "short", valid, monkeypatch)
    long, short = (
        models.load_tensors(run, found := checkpoint_of(run), found.weights)
        for run in (tmp_path / "run", tmp_path / "short")
    )
    for name, tensor in short.items():
        assert torch.equal(long[name], tensor) == ("accompaniment" in name or name.endswith("batches_tracked")), name


def test_a_target_whose_loss_is_no_number_ends_alone(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = open_unmix_plan(waves, max_steps=4, epoch_steps=1)
    result = follow(plan, tmp_path / "run", [[5.0, 1.0], [4, math.nan], [3, 3], [2, 4]], monkeypatch)
    assert result.best == {"vocals": (2.0, 4), "accompaniment": (1.0, 1)}
    assert "step 2: the loss of accompaniment is nan: it ends with its best weights" in capsys.readouterr().err


def test_each_target_has_its_own_schedule_and_end(waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = open_unmix_plan(
        waves, max_steps=9, epoch_steps=1, plateau_patience=1, plateau_cooldown=0, stop_patience=4, ema_decay=0.0
    )
    valid = [[5.0, 1.0], [6, 2], [7, 3], [4, 4], [3, 5], [2, 6], [1, 7], [1, 8], [0.5, 9]]
    result = follow(plan, tmp_path / "run", valid, monkeypatch)
    assert result.best == {"vocals": (0.5, 9), "accompaniment": (1.0, 1)}
    checkpoint = models.read_checkpoint(tmp_path / "run", "last")
    assert checkpoint is not None
    parts = checkpoint.training["parts"]
    assert parts["vocals"]["learning_rate"] == pytest.approx(1e-2 * 0.3)  # two bad epochs, the second and the third
    assert parts["accompaniment"]["learning_rate"] == pytest.approx(1e-2 * 0.3**2)  # bad from the second to the fifth
    assert (parts["vocals"]["stopped"], parts["accompaniment"]["stopped"]) == (False, True)
    best = models.load_run(tmp_path / "run").network.state_dict()
    last = models.load_tensors(tmp_path / "run", checkpoint, checkpoint.weights)
    train(replace(plan, recipe=replace(plan.recipe, max_steps=1)), tmp_path / "one", hardware=CPU)
    one = models.load_tensors(
        tmp_path / "one", checkpoint_of(tmp_path / "one"), checkpoint_of(tmp_path / "one").weights
    )
    for name, tensor in best.items():
        torch.testing.assert_close(tensor, (last if "vocals" in name else one)[name], rtol=0, atol=0, msg=name)


def checkpoint_of(run: Path) -> models.Checkpoint:
    checkpoint = models.read_checkpoint(run, "last")
    assert checkpoint is not None
    return checkpoint


def test_the_run_ends_when_all_targets_have(waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = open_unmix_plan(waves, max_steps=None, epoch_steps=1, stop_patience=2)
    result = follow(plan, tmp_path / "run", [[5.0, 1.0], [6, 2], [7, 3], [4, 4]], monkeypatch)
    assert (result.step, result.ended) == (3, "early stop")


def test_validation_may_be_rarer_than_epochs_and_later_patience_ends(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second epoch of one step; after four epochs the first validation that is no better ends a target."""
    plan = open_unmix_plan(
        waves,
        max_steps=20,
        epoch_steps=1,
        valid_epochs=2,
        hasty_epochs=4,
        min_epochs=9,
        ema_decay=0.0,
        stop_patience=3,
    )
    valid = [[5.0, 9.0], [6, 8], [4, 7], [3, 7.5], [2, 5], [3, 4]]
    result = follow(plan, tmp_path / "run", valid, monkeypatch)
    assert result.best == {"vocals": (2.0, 10), "accompaniment": (4.0, 12)}
    assert (result.step, result.ended) == (14, "early stop")
    # the second target was worse at epoch 8, but nothing ends before epoch 9
    plan = replace(plan, recipe=replace(plan.recipe, min_epochs=0))
    result = follow(plan, tmp_path / "hasty", valid, monkeypatch)
    assert result.best == {"vocals": (2.0, 10), "accompaniment": (7.0, 6)}


def test_epochs_of_whole_segments(waves: Path, tmp_path: Path) -> None:
    """Three tracks of 3000 samples have 18 examples of 480; as a remix with windows of 800, nine."""
    plan = further_plan("block-unet", waves, max_steps=None, epoch_steps=None, max_epochs=1)
    assert plan.settings.input_samples == 480
    assert train(plan, tmp_path / "unet", hardware=CPU).step == 9
    plan = further_plan("umx-transformer", waves, max_steps=None, epoch_steps=None, max_epochs=2, batch_size=3)
    assert train(plan, tmp_path / "umx", hardware=CPU).step == 6


def test_the_recipe_says_the_precision(waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = open_unmix_plan(waves, max_steps=1, precision="bf16")
    train(plan, tmp_path / "one", hardware=CPU)
    assert "precision bf16-mixed" in capsys.readouterr().err
    train(plan, tmp_path / "two", hardware=Hardware("cpu", precision="float32"))
    assert "precision 32-true" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["raw-l1", "raw_and_spec", "nsdr"])
@pytest.mark.parametrize("spec_type", ["complex", "magnitude"])
def test_losses_of_waves(waves: Path, tmp_path: Path, loss: str, spec_type: str) -> None:
    changes: dict[str, Any] = {"loss": loss, "spec_type": spec_type, "max_steps": 4, "loss_window": 128, "loss_hop": 64}
    train(further_plan("block-unet", waves, **changes), tmp_path / "run", hardware=CPU)
    assert all(math.isfinite(each) for row in losses(tmp_path / "run") for each in row.get("losses", {}).values())


def test_a_run_of_an_older_version_goes_on(waves: Path, tmp_path: Path) -> None:
    """Its recipe has not the fields that have come since."""
    train(open_unmix_plan(waves, max_steps=2), tmp_path / "run", hardware=CPU)
    document = json.loads((tmp_path / "run" / "last.json").read_text())
    for name in ("valid_loss", "mixing", "betas", "precision"):
        del document["training"]["recipe"][name]
    (tmp_path / "run" / "last.json").write_text(json.dumps(document))
    assert train(open_unmix_plan(waves, max_steps=3), tmp_path / "run", hardware=CPU, resume=True).step == 3


def test_epochs_end_a_run(waves: Path, tmp_path: Path) -> None:
    plan = open_unmix_plan(waves, max_steps=None, epoch_steps=None, max_epochs=2, epoch_segments=2)
    result = train(plan, tmp_path / "run", hardware=CPU)
    assert (result.step, result.ended) == (6, "epochs")  # 3 tracks of 2 segments, 2 in a batch


# What goes wrong


def test_a_loss_that_is_no_number_ends_the_run(cached: Path, tmp_path: Path) -> None:
    with pytest.raises(MusdbkitError, match=r"run: step \d+: the loss of vocals is (nan|inf): begin anew with a lower"):
        train(unet_plan(cached, learning_rate=1e30, optimiser="sgd", max_steps=100), tmp_path / "run", hardware=CPU)


@THREE
def test_networks_that_cannot_be_compiled_run_as_they_are(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make(), tmp_path / "plain", hardware=CPU)
    calls = []

    def fail(self: nn.Module, *_: Any, **__: Any) -> None:
        calls.append(self)

        def raise_error(*_: Any) -> None:
            raise RuntimeError("no compiler\nfound")

        self._compiled_call_impl = raise_error

    monkeypatch.setattr(nn.Module, "compile", fail)
    train(make(), tmp_path / "run", hardware=Hardware("cpu", compile=True))
    assert len(calls) == 2
    assert "cannot be compiled, and runs as it is: RuntimeError: no compiler" in capsys.readouterr().err
    assert hashes(tmp_path / "run") == hashes(tmp_path / "plain")


def test_hardware_that_is_not_there() -> None:
    with pytest.raises(ParameterError, match="device is tpu, expected one of auto, cpu, cuda"):
        Hardware("tpu")
    with pytest.raises(ParameterError, match="devices 0, nodes 1: expected 1 or more"):
        Hardware(devices=0)
    if not torch.cuda.is_available():
        with pytest.raises(ParameterError, match=r"device cuda: torch .* sees no GPU: use --device cpu"):
            models.choose_device("cuda")


def test_bfloat16_learns_too(make: Make, tmp_path: Path) -> None:
    train(make(max_steps=2), tmp_path / "run", hardware=Hardware("cpu", precision="bf16"))
    weights = models.load_run(tmp_path / "run").network.state_dict()
    assert all(math.isfinite(float(tensor.sum())) and tensor.dtype != torch.bfloat16 for tensor in weights.values())


def test_tensorboard_gets_what_the_log_gets(cached: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(unet_plan(cached, max_steps=4), tmp_path / "run", hardware=CPU, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    (first, second) = losses(tmp_path / "run")
    (scalar,) = events.Scalars("losses/vocals")
    assert (scalar.step, scalar.value) == (1, pytest.approx(first["losses"]["vocals"]))
    (scalar,) = events.Scalars("valid/drums")
    assert (scalar.step, scalar.value) == (4, pytest.approx(second["valid"]["drums"]))


def test_training_loads_nothing_that_decodes_audio(cached: Path, tmp_path: Path) -> None:
    """A training machine needs neither av nor soundfile nor ffmpeg; and SIGTERM from outside is heard."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('av', 'soundfile', 'scipy.signal', 'joblib')))"
    arguments = ["musdbkit", "baselines", "train", "--model", "spleeter-unet", "--cache", str(cached)]
    arguments += ["--targets", "vocals,drums", "--out", str(tmp_path / "run"), "--device", "cpu"]
    for name, value in (UNET | {"max_steps": 100_000, "epoch_steps": 100_000}).items():
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    code = f"{blocked}; sys.argv = {arguments!r}; from musdbkit.cli import main; main()"
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("step"):
                process.send_signal(signal.SIGTERM)
                break
        out, err = process.communicate()
    assert process.returncode == 130, "".join(lines) + err
    assert "ended by SIGTERM: --resume goes on" in out
    assert "interrupted: what is done is kept; run again to go on, train with --resume" in err
    assert models.load_run(tmp_path / "run").step >= 1
