"""The check that a host's answer does not repeat the credential."""

import base64
from collections.abc import Sequence

from skillfleet_adapters.sandbox.egress.policy import Credential, Refused


class RepeatGuard:
    """Refuses an answer with the secret in it, plain, quoted in the header, or in base64.

    It stops hosts that show a request as it came; other encodings it does not see. Bytes that may
    be the beginning of the secret are held back until the next ones show whether they are.
    """

    def __init__(self, credential: Credential | None) -> None:
        self._secrets: Sequence[bytes] = ()
        if credential is not None:
            encoded = base64.b64encode(credential.secret).rstrip(b"=")
            self._secrets = (credential.secret, credential.value, encoded)
        self._held = b""

    def check_head(self, parts: Sequence[bytes]) -> None:
        """Check the parts of an answer's head; raises Refused."""
        for part in parts:
            self._check(part)

    def passed(self, data: bytes) -> bytes:
        """Return the bytes that may be passed on after more of the body came; raises Refused."""
        data = self._held + data
        self._check(data)
        kept = max((_overlap(data, secret) for secret in self._secrets), default=0)
        self._held = data[len(data) - kept :]
        return data[: len(data) - kept]

    def rest(self) -> bytes:
        """Return what was held back, at the end of the body."""
        return self._held

    def _check(self, data: bytes) -> None:
        if any(secret in data for secret in self._secrets):
            raise Refused(502, "the answer repeats the credential")


def _overlap(data: bytes, secret: bytes) -> int:
    """Return the length of the longest beginning of the secret with which the data ends."""
    for length in range(min(len(data), len(secret) - 1), 0, -1):
        if data.endswith(secret[:length]):
            return length
    return 0
