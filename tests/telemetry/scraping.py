"""Readers for the HTTP endpoints of a worker."""

import urllib.error
import urllib.request
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families


def get(port: int, path: str) -> tuple[int, str]:
    """Return status and body of a GET on this machine; 0 while nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def scrape(port: int) -> "Metrics":
    """Return the current samples of /metrics."""
    status, text = get(port, "/metrics")
    return Metrics(text if status == 200 else "")


class Metrics:
    """The samples of an exposition, by name."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in self.families:
            for sample in family.samples:
                self.samples[sample.name].append((sample.labels, sample.value))

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum over all samples of a name with these labels; 0 without any."""
        return sum(
            value for found, value in self.samples.get(name, []) if labels.items() <= found.items()
        )
