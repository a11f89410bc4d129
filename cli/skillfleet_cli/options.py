"""Arguments and options that several commands share."""

from typing import Annotated

import typer

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
