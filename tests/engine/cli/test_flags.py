"""Every flag of mergekit's is known, and docs/switching.md says of each what the command does with it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from typer.main import get_command

from dovetail.engine.cli.flags import BY_NAME, FLAGS, PROGRAMS, Fate, Flag
from dovetail.engine.cli.main import app
from tests.doc_blocks import ROOT
from tests.engine.command import dovetail

MERGEKIT = {
    "mergekit-yaml": """
        --allow-crimes --no-allow-crimes --unsafe-truncate-embeddings --no-unsafe-truncate-embeddings
        --transformers-cache= --lora-merge-cache= --lora-merge-dtype= --cuda --no-cuda --device= --low-cpu-memory
        --no-low-cpu-memory --out-shard-size= --copy-tokenizer --no-copy-tokenizer --clone-tensors --no-clone-tensors
        --trust-remote-code --no-trust-remote-code --random-seed= --lazy-unpickle --no-lazy-unpickle
        --write-model-card --no-write-model-card --safe-serialization --no-safe-serialization -v --quiet --no-quiet
        --read-to-gpu --no-read-to-gpu --multi-gpu --no-multi-gpu --num-threads= -j= --gpu-rich --async-write
        --no-async-write --write-threads=
    """,
    "mergekit-multi": "--out-path= --intermediate-dir= -I= --lazy --no-lazy",
    "mergekit-moe": "--load-in-4bit --load-in-8bit --i-understand-this-is-not-useful-without-training",
    "mergekit-extract-lora": """
        --model= --base-model= --out-path= --max-rank= --distribute-scale --no-distribute-scale --embed-lora
        --no-embed-lora --save-module= --exclude-regex= -e= --include-regex= -i= --sv-epsilon= --skip-undecomposable
    """,
    "mergekit-pytorch": "--tensor-intersection -i --tensor-union -u",
    "mergekit-layershuffle": """
        --model= -m= --weight= -w= --print-yaml --no-print-yaml --write-yaml= --dry-run --fp16 --no-fp16 --full-random
        --no-full-random
    """,
    "mergekit-legacy": """
        --merge= --density= --weight= --method= --base-model= --normalize --no-normalize --int8-mask --no-int8-mask
        --bf16 --no-bf16 --naive-count --no-naive-count --print-yaml --no-print-yaml
    """,
    "mergekit-tokensurgeon": """
        --k= -k= --cosine-similarity -c --no-cosine-similarity -nc --approximation-method= -a= --weight-scheme= -w=
        --subword-method= -s= --batch-size= --prefix-match= -pm= --byte-match= -bm= --magikarp --no-magikarp
        --new-vocab-noise= -nvn= --new-vocab-scale= -nvs=
    """,
    "bakllama": "--clone-tensors --no-clone-tensors --fp16 --no-fp16",
    "mergekit-evolve": """
        --max-fevals= --vllm --no-vllm --strategy= -s= --in-memory --no-in-memory --storage-path= --num-gpus=
        --merge-cuda --no-merge-cuda --trust-remote-code --no-trust-remote-code --allow-crimes --no-allow-crimes
        --random-seed= --batch-size= --sigma0= --wandb --no-wandb --wandb-project= --wandb-entity= --task-search-path=
        --i-understand-the-depths-of-the-evils-i-am-unleashing --save-final-model --no-save-final-model --reshard
        --no-reshard --timeout= --load-in-8bit --load-in-4bit --force-population-size=
    """,
}
"""The flags of mergekit 0.1.5 by program, as it declares them; those with a sign of equality take a value. Each program
but the last two has those of the first too."""

PAGE = ROOT / "docs" / "switching.md"


def test_every_flag_of_mergekit_is_in_the_table() -> None:
    """The table has the flags of mergekit 0.1.5, and of older versions only ``--verbose``."""
    theirs = {flag.removesuffix("=") for flags in MERGEKIT.values() for flag in flags.split()}
    assert theirs == set(BY_NAME) - {"--verbose"}
    assert set(MERGEKIT) == set(PROGRAMS) - {"mergekit-mega"}
    assert len(BY_NAME) == sum(len(flag.names) for flag in FLAGS)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.names[0])
def test_what_takes_a_value(flag: Flag) -> None:
    """A flag that is accepted takes a value if it does with mergekit, and the program named with it has it."""
    declared = MERGEKIT[flag.program].split()
    for name in flag.names:
        assert name == "--verbose" or name in declared or f"{name}=" in declared
        if flag.fate is not Fate.refused:
            assert bool(flag.value) == (f"{name}=" in declared)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.names[0])
def test_every_flag_does_what_the_table_says(flag: Flag) -> None:
    """A merge goes on to read its recipe, with or without a note, or refuses the flag with the table's hint."""
    for name in flag.names:
        value = [{"SIZE": "5B", "N": "3"}.get(flag.value, "x")] if flag.value else []
        outcome = dovetail("merge", "no-such-recipe.yml", "out", name, *value)
        assert 2 == outcome.code
        last = outcome.err.splitlines()[-1]
        if flag.fate is Fate.refused:
            assert f"Error: {name}, a flag of {flag.program}, is not accepted; {flag.text}." == last
            continue
        note = f"No effect here: {' '.join([name, *value])} ({flag.text}).\n" if flag.fate is Fate.noted else ""
        assert outcome.err.startswith(f"{note}error: recipe 'no-such-recipe.yml' cannot be read")


def test_flags_stand_for_options_that_exist() -> None:
    """What a flag is read as is an option of merge, which the help shows, or a variable of the environment."""
    options = {name for each in get_command(app).commands["merge"].params for name in each.opts}  # type: ignore[attr-defined]
    for flag in FLAGS:
        assert bool(flag.option) == (flag.fate is Fate.same)
        assert flag.option in {"", "HF_HUB_CACHE", *options}


def test_help_does_not_show_them() -> None:
    """Help lists options of ours alone, those of the same name among them."""
    ours = {"--no-copy-tokenizer", "--no-write-model-card", "--quiet"}
    for command in ("merge", "plan", "moe"):
        lines = [line for line in dovetail(command, "--help").out.splitlines() if line.startswith("  -")]
        assert {word.strip(",") for line in lines for word in line.split()} & set(BY_NAME) <= ours


def shown_flags() -> Iterator[str]:
    """Give the rows of the page's table of flags as they must be."""
    for flag in FLAGS:
        names = ", ".join(f"`{name} {flag.value}`" if flag.value else f"`{name}`" for name in flag.names)
        fate = f"`{flag.option}`" if flag.option else flag.fate.value
        yield f"| {names} | {fate} | {marked(flag.text)} |"


def shown_programs() -> Iterator[str]:
    """Give the rows of the page's table of programs as they must be."""
    for name, hint in PROGRAMS.items():
        yield f"| `{name}` | {marked(hint)} |"


def marked(text: str) -> str:
    """Mark commands and options in a text as Markdown does."""
    quoted = re.sub(r"'((?:dovetail|tokenizer|--)[^']*)'", r"`\1`", text).split("`")
    return "`".join(part if place % 2 else re.sub(r"--[a-z-]+", r"`\g<0>`", part) for place, part in enumerate(quoted))


def test_the_page_shows_the_tables() -> None:
    """docs/switching.md has a row for every flag and every program, in their order, and no others in these tables."""
    section = PAGE.read_text().partition("\n## Flags\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert [*shown_flags(), *shown_programs()] == rows


if __name__ == "__main__":  # prints the rows for the page
    print("\n".join([*shown_flags(), "", *shown_programs()]))
