"""Training: a plan, the loop, and all that makes a run go on exactly where it stopped.

Reads a spectrogram cache, or a dataset's 16-bit wav files. Writes a run's folder: the checkpoints of `models`, and

| file | what it holds |
|---|---|
| `<run>/metrics.jsonl` | a line for every tenth step, and one for every validation |
| `<run>/tensorboard/` | the same for TensorBoard, on wish |

Conventions: a step is one update of all weights; an epoch ends with a validation. Networks may run in bfloat16,
transforms and losses are float32. All that is random in a step depends on the seed and the number of the step alone, so
that on a CPU a run that was stopped and resumed has the same weights, bit for bit, as one that was not, unless networks
are compiled: the first step of a call is not.

Devices, precision and processes are Lightning Fabric's: started by `torchrun`, by a cluster's scheduler or with
`devices`, each process draws its part of every batch.
"""

import copy
import hashlib
import math
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from baselines import models
from baselines.data import Batch, Share
from baselines.losses import measure_losses
from baselines.open_unmix import OpenUnmix, OpenUnmixSet
from baselines.plans import Plan, find_epoch_steps, find_max_steps, fingerprint, make_batches
from baselines.recipes import PRECISIONS, complete, make_optimiser
from baselines.run_log import Log, format_duration
from baselines.wave_batches import measure_statistics
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError, printable
from musdbkit.waves import Waves

_LOG_STEPS: Final = 10
_SAY_SECONDS: Final = 5.0
_SAVE_SECONDS: Final = 600.0  # between two checkpoints, at most
_SAVE_SECONDS_AT_EPOCH: Final = 60.0  # the same after a validation that was not the best: writing takes seconds
_NB_NAMED: Final = 3  # validation tracks that are named
_ALL: Final = "all"  # the part of a network whose targets learn together


@dataclass(frozen=True)
class Hardware:
    """What a run is computed with.

    Attributes
    ----------
    device : `auto` (a GPU if there is one), `cpu` or `cuda`.
    devices : GPUs, or processes on a CPU, on each machine; `torchrun` has its own number.
    nb_nodes : machines.
    precision : `auto` (bfloat16 on GPUs that have it), `float32` or `bf16`; None is what the recipe says.
    compile : whether to compile networks; None is only on GPUs. What cannot be compiled is run as it is.
    """

    device: str = "auto"
    devices: int = 1
    nb_nodes: int = 1
    precision: str | None = None
    compile: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        for name, known in (("device", models.DEVICES), ("precision", (None, *PRECISIONS))):
            if getattr(self, name) not in known:
                raise ParameterError(
                    f"{name} is {getattr(self, name)}, expected one of {', '.join(filter(None, known))}"
                )
        if self.devices < 1 or self.nb_nodes < 1:
            raise ParameterError(f"devices {self.devices}, nodes {self.nb_nodes}: expected 1 or more")


DEFAULT_HARDWARE: Final = Hardware()


@dataclass(frozen=True)
class Trained:
    """What a run has come to.

    Attributes
    ----------
    run : its folder.
    step : steps taken, in all.
    seconds : time spent on them, in all.
    losses : mean of each target's training loss since the last line of the log.
    best : lowest validation loss of each part, and its step; empty if there was no validation.
    ended : why it ended: `steps`, `epochs`, `early stop`, `minutes`, or the name of a signal.
    nb_parameters : of the network.
    """

    run: Path
    step: int
    seconds: float
    losses: dict[str, float]
    best: dict[str, tuple[float, int]]
    ended: str
    nb_parameters: int

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it."""
        return self.ended.startswith("SIG")


def train(
    plan: Plan,
    run: Path,
    *,
    hardware: Hardware = DEFAULT_HARDWARE,
    max_minutes: float | None = None,
    resume: bool = False,
    force: bool = False,
    tensorboard: bool = False,
) -> Trained:
    """Train, and return what has come of it; progress goes to stderr.

    SIGTERM and Ctrl-C end the run after the step at hand, with a checkpoint.

    Parameters
    ----------
    plan : what to train.
    run : the folder to write.
    hardware : devices, precision and so on.
    max_minutes : minutes after which this call ends, with a checkpoint.
    resume : whether to go on with the run that is there; without one it begins.
    force : whether to replace a run that is there.
    tensorboard : whether to log to TensorBoard, too.

    Raises
    ------
    DatasetError
        The data cannot be read; or a run is there, or was made otherwise.
    ParameterError
        The data do not go with the settings.
    MusdbkitError
        The loss is no number any more.
    """
    fabric = _make_fabric(hardware, plan.recipe.precision)
    with ExitStack() as stack:
        stop = stack.enter_context(_signals())
        return _Training(plan, run, fabric, hardware, stack, resume, force, tensorboard).run(max_minutes, stop)


def describe(result: Trained) -> list[str]:
    """Return lines that say what a run has come to."""
    lines = [f"steps: {result.step}, in {format_duration(result.seconds)}"]
    for name, (loss, step) in result.best.items():
        lines.append(f"best validation loss{'' if name == _ALL else f' of {name}'}: {loss:.4g}, at step {step}")
    if not result.best:
        lines.append("no validation: separate will use the last weights")
    if result.interrupted or result.ended == "minutes":
        lines.append(f"ended by {result.ended}: --resume goes on")
    return [*lines, f"run: {result.run}"]


def _make_fabric(hardware: Hardware, precision: str) -> Fabric:
    """Return Fabric, started; with that precision unless the hardware says another."""
    device = models.choose_device(hardware.device)
    precision = hardware.precision or precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    devices, nb_nodes = hardware.devices, hardware.nb_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun knows better
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nb_nodes = int(os.environ["WORLD_SIZE"]) // devices
    fabric = Fabric(
        accelerator=device.type,
        devices=devices,
        num_nodes=nb_nodes,
        # Spleeter's U-Net has parameters that nothing depends on.
        strategy=DDPStrategy(find_unused_parameters=True) if devices * nb_nodes > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


class _Stop:
    """Whether a signal has asked to stop.

    Attributes
    ----------
    name : of the signal, empty before one came.
    """

    def __init__(self) -> None:
        self.name = ""

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Take note of a signal; a second one stops at once."""
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Let signals end the run after a step."""
    stop = _Stop()
    try:
        old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread, where signals cannot be caught
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@dataclass
class _Part:
    """What learns by itself: a target, or all of them.

    Attributes
    ----------
    module : its network.
    optimiser : Fabric's.
    plateau : what lowers the learning rate, if anything.
    averages, averaged : moving averages of weights and statistics, and what they are of.
    best, best_step : lowest validation loss so far, and when.
    nb_worse : validations since then.
    stopped : whether it has ended.
    """

    module: nn.Module
    optimiser: Any = None
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
    averages: list[Tensor] = field(default_factory=list)
    averaged: list[Tensor] = field(default_factory=list)
    best: float = math.inf
    best_step: int = 0
    nb_worse: int = 0
    stopped: bool = False

    @property
    def learning_rate(self) -> float:
        """Its step size now."""
        return float(self.optimiser.param_groups[0]["lr"])


@dataclass
class _Tally:
    """Losses since the last line of the log.

    Attributes
    ----------
    losses : their sum, by target, on the device.
    nb_steps : how many.
    """

    losses: Tensor
    nb_steps: int = 0


@dataclass
class _Clock:
    """Where the time goes.

    Attributes
    ----------
    before : seconds that earlier calls took.
    began : when this call began.
    steps_before : steps that earlier calls took.
    waited, wait_began, step_at_line : seconds that were spent waiting for data until the last line of the log, when
        that was, and at which step.
    """

    before: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    steps_before: int = 0
    waited: float = 0.0
    wait_began: float = field(default_factory=time.perf_counter)
    step_at_line: int = 0

    @property
    def now(self) -> float:
        """Seconds in this call."""
        return time.perf_counter() - self.began

    @property
    def total(self) -> float:
        """Seconds in all."""
        return self.before + self.now


class _Training:
    """One call of `train`: its state, and the loop."""

    def __init__(
        self,
        plan: Plan,
        run: Path,
        fabric: Fabric,
        hardware: Hardware,
        stack: ExitStack,
        resume: bool,
        force: bool,
        tensorboard: bool,
    ) -> None:
        self._plan, self._run, self._fabric = plan, run, fabric
        self._settings, self._recipe = plan.settings, plan.recipe
        self._share = Share(fabric.global_rank, fabric.world_size)
        self._batches = make_batches(plan, fabric.device)
        self._fingerprint = fingerprint(self._batches.reader)
        self._epoch_steps = find_epoch_steps(plan.recipe, self._batches, fabric.world_size)
        self._valid_steps = self._epoch_steps * plan.recipe.valid_epochs
        self._max_steps = find_max_steps(plan.recipe, self._epoch_steps)
        found = models.read_checkpoint(run, "last") if resume else None
        if found is not None:
            self._check_same(found)
        else:
            best = models.read_checkpoint(run, "best")
            if resume and best is not None and "imported" in best.training:
                raise DatasetError(f"{run}: holds weights, but no training to go on with: name another with --out")
            models.check_free(run, force or resume)  # a run that was killed before it saved may have left its best
        self._on_first(lambda: stack.enter_context(models.lock_run(run)))
        if found is None:
            self._on_first(lambda: self._clear(resume))
        self._step = 0
        self._saved_step = -1
        self._clock = _Clock()
        self._compile = fabric.device.type == "cuda" if hardware.compile is None else hardware.compile
        self._compiled = False
        self._said = 0.0
        self._saved_at = time.perf_counter()
        stack.callback(self._batches.close)
        self._build(found is None)
        if found is not None:
            try:
                self._restore(found)
            except (KeyError, TypeError, ValueError, StopIteration) as error:
                if isinstance(error, MusdbkitError):
                    raise
                raise DatasetError(f"{run}/last.json: not what training wrote: --force begins anew") from error
        self._log = Log(run, stack, tensorboard, self._step) if fabric.is_global_zero else None

    def _on_first(self, action: Callable[[], object]) -> None:
        """Let the first process do something; an error is all processes', of which none then waits for another."""
        message = ""
        if self._fabric.is_global_zero:
            try:
                action()
            except MusdbkitError as error:
                message = str(error)
        message = self._fabric.broadcast(message)
        if message:
            raise DatasetError(message)

    def _clear(self, resume: bool) -> None:
        """Remove what is left of another run."""
        models.remove_run(self._run)
        shutil.rmtree(self._run / "tensorboard", ignore_errors=True)
        if resume:
            self._say(f"{self._run}: no run yet: begins")

    def _build(self, new: bool) -> None:
        """Make the network and its optimisers."""
        torch.manual_seed(self._recipe.seed)
        network = models.create(self._plan.model, self._settings)
        self.nb_parameters = sum(tensor.numel() for tensor in network.parameters())
        targets = network.networks
        assert isinstance(targets, nn.ModuleDict)
        if new and isinstance(network, OpenUnmixSet) and isinstance(self._batches.reader, Waves):
            transform = self._settings.training_stft
            mean, std = measure_statistics(self._batches.reader, transform, self._fabric.device, self._say_statistics)
            for each in targets.values():
                assert isinstance(each, OpenUnmix)
                each.set_statistics(mean, std)
        frozen = getattr(self._settings, "batch_norm", "") == "frozen"
        if self._share.world_size > 1 and self._fabric.device.type == "cuda" and not frozen:
            network = synchronise(network)
        network = network.to(self._fabric.device)
        if self._recipe.independent:
            self._parts = {target: _Part(module) for target, module in targets.items()}
        else:
            self._parts = {_ALL: _Part(network)}
        optimisers = [
            make_optimiser(self._recipe, part.module.parameters(), self._fabric.device) for part in self._parts.values()
        ]
        self._model, *wrapped = self._fabric.setup(network, *optimisers)
        for part, optimiser, plain in zip(self._parts.values(), wrapped, optimisers, strict=True):
            part.optimiser = optimiser
            if self._recipe.plateau_patience is not None:
                part.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                    plain,
                    factor=self._recipe.plateau_factor,
                    patience=self._recipe.plateau_patience,
                    cooldown=self._recipe.plateau_cooldown,
                )
        self._network, self._targets = network, targets
        self._average = copy.deepcopy(network).eval().requires_grad_(False) if self._recipe.ema_decay else None
        if self._average is not None:
            for module in self._average.modules():
                if isinstance(module, nn.RNNBase):
                    module.flatten_parameters()
            for name, part in self._parts.items():
                average = self._average if name == _ALL else self._average.get_submodule(f"networks.{name}")
                part.averages, part.averaged = _pair(average, part.module)
        self._tally = _Tally(torch.zeros(len(self._settings.targets), device=self._fabric.device))

    # The loop

    def run(self, max_minutes: float | None, stop: _Stop) -> Trained:
        """Train until the end."""
        limit = None if max_minutes is None else max_minutes * 60
        self._introduce()
        if self._fabric.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches have one shape
        if self._batches.fits():
            self._batches.start_loading()
        ended, _ = self._look(limit, stop)
        if not ended:
            self._set_modes()
            self._clock.wait_began = time.perf_counter()
            for batch in self._batches.train(self._step, self._share):
                self._take_step(batch)
                better = self._validate() if self._step % self._valid_steps == 0 else False
                ended, due = self._look(limit, stop)
                if ended:
                    break
                if better or due:
                    self._save()
        self._save()
        if self._log is not None:
            self._log.say_last()
        return Trained(
            run=self._run,
            step=self._step,
            seconds=self._clock.total,
            losses=self._log.losses if self._log is not None else {},
            best={name: (part.best, part.best_step) for name, part in self._parts.items() if part.best < math.inf},
            ended=ended,
            nb_parameters=self.nb_parameters,
        )

    def _look(self, limit: float | None, stop: _Stop) -> tuple[str, bool]:
        """Return why the run ends now, empty if it does not, and whether a checkpoint is due.

        All processes come to the same: what clocks and signals say is agreed on, but not at every step, since that
        makes a GPU wait.
        """
        at_epoch = self._step % self._valid_steps == 0
        waited = time.perf_counter() - self._saved_at
        signalled, late = stop.name, limit is not None and self._clock.now >= limit
        due = waited > (_SAVE_SECONDS_AT_EPOCH if at_epoch else _SAVE_SECONDS)
        if self._share.world_size > 1:
            if self._step % _LOG_STEPS and not at_epoch:
                signalled, late, due = "", False, False
            else:
                flags = torch.tensor([bool(signalled), late, due], dtype=torch.float32, device=self._fabric.device)
                agreed = [flag > 0 for flag in self._reduce(flags, "sum").tolist()]
                signalled, late, due = (signalled or "SIGTERM") if agreed[0] else "", agreed[1], agreed[2]
        if signalled:
            return signalled, due
        if all(part.stopped for part in self._parts.values()):
            return "early stop", due
        if self._max_steps is not None and self._step >= self._max_steps:
            return "steps" if self._max_steps == self._recipe.max_steps else "epochs", due
        return "minutes" if late else "", due

    def _reduce(self, values: Tensor, how: str) -> Tensor:
        """Return the sum or mean of all processes' values."""
        reduced = self._fabric.all_reduce(values, reduce_op=how)
        assert isinstance(reduced, Tensor)
        return reduced

    def _take_step(self, batch: Batch) -> None:
        """Take a step."""
        if self._compile and self._step > self._clock.steps_before:  # so that the first line comes at once
            self._compile, self._compiled = False, True
            self._try_to_compile(batch)
        torch.manual_seed(_mix(self._recipe.seed, self._share.rank, self._step))
        losses = self._measure(self._recipe.loss, self._model(batch.mixture), batch)
        self._fabric.backward(losses.sum())
        self._step += 1
        weight = 1 - min(self._recipe.ema_decay, self._step / (self._step + 9))
        for part in self._parts.values():
            if not part.stopped:
                part.optimiser.step()
                part.optimiser.zero_grad()
                if part.averages:
                    with torch.no_grad():
                        torch._foreach_lerp_(part.averages, part.averaged, weight)
        self._tally.losses += losses.detach()
        self._tally.nb_steps += 1
        if self._step % _LOG_STEPS == 0 or self._step == 1:
            self._write_losses()

    def _measure(self, loss: str, estimates: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each target."""
        return measure_losses(
            self._recipe,
            loss,
            estimates,
            batch.targets,
            spectrum=batch.spectrum,
            waves=batch.waves,
            transform=self._settings.training_stft,
        )

    def _set_modes(self) -> None:
        """Let all learn that have not ended."""
        self._model.train()
        for part in self._parts.values():
            if part.stopped:
                part.module.eval().requires_grad_(False)

    def _try_to_compile(self, batch: Batch) -> None:
        """Compile the networks; on any error run them as they are."""
        self._say("compiling: the next step takes a while")
        state = {name: tensor.clone() for name, tensor in self._network.named_buffers()}
        try:
            for module in self._targets.values():
                module.compile()
            with self._fabric.autocast():
                self._network(batch.mixture).abs().sum().backward()
        except Exception as error:
            for module in self._targets.values():
                module._compiled_call_impl = None
            line = printable(str(error).strip().partition("\n")[0])
            self._say(f"cannot be compiled, and runs as it is: {type(error).__name__}: {line}")
        else:
            torch._dynamo.config.suppress_errors = True  # what is compiled later, for another shape, may fail as well
        for part in self._parts.values():
            part.optimiser.zero_grad()
        for name, tensor in self._network.named_buffers():
            tensor.copy_(state[name])

    def _uncompiled(self) -> AbstractContextManager[object]:
        """Return what lets networks run as they are: validation would compile them anew for each track's length."""
        return torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()

    # What is measured

    def _validate(self) -> bool:
        """Measure losses on the validation tracks and draw the consequences; return whether any part is better."""
        network = (self._average if self._average is not None else self._network).eval()
        sums = torch.zeros(len(self._settings.targets) + 1, dtype=torch.float64, device=self._fabric.device)
        for batch in self._batches.valid(self._share):
            with torch.no_grad(), self._uncompiled():
                with self._fabric.autocast():
                    estimates = network(batch.mixture)
                losses = self._measure(self._recipe.valid_loss or self._recipe.loss, estimates, batch)
            sums[:-1] += losses.double() * len(batch.mixture)
            sums[-1] += len(batch.mixture)
        if self._share.world_size > 1:
            sums = self._reduce(sums, "sum")
        *totals, count = sums.tolist()
        if not count:
            return False
        valid = dict(zip(self._settings.targets, (total / count for total in totals), strict=True))
        valid = self._check_finite(valid)
        better = [
            name
            for name, part in self._parts.items()
            if (name == _ALL or name in valid) and self._judge(part, self._loss_of(name, valid))
        ]
        if self._log is not None:
            self._log.write(
                {"step": self._step, "epoch": self._step // self._epoch_steps, "valid": valid, "better": better}
            )
        if better and self._recipe.select_best:
            self._save_best(better)
        self._set_modes()
        return bool(better)

    def _loss_of(self, name: str, losses: Mapping[str, float]) -> float:
        """Return the loss that a part is judged by."""
        return sum(losses.values()) if name == _ALL else losses[name]

    def _judge(self, part: _Part, loss: float) -> bool:
        """Return whether a part's loss is its lowest so far; see to its learning rate and its end."""
        if part.stopped:
            return False
        if part.plateau is not None:
            part.plateau.step(loss)
        better = loss < part.best
        if better:
            part.best, part.best_step, part.nb_worse = loss, self._step, 0
        else:
            part.nb_worse += 1
            patience, hasty = self._recipe.stop_patience, self._recipe.hasty_epochs
            enough = (patience is not None and part.nb_worse >= patience) or (
                hasty is not None and self._step > hasty * self._epoch_steps
            )
            part.stopped = enough and self._step >= self._recipe.min_epochs * self._epoch_steps
        return better

    def _write_losses(self) -> None:
        """Write a line of the log."""
        means = self._tally.losses / self._tally.nb_steps
        if self._share.world_size > 1:
            means = self._reduce(means, "mean")
        self._tally.losses.zero_()
        self._tally.nb_steps = 0
        losses = self._check_finite(dict(zip(self._settings.targets, means.tolist(), strict=True)))
        clock, now = self._clock, time.perf_counter()
        nb_steps = self._step - clock.step_at_line
        row = {
            "step": self._step,
            "loss": sum(losses.values()),
            "losses": losses,
            "learning_rate": {name: part.learning_rate for name, part in self._parts.items()},
            "seconds": clock.total,
            "steps_per_second": nb_steps / max(now - clock.wait_began, 1e-9),
            "data_wait": (self._batches.waited_seconds - clock.waited) / max(now - clock.wait_began, 1e-9),
            "memory_bytes": _memory_bytes(self._fabric.device),
            "resident": self._batches.resident,
        }
        clock.waited, clock.wait_began, clock.step_at_line = self._batches.waited_seconds, now, self._step
        if self._log is not None:
            self._log.write(row)
            self._log.say(row, self._max_steps)

    def _check_finite(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return the losses that are numbers. End what has another; refuse to go on if that is all there is."""
        broken = {target: loss for target, loss in losses.items() if not math.isfinite(loss)}
        for target in broken:
            part = self._parts.get(target)
            if part is not None and not part.stopped:
                part.stopped = True
                self._say(f"step {self._step}: the loss of {target} is {broken[target]}: it ends with its best weights")
        if broken and (_ALL in self._parts or all(part.stopped for part in self._parts.values())):
            target, loss = next(iter(broken.items()))
            raise MusdbkitError(
                f"{self._run}: step {self._step}: the loss of {target} is {loss}: "
                "begin anew with a lower learning rate (--set learning_rate=...), or with --precision float32"
            )
        if broken:
            self._set_modes()
        return {target: loss for target, loss in losses.items() if target not in broken}

    # What is kept

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights that are the result if training ends now."""
        network = self._average if self._average is not None else self._network
        return network.state_dict()

    def _save_best(self, better: list[str]) -> None:
        """Keep the weights of the parts that were never better; of the others those that are kept already."""
        if not self._fabric.is_global_zero:
            return
        weights = self._weights()
        found = models.read_checkpoint(self._run, "best")
        if found is not None and better != list(self._parts):
            kept = models.load_tensors(self._run, found, found.weights)
            prefixes = tuple(f"networks.{name}." for name in better)
            weights = {name: t if name.startswith(prefixes) else kept[name] for name, t in weights.items()}
        training = {"recipe": models.settings_to_json(self._recipe), "data": self._fingerprint, "best": self._best()}
        models.write_checkpoint(
            self._run, "best", self._plan.model, self._settings, weights, step=self._step, training=training
        )

    def _best(self) -> dict[str, Any]:
        """Return each part's lowest validation loss and its step, as JSON."""
        return {
            name: {"loss": part.best if part.best < math.inf else None, "step": part.best_step}
            for name, part in self._parts.items()
        }

    def _save(self) -> None:
        """Write the checkpoint that a run goes on from."""
        if self._saved_step == self._step:
            return
        if self._tally.nb_steps:  # of steps that no line of the log has looked at
            sums = self._reduce(self._tally.losses, "sum") if self._share.world_size > 1 else self._tally.losses
            self._check_finite(dict(zip(self._settings.targets, sums.tolist(), strict=True)))
        self._saved_step, self._saved_at = self._step, time.perf_counter()
        if self._fabric.is_global_zero:
            parts = {}
            state = {"tally": self._tally.losses}
            if self._average is not None:
                state |= {f"network.{name}": tensor for name, tensor in self._network.state_dict().items()}
            for name, part in self._parts.items():
                for i, values in part.optimiser.state_dict()["state"].items():
                    state |= {f"optimiser.{name}.{i}.{key}": torch.as_tensor(value) for key, value in values.items()}
                parts[name] = {
                    "learning_rate": part.learning_rate,
                    "plateau": _plateau_to_json(part.plateau),
                    "nb_worse": part.nb_worse,
                    "stopped": part.stopped,
                }
            training = {
                "recipe": models.settings_to_json(self._recipe),
                "data": self._fingerprint,
                "best": self._best(),
                "parts": parts,
                "seconds": self._clock.total,
                "nb_steps_in_tally": self._tally.nb_steps,
                "batch_size": self._recipe.batch_size * self._share.world_size,
                "device": _device_name(self._fabric.device),
            }
            models.write_checkpoint(
                self._run,
                "last",
                self._plan.model,
                self._settings,
                self._weights(),
                step=self._step,
                training=training,
                state=state,
            )
        self._fabric.barrier()

    def _check_same(self, found: models.Checkpoint) -> None:
        """Refuse to go on with another model, recipe or data."""
        new = models.settings_to_json(self._recipe)
        old = complete(found.training.get("recipe", {}))
        free = {"max_steps", "max_epochs", "batch_size"}
        changed = [
            f"{name} was {old.get(name)}, now {value}"
            for name, value in new.items()
            if name not in free and old.get(name) != value
        ]
        if found.model != self._plan.model:
            changed = [f"model was {found.model}, now {self._plan.model}"]
        else:
            before, after = models.settings_to_json(found.settings), models.settings_to_json(self._settings)
            changed += [f"{n} was {before[n]}, now {after[n]}" for n in after if before[n] != after[n]]
        batch_size = self._recipe.batch_size * self._share.world_size
        if found.training.get("batch_size") != batch_size:
            changed.append(f"examples in a step were {found.training.get('batch_size')}, now {batch_size}")
        if found.training.get("data") != self._fingerprint:
            changed.append("the data are others")
        if changed:
            raise DatasetError(
                f"{self._run}: was begun otherwise: {'; '.join(changed)}: go on as it began, or --force to begin anew"
            )

    def _restore(self, found: models.Checkpoint) -> None:
        """Go on from a checkpoint."""
        weights = models.load_tensors(self._run, found, found.weights)
        name = next(name for name in found.files if name.startswith("state-"))
        state = models.load_tensors(self._run, found, name)
        if self._average is not None:
            _load(self._average, weights, self._run)
            weights = _under("network.", state)
        _load(self._network, weights, self._run)
        for part_name, part in self._parts.items():
            kept = found.training["parts"][part_name]
            document = part.optimiser.state_dict()
            document["state"] = _nested(_under(f"optimiser.{part_name}.", state))
            for group in document["param_groups"]:
                group["lr"] = kept["learning_rate"]
            part.optimiser.load_state_dict(document)
            if part.plateau is not None:
                part.plateau.load_state_dict(_plateau_from_json(kept["plateau"]))
            best = found.training["best"][part_name]
            part.best = math.inf if best["loss"] is None else best["loss"]
            part.best_step, part.nb_worse, part.stopped = best["step"], kept["nb_worse"], kept["stopped"]
        self._tally.losses.copy_(state["tally"])
        self._tally.nb_steps = found.training["nb_steps_in_tally"]
        self._step = self._saved_step = found.step
        self._clock = _Clock(before=found.training["seconds"], steps_before=found.step, step_at_line=found.step)

    # What is said

    def _introduce(self) -> None:
        """Say what is about to be trained."""
        batches = self._batches
        lines = [f"{self._plan.model}: {', '.join(self._settings.targets)}; {self.nb_parameters:,} parameters"]
        if batches.left_out:
            lines.append(f"left out, too short for a segment: {', '.join(batches.left_out)}")
        lines += [
            f"tracks to train on: {len(batches.tracks)}; to validate on, every {self._valid_steps} steps: "
            + (_shorten(batches.valid_tracks) or "none"),
            f"{_device_name(self._fabric.device)}, precision {self._fabric.strategy.precision.precision}; "
            + (f"from step {self._step} " if self._step else "")
            + (f"to step {self._max_steps}" if self._max_steps else "without end"),
        ]
        for line in lines:
            self._say(printable(line))

    def _say_statistics(self, number: int, nb_tracks: int) -> None:
        """Say now and then how far the statistics are."""
        now = time.perf_counter()
        if number == 0 or now - self._said > _SAY_SECONDS:
            self._said = now
            self._say(f"statistics of the mixtures, by which the input is scaled: track {number + 1} of {nb_tracks}")

    def _say(self, text: str) -> None:
        """Print a line on stderr, once for all processes."""
        if self._fabric.is_global_zero:
            print(text, file=sys.stderr, flush=True)


def _shorten(names: tuple[str, ...]) -> str:
    """Return names for reading: the number and the first ones."""
    some = "; ".join(names[:_NB_NAMED])
    return f"{len(names)} ({some}{'; ...' if len(names) > _NB_NAMED else ''})" if names else ""


def _memory_bytes(device: torch.device) -> int:
    """Return the most memory taken so far: on the GPU by tensors, on a CPU by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_name(device: torch.device) -> str:
    """Return a device's name for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _mix(*numbers: int) -> int:
    """Return one seed from several numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


def synchronise(network: nn.Module) -> nn.Module:
    """Return a network whose batch normalisation takes the batches of all processes.

    torch's wants a counter of batches, which Spleeter's normalisation has not: it gets one that is not saved.
    """
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    for module in network.modules():
        if isinstance(module, nn.SyncBatchNorm) and module.num_batches_tracked is None:
            module.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long), persistent=False)
    return network


def _pair(average: nn.Module, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the averages of weights and statistics, and what they are averages of, in the same order."""
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    floats = [(mean, value) for mean, value in pairs if value.is_floating_point()]
    return [mean for mean, _ in floats], [value for _, value in floats]


def _load(network: nn.Module, weights: Mapping[str, Tensor], run: Path) -> None:
    """Load weights, checked by us: synchronised batch normalisation asks for a counter that Spleeter's has not."""
    models.check_weights(weights, network.state_dict(), str(run))
    network.load_state_dict(weights, strict=False)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return an optimiser's state from names such as `3.exp_avg`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor
    return state


_PLATEAU: Final = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


def _plateau_to_json(plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None) -> dict[str, Any] | None:
    """Return what a schedule must remember."""
    if plateau is None:
        return None
    values = {name: getattr(plateau, name) for name in _PLATEAU}
    return values | {"best": values["best"] if values["best"] < math.inf else None}


def _plateau_from_json(document: dict[str, Any]) -> dict[str, Any]:
    """Return the same as the schedule takes it."""
    return document | {"best": math.inf if document["best"] is None else document["best"]}
