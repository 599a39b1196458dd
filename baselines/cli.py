"""The commands `musdbkit baselines ...`: each converts its options, calls one function and prints what came of it.

Only typer is imported here, so that `--help` answers at once and without torch.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from musdbkit.cli import (
    Backend,
    DryRun,
    Force,
    Jobs,
    Json,
    MusdbWavRoot,
    Scheduler,
    exit_failed,
    format_size,
    make_parallel,
    print_json,
    print_totals,
    say_paths,
    split_names,
)
from musdbkit.errors import MissingDependencyError, printable

app = typer.Typer(
    name="baselines",
    help="Train, run and study reference models: Spleeter's, Open-Unmix, U-Nets of many blocks, transformers.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelName: TypeAlias = Literal[
    "spleeter-unet", "spleeter-blstm", "open-unmix", "block-unet", "umx-transformer", "auto-transformer"
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto is a GPU if there is one.")
]
Model = Annotated[ModelName | None, typer.Option("--model", help="Which model.")]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE.json",
        help="paper: with averaged weights; upstream: as the original program; large: of block-unet; or your own.",
    ),
]


@app.callback()
def _prepare() -> None:
    from importlib.util import find_spec

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of torch's threads: beside other programs ten times as fast

    missing = [name for name in ("torch", "lightning_fabric", "safetensors") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"no {', '.join(missing)}: pip install 'musdbkit[baselines]'")


@app.command()
def train(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.json", help="Spleeter's configuration, as make-csv writes it."),
    ] = None,
    model: Model = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Folder to write; ./runs/MODEL by default.")
    ] = None,
    musdb: Annotated[
        Path | None,
        typer.Option(
            "--musdb",
            metavar="ROOT",
            help="Dataset as 16-bit wav, for all others; MUSDB_PATH, or ./musdb18-wav where that holds stem files.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Spectrogram cache, for Spleeter's models; ./cache by default."),
    ] = None,
    recipe: RecipeName = "paper",
    targets: Annotated[
        str | None, typer.Option(metavar="LIST", help="Comma separated; by default the configuration's, or the stems.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a setting of model or recipe; may be given several times."
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Steps in all; the recipe's by default.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, metavar="M", help="Minutes after which to save and end.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run stopped; begin if there is none.")
    ] = False,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on a CPU; torchrun sets its own.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, where a cluster's scheduler started this.")] = 1,
    precision: Annotated[
        Literal["auto", "float32", "bf16"] | None,
        typer.Option(help="Of the networks, in place of the recipe's; auto is bf16 on GPUs that have it."),
    ] = None,
    compile_networks: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the networks; by default on a GPU.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log to RUN/tensorboard, too.")] = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a model on a spectrogram cache or on wav files."""
    from baselines import models, plans
    from baselines import train as module

    if (config is None) == (model is None):
        raise typer.BadParameter("give one, or --model NAME", param_hint="--config FILE.json")
    if resume and force:
        raise typer.BadParameter("either this or --resume", param_hint="--force")
    changes = _read_changes(settings or []) | ({"max_steps": max_steps} if max_steps is not None else {})
    reads_waves = model is not None and models.MODELS[model].reads == "waves"
    if reads_waves and cache is not None:
        raise typer.BadParameter(f"{model} reads wav files: --musdb ROOT", param_hint="--cache")
    if not reads_waves and musdb is not None:
        raise typer.BadParameter("Spleeter's models read a cache: --cache DIR", param_hint="--musdb")
    data = (musdb or _find_waves()) if reads_waves else cache or Path("cache")
    plan = plans.make_plan(
        model,
        config,
        data=data,
        recipe=recipe,
        targets=split_names(targets) if targets is not None else None,
        changes=changes,
    )
    run = out or Path("runs", plan.model)
    if _is_first():
        say_paths(data=data, run=run)
    if dry_run:
        described = plans.describe(plan, run, replace=force or resume)
        if as_json:
            print_json(described)
        else:
            for line in plans.describe_lines(described):
                typer.echo(printable(line))
        return
    result = module.train(
        plan,
        run,
        hardware=module.Hardware(device, devices, nodes, precision, compile_networks),
        max_minutes=max_minutes,
        resume=resume,
        force=force,
        tensorboard=tensorboard,
    )
    if not _is_first():
        return
    if as_json:
        print_json(result)
    else:
        for line in module.describe(result):
            typer.echo(printable(line))
    if result.interrupted:
        raise typer.Exit(130)


@app.command()
def separate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that train or import wrote.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Audio files of any kind, or the root of a dataset.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the estimates.")],
    subset: Annotated[Literal["train", "test"], typer.Option(help="Which tracks of a dataset.")] = "test",
    wiener: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Iterations of the Wiener filter; the model's own by default."),
    ] = None,
    wiener_window: Annotated[
        int | None, typer.Option(min=0, metavar="FRAMES", help="Frames it is fitted to on their own; 0 for all.")
    ] = None,
    softmask: Annotated[
        bool,
        typer.Option("--softmask", help="Open-Unmix: ratios of magnitudes, not magnitudes with the mixture's phase."),
    ] = False,
    residual: Annotated[
        bool | None,
        typer.Option("--residual/--no-residual", help="Estimate what the targets leave of the mixture, too."),
    ] = None,
    segment_overlap: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Spleeter: share of a segment that the next repeats.")
    ] = None,
    mask_exponent: Annotated[
        float | None, typer.Option(metavar="P", help="Spleeter: power of the estimates that masks are ratios of.")
    ] = None,
    mask_extension: Annotated[
        Literal["zeros", "average"] | None, typer.Option(help="Spleeter: masks above the bins that the network sees.")
    ] = None,
    chunk: Annotated[
        float, typer.Option(metavar="SECONDS", help="Longer tracks are separated in chunks of this, for the memory.")
    ] = 600.0,
    overlap: Annotated[float, typer.Option(metavar="SECONDS", help="Cross-fade of two chunks.")] = 10.0,
    subtype: Annotated[
        Literal["FLOAT", "PCM_16", "PCM_24"], typer.Option(help="Sample format; integers are clipped at full scale.")
    ] = "FLOAT",
    device: Device = "auto",
    precision: Annotated[
        Literal["float32", "bf16"], typer.Option(help="Of the network's products on a GPU.")
    ] = "float32",
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a model's estimates of audio files or of a dataset, for score."""
    from baselines import separate as module
    from baselines.separation import SeparationSettings

    settings = SeparationSettings(
        wiener,
        wiener_window,
        softmask,
        residual,
        segment_overlap,
        mask_exponent,
        mask_extension,
        chunk,
        overlap,
        precision,
    )
    say_paths(run=run, out=out)
    outcome = module.separate(
        run, inputs, out, settings, subset=subset, subtype=subtype, device=device, force=force, dry_run=dry_run
    )
    summary = module.summarise(outcome, out)
    if as_json:
        print_json({"run": run, "out": out, "summary": summary, "tracks": outcome.done, "failed": outcome.failed})
    else:
        print_totals(summary, dry_run)
        for key, clipped in summary.clipped.items():
            counts = ", ".join(f"{target} {number}" for target, number in clipped.items())
            typer.echo(f"{printable(key)}: clipped samples: {printable(counts)}")
    exit_failed(outcome.failed, f"{len(outcome.done)} done")


@app.command()
def study(
    parameter: Annotated[
        str, typer.Option("--parameter", metavar="NAME", help="T, or any setting of the model or the recipe.")
    ],
    values: Annotated[str, typer.Option("--values", metavar="LIST", help="Comma separated, or a JSON list.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the study.")],
    model: Annotated[ModelName, typer.Option("--model", help="Which model.")] = "spleeter-unet",
    stems: Annotated[str, typer.Option(metavar="2|4|2,4", help="Vocals and accompaniment, all four, or both.")] = "4",
    targets: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="What to estimate instead, comma separated."),
    ] = None,
    musdb: MusdbWavRoot = None,
    recipe: RecipeName = "paper",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another setting, for all values.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Steps for each value.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, metavar="M", help="Minutes of training for each value.")
    ] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train, separate and score a model for each value of a setting: what does it do to quality and latency?"""
    from baselines import study as module
    from baselines import study_tables as tables
    from baselines.train import Hardware
    from musdbkit.tracks import default_root

    root = default_root(musdb, wav=True)
    say_paths(musdb=root, out=out)
    request = module.Request(
        parameter,
        _read_values(values),
        root,
        out,
        module.Budget(max_steps, max_minutes),
        model,
        [int(number) for number in split_names(stems) if number.isdigit()],
        split_names(targets) if targets is not None else None,
        recipe,
        _read_changes(settings or []),
    )
    if dry_run:
        described = module.describe(request, force=force)
        if as_json:
            print_json(described)
        else:
            for line in module.describe_lines(described, parameter):
                typer.echo(printable(line))
        return
    points = module.study(
        request,
        hardware=Hardware(device),
        parallel=make_parallel(jobs, backend, scheduler),
        force=force,
        say=lambda line: typer.echo(printable(line), err=True),
    )
    if as_json:
        print_json([tables.to_json(point) for point in points])
        return
    from rich.console import Console

    tables.print_tables(points, parameter, Console())
    for name in (tables.TABLE, tables.FIGURE):
        typer.echo(printable(out / name))


@app.command("import")
def import_(
    source: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="An .npz of a Spleeter checkpoint; Open-Unmix's .pth files, or their folder; a block U-Net for each "
            "target: .pt, .pth, .safetensors, or an .npz of a Lightning checkpoint.",
        ),
    ],
    model: Annotated[
        Literal["spleeter-unet", "spleeter-blstm", "open-unmix", "block-unet"],
        typer.Option("--model", help="Which model they are of."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run to write.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE.json", help="Spleeter's configuration, of models that are not released."
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Other names of Spleeter's targets; which of Open-Unmix's; what block U-Nets are of."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting that the tensors of a block U-Net do not tell."),
    ] = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a run of weights that others' programs trained: Spleeter, Open-Unmix, block U-Nets."""
    from baselines import convert_weights

    say_paths(run=out)
    result = convert_weights.import_weights(
        source,
        model,
        out,
        config=config,
        targets=split_names(targets) if targets is not None else None,
        changes=_read_changes(settings or []),
        force=force,
        dry_run=dry_run,
    )
    if as_json:
        print_json(result)
    else:
        typer.echo(
            f"{result.model}: {', '.join(map(printable, result.settings.targets))}; {result.nb_parameters:,} parameters"
        )
        for note in result.notes:
            typer.echo(f"note: {printable(note)}")
        typer.echo(f"{'to write' if dry_run else 'written'}: {format_size(result.nb_bytes)}")
        typer.echo(f"run: {printable(result.run)}")


def _find_waves() -> Path:
    """Return the dataset that MUSDB_PATH names; what looks at it needs what decodes audio, which training does not."""
    from musdbkit.tracks import default_root

    return default_root(None, wav=True)


def _is_first() -> bool:
    """Return whether this process speaks for all of a run's."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", "0")))) == 0


def _read_changes(texts: list[str]) -> dict[str, Any]:
    """Return settings from NAME=VALUE, where a value is JSON or else text."""
    changes = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"{text}: expected NAME=VALUE", param_hint="--set")
        try:
            changes[name.strip()] = json.loads(value)
        except ValueError:
            changes[name.strip()] = value
    return changes


def _read_values(text: str) -> list[Any]:
    """Return a list of values, each JSON or else text."""
    try:
        document = json.loads(text)
        return document if isinstance(document, list) else [document]
    except ValueError:
        return list(_read_changes([f"{i}={part}" for i, part in enumerate(split_names(text))]).values())
