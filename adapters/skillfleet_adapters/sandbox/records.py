"""The records of this machine's sandboxes: what the next worker ends after a crash."""

import contextlib
import os
import signal
import stat
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from skillfleet.errors import SandboxUnavailable

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATIENCE_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.02
_WRITE_SECONDS: Final = 60.0
"""More than lies between two writes of one sandbox."""


@dataclass(frozen=True)
class SandboxRecord:
    """One sandbox: its process, its folder and the labels of its attempt."""

    id: str
    fleet: str
    run_id: str
    lease: str
    pid: int = 0
    """The process on this machine; 0 before it has started."""
    started: str = ""
    """The start time of the process, since ids are used again."""
    graceful: bool = False
    """True where SIGTERM lets the supervisor kill the rest; else SIGKILL does."""


class SandboxRecords:
    """The records of one fleet in a folder that no other user can write.

    Concurrency: any number of processes of the same user.
    """

    def __init__(self, folder: Path, fleet: str) -> None:
        self._records = folder / "records"
        self._folders = folder / "folders"
        self._root = folder
        self._fleet = fleet

    def open(self) -> None:
        """Create the folders; raises SandboxUnavailable for one of another user."""
        for path, mode in ((self._root, 0o711), (self._records, 0o700), (self._folders, 0o711)):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=mode, parents=path == self._root)
                path.chmod(mode)
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise SandboxUnavailable(f"{path} is not a folder of this user")
            if stat.S_IMODE(found.st_mode) & 0o022:
                raise SandboxUnavailable(f"{path} can be written by other users")

    def folder(self, name: str) -> Path:
        """Return the path of a sandbox's own folder on this machine."""
        return self._folders / name

    def write(self, record: SandboxRecord) -> None:
        """Write or replace a record."""
        path = self._path(record.id)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(asdict(record)))
        fresh.replace(path)

    def all(self) -> list[SandboxRecord]:
        """Return the fleet's records."""
        found = (_read(path) for path in self._records.glob("*.json"))
        return [each for each in found if each is not None and each.fleet == self._fleet]

    def sweep(self) -> None:
        """Delete what a process left that was killed, or a disk that was full, between two writes.

        That is a record that was not yet in place, one that cannot be read, and a folder without
        a record; each only when it is older than any write takes.
        """
        for path in self._records.iterdir():
            if _is_old(path) and (path.suffix != ".json" or _read(path) is None):
                path.unlink(missing_ok=True)
        for folder in self._folders.iterdir():
            if _is_old(folder) and not self._path(folder.name).exists():
                delete(folder)

    def started(self, record: SandboxRecord, pid: int) -> SandboxRecord:
        """Add the process to a record."""
        record = replace(record, pid=pid, started=start_time(pid))
        self.write(record)
        return record

    def runs(self, record: SandboxRecord) -> bool:
        """Return whether the sandbox's process lives."""
        return bool(record.pid) and start_time(record.pid) == record.started

    def begins(self, record: SandboxRecord) -> bool:
        """Return whether the sandbox's process may be about to start."""
        return not record.pid and not _is_old(self._path(record.id))

    def end(self, record: SandboxRecord) -> None:
        """End a sandbox's processes, and delete its folder and its record.

        Blocks up to some seconds. The processes may be those of a dead worker.
        """
        if self.runs(record):
            _end_process(record)
        delete(self.folder(record.id))
        self._path(record.id).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._records / f"{name}.json"


def _read(path: Path) -> SandboxRecord | None:
    """Return the record in a file; None for none, also for a file that is gone."""
    try:
        return SandboxRecord(**orjson.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > _WRITE_SECONDS
    except FileNotFoundError:
        return False


def start_time(pid: int) -> str:
    """Return the start time of a process, "" for none and for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def delete(folder: Path) -> None:
    """Delete a folder with everything in it, also what its owner made unreadable.

    Any depth needs two descriptors and no recursion, and no name leads through a link.
    """
    with contextlib.suppress(OSError):
        _make_accessible(folder)
        _delete_content(folder)
        folder.rmdir()


def _delete_content(top: Path) -> None:
    here = os.open(top, _FOLDER)
    above: list[tuple[str, list[str], os.stat_result]] = []
    try:
        left = _unlink_files(here)
        while left or above:
            if left:
                name, before = left.pop(), here
                here = os.open(name, _FOLDER, dir_fd=before)
                above.append((name, left, os.fstat(before)))
                os.close(before)
                left = _unlink_files(here)
            else:
                (name, left, known), before = above.pop(), here
                here = os.open("..", _FOLDER, dir_fd=before)
                os.close(before)
                if not os.path.samestat(os.fstat(here), known):
                    return
                os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)


def _unlink_files(folder: int) -> list[str]:
    """Delete all but the folders in an open one; return these."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    folders = []
    for name in names:
        if _make_accessible(name, folder):
            folders.append(name)
        else:
            os.unlink(name, dir_fd=folder)
    return folders


def _make_accessible(name: str | Path, above: int | None = None) -> bool:
    """Return whether the name is that of a folder, which may now be emptied."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
        return False
    folder = os.open(name, os.O_PATH | _FOLDER, dir_fd=above)
    try:
        # Another name of what was opened, so that no link takes its place.
        Path(f"/proc/self/fd/{folder}").chmod(0o700)
    finally:
        os.close(folder)
    return True


def _end_process(record: SandboxRecord) -> None:
    first = signal.SIGTERM if record.graceful else signal.SIGKILL
    for number in (first, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
        end = time.monotonic() + _PATIENCE_SECONDS
        while start_time(record.pid) == record.started and time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)
