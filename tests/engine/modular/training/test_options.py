"""Options of a training: defaults of the paper, and clear errors."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.training.options import TrainingOptions


def test_defaults_are_those_of_the_papers() -> None:
    """Without options a training is MwT's; other methods have their own weights."""
    options = TrainingOptions()
    assert ("mwt", 200, 128, 0.05, 0.0) == (
        options.method, options.epochs, options.batch, options.start_rate, options.decay
    )  # fmt: skip
    assert {"cohesion": 0.5, "coupling": 1.5} == options.terms
    assert {"affinity": 1.0, "dispersion": 1.0, "compactness": 0.3} == TrainingOptions("moda").terms
    assert {"cohesion": 0.5, "coupling": 1.9} == TrainingOptions(weights={"coupling": 1.9}).terms


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"method": "mtw"}, "method is 'mtw'; expected one of mwt, moda, nemo, standard"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of sgd, adamw"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"rate": float("nan")}, "rate is nan; expected a number above 0"),
        ({"decay": -1.0}, "decay is -1.0; expected a number from 0 on"),
        (
            {"weights": {"affinity": 1.0}},
            "method mwt has no term 'affinity'; expected one of its terms: cohesion, coupl",
        ),
        ({"weights": {"coupling": float("inf")}}, "the weight of coupling is inf; expected a finite number"),
        ({"patience": 0}, "patience is 0; expected at least 1"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, Any], text: str) -> None:
    """Every option is checked before anything is done."""
    with pytest.raises(RecipeError, match=text):
        TrainingOptions(**changes)
