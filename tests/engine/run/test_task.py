"""The small tensors of a task are read and written together, in no more memory than the plan projects."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.methods.copy import Copy
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES
from dovetail.engine.planning.work import Input, OutputRange, PieceWork
from dovetail.engine.run.task import batches, execute
from dovetail.io.files.mapping import MappedSource
from dovetail.io.files.outfile import FileSlot
from dovetail.io.source import Slot, Source
from tests.checkpoints import cabs_recipe, llama_tensors, read_output, write_checkpoint
from tests.engine.awkward import same_bits
from tests.engine.command import dovetail
from tests.io.held import HeldSource

SIZE_BYTES = 1 << 40


def piece(index: int, offsets: tuple[int, ...], length: int) -> PieceWork:
    """Make the work of copying one tensor that lies in several files; nothing is opened."""
    inputs = tuple(
        Input(MappedSource(f"/f{file}", offset, length, 2, SIZE_BYTES, 7), -1, f"f{file}", f"t{index}")
        for file, offset in enumerate(offsets)
    )
    slot = FileSlot(None, 0, length, 2)  # type: ignore[arg-type]
    return PieceWork(0, 0, length, length, Copy(), (0, length), None, inputs, (OutputRange(index, 0, length, 2, slot),))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 3_000_000), min_size=1, max_size=20),
    files=st.integers(1, 3),
    seed=st.none() | st.integers(0, 99),
)
def test_runs_stay_within_the_projection(lengths: list[int], files: int, seed: int | None) -> None:
    """In whatever order tensors lie in their files, a batch holds no more than all tensors in order would."""
    placed = []
    for file in range(files):
        order = list(range(len(lengths)))
        if seed is not None:
            random.Random(seed + file).shuffle(order)
        offset, offsets = 8, {}
        for index in order:
            offsets[index] = offset
            offset += 2 * lengths[index]
        placed.append(offsets)
    pieces = [piece(i, tuple(offsets[i] for offsets in placed), length) for i, length in enumerate(lengths)]
    room = sum(2 * length * files for length in lengths) + files * PAGE_SLACK_BYTES
    runs = list(batches(pieces))
    assert pieces == [each for run in runs for each in run.pieces]
    for run in runs:
        assert run.all_mapped
        assert sum(stop - start + PAGE_SLACK_BYTES for _, start, stop in run.mapped) <= room
    if seed is None:
        assert 1 == len(runs)


def test_the_order_of_tensors_in_files_does_not_matter(tmp_path: Path) -> None:
    """Fine-tunes that store their tensors in another order than the base model give the same output."""
    base = llama_tensors(0)
    tuned = [llama_tensors(seed, base) for seed in (1, 2)]
    folder = write_checkpoint(tmp_path / "base", base)
    ordered = [write_checkpoint(tmp_path / f"ordered{i}", tensors) for i, tensors in enumerate(tuned)]
    shuffled = []
    for number, tensors in enumerate(tuned):
        names = sorted(tensors)
        random.Random(number).shuffle(names)
        shuffled.append(_write_in_order(tmp_path / f"shuffled{number}", {name: tensors[name] for name in names}))
    outputs = []
    for name, folders in (("a", ordered), ("b", shuffled)):
        recipe = cabs_recipe(tmp_path / f"{name}.yml", folder, folders)
        assert 0 == dovetail("merge", recipe, tmp_path / name, "--quiet").code
        outputs.append(read_output(tmp_path / name))
    assert all(same_bits(outputs[0][name], outputs[1][name]) for name in outputs[0])


def _write_in_order(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Write tensors in the given order, which the official writer would sort."""
    from dovetail.io.dtypes import DTYPES
    from dovetail.io.formats.header import build_header

    write_checkpoint(folder, tensors)
    header = build_header([(name, DTYPES["BF16"], values.shape) for name, values in tensors.items()])
    data = b"".join(values.tobytes() for values in tensors.values())
    (folder / "model.safetensors").write_bytes(header + data)
    return folder


class Unmapped(HeldSource):
    """A source that is not mapped, and that counts the ranges that are held."""

    held = most = 0

    def populate(self, start: int, stop: int) -> bool:
        Unmapped.held += stop - start
        Unmapped.most = max(Unmapped.most, Unmapped.held)
        return True

    def release(self, start: int, stop: int) -> None:
        Unmapped.held -= stop - start


def unmapped(source: Source) -> Unmapped:
    """Copy a tensor's elements into memory."""
    return Unmapped(source.read(0, source.length).view(f"u{source.itemsize}").copy(), copies=True)


class Keeping:
    """A slot that keeps what is written to it."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, start: int, data: np.ndarray) -> None:
        self.data = data.tobytes()

    def file_place(self, start: int, stop: int) -> None:
        """Give None, because there is no file."""


@pytest.mark.parametrize("mixed", [False, True])
def test_sources_that_are_not_mapped_are_read_one_by_one(tmp_path: Path, mixed: bool) -> None:
    """Sources that are not mapped are held for one tensor at a time, beside mapped ones too; the bytes are the same."""
    base = llama_tensors(0)
    folders = [write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "m", llama_tensors(1, base))]
    plan = make_plan(cabs_recipe(tmp_path / "r.yml", folders[0], folders[1:]))
    (job,) = plan.jobs
    slots = [Keeping() for _ in plan.tensors]
    expected = [Keeping() for _ in plan.tensors]

    def find(places: list[Keeping]) -> object:
        def slot(index: int) -> Slot:
            return places[index]

        return slot

    work = plan.work(job, 0, 0, None, find(slots))  # type: ignore[arg-type]
    wrapped = []
    for each in work.pieces:
        models = tuple(item._replace(source=unmapped(item.source)) for item in each.models)
        wrapped.append(replace(each, models=models))
        if not mixed:
            assert each.base is not None
            wrapped[-1] = replace(wrapped[-1], base=each.base._replace(source=unmapped(each.base.source)))
    Unmapped.held = Unmapped.most = 0
    record = execute(replace(work, pieces=tuple(wrapped)))
    same = execute(plan.work(job, 0, 0, None, find(expected)))  # type: ignore[arg-type]
    assert [each.data for each in expected] == [each.data for each in slots]
    assert [each.checksum for each in same.pieces] == [each.checksum for each in record.pieces]
    assert (0, max(each.length for each in plan.tensors) * (1 if mixed else 2)) == (Unmapped.held, Unmapped.most)
