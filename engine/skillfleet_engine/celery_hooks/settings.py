"""The engine's settings, read from the Celery app's configuration."""

from dataclasses import dataclass, fields
from typing import Any

from celery.exceptions import ImproperlyConfigured


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings in seconds; each is read from `app.conf` with the prefix `engine_`."""

    cancel_grace: float = 5.0
    """How long cancelled tasks may clean up at a cold shutdown."""
    blocked_after: float = 5.0
    """How long the event loop may be blocked before that is reported; 0 disables reports."""
    blocked_every: float = 60.0
    """The shortest time between two log lines about a blocked loop."""

    @classmethod
    def of(cls, app: Any) -> "EngineSettings":
        """Return the app's settings; defaults for unset ones, or without an app.

        Raises:
            ImproperlyConfigured: a value is not a number that is at least 0.
        """
        values: dict[str, float] = {}
        for field in fields(cls):
            name = f"engine_{field.name}"
            value = app.conf.get(name) if app is not None else None
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ImproperlyConfigured(f"{name} must be seconds, at least 0; got {value!r}")
            values[field.name] = float(value)
        return cls(**values)
