"""Settings for every test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from dovetail.engine.run import warm
from dovetail.io.formats import torch_reader
from tests.torch_child import KeptChild

# A suite started in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a machine sets for its terminal must not decide how tables are printed; readline sets COLUMNS for all children.
for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
    os.environ.pop(name, None)

# Without byte code, each worker of a suite would compile all tests anew, and each process that a test starts all of
# Dovetail, which takes half a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says nothing of what is tested: on a busy machine, any can take long. Fixtures of pytest
# are made once for all examples, which the tests that have both allow for.
settings.register_profile(
    "dovetail",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# pytest --hypothesis-profile long: as many examples as one has the patience for.
settings.register_profile("long", settings.get_profile("dovetail"), max_examples=1000)
settings.load_profile("dovetail")


@pytest.fixture(autouse=True, scope="session")
def _one_child_lists_pytorch_files() -> Iterator[None]:
    """Let one child process list the tensors of all tests' PyTorch files: each child takes seconds to load PyTorch."""
    with KeptChild() as child, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_reader, "list_tensors", child.list_tensors)
        yield


@pytest.fixture(autouse=True, scope="session")
def _kernels_are_compiled_here() -> Iterator[None]:
    """Let this process compile what no cache has, not a child for each merge: each child takes more than a second
    before it begins. Commands in processes of their own, and `tests.engine.run.test_warm`, have their children.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "_compile_in_child", lambda needed: None)
        yield


@pytest.fixture(autouse=True)
def _signals_are_those_of_before() -> Iterator[None]:
    """End with each test what it does to signals: the command ignores them when it is about to end its process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
