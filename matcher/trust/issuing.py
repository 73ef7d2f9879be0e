"""An issuer: the key on one host that makes leaves, revocations, heartbeats and tag keys, and remembers whom it made.

    key.pem (0600)  members.json (0600)

Everything is on the disk before it is given out. What an issuer may do stands in its certificate, in the realm's
anchor. Wall time comes in as an argument.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

from matcher.trust import files
from matcher.trust.bundle import SCOPE_TO_REVOKE, Bundle, IssuerEntry
from matcher.trust.certificates import (
    BACKDATE_S,
    LEAF_DAYS,
    Scope,
    Untrusted,
    make_leaf,
    read_leaf,
    to_der,
)
from matcher.trust.documents import Signed, key_id, write_document
from matcher.trust.grants import NOTHING
from matcher.trust.identity import Identity, load_key
from matcher.trust.principal import Principal, PrincipalKind, fingerprint, name_problem
from matcher.trust.requests import read_request
from matcher.trust.verifier import Verifier
from matcher.wire.codec import from_json, to_json
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.realm import Grant, Heartbeat, Member, Members, Revocation, TagKey, Verb

BEAT_S = 600.0  # between heartbeats


class IssueError(Exception):
    """Why this can't be issued or revoked; `code` for programs, a sentence for a person, and what may help."""

    def __init__(self, code: str, said: str, helps: str = "") -> None:
        super().__init__(said)
        self.code, self.said, self.helps = code, said, helps


@dataclass(frozen=True, slots=True)
class Issued:
    leaf: bytes  # DER
    member: Member


class Issuer:
    """One issuer's desk. `verifier` is that of its own host: its bundle tells what the issuer may do."""

    def __init__(self, folder: Path, key: EllipticCurvePrivateKey, verifier: Verifier) -> None:
        self._folder, self._key, self._verifier = folder, key, verifier
        self._members = _read_members(folder)

    @property
    def entry(self) -> IssuerEntry | None:
        """This issuer as today's anchor names it; `None`: it may do nothing (any more)."""
        return entry_of(self._key, self._verifier.bundle)

    @property
    def scopes(self) -> frozenset[Scope]:
        return self.entry.scopes if self.entry else frozenset()

    def members(self, wall_s: float) -> tuple[Member, ...]:
        return tuple(self._as_of(member, wall_s) for member in self._members.values())

    def find(self, kind: PrincipalKind, name_or_id: str, wall_s: float) -> Member | None:
        """By name among those that are members still, or by the whole id."""
        mine = [member for member in self.members(wall_s) if member.kind == kind]
        living = (member for member in mine if member.name == name_or_id and member.state == "member")
        by_id = (member for member in mine if member.id == name_or_id)
        return next(living, None) or next(by_id, None)

    def is_taken(self, kind: PrincipalKind, name: str, wall_s: float) -> bool:
        member = self.find(kind, name, wall_s)
        return member is not None and member.name == name and member.state == "member"

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
        """A new member's first leaf. `name` empty: the one that the request wishes for. Raises `IssueError`."""
        try:
            key, wished = read_request(request)
        except Untrusted as error:
            raise IssueError("bad-request", error.reason) from error
        name = name or wished
        if problem := name_problem(name):
            raise IssueError("bad-request", problem)
        member_id = fingerprint(key)
        before = self._members.get((kind, member_id))
        if before is not None and before.state == "revoked":
            raise IssueError("revoked", f"this key was revoked, as {before.name}", "make a new key")
        if self.is_taken(kind, name, wall_s) and (before is None or before.name != name):
            first = f"electros {'realm remove' if kind == 'host' else 'user revoke'} {name}"
            said = f"there is a {kind} {name} in this realm already"
            raise IssueError("name-taken", said, f"choose another name, or first: {first}")
        return self._issue(kind, name, key, grant, wall_s, addresses, days or LEAF_DAYS[kind], since_s=None)

    def renew(self, holder: Principal, request: bytes, *, wall_s: float, addresses: Collection[str] = ()) -> Issued:
        """A new leaf for a member of today, who has shown the old one; with the grant that was given last.

        Raises `IssueError`.
        """
        try:
            key, _ = read_request(request)
        except Untrusted as error:
            raise IssueError("bad-request", error.reason) from error
        if fingerprint(key) != holder.id:
            raise IssueError("bad-request", "the request is for another key than the one that was shown")
        known = self._members.get((holder.kind, holder.id))
        if known is not None and known.state == "revoked":
            raise IssueError("revoked", f"{holder.name} was revoked")
        grant = (known.grant if known is not None else holder.grant) if holder.kind == "user" else None
        since_s = known.since_s if known is not None else None
        days = LEAF_DAYS[holder.kind]
        return self._issue(holder.kind, holder.name, key, grant, wall_s, addresses, days, since_s=since_s)

    def change(self, name: str, grant: Grant, *, wall_s: float) -> Signed[Revocation]:
        """Give a user another grant: the leaves of before are revoked, and the next renewal carries it.

        Raises `IssueError`.
        """
        member = self._living("user", name, wall_s)
        self._check_scope("user", grant)
        revocation = self._revocation("user", member.id, int(wall_s) - BACKDATE_S + 1, "another grant", wall_s)
        self._keep(replace(member, grant=grant))
        return revocation

    def revoke(self, kind: PrincipalKind, name_or_id: str, why: str, *, wall_s: float) -> Signed[Revocation]:
        """End a membership for ever. Raises `IssueError`."""
        member = self._living(kind, name_or_id, wall_s)
        revocation = self._revocation(kind, member.id, 0, why, wall_s)
        self._keep(replace(member, state="revoked"))
        return revocation

    def revoke_again(self, wall_s: float) -> list[Signed[Revocation]]:
        """Revocations by issuers that the root has dropped, in our own name: for members who come later."""
        bundle, entry = self._verifier.bundle, self.entry
        if entry is None:
            return []
        living = {issuer.key_id for issuer in bundle.issuers}
        orphans = [s for s in bundle.revocations.values() if not any(known in living for known, _ in s.signatures)]
        held = {(s.says.kind, s.says.id): s.says for s in bundle.revocations.values() if s not in orphans}
        return [
            write_document(orphan.says, self._key)
            for orphan in orphans
            if SCOPE_TO_REVOKE[orphan.says.kind] in entry.scopes
            and _reach(held.get((orphan.says.kind, orphan.says.id))) < _reach(orphan.says)
        ]

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

    @property
    def _realm_id(self) -> str:
        return self._verifier.bundle.anchor.realm_id

    def _issue(
        self,
        kind: PrincipalKind,
        name: str,
        key: EllipticCurvePublicKey,
        grant: Grant | None,
        wall_s: float,
        addresses: Collection[str],
        days: float,
        *,
        since_s: int | None,
    ) -> Issued:
        entry = self._check_scope(kind, grant)
        if grant is not None and grant.until_s is not None and wall_s >= grant.until_s:
            raise IssueError("expired", f"what was granted to {name} has ended", "an admin can give another grant")
        leaf = make_leaf(
            key,
            kind,
            name,
            entry.certificate,
            self._key,
            wall_s=wall_s,
            days=days,
            grant=(grant or NOTHING) if kind == "user" else None,
            addresses=addresses if kind == "host" else (),
        )
        read_leaf(leaf)  # what we make, we can read
        ends_s = int(leaf.not_valid_after_utc.timestamp())
        member = Member(
            kind, fingerprint(key), name, "member", int(wall_s) if since_s is None else since_s, ends_s, grant
        )
        self._keep(member)
        return Issued(to_der(leaf), member)

    def _check_scope(self, kind: PrincipalKind, grant: Grant | None) -> IssuerEntry:
        entry = self._needs(SCOPE_TO_REVOKE[kind])
        if grant is not None and Verb.ADMIN in grant.verbs:
            self._needs(Scope.ADMINS)
        return entry

    def _needs(self, scope: Scope) -> IssuerEntry:
        entry = self.entry
        if entry is None or scope not in entry.scopes:
            raise IssueError("out-of-scope", "the issuer on this host may not do that", "electros realm status")
        return entry

    def _living(self, kind: PrincipalKind, name_or_id: str, wall_s: float) -> Member:
        member = self.find(kind, name_or_id, wall_s)
        if member is None:
            raise IssueError("not-found", f"no {kind} {name_or_id} is known to the issuer here", "electros realm hosts")
        if member.state == "revoked":
            raise IssueError("revoked", f"{kind} {member.name} was revoked already")
        return member

    def _revocation(
        self, kind: PrincipalKind, member_id: str, before_s: int, why: str, wall_s: float
    ) -> Signed[Revocation]:
        self._needs(SCOPE_TO_REVOKE[kind])
        return write_document(
            Revocation(self._realm_id, kind, member_id, before_s, int(wall_s * 1000), why[:120]), self._key
        )

    def _keep(self, member: Member) -> None:
        self._members[member.kind, member.id] = member
        _write_members(self._folder, list(self._members.values()))

    def _as_of(self, member: Member, wall_s: float) -> Member:
        if member.state != "revoked" and not self._verifier.is_member(member.kind, member.id):
            return replace(member, state="revoked")  # by another issuer
        return replace(member, state="expired") if member.state == "member" and wall_s > member.ends_s else member


def open_issuer(folder: Path, identity: Identity) -> Issuer | None:
    """The issuer kept in `folder`; `None` where there is none. Raises `IdentityError` where it can't be used."""
    if not (folder / "key.pem").exists():
        return None
    return Issuer(folder, load_key(folder), identity.verifier)


def entry_of(key: EllipticCurvePrivateKey, bundle: Bundle) -> IssuerEntry | None:
    wanted = key_id(key.public_key())
    return next((entry for entry in bundle.issuers if entry.key_id == wanted), None)


def _reach(revocation: Revocation | None) -> float:
    if revocation is None:
        return -1.0
    return float(revocation.before_s) if revocation.before_s else float("inf")


def _read_members(folder: Path) -> dict[tuple[str, str], Member]:
    path = folder / "members.json"
    if not path.exists():
        return {}
    members = from_json(Members, files.read(path), max_bytes=files.FILE_MAX_BYTES).members
    return {(member.kind, member.id): member for member in members}


def _write_members(folder: Path, members: Collection[Member]) -> None:
    files.write(folder / "members.json", (to_json(Members(tuple(members))) + "\n").encode())
