"""`electros volume create`: room is pledged for, offers hold it, and the volume is made at the best of those hosts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.ordering import ordered
from matcher.cli.output import Output, emit, note
from matcher.cli.reshaping import called, size_mib
from matcher.cli.session import DEADLINE_S, QUIET_S, REPEAT_S, Session, no_host_in_reach, session
from matcher.cli.volume import document, volumes_table
from matcher.net.client import Said
from matcher.net.https import Door
from matcher.scheduler.choosing import tie
from matcher.scheduler.outcomes import HostReasons
from matcher.scheduler.pledging import Errand, make_pledge
from matcher.wire.messages import ImageFormat, Message, Pledge, Reveal, Role, Unfit, VolumeAsk, VolumeOffer
from matcher.wire.realm import Verb
from matcher.wire.volumes import NewVolume, VolumeView
from specs.ids import HostId, PledgeId, Vid, VmId, new_id

Name = Annotated[str, Parameter(help="what people call it; names may repeat, UUIDs don't")]
Host = Annotated[str | None, Parameter(help="make it on this host; without it, where most room is left")]


def create(
    *,
    size: Annotated[float, Parameter(help="in GB, a multiple of 0.125")],
    name: Name,
    image_format: Annotated[
        ImageFormat | None,
        Parameter(name="--format", help="raw reaches VMs on all hosts, qcow2 those on its own; shareable is a folder"),
    ] = None,
    bootable: Annotated[bool, Parameter(help="VMs boot from it", negative="")] = False,
    private: Annotated[bool, Parameter(help="nobody else may see or use it", negative="")] = False,
    shareable: Annotated[bool, Parameter(help="a folder that several VMs have at once", negative="")] = False,
    readonly: Annotated[bool, Parameter(help="nobody may write it", negative="")] = False,
    host: Host = None,
    output: Output = "table",
) -> None:
    """Make a new, empty volume. It takes space as it is written; its whole size counts against your grant.

    A VM mounts a shareable one by its UUID without dashes: mount -t virtiofs UUID /mnt
    """
    mib = size_mib(size)
    image_format = image_format or (ImageFormat.FOLDER if shareable else ImageFormat.RAW)
    if image_format is ImageFormat.FOLDER and not shareable:
        raise Failure(Exit.USAGE, "a folder is for several VMs: say --shareable as well")
    if shareable and bootable:
        raise Failure(Exit.USAGE, "a shareable volume can't be bootable: two VMs would write one system disk")
    with session() as mine:
        vid = Vid(new_id(mine.random))
        new = NewVolume(vid, "", called(name), mib, image_format, bootable, private, shareable, readonly)
        rooms = find_room(mine, VolumeAsk(mib, image_format), vid, host)
        made = made_at_best(mine, rooms, "/v1/volumes", lambda offer_id: replace(new, offer_id=offer_id))
    note(f"electros: {name} is made on {made.host}")
    emit(output, {"volume": document(made)}, volumes_table([made]))


@dataclass(frozen=True, slots=True)
class Room:
    """A host's offer to make a volume there."""

    door: Door
    offer: VolumeOffer


@dataclass(frozen=True, slots=True)
class Rooms:
    """All offers for one pledge, the roomiest first; `reveal` frees those that are not taken."""

    rooms: tuple[Room, ...]
    reveal: Reveal


def find_room(mine: Session, ask: VolumeAsk, vid: Vid, host: str | None) -> Rooms:
    """Who would make such a volume. Raises `Failure` where nobody does."""
    if not mine.client.identity.principal.may(Verb.RUN):
        helps = "an admin can grant it: electros user change; then: electros whoami"
        raise Failure(Exit.DENIED, "your grant does not let you make volumes (it lacks run)", helps=helps)
    errand = Errand(VmId(vid), 1, None, room=ask)
    wall_ms = time.time_ns() // 1_000_000
    pledge, seal = make_pledge(errand, random=mine.random, wall_ms=wall_ms, dry=False)
    heard = storage_answers(mine, pledge)
    rooms = [
        Room(Door(said.message.host, said.host_id, said.address, said.message.front_door_port), said.message)
        for said in heard
        if isinstance(said.message, VolumeOffer) and host in (None, said.message.host)
    ]
    rooms.sort(key=lambda room: (-room.offer.left_mib, tie(PledgeId(pledge.pledge_id), HostId(room.door.host_id))))
    if rooms:
        return Rooms(tuple(rooms), Reveal(pledge.pledge_id, seal.done))
    if not heard:
        raise no_host_in_reach()
    reasons = [
        HostReasons(said.host_id, said.message.host, said.message.reasons)
        for said in heard
        if isinstance(said.message, Unfit) and host in (None, said.message.host)
    ]
    spoke = {said.message.host for said in heard if isinstance(said.message, VolumeOffer | Unfit)}
    if host is not None and host not in spoke:
        raise Failure(Exit.NOT_FOUND, f'no host in reach that has volumes is named "{host}"', helps="electros hosts")
    where = f"{host} does not" if host else "no host in reach can"
    raise Failure(Exit.NO_HOST_FITS, f"{where} make such a volume", hosts=reasons, helps="electros volume ls")


def storage_answers(mine: Session, pledge: Pledge) -> Sequence[Said]:
    """One answer of each storage host; ends when those that are known have spoken, or when it has been quiet."""
    expected = {host_id for host_id, role in mine.known.peers() if role == Role.STORAGE}
    heard: dict[str, Said] = {}
    started_s = mine.client.now_s()
    repeat_s, end_s = started_s + REPEAT_S, started_s + DEADLINE_S
    mine.client.ask(pledge)
    while (now_s := mine.client.now_s()) < end_s and not (expected and expected <= heard.keys()):
        if now_s >= repeat_s:
            mine.client.ask(pledge)
            repeat_s = end_s
        for said in mine.client.hear(min(end_s, repeat_s)):
            is_ours = isinstance(said.message, VolumeOffer | Unfit) and said.message.pledge_id == pledge.pledge_id
            if is_ours and not (isinstance(said.message, Unfit) and said.message.role is not Role.STORAGE):
                heard.setdefault(said.host_id, said)
                if not expected:
                    end_s = min(end_s, mine.client.now_s() + QUIET_S)
    return tuple(heard.values())


def made_at_best(
    mine: Session,
    rooms: Rooms,
    path: str,
    body: Callable[[str], Message],
    begun: Callable[[Door], None] = lambda _: None,
) -> VolumeView:
    """At the first host that does not refuse; one that was asked and says nothing may have made it. `body` is the order
    for an offer's id; `begun` is called when a host has begun with it. Raises `Failure`."""
    refusal: Failure | None = None
    try:
        for room in rooms.rooms:
            order = body(room.offer.offer_id)
            try:
                return ordered(mine, room.door, "POST", path, order, partial(begun, room.door))
            except Failure as failure:
                if failure.code == "unknown":
                    raise
                refusal = refusal or failure
    finally:
        mine.client.reveal(rooms.reveal)
    assert refusal is not None, "there is a room at least"
    raise refusal
