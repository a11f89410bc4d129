"""Ask the editor for a brief, within a budget: `python -m examples.three_agents TOPIC`."""

import sys

from skillfleet.contracts import Budget
from skillfleet_producer import Fleet

READER = {"sub": "ada", "scopes": ["library:read"]}


def main() -> None:
    """Print the brief of the topic on the command line."""
    topic = " ".join(sys.argv[1:]) or "what bees do in winter"
    with Fleet() as fleet:
        run = fleet.enqueue(
            "editor.brief",
            {"topic": topic},
            auth=READER,
            budget=Budget(calls=20, seconds=60),
        )
        for event in run.events():
            if event.kind == "progress":
                print("...", event.payload["message"])
        print(run.result())


if __name__ == "__main__":
    main()
