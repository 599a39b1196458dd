"""Who is best needs every test; how methods are ranked is tested with `compare`, on folders of scores."""

import math
from dataclasses import replace

from musdbkit import stats
from musdbkit.rankings import Ranking, _is_best


def test_best_needs_every_test_and_more_than_a_tie() -> None:
    friedman = stats.Friedman(50, 9.0, 0.01, (1.0, 2.0, 3.0))
    ranking = Ranking("vocals", ("a", "b", "c"), {("a", "b"): 0.5, ("a", "c"): 0.04, ("b", "c"): 0.0}, friedman)
    ahead = {"a": 0.01, "b": 1.0}
    assert _is_best("c", ahead, ranking)
    assert not _is_best("c", ahead, replace(ranking, friedman=replace(friedman, p_value=0.05)))
    assert not _is_best("c", ahead, replace(ranking, friedman=replace(friedman, p_value=math.nan)))
    assert not _is_best("c", ahead | {"a": 0.009}, ranking)
    assert not _is_best("c", ahead, replace(ranking, p_values=ranking.p_values | {("a", "c"): 0.05}))
    assert _is_best("c", {"b": 1.0}, replace(ranking, methods=("b", "c"), friedman=None))
