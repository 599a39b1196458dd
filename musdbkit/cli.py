"""The command line: each command converts its options, calls one function and prints what was written and where.

Results go to stdout, progress and errors to stderr. Exit status 0: all done; 1: something failed, each named; 2: usage.
Only typer is imported here; a command imports its function when it runs, so that `--help` answers at once.

Other packages add commands through the entry-point group `musdbkit.commands`: each entry is a `typer.Typer`. The
options and the functions without underscore are for them, too.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from musdbkit import __version__
from musdbkit.errors import MusdbkitError, ParameterError, printable

if TYPE_CHECKING:
    from musdbkit.cache_request import Request
    from musdbkit.convert import Totals
    from musdbkit.tracks import Parallel

_NB_FINDINGS = 50  # lines of text; a CSV may have as many faults as cells
_INTERRUPTED = 130  # typer's exit status after Ctrl-C

app = typer.Typer(
    name="musdbkit",
    help="Prepare MUSDB18 for training and evaluation: from stem files to Spleeter's CSVs and scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Worker processes; all cores by default.")]
Backend = Annotated[Literal["loky", "dask"], typer.Option(help="Processes on this machine, or a Dask cluster.")]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler, as tcp://host:8786.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would be written.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
StemsRoot = Annotated[
    Path | None,
    typer.Argument(metavar="STEMS", help="Folder with train/ and test/ of stem files; MUSDB_PATH by default."),
]
WavRoot = Annotated[
    Path | None,
    typer.Argument(
        metavar="ROOT", help="Dataset as wav; by default MUSDB_PATH, or ./musdb18-wav where that holds stem files."
    ),
]

MusdbRoot = Annotated[
    Path | None,
    typer.Option("--musdb", metavar="ROOT", help="Dataset, stems or wav; MUSDB_PATH by default."),
]
MusdbWavRoot = Annotated[
    Path | None,
    typer.Option(
        "--musdb",
        metavar="ROOT",
        help="Dataset as wav; by default MUSDB_PATH, or ./musdb18-wav where that holds stem files.",
    ),
]

Scores = Annotated[
    list[str],
    typer.Argument(
        metavar="SCORES...",
        help="Folders that score wrote, or of museval's JSON of any origin; NAME=FOLDER gives one a name.",
    ),
]
Metric = Annotated[str, typer.Option(metavar="M", help="SDR, ISR, SIR, SAR, uSDR, SI-SDR or SNR.")]
Aggregation = Annotated[
    Literal["sisec18", "demucs-mean", "mdx", "track-mean"] | None,
    typer.Option(help="How frames and tracks are summed up; sisec18 for metrics of frames by default."),
]
Together = Annotated[bool, typer.Option("--together", help="Rank together what was scored under unlike protocols.")]
Reference = Annotated[bool, typer.Option(help="Show SiSEC 2018's medians, where they can stand beside.")]


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=lambda value: _print_version(value), help="Print the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["MUSDBKIT_DEBUG"] = "1"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"musdbkit {__version__}")
        raise typer.Exit


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the dataset to.")],
    train: Annotated[int, typer.Option(min=0, help="Tracks to train on.")] = 4,
    valid: Annotated[int, typer.Option(min=0, max=14, help="Tracks with official validation names, in train/.")] = 1,
    test: Annotated[int, typer.Option(min=0, help="Tracks in test/.")] = 2,
    seconds: Annotated[float, typer.Option(help="Length of each track in seconds.")] = 30.0,
    layout: Annotated[
        Literal["stems", "wav"], typer.Option(help="AAC stem files, or wav folders as MUSDB18-HQ.")
    ] = "stems",
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other music.")] = 0,
    faults: Annotated[
        str, typer.Option(metavar="LIST", help="Defects to plant, one track each, comma separated; 'all' for all.")
    ] = "",
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a little dataset of synthetic music, to try things on."""
    from musdbkit import synth as module

    result = module.synth(
        out,
        train=train,
        valid=valid,
        test=test,
        seconds=seconds,
        layout=layout,
        seed=seed,
        faults=tuple(module.FAULTS) if faults == "all" else split_names(faults),
        force=force,
        dry_run=dry_run,
        parallel=make_parallel(jobs, backend, scheduler),
    )
    if as_json:
        print_json(result)
    else:
        for track in result.made:
            typer.echo(printable(track.path) + (f"  (fault: {track.fault})" if track.fault else ""))
        verb = "would be made" if dry_run else "made"
        typer.echo(f"tracks: {len(result.made)} {verb}, {len(result.kept)} already there")
        verb = "to write" if dry_run else "written"
        typer.echo(f"{verb}: {format_size(result.nb_bytes)}; {result.audio_seconds / 60:.1f} min of music")
    exit_failed(result.failed, f"{len(result.made)} made")


@app.command()
def check(
    root: Annotated[
        Path | None,
        typer.Argument(metavar="ROOT", help="Dataset; MUSDB_PATH by default, without it only the machine is checked."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings, too, make the exit status 1.")] = False,
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Look for faults in a dataset, and at the machine."""
    from musdbkit import check as module
    from musdbkit.tracks import default_root

    chosen = default_root(root) if root or os.environ.get("MUSDB_PATH") else None
    result = module.check(chosen, strict=strict, parallel=make_parallel(jobs, backend, scheduler))
    if as_json:
        print_json(result)
    else:
        from rich.console import Console

        module.print_result(result, Console())
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def convert(
    stems: StemsRoot = None,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.")] = Path("musdb18-wav"),
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Comma separated, out of mixture, drums, bass, other, vocals, accompaniment, linear_mixture; "
            "all but the last by default.",
        ),
    ] = None,
    file_format: Annotated[Literal["wav", "flac"], typer.Option("--format", help="File format.")] = "wav",
    subtype: Annotated[Literal["PCM_16", "PCM_24", "FLOAT"], typer.Option(help="Sample format.")] = "PCM_16",
    sample_rate: Annotated[
        int | None, typer.Option(metavar="HZ", help="Resample to this rate; by default 44100 is kept.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Decode again, compare with the files, and print a PCM hash of each.")
    ] = False,
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Decode stem files to wav or flac, all targets in one pass."""
    from musdbkit import convert as module
    from musdbkit.tracks import default_root

    root = default_root(stems)
    say_paths(stems=root, out=out)
    settings = module.Settings(
        split_names(targets) if targets else module.DEFAULT_TARGETS, file_format, subtype, sample_rate
    )
    outcome = module.convert(
        root,
        out,
        settings,
        force=force,
        verify=verify,
        dry_run=dry_run,
        parallel=make_parallel(jobs, backend, scheduler),
    )
    summary = module.summarise(outcome, out)
    if as_json:
        print_json({"stems": root, "out": out, "summary": summary, "tracks": outcome.done, "failed": outcome.failed})
    else:
        for key, track in outcome.done.items():
            for target, pcm_hash in track.pcm_hashes.items():
                typer.echo(f"{pcm_hash}  {printable(key)}/{target}")
        print_totals(summary, dry_run)
        for target, keys in summary.overflowed.items():
            typer.echo(f"{target}: the sum overflows {subtype}, so FLOAT wav: {printable(', '.join(keys))}")
    exit_failed(outcome.failed, f"{len(outcome.done)} done")


@app.command()
def make_csv(
    root: WavRoot = None,
    stems: Annotated[
        Literal["2", "4"] | None, typer.Option(help="Vocals and accompaniment, or vocals, drums, bass and other.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the CSVs and the configuration.")] = Path("."),
    validation: Annotated[
        str,
        typer.Option(
            metavar="official|NAMES|N", help="The 14 official tracks, names separated by commas, or how many to pick."
        ),
    ] = "official",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most so many tracks in each CSV.")] = None,
    exclude_errata: Annotated[
        bool, typer.Option("--exclude-errata", help="Leave out the tracks with published faults.")
    ] = False,
    make_accompaniment: Annotated[
        bool, typer.Option("--make-accompaniment", help="Write drums + bass + other where it is missing.")
    ] = False,
    check_file: Annotated[
        Path | None, typer.Option("--check", metavar="FILE", help="Only look for faults in this CSV, whoever wrote it.")
    ] = None,
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write the CSVs and the configuration that Spleeter trains from."""
    from musdbkit import spleeter_files
    from musdbkit.tracks import default_root

    if check_file is not None:
        if limit is not None or force or dry_run or make_accompaniment or exclude_errata:
            raise typer.BadParameter("looks only, and takes no option but --stems and --json", param_hint="--check")
        _check_csv(check_file, root, stems, as_json)
        return
    if stems is None:
        raise typer.BadParameter("2 or 4, or --check FILE", param_hint="--stems")
    chosen = default_root(root, wav=True)
    say_paths(root=chosen, out=out)
    result = spleeter_files.make_csv(
        chosen,
        stems=int(stems),
        out=out,
        validation=validation,
        limit=limit,
        exclude_errata=exclude_errata,
        make_accompaniment=make_accompaniment,
        force=force,
        dry_run=dry_run,
        parallel=make_parallel(jobs, backend, scheduler),
    )
    if as_json:
        print_json(result)
    else:
        for path in result.written:
            typer.echo(printable(path) + ("  (would be written)" if dry_run else ""))
        for path in result.kept:
            typer.echo(f"{printable(path)}  (already there)")
        for key in result.accompaniments:
            typer.echo(f"{printable(chosen / key / 'accompaniment.wav')}" + ("  (would be written)" if dry_run else ""))
        if result.rows:
            typer.echo("tracks: " + ", ".join(f"{split} {number}" for split, number in result.rows.items()))
            typer.echo(f"held out: {printable('; '.join(result.validation))}")
            verb = "to write" if dry_run else "written"
            typer.echo(f"{verb}: {format_size(result.nb_bytes)}; {format_size(result.free_bytes)} free")
        for key, reason in result.left_out.items():
            typer.echo(f"left out: {printable(key)}: {reason}")
        for note in result.notes:
            typer.echo(f"note: {printable(note)}")
    exit_failed(result.failed, "no CSV was written")


def _check_csv(path: Path, root: Path | None, stems: str | None, as_json: bool) -> None:
    """Print what is wrong with a CSV; exit with status 1 if anything is."""
    from musdbkit import spleeter_files

    result = spleeter_files.check_csv(path, root, int(stems) if stems else None)
    if as_json:
        print_json(result)
    else:
        typer.echo(f"root: {printable(result.root)}", err=True)
        for finding in result.findings[:_NB_FINDINGS]:
            where = f"line {finding.line}" + (f", {finding.column}" if finding.column else "")
            typer.echo(f"{where}: {printable(finding.problem)}: {printable(finding.advice)}")
        if len(result.findings) > _NB_FINDINGS:
            typer.echo(f"... and {len(result.findings) - _NB_FINDINGS} more (all with --json)")
        typer.echo(f"{printable(path)}: tracks {result.nb_rows}, faults {len(result.findings)}")
    if result.findings:
        raise typer.Exit(1)


@app.command()
def cache(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.json", help="Spleeter's configuration, as make-csv writes it.")
    ] = None,
    preset: Annotated[
        Literal["spleeter", "openunmix"] | None,
        typer.Option(help="Instead of a configuration: this transform of the whole dataset."),
    ] = None,
    musdb: MusdbWavRoot = None,
    targets: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="With --preset: signals beside the mixture; the four stems by default."),
    ] = None,
    subset: Annotated[
        Literal["train", "test"] | None, typer.Option(help="With --preset: which tracks; train by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the cache; ./cache by default, with --preset ./cache-PRESET.")
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32", "uint8"] | None,
        typer.Option(help="Magnitudes, or levels as Spleeter's; float16 by default, or what the cache has already."),
    ] = None,
    info: Annotated[
        bool, typer.Option("--info", help="Only say what the cache holds, and what is not valid and why.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Only compare the cache with its hashes.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove arrays of the cache that are not asked for.")] = False,
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compute the spectrograms that training reads, once, for your own code to map; Spleeter itself does not."""
    from musdbkit import cache_request, caching, musdb18
    from musdbkit.tracks import default_root

    if info and verify:
        raise typer.BadParameter("either this or --info", param_hint="--verify")
    if (info or verify) and (force or dry_run or prune):
        raise typer.BadParameter("look only: no --force, --dry-run or --prune", param_hint="--info, --verify")
    if config is not None and preset is not None:
        raise typer.BadParameter("either this or CONFIG.json", param_hint="--preset")
    if preset is None and (targets is not None or subset is not None):
        raise typer.BadParameter("only with --preset: CONFIG.json has its own", param_hint="--targets, --subset")
    if config is None and preset is None and (musdb is not None or dtype is not None):
        raise typer.BadParameter("only with CONFIG.json or --preset", param_hint="--musdb, --dtype")
    out = out or Path(f"cache-{preset}" if preset else "cache")
    parallel = make_parallel(jobs, backend, scheduler)
    request = None
    if config is not None or preset is not None:
        root = default_root(musdb, wav=True)
        say_paths(musdb=root, out=out)
        kind = dtype or cache_request.find_dtype(out)
        if preset is not None:
            signals = musdb18.STEMS if targets is None else split_names(targets)
            request = cache_request.find_request(
                root, preset, targets=signals, subsets=(subset or "train",), dtype=kind
            )
        elif config is not None:
            request = cache_request.read_request(config, root, kind)
    if info or verify:
        _look_at_cache(out, request, verify, as_json, parallel)
        return
    if request is None:
        raise typer.BadParameter("give one, as make-csv writes it, or --preset", param_hint="CONFIG.json")
    result = caching.build(request, out, force=force, dry_run=dry_run, prune=prune, parallel=parallel)
    summary = caching.summarise(result, out)
    if as_json:
        print_json({"out": out, "summary": summary, **vars(result)})
    else:
        print_totals(summary, dry_run)
        for line in caching.describe(result):
            typer.echo(printable(line))
    exit_failed(result.failed, f"{len(result.tracks)} done")


def _look_at_cache(out: Path, request: "Request | None", verify: bool, as_json: bool, parallel: "Parallel") -> None:
    """Print what a cache holds; or whether it holds what was written, and exit with status 1 if it does not."""
    from musdbkit import caching

    if not verify:
        found = caching.inspect(out, request, parallel=parallel)
        if as_json:
            print_json({"out": out, **vars(found), "valid": found.valid})
        for line in () if as_json else caching.describe_info(found):
            typer.echo(printable(line))
        if not found.valid:
            raise typer.Exit(1)
        return
    outcome = caching.verify(out, request, parallel=parallel)
    nb_bytes = sum(outcome.done.values())
    if as_json:
        print_json({"out": out, "nb_bytes": nb_bytes, "verified": list(outcome.done), "failed": outcome.failed})
    else:
        typer.echo(f"tracks: {len(outcome.done)} as written; {format_size(nb_bytes)} read")
    exit_failed(outcome.failed, f"{len(outcome.done)} as written")


@app.command()
def oracle(
    method: Annotated[
        Literal["mix", "ibm1", "ibm2", "irm1", "irm2", "mwf"],
        typer.Option(
            help="The mixture in equal parts, ideal binary or ratio masks (of amplitudes or powers), Wiener filter."
        ),
    ],
    musdb: MusdbRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; ./estimates/METHOD by default.")] = None,
    subset: Annotated[Literal["train", "test"], typer.Option(help="Which tracks.")] = "test",
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write the estimates of an oracle: what masks and filters reach when the true stems are known."""
    from musdbkit import oracle as module
    from musdbkit.tracks import default_root

    root, chosen = default_root(musdb), out or Path("estimates", method)
    say_paths(musdb=root, out=chosen)
    outcome = module.oracle(
        root,
        chosen,
        method,
        subsets=(subset,),
        force=force,
        dry_run=dry_run,
        parallel=make_parallel(jobs, backend, scheduler),
    )
    summary = module.summarise(outcome, chosen)
    if as_json:
        print_json({"musdb": root, "out": chosen, "summary": summary, "tracks": outcome.done, "failed": outcome.failed})
    else:
        print_totals(summary, dry_run)
    exit_failed(outcome.failed, f"{len(outcome.done)} done")


@app.command()
def score(
    estimates: Annotated[
        Path,
        typer.Argument(metavar="ESTIMATES", help="Folder of [SUBSET/]TRACK/TARGET.wav or .flac, by anyone's model."),
    ],
    musdb: MusdbRoot = None,
    refs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Other references, as [SUBSET/]TRACK/TARGET.wav, of any targets.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the scores; ESTIMATES-scores by default.")] = None,
    metrics: Annotated[
        str, typer.Option(metavar="LIST", help="Comma separated, out of sdr, isr, sir, sar, usdr, si-sdr, snr.")
    ] = "sdr,isr,sir,sar",
    subset: Annotated[
        Literal["train", "test"] | None, typer.Option(help="Which tracks; by default those that are estimated.")
    ] = None,
    engine: Annotated[
        Literal["fast", "museval"], typer.Option(help="Ours, or museval's own code: slow, 7 GB per track.")
    ] = "fast",
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Where to compute; auto is the CPU unless a data-centre GPU is there."),
    ] = "auto",
    window: Annotated[float, typer.Option(metavar="SECONDS", help="Length of the frames.")] = 1.0,
    hop: Annotated[float, typer.Option(metavar="SECONDS", help="Distance of the frames.")] = 1.0,
    silence: Annotated[
        Literal["museval", "per-target"],
        typer.Option(help="Drop a frame if anything in it is silent, or only for the silent target."),
    ] = "museval",
    align: Annotated[
        bool, typer.Option("--align", help="Cut or pad estimates of any length; up to 1024 samples it is always done.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score what is there, though tracks or targets lack.")
    ] = False,
    complement: Annotated[
        bool, typer.Option("--complement", help="Add accompaniment = mixture - vocals where there is none.")
    ] = False,
    verify: Annotated[
        int, typer.Option(min=0, metavar="N", help="Compute N tracks with museval's code, too; fail if it disagrees.")
    ] = 0,
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Score estimates as museval does: BSSEval v4, with SDR, ISR, SIR and SAR for each second."""
    from musdbkit import scoring
    from musdbkit.tracks import default_root

    if refs is not None and musdb is not None:
        raise typer.BadParameter("either this or --musdb", param_hint="--refs")
    root = refs or default_root(musdb)
    named = estimates if estimates.name not in ("", "..") else estimates.resolve()  # "." has no name
    chosen = out or named.with_name(f"{named.name}-scores")
    settings = scoring.Settings(split_names(metrics), window, hop, "v4", silence, engine, align, complement)
    say_paths(estimates=estimates, references=root, out=chosen)
    result = scoring.score(
        estimates,
        scoring.find_other_references(refs) if refs else scoring.find_references(root),
        chosen,
        settings,
        subset=subset,
        allow_missing=allow_missing,
        verify=verify,
        force=force,
        dry_run=dry_run,
        device=device,
        parallel=make_parallel(jobs, backend, scheduler),
    )
    if as_json:
        print_json(scoring.summarise(result))
    else:
        from rich.console import Console

        scoring.print_result(result, Console())
    exit_failed(result.failed, f"{len(result.done)} done")


@app.command()
def compare(
    paths: Scores,
    metric: Metric = "SDR",
    aggregation: Aggregation = None,
    output: Annotated[
        Literal["text", "markdown", "latex", "json"], typer.Option("--format", help="What to print.")
    ] = "text",
    together: Together = False,
    reference: Reference = True,
    changes: Annotated[
        int, typer.Option(min=0, metavar="N", help="Tracks with the largest gains, and losses, of each target.")
    ] = 3,
    as_json: Json = False,
) -> None:
    """Compare methods on their scores, track by track, beside SiSEC 2018; the first is the baseline."""
    from musdbkit import compare as module
    from musdbkit import comparison_tables as tables
    from musdbkit.methods import load_methods

    comparison = module.compare(
        load_methods(paths),
        metric=metric,
        aggregation=aggregation,
        together=together,
        nb_changes=changes,
        reference=reference,
    )
    if as_json or output == "json":
        print_json(tables.to_json(comparison))
    elif output == "markdown":
        typer.echo(tables.to_markdown(comparison), nl=False)
    elif output == "latex":
        typer.echo(tables.to_latex(comparison), nl=False)
    else:
        from rich.console import Console

        tables.print_text(comparison, Console())


@app.command()
def report(
    paths: Scores,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    metric: Metric = "SDR",
    aggregation: Aggregation = None,
    together: Together = False,
    reference: Reference = True,
    estimates: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="Estimates that were scored, to hear the worst seconds; once for each SCORES, in order."
        ),
    ] = None,
    musdb: MusdbRoot = None,
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write one HTML page about scores, to read, click and hear: it needs no network and no other file."""
    from musdbkit import excerpts
    from musdbkit import report as module
    from musdbkit.methods import load_methods
    from musdbkit.tracks import default_root

    if musdb is not None and not estimates:
        raise typer.BadParameter("use it with --estimates", param_hint="--musdb")
    methods = load_methods(paths)
    sounds = excerpts.Sounds({}, {})
    if estimates:
        root = default_root(musdb)
        say_paths(references=root)
        parallel = make_parallel(jobs, backend, scheduler)
        sounds = excerpts.cut_worst(methods, estimates, root, metric=metric, parallel=parallel)
    written = module.report(
        methods,
        out,
        metric=metric,
        aggregation=aggregation,
        together=together,
        reference=reference,
        excerpts=sounds.excerpts,
        force=force,
        dry_run=dry_run,
    )
    if as_json:
        print_json({"report": written, "failed": sounds.failed})
    else:
        typer.echo(f"{printable(written.path)}  ({written.status}, {format_size(written.nb_bytes)})")
        if estimates:
            typer.echo(f"excerpts of sound: {written.nb_excerpts}")
        for note in written.notes:
            typer.echo(f"note: {printable(note)}")
    exit_failed(sounds.failed, "the report has no sound of it")


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.")] = Path("musdbkit-demo"),
    jobs: Jobs = None,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
) -> None:
    """Run the whole walk on a real excerpt and a few synthetic tracks."""
    from rich.console import Console

    from musdbkit import demo as module

    module.demo(out, Console(), parallel=make_parallel(jobs, backend, scheduler))


def split_names(names: str) -> tuple[str, ...]:
    """Return the names in a comma separated list."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def format_size(nb_bytes: int) -> str:
    """Return a number of bytes for reading."""
    return f"{nb_bytes / 1e9:.2f} GB" if nb_bytes >= 1e9 else f"{nb_bytes / 1e6:.1f} MB"


def make_parallel(jobs: int | None, backend: str, scheduler: str | None) -> "Parallel":
    """Return how to run over tracks."""
    from musdbkit.tracks import Parallel

    return Parallel(jobs, backend, scheduler)


def say_paths(**paths: Path) -> None:
    """Print the paths that a command chose, on stderr."""
    for name, path in paths.items():
        typer.echo(f"{name}: {printable(path)}", err=True)


def print_totals(totals: "Totals", dry_run: bool) -> None:
    """Print how many tracks were done and how much was written."""
    counts = ", ".join(f"{number} {status}" for status, number in totals.nb_tracks.items()) or "none done"
    typer.echo(f"tracks: {counts}; {totals.seconds / 60:.1f} min of music")
    verb = "to write" if dry_run else "written"
    typer.echo(f"{verb}: {format_size(totals.nb_bytes)}; {format_size(totals.free_bytes)} free")


def print_json(document: Any) -> None:
    """Print one strict JSON document."""
    import dataclasses
    import json

    def plain(value: Any) -> Any:
        return (
            dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)
        )

    typer.echo(json.dumps(document, default=plain, indent=2, allow_nan=False))


def exit_failed(failed: dict[str, str], closing: str) -> None:
    """Name the tracks that failed and exit with status 1, if there are any."""
    for key, message in failed.items():
        typer.echo(f"error: {printable(message if printable(key) in message else f'{key}: {message}')}", err=True)
    if failed:
        typer.echo(f"{len(failed)} {'track' if len(failed) == 1 else 'tracks'} failed; {closing}", err=True)
        raise typer.Exit(1)


def _add_plugins(arguments: list[str]) -> None:
    """Add the commands of other packages, where the arguments name none of ours."""
    own = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named in own:
        return
    from importlib.metadata import entry_points

    for entry in entry_points(group="musdbkit.commands"):
        try:
            app.add_typer(entry.load(), name=entry.name)
        except Exception as error:  # another package's fault must not cost the user this one
            typer.echo(f"warning: command {entry.name} of {entry.value} cannot be loaded: {printable(error)}", err=True)


def main() -> None:
    """Run the command line."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # closed by the caller, as with >&-; worker processes need one, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115  for as long as the process lives
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin while the workers start
    _add_plugins(sys.argv[1:])
    try:
        app()
    except MusdbkitError as error:
        if os.environ.get("MUSDBKIT_DEBUG"):
            raise
        typer.echo(f"error: {printable(error)}", err=True)
        sys.exit(2 if isinstance(error, ParameterError) else 1)
    except BrokenPipeError:  # the reader of stdout has had enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if os.environ.get("MUSDBKIT_DEBUG"):
            raise
        typer.echo(f"error: {printable(error.filename or 'output')}: {error.strerror}", err=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            typer.echo("interrupted: what is done is kept; run again to go on, train with --resume", err=True)
        raise
