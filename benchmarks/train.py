"""`musdbkit baselines train` against Open-Unmix's own loop, and against what the device could do.

Everything is trained on a synthetic dataset that is made first. Each line is a process of its own, and its times are
those of the steps after a warm-up in which networks are compiled. Ours is the command's loop, its times from its log
(metrics.jsonl), with all that belongs to it: data, transforms, losses, moving averages, log.

Open-Unmix: the openunmix package's network, transform and steps (its train.py: Adam, MSE, a loss read back each step,
float32), with a torch DataLoader over the same wav files that draws, reads, amplifies and swaps as its MUSDBDataset
does. Files are read by soundfile straight to float32, which is quicker than the musdb package, whose work that is
upstream. Measured without workers, its default, and with one for each core; the quicker one is what ours is compared
with, by examples a second, of each of which it learns one target: four targets at once count four times.

Spleeter's U-Net has no peer here, as Spleeter runs on TensorFlow 1. Its bounds are the device's peak for dense bfloat16
products, and the same loop on one batch over and over, for which no data are moved or transformed.

    python benchmarks/train.py [--small] [--only open-unmix|spleeter-unet] [--steps N] [--json FILE]

With `--folder DIR` the data stay there, and are not made again. Where musdbkit is not installed: PYTHONPATH=. before
it.
"""

import argparse
import importlib
import importlib.util
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from baselines import models, plans
from baselines.data import ALONE, Batch, Batches, Share, SpectrogramBatches
from baselines.models import LOG
from baselines.train import Hardware, train
from baselines.wave_batches import WaveBatches
from musdbkit import cache_request, caching
from musdbkit.musdb18 import STEMS
from musdbkit.synth import synth

ROOT = Path(__file__).resolve().parent.parent
RATE = 44100
LONGEST = 900  # seconds that a process may take
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bfloat16 products a second, of the SXM modules
NOT_INSTALLED = "peer not installed: pip install --no-deps openunmix"

SMALL = {
    "open-unmix": {"hidden_size": 64, "segment_seconds": 2.0, "batch_size": 4},
    "spleeter-unet": {"nb_frames": 64, "nb_bins": 256, "filters": [4, 8, 16, 32, 64, 128]},
}
FULL = {"open-unmix": {}, "spleeter-unet": {"nb_frames": 512, "nb_bins": 1024, "batch_size": 4}}

OURS: dict[str, dict[str, Any]] = {
    "ours": {"model": "open-unmix", "targets": ("vocals",)},
    "ours, data not on the GPU": {"model": "open-unmix", "targets": ("vocals",), "data": "streamed"},
    "ours, one batch over and over": {"model": "open-unmix", "targets": ("vocals",), "data": "repeated"},
    "ours, float32, not compiled": {"model": "open-unmix", "targets": ("vocals",), "plain": True},
    "ours, 4 targets at once": {"model": "open-unmix", "targets": STEMS},
    "U-Net, 4 stems": {"model": "spleeter-unet", "targets": STEMS},
    "U-Net, 4 stems, data not on the GPU": {"model": "spleeter-unet", "targets": STEMS, "data": "streamed"},
    "U-Net, 4 stems, one batch over and over": {"model": "spleeter-unet", "targets": STEMS, "data": "repeated"},
    "U-Net, 4 stems, float32, not compiled": {"model": "spleeter-unet", "targets": STEMS, "plain": True},
}
"""What is measured of ours. Not compiled and in float32 is what the defaults are on a CPU; data lie on none there."""


def make_data(folder: Path, nb_tracks: int, seconds: float) -> None:
    """Make the dataset and its cache, but for what is there."""
    result = synth(folder / "musdb", train=nb_tracks, valid=0, test=0, seconds=seconds, layout="wav")
    if result.failed:
        raise SystemExit(f"{folder}: {result.failed}")
    built = caching.build(cache_request.find_request(folder / "musdb", "spleeter"), folder / "cache")
    if built.failed:
        raise SystemExit(f"{folder}: {built.failed}")


def make_plan(name: str, options: argparse.Namespace, max_steps: int) -> plans.Plan:
    """Return what one of `OURS` trains."""
    entry = OURS[name]
    model = entry["model"]
    changes = (SMALL if options.small else FULL)[model] | {"max_steps": max_steps, "epoch_steps": max_steps + 1}
    data = options.folder / ("musdb" if model == "open-unmix" else "cache")
    return plans.make_plan(model, data=data, targets=tuple(entry["targets"]), changes=changes)


def run_ours(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one of `OURS`, from its log."""
    data = OURS[name].get("data", "resident")
    if data != "resident":
        Batches.fits = lambda self: False  # type: ignore[method-assign]
    if data == "repeated":
        for kind in (SpectrogramBatches, WaveBatches):
            kind.train = repeat_first(kind.train)  # type: ignore[method-assign]
    hardware = Hardware(options.device)
    if OURS[name].get("plain"):
        hardware = Hardware(options.device, precision="float32", compile=False)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run = Path(folder, "run")
        train(make_plan(name, options, options.warm_up + options.steps), run, hardware=hardware)
        rows = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    on_device = data == "resident" and models.choose_device(options.device).type == "cuda"
    rows = [row for row in rows if row["step"] >= options.warm_up and row["resident"] == on_device]
    if len(rows) < 2:
        raise SystemExit("the data came to the GPU too late: give more --steps")
    seconds = rows[-1]["seconds"] - rows[0]["seconds"]
    spans = np.diff([row["seconds"] for row in rows])
    return {
        "steps": rows[-1]["step"] - rows[0]["step"],
        "seconds": seconds,
        "data_wait": float(spans @ [row["data_wait"] for row in rows[1:]] / seconds),
        "memory_bytes": rows[-1]["memory_bytes"],
    }


def repeat_first(draw: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
    """Return a method that yields the first batch of another one without end."""

    def train(self: Batches, first_step: int = 0, share: Share = ALONE) -> Iterator[Batch]:
        batch = next(draw(self, first_step, share))
        while True:
            yield batch

    return train


class MixedSources(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Examples as Open-Unmix draws them: each source from a random track, loud and turned at random.

    Parameters
    ----------
    root : the dataset.
    seconds : length of an example.
    """

    def __init__(self, root: Path, seconds: float) -> None:
        self.tracks = [path for path in sorted((root / "train").iterdir()) if path.is_dir()]
        self.durations = {path: soundfile.info(path / "vocals.wav").duration for path in self.tracks}
        self.seconds = seconds

    def __len__(self) -> int:
        """Return a number that no run comes to, so that workers are started once."""
        return 2**20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the waves of a mixture and of its vocals [shape of each=(nb_channels, nb_samples)]."""
        sources = []
        for stem in STEMS:
            track = random.choice(self.tracks)
            start = int(random.uniform(0, self.durations[track] - self.seconds) * RATE)
            path = track / f"{stem}.wav"
            samples, _ = soundfile.read(path, round(self.seconds * RATE), start, dtype="float32", always_2d=True)
            audio = torch.as_tensor(samples.T, dtype=torch.float32)
            audio = audio * (0.25 + torch.rand(1))
            if torch.tensor(1.0).uniform_() < 0.5:
                audio = torch.flip(audio, [0])
            sources.append(audio)
        stems = torch.stack(sources)
        return stems.sum(0), stems[STEMS.index("vocals")]


def import_peer(name: str) -> ModuleType:
    """Return a module of openunmix, which imports torchaudio, but needs it for none of this: an empty one stands in."""
    before = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        return importlib.import_module(f"openunmix.{name}")
    finally:
        del sys.modules["torchaudio"]
        if before is not None:
            sys.modules["torchaudio"] = before


def run_peer(nb_workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of Open-Unmix's loop."""
    transforms, model = import_peer("transforms"), import_peer("model")
    device = models.choose_device(options.device)
    plan = make_plan("ours", options, 1)
    settings, recipe = plan.settings, plan.recipe
    torch.manual_seed(42)
    random.seed(42)
    loader = torch.utils.data.DataLoader(
        MixedSources(plan.data, recipe.segment_seconds),
        batch_size=recipe.batch_size,
        shuffle=True,
        num_workers=nb_workers,
        pin_memory=device.type == "cuda",
    )
    transform, _ = transforms.make_filterbanks(n_fft=settings.n_fft, n_hop=settings.hop_length)
    encoder = nn.Sequential(transform, transforms.ComplexNorm()).to(device)
    network = model.OpenUnmix(
        nb_bins=settings.nb_bins, hidden_size=settings.hidden_size, max_bin=settings.nb_input_bins
    ).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-5)
    network.train()
    waited = start = 0.0
    count = 0
    batches = iter(loader)
    while count < options.warm_up + options.steps:
        if count == options.warm_up:
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start, waited = time.perf_counter(), 0.0
        if count > options.warm_up and time.perf_counter() - start > options.limit:
            break
        before = time.perf_counter()
        x, y = next(batches)
        waited += time.perf_counter() - before
        x, y = x.to(device), y.to(device)
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(network(encoder(x)), encoder(y))
        loss.backward()
        optimiser.step()
        if not math.isfinite(loss.item()):
            raise SystemExit("the peer's loss is no number")
        count += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "steps": count - options.warm_up,
        "seconds": seconds,
        "data_wait": waited / seconds,
        "memory_bytes": memory,
    }


def count_flops(plan: plans.Plan) -> float:
    """Return the floating point operations of the network in one step.

    The U-Net's are counted as torch sees them, forwards and backwards. Of Open-Unmix's, whose LSTM torch does not see,
    each weight of a matrix counts for one product and sum in each frame, and backwards is twice as much as forwards.
    """
    batch_size, settings = plan.recipe.batch_size, plan.settings
    with torch.device("meta"):
        network = models.create(plan.model, settings)
        if plan.model == "open-unmix":
            nb_frames = settings.training_stft.nb_frames(round(plan.recipe.segment_seconds * settings.sample_rate))
            nb_weights = sum(tensor.numel() for tensor in network.parameters() if tensor.ndim > 1)
            return 6.0 * nb_weights * batch_size * nb_frames
        mixture = torch.ones(batch_size, settings.nb_channels, settings.nb_bins, settings.nb_frames)
        with FlopCounterMode(display=False) as counter:
            network(mixture).sum().backward()
    return float(counter.get_total_flops())


def find_peak(name: str) -> float | None:
    """Return what a GPU can do in dense bfloat16 products, None where that is not known here."""
    if "PCIe" in name or "NVL" in name:
        return None
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def measure(call: list[str], options: argparse.Namespace) -> dict[str, Any] | str:
    """Return the figures of a process of its own, or in one line what went wrong."""
    command = [sys.executable, __file__, *call, "--folder", str(options.folder), "--device", options.device]
    command += ["--steps", str(options.steps), "--warm-up", str(options.warm_up), "--limit", str(options.limit)]
    command += ["--small"] * options.small
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # as the command sets it
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return f"failed: took more than {LONGEST} s"
    if options.verbose or done.returncode:
        print(done.stderr, file=sys.stderr, flush=True)
    lines = (done.stdout if not done.returncode else done.stderr).strip().splitlines() or ["no output"]
    if done.returncode:
        return f"failed, exit status {done.returncode}: {lines[-1]}"
    figures: dict[str, Any] = json.loads(lines[-1])
    if "cannot be compiled" in done.stderr:
        figures["note"] = next(line for line in done.stderr.splitlines() if "cannot be compiled" in line)
    return figures


class Table:
    """Prints lines as they come, and keeps them for the JSON.

    Attributes
    ----------
    document : what the JSON holds.
    """

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self._options = options
        self._gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self._peak = find_peak(self._gpu)
        self.document: dict[str, Any] = {
            "device": self._gpu or f"CPU, {platform.machine()}, {torch.get_num_threads()} threads",
            "peak_flops": self._peak,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "small": options.small,
            "rows": [],
        }
        peak = f"{self._peak / 1e12:.0f} TFLOP/s in dense bfloat16 products" if self._peak else "unknown"
        print(f"{self.document['device']}; peak: {peak}")
        print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}")

    def begin(self, title: str) -> None:
        """Print the head of a table."""
        names = ("ms a step", "examples/s", "TFLOP/s", "of the peak", "waits for data", "GB", "this / Open-Unmix")
        print(f"\n| {title} | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1), flush=True)

    def add(self, name: str, figures: dict[str, Any] | str, plan: plans.Plan, bf16: bool, peer: float | None) -> float:
        """Print a line; return target-examples per second."""
        if isinstance(figures, str):
            print(f"| {name} | {figures} |", flush=True)
            self._keep({"name": name, "failed": figures})
            return 0.0
        step = figures["seconds"] / figures["steps"]
        examples = plan.recipe.batch_size / step
        flops = count_flops(plan) / step
        share = flops / self._peak if self._peak and bf16 else None
        rate = examples * len(plan.settings.targets)
        ratio = rate / peer if peer else None
        cells = [
            name,
            f"{1000 * step:.1f}",
            f"{examples:.1f}",
            f"{flops / 1e12:.3g}",
            f"{100 * share:.2g} %" if share is not None else "",
            f"{100 * figures['data_wait']:.1f} %",
            f"{figures['memory_bytes'] / 1e9:.2f}" if figures["memory_bytes"] and self._gpu else "",
            f"{ratio:.2f}" if ratio is not None else "",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
        if "note" in figures:
            print(f"  {figures['note']}")
        row = {"name": name, "examples_per_second": examples, "flops": flops, "share_of_peak": share, "ratio": ratio}
        self._keep(figures | row)
        return rate

    def _keep(self, row: dict[str, Any]) -> None:
        """Keep a line, and write what there is."""
        self.document["rows"].append(row)
        if self._options.json:
            self._options.json.write_text(json.dumps(self.document, indent=1) + "\n")


def compare_open_unmix(table: Table, options: argparse.Namespace, names: list[str], gpu: bool) -> None:
    """Print the figures of Open-Unmix, upstream's loop first."""
    plan = make_plan("ours", options, 1)
    table.begin(f"Open-Unmix, {plan.recipe.batch_size} examples of {plan.recipe.segment_seconds:g} s")
    peer = 0.0
    if importlib.util.find_spec("openunmix") is None:
        print(f"| {NOT_INSTALLED} |", flush=True)
    else:
        for nb_workers in (0, os.cpu_count() or 1):
            figures = measure(["--peer", str(nb_workers)], options)
            peer = max(peer, table.add(f"Open-Unmix 1.3, {nb_workers} workers", figures, plan, False, None))
    for name in names:
        figures = measure(["--call", name], options)
        bf16 = gpu and not OURS[name].get("plain")
        table.add(name, figures, make_plan(name, options, 1), bf16, peer or None)


def compare_unet(table: Table, options: argparse.Namespace, names: list[str], gpu: bool) -> None:
    """Print the figures of the U-Net, which has no peer."""
    plan = make_plan("U-Net, 4 stems", options, 1)
    settings = plan.settings
    table.begin(f"U-Net, {plan.recipe.batch_size} examples of {settings.nb_frames} frames, {settings.nb_bins} bins")
    for name in names:
        figures = measure(["--call", name], options)
        table.add(name, figures, make_plan(name, options, 1), gpu and not OURS[name].get("plain"), None)
    print(f"a step of the networks: {count_flops(plan) / 1e9:.0f} GFLOP; no peer: Spleeter needs TensorFlow")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small networks and 4 tracks of 20 s")
    parser.add_argument("--only", choices=("open-unmix", "spleeter-unet"))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, help="steps that are measured; 300 on a GPU, else 20")
    parser.add_argument("--warm-up", type=int, help="steps before; 50 on a GPU, else 10")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds after which the peer's steps end")
    parser.add_argument("--tracks", type=int, help="of the dataset; 20 on a GPU, else 4")
    parser.add_argument("--seconds", type=float, help="of a track; 120 on a GPU, else 30")
    parser.add_argument("--folder", type=Path, help="where data are made, and stay")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--verbose", action="store_true", help="print what runs say")
    parser.add_argument("--call", choices=tuple(OURS), help=argparse.SUPPRESS)
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call is not None:
        print(json.dumps(run_ours(options.call, options)))
        return
    if options.peer is not None:
        print(json.dumps(run_peer(options.peer, options)))
        return
    device = models.choose_device(options.device)
    gpu = device.type == "cuda"
    large = gpu and not options.small
    options.steps = options.steps or (300 if gpu else 20)
    options.warm_up = options.warm_up or (50 if gpu else 10)
    if options.steps < 20:
        parser.error("--steps: expected 20 or more, as each tenth step is logged")
    with tempfile.TemporaryDirectory() as name:
        options.folder = options.folder or Path(name)
        options.folder.mkdir(parents=True, exist_ok=True)
        nb_tracks = options.tracks or (20 if large else 4)
        seconds = options.seconds or (120 if large else 20 if options.small else 30)
        start = time.perf_counter()
        make_data(options.folder, nb_tracks, seconds)
        table = Table(options, device)
        print(f"{nb_tracks} tracks of {seconds:g} s, made and cached in {time.perf_counter() - start:.0f} s")
        for model, compare in (("open-unmix", compare_open_unmix), ("spleeter-unet", compare_unet)):
            if options.only in (None, model):
                names = [key for key, entry in OURS.items() if entry["model"] == model]
                if not gpu:  # where these are the same
                    names = [key for key in names if "plain" not in OURS[key] and OURS[key].get("data") != "streamed"]
                compare(table, options, names, gpu)


if __name__ == "__main__":
    main()
