"""The flags of mergekit's programs, and what becomes of each: one table, which docs/switching.md shows to people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What happens to a flag of mergekit's."""

    nothing = "nothing"
    """It is taken without a word, because nothing has to be done about it."""
    noted = "nothing, and a note says so"
    """It is taken, and a note says what happens instead."""
    same = "the same"
    """It is read as an option of ours, or as a variable of the environment."""
    refused = "an error"
    """It is an error, which says what to do instead."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of mergekit's, or several to which the same happens."""

    fate: Fate
    """What happens to it."""
    program: str
    """The program that has it, or the first of them."""
    names: tuple[str, ...]
    """Its spellings."""
    text: str
    """Why nothing is needed, what happens instead, what it means here, or what to do instead."""
    value: str = ""
    """Name of its value in documentation; empty if it takes none, or is refused."""
    option: str = ""
    """Our option, or the variable of the environment, that it is read as; empty if there is none."""


def _rows(fate: Fate, program: str, *rows: tuple[str, ...]) -> tuple[Flag, ...]:
    """Make flags of one program and one fate of spellings, texts and, where they have them, values and options."""
    return tuple(Flag(fate, program, tuple(names.split()), *others) for names, *others in rows)


_RECIPE = "write a recipe that has it, and run 'dovetail merge RECIPE OUT'"
_SLICES = "write the layers into a recipe, as slices with merge_method: passthrough"
_SURGERY = "align vocabularies by 'tokenizer' in a recipe; to transplant one, run mergekit-tokensurgeon first"
_SEARCH = "mark the weights in the recipe, as in 'weight: {search: [0.1, 2.0]}', and run 'dovetail search'"
_WHOLE = "leave it out: every matrix that changed gets two factors, and what is no matrix is kept whole"

FLAGS = (
    *_rows(
        Fate.nothing,
        "mergekit-yaml",
        ("--lazy-unpickle --no-lazy-unpickle", "PyTorch files are always mapped, and never loaded whole"),
        ("--clone-tensors --no-clone-tensors", "a tensor that is taken twice is always written twice"),
        ("--async-write --no-async-write", "chunks are always written while others are computed"),
        ("--write-threads", "chunks are always written while others are computed", "N"),
        ("--lora-merge-cache", "adapters are applied while models are read, and no model is stored for it", "DIR"),
        ("--copy-tokenizer --write-model-card --safe-serialization", "this is the default"),
        ("-v --verbose", "warnings are always shown, and the manifest has the rest"),
        ("--quiet", "commands that show their progress have it too, and the others show none"),
        (
            "--no-cuda --no-multi-gpu --no-read-to-gpu --no-low-cpu-memory --no-allow-crimes --no-trust-remote-code "
            "--no-unsafe-truncate-embeddings --no-quiet",
            "this is the default",
        ),
    ),
    *_rows(
        Fate.noted,
        "mergekit-yaml",
        (
            "--cuda --gpu-rich --multi-gpu --read-to-gpu --low-cpu-memory",
            "everything is computed on the CPU, within --memory",
        ),
        ("--device", "everything is computed on the CPU, within --memory", "X"),
        ("--allow-crimes", "models of other architectures are merged as far as they fit, with warnings"),
        ("--lora-merge-dtype", "adapters are applied in float32 and rounded only with the result", "DTYPE"),
        ("--trust-remote-code", "no code of a model is ever run"),
    ),
    *_rows(
        Fate.same,
        "mergekit-yaml",
        ("--random-seed", "without it the seed is 0, so that masks are not others in every run", "N", "--seed"),
        ("-j --num-threads", "as many tasks at once, if memory allows", "N", "--workers"),
        ("--transformers-cache", "models on a hub are looked for and downloaded there", "DIR", "HF_HUB_CACHE"),
        (
            "--out-shard-size",
            "mergekit's help speaks of parameters, but what it counts is bytes: 5B is 5GB, 500M is 500MB",
            "SIZE",
            "--shard-size",
        ),
        (
            "--no-copy-tokenizer",
            "a tokenizer that the recipe asks for is written all the same",
            "",
            "--no-copy-tokenizer",
        ),
        ("--no-write-model-card", "the recipe is kept all the same", "", "--no-write-model-card"),
    ),
    *_rows(
        Fate.refused,
        "mergekit-yaml",
        ("--no-safe-serialization", "leave it out: the output is safetensors, which every library loads"),
        (
            "--unsafe-truncate-embeddings",
            "leave it out: the result has the base model's rows; 'tokenizer' in a recipe aligns vocabularies by token",
        ),
    ),
    *_rows(
        Fate.same,
        "mergekit-multi",
        ("-I --intermediate-dir", "the results of stages are kept there", "DIR", "--stages"),
    ),
    *_rows(Fate.nothing, "mergekit-multi", ("--lazy", "a stage that is there already is not merged again")),
    *_rows(
        Fate.refused,
        "mergekit-multi",
        ("--no-lazy", "leave it out, and remove the folder of --stages"),
        ("--out-path", "name the folder after the recipe: 'dovetail merge RECIPE OUT'"),
    ),
    *_rows(
        Fate.nothing,
        "mergekit-moe",
        ("--i-understand-this-is-not-useful-without-training", "random routers are made where they are asked for"),
    ),
    *_rows(
        Fate.noted,
        "mergekit-moe",
        ("--load-in-4bit --load-in-8bit", "the base model reads prompts in bfloat16"),
    ),
    *_rows(
        Fate.refused,
        "mergekit-extract-lora",
        ("--model --base-model", "name them in order, 'dovetail extract-lora FINETUNED BASE OUT', or in a recipe"),
        ("--max-rank", "pass --rank to 'dovetail extract-lora'"),
        ("--distribute-scale --no-distribute-scale", "leave it out: the factors' product is what counts"),
        ("--embed-lora --no-embed-lora --skip-undecomposable", _WHOLE),
        ("--save-module", "pass --modules-to-save to 'dovetail extract-lora'"),
        ("-e --exclude-regex", "pass --exclude to 'dovetail extract-lora'"),
        ("-i --include-regex", "pass --include to 'dovetail extract-lora'"),
        ("--sv-epsilon", "pass --energy to 'dovetail extract-lora', which chooses ranks by what they keep"),
    ),
    *_rows(
        Fate.refused,
        "mergekit-pytorch",
        ("--tensor-intersection", "leave it out: a tensor that one model lacks is merged from the others"),
        ("-u --tensor-union", "leave it out: the result has the base model's tensors, and a warning names others"),
    ),
    *_rows(
        Fate.refused,
        "mergekit-layershuffle",
        ("-m -w --full-random --no-full-random", _SLICES),
        ("--print-yaml --no-print-yaml --write-yaml", "leave it out: the output has the recipe, dovetail_recipe.yml"),
        ("--dry-run", "use 'dovetail plan RECIPE', which says what a merge would do"),
        ("--fp16 --no-fp16", "pass '--dtype float16', or write dtype into the recipe"),
    ),
    *_rows(
        Fate.refused,
        "mergekit-legacy",
        ("--merge --density --weight --method --normalize --no-normalize", _RECIPE),
        ("--int8-mask --no-int8-mask", "leave it out: masks are not stored"),
        ("--bf16 --no-bf16", "pass '--dtype bfloat16', or write dtype into the recipe"),
        ("--naive-count --no-naive-count", "leave it out: signs are elected by weight"),
    ),
    *_rows(
        Fate.refused,
        "mergekit-tokensurgeon",
        (
            "-k --k -c --cosine-similarity -nc --no-cosine-similarity -a --approximation-method --weight-scheme "
            "--subword-method --batch-size -pm --prefix-match -bm --byte-match --magikarp --no-magikarp "
            "-nvn --new-vocab-noise -nvs --new-vocab-scale",
            _SURGERY,
        ),
    ),
    *_rows(
        Fate.refused,
        "mergekit-evolve",
        (
            "--max-fevals --vllm --no-vllm -s --strategy --in-memory --no-in-memory --storage-path --num-gpus "
            "--merge-cuda --no-merge-cuda --sigma0 --wandb --no-wandb --wandb-project --wandb-entity "
            "--task-search-path --save-final-model --no-save-final-model --reshard --no-reshard --timeout "
            "--force-population-size --i-understand-the-depths-of-the-evils-i-am-unleashing",
            _SEARCH,
        ),
    ),
)
"""Every flag of mergekit 0.1.5, and ``--verbose``, which older versions have."""

BY_NAME = {name: flag for flag in FLAGS for name in flag.names}
"""The flags by each of their spellings. One that several programs have is here once."""

PROGRAMS = {
    "mergekit-yaml": "use 'dovetail merge RECIPE OUT'",
    "mergekit-multi": "use 'dovetail merge RECIPE OUT', which merges recipes of several documents",
    "mergekit-mega": "use 'dovetail merge RECIPE OUT', which merges recipes of several documents",
    "mergekit-moe": "use 'dovetail moe RECIPE OUT'",
    "mergekit-extract-lora": "use 'dovetail extract-lora FINETUNED BASE OUT'",
    "mergekit-pytorch": "use 'dovetail merge RECIPE OUT', which merges models of any architecture",
    "mergekit-layershuffle": _SLICES,
    "bakllama": _SLICES,
    "mergekit-legacy": "write a recipe, and use 'dovetail merge RECIPE OUT'",
    "mergekit-tokensurgeon": _SURGERY,
    "mergekit-evolve": _SEARCH,
}
"""What to use instead of each program of mergekit's."""
