"""The format of docs/add-a-format.md passes every contract: these are the tests that the page shows."""

from __future__ import annotations

from tests.npy_format import PAGE, shown

exec(compile(shown("test_npy_format.py").text, str(PAGE), "exec"))


def test_all_contracts_are_inherited() -> None:
    """The page's tests are those of sources, of sinks and of slots."""
    from tests.io.contracts.sinks import SinkTests, SlotTests
    from tests.io.contracts.sources import SourceTests

    found = [each for name, each in globals().items() if name.startswith("Test")]
    assert [[SinkTests], [SlotTests], [SourceTests]] == [
        [contract for contract in (SinkTests, SlotTests, SourceTests) if issubclass(each, contract)] for each in found
    ]
