"""Signatures and passwords in addresses: nothing that is printed, logged or written ever holds one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.io.remote import http_connection, hub, retrying, side_files
from tests.checkpoints import cabs_recipe
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.server import Handler, Request, Site, serve

SECRET = "hunter2"


@pytest.fixture
def site(family: Family, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Serve the family as files and as models on a hub, each by a redirect to a signed address that is refused."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(http_connection, "_final", {})
    monkeypatch.setattr(side_files, "_fetched", {})
    monkeypatch.setattr(hub, "_known", {})
    for folder in (family.base, family.math, family.code):
        shutil.copytree(folder, family.home / "www" / "org" / folder.name)
    (family.home / "cache").mkdir()
    monkeypatch.chdir(family.home / "cache")
    monkeypatch.setenv("HF_HUB_CACHE", str(family.home / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def fault(handler: Handler, request: Request) -> bool:
        if SECRET in request.path:
            handler.reply(403, b"")
        elif request.method == "GET" and not request.path.startswith("/api/"):
            handler.reply(302, b"", {"Location": f"{site.address}{request.path}?signature={SECRET}"})
        else:
            return False
        return True

    with serve(family.home / "www", fault=fault) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.address)
        yield site


@pytest.mark.parametrize("model", ["{site}/org/base", "{site}/org/base/model.zarr", "hf://org/base", "org/base"])
@pytest.mark.parametrize("command", ["merge", "plan", "convert", "compare", "inspect"])
def test_redirects_to_signed_addresses(family: Family, site: Site, command: str, model: str) -> None:
    """An error after a redirect never shows the signed address, in text, JSON, tracebacks or files."""
    name = model.format(site=site.address)
    recipe = cabs_recipe(family.home / "signed.yml", name, [family.math])  # type: ignore[arg-type]
    arguments = {
        "merge": (recipe, family.out),
        "plan": (recipe,),
        "convert": (name, family.out),
        "compare": (name, family.math),
        "inspect": (name,),
    }[command]
    outcome = dovetail(command, *arguments, "--json", "--debug")
    assert 3 == outcome.code
    assert SECRET not in outcome.out + outcome.err
    assert not [path for path in family.home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


ADDRESSES = [
    f"https://me:{SECRET}@host/model",
    f"https://{SECRET}@host/model",
    f"https://host/model?token={SECRET}",
    f"https://host/model#{SECRET}",
    f"https://host/a model?token={SECRET}",
    f"https://host:port/model?token={SECRET}",
    f"ftp://me:{SECRET}@host/model",
    f"hf://org/name?token={SECRET}",
    f"s3://me:{SECRET}@bucket/model.zarr",
    f"https://host/model.zarr?signature={SECRET}",
    f"gs://me:{SECRET}@bucket/model",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "command", ["merge", "plan", "convert", "convert two", "compare", "inspect", "adapter", "convert adapter"]
)
def test_addresses_that_hold_secrets(family: Family, command: str, address: str) -> None:
    """An address with a password, a query or a fragment is refused, and the error does not quote it."""
    recipe = family.home / "secret.yml"
    cabs_recipe(recipe, family.base, [Path("MODEL")])
    model = f"{family.math}+{address}" if command == "adapter" else address
    recipe.write_text(recipe.read_text().replace("MODEL", f'"{model}"'))
    arguments = {
        "merge": ("merge", recipe, family.out),
        "adapter": ("merge", recipe, family.out),
        "plan": ("plan", recipe),
        "convert": ("convert", address, family.out),
        "convert two": ("convert", family.math, address, family.out),
        "convert adapter": ("convert", f"{family.math}+{address}", family.out),
        "compare": ("compare", address, family.math),
        "inspect": ("inspect", address),
    }[command]
    outcome = dovetail(*arguments, "--json", "--debug")
    assert outcome.code in (2, 3)
    assert SECRET not in outcome.out + outcome.err
    assert not family.out.exists()
