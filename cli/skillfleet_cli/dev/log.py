"""Log lines of several processes in one terminal."""

from skillfleet_cli.output import console, styled

_STYLES = {"dev": "bold green", "worker": "cyan", "flower": "yellow", "valkey": "magenta"}


class Log:
    """A printer that puts the name of its process before each line, in the process's colour."""

    def __init__(self) -> None:
        self._console = console()

    def line(self, name: str, text: str, style: str = "") -> None:
        """Print one line of the process `name`."""
        prefix = (f"{name:>6} │ ", _STYLES.get(name, ""))
        self._console.print(styled(prefix, (text.rstrip(), style)))

    def say(self, text: str, style: str = "") -> None:
        """Print a line of `dev` itself."""
        self.line("dev", text, style)
