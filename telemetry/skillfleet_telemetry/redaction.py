"""The secrets that this process has read: what its log lines and spans must not show."""

from typing import Final

from skillfleet.redaction import SecretRegistry

process_secrets: Final = SecretRegistry()
"""One for each process: a line of any library may hold a secret of any run."""

redact, redact_value = process_secrets.redact, process_secrets.redact_value
