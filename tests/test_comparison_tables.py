"""A comparison in each format: the right numbers, bold only where it is earned, names as they are."""

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from musdbkit import comparison_tables as tables
from musdbkit import musdb18
from musdbkit.compare import Comparison, compare
from musdbkit.methods import load_methods
from tests.museval_json import write_submission, write_track, write_values
from tests.test_methods import MIX, write_ours

HOSTILE = '<img src=x onerror=alert(1)> & "friends" | 100 % $x_1$ \\b [bold]'


def text_of(comparison: Comparison, width: int = 100) -> str:
    file = io.StringIO()
    tables.print_text(comparison, Console(file=file, width=width))
    return file.getvalue()


@pytest.fixture
def three(tmp_path: Path) -> Comparison:
    """Three methods, of which b is best on vocals and none on drums."""
    rng = np.random.default_rng(0)
    base = rng.normal(5, 3, (50, 2))
    for name, ahead in (("a", 0.0), ("b", 1.0), ("c", 0.3)):
        values = base + np.array([ahead, 0]) + rng.normal(0, 0.4, (50, 2))
        write_values(
            tmp_path / name,
            {
                track: {"vocals": vocals, "drums": drums}
                for track, (vocals, drums) in zip(musdb18.TEST_TRACKS, values, strict=True)
            },
        )
    return compare(load_methods([tmp_path / name for name in "abc"]), nb_changes=1)


def test_text_shows_values_stars_and_tests(three: Comparison) -> None:
    text = text_of(three)
    value = f"{three.cells['b']['vocals'].value:.3f}"
    assert f"*{value}" in text
    assert text.count("*") == 2  # and the legend
    assert f"{three.cells['a']['drums'].value:.3f}" in text
    assert "*: significantly better than all others" in text
    assert "b against a, track by track:" in text
    pair = three.pairs["b"]["vocals"]
    assert re.search(rf"vocals +\{pair.difference:+.3f} .*{pair.wins}/{pair.ties}/{pair.losses} +< 0\.001", text)
    assert "vocals: Friedman's test of 3 methods, 50 tracks: p < 0.001; mean ranks: a 2." in text
    assert "c against a, largest gains and losses:" in text
    assert "arXiv:1804.06267" in text
    assert "\ntracks: 50\n" in text
    assert re.search(r"^ MIX \(mixture\) +1\.124", text, re.MULTILINE)
    assert re.search(r"^ IRM2 \(oracle\) +9\.431 +8\.454", text, re.MULTILINE)


def test_bounds_are_marked_and_counts_of_tracks_are_shown(tmp_path: Path) -> None:
    write_ours(tmp_path / "mix", ("A", "B"), separation=MIX)
    write_ours(tmp_path / "a", ("A", "B"))
    write_ours(tmp_path / "b", ("A",))
    comparison = compare(load_methods([tmp_path / name for name in ("mix", "a", "b")]))
    text = text_of(comparison)
    assert re.search(r"^ mix \(floor\) +1\.000", text, re.MULTILINE)
    assert "| mix (floor) | 1.000 |" in tables.to_markdown(comparison)
    assert "tracks: 2 (mix, a), 1 (b)" in text
    assert "tracks differ: mix, a: 2 tracks; b: 1 track, without B" in text
    assert "mix against a, track by track:" in text
    assert "nan" not in text


@pytest.mark.parametrize("width", [80, 100])
def test_lines_of_tables_fit(tmp_path: Path, width: int) -> None:
    for name in ("TAK1", "UHL3"):
        write_submission(tmp_path / name, name)
    text = text_of(compare(load_methods([tmp_path / name for name in ("TAK1", "UHL3")])), width)
    rows = [line for line in text.splitlines() if re.match(r" \S", line)]
    assert len(rows) > 40
    assert max(map(len, rows)) <= width
    assert re.search(r"^ TAK1 +6\.600 +6\.431 +5\.156 +4\.152 +12\.834", text, re.MULTILINE)


def test_markdown_is_a_table_with_bold_best(three: Comparison) -> None:
    lines = tables.to_markdown(three).splitlines()
    assert "| method | vocals | drums |" in lines
    assert "|---|---:|---:|" in lines
    (row,) = [line for line in lines if line.startswith("| b |")]
    assert re.fullmatch(rf"\| b \| \*\*{three.cells['b']['vocals'].value:.3f}\*\* \[.* .*\] \| [0-9.]+ \[.*\] \|", row)
    assert sum("**" in line for line in lines) == 1
    assert "| TAK1 | 6.600 | 6.431 |" in lines
    assert "| *SiSEC 2018* | | |" in lines
    for block in re.findall(r"(?:^\|.*\n)+", "\n".join(lines) + "\n", re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_latex_is_a_tabular_with_bold_best(three: Comparison) -> None:
    latex = tables.to_latex(three)
    body = [line for line in latex.splitlines() if not line.startswith("%")]
    assert body[0] == r"\begin{tabular}{lrr}"
    assert body[-1] == r"\end{tabular}"
    assert latex.count(r"\textbf{") == 1
    assert rf"b & \textbf{{{three.cells['b']['vocals'].value:.3f}}} & " in latex
    assert r"\multicolumn{3}{l}{\emph{SiSEC 2018}} \\" in body
    assert r"HPLP & $-$3.050 & - \\" in body
    assert all(line.count("&") == 2 for line in body if line.endswith(r"\\") and "multicolumn" not in line)


def test_json_is_strict_and_exact(three: Comparison) -> None:
    document = json.loads(json.dumps(tables.to_json(three), allow_nan=False))
    cell, found = three.cells["b"]["vocals"], document["methods"]["b"]["targets"]["vocals"]
    assert found["value"] == cell.value
    assert found["interval"] == [cell.interval.low, cell.interval.high]
    assert (found["rank"], found["best"]) == (1, True)
    against = document["methods"]["b"]["against"]["vocals"]
    pair = three.pairs["b"]["vocals"]
    assert (against["baseline"], against["difference"]) == ("a", pair.difference)
    assert against["p_uncorrected"] == pair.p_value < against["p_holm"] == three.rankings[0].find_p("a", "b")
    assert document["targets"] == ["vocals", "drums"]
    assert document["together"] is False
    assert document["rankings"][0]["p_holm"][0] == ["a", "b", three.rankings[0].find_p("a", "b")]
    assert document["reference"]["TAK1"] == {"vocals": 6.6, "drums": 6.431}
    assert document["methods"]["a"]["protocol"]["tracks"] == 50
    assert document["methods"]["b"]["changes"][0]["track"] == three.changes["b"][0].track


def test_unlike_protocols_are_named_in_every_format(tmp_path: Path) -> None:
    for name, duration in (("a", 1.0), ("b", 2.0)):
        write_track(tmp_path / name / "test", "T", {"vocals": {"SDR": [1.0, 2.0]}}, duration=duration)
    methods = load_methods([tmp_path / "a", tmp_path / "b"])
    comparison = compare(methods)
    for output in (text_of(comparison), tables.to_markdown(comparison), tables.to_latex(comparison)):
        assert "window differs: a: 1 s; b: 2 s" in output
        assert "so they are ranked apart" in output
    assert tables.to_json(comparison)["differences"] == {"window": {"1 s": ["a"], "2 s": ["b"]}}
    together = compare(methods, together=True)
    assert "and yet they are ranked together, as asked" in text_of(together)
    assert "no difference is significant" in text_of(together)


def test_names_are_text_everywhere(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "")
    for method, value in (("a", 1.0), (f"b {name}"[:60], 2.0)):
        write_values(tmp_path / method, {f"{name}{i}": {f"vocals{name}": value} for i in range(3)})
    comparison = compare(load_methods([tmp_path / "a", tmp_path / f"b {name}"[:60]]))
    assert '<img src=x onerror=alert(1)> & "friends"' in text_of(comparison, width=300)
    assert "[bold]" in text_of(comparison, width=300)
    markdown = tables.to_markdown(comparison)
    assert r"\<img src=x onerror=alert(1)\> &amp; " in markdown
    assert not re.search(r"(?<!\\)<", markdown)
    latex = tables.to_latex(comparison)
    assert r"\textless{}img src=x onerror=alert(1)\textgreater{} \& " in latex
    assert r"100 \% \$x\_1\$ \textbackslash{}b" in latex


def test_missing_and_infinite_values_are_shown(tmp_path: Path) -> None:
    write_values(tmp_path / "a", {"T": {"vocals": math.nan}, "U": {"vocals": math.nan}})
    comparison = compare(load_methods([tmp_path / "a"]))
    assert re.search(r"^ a +-", text_of(comparison), re.MULTILINE)
    assert tables.to_json(comparison)["methods"]["a"]["targets"]["vocals"]["value"] is None
    header = "track,target,scenario,frame,metric,value\n"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "scores.csv").write_text(header + "T,vocals,alone,,uSDR,-inf\nU,vocals,alone,,uSDR,-inf\n")
    comparison = compare(load_methods([tmp_path / "b"]), metric="uSDR")
    assert re.search(r"^ b +-inf", text_of(comparison), re.MULTILINE)
    assert r"b & $-\infty$ \\" in tables.to_latex(comparison)
    assert tables.to_json(comparison)["methods"]["b"]["targets"]["vocals"]["value"] == "-inf"
