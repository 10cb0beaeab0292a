"""Chat templates: by name, as text, or the most frequent; written where every reader looks."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import merge, plan
from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.vocabulary.templates import NAMES, choose_template
from dovetail.io.errors import CheckpointError
from tests.checkpoints import write_recipe
from tests.engine.planning.vocabulary.samples import copy_models, recipe, write_model

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi "},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
RENDERED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n"
    "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello"
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s> [INST] Be brief.\n\nHi  [/INST] Hello</s> [INST] Bye [/INST]",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n### Instruction:\nBye\n\n"
    "### Response:\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hi \n[|assistant|]Hello[|endofturn|]\n[|user|]Bye\n"
    "[|assistant|]",
}
"""The conversation in every format, as its makers describe it."""


def rendered(folder: Path, messages: list[dict[str, str]] = MESSAGES) -> str:
    """Read a conversation by the tokenizer of an output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


@pytest.mark.parametrize("name", NAMES)
def test_templates_by_name(tmp_path: Path, name: str) -> None:
    """Each gives what its format asks for; without other settings the tokenizer is the base model's."""
    models = copy_models(tmp_path)
    fitting = [write_model(tmp_path / "one", ["?", "a"])]
    (fitting[0] / "tokenizer_config.json").write_bytes((models["base"] / "tokenizer_config.json").read_bytes())
    write_recipe(tmp_path / "recipe.yml", **recipe(fitting, chat_template=name))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    assert RENDERED[name] == rendered(tmp_path / "out")
    assert (fitting[0] / "tokenizer.json").read_bytes() == (tmp_path / "out" / "tokenizer.json").read_bytes()
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == settings["chat_template"]


MERGEKIT = {
    "chatml": RENDERED["chatml"],
    "mistral": RENDERED["mistral"],
    "llama3": RENDERED["llama3"].replace("<|eot_id|>", "<|eot_id|>\n"),
    "alpaca": RENDERED["alpaca"].replace("</s>", "").replace("Bye\n\n", "Bye"),
    "exaone": "    [|system|]Be brief.\n        [|endofturn|]\n\n    [|user|]Hi \n        \n\n    [|assistant|]Hello\n"
    "        [|endofturn|]\n\n    [|user|]Bye\n        \n\n    [|assistant|]\n",
}
"""The conversation as mergekit 0.1.5 gives it, by its own templates."""


@pytest.mark.parametrize("name", NAMES)
def test_differences_from_mergekit(name: str) -> None:
    """Two templates give the text of mergekit; the others differ from it as the documentation says."""
    documented = {
        "llama3": ("<|eot_id|>\n", "<|eot_id|>"),
        "alpaca": ("Bye### Response", "Bye\n\n### Response"),
        "exaone": ("\n        [|endofturn|]", "[|endofturn|]"),
    }
    assert (MERGEKIT[name] == RENDERED[name]) == (name not in documented)
    if name in documented:
        theirs, ours = documented[name]
        assert (True, False) == (theirs in MERGEKIT[name], theirs in RENDERED[name])
        assert ours in RENDERED[name]
    page = (Path(__file__).parents[4] / "docs" / "vocabularies.md").read_text()
    assert (f"`{name}`: " in page) == (name in documented)


def test_alpaca_answers_instructions_alone(tmp_path: Path) -> None:
    """After an answer there is none to ask for."""
    folder = write_model(tmp_path / "one", ["?", "a"])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "a"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_recipe(tmp_path / "recipe.yml", **recipe([folder], chat_template="alpaca"))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert "### Instruction:\nHi\n\n### Response:\nHelloa" == rendered(tmp_path / "out", turns)


def test_exaone_begins_with_a_system_turn(tmp_path: Path) -> None:
    """Where a conversation has none, an empty one is put before it."""
    folder = write_model(tmp_path / "one", ["?", "a"])
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    write_recipe(tmp_path / "recipe.yml", **recipe([folder], chat_template="exaone"))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    expected = "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]"
    assert expected == rendered(tmp_path / "out", [{"role": "user", "content": "Hi"}])


def test_mistral_wants_turns(tmp_path: Path) -> None:
    """Two messages of the user in a row are refused by the template."""
    folder = write_model(tmp_path / "one", ["?", "a"])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "a", "eos_token": "a"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_recipe(tmp_path / "recipe.yml", **recipe([folder], chat_template="mistral"))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    with pytest.raises(Exception, match="user and assistant in turn"):
        rendered(tmp_path / "out", [{"role": "user", "content": "Hi"}] * 2)


def test_a_template_as_text(tmp_path: Path) -> None:
    """Anything with a brace is taken as it is, together with other settings of the tokenizer."""
    models = copy_models(tmp_path)
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    asked = recipe(list(models.values()), chat_template=text, tokenizer_source="union")
    write_recipe(tmp_path / "recipe.yml", **asked)
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    assert "user: Hi\n" == rendered(tmp_path / "out", [{"role": "user", "content": "Hi"}])


def test_the_most_frequent_template(tmp_path: Path) -> None:
    """Templates are counted wherever they stand; of equally frequent ones the first model's is taken."""
    folders = [write_model(tmp_path / str(number), ["?", "a"]) for number in range(4)]
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folders[0] / "chat_template.jinja").write_text("{{ 'first' }}\n")
    named = [{"name": "tools", "template": "{{ 1 }}"}, {"name": "default", "template": "{{ 'second' }}"}]
    (folders[1] / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    (folders[2] / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ 'second' }}\n"}))
    path = write_recipe(tmp_path / "recipe.yml", **recipe(folders, chat_template="auto"))
    merge(path, tmp_path / "out")
    assert "second" == rendered(tmp_path / "out")
    write_recipe(path, **recipe(folders[:2], chat_template="auto"))
    merge(path, tmp_path / "other")
    assert "{{ 'first' }}\n" == (tmp_path / "other" / "chat_template.jinja").read_text()
    write_recipe(path, **recipe(folders[3:], chat_template="auto"))
    assert ("chat_template is auto, and no model has a chat template.",) == plan(path).warnings


def test_a_template_in_a_mapping(tmp_path: Path) -> None:
    """Templates by name may be a mapping too; what is no text counts as none."""
    folder = write_model(tmp_path / "one", ["?", "a"])
    found = []
    for value in ({"default": " {{ 1 }} "}, {"other": "{{ 1 }}"}, 7, " "):
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
        write_recipe(tmp_path / "recipe.yml", **recipe([folder]))
        found.append(choose_template("auto", plan(tmp_path / "recipe.yml").checkpoints))
    assert ["{{ 1 }}", None, None, None] == found


def test_a_name_that_is_none(tmp_path: Path) -> None:
    """The error lists the names and suggests the nearest."""
    folder = write_model(tmp_path / "one", ["?", "a"])
    path = write_recipe(tmp_path / "recipe.yml", **recipe([folder], chat_template="chat-ml"))
    expected = (
        "chat_template is 'chat-ml'; expected auto, one of alpaca, chatml, exaone, llama3, mistral, or the text of a "
        "Jinja template; did you mean 'chatml'?"
    )
    with pytest.raises(RecipeError) as caught:
        plan(path)
    assert expected == str(caught.value)


def test_nothing_to_go_with(tmp_path: Path) -> None:
    """A template without a tokenizer is refused, and so is a file that is no text."""
    folder = write_model(tmp_path / "one", ["?", "a"])
    path = write_recipe(tmp_path / "recipe.yml", **recipe([folder], chat_template="chatml"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match="has no tokenizer to go with"):
        plan(path)
    write_recipe(path, **recipe([folder], chat_template="auto"))
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja is not UTF-8"):
        plan(path)
