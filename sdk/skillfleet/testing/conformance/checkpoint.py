"""Conformance of checkpoints."""

import asyncio
import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from skillfleet.errors import CapabilityUnavailableError, UnknownCheckpointError
from skillfleet.ports.checkpoint import Change, CheckpointClient

_OLD = 1_600_000_000_123_456_789


class CheckpointSuite(ABC):
    """Subclass it as `Test...` and implement `client`."""

    @abstractmethod
    def client(self) -> CheckpointClient:
        """Return a client whose store has no checkpoint yet."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Return a folder with files, a symlink and an empty folder."""
        folder = tmp_path / "work"
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "empty").mkdir()
        (folder / "deep" / "er" / "tool.sh").write_text("echo hello\n")
        (folder / "deep" / "er" / "tool.sh").chmod(0o750)
        (folder / "notes.txt").write_text("first\n")
        (folder / "none.bin").touch()
        (folder / "link").symlink_to("deep/er/tool.sh")
        (folder / "dangling").symlink_to("/nonexistent/file")
        os.utime(folder / "notes.txt", ns=(_OLD, _OLD))
        return folder

    def test_is_a_client(self) -> None:
        assert isinstance(self.client(), CheckpointClient)

    def test_a_folder_without_checkpoints_has_none(self, folder: Path) -> None:
        assert list(asyncio.run(self.client().list(folder))) == []

    def test_a_restored_folder_is_as_it_was(self, folder: Path) -> None:
        before = state(folder)

        async def use() -> None:
            client = self.client()
            made = await client.create(folder, message="before")
            (folder / "notes.txt").write_text("second\n")
            (folder / "new").mkdir()
            (folder / "new" / "file").write_text("x")
            (folder / "none.bin").unlink()
            (folder / "link").unlink()
            (folder / "deep" / "er" / "tool.sh").chmod(0o600)
            await client.restore(folder, made.id)

        asyncio.run(use())
        assert state(folder) == before

    def test_checkpoints_are_listed_newest_first(self, folder: Path) -> None:
        async def use() -> None:
            client = self.client()
            first = await client.create(folder, message="one", position=7, run_id="r1", step="s")
            (folder / "notes.txt").write_text("second\n")
            second = await client.create(folder, message="two")
            listed = await client.list(folder)
            assert [each.id for each in listed] == [second.id, first.id]
            assert [each.message for each in listed] == ["two", "one"]
            origins = [(each.position, each.run_id, each.step) for each in listed]
            assert origins == [(None, None, None), (7, "r1", "s")]
            assert listed[0].created_at >= listed[1].created_at
            assert first.created_at.tzinfo is not None

        asyncio.run(use())

    def test_folders_have_their_own_checkpoints(self, folder: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        (other / "file").write_text("x")

        async def use() -> None:
            client = self.client()
            made = await client.create(folder)
            assert list(await client.list(other)) == []
            with pytest.raises(UnknownCheckpointError):
                await client.restore(other, made.id)
            assert (other / "file").read_text() == "x"

        asyncio.run(use())

    def test_a_diff_names_what_changed(self, folder: Path) -> None:
        async def use() -> None:
            client = self.client()
            first = await client.create(folder)
            (folder / "notes.txt").write_text("second\n")
            (folder / "none.bin").unlink()
            (folder / "new").write_text("x")
            second = await client.create(folder)
            expected = [
                Change("new", "added"),
                Change("none.bin", "removed"),
                Change("notes.txt", "changed"),
            ]
            assert list(await client.diff(folder, first.id, second.id)) == expected
            try:
                assert list(await client.diff(folder, first.id)) == expected
                assert list(await client.diff(folder, second.id)) == []
            except CapabilityUnavailableError:
                pytest.skip("the adapter compares checkpoints only")

        asyncio.run(use())

    def test_a_checkpoint_is_restored_into_another_folder(
        self, folder: Path, tmp_path: Path
    ) -> None:
        before = state(folder)

        async def use() -> None:
            client = self.client()
            made = await client.create(folder)
            (folder / "notes.txt").write_text("second\n")
            await client.restore(folder, made.id, into=tmp_path / "fork")

        try:
            asyncio.run(use())
        except CapabilityUnavailableError:
            pytest.skip("the adapter restores in place only")
        assert state(tmp_path / "fork") == before
        assert (folder / "notes.txt").read_text() == "second\n"

    def test_deleting_one_leaves_the_others_complete(self, folder: Path) -> None:
        async def use() -> None:
            client = self.client()
            made = []
            for text in ("one", "two", "three"):
                (folder / "notes.txt").write_text(text)
                made.append((await client.create(folder)).id)
            before = state(folder)
            await client.delete(folder, made[1])
            assert [each.id for each in await client.list(folder)] == [made[2], made[0]]
            with pytest.raises(UnknownCheckpointError):
                await client.restore(folder, made[1])
            await client.restore(folder, made[0])
            assert (folder / "notes.txt").read_text() == "one"
            await client.restore(folder, made[2])
            assert state(folder) == before

        asyncio.run(use())

    @pytest.mark.parametrize("checkpoint", ["unknown", "../../etc", "", "-s"])
    def test_an_unknown_id_is_its_own_error(self, folder: Path, checkpoint: str) -> None:
        async def use() -> None:
            client = self.client()
            await client.create(folder)
            for call in (
                client.restore(folder, checkpoint),
                client.delete(folder, checkpoint),
                client.diff(folder, checkpoint),
            ):
                with pytest.raises((UnknownCheckpointError, CapabilityUnavailableError)):
                    await call

        before = state(folder)
        asyncio.run(use())
        assert state(folder) == before


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a checkpoint keeps of a folder."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        name, mode = str(path.relative_to(folder)), status.st_mode
        if stat.S_ISLNK(mode):
            found[name] = ("link", path.readlink())
        elif stat.S_ISREG(mode):
            found[name] = (mode, status.st_mtime_ns, path.read_bytes())
        else:
            found[name] = (mode, status.st_mtime_ns)
    return found
