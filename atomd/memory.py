"""The host's memory as it is now, for all who offer: what it keeps as huge pages, and which of these VMs may have.

A sysadmin may have more or fewer pages kept while atomd runs, which takes from ordinary memory or gives back to it, and
others on the host take some and give them back. So it is looked at every `LOOK_S`, and as soon as a VM has started or
ended.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import trio

from atomd.answering import Face
from atomd.capacity.guest_cpu import lent_pages
from atomd.capacity.hardware import Claim
from atomd.inventory.facts import Memory, Pages
from atomd.inventory.memory import mounted_page_sizes, read_memory
from atomd.inventory.tree import Tree

LOOK_S = 10.0

ReadsMemory = Callable[[], tuple[Memory, Collection[int]]]


def read_here() -> tuple[Memory, Collection[int]]:
    """And the sizes of pages, in KiB, that QEMU can have."""
    return read_memory(Tree(Path("/"))), mounted_page_sizes(Tree(Path("/")))


class LentMemory:
    """Keeps `face.hardware` as the memory is now. `lent` says how much of it VMs may have on each node, `up` gives the
    claims of VMs whose domain runs: their pages are not among the free ones. Those of all others still are."""

    def __init__(
        self,
        face: Face,
        *,
        lent: Callable[[Memory], tuple[tuple[int, int], ...]],
        up: Callable[[], Collection[Claim]],
        reads: ReadsMemory = read_here,
    ) -> None:
        self._face, self._lent, self._up, self._reads = face, lent, up, reads

    async def keep(
        self,
        changed: Callable[[], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Look again and again, once before it has started. A recorded machine stays as it is."""
        if not self._face.pretended:
            await self.look()
        task_status.started()
        while not self._face.pretended:
            up = self._up()
            with trio.move_on_after(LOOK_S):
                while self._up() == up:
                    await changed()
            await self.look()

    async def look(self) -> None:
        """Who is up before and after has their pages meanwhile; of whoever comes or goes, nobody knows."""
        before = self._up()
        memory, mounted_kib = await trio.to_thread.run_sync(self._reads)
        up = [claim for claim in self._up() if claim in before]
        self._show(memory, lent_pages(memory, up, mounted_kib))

    def _show(self, memory: Memory, pages: tuple[Pages, ...]) -> None:
        """The same hardware object as long as nothing has changed: much is kept by it."""
        hardware, ram_mib = self._face.hardware, self._lent(memory)
        if (hardware.ram_mib, hardware.pages) != (ram_mib, pages):
            self._face.hardware = dataclasses.replace(hardware, ram_mib=ram_mib, pages=pages)
