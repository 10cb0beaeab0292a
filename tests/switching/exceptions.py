"""Where Dovetail differs from mergekit on purpose; ``docs/switching.md`` says the same to users."""

from __future__ import annotations

DTYPES = {"arcee_fusion": ["bfloat16"]}
"""Recipes of which mergekit does not store the dtype that they ask for: what Dovetail stores."""

OWN_TEMPLATES = ("breadcrumbs-alpaca", "multislerp-keys-at-top")
"""Recipes with a template's name by which Dovetail gives the text of the format's makers."""

_TWICE = "A model may be listed twice."
_BERT = "mergekit 0.1.5 fails on every BERT."
_LAYER_TYPES = "mergekit changes the number of layers but not the list of their types, which transformers then refuses."
_OLDER = "An older form of a model's name is understood."
_MAPPING = "A mapping that is no parameter is ignored, with a warning."

MERGED = {
    "dare_linear-tokenizer-model": _OLDER,
    "dare_ties-density-gradients": _BERT,
    "dare_ties-nested-dare": _MAPPING,
    "karcher-seventeen": _TWICE,
    "linear-halves-of-one": _TWICE,
    "linear-layers-of-one": _TWICE,
    "linear-zero-weight-slices": _OLDER,
    "model_stock-models-twice": _TWICE,
    "passthrough-nested-names": _LAYER_TYPES,
    "passthrough-overlap": _LAYER_TYPES,
    "passthrough-six-overlaps": _LAYER_TYPES,
    "slerp-filter-beside-t": _BERT,
    "slerp-nested-words": _MAPPING,
    "ties-base-twice": _TWICE,
    "ties-base-weighted": _BERT,
}
"""Recipes that mergekit refuses and Dovetail merges: why."""
