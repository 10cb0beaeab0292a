"""Addresses: their forms, and the secrets that they must not contain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.io.errors import UnsupportedError
from dovetail.io.remote.addresses import check_address, hub_parts, is_address, join, without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/a/b/", "https://host/a/b"),
        ("HTTP://host:8080/m.safetensors", "http://host:8080/m.safetensors"),
        ("hf://org/name", "hf://org/name"),
        ("hf://org/name@refs/pr/1", "hf://org/name@refs/pr/1"),
        ("s3://bucket/models/a b".replace(" ", "%20"), "s3://bucket/models/a%20b"),
    ],
)
def test_good_addresses(text: str, expected: str) -> None:
    """Each address is returned in its one form."""
    assert is_address(text)
    assert expected == check_address(text)
    assert expected == check_address(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://me:secret@host/a", "holds a user, a query or a fragment"),
        ("https://secret@host/a", "holds a user, a query or a fragment"),
        ("https://host/a?X-Amz-Signature=secret", "holds a user, a query or a fragment"),
        ("https://host/a#secret", "holds a user, a query or a fragment"),
        ("file:///etc/passwd", "has the scheme 'file'"),
        ("ftp://host/a", "has the scheme 'ftp'"),
        ("hf://name", "is malformed"),
        ("hf://org/../name", "is malformed"),
        ("https:///a", "names no host"),
        ("https://[::1/a", "is malformed"),
        ("https://host:port/a", "is malformed"),
        ("https://host/a b", "has blanks"),
        ("https://host/a\nb", "has blanks"),
        ("https://host/" + "a" * 3000, "is too long"),
    ],
)
def test_bad_addresses(text: str, reason: str) -> None:
    """Each is refused with its reason, and no secret is quoted."""
    with pytest.raises(UnsupportedError) as caught:
        check_address(text)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value).replace("without secrets", "")


@given(st.text(), st.sampled_from(["https://", "s3://", "hf://", ""]))
def test_any_text(text: str, scheme: str) -> None:
    """Any text is an address in its one form, or raises one of our errors."""
    try:
        checked = check_address(scheme + text)
    except UnsupportedError:
        return
    assert checked == without_secrets(checked) == check_address(checked)


def test_paths_are_no_addresses() -> None:
    """A path is no address, even with a colon."""
    for text in ("org/name", "/a/b", "C:/a", "a:b", "./x://y", ""):
        assert not is_address(text)


def test_parts() -> None:
    """Addresses of hubs are split into their parts, and file names are quoted."""
    commit = "0" * 40
    assert ("org/name", None, "") == hub_parts("hf://org/name")
    assert ("org/name", "refs/pr/1", "") == hub_parts("hf://org/name@refs/pr/1")
    assert ("org/name", commit, "a b") == hub_parts(f"hf://org/name@{commit}/a b")
    assert "https://host/a/%2e%2e%3Fx" == join("https://host/a", "%2e%2e?x").replace("%25", "%")
