"""A stand-in for the command `ws-ckpt`, by its documented behaviour; run as a script.

WS_CKPT_STORE is its folder of snapshots, WS_CKPT_MODE what it plays: skipped, conflict (once),
conflicts (always), hang, silent (works, prints nothing), liar (prints success of another id),
daemon, advisory, old (no comparison with the folder), occupied.
"""

# ruff: noqa: T201 - a command prints

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

STORE = Path(os.environ["WS_CKPT_STORE"])
MODE = os.environ.get("WS_CKPT_MODE", "")


def fail(message: str, status: int = 1) -> None:
    print(f"\x1b[31m✗\x1b[0m {message}", file=sys.stderr)
    sys.exit(status)


def main() -> None:
    given = argparse.ArgumentParser(allow_abbrev=False)
    given.add_argument("action")
    given.add_argument("-w", dest="folder", type=Path, required=True)
    for name in ("-i", "-s", "-m", "-f", "-t", "--metadata", "--format"):
        given.add_argument(name)
    given.add_argument("--force", action="store_true")
    call = given.parse_args()
    if MODE == "daemon":
        fail("Daemon is not running")
    workspace = STORE / hashlib.sha256(str(call.folder).encode()).hexdigest()[:6]
    globals()[call.action](call, workspace)
    if MODE == "advisory":
        print("advisory: the image is 91 % full", file=sys.stderr)


def checkpoint(call: argparse.Namespace, workspace: Path) -> None:
    if MODE == "skipped":
        print("Empty workspace, no snapshot created.", file=sys.stderr)
        sys.exit(0)
    if MODE == "conflicts" or (MODE == "conflict" and not (STORE / "conflicted").exists()):
        (STORE / "conflicted").touch()
        fail("Error [WriteLockConflict]: a file is being written")
    if MODE == "hang":
        child = subprocess.Popen(["sleep", "600"])
        (STORE / "child").write_text(str(child.pid))
        time.sleep(600)
    if MODE == "liar":
        print("\x1b[32m✓\x1b[0m Checkpoint created: another")
        sys.exit(0)
    workspace.mkdir(exist_ok=True)
    shutil.copytree(call.folder, workspace / call.i, symlinks=True)
    meta = {
        "message": call.m,
        "metadata": json.loads(call.metadata),
        "pinned": False,
        "created_at": _now(),
        "missing": False,
    }
    (workspace / f"{call.i}.json").write_text(json.dumps(meta))
    print("warning: -i is deprecated", file=sys.stderr)
    if MODE == "silent":
        sys.exit(1)
    print(f"\x1b[32m✓\x1b[0m Checkpoint created: \x1b[1m{call.i}\x1b[0m\nCompleted in 0.010s")


def _now() -> str:
    moment = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment // 10**9))
    return f"{seconds}.{moment % 10**9 // 1000:06d}+00:00"


def list(call: argparse.Namespace, workspace: Path) -> None:  # noqa: A001
    if not workspace.exists():
        fail("Error [WorkspaceNotFound]: not registered")
    metas = {path.stem: json.loads(path.read_text()) for path in workspace.glob("*.json")}
    print(
        json.dumps(
            [{"id": name, "workspace": "ws-1", "meta": meta} for name, meta in metas.items()]
        )
    )


def rollback(call: argparse.Namespace, workspace: Path) -> None:
    if MODE == "occupied":
        fail("Error [CwdOccupied]: process 1 is inside")
    if MODE == "liar":
        sys.exit(0)
    shutil.rmtree(call.folder)
    shutil.copytree(workspace / call.s, call.folder, symlinks=True)
    print(f"\x1b[32m✓\x1b[0m Rolled back workspace ws-1 to snapshot: {call.s}")


def delete(call: argparse.Namespace, workspace: Path) -> None:
    if not call.force or MODE == "liar":
        sys.exit(0)
    shutil.rmtree(workspace / call.s)
    (workspace / f"{call.s}.json").unlink()
    print(f"\x1b[32m✓\x1b[0m Deleted: {call.s}")


def diff(call: argparse.Namespace, workspace: Path) -> None:
    if call.t is None and MODE == "old":
        fail("error: the following required arguments were not provided: -t", 2)
    before, after = (
        {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        for root in (workspace / call.f, workspace / call.t if call.t else call.folder)
    )
    for name in sorted({*before, *after}):
        if name not in before:
            print(f"\x1b[32m+\x1b[0m {name}")
        elif name not in after:
            print(f"\x1b[31m-\x1b[0m {name}")
        elif before[name] != after[name]:
            print(f"\x1b[33mM\x1b[0m {name}")


main()
