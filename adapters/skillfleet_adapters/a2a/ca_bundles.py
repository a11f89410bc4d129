"""Custom certificate authorities by host."""

import ssl
from dataclasses import dataclass, field

from skillfleet.errors import SettingsError


@dataclass(frozen=True)
class CABundles:
    """TLS contexts: listed hosts have their own certificate authority, others the public ones."""

    custom: dict[str, ssl.SSLContext] = field(default_factory=dict)
    """By host, or by `*.suffix` for all hosts below it."""
    public: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    @classmethod
    def parse(cls, text: str) -> "CABundles":
        """Read `host=file.pem` entries, separated by commas; raises SettingsError."""
        found: dict[str, ssl.SSLContext] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            host, equals, path = (part.strip() for part in entry.partition("="))
            if not (host and equals and path):
                raise SettingsError(f"SKILLFLEET_A2A_CA_FILES: {entry!r} must be host=file.pem")
            try:
                found[host.lower()] = ssl.create_default_context(cafile=path)
            except OSError as error:
                raise SettingsError(
                    f"SKILLFLEET_A2A_CA_FILES: {path} cannot be read as certificates: {error}"
                ) from None
        return cls(found)

    def for_host(self, host: str) -> ssl.SSLContext:
        """Return the TLS context for a host: the closest entry's, else the public one."""
        name = host.lower().rstrip(".")
        if name in self.custom:
            return self.custom[name]
        labels = name.split(".")
        for start in range(1, len(labels)):
            if (context := self.custom.get("*." + ".".join(labels[start:]))) is not None:
                return context
        return self.public
