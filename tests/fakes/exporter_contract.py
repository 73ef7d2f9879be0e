"""What every exporter must do, tgtd's and the fake alike: a suite to inherit, with a fixture `world` of one's own.

The world brings an exporter that runs, volumes to export, initiators that try to use them, and accidents.
"""

import dataclasses
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio
import trio.lowlevel

from matcher.wire.messages import ImageFormat
from specs.ids import HostId
from storaged.export.description import Access, Chap, Cut, Export, Image, Kind, Refused, Unknown, chap_of
from storaged.export.exporter import Exporter
from storaged.testing import H1, H2
from storaged.volume import Epoch

PATIENCE_S = 30.0
SETTLE_S = 0.3  # what was on its way has arrived by then
KEY = bytes(range(32))
QCOW2 = b"QFI\xfb\0\0\0\3"
MANY = 50


class Writer(Protocol):
    """An initiator that keeps writing stamps, many at a time, each block anew and anew."""

    @property
    def stamps(self) -> int:
        """How many have been acknowledged."""

    @property
    def error(self) -> str: ...


class World(Protocol):
    exporter: Exporter

    def image(self, number: int, *, readonly: bool = False, format: ImageFormat = ImageFormat.RAW) -> Image: ...  # noqa: A002
    async def read(self, access: Access, size: int) -> bytes | None:
        """The volume's first bytes through the export, `None` where that is refused."""

    async def write(self, access: Access, data: bytes) -> bool: ...
    def writing(self, access: Access) -> AbstractAsyncContextManager[Writer]: ...
    async def restart(self) -> None:
        """The daemon is killed and begins anew, beside what serves."""


class ServerWorld(World, Protocol):
    async def freeze(self) -> None: ...
    async def thaw(self) -> None: ...
    async def kill(self) -> None:
        """The server; it comes back by itself."""


def bytes_of(image: Image) -> bytes:
    with open(image.file, "rb") as file:
        return file.read()


def export_of(image: Image, counter: int = 1, host_id: HostId = H1) -> Export:
    epoch = Epoch(counter, f"{counter * 7919:016x}")
    return Export(image, epoch, Kind.ISCSI, host_id, chap_of(KEY, image.vid, epoch))


async def exported(world: World, export: Export) -> Access:
    access = await world.exporter.export(export)
    assert isinstance(access, Access), access
    return access


async def sessions_of(world: World, export: Export) -> int:
    found = await world.exporter.observe()
    assert not isinstance(found, Unknown)
    (seen,) = [seen for seen in found if seen.target == export.target]
    return seen.sessions


async def stamped(writer: Writer, more: int = 1) -> None:
    """Until it has written so many more."""
    goal = writer.stamps + more
    with trio.fail_after(PATIENCE_S):
        while writer.stamps < goal:
            assert not writer.error, writer.error
            await trio.sleep(0.005)


async def served(world: World, *exports: Export) -> None:
    """Until these, and these alone, are served."""
    with trio.fail_after(PATIENCE_S):
        while True:
            found = await world.exporter.observe()
            if not isinstance(found, Unknown) and len(found) == len(exports):
                by_name = {seen.target: seen for seen in found}
                if all(e.target in by_name and by_name[e.target].serves(e) for e in exports):
                    return
            await trio.sleep(0.01)


class ExporterContract:
    async def test_what_is_written_through_an_export_is_in_the_image(self, world: World) -> None:
        image = world.image(1)
        access = await exported(world, export_of(image))
        assert await world.write(access, b"data")
        assert bytes_of(image).startswith(b"data")
        assert await world.read(access, 4) == b"data"

    async def test_the_same_export_again_gives_the_same_answer_and_disturbs_nobody(self, world: World) -> None:
        export = export_of(world.image(1))
        access = await exported(world, export)
        async with world.writing(access) as writer:
            await stamped(writer)
            assert await exported(world, export) == access
            assert await sessions_of(world, export) == 1
            await stamped(writer, 32)

    async def test_a_wrong_secret_is_refused(self, world: World) -> None:
        access = await exported(world, export_of(world.image(1)))
        assert access.chap is not None
        wrong = dataclasses.replace(access, chap=Chap(access.chap.user, "not the secret"))
        assert await world.read(wrong, 4) is None

    async def test_another_volumes_credential_is_refused(self, world: World) -> None:
        access = await exported(world, export_of(world.image(1)))
        other = await exported(world, export_of(world.image(2)))
        assert await world.read(dataclasses.replace(access, chap=other.chap), 4) is None

    async def test_another_initiator_is_refused(self, world: World) -> None:
        access = await exported(world, export_of(world.image(1)))
        other = export_of(world.image(1), host_id=H2).initiator
        assert await world.read(dataclasses.replace(access, initiator=other), 4) is None

    async def test_an_epoch_must_be_cut_before_the_next_is_exported(self, world: World) -> None:
        image = world.image(1)
        await exported(world, export_of(image, 1))
        answer = await world.exporter.export(export_of(image, 2, H2))
        assert isinstance(answer, Refused)
        assert answer.code == "another-epoch"
        assert await world.exporter.cut(image) == Cut()
        await exported(world, export_of(image, 2, H2))

    async def test_an_old_epochs_credential_is_refused_after_the_next_is_exported(self, world: World) -> None:
        image = world.image(1)
        old = await exported(world, export_of(image, 1))
        assert await world.exporter.cut(image, export_of(image, 1).epoch) == Cut()
        new = await exported(world, export_of(image, 2))
        assert await world.read(old, 4) is None
        assert await world.read(dataclasses.replace(new, chap=old.chap), 4) is None
        assert await world.read(new, 4) == bytes(4)

    async def test_a_cut_ends_a_session_that_writes_and_no_byte_lands_afterwards(self, world: World) -> None:
        image = world.image(1)
        access = await exported(world, export_of(image))
        async with world.writing(access) as writer:
            await stamped(writer, 16)
            assert await world.exporter.cut(image) == Cut()
            at_the_cut, stamps = bytes_of(image), writer.stamps
            await trio.sleep(SETTLE_S)
            assert bytes_of(image) == at_the_cut
            assert writer.stamps - stamps <= 16, "only what was acknowledged before the cut may still be read"
        assert await world.read(access, 4) is None

    async def test_a_cut_of_one_volume_leaves_the_others_alone(self, world: World) -> None:
        one, two = export_of(world.image(1)), export_of(world.image(2))
        await exported(world, one)
        async with world.writing(await exported(world, two)) as writer:
            await stamped(writer)
            assert await world.exporter.cut(one.image) == Cut()
            await stamped(writer, 32)
            assert await sessions_of(world, two) == 1

    async def test_a_cut_of_what_is_not_exported_is_no_error(self, world: World) -> None:
        assert await world.exporter.cut(world.image(1)) == Cut()

    async def test_a_cut_of_one_epoch_leaves_another_one(self, world: World) -> None:
        export = export_of(world.image(1), 2)
        access = await exported(world, export)
        answer = await world.exporter.cut(export.image, export_of(export.image, 1).epoch)
        assert isinstance(answer, Unknown), "the volume still has a writer, whoever that is"
        assert await world.read(access, 4) == bytes(4)

    async def test_a_new_daemon_keeps_sessions_of_what_is_wanted_and_cuts_the_rest(self, world: World) -> None:
        one, two, three = (export_of(world.image(n)) for n in (1, 2, 3))
        await exported(world, two)
        async with world.writing(await exported(world, one)) as writer:
            await stamped(writer)
            await world.restart()
            await served(world, one, two)  # until it is told what is wanted, it touches nothing
            assert not await world.exporter.reconcile((one, three))
            await served(world, one, three)
            assert await sessions_of(world, one) == 1
            await stamped(writer, 32)

    async def test_fifty_exports_at_once_are_all_made(self, world: World) -> None:
        exports = [export_of(world.image(n)) for n in range(1, MANY + 1)]
        async with trio.open_nursery() as nursery:
            for export in exports:
                nursery.start_soon(exported, world, export)
        await served(world, *exports)
        assert await world.read(await exported(world, exports[-1]), 4) == bytes(4)
        assert not await world.exporter.reconcile(())
        await served(world)

    async def test_a_readonly_volume_refuses_writes_and_may_have_many_readers(self, world: World) -> None:
        image = world.image(1, readonly=True)
        one = await exported(world, export_of(image, 1, H1))
        two = await exported(world, export_of(image, 2, H2))
        assert one.readonly
        assert await world.read(one, 4) == await world.read(two, 4) == bytes(4)
        assert not await world.write(one, b"data")
        assert bytes_of(image).startswith(bytes(4))
        assert await world.exporter.cut(image, export_of(image, 1).epoch) == Cut()
        assert await world.read(one, 4) is None
        assert await world.read(two, 4) == bytes(4)

    async def test_a_raw_image_in_which_a_guest_wrote_a_qcow2_header_stays_raw(self, world: World) -> None:
        image = world.image(1)
        assert await world.write(await exported(world, export_of(image, 1)), QCOW2)
        assert await world.exporter.cut(image) == Cut()
        again = await exported(world, export_of(image, 2))
        assert again.format is ImageFormat.RAW
        assert await world.read(again, 8) == QCOW2

    async def test_a_qcow2_image_is_refused_with_the_command_that_helps(self, world: World) -> None:
        answer = await world.exporter.export(export_of(world.image(1, format=ImageFormat.QCOW2)))
        assert isinstance(answer, Refused)
        assert (answer.code, "convert" in answer.reasons[0].hint) == ("not-raw", True)

    async def test_an_image_that_is_gone_is_refused_and_no_longer_wanted(self, world: World) -> None:
        image = dataclasses.replace(world.image(1), name="gone.img")
        answer = await world.exporter.export(export_of(image))
        assert isinstance(answer, Refused)
        await served(world)
        assert not await world.exporter.reconcile(())

    async def test_secrets_are_in_no_repr(self, world: World) -> None:
        export = export_of(world.image(1))
        assert export.chap is not None
        assert export.chap.secret not in repr(await exported(world, export)) + repr(export)


class ServerContract(ExporterContract):
    """And where a process serves, which may hang or die."""

    async def test_a_frozen_server_makes_a_cut_unknown_and_the_next_one_certain(self, world: ServerWorld) -> None:
        image = world.image(1)
        access = await exported(world, export_of(image))
        async with world.writing(access) as writer:
            await stamped(writer)
            await world.freeze()
            with trio.fail_after(PATIENCE_S):
                assert isinstance(await world.exporter.cut(image), Unknown)
                assert isinstance(await world.exporter.export(export_of(world.image(2))), Unknown)
                assert isinstance(await world.exporter.observe(), Unknown)
            await world.thaw()
            with trio.fail_after(PATIENCE_S):
                while await world.exporter.cut(image) != Cut():
                    await trio.lowlevel.checkpoint()
            at_the_cut = bytes_of(image)
            await trio.sleep(SETTLE_S)
            assert bytes_of(image) == at_the_cut
        await served(world, export_of(world.image(2)))

    async def test_a_killed_server_comes_back_with_all_exports_and_a_writer_sees_no_error(
        self, world: ServerWorld
    ) -> None:
        one, two = export_of(world.image(1)), export_of(world.image(2))
        await exported(world, two)
        async with world.writing(await exported(world, one)) as writer:
            await stamped(writer, 16)
            await world.kill()
            await served(world, one, two)
            await stamped(writer, 64)
            assert not writer.error

    async def test_a_cut_is_certain_while_the_server_is_dead(self, world: ServerWorld) -> None:
        image = world.image(1)
        access = await exported(world, export_of(image))
        await world.kill()
        with trio.fail_after(PATIENCE_S):
            while await world.exporter.cut(image) != Cut():
                await trio.lowlevel.checkpoint()
        await served(world)
        assert await world.read(access, 4) is None
