"""A file system that behaves as NFS does on one machine: what other machines do is seen late, and only when looked for.

``python -m tests.nfs_client FOLDER --seconds 2`` mounts it over a folder, whose former content is the server. Several
of these, each in a mount namespace of its own (see `tests.nfs`), are machines that share the folder under one path.

- What is written stays on the client until the file is closed or synced; some of it goes earlier, in any order.
- What is read comes from the kernel's page cache until the file is opened anew.
- Names, listings and attributes are remembered for some seconds, also that a name is not there. A change that this
  client makes in a folder makes it look at that folder anew, and so does opening the folder; opening a file makes it
  look at the file's attributes; an error makes it look at the name that it was about.
- A file, or a folder, that another client has removed or replaced gives ESTALE to who has it open.
- A file that this client has open is removed by renaming it to ``.nfs...``, until it is closed.
- Locks hold among the processes of one client alone, and renaming has no flags.

It needs libfuse 3, ``pip install pyfuse3``, and root.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyfuse3
import trio

_EARLY = 0.1
"""How often a write makes some earlier one go to the server before its file is closed."""


@dataclass
class _File:
    """A file or folder that the kernel knows by number, as a file handle of NFS does."""

    descriptor: int
    """Of no access: it stands for the file whatever its name is, and keeps its number from being given away."""
    lookups: int = 0
    """How often the kernel has been told of it."""
    opened: int = 0
    """How often it is open on this client."""
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes that the server has not got, with their places, in order."""
    attributes: os.stat_result | None = None
    """What is remembered of its attributes."""
    seen: float = 0.0
    """When they were looked at, by the monotonic clock."""
    hidden: tuple[int, str] | None = None
    """Where it is, if this client has removed it while it was open: folder and name."""
    names: dict[str, tuple[float, int | None]] = field(default_factory=dict)
    """For a folder: until when a name is remembered, and the number behind it, or None if it was not there."""
    listing: tuple[float, list[str]] | None = None
    """For a folder: until when its listing is remembered, and the listing."""


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Give errors of the server to the kernel."""
    try:
        yield
    except OSError as error:
        raise pyfuse3.FUSEError(error.errno or errno.EIO) from None


def _stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


class Client(pyfuse3.Operations):  # type: ignore[misc]  # pyfuse3 has no types
    """One machine that has the folder mounted.

    Parameters
    ----------
    folder
        The folder on the server, which is opened before it is mounted over.
    seconds
        How long names, listings and attributes are remembered.
    seed
        Of what is written early.

    """

    def __init__(self, folder: str, seconds: float, seed: int) -> None:
        super().__init__()
        self.seconds, self.dice = seconds, random.Random(seed)
        root = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        self.root = os.fstat(root).st_ino
        self.files: dict[int, _File] = {pyfuse3.ROOT_INODE: _File(root, 1)}
        self.handles: dict[int, tuple[int, int]] = {}
        self.next_handle = 1

    # ---- files and their attributes

    def _number(self, found: os.stat_result) -> int:
        return pyfuse3.ROOT_INODE if found.st_ino == self.root else found.st_ino

    def _look(self, number: int, *, anew: bool) -> os.stat_result:
        """Give the attributes of a file, as the server has them or as they are remembered."""
        file = self.files[number]
        if file.attributes is None or anew or time.monotonic() > file.seen + self.seconds:
            file.attributes, file.seen = os.fstat(file.descriptor), time.monotonic()
            if file.attributes.st_nlink == 0:
                file.attributes = None
                self._forget_name(number)
                raise _stale()
        return file.attributes

    def _entry(self, number: int, *, anew: bool = False) -> Any:
        file, found, entry = self.files[number], self._look(number, anew=anew), pyfuse3.EntryAttributes()
        for name in ("mode", "nlink", "uid", "gid", "rdev", "blksize", "blocks", "atime_ns", "ctime_ns", "mtime_ns"):
            setattr(entry, f"st_{name}", getattr(found, f"st_{name}"))
        entry.st_ino, entry.generation = number, 0
        entry.st_size = max([found.st_size, *(place + len(data) for place, data in file.pending)])
        entry.attr_timeout = entry.entry_timeout = 0  # what is remembered is remembered here
        return entry

    def _known(self, folder: int, name: str) -> int:
        """Ask the server for a name; give the number behind it, which is remembered."""
        held = self.files[folder]
        self._look(folder, anew=False)
        try:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=held.descriptor)
        except FileNotFoundError:
            held.names[name] = (time.monotonic() + self.seconds, None)
            raise
        number = self._number(os.fstat(descriptor))
        if number in self.files:
            os.close(descriptor)
        else:
            self.files[number] = _File(descriptor)
        held.names[name] = (time.monotonic() + self.seconds, number)
        return number

    def _changed(self, folder: int) -> None:
        """Forget what is remembered of a folder, because this client changes it, or opens it."""
        held = self.files[folder]
        held.names.clear()
        held.listing = held.attributes = None

    def _forget_name(self, number: int) -> None:
        """Look a file's names up anew when they are used again, because it was found to be gone."""
        for held in self.files.values():
            held.names = {name: entry for name, entry in held.names.items() if entry[1] != number}

    @contextlib.contextmanager
    def _making(self, folder: int, name: bytes) -> Iterator[None]:
        """Look a name up anew after an error, as Linux does when something cannot be made."""
        try:
            yield
        except OSError:
            self.files[folder].names.pop(os.fsdecode(name), None)
            raise

    def _given(self, number: int) -> Any:
        """Tell the kernel of a file once more."""
        entry = self._entry(number)
        self.files[number].lookups += 1
        return entry

    async def lookup(self, folder: int, name: bytes, ctx: Any) -> Any:
        with _answering():
            until, number = self.files[folder].names.get(os.fsdecode(name), (0.0, None))
            if time.monotonic() < until:
                if number is None:
                    raise FileNotFoundError(errno.ENOENT, "remembered")
                with contextlib.suppress(OSError):  # gone: it is looked up anew
                    if number in self.files:
                        return self._given(number)
            return self._given(self._known(folder, os.fsdecode(name)))

    async def forget(self, counts: Any) -> None:
        for number, count in counts:
            file = self.files[number]
            file.lookups -= count
            if file.lookups <= 0 and not file.opened and number != pyfuse3.ROOT_INODE:
                os.close(file.descriptor)
                del self.files[number]

    async def getattr(self, number: int, ctx: Any) -> Any:
        with _answering():
            return self._entry(number)

    async def setattr(self, number: int, wanted: Any, fields: Any, handle: int | None, ctx: Any) -> Any:
        with _answering():
            self._push(number)
            path = f"/proc/self/fd/{self.files[number].descriptor}"
            if fields.update_size:
                os.truncate(path, wanted.st_size)
            if fields.update_mode:
                os.chmod(path, stat.S_IMODE(wanted.st_mode))
            if fields.update_atime or fields.update_mtime:
                found = os.stat(path)
                times = (
                    wanted.st_atime_ns if fields.update_atime else found.st_atime_ns,
                    wanted.st_mtime_ns if fields.update_mtime else found.st_mtime_ns,
                )
                os.utime(path, ns=times)
            return self._entry(number, anew=True)

    # ---- content

    async def create(self, folder: int, name: bytes, mode: int, flags: int, ctx: Any) -> tuple[Any, Any]:
        with _answering():
            how = os.O_CREAT | os.O_WRONLY | (flags & (os.O_EXCL | os.O_TRUNC))
            with self._making(folder, name):
                os.close(os.open(name, how, mode, dir_fd=self.files[folder].descriptor))
            self._changed(folder)
            number = self._known(folder, os.fsdecode(name))
            return self._opened(number, flags), self._given(number)

    async def open(self, number: int, flags: int, ctx: Any) -> Any:
        with _answering():
            self._look(number, anew=True)
            return self._opened(number, flags)

    def _opened(self, number: int, flags: int) -> Any:
        how = flags & (os.O_ACCMODE | os.O_TRUNC)
        descriptor = os.open(f"/proc/self/fd/{self.files[number].descriptor}", how)
        handle, self.next_handle = self.next_handle, self.next_handle + 1
        self.handles[handle] = (number, descriptor)
        self.files[number].opened += 1
        return pyfuse3.FileInfo(fh=handle)

    def _check(self, number: int) -> None:
        if os.fstat(self.files[number].descriptor).st_nlink == 0:
            raise _stale()

    async def read(self, handle: int, place: int, size: int) -> bytes:
        with _answering():
            number, descriptor = self.handles[handle]
            self._check(number)
            data = bytearray(os.pread(descriptor, size, place))
            for begin, written in self.files[number].pending:
                start, stop = max(begin, place), min(begin + len(written), place + size)
                if start < stop:
                    data.extend(bytes(max(0, stop - place - len(data))))
                    data[start - place : stop - place] = written[start - begin : stop - begin]
            return bytes(data)

    async def write(self, handle: int, place: int, data: bytes) -> int:
        with _answering():
            number, _ = self.handles[handle]
            self._check(number)
            file = self.files[number]
            file.pending.append((place, bytes(data)))
            if self.dice.random() < _EARLY:
                self._push(number, keep=self.dice.randrange(len(file.pending)))
            return len(data)

    def _push(self, number: int, keep: int = 0) -> None:
        """Send what is pending to the server, but for the writes that came first."""
        file = self.files[number]
        sent, file.pending = file.pending[keep:], file.pending[:keep]
        if sent:
            self._check(number)
            descriptor = os.open(f"/proc/self/fd/{file.descriptor}", os.O_WRONLY)
            try:
                for place, data in sent:
                    os.pwrite(descriptor, data, place)
            finally:
                os.close(descriptor)
            file.attributes = None

    async def flush(self, handle: int) -> None:
        with _answering():
            self._push(self.handles[handle][0])

    async def fsync(self, handle: int, data_only: bool) -> None:
        with _answering():
            self._push(self.handles[handle][0])

    async def release(self, handle: int) -> None:
        number, descriptor = self.handles.pop(handle)
        os.close(descriptor)
        file = self.files[number]
        file.opened -= 1
        if not file.opened and file.hidden is not None:
            folder, name = file.hidden
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            os.close(folder)
            file.hidden = None

    # ---- folders

    async def opendir(self, number: int, ctx: Any) -> int:
        with _answering():
            self._changed(number)
            self._look(number, anew=True)
        return number

    async def readdir(self, number: int, start: int, token: Any) -> None:
        with _answering():
            held = self.files[number]
            if held.listing is None or time.monotonic() > held.listing[0]:
                self._check(number)
                names = os.listdir(f"/proc/self/fd/{held.descriptor}")
                held.listing = (time.monotonic() + self.seconds, names)
            for place, name in enumerate(held.listing[1][start:], start + 1):
                try:
                    known = self._known(number, name)
                    entry = self._entry(known)
                except OSError:
                    continue  # removed since it was listed
                if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, place):
                    break
                self.files[known].lookups += 1

    async def releasedir(self, handle: int) -> None:
        pass

    async def fsyncdir(self, handle: int, data_only: bool) -> None:
        pass

    async def mkdir(self, folder: int, name: bytes, mode: int, ctx: Any) -> Any:
        with _answering():
            self._check(folder)
            with self._making(folder, name):
                os.mkdir(name, mode, dir_fd=self.files[folder].descriptor)
            self._changed(folder)
            return self._given(self._known(folder, os.fsdecode(name)))

    async def rmdir(self, folder: int, name: bytes, ctx: Any) -> None:
        with _answering():
            os.rmdir(name, dir_fd=self.files[folder].descriptor)
            self._changed(folder)

    async def unlink(self, folder: int, name: bytes, ctx: Any) -> None:
        with _answering():
            if not self._hide(folder, os.fsdecode(name)):
                os.unlink(name, dir_fd=self.files[folder].descriptor)
            self._changed(folder)

    def _hide(self, folder: int, name: str) -> bool:
        """Give a file that this client has open another name, until it is closed; give whether it has it open."""
        held = self.files[folder].descriptor
        found = os.stat(name, dir_fd=held, follow_symlinks=False)
        file = self.files.get(self._number(found))
        if file is None or not file.opened or stat.S_ISDIR(found.st_mode):
            return False
        hidden = f".nfs{found.st_ino:016x}{self.next_handle:08x}"
        os.rename(name, hidden, src_dir_fd=held, dst_dir_fd=held)
        file.hidden = (os.dup(held), hidden)
        return True

    async def rename(self, folder: int, name: bytes, other: int, new: bytes, flags: int, ctx: Any) -> None:
        with _answering():
            if flags:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            with contextlib.suppress(FileNotFoundError):
                self._hide(other, os.fsdecode(new))
            source, target = self.files[folder].descriptor, self.files[other].descriptor
            with self._making(folder, name):
                os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
            self._changed(folder)
            self._changed(other)

    async def symlink(self, folder: int, name: bytes, target: bytes, ctx: Any) -> Any:
        with _answering():
            with self._making(folder, name):
                os.symlink(target, name, dir_fd=self.files[folder].descriptor)
            self._changed(folder)
            return self._given(self._known(folder, os.fsdecode(name)))

    async def readlink(self, number: int, ctx: Any) -> bytes:
        with _answering():
            return os.fsencode(os.readlink("", dir_fd=self.files[number].descriptor))

    async def statfs(self, ctx: Any) -> Any:
        found, data = os.fstatvfs(self.files[pyfuse3.ROOT_INODE].descriptor), pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(data, f"f_{name}", getattr(found, f"f_{name}"))
        return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long names and attributes are remembered [2]")
    parser.add_argument("--seed", type=int, default=0, help="of what is written early")
    options = parser.parse_args()
    client = Client(options.folder, options.seconds, options.seed)
    pyfuse3.init(client, options.folder, {*pyfuse3.default_options, "fsname=dovetail-nfs"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
