"""Ranks are found the same whether a sample leads to them or their digits are counted, and whatever a sample says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.bracket import ABOVE, HIGH, LOW, NONZERO, count_bracket, count_changes
from dovetail.engine.kernels.convert import F32
from dovetail.engine.methods import gathering, sample, selection
from dovetail.engine.methods.decoding import read_only
from dovetail.engine.methods.program import Chunk
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.methods.sample import LEAST_LENGTH, MOST_ELEMENTS, Sample, run_elements, runs, sample_elements
from dovetail.engine.methods.selection import BRACKET, FIRST_DIGIT, PASSES, SAMPLE, Search
from dovetail.engine.methods.threshold import KEEP_ALL, KEEP_NONE, Rules
from tests.engine.kernels.cases import JITTED, examples, make_values, sources
from tests.engine.kernels.drive import bits, run_program
from tests.engine.methods.probing import describe

Floats = NDArray[np.float32]

SIZE = 900 if JITTED else 150
"""Elements of a tensor that is searched several times."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let small tensors be sampled, by a few short runs."""
    for name, value in (("RUN", 4), ("LEAST_LENGTH", 40), ("_LEAST_RUNS", 5), ("_ELEMENTS_PER_RUN", 30)):
        monkeypatch.setattr(sample, name, value)
    monkeypatch.setattr(Search, "_most_bytes", property(lambda self: selection.GATHERED_BYTES))
    runs.cache_clear()
    yield
    runs.cache_clear()


def search(
    values: Floats, ranks: Any, cuts: Sequence[int] = (), *, sampled: bool = True, exactly: bool = False
) -> tuple[Rules, list[int]]:
    """Search as the engine does; give the rules, and the passes that read anything."""
    wanted = ranks(values.size) if callable(ranks) else ranks
    how = Search(values.size, len(wanted), sampled, exactly)
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < values.size), values.size]
    room, rules, made = np.empty(values.size, np.uint32), (), []
    for step in range(PASSES):
        reads = how.reads(step, (rules,))
        if reads is not None and not reads:
            continue
        made.append(step)
        accumulator = how.begin(step)
        parts = [values[start:stop] for start, stop in pairwise(edges)]
        if reads:
            parts = [np.concatenate([values[start:stop] for start, stop in reads])]
        for part in parts:
            counter = how.counter(step, rules, room)
            for start in range(0, max(1, part.size), 37):
                counter.add(part[start : start + 37])
            accumulator = how.fold(step, accumulator, counter.counts)
        rules = how.finish(step, accumulator, ranks, rules)
    assert all(rule.final for rule in rules)
    return rules, made


def kept(values: Floats, rule: Any, cuts: Sequence[int]) -> list[int]:
    """Give the elements that a rule keeps."""
    if rule == KEEP_NONE:
        return []
    magnitudes = values.view(np.uint32) & 0x7FFFFFFF
    if rule == KEEP_ALL:
        return np.flatnonzero(magnitudes).tolist()
    equal = np.flatnonzero(magnitudes == rule.threshold)
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < values.size)]
    assert tuple(int((equal < edge).sum()) for edge in edges) == rule.before
    return sorted([*np.flatnonzero(magnitudes > rule.threshold).tolist(), *equal[: rule.ties].tolist()])


def strongest(values: Floats, rank: int) -> list[int]:
    """Sort to find the strongest elements, equal ones by index, zeros never."""
    magnitudes = (values.view(np.uint32) & 0x7FFFFFFF).astype(np.int64)
    order = np.lexsort((np.arange(values.size), -magnitudes))
    return sorted(index for index in order[:rank].tolist() if magnitudes[index])


def _spikes(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    values = random.standard_normal(size) * 1e-3
    values[::50] = 1e6
    return values


SHAPES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda random, size: random.standard_normal(size),
    "equal": lambda random, size: np.full(size, -0.5),
    "two": lambda random, size: random.choice([0.25, -0.5], size),
    "zeros": lambda random, size: np.zeros(size),
    "mostly zeros": lambda random, size: np.where(random.random(size) < 0.9, -0.0, random.standard_normal(size)),
    "ascending": lambda random, size: np.arange(size) / size,
    "descending": lambda random, size: -np.arange(size)[::-1] / size,
    "ties": lambda random, size: random.integers(-3, 4, size) / 8,
    "spikes": _spikes,
    "in a row": lambda random, size: np.where(np.arange(size) < size // 20, 100.0, random.standard_normal(size)),
    "denormal": lambda random, size: random.standard_normal(size) * 1e-40,
    "nan": lambda random, size: np.where(random.random(size) < 0.1, np.nan, random.standard_normal(size)),
    "infinite": lambda random, size: np.where(random.random(size) < 0.1, -np.inf, random.standard_normal(size)),
}
"""Values that samples tell much, little, or the wrong thing about."""


@pytest.mark.parametrize("shape", SHAPES)
@settings(derandomize=True, deadline=None, max_examples=examples(30))
@given(data=st.data())
def test_ranks_are_those_of_sorting(shape: str, data: st.DataObject) -> None:
    """Every rank picks what sorting picks, with a sample or without, and both ways give the same rule."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = data.draw(st.sampled_from([1, 39, 40, 41, 64, *([300, 1500] if JITTED else [150])]))
    values = SHAPES[shape](random, size).astype(np.float32)
    ranks = data.draw(st.lists(st.integers(0, size) | st.sampled_from([0, size]), min_size=1, max_size=3))
    cuts = data.draw(st.lists(st.integers(0, size), max_size=4))
    found, _ = search(values, ranks, cuts)
    assert search(values, ranks, cuts, sampled=False)[0] == found
    for rank, rule in zip(ranks, found, strict=True):
        assert strongest(values, rank) == kept(values, rule, cuts)


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_ranks_and_those_of_what_is_not_zero(shape: str) -> None:
    """Both kinds of search come to the same rules with a sample and without; ranks may depend on how many are zero."""
    random = np.random.default_rng(5)
    values = SHAPES[shape](random, SIZE).astype(np.float32)
    cuts = SIZE // 3, SIZE // 3 + 11
    for ranks, exactly in (
        ((SIZE // 4, SIZE // 2, SIZE), True),
        ((1, SIZE * 2 // 3, SIZE - 1), True),
        (lambda nonzero: (nonzero * 3 // 10,), False),
    ):
        found = [search(values, ranks, cuts, sampled=sampled, exactly=exactly)[0] for sampled in (True, False)]
        assert found[0] == found[1]


def test_what_no_sample_shows_is_counted() -> None:
    """A rank that depends on how many are not zero does not become 0 because the sample has zeros alone."""
    values = np.zeros(1500, np.float32)
    values[[3, 700, 1499]] = 1.0, -3.0, 2.0
    for start, stop in runs(values.size):
        values[start:stop] = 0.0
    of_nonzero: Any = lambda nonzero: ((nonzero + 1) // 2,)  # noqa: E731
    nonzero = int(np.count_nonzero(values))
    assert nonzero > 0
    (rule,), passes = search(values, of_nonzero, (800,))
    assert strongest(values, (nonzero + 1) // 2) == kept(values, rule, (800,))
    assert SAMPLE == passes[0]


def test_one_pass_is_enough() -> None:
    """Where the sample is good, one pass over all elements finds several ranks; without it there are three."""
    values = np.random.default_rng(1).standard_normal(1500).astype(np.float32)
    assert [SAMPLE, BRACKET] == search(values, (300, 30, 1400), (500, 900))[1]
    assert [FIRST_DIGIT, FIRST_DIGIT + 1, FIRST_DIGIT + 2] == search(values, (300,), sampled=False)[1]
    assert [FIRST_DIGIT, FIRST_DIGIT + 1, FIRST_DIGIT + 2] == search(values[:39], (3,))[1]
    assert [SAMPLE] == search(values, (0,))[1]


@pytest.mark.parametrize("bracket", [(1, 1), (1, 5), (0x7F000000, 0x7FFFFFFF), (0x3F000000, 0x3F000000)])
def test_a_bracket_that_misses_costs_passes_alone(monkeypatch: pytest.MonkeyPatch, bracket: tuple[int, int]) -> None:
    """Whatever a sample says, the rules are the same: what it missed is found digit by digit."""
    values = np.random.default_rng(2).standard_normal(SIZE).astype(np.float32)
    ranks, cuts = (SIZE // 4, SIZE * 7 // 8), (SIZE * 3 // 8,)
    expected = search(values, ranks, cuts, sampled=False)[0]
    monkeypatch.setattr(Sample, "bracket", lambda self, share: bracket)
    found, passes = search(values, ranks, cuts)
    assert expected == found
    assert [SAMPLE, BRACKET, FIRST_DIGIT, FIRST_DIGIT + 1, FIRST_DIGIT + 2] == passes


def test_one_of_two_brackets_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that is found stays as it is while another is searched for."""
    values = np.random.default_rng(3).standard_normal(800).astype(np.float32)
    expected = search(values, (200, 700), (300,), sampled=False)[0]
    good = Sample.bracket
    monkeypatch.setattr(Sample, "bracket", lambda self, share: good(self, share) if share < 0.5 else (1, 1))
    found, passes = search(values, (200, 700), (300,))
    assert (expected, 5) == (found, len(passes))


@pytest.mark.parametrize(("limit", "most"), [("GATHERED_BYTES", 80), ("MOST_OF_CHUNK", 10)])
def test_what_is_too_much_is_counted_digit_by_digit(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    """Where there is too much inside a bracket to be held, in all or in a chunk, digits are counted."""
    values = np.random.default_rng(4).standard_normal(1500).astype(np.float32)
    expected = search(values, (450,), (700,), sampled=False)[0]
    monkeypatch.setattr(Sample, "inside", lambda self, bracket: 0.0)  # the sample promises that there is little
    monkeypatch.setattr(Sample, "bracket", lambda self, share: (0x3F000000, 0x40000000))
    assert (expected, [SAMPLE, BRACKET]) == search(values, (450,), (700,))
    for module in (gathering, selection):
        monkeypatch.setattr(module, limit, most)
    assert (expected, PASSES) == (lambda found: (found[0], len(found[1])))(search(values, (450,), (700,)))
    monkeypatch.undo()


def test_many_equal_magnitudes_are_not_too_much() -> None:
    """However many elements lie inside a bracket, few different magnitudes take little room."""
    values = np.random.default_rng(5).integers(-3, 4, 100_000).astype(np.float32)
    how = Search(values.size, 1, True)
    counter = how.counter(BRACKET, (selection.Rule(0, 0, 0, bracket=(1, 0x7FFFFFFF)),), np.empty(1000, np.uint32))
    for start in range(0, values.size, 1000):
        counter.add(values[start : start + 1000])
    assert isinstance(counter.counts, tuple)
    (found,) = counter.counts
    assert (True, 3) == (found.whole, found.magnitudes.size)
    assert found.reaching is not None
    assert [int((np.abs(values) >= each).sum()) for each in (1, 2, 3, 4)] == found.reaching.tolist()


@settings(derandomize=True, deadline=None, max_examples=examples(80))
@given(data=st.data())
def test_the_kernel_counts_and_gathers(data: st.DataObject) -> None:
    """Counts above, at the edges, and of what is not zero; and all magnitudes strictly inside, in order."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    with np.errstate(all="ignore"):
        style = data.draw(st.sampled_from(["ties", "plain", "special"]))
        values = make_values(random, (data.draw(st.integers(0, 200)),), None, style).astype(np.float32)
    magnitudes = (values.view(np.uint32) & 0x7FFFFFFF).tolist()
    edges = st.sampled_from([*(each for each in magnitudes if each), 1, 0x7FFFFFFF])
    low, high = sorted((data.draw(edges), data.draw(edges)))
    inside, counts = np.empty(len(magnitudes), np.uint32), np.full(4, 7, np.int64)
    found = count_bracket(values, (low, high), inside, counts)
    assert [each for each in magnitudes if low < each < high] == inside[:found].tolist()
    expected = {ABOVE: [], HIGH: [], LOW: [], NONZERO: []}  # type: dict[int, list[int]]
    for each in magnitudes:
        for kind, fits in ((ABOVE, each > high), (HIGH, each == high), (LOW, each == low), (NONZERO, each > 0)):
            expected[kind] += [each] * fits
    assert [7 + len(expected[kind]) for kind in range(4)] == counts.tolist()
    stored = np.concatenate([np.zeros(1, np.float32), values]), np.zeros(len(values) + 1, np.float32)
    sources, codes = tuple(read_only(each.view(np.uint8)) for each in stored), np.array([F32, F32])
    twice = np.empty(len(magnitudes), np.uint32)
    with np.errstate(all="ignore"):  # without the compiler, a NaN that signals would warn
        counted = count_changes(sources, codes, 1, len(values) + 1, (low, high), twice, counts)
    assert (len(values) + 1, found) == counted
    assert inside[:found].tolist() == twice[:found].tolist()
    assert [7 + 2 * len(expected[kind]) for kind in range(4)] == counts.tolist()


def test_changes_are_counted_as_far_as_there_is_room() -> None:
    """With room for few magnitudes a call stops early, and the calls together give what one would give."""
    values = np.arange(1, 5001, dtype=np.float32) % 7
    stored = tuple(read_only(each.view(np.uint8)) for each in (np.zeros_like(values), values))
    codes, bracket = np.array([F32, F32]), (1, 0x7FFFFFFF)
    counts, room = np.zeros((2, 4), np.int64), np.empty(1500, np.uint32)
    whole = np.empty(values.size, np.uint32)
    stop, size = count_changes(stored, codes, 0, values.size, bracket, whole, counts[0])
    first, parts, calls = 0, [], 0
    while first < stop:
        first, inside = count_changes(stored, codes, first, values.size, bracket, room, counts[1])
        parts.append(room[:inside].copy())
        calls += 1
    assert 1 < calls
    assert whole[:size].tolist() == np.concatenate(parts).tolist()
    assert counts[0].tolist() == counts[1].tolist()


@pytest.mark.parametrize("length", [LEAST_LENGTH, LEAST_LENGTH + 1, 10**6, 58_720_256, 235_929_600, 10**9 + 7])
def test_samples_are_spread_and_small(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Runs lie inside, one in each part, do not overlap, and hold at most an eighth of the elements."""
    monkeypatch.undo()
    runs.cache_clear()
    found, size = runs(length), run_elements(length)
    assert all(0 <= start and stop == start + size and stop <= length for start, stop in found)
    assert all(one[1] <= two[0] for one, two in pairwise(found))
    assert list(range(len(found))) == [start * len(found) // length for start, _ in found]
    assert sample_elements(length) == size * len(found) <= min(length // 8, MOST_ELEMENTS)
    assert 0 == sample_elements(LEAST_LENGTH - 1)


def test_brackets_seldom_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of brackets for elements that are alike within rows, none misses, though they hold few elements."""
    monkeypatch.undo()
    runs.cache_clear()
    random, missed, shares = np.random.default_rng(7), 0, []
    for _ in range(20):
        rows = np.exp(0.2 * random.standard_normal((1024, 1), np.float32))
        magnitudes = np.abs(random.standard_normal((1024, 1024), np.float32) * rows).reshape(-1).view(np.uint32)
        taken = Sample(
            np.concatenate([magnitudes[start:stop] for start, stop in runs(magnitudes.size)]), magnitudes.size
        )
        ordered = np.sort(magnitudes)
        for share in (0.02, 0.3, 0.8):
            low, high = taken.bracket(share)
            missed += not low <= ordered[-int(share * magnitudes.size)] <= high
            shares.append(float(np.mean((magnitudes >= low) & (magnitudes <= high))))
    assert 0 == missed
    assert max(shares) < 0.12


@pytest.mark.parametrize("length", [300_000_000, 10**9, 4 * 10**9])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_huge_tensors_of_float32_have_brackets(monkeypatch: pytest.MonkeyPatch, length: int, share: float) -> None:
    """What lies inside the bracket of a tensor of any size fits, where rows differ as in fine-tunes, and is bounded."""
    monkeypatch.undo()
    random, size = np.random.default_rng(11), run_elements(length)
    rows = np.exp(0.15 * random.standard_normal((sample_elements(length) // size, 1), np.float32))
    values = (random.standard_normal((len(rows), size), np.float32) * rows * np.float32(1e-3)).reshape(-1)
    how, chunks = Search(length, 1, sampled=True), length >> 20
    counter = how.counter(SAMPLE, (), np.empty(0, np.uint32))
    counter.add(values)
    accumulator = how.fold(SAMPLE, how.begin(SAMPLE), counter.counts)
    (rule,) = how.finish(SAMPLE, accumulator, (int(share * length),), ())
    assert rule.bracket is not None
    coarse = Search(length, 1, sampled=True, fine=False)
    assert how.accumulator_bytes(chunks) <= coarse.accumulator_bytes(chunks) + length // gathering.GATHERED_SHARE


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ties": ("ties", {"density": 0.4, "weight": 0.7}),
    "ties with rescaling": ("ties", {"density": 0.3, "weight": 0.7, "rescale": True}),
    "magnitude": ("magnitude", {"density": 0.1, "weight": 0.7}),
    "breadcrumbs": ("breadcrumbs", {"density": 0.6, "gamma": 0.1, "weight": 0.7}),
    "breadcrumbs_ties": ("breadcrumbs_ties", {"density": 0.6, "gamma": 0.1, "weight": 0.7}),
    "sce": ("sce", {"select_topk": 0.3}),
    "arcee_fusion": ("arcee_fusion", {}),
    "cabs": ("cabs", {"n": 3, "m": 10, "weight": 0.7, "balanced": False}),
    "cabs, each alone": ("cabs", {"n": 3, "m": 10, "weight": 0.7, "balanced": False, "conflict_aware": False}),
    "cabs, least overlap": ("cabs", {"n": 6, "m": 10, "weight": 0.7, "balanced": False, "overlap": "minimize"}),
}
"""Methods that search for ranks."""


@pytest.mark.parametrize("case", CASES)
@settings(derandomize=True, deadline=None, max_examples=examples(25))
@given(data=st.data())
def test_merges_do_not_depend_on_samples(case: str, data: st.DataObject) -> None:
    """Every method gives the same bits from a program that samples and from a frugal one, however chunks are cut."""
    method, given_ = CASES[case]
    drawn = data.draw(sources(1 if method == "arcee_fusion" else 3 if JITTED else 2))
    own = {row.name for row in METHODS[method].parameters if row.scope == "model"}
    each = {name: value for name, value in given_.items() if name in own}
    whole = {name: value for name, value in given_.items() if name not in own}
    problem = describe(method, drawn.base, drawn.models, whole, [each] * len(drawn.models), drawn.out_dtype)
    program = METHODS[method].program(problem)
    cuts = data.draw(st.lists(st.integers(0, max(1, problem.length)), max_size=4))
    found = run_program(problem, program, drawn.base, drawn.models, cuts)
    expected = run_program(problem, program.frugal(), drawn.base, drawn.models, cuts)
    np.testing.assert_array_equal(bits(expected[0]), bits(found[0]))
    assert program.readings[0] <= program.frugal().readings[0]


@pytest.mark.skipif(not JITTED, reason="a million elements take minutes in plain Python")
def test_models_after_others_are_bracketed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many changes are equal, a sample tells what earlier models leave of them, in all of its stretches."""
    monkeypatch.undo()
    runs.cache_clear()
    monkeypatch.setattr("dovetail.engine.methods.cabs_magnitude.STRETCH", 1 << 13)
    random = np.random.default_rng(0)
    base = np.zeros(1 << 20, np.float32)
    models = [random.integers(-8, 9, base.size).astype(np.float32) / 64 for _ in range(2)]
    each = [{"n": 3, "m": 10, "weight": 0.7}] * 2
    problem = describe("cabs", base, models, {"balanced": False}, each, np.dtype(np.float32))
    program = METHODS["cabs"].program(problem)
    state, read = None, 0
    places = [np.concatenate([np.arange(*each) for each in runs(base.size)]), np.arange(base.size)]
    for step in range(program.reduce_passes):
        reads = program.reads(step, state)
        if reads is not None and not reads:
            continue
        read += reads is None
        raws = [source[places[reads is None]].view(np.uint8) for source in (base, *models)]
        chunk = Chunk(0, 0, places[reads is None].size, 0, raws[0], tuple(raws[1:]))
        accumulator = program.fold(step, program.begin(step, state), program.reduce(step, chunk, state))
        state = program.finish(step, accumulator, state)
    assert 2 == read  # one for each model
