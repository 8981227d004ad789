"""The directory of a local cluster, and `cluster.json` in it, which says what runs.

DIR/secret          the cluster secret, 0600
DIR/coordinator/    its data            DIR/node-1/ …   a node's data
DIR/logs/NAME.log   output of a process
DIR/cluster.json    the processes that run
DIR/lock            held by `sixfold up` while it runs; holds its pid
DIR/cluster.lock    held by whoever changes cluster.json
"""

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.errors import BadSetting, Conflict, NotFound

SECRET_BYTES = 32
PRIVATE_FILE, PRIVATE_DIR = 0o600, 0o700


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server as it was started last. `role` is the program: coordinator or shardd."""

    role: str
    name: str
    pid: int
    url: str
    data: str
    log: str
    argv: list[str]


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """What cluster.json says. `directory` is absolute."""

    url: str
    codec: str
    cluster_id: str
    directory: str
    processes: list[ServerProcess]

    def find(self, name: str) -> ServerProcess:
        """By `node-3`, `3` or `coordinator`. Raises NotFound."""
        wanted = f"node-{name}" if name.isdigit() else name
        for process in self.processes:
            if process.name == wanted:
                return process
        known = ", ".join(process.name for process in self.processes)
        raise NotFound(f"no process {name!r} in {self.directory}: there are {known}")

    def with_process(self, process: ServerProcess) -> "LocalCluster":
        """With `process` in the place of the one of the same name."""
        changed = [process if old.name == process.name else old for old in self.processes]
        return replace(self, processes=changed)


class LocalDirectory:
    """Where things are, and who may change them."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))  # as the servers' arguments show it
        self.secret = self.path / "secret"
        self.logs = self.path / "logs"
        self.cluster_json = self.path / "cluster.json"

    def data(self, name: str) -> Path:
        return self.path / name

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Raises BadSetting if the path cannot be a directory for us."""
        try:
            self.path.mkdir(PRIVATE_DIR, parents=True, exist_ok=True)
            _private(self.path / "lock")
        except FileExistsError:
            raise BadSetting(f"--dir {self.path}: {os.strerror(errno.ENOTDIR)}") from None
        except OSError as error:
            raise BadSetting(f"--dir {self.path}: {error.strerror}") from None

    def fill(self) -> None:
        """Make what is missing of what every process needs."""
        self.logs.mkdir(PRIVATE_DIR, exist_ok=True)
        if not self.secret.exists():
            write_atomically(self.secret, secrets.token_hex(SECRET_BYTES) + "\n")

    def node_numbers(self) -> list[int]:
        """Of the nodes that have data here."""
        names = (path.name.removeprefix("node-") for path in self.path.glob("node-*"))
        return sorted(int(name) for name in names if name.isdigit())

    def node_id(self, name: str) -> str | None:
        """Whose data lies under that name; None if there is none. Empty if it does not say: that
        is for the node itself to tell."""
        try:
            said = json.loads((self.data(name) / "node.json").read_text())
            return str(said["node_id"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, LookupError, TypeError):
            return ""

    def read(self) -> LocalCluster:
        """Raises NotFound if no cluster runs or was left here, BadSetting if nobody can tell."""
        try:
            said = json.loads(self.cluster_json.read_text())
            return LocalCluster(
                **{**said, "processes": [ServerProcess(**entry) for entry in said["processes"]]}
            )
        except (FileNotFoundError, NotADirectoryError):
            hint = f"start it with sixfold up --dir {self.path}"
            raise NotFound(f"no local cluster runs in {self.path}: {hint}") from None
        except (ValueError, LookupError, TypeError):
            raise BadSetting(f"{self.cluster_json} is not what sixfold up writes") from None

    def write(self, cluster: LocalCluster) -> None:
        write_atomically(self.cluster_json, json.dumps(asdict(cluster), indent=2) + "\n")

    @contextmanager
    def editing(self) -> Iterator[None]:
        """Nobody else changes cluster.json, or starts or ends processes of it, meanwhile."""
        with _private(self.path / "cluster.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Held by the one `sixfold up` of this directory. Raises Conflict if there is another."""
        with _private(self.path / "lock").open("a+") as file:
            if not _try_lock(file.fileno()):
                raise Conflict(
                    f"a sixfold up (pid {self.owner_pid()}) runs in {self.path} already: end it "
                    f"with Ctrl-C or sixfold local stop --dir {self.path}"
                )
            file.truncate(0)
            print(os.getpid(), file=file, flush=True)
            yield
            file.truncate(0)

    def owner_pid(self) -> int | None:
        """The pid of the `sixfold up` that holds the lock."""
        try:
            with (self.path / "lock").open() as file:
                return None if _try_lock(file.fileno()) else int(file.read())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None


def _try_lock(descriptor: int) -> bool:
    """Closing the descriptor gives it back."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private(path: Path) -> Path:
    path.touch(PRIVATE_FILE)
    return path


def write_atomically(path: Path, text: str) -> None:
    """Readers, of the same user only, see the old file or the new one, whole."""
    partial = _private(path.with_name(f".{path.name}.{os.getpid()}.part"))
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
