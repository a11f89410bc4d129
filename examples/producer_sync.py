"""A backend service without asyncio: `python -m examples.producer_sync FOLDER`.

Needs a fleet with the librarian; SKILLFLEET_REDIS_URL says where it is.
"""

import sys
from datetime import timedelta

from skillfleet.errors import RunCancelled
from skillfleet_producer import Fleet


def stream(fleet: Fleet, folder: str) -> None:
    """Five lines to a streamed result."""
    run = fleet.enqueue("librarian.survey", {"folder": folder})
    for event in run.events():
        if event.kind == "text_delta":
            print(event.payload["text"], end="")
    print(run.result()["lines"], "lines")


def resume(fleet: Fleet, folder: str) -> None:
    """Stop reading in the middle and resume later, after the last event that was seen."""
    run = fleet.enqueue("librarian.survey", {"folder": folder})
    seen = [next(run.events())]
    later = fleet.run(run.id)  # perhaps in another process: ids are all it takes
    seen += later.events(after=seen[-1].id)
    print(len(seen), "events, none missing and none twice")


def only_once(fleet: Fleet, folder: str) -> None:
    """Repeat a request with the same key: it returns the same run."""
    key = f"nightly survey of {folder}"
    first = fleet.enqueue("librarian.survey", {"folder": folder}, idempotency_key=key)
    again = fleet.enqueue("librarian.survey", {"folder": folder}, idempotency_key=key)
    print("one run:", first.id == again.id)


def cancel(fleet: Fleet, folder: str) -> None:
    """Cancel a run and all runs that it called, wherever they are."""
    run = fleet.enqueue("librarian.survey", {"folder": folder})
    run.cancel("the user went away")
    try:
        run.result(timeout=30)
    except RunCancelled as error:
        print(f"{error.code}: {error.message}")


def fetch(fleet: Fleet, folder: str) -> None:
    """List and read the artifacts of a run, which are kept for a day."""
    run = fleet.enqueue("librarian.survey", {"folder": folder}, timeout=120)
    run.result()
    for artifact in run.artifacts():
        print(artifact.name, artifact.mime_type, artifact.size_bytes, artifact.sha256[:12])
    page = run.read_artifact("report.md").decode()
    print(page.splitlines()[0])


def find(fleet: Fleet, folder: str) -> None:
    """Find runs by their tags, a page at a time."""
    fleet.enqueue("librarian.survey", {"folder": folder}, tags={"tenant": "acme"}).result()
    page = fleet.runs(tags={"tenant": "acme"}, since=timedelta(hours=1), limit=20)
    found = list(page)
    while page.cursor is not None:
        page = fleet.runs(tags={"tenant": "acme"}, since=timedelta(hours=1), after=page.cursor)
        found += page
    print(len(found), "runs of acme in the last hour")


def main() -> None:
    """Run them all."""
    folder = sys.argv[1]
    with Fleet() as fleet:
        for example in (stream, resume, only_once, cancel, fetch, find):
            print(f"\n--- {example.__name__}")
            example(fleet, folder)


if __name__ == "__main__":
    main()
