"""A comparison as text, Markdown, LaTeX or JSON.

Reads a `compare.Comparison`. Writes nothing: what it prints or returns, others keep.

Conventions: the best method of a target is in bold, and starred in plain text, only where it is significantly better
than all others that it is ranked with. Values are in dB with three decimals.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from musdbkit import scores, sisec18, stats
from musdbkit.compare import Cell, Comparison
from musdbkit.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


_REFERENCE: Final = "SiSEC 2018"
_DAGGER: Final = "\N{DAGGER}"
_LEAST_P: Final = 0.001  # what is below is not told apart


@dataclass(frozen=True)
class _Row:
    """A line of the table of methods: a value by target, and what of it is best."""

    name: str
    values: dict[str, str]
    intervals: dict[str, stats.Interval]
    best: frozenset[str]


def print_text(comparison: Comparison, console: "Console") -> None:
    """Print a comparison for reading in a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def start_table(*columns: str, folded: int = 0, nb_texts: int = 1) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(columns):
            justify: Literal["left", "right"] = "left" if i < nb_texts else "right"
            table.add_column(Text(printable(column)), justify=justify, overflow="fold", no_wrap=i != folded)
        return table

    def say(line: str) -> None:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    for line in _head(comparison):
        say(line)
    table = start_table("", *comparison.targets)
    for title, rows in _sections(comparison):
        if title:
            table.add_row(Text(title, style="italic"))
        for row in rows:
            values = [
                Text(("*" if target in row.best else "") + value, style="bold" if target in row.best else "")
                + Text(
                    f"\n{_bracket(row.intervals[target], '.1f')}" if target in row.intervals else "",
                    style="not bold dim",
                )
                for target, value in row.values.items()
            ]
            table.add_row(Text(printable(row.name)), *values)
        table.add_section()
    console.print(table)
    for line in _legend(comparison, "*"):
        say(line)
    for title, lines in _pair_lines(comparison).items():
        say(f"{title}, track by track:")
        table = start_table(*_PAIR_COLUMNS, folded=-1)
        for cells in lines:
            table.add_row(*(Text(printable(cell)) for cell in cells))
        console.print(table)
    if any(comparison.pairs.values()):
        say(_PAIR_LEGEND)
    for line in _friedman_lines(comparison):
        say(line)
    for title, lines in _change_lines(comparison).items():
        say(f"{title}, largest gains and losses:")
        table = start_table(*_CHANGE_COLUMNS, folded=1, nb_texts=2)
        for cells in lines:
            table.add_row(*(Text(printable(cell)) for cell in cells))
        console.print(table)
    for note in comparison.notes:
        say(f"note: {note}")


def to_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown with tables as GitHub reads them."""
    lines = [_markdown(line) + "  " for line in _head(comparison)]
    lines += ["", *_markdown_head("method", *comparison.targets)]
    for title, rows in _sections(comparison):
        if title:
            lines.append(f"| *{title}* |{' |' * len(comparison.targets)}")
        for row in rows:
            cells = [
                (f"**{value}**" if target in row.best else value)
                + (f" {_bracket(row.intervals[target])}" if target in row.intervals else "")
                for target, value in row.values.items()
            ]
            lines.append(f"| {' | '.join([_markdown(row.name), *cells])} |")
    lines += ["", *(f"{_markdown(line)}  " for line in _legend(comparison, "bold"))]
    for title, found in _pair_lines(comparison).items():
        lines += ["", f"{_markdown(title)}, track by track:", "", *_markdown_head(*_PAIR_COLUMNS)]
        lines += [f"| {' | '.join(map(_markdown, cells))} |" for cells in found]
    if any(comparison.pairs.values()):
        lines += ["", _markdown(_PAIR_LEGEND)]
    for title, found in _change_lines(comparison).items():
        head = _markdown_head(*_CHANGE_COLUMNS, nb_texts=2)
        lines += ["", f"{_markdown(title)}, largest gains and losses:", "", *head]
        lines += [f"| {' | '.join(map(_markdown, cells))} |" for cells in found]
    lines += ["", *(f"- {_markdown(line)}" for line in (*_friedman_lines(comparison), *comparison.notes))]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(comparison: Comparison) -> str:
    """Return the table of methods as a LaTeX tabular, for `booktabs`, with what it says as comments above it."""
    lines = [f"% {printable(line)}" for line in (*_head(comparison), *comparison.notes)]
    lines += [f"% {line}" for line in _legend(comparison, "bold") if "brackets" not in line]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(comparison.targets)}}}", r"\toprule"]
    lines.append(rf"{' & '.join(['', *map(_latex, comparison.targets)])} \\")
    for title, rows in _sections(comparison):
        lines.append(r"\midrule")
        if title:
            lines.append(rf"\multicolumn{{{len(comparison.targets) + 1}}}{{l}}{{\emph{{{title}}}}} \\")
        for row in rows:
            cells = [rf"\textbf{{{value}}}" if target in row.best else value for target, value in row.values.items()]
            lines.append(rf"{' & '.join([_latex(row.name), *map(_minus, cells)])} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as strict JSON, exact: nan as null, infinities as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return scores.encode(value)
        if isinstance(value, stats.Interval):
            return [plain(value.low), plain(value.high)]
        if hasattr(value, "__dataclass_fields__"):
            return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list | tuple) else value

    def against(name: str) -> dict[str, Any]:
        documents = {}
        for target, baseline in comparison.baselines[name].items():
            pair = plain(comparison.pairs[name][target])
            pair["p_uncorrected"] = pair.pop("p_value")
            holm = plain(comparison.find_p(target, name, baseline))
            documents[target] = {"baseline": baseline, **pair, "p_holm": holm}
        return documents

    return {
        "metric": comparison.metric,
        "aggregation": comparison.aggregation,
        "together": comparison.together,
        "targets": list(comparison.targets),
        "methods": {
            method.name: {
                "path": str(method.path),
                "bound": method.bound,
                "protocol": {
                    "silence": method.protocol.silence,
                    "window_seconds": method.protocol.window_seconds,
                    "hop_seconds": method.protocol.hop_seconds,
                    "mode": method.protocol.mode,
                    "subset": method.protocol.subset,
                    "references": method.protocol.references,
                    "align": method.protocol.align,
                    "tracks": len(method.protocol.tracks),
                },
                "targets": plain(comparison.cells[method.name]),
                "against": against(method.name),
                "changes": plain(comparison.changes[method.name]),
            }
            for method in comparison.methods
        },
        "groups": plain(comparison.groups),
        "differences": comparison.differences,
        "rankings": [
            {
                "target": ranking.target,
                "methods": list(ranking.methods),
                "p_holm": [[*pair, plain(p)] for pair, p in ranking.p_values.items()],
                "friedman": plain(ranking.friedman),
            }
            for ranking in comparison.rankings
        ],
        "reference": comparison.reference,
        "notes": list(comparison.notes),
    }


# What all formats show


_PAIR_COLUMNS: Final = ("target", "difference", "95 %", "W/T/L", "p", "resolvable")
_PAIR_LEGEND: Final = (
    "difference: the typical one of a track (Hodges and Lehmann's estimate), with the interval of the test; W/T/L: "
    f"tracks won, tied (by {stats.TIE_DB:g} dB) and lost; p: Wilcoxon's signed-rank test, after Holm's correction for "
    "all pairs that are ranked together on the target, none beside a bound; resolvable: what this test, uncorrected, "
    "finds on 50 such tracks in four of five cases"
)
_CHANGE_COLUMNS: Final = ("target", "track", "from", "to", "change")


def _head(comparison: Comparison) -> list[str]:
    """Return what is compared, on how many tracks, and in what the protocols differ."""
    name = comparison.aggregation
    lines = [f"{comparison.metric}, {name}: {scores.AGGREGATIONS[name]}"]
    by_number: dict[int, list[str]] = {}
    for method in comparison.methods:
        nb_tracks = max((cell.nb_tracks for cell in comparison.cells[method.name].values()), default=0)
        by_number.setdefault(nb_tracks, []).append(method.name)
    counts = [f"{nb_tracks} ({', '.join(names)})" for nb_tracks, names in by_number.items()]
    lines.append(f"tracks: {', '.join(counts) if len(counts) > 1 else next(iter(by_number))}")
    for field, by_value in comparison.differences.items():
        verb = "differ" if field.partition(" ")[0] in ("tracks", "references") else "differs"
        lines.append(f"{field} {verb}: " + "; ".join(f"{', '.join(of)}: {value}" for value, of in by_value.items()))
    if comparison.differences:
        lines.append(
            "and yet they are ranked together, as asked"
            if comparison.together
            else "so they are ranked apart; --together ranks them as if they were alike"
        )
    return lines


def _sections(comparison: Comparison) -> list[tuple[str, list[_Row]]]:
    """Return the lines of methods, those that were scored alike together, and of SiSEC 2018's, which have a title."""
    sections = [("", [_row(name, comparison) for name in group]) for group in comparison.groups]
    tags = dict.fromkeys(sisec18.CEILINGS, " (oracle)") | {sisec18.FLOOR: " (mixture)"}
    reference = [
        _Row(
            name + tags.get(name, ""),
            {target: _format(by_target.get(target)) for target in comparison.targets},
            {},
            frozenset(),
        )
        for name, by_target in comparison.reference.items()
    ]
    return [*sections, (_REFERENCE, reference)] if reference else sections


def _row(name: str, comparison: Comparison) -> _Row:
    """Return the line of a method."""
    cells: dict[str, Cell] = comparison.cells[name]
    return _Row(
        name + _tags(comparison)[name],
        {target: _value(cells.get(target)) for target in comparison.targets},
        {target: cell.interval for target, cell in cells.items() if not math.isnan(cell.interval.low)},
        frozenset(target for target, cell in cells.items() if cell.best),
    )


def _value(cell: Cell | None) -> str:
    """Return what a method scores, with a dagger where it cannot stand beside the others in its column."""
    return _format(None) if cell is None else _format(cell.value) + (_DAGGER if cell.apart else "")


def _tags(comparison: Comparison) -> dict[str, str]:
    """Return by method what follows its name: what kind of bound it is, if it is one."""
    return {method.name: f" ({method.bound})" if method.bound else "" for method in comparison.methods}


def _legend(comparison: Comparison, mark: str) -> list[str]:
    """Return how the table of methods is to be read; `mark` says how the best are marked."""
    cells = [cell for by_target in comparison.cells.values() for cell in by_target.values()]
    lines = []
    if not all(math.isnan(cell.interval.low) for cell in cells):
        lines.append("in brackets: the 95 % bootstrap interval over tracks")
    if any(cell.apart for cell in cells):
        lines.append(
            f"{_DAGGER}: scored otherwise than the first above it, and ranked apart: see the differences above"
        )
    if any(cell.best for cell in cells):
        lines.append(f"{mark}: significantly better than all others that it is ranked with")
    elif any(p < stats.LEVEL for ranking in comparison.rankings for p in ranking.p_values.values()):
        lines.append("none is significantly better than all others that it is ranked with")
    elif comparison.rankings:
        lines.append("no difference is significant")
    return lines


def _pair_lines(comparison: Comparison) -> dict[str, list[list[str]]]:
    """Return the comparison of each method with its baseline: under a title for both, a line for each target."""
    tables: dict[str, list[list[str]]] = {}
    for name, by_target in comparison.pairs.items():
        for target, pair in by_target.items():
            baseline = comparison.baselines[name][target]
            tables.setdefault(f"{name} against {baseline}", []).append(
                [
                    target,
                    _format(pair.difference, sign=True),
                    _bracket(pair.interval, "+.2f"),
                    f"{pair.wins}/{pair.ties}/{pair.losses}",
                    _format_p(comparison.find_p(target, name, baseline)),
                    "-" if math.isnan(pair.resolvable) else f"{pair.resolvable:.2f}",
                ]
            )
    return tables


def _friedman_lines(comparison: Comparison) -> list[str]:
    """Return the tests of three or more methods at once."""
    lines = []
    for ranking in comparison.rankings:
        if (test := ranking.friedman) is not None:
            equals = "" if test.p_value < _LEAST_P else "= "
            ranks = zip(ranking.methods, test.mean_ranks, strict=True)
            lines.append(
                f"{ranking.target}: Friedman's test of {len(ranking.methods)} methods, {test.nb_tracks} tracks: "
                f"p {equals}{_format_p(test.p_value)}; mean ranks: "
                + ", ".join(f"{name} {rank:.2f}" for name, rank in ranks)
            )
    return lines


def _change_lines(comparison: Comparison) -> dict[str, list[list[str]]]:
    """Return the tracks that gain or lose most: under a title for a method and its baseline, a line for each track."""
    tables: dict[str, list[list[str]]] = {}
    for name, changes in comparison.changes.items():
        for change in changes:
            title = f"{name} against {comparison.baselines[name][change.target]}"
            values = (_format(change.baseline), _format(change.value), _format(change.difference, sign=True))
            tables.setdefault(title, []).append([change.target, change.track, *values])
    return tables


def _format(value: float | None, *, sign: bool = False) -> str:
    """Return dB as text; what is not there is a dash."""
    if value is None or value != value:
        return "-"
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def _bracket(interval: stats.Interval, style: str = ".2f") -> str:
    """Return an interval as text, a dash where there is none."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return "-"
    return f"[{interval.low:{style}} {interval.high:{style}}]"


def _format_p(p: float) -> str:
    """Return a probability as text."""
    return "-" if p != p else f"< {_LEAST_P}" if p < _LEAST_P else f"{p:.3f}"


def _markdown_head(*columns: str, nb_texts: int = 1) -> list[str]:
    """Return the first two lines of a table."""
    ruler = "---|" * nb_texts + "---:|" * (len(columns) - nb_texts)
    return [f"| {' | '.join(map(_markdown, columns))} |", f"|{ruler}"]


def _markdown(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", printable(text)).replace("&", "&amp;")


def _latex(text: str) -> str:
    """Return text that LaTeX sets as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in printable(text))


def _minus(cell: str) -> str:
    """Return a cell with LaTeX's minus sign and dagger."""
    cell = cell.replace(_DAGGER, r"$^\dagger$")
    return cell.replace("-", "$-$") if re.search(r"-\d", cell) else cell.replace("-inf", r"$-\infty$")
