"""Chunks: how large values are stored, so that no other client of Redis has to wait.

One large value stalls Redis for all its clients; at most four chunks of 64 KiB in flight do not.
Larger chunks are not faster.
"""

from skillfleet_ledger.settings import MEBIBYTE

CHUNK_BYTES = MEBIBYTE // 16
IN_FLIGHT = 4
ABANDONED_MS = 86_400_000
"""How long an upload is kept that is never committed."""
