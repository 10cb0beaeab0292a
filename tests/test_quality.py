"""The arithmetic of bench/quality.py: splits, the cache, factors, and what scores can carry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.quality_cache import Cache, key_of
from bench.quality_data import PARTS, Example, part_of, split
from bench.quality_methods import (
    MARGIN,
    SETTINGS,
    STRENGTHS,
    Setting,
    change_of,
    families,
    imbalance,
    overlap,
    plus,
    strengths,
)
from bench.quality_methods import search as search_factor
from bench.quality_statistics import Bootstrap, pack, rank_correlation, ranks, unpack

ADDED = [setting for setting in SETTINGS if not setting.fixed]


def examples(count: int, group: str = "") -> list[Example]:
    return [Example(f"Text number {place}", str(place % 3), group) for place in range(count)]


def test_parts_share_no_text() -> None:
    """Every text is in one part, texts that differ in case and spacing alone in the same, in about the right shares."""
    repeated = [Example(each.text.upper().replace(" ", "  "), each.label) for each in examples(500)]
    task = split("made up", iter(examples(2000) + repeated))
    texts = [{each.text.lower().replace("  ", " ") for each in part} for part in task.parts.values()]
    assert 2000 == sum(map(len, texts)) == len(set.union(*texts))
    assert ("0", "1", "2") == task.classes
    shares = np.array([len(part) for part in task.parts.values()]) / 2000
    assert np.abs(shares - list(PARTS.values())).max() < 0.04


def test_a_group_stays_together() -> None:
    """Sentences of one review are all in one part, and other texts of a set decide nothing about a text's part."""
    assert 1 == len({part_of(each) for each in examples(50, "review 7")})
    some = split("made up", iter(examples(100)))
    more = split("made up", iter(examples(1000)))
    for part in PARTS:
        assert set(some.parts[part]) <= set(more.parts[part])


def test_draws_depend_on_the_seed_alone() -> None:
    """A seed draws the same texts again, another one others, and no test text twice as long as there are enough."""
    task = split("made up", iter(examples(2000)))
    for part in PARTS:
        assert task.draw(part, 30, 1) == task.draw(part, 30, 1)
        assert task.draw(part, 30, 1) != task.draw(part, 30, 2)
        assert set(task.draw(part, 30, 1)) <= set(task.parts[part])
    drawn = [each for seed in range(5) for each in task.draw("test", 90, seed)]
    assert 450 == len(drawn) == len(set(drawn))
    assert len(task.parts["test"]) == len(set(task.draw("test", 10_000, 0)))


def test_keys_are_of_contents() -> None:
    """The order of names does not matter to a key; every value does."""
    assert key_of(a=1, b=[2.0]) == key_of(b=[2.0], a=1)
    assert 4 == len({key_of(a=1, b=[2.0]), key_of(a=1, b=[2.1]), key_of(a="1", b=[2.0]), key_of(a=1, c=[2.0])})


def test_scores_outlive_a_crash(tmp_path: Path) -> None:
    """What was found is not made again, also after a crash that has cut the last line short."""
    made: list[int] = []

    def make(value: int) -> Callable[[], int]:
        return lambda: made.append(value) or value  # type: ignore[func-returns-value]

    with Cache(tmp_path) as first:
        assert [1, 2] == [first.get(make(each), what=each) for each in (1, 2)]
    with (tmp_path / "scores.jsonl").open("r+b") as file:
        file.truncate((tmp_path / "scores.jsonl").stat().st_size - 5)
    with Cache(tmp_path) as again:
        assert [1, 2, 3] == [again.get(make(each), what=each) for each in (1, 2, 3)]
    assert [1, 2, 2, 3] == made
    with Cache(tmp_path) as last:
        assert [1, 2, 3] == [last.get(lambda: None, what=each) for each in (1, 2, 3)]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """A second run in the same folder is refused until the first one is done."""
    with Cache(tmp_path), pytest.raises(SystemExit, match="in use by another run"):
        Cache(tmp_path)
    with Cache(tmp_path):
        pass


def test_a_model_that_is_half_written_is_none(tmp_path: Path) -> None:
    """A file gets its name when it is complete: what was interrupted is made again."""

    def fail(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with Cache(tmp_path) as cache:
        with pytest.raises(KeyboardInterrupt):
            cache.file(".txt", fail, task="a")
        assert "whole" == cache.file(".txt", lambda path: path.write_text("whole"), task="a").read_text()
        assert "whole" == cache.file(".txt", fail, task="a").read_text()


@pytest.fixture(scope="module")
def family() -> list[dict[str, torch.Tensor]]:
    """Make a base and three fine-tunes of a matrix and a vector."""
    random = torch.Generator().manual_seed(0)
    base = {"a.weight": torch.randn(16, 64, generator=random), "a.bias": torch.randn(64, generator=random)}
    return [base] + [
        {name: each + 0.1 * torch.randn(each.shape, generator=random) for name, each in base.items()} for _ in range(3)
    ]


@pytest.mark.parametrize("setting", ADDED, ids=lambda setting: setting.name)
def test_a_factor_scales_the_change(family: list[dict[str, torch.Tensor]], setting: Setting) -> None:
    """A merge with a factor is the base plus that factor times the change without one, for every method."""
    base, *models = family
    direct = setting.method in ("nm_pruning", "cabs")  # these have no lambda: the weight is the factor
    once = change_of(setting, base, models)
    factored = change_of(setting, base, models, 1.5) if direct else change_of(setting, base, models, **{"lambda": 1.5})
    expected = plus(base, [factored], [1.0])
    for name, tensor in plus(base, [once], [1.5]).items():
        assert float(once[name].abs().max()) > 0
        torch.testing.assert_close(expected[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["task arithmetic", "CABS 3:32", "CABS 64:256"])
def test_parts_of_models_add_up(family: list[dict[str, torch.Tensor]], name: str) -> None:
    """With a weight for each model, the change is the sum of the models' own parts, each times its weight."""
    base, *models = family
    setting = next(each for each in SETTINGS if each.name == name)
    parts = [change_of(setting, base, models, row) for row in np.eye(3).tolist()]
    weights = [0.5, 1.5, 0.8]
    expected = plus(base, [change_of(setting, base, models, weights)], [1.0])
    for tensor, each in plus(base, parts, weights).items():
        torch.testing.assert_close(expected[tensor], each, rtol=0, atol=1e-5)


def test_methods_try_equally_many_factors() -> None:
    """The settings of every method share the same number of factors."""
    for settings in families().values():
        if not settings[0].fixed:
            assert len(STRENGTHS) == sum(len(strengths(setting)) for setting in settings)


def test_the_search_stops_where_there_is_no_hope() -> None:
    """The best value of the grid is found, equal accuracies are told apart by loss, and far slopes are left alone."""
    grid = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    accuracies = {value: 0.9 - 1.5 * MARGIN * abs(value - 3.4) for value in grid}
    best, tried = search_factor(lambda value: (accuracies[value], 0.0), grid)
    assert 3.0 == best
    assert {value: accuracies[value] for value in (2.0, 3.0, 4.0, 5.0, 6.0)} == tried
    assert 7.0 == search_factor(lambda value: (0.5, abs(value - 7)), grid)[0]


def test_what_is_kept_is_described() -> None:
    """Overlap is the mean share that another model keeps too; imbalance the spread of counts over blocks."""
    one = {"a": np.array([True, True, False, False])}
    other = {"a": np.array([True, False, False, False])}
    assert (1 / 2 + 1 / 1) / 2 == overlap([one, other])
    assert 0.0 == imbalance({"a": np.tile(one["a"], 8)}, block=4)
    assert 1 / 3 == pytest.approx(imbalance({"a": np.repeat([True, True, False, True], 4)[:16]}, block=8))


def cells(accuracies: list[list[dict[str, float]]], texts: int) -> list[list[dict[str, Any]]]:
    """Make answers of which the first ones are right."""
    return [
        [{name: np.arange(texts) < round(each * texts) for name, each in cell.items()} for cell in row]
        for row in accuracies
    ]


def test_intervals_are_those_of_the_binomial() -> None:
    """With one seed and two tasks the interval is about 1.96 standard errors of a mean of two proportions."""
    found = Bootstrap(cells([[{"a": 0.7, "b": 0.7}, {"a": 0.4, "b": 0.5}]], 2000))
    error = np.sqrt(0.7 * 0.3 / 2000 + 0.4 * 0.6 / 2000) / 2
    interval = found.accuracy("a")
    assert 0.55 == pytest.approx(interval.mean)
    assert 2 * 1.96 * error == pytest.approx(interval.high - interval.low, rel=0.1)
    # b has 200 more texts of the second task right, and is otherwise the same: a paired difference.
    error = np.sqrt(0.1 * 0.9 / 2000) / 2
    interval = found.difference("b", "a")
    assert 0.05 == pytest.approx(interval.mean)
    assert 2 * 1.96 * error == pytest.approx(interval.high - interval.low, rel=0.1)


def test_seeds_that_differ_widen_the_interval() -> None:
    """Seeds are drawn too: if half of them are all right and half all wrong, the interval is that of the seeds."""
    found = Bootstrap(cells([[{"a": float(seed % 2)}] for seed in range(8)], 500))
    error = np.sqrt(0.25 / 8)
    interval = found.accuracy("a")
    assert 0.5 == interval.mean
    assert 2 * 1.96 * error == pytest.approx(interval.high - interval.low, rel=0.2)


def test_wins_count_cells() -> None:
    """A win is a seed and task in which a method is more accurate; draws count half."""
    found = Bootstrap(
        cells([[{"a": 0.5, "b": 0.4}, {"a": 0.5, "b": 0.5}], [{"a": 0.1, "b": 0.2}, {"a": 1, "b": 0}]], 10)
    )
    assert (2 + 0.5) / 4 == found.wins("a", "b")
    assert 1.0 == found.wins("a", "b") + found.wins("b", "a")


def test_answers_survive_packing() -> None:
    """What is written to JSON is read again, for any number of texts."""
    for texts in (1, 8, 13):
        correct = np.random.default_rng(texts).random(texts) < 0.5
        assert correct.tolist() == unpack(pack(correct)).tolist()


def test_ranks_share_what_is_equal() -> None:
    """Equal values have the mean of their ranks, and the correlation of ranks knows only the order."""
    assert [1.0, 2.5, 0.0, 2.5] == ranks([3, 7, -1, 7]).tolist()
    assert 1.0 == pytest.approx(rank_correlation([1, 2, 30], [0.1, 0.5, 0.6]))
    assert -0.5 == pytest.approx(rank_correlation([1, 2, 3], [2, 3, 1]))
