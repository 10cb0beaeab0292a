"""One seed of `quality.py`: its fine-tunes, and what is found about the merges of their bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from quality_cache import Cache
from quality_data import Task
from quality_methods import PRUNERS, SETTINGS, Setting, change_of, imbalance, length, overlap, plus, search, strengths
from quality_models import LENGTH, SHARPNESS, Encoder, State, Training, load_tuned
from quality_statistics import pack, unpack

VERSION = 1
"""To be raised when what is computed changes, so that old scores are not taken for new ones."""

Result = dict[str, dict[str, Any]]
"""By task: which texts were right, and the loss."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many texts of a task are used."""

    search: int = 100
    selection: int = 100
    test: int = 400


class Case:
    """Fine-tunes of one seed.

    Parameters
    ----------
    cache
        What is known already.
    encoder
        The base model.
    tasks
        What it is fine-tuned for.
    seed
        Decides which texts are drawn, and their order in training.
    training, counts
        How it is trained, and on how many texts it is judged.

    """

    def __init__(
        self, cache: Cache, encoder: Encoder, tasks: Sequence[Task], seed: int, training: Training, counts: Counts
    ) -> None:
        self.cache, self.encoder, self.seed, self.counts = cache, encoder, seed, counts
        self.tasks = {task.name: task for task in tasks}
        how = {"version": VERSION, "length": LENGTH, "sharpness": SHARPNESS, **asdict(training)}
        self.keys = {task.name: {"task": task.name, "data": task.digest(), "seed": seed, **how} for task in tasks}
        self._training = training
        self._texts: dict[tuple[str, str], Any] = {}
        self._change: tuple[str, list[State]] = ("", [])

    @cached_property
    def _tuned(self) -> dict[str, tuple[State, State]]:
        """Fine-tune for every task, or load what is there."""
        found = {}
        for name, task in self.tasks.items():
            path = self.cache.file(
                ".safetensors",
                lambda path, task=task: self.encoder.fine_tune(task, self.seed, self._training, path),
                **self.keys[name],
            )
            found[name] = load_tuned(path)
        return found

    @property
    def models(self) -> list[State]:
        """The bodies of the fine-tunes, in the order of the tasks."""
        return [body for body, _ in self._tuned.values()]

    def evaluate(self, state: Callable[[], State], part: str, only: str = "", **what: Any) -> Result:
        """Score a body on a part of the texts of all tasks, or of one, each with its own head, unless it is known.

        Parameters
        ----------
        state
            Makes the body.
        part
            The part.
        only
            The task; empty: all.
        what
            Describes the body, given the fine-tunes.

        """
        count = getattr(self.counts, part)
        models = list(self.keys.values())

        def make() -> Result:
            self.encoder.use(state())
            return {name: self._score(name, part) for name in ([only] if only else self.tasks)}

        return self.cache.get(make, models=models, part=part, count=count, only=only, **what)

    def _score(self, name: str, part: str) -> dict[str, Any]:
        task = self.tasks[name]
        if (name, part) not in self._texts:
            drawn = task.draw(part, getattr(self.counts, part), self.seed)
            self._texts[name, part] = self.encoder.texts(drawn, task)
        score = self.encoder.score(self._texts[name, part], self._tuned[name][1])
        return {**pack(score.correct), "loss": score.loss}

    def changes(self, setting: Setting, split: bool = False, **more: Any) -> list[State]:
        """Give the change of a merge with weight 1: as one, or each model's part. The last one is kept in memory."""
        key = repr((setting, split, more))
        if self._change[0] != key:
            self._change = ("", [])
            weights = np.eye(len(self.models)).tolist() if split else [1.0]
            base, models = self.encoder.base, self.models
            made = [change_of(setting, base, models, weight, self.seed, **more) for weight in weights]
            self._change = (key, made)
        return self._change[1]

    def unit(self, setting: Setting) -> float:
        """Give the factor of strength 1: that with which the change is as long as that of task arithmetic."""
        if setting.fixed:
            return 1.0
        what = {"models": list(self.keys.values()), "what": "length"}
        whole = self.cache.get(lambda: length(self.changes(SETTINGS[0])[0]), **what, setting=asdict(SETTINGS[0]))
        own = self.cache.get(lambda: length(self.changes(setting)[0]), **what, setting=asdict(setting))
        return float(whole / own)

    def merged(self, setting: Setting, factor: float, part: str, **more: Any) -> Result:
        """Score a merge with a common factor."""
        factor = float(f"{factor:.6g}")
        return self.evaluate(
            lambda: plus(self.encoder.base, self.changes(setting, **more), [factor]),
            part,
            setting=asdict(setting),
            factor=factor,
            more=more,
        )

    def best(self, setting: Setting) -> dict[str, Any]:
        """Search the best factor of a setting, and say how good it is on the texts for selection."""
        unit = self.unit(setting)

        def score(strength: float) -> tuple[float, float]:
            found = self.merged(setting, strength * unit, "search")
            return accuracy(found), loss(found)

        strength, tried = search(score, (1.0,) if setting.fixed else strengths(setting))
        selection = accuracy(self.merged(setting, strength * unit, "selection"))
        return {"strength": strength, "factor": strength * unit, "tried": tried, "selection": selection}

    def compare(self) -> dict[str, Any]:
        """Compare all methods; then look at the test texts, once."""
        found = {setting.name: self.best(setting) for setting in SETTINGS}
        chosen: dict[str, str] = {}
        for setting in SETTINGS:
            before = chosen.get(setting.family)
            if before is None or found[setting.name]["selection"] > found[before]["selection"]:
                chosen[setting.family] = setting.name
        for setting in SETTINGS:
            if setting.family in PRUNERS or setting.name in chosen.values():
                row = found[setting.name]
                row["test"] = self.merged(setting, row["factor"], "test")
        base = self.evaluate(lambda: self.encoder.base, "test", model="base")
        experts = {}
        for name in self.tasks:
            alone = self.evaluate(lambda name=name: self._tuned[name][0], "test", name, model=f"expert {name}")
            experts[name] = alone[name]
        return {"settings": found, "chosen": chosen, "base": base, "experts": experts}

    def pruning(self, setting: Setting) -> dict[str, Any]:
        """Say what a setting keeps: overlap of models, imbalance within them, and lengths relative to whole changes."""

        def make() -> dict[str, Any]:
            parts = self.changes(setting, split=True)
            kept = [{name: (each != 0).numpy() for name, each in part.items()} for part in parts]
            base = self.encoder.base
            whole = [length({name: model[name] - base[name] for name in base}) for model in self.models]
            lengths = [length(part) / full for part, full in zip(parts, whole, strict=True)]
            return {
                "overlap": overlap(kept),
                "imbalance": float(np.mean([imbalance(each) for each in kept])),
                "kept_length": lengths,
            }

        return dict(self.cache.get(make, models=list(self.keys.values()), what="pruning", setting=asdict(setting)))


def accuracy(result: Result) -> float:
    """Give the mean accuracy over tasks."""
    return float(np.mean([unpack(each).mean() for each in result.values()]))


def loss(result: Mapping[str, Any]) -> float:
    """Give the mean loss over tasks."""
    return float(np.mean([each["loss"] for each in result.values()]))
