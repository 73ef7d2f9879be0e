"""What an export is, and what came of it: the words that all drivers share, whatever carries the bytes.

An export gives one volume to one host for one epoch. Its names carry both, so that whoever finds it running knows what
it is without being told. Secrets are in no `repr`.
Pure.
"""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from matcher.wire.messages import ImageFormat, Reason
from specs.ids import HostId, Vid
from storaged.volume import Epoch

AUTHORITY = "iqn.2026-01.io.atomos"
LUN = 1  # the volume's; 0 is the target's own controller
CHAP_KEY_BYTES = 32

_TARGET = re.compile(rf"{re.escape(AUTHORITY)}:vol\.([0-9a-f]{{32}})\.(\d{{1,16}})\.([0-9a-f]{{16}})")


class Kind(StrEnum):
    FILE = "file"
    ISCSI = "iscsi"
    NFS = "nfs"


@dataclass(frozen=True, slots=True)
class Image:
    """What a volume keeps its bytes in: `name` in the folder `path`, beneath the pool `pool`; `pool_id` is what that
    one's mark says. A shareable volume's name is that of a folder."""

    vid: Vid
    pool: str
    path: str
    name: str
    format: ImageFormat
    readonly: bool = False
    pool_id: str | None = None

    @property
    def file(self) -> str:
        return f"{self.path}/{self.name}"


@dataclass(frozen=True, slots=True)
class Chap:
    """Name and secret by which an initiator shows that it is the one for which an export was made."""

    user: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Export:
    """One volume for one host and epoch. `client`: the host's address, where it is known."""

    image: Image
    epoch: Epoch
    kind: Kind
    host_id: HostId
    chap: Chap | None = None
    client: IPv4Address | IPv6Address | None = None

    @property
    def target(self) -> str:
        return target_name(self.image.vid, self.epoch)

    @property
    def initiator(self) -> str:
        return initiator_name(self.host_id)

    @property
    def admitted(self) -> str:
        """Who may connect, as the server is told: by name, or by address where the protocol knows no names."""
        return str(self.client) if self.kind is Kind.NFS else self.initiator


@dataclass(frozen=True, slots=True)
class Access:
    """All that a compute host needs to use an export: a path of its own, or a portal and what to say there.

    `name` is the file, the iSCSI target or the NFS path. `initiator` and `chap` are for iSCSI alone.
    """

    kind: Kind
    name: str
    format: ImageFormat
    readonly: bool
    address: str = ""
    port: int = 0
    lun: int = 0
    initiator: str = ""
    chap: Chap | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """An export as its server has it. `whole` is false when it lacks a part, as after a crash while it was made: it is
    of no use to anybody and has to be made anew. `initiators`: who may connect, by name or address."""

    vid: Vid
    epoch: Epoch
    initiators: frozenset[str]
    users: frozenset[str]
    file: str
    readonly: bool
    sessions: int
    whole: bool = True

    @property
    def target(self) -> str:
        return target_name(self.vid, self.epoch)

    def serves(self, export: Export) -> bool:
        """Whether it is what `export` asks for: nothing more, nothing less."""
        users = frozenset({export.chap.user} if export.chap else ())
        initiators = frozenset({export.admitted})
        wanted = (export.target, initiators, users, export.image.file, export.image.readonly)
        return self.whole and (self.target, self.initiators, self.users, self.file, self.readonly) == wanted


@dataclass(frozen=True, slots=True)
class Cut:
    """Proven: nothing of it can write any more."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened, or may yet: the server did not say in time. For the log, and for trying again."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It can't be, and trying again won't help."""

    code: str
    reasons: tuple[Reason, ...]


def target_name(vid: Vid, epoch: Epoch) -> str:
    return f"{AUTHORITY}:vol.{vid}.{epoch.counter}.{epoch.nonce}"


def parse_target(name: str) -> tuple[Vid, Epoch] | None:
    """Which volume and epoch a target is for; `None` for one that isn't ours."""
    found = _TARGET.fullmatch(name)
    return None if found is None else (Vid(found[1]), Epoch(int(found[2]), found[3]))


def initiator_name(host_id: HostId) -> str:
    return f"{AUTHORITY}:host.{host_id[:16]}"


def chap_of(key: bytes, vid: Vid, epoch: Epoch) -> Chap:
    """The credential of one epoch: as random as the host's own `key`, and found again after a crash, so that it is kept
    nowhere. Another key gives another user too. The secret has 16 characters: some initiators want 12 to 16."""
    assert len(key) == CHAP_KEY_BYTES
    digest = hashlib.blake2b(target_name(vid, epoch).encode(), key=key, digest_size=20, person=b"atomos-chap").digest()
    return Chap(digest[:8].hex(), base64.urlsafe_b64encode(digest[8:]).decode())


def rivals(seen: Observed, export: Export) -> bool:
    """One volume has one writer: another epoch of it that is still served."""
    return seen.vid == export.image.vid and seen.epoch != export.epoch and not (seen.readonly and export.image.readonly)


def refused(export: Export, code: str, has: str, hint: str) -> Refused:
    asked = f"by {export.kind}"
    return Refused(code, (Reason(f"volume {export.image.vid}", asked, has[:120], hint[:160]),))
