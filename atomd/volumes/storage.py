"""Asks the storage servers of a VM: its own host's storaged over the Unix socket, others at their front doors.

All at once, and all or none: nobody is told anything before every server can be reached, so that an address that leads
nowhere leaves nothing behind. A server that was asked and did not answer may have attached: the answer is `Silent`, and
a detach, or the same question again, has to follow. Detached is what every server has let go of; one that was removed
from the realm is nobody to tell.

The address of another host's door comes from the user. Whatever fails there before its key is seen is told in one
sentence, since this host must not be anybody's port scanner; the log has the rest.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from atomd.vms.lifecycle import State, Vm, Words
from atomd.volumes.answers import Answer, Silent, joined, may_be_a_host, one_of, servers_of, together
from matcher.net import local
from matcher.net.host_door import HostDoors, HostLine
from matcher.net.https import NotAdmitted, Unanswered, Unreachable
from matcher.trust.identity import Identity
from matcher.wire.messages import Address, Reason, Refused, VolumeClaim
from matcher.wire.volumes import Attach, Attached, Detach, Detached
from specs.ids import HostId

STORAGE_S = 10.0  # for all of an attach or detach
REACH_S = 2.0  # to come to another host's door, and to see its key
OPENING_MAX = 32  # at a time, to whomever
NAMES_MAX = 4096

log = logging.getLogger("atomd")

K = TypeVar("K")
V = TypeVar("V")

Said = Detached | Refused | Silent


class Storage:
    """Every storage server that this host's VMs have volumes from."""

    def __init__(self, identity: Identity, socket: Path) -> None:
        self._own, self._socket, self._verifier = HostId(identity.principal.id), socket, identity.verifier
        self._doors = HostDoors(identity)
        self._opening = trio.CapacityLimiter(OPENING_MAX)
        self._names: dict[HostId, str] = {}  # of those that have shown their keys

    async def attach(self, vm: Vm) -> Answer:
        """What the VM's domain may open; the same again for the same VM and generation."""
        return await self._attach(vm.standing.words)

    async def attach_one(self, vm: Vm, vid: str) -> Answer:
        """One volume, which the VM's words claim already. Others that came with the same words are asked for as well,
        since a server judges words as a whole."""
        words = next(words for words in vm.words if vid in [claim.vid for claim in words.claims])
        return one_of(await self._attach((words,)), vid)

    async def _attach(self, said: Sequence[Words]) -> Answer:
        claims = tuple(claim for words in said for claim in words.claims)
        servers = servers_of(claims)
        if tuple(servers) == (self._own,):  # no other host has a say
            return joined(claims, {self._own: await self._attach_here(said)}, self._own)
        answers: dict[HostId, Answer] = {}
        away = {server: door for server, door in servers.items() if server != self._own}
        lines: dict[HostId, HostLine] = {}
        try:
            if unreached := await self._reach(away, lines):
                return unreached
            asks: dict[HostId, Callable[[], Awaitable[Answer]]] = {
                server: partial(self._attach_there, line, servers[server], _of(said, server))
                for server, line in lines.items()
            }
            if self._own in servers:
                asks[self._own] = partial(self._attach_here, _of(said, self._own))
            await _all(asks, answers)
        finally:
            await _hang_up(lines)
        return joined(claims, {server: answers[server] for server in servers}, self._own)

    async def detach(self, vm: Vm) -> bool:
        """Whether every server has let go."""
        # What was undone before it was promised had no volumes yet: its user tries the next host with them.
        gone = vm.state is State.REMOVING and bool(vm.volumes)
        return await self._detach(vm, vm.claims, Detach(vm.vm_id, vm.generation, vm.offer_id, gone=gone))

    async def detach_one(self, vm: Vm, vid: str) -> bool:
        """Whether the server of this volume has let go of it."""
        words = next(words for words in vm.words if vid in [claim.vid for claim in words.claims])
        claims = tuple(claim for claim in words.claims if claim.vid == vid)
        return await self._detach(vm, claims, Detach(vm.vm_id, vm.generation, words.offer_id, (vid,)))

    async def _detach(self, vm: Vm, claims: Sequence[VolumeClaim], question: Detach) -> bool:
        asks: dict[HostId, Callable[[], Awaitable[Said]]] = {}
        for server, door in servers_of(claims).items():
            if server == self._own:
                asks[server] = partial(self._detach_here, question)
            elif self._verifier.is_member("host", server):
                asks[server] = partial(self._detach_there, server, door, question)
            else:
                log.warning("%s: %s was removed from the realm, and is not told", vm.vm_id, self._name(server))
        said: dict[HostId, Said] = {}
        await _all(asks, said)
        for server, answer in said.items():
            if not isinstance(answer, Detached):
                log.warning("%s: not detached at %s: %s", vm.vm_id, self._name(server), answer)
        return all(isinstance(answer, Detached) for answer in said.values())

    # ---- this host's own

    async def _attach_here(self, said: Sequence[Words]) -> Answer:
        answers: list[Answer] = []
        try:
            with trio.fail_after(STORAGE_S):
                for words in said:
                    question = Attach(words.envelope, words.without)
                    answers.append(await local.ask(self._socket, question, Attached, timeout_s=STORAGE_S))
        except (local.LocalError, trio.TooSlowError) as error:
            log.warning("storaged: %s", error or "too slow")
            return Silent("storaged of its host does not answer")
        return together(answers)

    async def _detach_here(self, question: Detach) -> Said:
        try:
            return await local.ask(self._socket, question, Detached, timeout_s=STORAGE_S)
        except local.LocalError as error:
            return Silent(str(error))

    # ---- other hosts'

    async def _attach_there(self, line: HostLine, door: Address | None, said: Sequence[Words]) -> Answer:
        answers: list[Answer] = []
        try:
            with trio.fail_after(STORAGE_S):
                for words in said:
                    answers.append(await self._asked_there(line, door, words, is_first=not answers))
            return together(answers)
        except NotAdmitted as error:
            log.warning("%s", error)
            reason = Reason("volumes", "attached", str(error)[:120], "its sysadmin sees why: atomctl status")
            return Refused("not-admitted", (reason,))
        except (Unanswered, trio.TooSlowError) as error:
            log.warning("%s did not answer an attach: %s", line.host, error or "too slow")
            return Silent(f"{line.host}, which has its volume, does not answer")

    async def _asked_there(self, line: HostLine, door: Address | None, words: Words, *, is_first: bool) -> Answer:
        """A line is for one question, and the first has been opened already."""
        without = f"?without={','.join(words.without)}" if words.without else ""
        if is_first:
            return await line.ask(f"/v1/attachments{without}", words.envelope, Attached)
        again = await self._line(line.server, door)
        if again is None:
            raise Unanswered("it can't be reached any more")
        try:
            return await again.ask(f"/v1/attachments{without}", words.envelope, Attached)
        finally:
            await again.aclose()

    async def _detach_there(self, server: HostId, door: Address | None, question: Detach) -> Said:
        lines: dict[HostId, HostLine] = {}
        try:
            with trio.fail_after(STORAGE_S):
                if unreached := await self._reach({server: door}, lines):
                    return unreached
                return await lines[server].ask("/v1/detachments", question, Detached)
        except (Unanswered, Unreachable, trio.TooSlowError) as error:
            return Silent(str(error) or "too slow")
        finally:
            await _hang_up(lines)

    async def _reach(self, doors: Mapping[HostId, Address | None], lines: dict[HostId, HostLine]) -> Silent | None:
        """Open a line to each, or say of the first that there is none."""
        unreached: list[HostId] = []

        async def reach(server: HostId, door: Address | None) -> None:
            line = await self._line(server, door)
            if line is None:
                unreached.append(server)
            else:
                lines[server] = line

        async with trio.open_nursery() as nursery:
            for server, door in doors.items():
                nursery.start_soon(reach, server, door)
        if not unreached:
            return None
        return Silent(f"{self._name(unreached[0])}, which has its volume, can't be reached", asked=False)

    async def _line(self, server: HostId, door: Address | None) -> HostLine | None:
        if door is None or not may_be_a_host(door.ip):
            return None
        try:
            with trio.fail_after(REACH_S):
                async with self._opening:
                    line = await self._doors.open(server, door)
        except (Unreachable, trio.TooSlowError) as error:
            log.warning("storaged of %s can't be reached: %s", self._name(server), error or "too slow")
            return None
        if len(self._names) < NAMES_MAX:
            self._names[server] = line.host
        return line

    def _name(self, server: HostId) -> str:
        return self._names.get(server, f"host {server[:16]}")


def _of(said: Sequence[Words], server: HostId) -> tuple[Words, ...]:
    """Those that claim something from this server."""
    return tuple(words for words in said if any(claim.server == server for claim in words.claims))


async def _all(asks: Mapping[K, Callable[[], Awaitable[V]]], answers: dict[K, V]) -> None:
    """Ask them at once; every one of them answers in its time."""

    async def ask(key: K, asked: Callable[[], Awaitable[V]]) -> None:
        answers[key] = await asked()

    async with trio.open_nursery() as nursery:
        for key, asked in asks.items():
            nursery.start_soon(ask, key, asked)


async def _hang_up(lines: Mapping[HostId, HostLine]) -> None:
    for line in lines.values():
        await line.aclose()
