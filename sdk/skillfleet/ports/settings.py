"""The base class of adapters' settings, and the messages for invalid settings."""

import os
from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from skillfleet.errors import SettingsError


class AdapterSettings(BaseSettings):
    """The settings of one adapter, from the variables of its environment.

        class VaultSettings(AdapterSettings):
            model_config = SettingsConfigDict(env_prefix="SKILLFLEET_VAULT_")

            address: str

    Build them with `load(environment.variables)`; they are frozen.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="SKILLFLEET_")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from `load` only: an adapter reads the environment that it is given."""
        del settings_cls
        return (init_settings,)

    @classmethod
    def load(cls, variables: Mapping[str, str] | None = None) -> Self:
        """Read the fields from `<prefix><FIELD>`; raises SettingsError naming the variable.

        `variables` defaults to the process's environment.
        """
        if variables is None:
            variables = os.environ  # noqa: TID251 - this is where settings are read
        prefix = str(cls.model_config.get("env_prefix", ""))
        given = {name.upper(): value for name, value in variables.items()}
        values = {
            field: given[variable]
            for field in cls.model_fields
            if (variable := f"{prefix}{field}".upper()) in given
        }
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(explained(error, prefix)) from None


def explained(error: ValidationError, prefix: str) -> str:
    """Return the problems of settings, each with its variable, without secret values."""
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        given: Any = problem.get("input")
        # A check of several fields together names its variables itself.
        name = f"{prefix}{field}: ".upper() if field else ""
        hidden = not field or "password" in field or "url" in field
        if problem["type"] == "missing":
            lines.append(f"{name}must be set")
            continue
        text = problem["msg"].removeprefix("Value error, ")
        lines.append(name + text + ("" if hidden else f", not {given!r}"))
    return "; ".join(lines)
