"""Downloads to files and terminals: never under an unsafe name, never half a file."""

import codecs
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from skillfleet_cli.exits import CommandError, ExitCode
from skillfleet_cli.output import write_text


def target_file(name: str, output: str | None) -> Path:
    """Return the file to write; the name of a download never leads out of the chosen folder."""
    if output is not None and not Path(output).is_dir():
        return Path(output)
    base = Path(name.replace("\\", "/")).name
    if base in {"", ".", ".."} or not base.isprintable():
        raise CommandError(f"{name!r} is not a safe file name: choose one with -o FILE")
    target = Path(output or ".") / base
    if target.exists():
        raise CommandError(f"{target} already exists: choose a file with -o FILE")
    return target


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `target` only when it is complete."""
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as device:
                yield device
            return
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
            try:
                yield file  # type: ignore[misc]
            except BaseException:
                Path(file.name).unlink()
                raise
        Path(file.name).chmod(0o666 & ~_umask())
        Path(file.name).replace(target)
    except OSError as error:
        if error.strerror is None:
            # The fleet's errors may be OSErrors, too.
            raise
        raise CommandError(f"cannot write {target}: {error.strerror}", ExitCode.FAILED) from error


class TerminalWriter:
    """A writer of bytes as text on a terminal; invalid UTF-8 is shown as escapes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: bytes) -> None:
        """Write all complete characters."""
        write_text(self._decoder.decode(data))

    def flush(self) -> None:
        """Write the rest: an incomplete character."""
        write_text(self._decoder.decode(b"", final=True))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
