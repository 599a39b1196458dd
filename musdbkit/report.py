"""Scored methods as one HTML page that opens anywhere: who is better, on which tracks and seconds, and how it sounds.

Reads what `methods` loaded and `excerpts` cut. Writes one file, which asks for nothing outside itself.

Conventions: what a reader needs without a plot is text in the page (`report_text`). What is drawn or played is data in
it: numbers as JSON, frames and sounds as base64 (`report_data`). Names are text of others and remain text: jinja2
escapes them here, templates/report.js writes them as text nodes and escapes them for plotly, and the page's policy lets
no script run but the page's own, known by their hashes.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from musdbkit import __version__, templates
from musdbkit.compare import Comparison, compare
from musdbkit.errors import DatasetError, MissingDependencyError, ParameterError
from musdbkit.excerpts import Excerpt
from musdbkit.methods import Method
from musdbkit.report_data import keep_frames, make_clip, make_data, track_values
from musdbkit.report_text import link_sounds, make_page

LIMIT_BYTES: Final = 12_000_000
"""A page is smaller: mail and review systems take it."""

_GENERATOR: Final = "musdbkit"
_EXCERPT_BYTES: Final = 2000  # what an excerpt, or a note on those left out, takes beside its sounds, at most


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes
    ----------
    path : the page.
    status : `written`, `replaced` or `already there`; in a dry run `to write` or `to replace`.
    nb_bytes : its size.
    nb_excerpts : excerpts of sound in it.
    notes : what was left out of it.
    """

    path: Path
    status: str
    nb_bytes: int
    nb_excerpts: int
    notes: tuple[str, ...]


def report(
    methods: Sequence[Method],
    out: Path,
    *,
    metric: str = "SDR",
    aggregation: str | None = None,
    together: bool = False,
    reference: bool = True,
    excerpts: Mapping[str, Sequence[Excerpt]] | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Written:
    """Write a page about scored methods, whole or not at all; the same scores give the same bytes.

    A page that an earlier run wrote is brought up to date. What does not fit below `LIMIT_BYTES` is left out: excerpts,
    or the frames of all metrics but the chosen one.

    Parameters
    ----------
    methods : one or more. The first of those that were scored alike is the baseline of the others.
    out : the file.
    metric : what tables and sentences are about, one of `scores.FRAME_METRICS` or `scores.TRACK_METRICS`.
    aggregation, together, reference : see `compare.compare`.
    excerpts : of sound, by name of the method, the most important first.
    force : whether a file may be replaced that is no such page.
    dry_run : whether to make all but write nothing.

    Raises
    ------
    ParameterError
        There are no methods, or no such metric or aggregation of it.
    DatasetError
        A method has no scores of this metric, the file is in the way or cannot be written, or the page is too large.
    """
    if not methods:
        raise ParameterError("no scores to report, expected at least one folder of scores")
    found = _read_page(out, force)
    comparison = compare(methods, metric=metric, aggregation=aggregation, together=together, reference=reference)
    content, nb_excerpts, notes = _fit(comparison, excerpts or {})
    status = "already there" if found == content else "replace" if out.is_file() else "write"
    if status != "already there":
        status = f"to {status}" if dry_run else {"write": "written", "replace": "replaced"}[status]
        if not dry_run:
            _write(out, content)
    return Written(out, status, len(content), nb_excerpts, notes)


# The file


def _read_page(path: Path, force: bool) -> bytes | None:
    """Return the page that is there, None where there is none; any other file may be replaced by force only."""
    try:
        found = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}: give another --out") from error
    if (
        found is not None
        and not force
        and f'<meta name="generator" content="{_GENERATOR} '.encode() not in found[:1000]
    ):
        raise DatasetError(
            f"{path}: is there and is no report of musdbkit: give another --out, or --force to replace it"
        )
    return found


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    hidden = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_bytes(content)
        hidden.replace(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            hidden.unlink()


def _fit(comparison: Comparison, excerpts: Mapping[str, Sequence[Excerpt]]) -> tuple[bytes, int, tuple[str, ...]]:
    """Return the page with as many excerpts as fit, their number, and what was left out."""
    tracks = sorted(frozenset[str]().union(*(method.protocol.tracks for method in comparison.methods)))
    values = track_values(comparison.methods, comparison.aggregation)
    page, data = make_page(comparison, tracks, values), make_data(comparison, tracks, values)
    notes: tuple[str, ...] = ()
    nb_bytes = len(_render(page, data, (), notes))
    if nb_bytes >= LIMIT_BYTES and comparison.metric in data["frame_metrics"] != [comparison.metric]:
        data = keep_frames(data, comparison.metric)
        notes = (f"seconds are shown of {comparison.metric} only: with the other metrics the page would be too large",)
        nb_bytes = len(_render(page, data, (), notes))
    if nb_bytes >= LIMIT_BYTES:
        raise DatasetError(
            f"the report would have {nb_bytes / 1e6:.1f} MB, expected less than {LIMIT_BYTES / 1e6:.0f} MB: "
            "report fewer methods at once"
        )
    clips = _interleave(comparison, excerpts)
    nb_fitting = _count_fitting(clips, LIMIT_BYTES - nb_bytes - _EXCERPT_BYTES)
    if nb_fitting < len(clips):
        lost = len(clips) - nb_fitting
        notes = (*notes, f"{lost} of {len(clips)} excerpts of sound are left out: the page would be too large")
    return _render(page, data, clips[:nb_fitting], notes), nb_fitting, notes


def _count_fitting(clips: Sequence[tuple[int, Excerpt]], room: int) -> int:
    """Return how many of the excerpts fit, the first first."""
    for i, (_, clip) in enumerate(clips):
        room -= sum(4 * math.ceil(len(sound) / 3) for sound in clip.signals.values()) + _EXCERPT_BYTES
        if room < 0:
            return i
    return len(clips)


def _interleave(comparison: Comparison, excerpts: Mapping[str, Sequence[Excerpt]]) -> list[tuple[int, Excerpt]]:
    """Return excerpts with the number of their method: the first of each method, then the second of each, and so on."""
    names = [method.name for method in comparison.methods]
    if unknown := [name for name in excerpts if name not in names]:
        raise ParameterError(f"excerpts of {unknown[0]}, expected those of {', '.join(names)}")
    ranked = [(i, names.index(name), each) for name, of in excerpts.items() for i, each in enumerate(of)]
    return [(method, each) for _, method, each in sorted(ranked, key=lambda item: item[:2])]


def _render(
    page: Mapping[str, Any], data: Mapping[str, Any], clips: Sequence[tuple[int, Excerpt]], notes: Sequence[str]
) -> bytes:
    """Return the page's file."""
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingDependencyError(f"a report needs {error.name}: pip install --force-reinstall musdbkit") from error

    sounds: dict[str, str] = {}
    heard = [make_clip(page, *clip, sounds) for clip in clips]
    scripts = [get_plotlyjs(), templates.read("report.js")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    policy = (
        "default-src 'none'; connect-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"img-src data: blob:; media-src data: blob:; script-src {allowed}"
    )
    environment = Environment(
        loader=FunctionLoader(templates.read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(
        page={**page, "notes": notes, "worst": link_sounds(page["worst"], heard)},
        data={**data, "clips": heard},
        sounds={name: content for content, name in sounds.items()},
        generator=f"{_GENERATOR} {__version__}",
        policy=policy,
        style=Markup(templates.read("report.css")),
        scripts=[Markup(script) for script in scripts],
    )
    return text.encode()
