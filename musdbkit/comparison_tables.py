"""A comparison as text, Markdown, LaTeX or JSON.

Reads a `compare.Comparison`. Writes nothing: what it prints or returns, others keep.

Conventions: the best method of a target is in bold, and starred in plain text, only where it is significantly better
than all others that it is ranked with. Values are in dB with three decimals.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from musdbkit import scores, stats
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
    for line in _legend(comparison):
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
    for title, row in ((title, row) for title, rows in _sections(comparison) for row in rows):
        cells = [
            (f"**{value}**" if target in row.best else value)
            + (f" {_bracket(row.intervals[target])}" if target in row.intervals else "")
            for target, value in row.values.items()
        ]
        name = f"{row.name} ({title})" if title else row.name
        lines.append(f"| {' | '.join([_markdown(name), *cells])} |")
    lines += ["", *map(_markdown, _legend(comparison))]
    for title, rows in _pair_lines(comparison).items():
        lines += ["", f"{_markdown(title)}, track by track:", "", *_markdown_head(*_PAIR_COLUMNS)]
        lines += [f"| {' | '.join(map(_markdown, cells))} |" for cells in rows]
    if any(comparison.pairs.values()):
        lines += ["", _markdown(_PAIR_LEGEND)]
    for title, rows in _change_lines(comparison).items():
        head = _markdown_head(*_CHANGE_COLUMNS, nb_texts=2)
        lines += ["", f"{_markdown(title)}, largest gains and losses:", "", *head]
        lines += [f"| {' | '.join(map(_markdown, cells))} |" for cells in rows]
    lines += ["", *(f"- {_markdown(line)}" for line in (*_friedman_lines(comparison), *comparison.notes))]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(comparison: Comparison) -> str:
    """Return the table of methods as a LaTeX tabular, for `booktabs`, with what it says as comments above it."""
    lines = [f"% {printable(line)}" for line in (*_head(comparison), *comparison.notes)]
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

    return {
        "metric": comparison.metric,
        "aggregation": comparison.aggregation,
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
                    "tracks": len(method.protocol.tracks),
                },
                "targets": plain(comparison.cells[method.name]),
                "against": {
                    target: {"baseline": baseline, **plain(comparison.pairs[method.name][target])}
                    for target, baseline in comparison.baselines[method.name].items()
                },
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
                "p_values": [[*pair, plain(p)] for pair, p in ranking.p_values.items()],
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
    f"difference: the median of the tracks' differences; W/T/L: tracks won, tied (by {stats.TIE_DB:g} dB) and lost; "
    "p: Wilcoxon's signed-rank test, after Holm's correction for all pairs ranked; resolvable: the smallest difference "
    "that this test finds on 50 such tracks in four of five cases"
)
_CHANGE_COLUMNS: Final = ("target", "track", "from", "to", "change")


def _head(comparison: Comparison) -> list[str]:
    """Return what is compared, and in what the protocols differ."""
    name = comparison.aggregation
    lines = [f"{comparison.metric}, {name}: {scores.AGGREGATIONS[name]}"]
    for field, by_value in comparison.differences.items():
        lines.append(f"{field} differs: " + "; ".join(f"{', '.join(of)}: {value}" for value, of in by_value.items()))
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
    reference = [
        _Row(name, {target: _format(by_target.get(target)) for target in comparison.targets}, {}, frozenset())
        for name, by_target in comparison.reference.items()
    ]
    return [*sections, (_REFERENCE, reference)] if reference else sections


def _row(name: str, comparison: Comparison) -> _Row:
    """Return the line of a method."""
    cells: dict[str, Cell] = comparison.cells[name]
    return _Row(
        name,
        {target: _format(cells[target].value if target in cells else None) for target in comparison.targets},
        {target: cell.interval for target, cell in cells.items() if cell.nb_tracks > 1},
        frozenset(target for target, cell in cells.items() if cell.best),
    )


def _legend(comparison: Comparison) -> list[str]:
    """Return how the table of methods is to be read."""
    lines = ["in brackets: the 95 % bootstrap interval over tracks"]
    if any(cell.best for by_target in comparison.cells.values() for cell in by_target.values()):
        lines.append("best: significantly better than all others that it is ranked with, after Holm's correction")
    elif comparison.rankings:
        lines.append("none is significantly better than all others that it is ranked with")
    return lines


def _pair_lines(comparison: Comparison) -> dict[str, list[list[str]]]:
    """Return the comparison of each method with its baseline: under a title for both, a line for each target."""
    rankings = {(ranking.target, name): ranking for ranking in comparison.rankings for name in ranking.methods}
    tables: dict[str, list[list[str]]] = {}
    for name, by_target in comparison.pairs.items():
        for target, pair in by_target.items():
            baseline = comparison.baselines[name][target]
            ranking = rankings.get((target, name))
            tables.setdefault(f"{name} against {baseline}", []).append(
                [
                    target,
                    _format(pair.difference, sign=True),
                    _bracket(pair.interval, "+.2f"),
                    f"{pair.wins}/{pair.ties}/{pair.losses}",
                    _format_p(ranking.find_p(name, baseline) if ranking else math.nan),
                    _format(pair.resolvable),
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
    """Return an interval as text."""
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
    """Return a cell with a minus sign for its hyphen."""
    return cell.replace("-", "$-$") if re.search(r"-\d", cell) else cell.replace("-inf", r"$-\infty$")
