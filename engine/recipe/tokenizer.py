"""How a recipe says that the tokenizer is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.problems import Strict, problem
from dovetail.engine.recipe.scalars import Switch, Whole


def _word_or_model(value: Any) -> str:
    return "word" if value in ("union", "base") else "model"


def _embedding_or_model(value: Any) -> str:
    return (
        "embedding" if isinstance(value, TokenEmbedding) or (isinstance(value, dict) and "kind" in value) else "model"
    )


def _without_prefix(value: Any) -> Any:
    """Read ``model:NAME``, mergekit's older form of NAME."""
    return value.removeprefix("model:").strip() if isinstance(value, str) else value


TokenizerSource = Annotated[
    Annotated[Literal["union", "base"], Tag("word")] | Annotated[ModelRef, Tag("model")],
    Discriminator(_word_or_model),
    BeforeValidator(_without_prefix),
]
"""Where the tokenizer comes from."""


class TokenEmbedding(Strict):
    """Where the embedding of a token comes from, other than a model's token of the same name."""

    kind: Literal["zero", "model_token"]
    """All zeros, or another token."""
    model: ModelRef | None = None
    """Model of the other token."""
    token: str | None = None
    """The other token."""
    token_id: Whole | None = None
    """The other token's number."""

    @model_validator(mode="after")
    def _check_token(self) -> TokenEmbedding:
        if self.kind == "zero":
            return self
        if self.model is None or (self.token is None) == (self.token_id is None):
            raise problem("does not name one token", "'model' and one of 'token' and 'token_id'")
        return self


class Token(Strict):
    """How a token is made."""

    source: (
        Annotated[
            Annotated[TokenEmbedding, Tag("embedding")] | Annotated[ModelRef, Tag("model")],
            Discriminator(_embedding_or_model),
        ]
        | None
    ) = None
    """Where its embedding comes from."""
    force: Switch = False
    """Whether models that have the token take this embedding too."""


class Tokenizer(Strict):
    """How the tokenizer is made."""

    source: TokenizerSource = "union"
    """Where its vocabulary comes from."""
    tokens: dict[str, Token] | None = None
    """Single tokens."""
    pad_to_multiple_of: Annotated[Whole, Field(ge=1)] | None = None
    """The vocabulary's size is rounded up to a multiple of this."""

    def references(self) -> list[ModelRef]:
        """Every model that it names."""
        named = [self.source, *(token.source for token in (self.tokens or {}).values())]
        models = [item.model if isinstance(item, TokenEmbedding) else item for item in named]
        return [model for model in models if isinstance(model, ModelRef)]
