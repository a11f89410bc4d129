"""Five lines to a streamed result: `python -m examples.five_lines FOLDER`."""

import sys

from skillfleet_producer import Fleet

with Fleet() as fleet:
    run = fleet.enqueue("librarian.survey", {"folder": sys.argv[1]})
    for event in run.events():
        if event.kind == "text_delta":
            print(event.payload["text"], end="")
    print(run.result()["lines"], "lines")
