"""The table of all that can be asked at front doors: who may, which verb it needs, what goes in and comes out.

atomd's door has the routes of VMs and of the realm, storaged's those of volumes. One table makes the dispatcher, the
checks of rights and the OpenAPI document, so that none can know of a route that the others do not. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from matcher.wire.codec import BODY_MAX_BYTES
from matcher.wire.hosts import HostViews
from matcher.wire.messages import VOLUMES_MAX, Abandoned, Answer, Message, Progress, VmView, VmViews
from matcher.wire.realm import (
    Admitted,
    ChangeGrant,
    Done,
    Invited,
    InviteHost,
    InviteUser,
    Members,
    RealmStatus,
    Renew,
    Revoke,
    UserUses,
    Verb,
    WhoAmI,
)
from matcher.wire.volumes import (
    Attached,
    ChangeVolume,
    CloneVolume,
    Detach,
    Detached,
    DropSnapshot,
    ImportVolume,
    NewSeed,
    NewVolume,
    RollBack,
    Snapshots,
    TakeSnapshot,
    VolumeProgress,
    VolumeView,
    VolumeViews,
)

DOCUMENTS_MAX_BYTES = 4 << 20  # of a request with documents by a host or an admin: a whole bundle
IMAGE_MAX_BYTES = 1 << 50  # whoever takes it knows how much there may be
PARTS_MAX = 6  # of a path


class Who(Enum):
    USER = "a user"
    HOST = "a host"
    MEMBER = "a member"  # hosts too


class Octets(Enum):
    """Bodies that are no JSON of one message."""

    ENVELOPE = "a signed envelope"
    ENVELOPES = "envelopes, each behind its length (4 bytes, big-endian)"
    IMAGE = "an image, as it is"
    DOCUMENTS = "signed documents, each behind its length (4 bytes, big-endian)"
    LOG = "what the guest has written"
    OPENAPI = "this document"


@dataclass(frozen=True, slots=True)
class Lines:
    """An answer of several JSON lines, each one such message."""

    of: type[Message]


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter behind the question mark; `pattern` is all that it may be."""

    name: str
    pattern: str
    summary: str


@dataclass(frozen=True, slots=True)
class Route:
    """`superseded`: may be asked with a leaf that another grant has superseded. `lasts`: the caller may be revoked by
    it and still gets the answer. A websocket's method is GET."""

    name: str
    method: str
    path: str
    summary: str
    answer: type[Message] | Octets | Lines | None
    question: type[Message] | Octets | None = None
    who: Who = Who.USER
    verb: Verb | None = None
    query: Query | None = None
    websocket: bool = False
    superseded: bool = False
    lasts: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")[1:])

    @property
    def body_max_bytes(self) -> int:
        if self.question is None:
            return 0
        if self.question is Octets.IMAGE:
            return IMAGE_MAX_BYTES
        return DOCUMENTS_MAX_BYTES if self.question is Octets.DOCUMENTS else BODY_MAX_BYTES


_FORCE = Query("force", "^[01]$", "1: pull the plug at once")
_WITHOUT = Query("without", f"^([0-9a-f]{{32}},?){{0,{VOLUMES_MAX}}}$", "volumes that the VM has let go of since")
_IS_DEAD = Query("dead", "^[01]$", "1: you say that the server that has it is dead, where several serve it")
_GENERATION = Query("generation", "^[0-9]{1,10}$", "remove this generation alone")

_PORT = Query("port", "^[0-9]{1,5}$", "the port of that host's front door, as it has told it in an answer")

ROUTES: tuple[Route, ...] = (
    Route("about", "GET", "/v1/host", "This host", Answer, verb=Verb.PLEDGE),
    Route(
        "hosts",
        "GET",
        "/v1/hosts",
        "The hosts of the realm, in parts, as this one has heard of them by gossip",
        Lines(HostViews),
        verb=Verb.PLEDGE,
    ),
    Route("whoami", "GET", "/v1/whoami", "Who you are here, what you may and what you use", WhoAmI),
    Route("openapi", "GET", "/v1/openapi.json", "This document", Octets.OPENAPI, who=Who.MEMBER),
    Route(
        "pledge",
        "POST",
        "/v1/pledges",
        "A pledge too long for a datagram; the host's answers",
        Octets.ENVELOPES,
        Octets.ENVELOPE,
        verb=Verb.PLEDGE,
    ),
    Route(
        "confirm",
        "POST",
        "/v1/confirms",
        "Take an offer: first that it is committed, then that the VM runs or has failed",
        Lines(Progress),
        Octets.ENVELOPE,
        verb=Verb.RUN,
    ),
    Route("abandon", "POST", "/v1/abandons", "Let an offer go for good", Abandoned, Octets.ENVELOPE, verb=Verb.RUN),
    Route("vms", "GET", "/v1/vms", "Your VMs", VmViews, verb=Verb.PLEDGE),
    Route("vm", "GET", "/v1/vms/{id}", "One VM of yours", VmView, verb=Verb.PLEDGE),
    Route(
        "remove",
        "DELETE",
        "/v1/vms/{id}",
        "Remove a VM; one that runs is ended at once",
        VmView,
        verb=Verb.RUN,
        query=_GENERATION,
    ),
    Route(
        "stop",
        "POST",
        "/v1/vms/{id}/stop",
        "Press the power button, and wait until it is off",
        VmView,
        verb=Verb.RUN,
        query=_FORCE,
    ),
    Route("reboot", "POST", "/v1/vms/{id}/reboot", "Reboot a VM", VmView, verb=Verb.RUN),
    Route(
        "attach_volume",
        "POST",
        "/v1/vms/{id}/volumes",
        "One volume more, at once where the VM runs",
        VmView,
        Octets.ENVELOPE,
        verb=Verb.RUN,
    ),
    Route(
        "detach_volume",
        "DELETE",
        "/v1/vms/{id}/volumes/{vid}",
        "Take a volume from a VM; the guest of one that runs has to let go of it",
        VmView,
        verb=Verb.RUN,
    ),
    Route(
        "console_log",
        "GET",
        "/v1/vms/{id}/log",
        "What the guest has written on its serial console",
        Octets.LOG,
        verb=Verb.CONSOLE,
    ),
    Route(
        "console",
        "GET",
        "/v1/vms/{id}/console",
        "The serial console: a WebSocket with binary frames both ways",
        None,
        verb=Verb.CONSOLE,
        websocket=True,
    ),
    Route("volumes", "GET", "/v1/volumes", "The volumes here that you may see", VolumeViews, verb=Verb.PLEDGE),
    Route("volume", "GET", "/v1/volumes/{id}", "One of them", VolumeView, verb=Verb.PLEDGE),
    Route(
        "new_volume",
        "POST",
        "/v1/volumes",
        "Make a volume in the room that an offer holds",
        Lines(VolumeProgress),
        NewVolume,
        verb=Verb.RUN,
    ),
    Route(
        "import_volume",
        "POST",
        "/v1/imports",
        "Make a volume from an image, in the room that an offer holds",
        Lines(VolumeProgress),
        ImportVolume,
        verb=Verb.RUN,
    ),
    Route("upload", "PUT", "/v1/uploads/{id}", "The image of an import", Done, Octets.IMAGE, verb=Verb.RUN),
    Route(
        "change_volume",
        "PATCH",
        "/v1/volumes/{id}",
        "Rename a volume of yours, make it larger, or give it another format",
        Lines(VolumeProgress),
        ChangeVolume,
        verb=Verb.RUN,
    ),
    Route(
        "clone_volume",
        "POST",
        "/v1/volumes/{id}/clones",
        "A copy of a volume that nobody writes; it shares blocks where the filesystem can",
        Lines(VolumeProgress),
        CloneVolume,
        verb=Verb.RUN,
    ),
    Route(
        "cancel",
        "DELETE",
        "/v1/volumes/{id}/job",
        "End what you have asked to be done to a volume, or the making of one: all is as it was before",
        Done,
        verb=Verb.RUN,
    ),
    Route(
        "take_over",
        "POST",
        "/v1/volumes/{id}/takeover",
        "Free a volume of yours: whoever has it is cut first, and can never write it again",
        Done,
        verb=Verb.RUN,
        query=_IS_DEAD,
    ),
    Route("snapshots", "GET", "/v1/volumes/{id}/snapshots", "A volume's earlier states", Snapshots, verb=Verb.PLEDGE),
    Route(
        "take_snapshot",
        "POST",
        "/v1/volumes/{id}/snapshots",
        "Keep the state of a volume of yours that nobody writes",
        Lines(VolumeProgress),
        TakeSnapshot,
        verb=Verb.RUN,
    ),
    Route(
        "drop_snapshot",
        "DELETE",
        "/v1/volumes/{id}/snapshots",
        "Drop one of its snapshots",
        Lines(VolumeProgress),
        DropSnapshot,
        verb=Verb.RUN,
    ),
    Route(
        "roll_back",
        "POST",
        "/v1/volumes/{id}/rollback",
        "Give it the state that a snapshot has",
        Lines(VolumeProgress),
        RollBack,
        verb=Verb.RUN,
    ),
    Route(
        "new_seed",
        "POST",
        "/v1/seeds",
        "Make a cloud-init seed in the room that an offer holds",
        Lines(VolumeProgress),
        NewSeed,
        verb=Verb.RUN,
    ),
    Route(
        "remove_volume",
        "DELETE",
        "/v1/volumes/{id}",
        "Remove a volume of yours for good, with its snapshots",
        Lines(VolumeProgress),
        verb=Verb.RUN,
    ),
    Route(
        "attach",
        "POST",
        "/v1/attachments",
        "Attach a VM's volumes to your host, on its user's word",
        Attached,
        Octets.ENVELOPE,
        who=Who.HOST,
        query=_WITHOUT,
    ),
    Route("detach", "POST", "/v1/detachments", "A VM of yours has ended there", Detached, Detach, who=Who.HOST),
    Route(
        "relay",
        "GET",
        "/v1/relay",
        "A line by which this host asks others in your stead: a WebSocket with binary frames. It says first which "
        "addresses it lends you; then your signed pledges, queries and reveals go out, and hosts' answers come back",
        None,
        verb=Verb.PLEDGE,
        websocket=True,
    ),
    Route(
        "tunnel",
        "GET",
        "/v1/hosts/{host}/door",
        "A tunnel to the front door of another host: a WebSocket that passes your TLS with it on, as bytes both ways",
        None,
        verb=Verb.PLEDGE,
        query=_PORT,
        websocket=True,
    ),
    Route(
        "relayed",
        "POST",
        "/v1/relayed",
        "What a user asks through your host; this host's answers",
        Octets.ENVELOPES,
        Octets.ENVELOPE,
        who=Who.HOST,
    ),
    Route("status", "GET", "/v1/realm", "What this host knows of the realm", RealmStatus, who=Who.MEMBER),
    Route(
        "bundle",
        "GET",
        "/v1/realm/bundle",
        "The realm's bundle and its tag keys, framed",
        Octets.DOCUMENTS,
        who=Who.MEMBER,
    ),
    Route(
        "offer",
        "POST",
        "/v1/realm/documents",
        "Bring signed documents",
        Done,
        Octets.DOCUMENTS,
        who=Who.MEMBER,
        lasts=True,
    ),
    Route(
        "renew",
        "POST",
        "/v1/realm/renewals",
        "A new leaf for the key that you show",
        Admitted,
        Renew,
        who=Who.MEMBER,
        superseded=True,
        lasts=True,
    ),
    Route("invite_host", "POST", "/v1/realm/hosts", "A token for a new host", Invited, InviteHost, verb=Verb.ADMIN),
    Route("invite_user", "POST", "/v1/realm/users", "A token for a new user", Invited, InviteUser, verb=Verb.ADMIN),
    Route(
        "change_grant",
        "POST",
        "/v1/realm/grants",
        "Give a user another grant",
        Done,
        ChangeGrant,
        verb=Verb.ADMIN,
        lasts=True,
    ),
    Route(
        "revoke",
        "POST",
        "/v1/realm/revocations",
        "End a membership for ever",
        Done,
        Revoke,
        verb=Verb.ADMIN,
        lasts=True,
    ),
    Route("make_issuer", "POST", "/v1/realm/issuers", "A key for an issuer on this host", Renew, verb=Verb.ADMIN),
    Route("members", "GET", "/v1/realm/members", "All whom the issuer here knows", Members, verb=Verb.ADMIN),
    Route(
        "uses",
        "GET",
        "/v1/realm/uses/{user}",
        "What a user has here, and what other hosts tell of them",
        UserUses,
        verb=Verb.ADMIN,
    ),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a method and a path mean: a route with the path's parameters, or the methods that there are instead."""

    route: Route | None
    arguments: dict[str, str]
    methods: tuple[str, ...] = ()


class Table:
    """The routes of one door: those of `ROUTES` that something stands behind."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self.routes = tuple(routes)
        self._by_length: dict[int, list[Route]] = {}
        for route in self.routes:
            self._by_length.setdefault(len(route.parts), []).append(route)

    def find(self, method: str, path: str, *, websocket: bool = False) -> Found:
        """HEAD is answered where GET is."""
        method = "GET" if method == "HEAD" else method
        parts = tuple(path.split("/")[1 : PARTS_MAX + 2])
        there = [route for route in self._by_length.get(len(parts), ()) if _fits(route.parts, parts)]
        for route in there:
            if route.method == method and route.websocket == websocket:
                arguments = {
                    mine[1:-1]: given for mine, given in zip(route.parts, parts, strict=True) if mine[:1] == "{"
                }
                return Found(route, arguments)
        return Found(None, {}, tuple(sorted({route.method for route in there if not route.websocket})))


def _fits(parts: tuple[str, ...], given: tuple[str, ...]) -> bool:
    return all(mine == other or (mine[:1] == "{" and other) for mine, other in zip(parts, given, strict=True))
