"""The adapter of docs/adapters.md passes the suite of its port."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from examples.json_secrets import JsonSecrets, create
from skillfleet.errors import SettingsError
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.secrets import Secrets
from skillfleet.testing.conformance import SecretsSuite


class TestJsonSecrets(SecretsSuite):
    def source(self, values: Mapping[str, str]) -> Secrets:
        file = Path(tempfile.mkdtemp()) / "secrets.json"
        file.write_text(json.dumps(values))
        return JsonSecrets(file)

    def rotate(self, source: Secrets, name: str, value: str) -> None:
        assert isinstance(source, JsonSecrets)
        source._file.write_text(json.dumps({name: value}))


def test_a_file_that_is_not_named_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(SettingsError, match=r"^ACME_SECRETS_FILE: must be set$"):
        create(AdapterEnvironment())


def test_the_file_is_taken_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text('{"api-key": "sk-1234"}')
    variables = {"ACME_SECRETS_FILE": str(tmp_path / "all.json")}
    assert create(AdapterEnvironment(variables=variables)).get("api-key") == "sk-1234"
