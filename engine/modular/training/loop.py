"""The training loop: batches in an order that the seed decides, a cosine, a state on the disk now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from dovetail.engine.errors import RecipeError
from dovetail.engine.events import Listener, Trained
from dovetail.engine.modular.data.batches import Augmentation, Normalisation, order_of, training_batch
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.training.objective import objective
from dovetail.engine.modular.training.options import TrainingOptions
from dovetail.engine.modular.training.predictions import Observed, accuracy
from dovetail.engine.modular.training.state import (
    Position,
    State,
    copies,
    load_optimizer,
    optimizer_tensors,
    part_of,
    read_state,
    write_state,
)
from dovetail.io.files.interrupts import check_interrupts, held

SAVE_SECONDS: Final = 60.0
"""Time between two states on the disk, within an epoch; every epoch ends with one."""

_TELL_SECONDS: Final = 0.5


class Training:
    """One training of one network, from its beginning or from where an earlier run was stopped.

    The result depends on the network, the data and the options alone: not on interruptions, nor on when the state was
    stored. On one thread of a processor it is the same bit by bit; on several threads, and on GPUs, up to the order of
    additions.

    Parameters
    ----------
    observed
        The network, with its masks or activities, on the device to train on. It is changed.
    data
        What to train on, and to validate with. The test set is not looked at.
    options
        How.
    folder
        Where the state is kept.
    identity
        All that decides the result, as JSON; an earlier state is continued only if its identity is the same.

    """

    def __init__(
        self, observed: Observed, data: DataSet, options: TrainingOptions, folder: Path, identity: Mapping[str, Any]
    ) -> None:
        # Convolutions are quicker with channels innermost, by a quarter to a half on a processor.
        self.observed = observed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types it for tensors alone
        self.data, self.options = data, options
        self.folder, self.identity = folder, identity
        self.device = next(observed.parameters()).device
        self.normalise = Normalisation.of(data.train)
        crop = data.size[0] // 8 if options.crop is None else options.crop
        self.changes = Augmentation(crop, options.flip)
        self.batches = -(-len(data.train) // options.batch)
        self.optimizer = _optimizer(observed, options)
        self.position = Position()
        self.best: dict[str, Tensor] = {}

    def run(self, listen: Listener, save_seconds: float = SAVE_SECONDS) -> Position:
        """Train to the end; the network then has the weights to keep, and is in evaluation.

        A request to stop is answered after the batch that is running, whose state is stored first.

        Parameters
        ----------
        listen
            Receives events.
        save_seconds
            Time between two states on the disk, within an epoch.

        Raises
        ------
        RecipeError
            The loss is no longer a number.
        OutputError
            The state of an earlier run is damaged, or of another training.
        OSError
            The state cannot be written.

        """
        cards = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(self.options.seed)
            self._continue()
            with held():
                while not self._is_over():
                    self._epoch(listen, save_seconds)
        if self.options.patience is not None:
            self.observed.load_state_dict(self.best)
        self.observed.eval()
        return self.position

    def _is_over(self) -> bool:
        patience = self.options.patience
        return self.position.epoch >= self.options.epochs or (patience is not None and self.position.stale >= patience)

    def _continue(self) -> None:
        """Go to where an earlier run has come."""
        if (state := read_state(self.folder, self.identity)) is None:
            return
        self.position = state.position
        self.observed.load_state_dict(part_of(state.tensors, "model."))
        load_optimizer(self.optimizer, state.tensors)
        self.best = part_of(state.tensors, "best.")
        random = part_of(state.tensors, "random.")
        torch.set_rng_state(random["processor"])
        if "card" in random:
            torch.cuda.set_rng_state(random["card"], self.device)

    def _save(self) -> None:
        tensors = {f"model.{name}": each for name, each in self.observed.state_dict().items()}
        tensors |= {f"best.{name}": each for name, each in self.best.items()}
        tensors |= optimizer_tensors(self.optimizer)
        tensors["random.processor"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.card"] = torch.cuda.get_rng_state(self.device)
        write_state(self.folder, self.identity, State(self.position, tensors))

    def _epoch(self, listen: Listener, save_seconds: float) -> None:
        """Go through the rest of the epoch, validate, and store the state."""
        position, options = self.position, self.options
        order = order_of(options.seed, position.epoch, len(self.data.train))
        self.observed.train()
        since = saved = told = time.monotonic()
        while position.batch < self.batches:
            self._step(order)
            self._heed()
            now = time.monotonic()
            position.seconds, since = position.seconds + now - since, now
            if now - told >= _TELL_SECONDS:
                self._tell(listen)
                told = now
            if now - saved >= save_seconds and position.batch < self.batches:
                self._save()
                saved = time.monotonic()
        validation = accuracy(self.observed, self.data.validation, self.normalise, self.device)
        position.seconds += time.monotonic() - since
        self._end_epoch(validation)
        self._save()
        self._tell(listen)

    def _heed(self) -> None:
        """Answer a request to stop, if there is one; nothing that was learnt gets lost."""
        try:
            check_interrupts()
        except BaseException:
            self._save()
            raise

    def _end_epoch(self, validation: float) -> None:
        position, samples = self.position, len(self.data.train)
        position.history.append(
            {"loss": position.loss / samples, "right": position.right / samples, "validation": validation}
        )
        position.stale += 1
        if validation > position.best:
            position.best, position.stale = validation, 0
            self.best = copies(self.observed) if self.options.patience is not None else {}
        position.epoch, position.batch, position.loss, position.right = position.epoch + 1, 0, 0.0, 0

    def _step(self, order: Any) -> None:
        """Learn from one batch."""
        position, options = self.position, self.options
        key = (options.seed, position.epoch)
        pixels, labels = training_batch(self.data.train, order, options.batch, position.batch, self.changes, key)
        pixels, labels = pixels.to(self.device), labels.to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        with self._precision():
            logits = self.observed(self.normalise(pixels).contiguous(memory_format=torch.channels_last))
        loss = objective(logits, labels, self.observed.layers, options.terms, options.temperature)
        if not math.isfinite(value := loss.item()):
            self._refuse(value)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        position.loss += value * len(labels)
        position.right += int((logits.argmax(1) == labels).sum())
        position.batch += 1

    def _rate(self) -> float:
        """Give the learning rate of the next batch, which falls along half a cosine from the start to the end."""
        done = self.position.epoch + self.position.batch / self.batches
        return self.options.start_rate * (1 + math.cos(math.pi * done / self.options.epochs)) / 2

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.mixed)

    def _refuse(self, value: float) -> None:
        position, options = self.position, self.options
        raise RecipeError(
            f"the loss is {value} in epoch {position.epoch + 1}, batch {position.batch + 1}",
            "a number",
            f"pass a smaller --rate than {options.start_rate:g}, or --optimizer adamw, and --restart",
        )

    def _tell(self, listen: Listener) -> None:
        position, samples = self.position, len(self.data.train)
        begun = min(position.batch * self.options.batch, samples)
        last = position.history[-1] if position.history else None
        listen(
            Trained(
                done_images=position.epoch * samples + begun,
                total_images=self.options.epochs * samples,
                epoch=position.epoch,
                epochs=self.options.epochs,
                seconds=position.seconds,
                loss=position.loss / begun if begun else (last["loss"] if last else 0.0),
                validation=last["validation"] if last else None,
            )
        )


def _optimizer(observed: Observed, options: TrainingOptions) -> torch.optim.Optimizer:
    parameters = [each for each in observed.parameters() if each.requires_grad]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, options.start_rate, weight_decay=options.decay)
    return torch.optim.SGD(parameters, options.start_rate, momentum=0.9, nesterov=True, weight_decay=options.decay)
