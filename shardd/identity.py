"""Who a data directory is: `node.json`, and the lock that keeps a second process out.

The directory and its folders are held open (held.py): a disk that is exchanged or unmounted under a
running node takes nothing that the node writes. `check` sees that it is not in its place any more.
"""

import errno
import fcntl
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from common.errors import BadSetting, Conflict, Unavailable, WrongCluster, WrongNode
from shardd.disk import Disk, RealDisk, make_folder, passes, read_file, write_durably
from shardd.sealed_json import seal, unseal

FILE_NAME = "node.json"
LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Identity:
    """Ids are 32 hex digits. Before the first join `cluster_id` is empty and `number` is 0.

    `epoch` is the highest of the metadata database that this node was told of: not a part of who
    it is, but what shows that the database was replaced by an older one.
    """

    cluster_id: str
    node_id: str
    name: str
    number: int
    epoch: int = field(default=0, compare=False)

    @property
    def cluster_bytes(self) -> bytes:
        """16 bytes; zeros before the first join."""
        return bytes.fromhex(self.cluster_id) or bytes(16)

    @property
    def node_bytes(self) -> bytes:
        return bytes.fromhex(self.node_id)


class DataDirectory:
    """One node's directory, locked while this object is open."""

    def __init__(self, path: Path, name: str | None = None, disk: Disk | None = None) -> None:
        """Opens or creates the directory. Raises WrongNode if it belongs to a node not called
        `name`, Conflict if another process has it open, BadSetting if it cannot be used."""
        self.path = path
        self.volumes, self.quarantine = path / "volumes", path / "quarantine"
        self.index = path / "index.db"
        self._folders = (path, self.volumes, self.quarantine)
        self._disk = disk or RealDisk()
        self._changing = threading.Lock()  # `identity`, in memory and on disk
        self._lock_fd = self._lock()
        try:
            self._hold_what_is_locked()
            self.identity = self._load_or_create(name)
            for folder in (self.volumes, self.quarantine):
                make_folder(self._disk, folder)
                self._disk.hold(folder)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> int:
        """Comes before `hold`: what is held, is held for the whole process, so that only who has
        the lock may change it."""
        with self._usable():
            make_folder(self._disk, self.path)
            return _lock(self.path)

    def _hold_what_is_locked(self) -> None:
        with self._usable():
            self._disk.hold(self.path)
            if not _is_lock_in(self.path, self._lock_fd):
                raise Conflict(f"{self.path} was exchanged while it was being opened")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadSetting(f"data {self.path}: {error.strerror}") from None

    def _load_or_create(self, name: str | None) -> Identity:
        try:
            identity = self._read()
        except FileNotFoundError:
            # A directory that holds volumes but lost its identity must not become a new node.
            if self._has_volumes():
                raise WrongNode(f"{self.path} holds volumes but no {FILE_NAME}") from None
            return self._create(name)
        if name and name != identity.name:
            raise WrongNode(f"{self.path} belongs to node {identity.name!r}, not {name!r}")
        return identity

    def _has_volumes(self) -> bool:
        try:
            return any(name.endswith(".vol") for name in self._disk.names(self.volumes))
        except FileNotFoundError:
            return False

    def _create(self, name: str | None) -> Identity:
        node_id = uuid.uuid4().hex
        identity = Identity("", node_id, name or f"node-{node_id[:8]}", 0)
        self._write(identity)
        return identity

    def join(self, cluster_id: str, number: int) -> None:
        """Note durably which cluster this is a node of, and under which number. Raises
        WrongCluster if it already is a node of another."""
        known = self.identity
        if known.cluster_id and known.cluster_id != cluster_id:
            raise WrongCluster(
                f"{self.path} belongs to cluster {known.cluster_id}, not {cluster_id}"
            )
        joined = replace(known, cluster_id=cluster_id, number=number)
        if joined != known:
            self._replace(joined)

    def note_epoch(self, epoch: int) -> None:
        """Remember durably that the metadata database has come to this epoch. Only a higher one is
        written: with one coordinator process that is once in 15 s. Raises OSError, WrongNode."""
        if epoch > self.identity.epoch:
            self._replace(replace(self.identity, epoch=epoch))

    def _replace(self, identity: Identity) -> None:
        self.check()
        with self._changing:
            self._write(identity)
            self.identity = identity

    def check(self) -> None:
        """Raises WrongNode unless the directory is where it was and still is this node's, or
        Unavailable if that cannot be found out just now. What is written goes into the directory
        that was opened, wherever that is; but nobody would look for it there."""
        try:
            with self._changing:
                found, known = self._read(), self.identity
            moved = [one for one in self._folders if not self._disk.is_in_place(one)]
        except (OSError, BadSetting) as error:
            if isinstance(error, OSError) and passes(error):
                raise Unavailable(f"{self.path} cannot be looked at now: {error}") from None
            raise WrongNode(f"{self.path} is no longer readable as this node: {error}") from None
        if moved:
            raise WrongNode(f"{moved[0]} is not the directory that was opened{self._whose()}")
        if found != known:
            raise WrongNode(f"{self.path} now holds another node: {found.name!r}")

    def _whose(self) -> str:
        """What is there instead, as far as that can be told."""
        try:
            name = str(unseal((self.path / FILE_NAME).read_bytes())["name"])
        except (OSError, ValueError, KeyError):
            return ", and no longer readable as this node"
        return "" if name == self.identity.name else f", but that of another node: {name!r}"

    def close(self) -> None:
        """Give up the lock. Twice is harmless."""
        if self._lock_fd < 0:
            return
        for folder in self._folders:
            self._disk.let_go(folder)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def _read(self) -> Identity:
        """Raises FileNotFoundError, or BadSetting if it is not a node's identity."""
        path = self.path / FILE_NAME
        try:
            identity = Identity(**unseal(read_file(self._disk, path)))
            well_formed = len(identity.node_bytes) == 16 and len(identity.cluster_bytes) == 16
        except (ValueError, TypeError, AttributeError):
            well_formed = False
        if not well_formed:
            raise BadSetting(f"{path} is damaged: not a node's identity")
        return identity

    def _write(self, identity: Identity) -> None:
        write_durably(self._disk, self.path / FILE_NAME, seal(asdict(identity)))


def _open_lock(path: Path) -> int:
    try:
        return RealDisk().open(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return RealDisk().open(path, os.O_RDONLY)  # what is there can be read


def _is_lock_in(path: Path, lock_fd: int) -> bool:
    """Whether it is the lock of the directory that is held now. Raises OSError."""
    try:
        fd = RealDisk().open(path / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return os.path.sameopenfile(fd, lock_fd)
    finally:
        os.close(fd)


def _lock(path: Path) -> int:
    fd = _open_lock(path / LOCK_NAME)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Conflict(f"{path} is in use by another process") from None
    return fd
