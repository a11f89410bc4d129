"""Select the image's dependencies from requirements.lock, hashes included.

`python -m deploy.image_lock` writes deploy/docker/runtime.lock (what the image runs) and build.lock
(what builds the wheel), `--check` only compares. It needs no network: requirements.lock stays the
only place where versions are chosen, and the installed packages say what needs what.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.generated import write_or_check

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "deploy" / "docker"
EXTRAS = ("worker", "cli", "auth", "objects", "checkpoints", "kubernetes")
ITSELF = "skillfleet"
# Flower is in the extra `dev`, with packages that only a laptop needs.
FROM_DEV = ("flower",)
HEADER = "# Picked from requirements.lock by `python -m deploy.image_lock`; do not edit.\n"
PYTHON = {"python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux"}


def entries(lock: str) -> dict[str, str]:
    """Read the lock's entries with their hashes, by package name."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock):
        name = re.match(r"[A-Za-z0-9._-]+(?===)", block.strip())
        if name:
            found[canonicalize_name(name.group())] = block.strip() + "\n"
    return found


def wanted(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Return True when the image's Python needs this requirement of a package with these extras."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**PYTHON, "extra": extra}) for extra in ("", *extras))


def closure(roots: Iterable[Requirement]) -> set[str]:
    """Return the names of all packages that the roots need, themselves included.

    Raises importlib.metadata.PackageNotFoundError when one of them is not installed here.
    """
    seen: set[tuple[str, str]] = set()
    todo = [root for root in roots if wanted(root, ())]
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), sorted(requirement.extras)
        if (name, ",".join(extras)) in seen:
            continue
        seen.add((name, ",".join(extras)))
        needs = map(Requirement, metadata.requires(name) or ())
        todo += [need for need in needs if wanted(need, extras)]
    return {name for name, _ in seen}


def pick(lock: dict[str, str], roots: Iterable[Requirement]) -> str:
    """Return the part of the lock that the roots need, as a lock file."""
    return HEADER + "".join(lock[name] for name in sorted(closure(roots)))


def runtime_roots(project: dict[str, Any]) -> list[Requirement]:
    """Return the image's requirements: the project's dependencies, extras, Flower."""
    optional = project["project"]["optional-dependencies"]
    lines = [*project["project"]["dependencies"], *(line for e in EXTRAS for line in optional[e])]
    # An extra that includes another names the project itself.
    roots = [root for root in map(Requirement, lines) if root.name != ITSELF]
    return roots + [r for r in map(Requirement, optional["dev"]) if r.name in FROM_DEV]


def locks() -> dict[Path, str]:
    """Build both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lock = entries((ROOT / "requirements.lock").read_text("utf-8"))
    build = [Requirement(line) for line in project["build-system"]["requires"]]
    return {
        DOCKER / "runtime.lock": pick(lock, runtime_roots(project)),
        DOCKER / "build.lock": pick(lock, build),
    }


def main(arguments: list[str]) -> int:
    """Run the script; returns the exit status, 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Pick the image's locks from requirements.lock.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    options = parser.parse_args(arguments)
    return write_or_check(locks(), check=options.check, command="python -m deploy.image_lock")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
