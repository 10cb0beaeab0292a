"""Training: it learns, stops early by the validation set alone, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import dataclasses
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail.engine.errors import OutputError, RecipeError
from dovetail.engine.events import Event, Trained, ignore
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.training import loop
from dovetail.engine.modular.training.loop import Training
from dovetail.engine.modular.training.objective import objective
from dovetail.engine.modular.training.options import METHODS, TrainingOptions
from dovetail.engine.modular.training.predictions import accuracy
from dovetail.engine.modular.training.state import STATE_NAME, read_state, write_state
from tests.engine.modular.learning import few_shapes, observed_network

BATCHES = 4
"""Batches of an epoch of `few_shapes` in `OPTIONS`."""
OPTIONS = TrainingOptions(epochs=3, batch=32, rate=0.02)


def training(folder: Path, options: TrainingOptions = OPTIONS, data: DataSet | None = None) -> Training:
    """Set a training of a small network up, as a process does that begins."""
    folder.mkdir(exist_ok=True)
    observed = observed_network(options.method)
    return Training(observed, data or few_shapes(), options, folder, {"options": options.to_json()})


def outcome(done: Training) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """Give the bytes of all tensors, and the history."""
    tensors = done.observed.checkpoint_tensors()
    return {name: each.numpy().tobytes() for name, each in tensors.items()}, done.position.history


class Killed(BaseException):
    """Stands for the end of a process."""


def killed_after(writes: int, monkeypatch: pytest.MonkeyPatch, *, before: bool = False) -> None:
    """Let training die at one of its states: just after it is durable, or just before."""
    left = writes

    def write(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if before and not left:
            raise Killed
        write_state(*arguments)
        if not left:
            raise Killed

    monkeypatch.setattr(loop, "write_state", write)


@pytest.mark.parametrize(
    ("method", "optimizer"), [("mwt", "sgd"), ("moda", "adamw"), ("nemo", "adamw"), ("standard", "sgd")]
)
def test_killed_training_goes_on_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, optimizer: str
) -> None:
    """Killed after every single batch, in the middle of epochs and between them, a training ends with the same bits."""
    options = dataclasses.replace(OPTIONS, method=method, optimizer=optimizer, epochs=2, patience=9)
    whole = training(tmp_path / "whole", options)
    whole.run(ignore)
    for kills in range(1, options.epochs * BATCHES + 1):
        killed_after(1, monkeypatch)
        parts = training(tmp_path / "parts", options)
        with pytest.raises(Killed):
            parts.run(ignore, save_seconds=0)
        assert (kills // BATCHES, kills % BATCHES) == (parts.position.epoch, parts.position.batch)
    parts = training(tmp_path / "parts", options)
    parts.run(ignore)
    assert outcome(whole) == outcome(parts)


@pytest.mark.parametrize("writes", [1, 3, 5])
def test_killed_before_the_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """What was learnt since the last state is learnt again, and the result is the same; so is that on stored states."""
    whole, parts = training(tmp_path / "whole"), training(tmp_path / "parts")
    whole.run(ignore)
    with monkeypatch.context() as patched:
        killed_after(writes, patched, before=True)
        with pytest.raises(Killed):
            parts.run(ignore, save_seconds=0)
    (tmp_path / "parts" / f".{STATE_NAME}.partial").write_bytes(b"half a state")
    parts = training(tmp_path / "parts")
    parts.run(ignore, save_seconds=0)
    assert outcome(whole) == outcome(parts)


@pytest.mark.parametrize("batch", [2, BATCHES])
def test_ctrl_c_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """A request to stop is answered after the batch that is running, and its state is on the disk."""
    whole, stopped, steps = training(tmp_path / "whole"), training(tmp_path / "stopped"), 0
    whole.run(ignore)

    def interrupted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == batch:
            signal.raise_signal(signal.SIGINT)
        return objective(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "objective", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stopped.run(ignore)
    state = read_state(tmp_path / "stopped", stopped.identity)
    assert state is not None
    assert (0, batch, batch) == (state.position.epoch, state.position.batch, steps)
    parts = training(tmp_path / "stopped")
    parts.run(ignore)
    assert outcome(whole) == outcome(parts)


def test_seeds_decide(tmp_path: Path) -> None:
    """Another seed gives another training, even from the same weights."""
    done = [training(tmp_path / str(seed), dataclasses.replace(OPTIONS, seed=seed, epochs=1)) for seed in (0, 1)]
    for each in done:
        each.run(ignore)
    assert outcome(done[0]) != outcome(done[1])


def test_the_callers_random_numbers_go_on(tmp_path: Path) -> None:
    """Training draws no number of the caller's."""
    made = training(tmp_path, dataclasses.replace(OPTIONS, epochs=1))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    made.run(ignore)
    assert torch.equal(expected, torch.rand(2))


@pytest.mark.parametrize("method", METHODS)
def test_it_learns(tmp_path: Path, method: str) -> None:
    """The loss falls with every method, and events say how far it has come."""
    told: list[Event] = []
    done = training(tmp_path, dataclasses.replace(OPTIONS, method=method, epochs=6))
    history = done.run(told.append).history
    assert history[-1]["loss"] < history[0]["loss"]
    last = told[-1]
    assert isinstance(last, Trained)
    assert (600, 600, 6, 6) == (last.done_images, last.total_images, last.epoch, last.epochs)
    assert (history[-1]["loss"], history[-1]["validation"]) == (last.loss, last.validation)


def test_early_stopping_takes_the_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training stops when the validation set has seen no better epoch for a while, and keeps the best one's weights."""
    accuracies, kept = iter([0.3, 0.5, 0.5, 0.4, 0.9]), []

    def judge(observed: Any, images: Any, *rest: Any) -> float:
        assert images is few_shapes().validation
        kept.append({name: each.clone() for name, each in observed.state_dict().items()})
        return next(accuracies)

    monkeypatch.setattr(loop, "accuracy", judge)
    done = training(tmp_path, dataclasses.replace(OPTIONS, epochs=9, patience=2))
    assert [0.3, 0.5, 0.5, 0.4] == [epoch["validation"] for epoch in done.run(ignore).history]
    assert all(torch.equal(each, kept[1][name]) for name, each in done.observed.state_dict().items())
    assert not done.observed.training


def test_the_test_set_is_not_looked_at(tmp_path: Path) -> None:
    """Training with other test images is the same training."""
    data = few_shapes()
    other = dataclasses.replace(data, test=data.test.take(slice(0, 10)))
    done = [training(tmp_path / str(number), OPTIONS, each) for number, each in enumerate((data, other))]
    for each in done:
        each.run(ignore)
    assert outcome(done[0]) == outcome(done[1])


def test_loss_that_is_no_number(tmp_path: Path) -> None:
    """A training that diverges is an error that says where, and what to do."""
    done = training(tmp_path, dataclasses.replace(OPTIONS, rate=1e30))
    text = r"the loss is (nan|inf) in epoch 1, batch \d; expected a number; pass a smaller --rate than 1e\+30, or"
    with pytest.raises(RecipeError, match=text):
        done.run(ignore)


def test_state_of_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is not continued with other options, nor when it is damaged; both errors say what to do."""
    killed_after(1, monkeypatch)
    with pytest.raises(Killed):
        training(tmp_path).run(ignore, save_seconds=0)
    with pytest.raises(
        OutputError, match=r"has options .* as this command asks for; give the same options to continue"
    ):
        training(tmp_path, dataclasses.replace(OPTIONS, batch=16)).run(ignore)
    place = tmp_path / STATE_NAME
    place.write_bytes(place.read_bytes()[:-10])
    with pytest.raises(OutputError, match=r"cannot be read .*; pass --restart to begin anew"):
        training(tmp_path).run(ignore)


def test_mixed_precision(tmp_path: Path) -> None:
    """Matrix products in bfloat16 give a network of float32 that learns, too."""
    done = training(tmp_path, dataclasses.replace(OPTIONS, mixed=True, epochs=2))
    assert all(math.isfinite(epoch["loss"]) for epoch in done.run(ignore).history)
    assert {torch.float32, torch.int64} == {each.dtype for each in done.observed.state_dict().values()}


def test_the_rate_falls_along_a_cosine(tmp_path: Path) -> None:
    """The learning rate begins at the rate that was asked for, is half of it in the middle, and ends near 0."""
    made, found = training(tmp_path, dataclasses.replace(OPTIONS, epochs=2)), []
    for epoch, batch in ((0, 0), (1, 0), (1, BATCHES)):
        made.position.epoch, made.position.batch = epoch, batch
        found.append(made._rate())
    assert pytest.approx([0.02, 0.01, 0.0]) == found


def test_accuracy_is_the_share_of_right_images(tmp_path: Path) -> None:
    """Accuracy counts greatest logits, and leaves the network as it was."""
    made = training(tmp_path)
    images, observed = few_shapes().test, made.observed.train()
    with torch.no_grad():
        observed.eval()
        guesses = observed(made.normalise(torch.from_numpy(images.pixels))).argmax(1).numpy()
        observed.train()
    assert (guesses == images.labels).sum() / len(images) == accuracy(observed, images, made.normalise, made.device)
    assert observed.training
