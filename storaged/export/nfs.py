"""Folders of shareable volumes by NFSv4, served by ganesha, which is told by D-Bus on a bus of its own.

One export for each volume, host and epoch: the compute host mounts it and hands it to its guest, so that no guest
reaches the server. NFS knows clients by address alone. What is exported is a folder inside the `.elimg`, never an
image. A shareable volume has many writers by its nature: a cut ends one host's, and returns when ganesha has let go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import trio

from matcher.net.programs import ask
from matcher.wire.messages import ImageFormat
from specs.ids import Vid
from storaged.beneath import Unusable
from storaged.export import ganesha_words as words
from storaged.export.child import Command
from storaged.export.description import Access, Export, Image, Kind, Observed, Refused, refused, target_name
from storaged.export.exporter import Problems
from storaged.export.keeping import Kept
from storaged.export.numbers import Numbers
from storaged.export.serving import CALL_S, Rejected, Serving, Silent
from storaged.looking import Hangs
from storaged.reopening import reopened
from storaged.volume import Epoch

PORT = 7769  # beside an NFS server of the machine's own
_TO = ("--dest=org.ganesha.nfsd", "/org/ganesha/nfsd/ExportMgr")
_METHOD = "org.ganesha.nfsd.exportmgr"
_ITS_OWN = ("Error org.freedesktop.DBus.Error.InvalidFileContent", "Error org.freedesktop.DBus.Error.InvalidArgs")

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where ganesha listens, and what of it is ours alone: `folder` holds its settings, its bus, its state and logs.
    `numbers` is the file with the numbers of exports, which outlives the machine's end."""

    address: IPv4Address | IPv6Address
    folder: Path
    numbers: Path
    port: int = PORT

    @property
    def bus(self) -> str:
        return f"unix:path={self.folder / 'bus'}"

    @property
    def bus_command(self) -> Command:
        words = ("dbus-daemon", f"--config-file={self.folder / 'bus.conf'}", "--nofork", "--nopidfile")
        return Command(words, mark=self.folder / "bus", log=self.folder / "bus.log")

    @property
    def command(self) -> Command:
        lock, log, conf = (str(self.folder / f"ganesha.{end}") for end in ("pid", "log", "conf"))
        return Command(
            ("ganesha.nfsd", "-F", "-f", conf, "-L", "STDERR", "-p", lock, "-N", "NIV_EVENT"),
            mark=Path(lock),
            log=Path(log),
            environment={"DBUS_SYSTEM_BUS_ADDRESS": self.bus},
        )


class Nfs(Serving):
    """An `Exporter`."""

    kind = Kind.NFS

    def __init__(self, place: Place, *, call_s: float = CALL_S) -> None:
        super().__init__(call_s)
        self._place = place
        self._given = Numbers(place.numbers)
        self._seen: dict[int, Observed] = {}  # an export never changes, and to ask for each takes a process
        self._bus = Kept("dbus-daemon", place.bus_command, self._is_bus_up, _nothing)
        self._kept = Kept("ganesha", place.command, self._answers, self._converge)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        place = self._place
        (place.folder / "recovery").mkdir(mode=0o700, parents=True, exist_ok=True)
        (place.folder / "bus.conf").write_text(BUS.format(socket=place.folder / "bus"))
        state = str(place.folder / "recovery")
        (place.folder / "ganesha.conf").write_text(words.settings(place.address, place.port, state))
        async with trio.open_nursery() as nursery:
            await nursery.start(self._bus.run)
            await nursery.start(self._kept.run)
            task_status.started()

    def _unfit(self, export: Export) -> Refused | None:
        assert export.kind is Kind.NFS
        if export.client is None:
            return refused(export, "no-address", "its compute host's address is not known", "wait, and try again")
        if not words.is_plain(export.image.file):
            return refused(export, "path", "its path has unusual characters", "rename the folders above it")
        return None

    async def _look(self, vid: Vid | None = None) -> frozenset[Observed]:
        numbers = await self._numbers()
        known = {number: self._seen.get(number) for number in numbers}
        self._seen = {}
        for number, named in numbers.items():
            seen = known[number]
            if seen is None or (seen.vid, seen.epoch) != named:
                file, clients, readonly = words.parse_export(await self._tell("DisplayExport", f"uint16:{number}"))
                seen = Observed(*named, clients, frozenset(), file, readonly, sessions=0)
            self._seen[number] = seen
        return frozenset(seen for seen in self._seen.values() if vid in (None, seen.vid))

    async def _make(self, export: Export, found: frozenset[Observed]) -> Refused | None:
        try:
            await self._looks.at(export.image.pool, partial(_open, export.image))
        except Hangs as problem:
            raise Silent(str(problem)) from problem
        except (Unusable, OSError) as problem:
            return refused(export, "no-folder", f"its folder can't be opened: {problem}"[:120], "it holds an image")
        number = await self._number(export)
        block = self._place.folder / f"{number}.conf"
        block.write_text(words.export_block(export, number))
        try:
            await self._tell("AddExport", f"string:{block}", f"string:EXPORT(Export_Id={number})")
        except Rejected as problem:
            return refused(export, "not-served", str(problem), "try again; its sysadmin finds more in ganesha's log")
        finally:
            block.unlink()
        return None

    async def _number(self, export: Export) -> int:
        """Others have what was seen just now, in this same turn."""
        taken = {number for number, seen in self._seen.items() if seen.target != export.target}
        give = partial(self._given.of, export.target, taken=taken, wanted=frozenset(self._wanted))
        try:
            return await trio.to_thread.run_sync(give)
        except OSError as problem:
            raise Silent(f"the numbers of exports can't be kept: {problem.strerror}") from problem

    async def _remove(self, name: str) -> None:
        while numbers := [n for n, named in (await self._numbers()).items() if target_name(*named) == name]:
            for number in numbers:
                self._seen.pop(number, None)
                await self._tell("RemoveExport", f"uint16:{number}")

    async def _numbers(self) -> Mapping[int, tuple[Vid, Epoch]]:
        return words.parse_exports(await self._tell("ShowExports"))

    def _is_dead(self) -> bool:
        return self._kept.pid is None

    def _still_open(self, image: Image) -> str:
        return ""

    def _access(self, export: Export) -> Access:
        address, port, path = str(self._place.address), self._place.port, words.pseudo_path(export)
        return Access(Kind.NFS, path, ImageFormat.FOLDER, export.image.readonly, address=address, port=port)

    async def _answers(self) -> bool:
        try:
            await self._tell("ShowExports")
        except (Silent, Rejected):
            return False
        return True

    async def _is_bus_up(self) -> bool:
        code, _, _ = await self._run("--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.GetId")
        return code == 0

    async def _tell(self, method: str, *arguments: str) -> str:
        """Raises `Silent` or `Rejected`."""
        code, answer, error = await self._run(*_TO, f"{_METHOD}.{method}", *arguments)
        if code == 0:
            return answer
        if error.startswith(_ITS_OWN):
            raise Rejected(f"ganesha refuses {method}: {error.partition(': ')[2]}")
        raise Silent(f"ganesha does not answer: {error}")

    async def _run(self, *words: str) -> tuple[int, str, str]:
        command = ["dbus-send", f"--bus={self._place.bus}", "--print-reply", *words]
        done = await ask(command)
        return done.code, done.out.decode(errors="replace"), done.err.decode(errors="replace").strip()


def _open(image: Image) -> None:
    with reopened(image, image.name):
        pass


async def _nothing() -> Problems:
    """A bus serves all or none."""
    return {}
