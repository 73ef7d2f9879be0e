"""`electros volume`: the volumes that I may see, on all storage hosts in reach."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cyclopts import App

from matcher.cli.failures import Exit, Failure
from matcher.cli.known import door_of
from matcher.cli.lazily import register
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.session import Heard, Session, no_host_in_reach, session, tell_silent
from matcher.net.https import Door
from matcher.wire.messages import Role
from matcher.wire.volumes import VolumeView, VolumeViews
from specs.ids import dashed, parse_id
from specs.units import show_gb, show_mib

app = App(name="volume", help="Make, list, change and remove volumes on the storage hosts in reach.")
register(
    app,
    {
        "create": ("making:create", "Make a new, empty volume."),
        "import": ("importing:import_", "Make a volume from an image: a file, or a URL."),
        "rename": ("reshaping:rename", "Give a volume another name."),
        "resize": ("reshaping:resize", "Make a volume larger."),
        "convert": ("reshaping:convert", "Give a volume another image format."),
        "attach": ("plugging:attach", "Give a VM a volume more."),
        "detach": ("plugging:detach", "Take a volume from a VM."),
        "clone": ("reshaping:clone", "Copy a volume."),
        "cancel": ("reshaping:cancel", "End what is being done to a volume."),
        "snapshot": ("keeping:snapshot", "Keep the state of a volume."),
        "snapshots": ("keeping:snapshots", "List a volume's snapshots."),
        "rollback": ("keeping:rollback", "Give a volume the state that a snapshot has."),
        "takeover": ("reshaping:takeover", "Free a volume that a VM on another host has."),
        "seed": ("seeding:seed", "Make a cloud-init seed."),
        "rm": ("reshaping:rm", "Remove volumes for good."),
    },
)


@dataclass(frozen=True, slots=True)
class Found:
    volume: VolumeView
    door: Door


@app.command
def ls(*, output: Output = "table") -> None:
    """List the volumes that I may see, on all storage hosts in reach."""
    with session() as mine:
        found, heard = all_of(mine)
        volumes = sorted((each.volume for each in found), key=lambda volume: (volume.name, volume.vid, volume.host))
        left = _left_over(mine, volumes, heard)
    emit(output, {"volumes": [document(volume) for volume in volumes]}, volumes_table(volumes))
    tell_silent(heard)
    _tell_left_over(left)


@app.command
def inspect(volume: str, *, output: Output = "table") -> None:
    """Show everything that is known of one volume.

    Parameters
    ----------
    volume
        Its name, its UUID, or the start of either.
    """
    with session() as mine:
        found = one(mine, volume)
    known = document(found.volume)
    rows = [(key, value if isinstance(value, str) else _plain(value)) for key, value in known.items()]
    emit(output, {"volume": known}, Table(("FIELD", "VALUE"), rows, [found.volume.vid]))


def all_of(mine: Session) -> tuple[list[Found], Heard]:
    """Every volume that I may see, from every storage host that answers. Raises `Failure` where none does, or where one
    says no."""
    heard = mine.query()
    doors = _doors(heard)
    if not doors:
        if not heard.answers:
            raise no_host_in_reach(heard)
        raise Failure(Exit.UNREACHABLE, "no host in reach has volumes to share", helps="is storaged running on one?")
    found: list[Found] = []
    missed: list[Failure] = []
    for door in doors:
        try:
            views = mine.ask(door, lambda connection: connection.ask("GET", "/v1/volumes", VolumeViews))
        except Failure as failure:
            if failure.exit_code not in (Exit.UNREACHABLE, Exit.TIMEOUT):
                raise
            missed.append(failure)  # one host that is broken must not hide what the others have
            continue
        if views.left_out:
            note(f"electros: {door.host} has {views.left_out} more, which are not shown; each is found by its UUID")
        found += [Found(volume, door) for volume in views.volumes]
    if len(missed) == len(doors):
        raise missed[0]
    for each in missed:
        note(f"electros: {each.message}")
    return found, heard


def one(mine: Session, meant: str) -> Found:
    """The one volume that `meant` names: exactly, or as the only one that starts so. Raises `Failure`."""
    found, heard = all_of(mine)
    exact = [each for each in found if each.volume.name == meant or each.volume.vid == parse_id(meant)]
    hits = _each_once(exact or _beyond(mine, heard, meant) or [each for each in found if _starts(each.volume, meant)])
    if len(hits) == 1:
        return hits[0]
    if hits:
        which = ", ".join(f"{each.volume.name or '-'} ({each.volume.vid[:8]} on {each.volume.host})" for each in hits)
        is_one = len({each.volume.vid for each in hits}) == 1
        helps = "say it by its UUID" if not is_one else "one UUID at several hosts is for their sysadmins to sort out"
        raise Failure(Exit.USAGE, f'"{meant}" could be several volumes: {which}', helps=helps)
    missing = f" ({', '.join(heard.silent)} did not answer)" if heard.silent else ""
    helps = "electros volume ls shows those that you may see"
    raise Failure(Exit.NOT_FOUND, f'no volume in reach is named "{meant}"{missing}', helps=helps)


def _beyond(mine: Session, heard: Heard, meant: str) -> list[Found]:
    """The volume with that very UUID, where it is one of more than a host lists."""
    vid, found = parse_id(meant), list[Found]()
    path = f"/v1/volumes/{vid}"
    for door in _doors(heard) if vid is not None else ():
        with suppress(Failure):  # it is not there; or, as was told already, the host does not answer
            view = mine.ask(door, lambda connection: connection.ask("GET", path, VolumeView))
            found.append(Found(view, door))
    return found


def _doors(heard: Heard) -> list[Door]:
    return [door for said in heard.answers if (door := door_of(said, Role.STORAGE)) is not None]


def _each_once(hits: Sequence[Found]) -> list[Found]:
    """What several servers show: at the one that has given it to a VM, else at one that may give it."""
    once: dict[str, Found] = {}
    for each in sorted(hits, key=lambda each: (each.volume.lent_by != each.volume.host_id, each.volume.state == "bad")):
        key = each.volume.vid if each.volume.shared else f"{each.volume.vid} {each.volume.host_id}"
        once.setdefault(key, each)
    return list(once.values())


def shown(volume: VolumeView) -> str:
    """What a person calls it."""
    return volume.name or dashed(volume.vid)


def document(volume: VolumeView) -> dict[str, Any]:
    return {
        "vid": dashed(volume.vid),
        "name": volume.name,
        "size_gb": volume.size_mib / 1024,
        "used_gb": None if volume.used_mib is None else round(volume.used_mib / 1024, 3),
        "format": volume.format.value,
        "bootable": volume.bootable,
        "private": volume.private,
        "shareable": volume.shareable,
        "readonly": volume.readonly,
        "owner": volume.owner,
        "host": volume.host,
        "host_id": volume.host_id,
        "pool": volume.pool,
        "state": volume.state,
        "vms": list(volume.vms),
    } | _known(volume)


def _left_over(mine: Session, volumes: Sequence[VolumeView], heard: Heard) -> list[VolumeView]:
    """My seeds that go with a VM that no host has which answers."""
    me = mine.client.identity.principal.id
    seeds = [volume for volume in volumes if volume.goes_with is not None and volume.owner == me]
    there = {each.vm.id for each in mine.vms_of(heard)} if seeds else set()
    return [seed for seed in seeds if seed.goes_with not in there]


def _tell_left_over(seeds: Sequence[VolumeView]) -> None:
    """Nobody else can tell a VM that is gone from one whose host is away, or that is about to be."""
    for seed in seeds:
        vid, vm_id = dashed(seed.vid), dashed(seed.goes_with or "")
        free = f"electros volume takeover {vid} --host-is-dead; " * (seed.state == "attached")
        what = f"{seed.name or 'a seed'} on {seed.host}, which may hold secrets, goes with VM {vm_id}"
        note(f"electros: {what}, and no host in reach has that. If it is gone for good: {free}electros volume rm {vid}")


def _known(volume: VolumeView) -> dict[str, str]:
    """What most volumes have nothing to say of."""
    known = {"goes_with": volume.goes_with and dashed(volume.goes_with), "sha256": volume.sha256, "why": volume.why}
    if volume.shared:
        known |= {"shared": "with other servers", "lent_by": volume.lent_by}
    return {key: value for key, value in known.items() if value}


def _starts(volume: VolumeView, meant: str) -> bool:
    return bool(meant) and (volume.name.startswith(meant) or volume.vid.startswith(meant.replace("-", "").lower()))


def volumes_table(volumes: Sequence[VolumeView]) -> Table:
    rows = [
        (
            volume.name or "-",
            show_gb(volume.size_mib),
            "-" if volume.used_mib is None else show_mib(volume.used_mib),
            volume.format.value,
            _traits(volume) or "-",
            _state(volume),
            volume.host,
            dashed(volume.vid),
        )
        for volume in volumes
    ]
    heads = ("NAME", "SIZE", "USED", "FORMAT", "TRAITS", "STATE", "HOST", "VID")
    return Table(heads, rows, [dashed(volume.vid) for volume in volumes], copied="VID")


def _state(volume: VolumeView) -> str:
    detail = ", ".join(volume.vms) if volume.state != "busy" else volume.why
    return f"{volume.state}: {detail}" if detail else volume.state


def _traits(volume: VolumeView) -> str:
    return ",".join(trait for trait in ("bootable", "private", "shareable", "readonly") if getattr(volume, trait))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
