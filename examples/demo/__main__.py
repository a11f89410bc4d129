"""`python -m examples.demo --folder FOLDER`: the librarian on a new fleet."""

import argparse
import asyncio
import sys
from pathlib import Path


def main() -> int:
    """Run the demo; returns the exit status: 0, 1 on failure, 130 after Ctrl-C."""
    options = _options()
    folder = options.folder.expanduser().resolve()
    if not folder.is_dir():
        print(f"there is no folder {str(options.folder)!r}", file=sys.stderr)
        return 1
    print("Starting a Valkey server and a worker (Ctrl-C stops everything)", flush=True)
    # The imports take a while: the line above comes first.
    from examples.demo.show import show  # noqa: PLC0415

    return asyncio.run(show(folder, options.out))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Survey the text files of a folder on a fleet of its own.",
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="what to survey (default: .)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where artifacts are saved")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
