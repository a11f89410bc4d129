"""Conformance of object stores."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import pytest

from skillfleet.errors import CapabilityUnavailableError
from skillfleet.ports.objects import ObjectStore

_MEBIBYTE = 1024 * 1024
_PIECE_LIMIT = 8 * _MEBIBYTE


class BrokenSourceError(Exception):
    """The error of a source of bytes that breaks off."""


class ObjectStoreSuite(ABC):
    """Subclass it as `Test...` and implement `store`."""

    @abstractmethod
    def store(self) -> ObjectStore:
        """Return a store that has no object yet, or none of these keys."""

    def fetch(self, url: str) -> bytes:
        """Return what a signed URL gives; without it, the test of signed URLs is skipped."""
        del url
        pytest.skip("the store signs no URLs")

    def test_is_a_store(self) -> None:
        assert isinstance(self.store(), ObjectStore)

    @pytest.mark.parametrize("size", [0, 1, 65_536, 5 * _MEBIBYTE, 17 * _MEBIBYTE + 3])
    def test_an_object_is_read_as_it_was_written(self, size: int) -> None:
        data = random.Random(size).randbytes(size)

        async def use() -> tuple[bytes, int]:
            store = self.store()
            await store.write("suite/run-1/object.bin", _pieces(data, 100_003))
            pieces = [piece async for piece in store.read("suite/run-1/object.bin")]
            return b"".join(pieces), max(map(len, pieces), default=0)

        found, largest = asyncio.run(use())
        assert found == data
        assert largest <= _PIECE_LIMIT

    def test_a_missing_object_is_a_key_error(self) -> None:
        async def use() -> None:
            async for _ in self.store().read("suite/missing"):
                pass

        with pytest.raises(KeyError):
            asyncio.run(use())

    def test_a_source_that_breaks_off_leaves_no_object(self) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"x" * _MEBIBYTE
            raise BrokenSourceError

        async def use() -> None:
            store = self.store()
            with pytest.raises(BrokenSourceError):
                await store.write("suite/broken", broken())
            with pytest.raises(KeyError):
                await anext(store.read("suite/broken"))

        asyncio.run(use())

    def test_a_cancelled_write_leaves_no_object(self) -> None:
        begun = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"x" * _MEBIBYTE
            begun.set()
            await asyncio.Event().wait()

        async def use() -> None:
            store = self.store()
            write = asyncio.create_task(store.write("suite/cancelled", endless()))
            await begun.wait()
            write.cancel()
            await asyncio.wait({write})
            assert write.cancelled()
            with pytest.raises(KeyError):
                await anext(store.read("suite/cancelled"))

        asyncio.run(use())

    def test_deleted_objects_are_gone_and_others_stay(self) -> None:
        async def use() -> list[bytes]:
            store = self.store()
            for name in "abc":
                await store.write(f"suite/{name}", _pieces(name.encode(), 1))
            await store.delete(["suite/a", "suite/missing", "suite/b"])
            for name in "ab":
                with pytest.raises(KeyError):
                    await anext(store.read(f"suite/{name}"))
            return [piece async for piece in store.read("suite/c")]

        assert asyncio.run(use()) == [b"c"]

    def test_keys_are_those_of_a_folder(self) -> None:
        async def use() -> list[str]:
            store = self.store()
            for name in ("keys/a", "keys/deep/b", "keys-2/c", "other"):
                await store.write(f"suite/{name}", _pieces(b"x", 1))
            assert [key async for key in store.keys("suite/none")] == []
            return sorted([key async for key in store.keys("suite/keys")])

        assert asyncio.run(use()) == ["suite/keys/a", "suite/keys/deep/b"]

    def test_many_calls_at_once(self) -> None:
        async def use() -> list[bytes]:
            store = self.store()
            names = [f"suite/many/{number}" for number in range(40)]
            await asyncio.gather(*(store.write(name, _pieces(name.encode(), 5)) for name in names))
            return list(await asyncio.gather(*(_content(store, name) for name in names)))

        assert asyncio.run(use()) == [f"suite/many/{number}".encode() for number in range(40)]

    def test_a_store_outlives_an_event_loop(self) -> None:
        store = self.store()
        asyncio.run(store.write("suite/loops", _pieces(b"first", 2)))
        assert asyncio.run(_content(store, "suite/loops")) == b"first"

    def test_a_signed_url_reads_the_object(self) -> None:
        async def use() -> str:
            store = self.store()
            await store.write("suite/signed", _pieces(b"signed", 6))
            return await store.sign("suite/signed", 60)

        try:
            url = asyncio.run(use())
        except CapabilityUnavailableError:
            pytest.skip("the store signs no URLs")
        assert self.fetch(url) == b"signed"


async def _pieces(data: bytes, length: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), length):
        yield data[at : at + length]


async def _content(store: ObjectStore, key: str) -> bytes:
    return b"".join([piece async for piece in store.read(key)])
