"""Libraries that wait for a server as long as it likes are waited for only so long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.io.errors import RemoteError
from dovetail.io.remote import http_connection, hub, limited, retrying
from dovetail.io.remote.hub_models import MAX_ANSWER_BYTES, parse_model
from dovetail.io.remote.limited import answer, download
from dovetail.io.remote.stores import ask
from tests.io.remote.test_paced import DRIPPED, PATIENCE_S, _dripped, site  # noqa: F401  a fixture
from tests.server import COMMIT, Handler, Request, Site


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Give what does not come to pass before the end of the test, when threads that wait for it end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def on_hub(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:  # noqa: F811  a fixture
    """Make the site a hub with a model of two files, and the cache empty."""
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "org" / "model" / "model.safetensors").write_bytes(bytes(40))
    (tmp_path / "org" / "model" / "config.json").write_text("{}")
    monkeypatch.setenv("HF_ENDPOINT", site.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(hub, "_known", {})
    return site


def test_answers() -> None:
    """An answer is given, and an error is raised, as it is; even one that says that something took too long."""
    assert 7 == answer(lambda: 7, 1)
    with pytest.raises(KeyError, match="gone"):
        answer(lambda: {}["gone"], 1)

    def late() -> None:
        raise TimeoutError("their own")

    with pytest.raises(TimeoutError, match="their own"):
        answer(late, 1)


def test_a_store_that_never_answers(never: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to a store of fsspec is given up when it has had the time that its bytes allow."""
    monkeypatch.setattr(limited, "READ_TIMEOUT_S", 0.05)
    monkeypatch.setattr(retrying, "ATTEMPTS", 1)
    with pytest.raises(RemoteError, match=r"s3://bucket/x cannot be read \(no answer in time\) after 1 attempt"):
        ask(lambda: None, lambda store: never.wait(), "s3://bucket/x", 1)


def test_downloads(never: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download is waited for as long as bytes come, and they are not more than was announced."""
    assert 7 == download(lambda: 7, tmp_path, 1)
    monkeypatch.setattr(limited, "STALL_S", 0.05)
    monkeypatch.setattr(limited, "LOOK_AGAIN_S", 0.01)
    with pytest.raises(TimeoutError, match="no answer in time"):
        download(never.wait, tmp_path, 1)

    def too_much() -> None:
        (tmp_path / "file").write_bytes(bytes(100))
        never.wait()

    monkeypatch.setattr(limited, "STALL_S", 3_600.0)
    with pytest.raises(OverflowError, match="more than 99 bytes came"):
        download(too_much, tmp_path, 99)


@pytest.mark.parametrize("case", DRIPPED)
def test_hubs_that_drip(on_hub: Site, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that spreads its description of a model over hours is given up in the time of a slow answer."""
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_S", PATIENCE_S)
    on_hub.fault = DRIPPED[case]
    with pytest.raises(RemoteError, match=r"'org/model' of http://127\.0\.0\.1:\d+ cannot be read \(no answer in ti"):
        hub.look_up("org/model", None)


def test_hubs_that_drip_files(on_hub: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that brings a byte now and then is given up, and says how slow it was."""
    monkeypatch.setattr(limited, "STALL_S", 0.3)
    drip = _dripped(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n", b"b", b"")

    def fault(handler: Handler, request: Request) -> bool:
        return request.name == "model.safetensors" and request.method == "GET" and drip(handler, request)

    on_hub.fault = fault
    with pytest.raises(RemoteError, match=r"model 'org/model' cannot be read from .* \(less than 16 KiB/s"):
        hub.download("org/model", None, lambda text: None)


LIES = {
    "no commit": (b'{"siblings": []}', "the commit None"),
    "a commit that is a path": (b'{"sha": "../../x"}', "the commit '../../x'"),
    "not JSON": (b"<html>", "is not JSON"),
    "files that are none": (f'{{"sha": "{COMMIT}", "siblings": [7]}}'.encode(), "lists 7 as a file"),
    "a list that is none": (f'{{"sha": "{COMMIT}", "siblings": {{"a": 1}}}}'.encode(), "lists {'a': 1} as the files"),
    "a file elsewhere": (f'{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "../x"}}]}}'.encode(), "as a file"),
    "less than nothing": (
        f'{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "x", "size": -1}}]}}'.encode(),
        "as a file",
    ),
    "too long": (b" " * (MAX_ANSWER_BYTES + 1), "is too long"),
}


@pytest.mark.parametrize("lie", LIES)
def test_hubs_that_lie(lie: str) -> None:
    """What a hub says of a model is checked before it is believed."""
    raw, text = LIES[lie]
    with pytest.raises(RemoteError) as caught:
        parse_model(raw, "org/model")
    assert text in str(caught.value)
