"""`python -m benchmarks.venvs`: creates an environment for each peer, with pinned versions."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".benchvenvs"
VERSIONS = Path(__file__).parent / "peers" / "versions.toml"
_SHOWN = ("celery", "kombu", "dramatiq", "taskiq", "taskiq-redis", "arq", "saq", "huey", "redis")


def requirements() -> dict[str, list[str]]:
    """Return what to install for each peer."""
    found: dict[str, list[str]] = tomllib.loads(VERSIONS.read_text())
    return found


def python_of(peer: str) -> str:
    """Return the peer's Python; for Celery without an environment of its own, this one."""
    own = FOLDER / peer / "bin" / "python"
    if own.exists():
        return str(own)
    if peer in {"skillfleet", "celery"}:
        return sys.executable
    raise SystemExit(f"{peer} is not installed: run `make bench-peers`")


def installed(peer: str) -> dict[str, str]:
    """Return the versions of a peer's main packages."""
    code = (
        "import json, sys; from importlib.metadata import distributions as all;"
        "print(json.dumps({each.name: each.version for each in all() if each.name in sys.argv}))"
    )
    command = [python_of(peer), "-c", code, *_SHOWN, "skillfleet"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    versions: dict[str, str] = json.loads(answer)
    return dict(sorted(versions.items()))


def make(peer: str, wanted: list[str]) -> None:
    """Create or renew one environment; nothing happens when it is as wanted already."""
    folder = FOLDER / peer
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_text() == "\n".join(wanted):
        return
    print(f"Installing {peer} into {folder.relative_to(ROOT)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [python_of(peer), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, *wanted], check=True)
    stamp.write_text("\n".join(wanted))


def main() -> None:
    """All of them."""
    FOLDER.mkdir(exist_ok=True)
    for peer, wanted in requirements().items():
        make(peer, wanted)


if __name__ == "__main__":
    main()
