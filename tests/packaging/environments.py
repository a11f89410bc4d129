"""Clean environments that hold a wheel and exactly what its metadata asks for.

The wheel is installed by pip. Its dependencies are linked from the environment that runs the
tests: the same locked files that pip would fetch, at no cost in time and without a network.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """Build the project's wheel into `folder` and return its path."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], PROJECT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run(command: list[str], folder: Path) -> str:
    """Run a program to its end and return what it printed; fail with its words."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder of its own."""

    folder: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    @property
    def site(self) -> Path:
        """The folder of its packages."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def python_says(self, code: str, *args: str) -> str:
        """Run Python code, cut off from the checkout, and return what it printed."""
        return run([self.python, "-I", "-W", "error", "-c", code, *args], self.folder)

    def script_says(self, name: str, *args: str) -> str:
        """Run one of its commands and return what it printed."""
        return run([str(self.folder / "bin" / name), *args], self.folder)


def install(wheel: Path, extras: set[str], folder: Path) -> Environment:
    """Make an environment in `folder` as `pip install skillfleet[extras]` would."""
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    environment = Environment(folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
    pip.append(environment.python)
    run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], folder)
    (own,) = metadata.distributions(path=[str(environment.site)])
    for name in _closure(own, extras):
        _link(metadata.distribution(name), environment.site)
    run([*pip, "check"], folder)
    return environment


def _closure(root: metadata.Distribution, extras: set[str]) -> set[str]:
    """The names of all distributions that `root` with `extras` depends on."""
    own = canonicalize_name(root.name)
    wanted: dict[str, set[str]] = {}
    todo = [(own, frozenset(extras))]
    while todo:
        name, asked = todo.pop()
        if name in wanted and asked <= wanted[name]:
            continue
        wanted.setdefault(name, set()).update(asked)
        distribution = root if name == own else metadata.distribution(name)
        todo.extend(
            (canonicalize_name(requirement.name), frozenset(requirement.extras))
            for requirement in _requirements(distribution, wanted[name])
        )
    return set(wanted) - {own}


def _requirements(distribution: metadata.Distribution, extras: set[str]) -> Iterator[Requirement]:
    for text in distribution.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def _link(distribution: metadata.Distribution, site: Path) -> None:
    """Make a distribution's files importable from `site`."""
    for file in distribution.files or ():
        target, source = site / file, Path(str(distribution.locate_file(file)))
        if ".." in file.parts or file.suffix == ".pyc" or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
