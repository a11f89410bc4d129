"""Zstandard, of the standard library from Python 3.14 on and of a package before it."""

import sys

from skillfleet.errors import CheckpointError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL = 3


def compress(data: bytes) -> bytes:
    """Return the data compressed; deterministic."""
    return zstd.compress(data, _LEVEL)


def decompress(data: bytes, limit: int) -> bytes:
    """Return the data decompressed; raises CheckpointError for invalid data and above the limit."""
    try:
        decompressor = zstd.ZstdDecompressor()
        found = decompressor.decompress(data, max_length=limit + 1)
    except zstd.ZstdError as error:
        raise CheckpointError(f"an object of the checkpoint is damaged: {error}") from None
    if len(found) > limit or not decompressor.eof:
        raise CheckpointError("an object of the checkpoint is damaged: its length is wrong")
    return found
