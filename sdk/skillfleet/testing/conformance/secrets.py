"""Conformance of sources of secrets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from skillfleet.ports.secrets import Secrets

VALUES: Mapping[str, str] = {
    "api-key": "sk-conformance-0123456789",
    "quoted": "with \"quotes\", 'more' and \\ backslashes",
    "unicode": "Schlüssel-钥匙-🔑",
}


class SecretsSuite(ABC):
    """Subclass it as `Test...` and implement `source`."""

    @abstractmethod
    def source(self, values: Mapping[str, str]) -> Secrets:
        """Return a source with exactly these secrets."""

    def rotate(self, source: Secrets, name: str, value: str) -> None:
        """Change a secret's value; without it, the test of rotation is skipped."""
        del source, name, value
        pytest.skip("this source's values do not change")

    def test_is_a_source(self) -> None:
        assert isinstance(self.source(VALUES), Secrets)

    @pytest.mark.parametrize("name", sorted(VALUES))
    def test_has_the_value_unchanged(self, name: str) -> None:
        assert self.source(VALUES).get(name) == VALUES[name]

    @pytest.mark.parametrize(
        "name", ["unknown", "", ".", "..", "../api-key", "/etc/passwd", "api-key/", "API-KEY "]
    )
    def test_an_unknown_name_is_none(self, name: str) -> None:
        assert self.source(VALUES).get(name) is None

    def test_an_empty_source_has_nothing(self) -> None:
        assert self.source({}).get("api-key") is None

    def test_any_thread_may_ask(self) -> None:
        source = self.source(VALUES)
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(source.get, ["api-key", "unicode", "unknown"] * 50))
        assert found == [VALUES["api-key"], VALUES["unicode"], None] * 50

    def test_shows_no_value(self) -> None:
        source = self.source(VALUES)
        source.get("api-key")
        shown = f"{source!r} {source}"
        assert not [name for name, value in VALUES.items() if value in shown]

    def test_a_changed_value_is_seen_by_the_next_get(self) -> None:
        source = self.source(VALUES)
        assert source.get("api-key") == VALUES["api-key"]
        self.rotate(source, "api-key", "sk-rotated-9876543210")
        assert source.get("api-key") == "sk-rotated-9876543210"
