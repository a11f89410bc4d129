"""Entry point of `skillfleet`: tiny, so that Ctrl-C is handled while the rest loads."""

import sys

_INTERRUPTED = 130
"""`ExitCode.INTERRUPTED`, without its import."""


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from skillfleet_cli.app import run  # noqa: PLC0415 - see above

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except RuntimeError as error:
        # Up to Python 3.11, Ctrl-C within a class statement comes as the cause of another error.
        if isinstance(error.__cause__, KeyboardInterrupt):
            sys.exit(_INTERRUPTED)
        raise
