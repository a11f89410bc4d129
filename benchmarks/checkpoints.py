"""`python -m benchmarks.checkpoints`: measures checkpoints beside tar with zstd, and restic.

One folder of 10,000 files and 200 MB, a quarter of it incompressible. In each round every system
in turn makes the first snapshot, one after 1 % of the files changed, and restores that.
"""

import asyncio
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from skillfleet.ports.provider import AdapterEnvironment
from skillfleet_adapters.checkpoint.archive import create

FILES = 10_000
MEAN_BYTES = 20_000
STEPS = ("first", "changed", "restore")
WORDS = 5000

console = Console(width=100)


class Archive:
    """This fleet's checkpoints, in a folder as the object store."""

    def __init__(self, base: Path) -> None:
        variables = {"SKILLFLEET_CHECKPOINTS_URL": f"file://{base}"}
        self.client = create(AdapterEnvironment(variables=variables)).client()

    def snapshot(self, folder: Path) -> None:
        """Make a checkpoint."""
        self.id = asyncio.run(self.client.create(folder)).id

    def restore(self, folder: Path, target: Path) -> None:
        """Restore the last one."""
        asyncio.run(self.client.restore(folder, self.id, into=target))


class Tar:
    """One archive for each snapshot."""

    def __init__(self, base: Path) -> None:
        self.file = base / "snapshot.tar.zst"

    def snapshot(self, folder: Path) -> None:
        """Make a whole archive."""
        files = ["-cf", str(self.file), "-C", str(folder), "."]
        command = ["tar", "--sparse", "-I", "zstd -3 -T0", *files]
        subprocess.run(command, check=True)

    def restore(self, folder: Path, target: Path) -> None:
        """Unpack it."""
        del folder
        target.mkdir()
        subprocess.run(["tar", "-I", "zstd", "-xpf", self.file, "-C", target], check=True)


class Restic:
    """A repository of restic."""

    def __init__(self, base: Path) -> None:
        self.environment = {**os.environ, "RESTIC_REPOSITORY": str(base), "RESTIC_PASSWORD": "x"}
        self._run("init")

    def snapshot(self, folder: Path) -> None:
        """Make a snapshot."""
        self._run("backup", ".", cwd=folder)

    def restore(self, folder: Path, target: Path) -> None:
        """Restore the last one."""
        del folder
        self._run("restore", "latest", "--target", str(target))

    def _run(self, *arguments: str, cwd: Path | None = None) -> None:
        command = ["restic", "-q", "--no-cache", *arguments]
        subprocess.run(command, check=True, env=self.environment, cwd=cwd)


SYSTEMS: dict[str, Callable[[Path], Archive | Tar | Restic]] = {
    "archive": Archive,
    "tar+zstd": Tar,
    "restic": Restic,
}


def make(folder: Path) -> None:
    """Write the folder's files."""
    chance = random.Random(1)  # noqa: S311 - the same folder every time
    words = [b"w%d " % chance.randrange(9999) for _ in range(WORDS)]
    for number in range(FILES):
        path = _path(folder, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        length = int(chance.expovariate(1 / MEAN_BYTES)) + 10
        text = b"".join(chance.choices(words, k=length // 5 + 1))[:length]
        path.write_bytes(text if number % 4 else chance.randbytes(length))


def _path(folder: Path, number: int) -> Path:
    return folder / f"d{number % 100}" / f"e{number % 7}" / f"f{number}.txt"


def change(folder: Path) -> None:
    """Append to one file in a hundred."""
    for number in range(0, FILES, 100):
        with _path(folder, number).open("ab") as file:
            file.write(b"changed")


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    folder: Annotated[Path | None, typer.Option(help="Where to work.")] = None,
) -> None:
    """Print the medians over the rounds, in seconds."""
    found: dict[str, dict[str, list[float]]] = {
        name: {step: [] for step in STEPS} for name in SYSTEMS
    }
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        base = Path(temporary)
        make(base / "tree")
        # Files are read again while they are young.
        time.sleep(2.1)
        for number in range(rounds):
            _round(base, number, found)
    shown = Table("system", *(f"{step} (s)" for step in STEPS))
    medians = {
        name: {step: statistics.median(times[step]) for step in STEPS}
        for name, times in found.items()
    }
    for name, times in medians.items():
        shown.add_row(name, *(f"{times[step]:.2f}" for step in STEPS))
    console.print(shown)
    archive = medians["archive"]
    console.print(
        f"first: {archive['first'] / medians['tar+zstd']['first']:.2f} of tar+zstd;"
        f" changed: {archive['changed'] / medians['restic']['changed']:.2f} of restic;"
        f" restore: {archive['restore'] / medians['restic']['restore']:.2f} of restic"
    )


def _round(base: Path, number: int, found: dict[str, dict[str, list[float]]]) -> None:
    systems = {}
    for name, system in SYSTEMS.items():
        store = base / f"{name}-{number}"
        store.mkdir()
        systems[name] = system(store)
    tree = base / "tree"
    for name, made in systems.items():
        found[name]["first"].append(_timed(partial(made.snapshot, tree)))
    change(tree)
    for name, made in systems.items():
        found[name]["changed"].append(_timed(partial(made.snapshot, tree)))
    target = base / "restored"
    for name, made in systems.items():
        found[name]["restore"].append(_timed(partial(made.restore, tree, target)))
        shutil.rmtree(target)
        shutil.rmtree(base / f"{name}-{number}")


def _timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)
