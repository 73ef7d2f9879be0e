"""An issuer: the key on one host that makes leaves, revocations, heartbeats and tag keys, and remembers whom it made.

    key.pem (0600)  members.json (0600)

Everything is on the disk before it is given out. What an issuer may do stands in its certificate, in the realm's
anchor. The registry is no secret, but nobody else's business; it grows with the members there are, not with those
there were. Wall time comes in as an argument.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)

from matcher.trust import files
from matcher.trust.bundle import SCOPE_TO_REVOKE, Bundle, IssuerEntry
from matcher.trust.certificates import (
    BACKDATE_S,
    LEAF_DAYS,
    LEAF_MAX_BYTES,
    Scope,
    Untrusted,
    make_leaf,
    read_leaf,
    to_der,
)
from matcher.trust.documents import Signed, key_id, write_document
from matcher.trust.grants import NOTHING, grant_problem
from matcher.trust.identity import Identity, IdentityError, load_key
from matcher.trust.principal import PrincipalKind, fingerprint, is_fingerprint, name_problem
from matcher.trust.requests import make_request, read_request
from matcher.trust.tag_keys import TagKeys
from matcher.trust.verifier import REVOKED, Certified, Verifier
from matcher.wire.codec import BadBytes, from_json, to_json
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.messages import Message
from matcher.wire.realm import MEMBERS_MAX, Grant, Heartbeat, Member, Revocation, Seconds, TagKey, Verb

BEAT_S = 600.0  # between heartbeats
ENDING_S = 90 * 86_400  # before its certificate's end: as no leaf outlives its issuer, those of users get shorter now
FORGET_S = 90 * 86_400  # after a member's last leaf has ended; who was revoked stands in the bundle for ever
WHY_MAX_BYTES = 120
ADDRESSES_MAX = 8  # in a host's leaf, which each of its datagrams carries


class IssueError(Exception):
    """Why this can't be issued or revoked; `code` for programs, a sentence for a person, and what may help."""

    def __init__(self, code: str, said: str, helps: str = "") -> None:
        super().__init__(said)
        self.code, self.said, self.helps = code, said, helps


@dataclass(frozen=True, slots=True)
class Record(Message):
    """`granted_s`: leaves that start earlier carry another grant than the one that stands here."""

    member: Member
    granted_s: Seconds


@dataclass(frozen=True, slots=True)
class Registry(Message):
    records: Annotated[tuple[Record, ...], MaxLen(MEMBERS_MAX)]


@dataclass(frozen=True, slots=True)
class Issued:
    leaf: bytes  # DER
    member: Member


class Issuer:
    """One issuer's desk. `verifier` is that of its own host: its bundle tells what the issuer may do, and who is
    revoked: what `revoke`, `change` and `revoke_again` give has to be learned there, and kept, before anything else."""

    def __init__(self, folder: Path, key: EllipticCurvePrivateKey, verifier: Verifier) -> None:
        """Raises `IdentityError` where the registry can't be read."""
        self._folder, self._key, self._verifier = folder, key, verifier
        self._records = _read_records(folder)
        self._beat_s = float("-inf")
        self._stood_in: Bundle | None = None  # the one that was looked at for orphans last

    @property
    def entry(self) -> IssuerEntry | None:
        """This issuer as today's anchor names it; `None`: it may do nothing (any more)."""
        return entry_of(self._key, self._verifier.bundle)

    @property
    def scopes(self) -> frozenset[Scope]:
        return self.entry.scopes if self.entry else frozenset()

    def members(self, wall_s: float) -> tuple[Member, ...]:
        return tuple(self._as_of(record.member, wall_s) for record in self._records.values())

    def find(self, kind: PrincipalKind, name_or_id: str, wall_s: float) -> Member | None:
        """By name among those that are members still, or by the whole id."""
        mine = [member for member in self.members(wall_s) if member.kind == kind]
        living = (member for member in mine if member.name == name_or_id and member.state == "member")
        by_id = (member for member in mine if member.id == name_or_id)
        return next(living, None) or next(by_id, None)

    def is_taken(self, kind: PrincipalKind, name: str, wall_s: float) -> bool:
        member = self.find(kind, name, wall_s)
        return member is not None and member.name == name and member.state == "member"

    def check(self, kind: PrincipalKind, grant: Grant | None) -> None:
        """Whether such a member can be made here at all, before anybody is invited. Raises `IssueError`."""
        self._check_scope(kind, grant)

    def admit(
        self,
        kind: PrincipalKind,
        name: str,
        request: bytes,
        grant: Grant | None,
        *,
        wall_s: float,
        addresses: Collection[str] = (),
        days: float | None = None,
    ) -> Issued:
        """A new member's first leaf; the same request gets one again. `name` empty: the one that the request wishes.

        Raises `IssueError`, and `OSError` where it can't be written down.
        """
        key, wished = _read_request(request)
        name = name or wished
        if problem := name_problem(name):
            raise IssueError("bad-request", problem)
        self._check_newcomer(kind, name, fingerprint(key), grant, wall_s)
        return self._issue(kind, name, key, grant, wall_s, addresses, LEAF_DAYS[kind] if days is None else days)

    def renew(self, leaf: bytes, request: bytes, *, wall_s: float, addresses: Collection[str] = ()) -> Issued:
        """A new leaf for who holds `leaf`, a member of today, with the grant that was given last. The leaf is judged
        here; one that `change` has superseded will do. Raises `IssueError`, and `OSError` as `admit` does.
        """
        key, _ = _read_request(request)
        try:
            shown = self._verifier.renewing(leaf, wall_s)
        except Untrusted as error:
            raise IssueError("revoked" if error.reason == REVOKED else "denied", error.reason) from error
        holder = shown.principal
        if fingerprint(key) != holder.id:
            raise IssueError("bad-request", "the request is for another key than the one that was shown")
        grant = self._last_grant(shown) if holder.kind == "user" else None
        return self._issue(holder.kind, holder.name, key, grant, wall_s, addresses, LEAF_DAYS[holder.kind])

    def change(self, name: str, grant: Grant, *, wall_s: float) -> Signed[Revocation]:
        """Give a user another grant: the leaves of before are revoked, and the next renewal carries it.

        Raises `IssueError`, and `OSError` as `admit` does.
        """
        member = self._known("user", name, wall_s)
        self._check_scope("user", grant)
        # After all leaves that there are, be they of this very second.
        before_s = max(int(wall_s) - BACKDATE_S, self._granted_s(member), int(self._revoked_s(member))) + 1
        revocation = self._revocation("user", member.id, before_s, "another grant", wall_s)
        self._keep(replace(member, grant=grant), before_s, wall_s)
        return revocation

    def revoke(self, kind: PrincipalKind, name_or_id: str, why: str, *, wall_s: float) -> Signed[Revocation]:
        """End a membership for ever; by id, also one that another issuer has made. Doing it again gives the same.

        Raises `IssueError`, and `OSError` as `admit` does.
        """
        if self.find(kind, name_or_id, wall_s) is None and is_fingerprint(name_or_id):
            if not self._verifier.is_member(kind, name_or_id):
                raise IssueError("revoked", f"{kind} {name_or_id[:16]} was revoked already")
            return self._revocation(kind, name_or_id, 0, why, wall_s)
        member = self._known(kind, name_or_id, wall_s)
        revocation = self._revocation(kind, member.id, 0, why, wall_s)
        self._keep(replace(member, state="revoked"), self._granted_s(member), wall_s)
        return revocation

    def revoke_again(self, wall_s: float) -> list[Signed[Revocation]]:
        """Revocations by issuers that the root has dropped, in our own name: for members who come later."""
        bundle, entry = self._verifier.bundle, self.entry
        if entry is None:
            return []
        orphans = bundle.orphans
        held: dict[tuple[str, str], float] = {}
        for digest, signed in bundle.revocations.items():
            if digest not in orphans:
                member = signed.says.kind, signed.says.id
                held[member] = max(_reach(signed.says), held.get(member, 0.0))
        furthest: dict[tuple[str, str], Revocation] = {}
        for signed in sorted(orphans.values(), key=lambda orphan: _reach(orphan.says)):
            member = signed.says.kind, signed.says.id
            if SCOPE_TO_REVOKE[signed.says.kind] in entry.scopes and held.get(member, 0.0) < _reach(signed.says):
                furthest[member] = signed.says
        return [write_document(says, self._key) for says in furthest.values()]

    def request(self, name: str) -> bytes:
        """For the root, to be named in the next anchor; DER."""
        return make_request(self._key, name)

    def due(self, tag_keys: TagKeys, now_s: float, wall_s: float) -> list[Signed[Message]]:
        """What this issuer says unasked: that it lives, now and then; and at once what those have said who are no
        issuers any more, since who did not hear it from them will hear it from nobody else."""
        documents: list[Signed[Message]] = []
        bundle = self._verifier.bundle
        if bundle is not self._stood_in:
            self._stood_in = bundle
            documents += self.revoke_again(wall_s) if bundle.orphans else []
            documents += self._key_again(tag_keys, wall_s)
        if now_s >= self._beat_s + BEAT_S and (beat := self.heartbeat(wall_s)) is not None:
            self._beat_s = now_s
            documents.append(beat)
        return documents

    def heartbeat(self, wall_s: float) -> Signed[Heartbeat] | None:
        entry = self.entry
        if entry is None:
            return None
        count = len(self._verifier.bundle.revocations_by(entry.key_id))
        return write_document(Heartbeat(self._realm_id, int(wall_s * 1000), count), self._key)

    def new_tag_key(self, key: bytes, *, number: int, wall_s: float) -> Signed[TagKey]:
        """`key` is fresh randomness; `number` is one more than today's. Raises `IssueError`."""
        assert len(key) == TAG_KEY_BYTES
        self._needs(Scope.HOSTS)
        return write_document(TagKey(self._realm_id, number, key, int(wall_s * 1000)), self._key)

    # ---- inside

    def _key_again(self, tag_keys: TagKeys, wall_s: float) -> list[Signed[TagKey]]:
        orphan = tag_keys.orphan(self._verifier.bundle)
        if orphan is None or Scope.HOSTS not in self.scopes:
            return []
        return [write_document(replace(orphan.says, at_ms=int(wall_s * 1000)), self._key)]

    @property
    def _realm_id(self) -> str:
        return self._verifier.bundle.anchor.realm_id

    def _check_newcomer(
        self, kind: PrincipalKind, name: str, member_id: str, grant: Grant | None, wall_s: float
    ) -> None:
        """One key is one member, one name is one member of today; nobody comes back with a key that was revoked."""
        for each in ("host", "user"):
            if not self._verifier.is_member(each, member_id):
                raise IssueError("revoked", f"this key was revoked, as a {each}'s", "make a new key")
            record = self._records.get((each, member_id))
            if record is None:
                continue
            member = self._as_of(record.member, wall_s)
            if member.state == "revoked":
                raise IssueError("revoked", f"this key was revoked, as {member.name}", "make a new key")
            granted = (grant or NOTHING) if kind == "user" else None
            is_same = (member.kind, member.name, member.grant) == (kind, name, granted)
            if not is_same or self._revoked_s(member):
                raise IssueError("key-taken", f"this key is {member.kind} {member.name}'s already", "make a new key")
        found = self.find(kind, name, wall_s)
        if found is not None and found.name == name and found.state == "member" and found.id != member_id:
            first = f"electros {'realm remove' if kind == 'host' else 'user revoke'} {name}"
            said = f"there is a {kind} {name} in this realm already"
            raise IssueError("name-taken", said, f"choose another name, or first: {first}")

    def _last_grant(self, shown: Certified) -> Grant:
        """The newest that is known, of the leaf that was shown and what was written down here; both may be outdated
        where another issuer has changed it since, and then it is not for us to guess."""
        holder = shown.principal
        record = self._records.get((holder.kind, holder.id))
        if record is not None and record.member.grant is not None and record.granted_s > shown.issued_s:
            if record.granted_s >= self._verifier.revoked_before_s(holder.kind, holder.id):
                return record.member.grant
        elif shown.issued_s >= self._verifier.revoked_before_s(holder.kind, holder.id):
            return holder.grant
        said = f"another issuer has changed what is granted to {holder.name}"
        raise IssueError("not-here", said, "ask the issuer that changed it; electros realm status")

    def _issue(
        self,
        kind: PrincipalKind,
        name: str,
        key: EllipticCurvePublicKey,
        grant: Grant | None,
        wall_s: float,
        addresses: Collection[str],
        days: float,
    ) -> Issued:
        entry = self._check_scope(kind, grant)
        if grant is not None and grant.until_s is not None and wall_s >= grant.until_s:
            raise IssueError("expired", f"what was granted to {name} has ended", "an admin can give another grant")
        if wall_s >= entry.ends_s:
            raise IssueError("expired", "the issuer's own certificate has ended", "the realm's root can make another")
        member_id, granted = fingerprint(key), (grant or NOTHING) if kind == "user" else None
        leaf = make_leaf(
            key,
            kind,
            name,
            entry.certificate,
            self._key,
            wall_s=wall_s,
            days=days,
            grant=granted,
            addresses=sorted(addresses)[:ADDRESSES_MAX] if kind == "host" else (),
            not_before_s=self._verifier.revoked_before_s(kind, member_id),
        )
        if len(to_der(leaf)) > LEAF_MAX_BYTES:
            raise IssueError("bad-request", f"the certificate of {name} would be too long", "grant with fewer words")
        read_leaf(leaf)  # what we make, we can read
        member = Member(kind, member_id, name, "member", self._since_s(kind, member_id, wall_s), _end_s(leaf), granted)
        self._keep(member, int(leaf.not_valid_before_utc.timestamp()), wall_s)
        return Issued(to_der(leaf), member)

    def _check_scope(self, kind: PrincipalKind, grant: Grant | None) -> IssuerEntry:
        entry = self._needs(SCOPE_TO_REVOKE[kind])
        if grant is not None and Verb.ADMIN in grant.verbs:
            self._needs(Scope.ADMINS)
        if grant is not None and (problem := grant_problem(grant)):
            raise IssueError("bad-request", problem)
        return entry

    def _needs(self, scope: Scope) -> IssuerEntry:
        entry = self.entry
        if entry is None or scope not in entry.scopes:
            raise IssueError("out-of-scope", "the issuer on this host may not do that", "electros realm status")
        return entry

    def _known(self, kind: PrincipalKind, name_or_id: str, wall_s: float) -> Member:
        """Of those whom the realm has not revoked; that we did so is not enough, if nobody could hear of it."""
        mine = [record.member for record in self._records.values() if record.member.kind == kind]
        named = [member for member in mine if name_or_id in (member.name, member.id)]
        named.sort(key=lambda member: not self._verifier.is_member(kind, member.id))
        member = self.find(kind, name_or_id, wall_s) or next(iter(named), None)
        if member is None:
            raise IssueError("not-found", f"no {kind} {name_or_id} is known to the issuer here", "electros realm hosts")
        if not self._verifier.is_member(kind, member.id):
            raise IssueError("revoked", f"{kind} {member.name} was revoked already")
        return member

    def _revocation(
        self, kind: PrincipalKind, member_id: str, before_s: int, why: str, wall_s: float
    ) -> Signed[Revocation]:
        self._needs(SCOPE_TO_REVOKE[kind])
        why = "".join(letter for letter in why if letter.isprintable())
        why = why.encode("utf-8", "ignore")[:WHY_MAX_BYTES].decode("utf-8", "ignore")
        signed = write_document(
            Revocation(self._realm_id, kind, member_id, before_s, int(wall_s * 1000), why), self._key
        )
        try:
            self._verifier.bundle.add(signed)
        except Untrusted as error:  # it would be in force nowhere
            raise IssueError("too-many", f"the realm can't take it: {error.reason}") from error
        return signed

    def _granted_s(self, member: Member) -> int:
        record = self._records.get((member.kind, member.id))
        return record.granted_s if record is not None else 0

    def _revoked_s(self, member: Member) -> float:
        return self._verifier.revoked_before_s(member.kind, member.id)

    def _since_s(self, kind: PrincipalKind, member_id: str, wall_s: float) -> int:
        record = self._records.get((kind, member_id))
        return record.member.since_s if record is not None else int(wall_s)

    def _keep(self, member: Member, granted_s: int, wall_s: float) -> None:
        """Write it down, and then know it. Raises `OSError`, and `IssueError` where there are too many."""
        kept = {key: each for key, each in self._records.items() if each.member.ends_s + FORGET_S > wall_s}
        kept[member.kind, member.id] = Record(member, granted_s)
        if len(kept) > MEMBERS_MAX:
            raise IssueError("too-many", f"this issuer has {MEMBERS_MAX} members already, and can't keep more")
        registry = to_json(Registry(tuple(kept.values()))) + "\n"
        files.write(self._folder / "members.json", registry.encode())
        self._records = kept

    def _as_of(self, member: Member, wall_s: float) -> Member:
        if member.state != "revoked" and not self._verifier.is_member(member.kind, member.id):
            return replace(member, state="revoked")  # by another issuer
        return replace(member, state="expired") if member.state == "member" and wall_s > member.ends_s else member


def make_issuer_key(folder: Path) -> None:
    """A key for an issuer that the root has to name yet. Raises `OSError`."""
    files.make_folder(folder)
    if not (folder / "key.pem").exists():
        files.write(folder / "key.pem", files.key_pem(generate_private_key(SECP256R1())))


def open_issuer(folder: Path, identity: Identity) -> Issuer | None:
    """The issuer kept in `folder`; `None` where there is none. Raises `IdentityError` where it can't be used."""
    if not has_issuer(folder):
        return None
    return Issuer(folder, load_key(folder), identity.verifier)


def has_issuer(folder: Path) -> bool:
    """Raises `IdentityError` where that can't be told."""
    try:
        (folder / "key.pem").lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise IdentityError(f"The issuer in {folder} can't be read: {error.strerror}.") from error
    return True


def entry_of(key: EllipticCurvePrivateKey, bundle: Bundle) -> IssuerEntry | None:
    wanted = key_id(key.public_key())
    return next((entry for entry in bundle.issuers if entry.key_id == wanted), None)


def _reach(revocation: Revocation) -> float:
    return float(revocation.before_s) if revocation.before_s else float("inf")


def _end_s(leaf: x509.Certificate) -> int:
    return int(leaf.not_valid_after_utc.timestamp())


def _read_request(request: bytes) -> tuple[EllipticCurvePublicKey, str]:
    try:
        return read_request(request)
    except Untrusted as error:
        raise IssueError("bad-request", error.reason) from error


def _read_records(folder: Path) -> dict[tuple[str, str], Record]:
    path = folder / "members.json"
    try:
        text = files.read(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise IdentityError(f"{path} can't be read: {error.strerror}.") from error
    try:
        records = from_json(Registry, text, max_bytes=files.FILE_MAX_BYTES).records
    except BadBytes as error:
        raise IdentityError(
            f"{path} is damaged ({error}): the issuer does not know whom it has made. Restore it from a backup; or "
            "remove it: members stay members, but names can be given twice, and changed grants are forgotten."
        ) from None
    return {(record.member.kind, record.member.id): record for record in records}
