"""Decompression of messages with a bound: a small body may expand to gigabytes."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from kombu import compression

_LZMA_MEMORY = 32 * 1024 * 1024
_ZSTD_WINDOW_LOG = 23


class MessageTooLargeError(ValueError):
    """A message's body is larger than this process accepts."""


class _Inflater(Protocol):
    @property
    def eof(self) -> bool:
        """True at the end of the compressed data."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Decompress at most `max_length` bytes."""


def bound_decompression(limit: int) -> None:
    """Bound the size of decompressed messages in this process to `limit` bytes.

    Compression methods without a way to bound them are refused. Uses kombu's documented registry.
    """
    bounded: dict[str, Callable[[], Any]] = {
        "application/x-gzip": zlib.decompressobj,
        "application/x-bz2": bz2.BZ2Decompressor,
        "application/x-lzma": lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
    }
    for name in compression.encoders():
        found: Any = compression.get_encoder(name)
        encode = found[0]
        if name == "application/zstd":
            compression.register(encode, _bounded(_zstd, limit), name)
        elif name in bounded:
            compression.register(encode, _bounded(bounded[name], limit), name)
        else:
            compression.register(encode, _refused(name), name)


def _bounded(make: Callable[[], _Inflater], limit: int) -> Callable[[bytes], bytes]:
    def inflate(body: bytes | memoryview) -> bytes:
        inflater = make()
        inflated = inflater.decompress(bytes(body), limit + 1)
        if len(inflated) > limit:
            raise MessageTooLargeError(f"the decompressed body has more than {limit} bytes")
        if not inflater.eof:
            raise ValueError("the compressed body is truncated")
        return inflated

    return inflate


def _refused(name: str) -> Callable[[bytes], bytes]:
    def refuse(_: bytes) -> bytes:
        raise MessageTooLargeError(
            f"bodies compressed as {name} are refused: their size cannot be bounded"
        )

    return refuse


def _zstd() -> _Inflater:
    # kombu registers it only if one of the two can be imported.
    try:
        zstd = import_module("compression.zstd")
    except ImportError:
        zstd = import_module("backports.zstd")
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    inflater: _Inflater = zstd.ZstdDecompressor(options=options)
    return inflater
