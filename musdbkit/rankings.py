"""How scored methods stand to each other: their ranks on each target, and the tests among them.

Reads values of tracks and methods from `methods`. Writes nothing.

Conventions: values are in dB. Methods are ranked together where they were scored alike: in one group of protocols and,
for a target, in the same scenario and on the same tracks. A difference is significant where the p of the paired test,
after Holm's correction for all pairs that are ranked together on that target, is below `stats.LEVEL`, and of three or
more methods Friedman's p, too. Targets are tested each by itself: with five targets and no difference at all, one in
four tables shows one. Oracles are bounds and have no rank beside methods.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musdbkit import stats
from musdbkit.methods import Method

if TYPE_CHECKING:
    from pandas import Series

Values: TypeAlias = dict[str, dict[str, "Series"]]
"""By method and target, the value of each track that was scored, nan where it has none."""


@dataclass(frozen=True)
class Ranking:
    """Methods that were scored alike on a target, and the tests among them.

    Attributes
    ----------
    target : what was scored.
    methods : their names, in the order given.
    p_values : of each pair of methods, Wilcoxon's signed-rank test with Holm's correction for all of these pairs.
    friedman : of three or more methods; None of two.
    """

    target: str
    methods: tuple[str, ...]
    p_values: dict[tuple[str, str], float]
    friedman: stats.Friedman | None

    def find_p(self, first: str, second: str) -> float:
        """Return the p of a pair, in any order."""
        return self.p_values.get((first, second), self.p_values.get((second, first), float("nan")))


@dataclass(frozen=True)
class Standing:
    """How methods stand to each other.

    Attributes
    ----------
    rankings : of each target, where at least two methods were scored alike.
    baselines : by method and target, the method to compare it with: the first that was scored alike and is no bound,
        of bounds the floor.
    ranks : by method and target, from 1 for the greatest value.
    apart : methods and targets that were scored otherwise than by the first method of the group that has the target.
    best : methods and targets where one is significantly better than all others that it is ranked with.
    notes : where values and tests of tracks disagree.
    """

    rankings: list[Ranking]
    baselines: dict[str, dict[str, str]]
    ranks: dict[tuple[str, str], int]
    apart: list[tuple[str, str]]
    best: list[tuple[str, str]]
    notes: list[str]


def rank_all(
    groups: Sequence[Sequence[Method]],
    targets: Sequence[str],
    values: Values,
    scenarios: dict[str, dict[str, str]],
    aggregation: str,
    together: bool,
) -> Standing:
    """Return how methods stand to each other.

    Parameters
    ----------
    groups : methods that were scored under the same protocol, together.
    targets : in the order to rank them.
    values : of each track.
    scenarios : by method and target, see `Method.find_scenarios`.
    aggregation : one of `scores.AGGREGATIONS`, by which values are summed up.
    together : whether to rank methods of a group together whatever the scenario and tracks.
    """
    standing = Standing([], {method.name: {} for group in groups for method in group}, {}, [], [], [])
    for group in groups:
        for target, i, alike in _find_alike(group, targets, values, scenarios, together):
            standing.apart.extend((method.name, target) for method in alike if i)
            first = min(alike, key=lambda method: (None, "floor", "ceiling").index(method.bound))
            for method in alike:
                if method is not first:
                    standing.baselines[method.name][target] = first.name
            ranked = [method.name for method in alike if not method.bound]
            names = [name for name in ranked if values[name][target].notna().any()]
            if len(names) < 2:
                continue
            ranking = _rank(target, names, [values[name][target] for name in names])
            standing.rankings.append(ranking)
            order = sorted(names, key=lambda name: -sum_up(values[name][target], aggregation))
            standing.ranks.update({(name, target): i + 1 for i, name in enumerate(order)})
            ahead = {
                other: stats.estimate_difference(*align_tracks(values[order[0]][target], values[other][target]))[0]
                for other in order[1:]
            }
            if _is_best(order[0], ahead, ranking):
                standing.best.append((order[0], target))
            standing.notes.extend(
                f"{target}: {order[0]} has the higher {statistic_of(aggregation)}, but track by track {other} is "
                "significantly better"
                for other, difference in ahead.items()
                if difference < 0 and ranking.find_p(order[0], other) < stats.LEVEL
            )
    return standing


def keep_common(values: Values, targets: Sequence[str]) -> tuple[Values, list[str]]:
    """Return of each target only the tracks that all methods with that target have, and what was left out."""
    common = {
        target: frozenset[str].intersection(*(frozenset(of[target].index) for of in values.values() if target in of))
        for target in targets
    }
    cut = [
        target
        for target in targets
        if any(len(of[target]) > len(common[target]) for of in values.values() if target in of)
    ]
    kept = {name: {t: each[each.index.isin(common[t])] for t, each in of.items()} for name, of in values.items()}
    numbers = {len(common[target]) for target in targets}
    if not cut:
        return kept, []
    listed = ", ".join(f"{target} {len(common[target])}" for target in targets)
    if len(numbers) == 1:
        listed = str(numbers.pop())
    return kept, [f"only tracks that all have are counted: {listed}"]


def statistic_of(aggregation: str) -> Literal["median", "mean"]:
    """Return what an aggregation takes over tracks."""
    return "median" if aggregation == "sisec18" else "mean"


def sum_up(values: "Series", aggregation: str) -> float:
    """Return the value of a method, nan where no track has one."""
    known = values.dropna()
    if known.empty:
        return math.nan
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        return float(known.median() if statistic_of(aggregation) == "median" else known.mean())


def align_tracks(*columns: "Series") -> list[NDArray[np.float64]]:
    """Return the values of all tracks that any of the columns has, nan where one has it not."""
    import pandas as pd

    return list(pd.concat(columns, axis="columns").to_numpy().T)


def _find_alike(
    group: Sequence[Method],
    targets: Sequence[str],
    values: Values,
    scenarios: dict[str, dict[str, str]],
    together: bool,
) -> Iterator[tuple[str, int, list[Method]]]:
    """Yield targets with the methods that scored them in one scenario and on the same tracks, numbered from 0.

    On request it may be any scenario, and tracks are those that all have.
    """
    for target in targets:
        by_kind: dict[object, list[Method]] = {}
        for method in group:
            if target in values[method.name]:
                kind = (scenarios[method.name][target], frozenset(values[method.name][target].index))
                by_kind.setdefault(None if together else kind, []).append(method)
        for i, alike in enumerate(by_kind.values()):
            yield target, i, alike


def _rank(target: str, names: list[str], columns: list["Series"]) -> Ranking:
    """Return the tests among methods that were scored alike."""
    values = np.stack(align_tracks(*columns), axis=1)
    p_values = stats.compare_all(values)
    return Ranking(
        target=target,
        methods=tuple(names),
        p_values={(names[i], names[k]): float(p_values[i, k]) for i, k in combinations(range(len(names)), 2)},
        friedman=stats.friedman(values) if len(names) > 2 else None,
    )


def _is_best(name: str, ahead: dict[str, float], ranking: Ranking) -> bool:
    """Return whether a method is significantly better than all the others, by `stats.TIE_DB` or more."""
    if ranking.friedman is not None and not ranking.friedman.p_value < stats.LEVEL:
        return False
    return all(
        difference >= stats.TIE_DB and ranking.find_p(name, other) < stats.LEVEL for other, difference in ahead.items()
    )
