"""Hosts of a network on this machine: namespaces with an address and a name each, joined by a bridge of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

_NET = "10.213.77"
"""Addresses, which are seen by nobody else: the network has no way out."""


class NoNetworkError(RuntimeError):
    """Namespaces cannot be made here."""


class Network:
    """Hosts that see each other, and the files of this machine.

    Parameters
    ----------
    names
        What they are called.

    """

    def __init__(self, names: Sequence[str]) -> None:
        self._own = f"dovetail-{os.getpid()}"
        self._switch = f"{self._own}-switch"
        self.addresses = {name: f"{_NET}.{number}" for number, name in enumerate(names, 1)}

    def make(self, stack: contextlib.ExitStack) -> None:
        """Make all of it, to be removed when the stack is closed."""
        for space in (self._switch, *map(self._space, self.addresses)):
            _ip("netns", "add", space)
            stack.callback(_ip, "netns", "del", space)
            _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name, address in self.addresses.items():
            space = self._space(name)
            _ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", name, "netns", self._switch)
            _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")

    def on(self, name: str) -> list[str]:
        """Give the words that put a command on a host."""
        named = 'hostname "$0" && exec "$@"'
        return ["ip", "netns", "exec", self._space(name), "unshare", "--uts", "sh", "-c", named, name]

    def cut(self, name: str) -> None:
        """Pull the cable of a host: nothing reaches it any more, and nobody is told."""
        _ip("-n", self._switch, "link", "set", name, "down")

    def join(self, name: str) -> None:
        """Put the cable back."""
        _ip("-n", self._switch, "link", "set", name, "up")

    def remote_shell(self, path: Path) -> Path:
        """Write a program that is called as ``ssh``, and runs a command on the host that has an address."""
        cases = "".join(
            f'{address}) exec {" ".join(self.on(name)[:-3])} -c \'hostname {name}; exec sh -c "$0"\' "$*" ;;\n'
            for name, address in self.addresses.items()
        )
        path.write_text(
            f'#!/bin/sh\nwhile [ "${{1#-}}" != "$1" ]; do shift; done\nhost=$1; shift\ncase "$host" in\n{cases}esac\n'
            'echo "no host $host" >&2; exit 1\n'
        )
        path.chmod(0o755)
        return path

    def _space(self, name: str) -> str:
        return f"{self._own}-{name}"


@contextlib.contextmanager
def network(*names: str) -> Iterator[Network]:
    """Make hosts during the block.

    Raises
    ------
    NoNetworkError
        The user is not root, a program is missing, or the system does not allow it.

    """
    missing = [program for program in ("ip", "unshare", "hostname") if shutil.which(program) is None]
    if missing:
        raise NoNetworkError(
            f"{', '.join(missing)} not found; expected it; apt-get install iproute2 util-linux hostname"
        )
    if os.geteuid() != 0:
        raise NoNetworkError("the user is not root; expected root, who makes network namespaces")
    found = Network(names)
    with contextlib.ExitStack() as stack:
        try:
            found.make(stack)
        except RuntimeError as error:
            raise NoNetworkError(str(error)) from error
        yield found  # what fails from now on is no reason to skip anything


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)} is refused: {done.stderr.strip()}")
