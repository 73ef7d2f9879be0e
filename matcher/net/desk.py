"""What stands behind the realm's routes of a front door: who belongs, who may come, who has to go.

Every host answers for what it knows. A host with an issuer can do more: hand out tokens, admit who brings one, renew,
revoke. Each change is on the disk before it is answered, told to all hosts, and written into the audit.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from matcher.net.audit import Audit, named, outcome_of
from matcher.net.board import Board
from matcher.net.caller import Caller
from matcher.net.peer import now_s
from matcher.net.upkeep import Upkeep, own_addresses
from matcher.trust.certificates import Scope, public_key_of
from matcher.trust.documents import Signed
from matcher.trust.issuing import IssueError, make_issuer_key, open_issuer
from matcher.trust.joining import admit
from matcher.trust.principal import PrincipalKind, fingerprint
from matcher.trust.tokens import ID_BYTES, SECRET_BYTES, TOKEN_S, Tokens
from matcher.wire.messages import Message, Reason, Refused
from matcher.wire.realm import (
    Admitted,
    ChangeGrant,
    Done,
    Grant,
    Invited,
    InviteHost,
    InviteUser,
    Join,
    Members,
    RealmStatus,
    Renew,
    Revoke,
    Welcome,
)

T = TypeVar("T")


class Desk(Board):
    """Implements what `matcher.net.door` wants of a realm's desk. An empty `issuer_folder`: it issues nothing."""

    def __init__(self, upkeep: Upkeep, *, issuer_folder: Path, port: int, audit: Audit) -> None:
        """Raises `IdentityError` where there is an issuer that can't be used."""
        super().__init__(upkeep, audit=audit)
        self._port, self._issuer_folder = port, issuer_folder
        self._issuer = upkeep.issuer = open_issuer(issuer_folder, upkeep.identity)
        self._tokens = Tokens()

    def status(self) -> RealmStatus:
        mine = self._issuer.entry if self._issuer is not None else None
        return replace(
            super().status(),
            issues_here=mine is not None,
            issuer_here=mine.key_id.hex() if mine is not None else "",
            tokens_pending=self._tokens.count(now_s()),
        )

    # ---- what an issuer does

    async def renew(self, renew: Renew, caller: Caller, leaf: bytes) -> Admitted | Refused:
        """`leaf` is what the caller has shown: its holder is a member still, or the front door would not ask."""
        issuer = self._issuer
        if issuer is None or not self._issues:
            return _not_here("realm.renew")
        holder = caller.who
        addresses = (caller.address,) if holder.kind == "host" and caller.address else ()
        return self._tried(
            lambda: Admitted(
                issuer.renew(leaf, renew.request, wall_s=time.time(), addresses=addresses).leaf,
                self._identity.tag_key_documents(),
            ),
            caller,
            "realm.renew",
            named(holder),
        )

    async def invite_host(self, ask: InviteHost, caller: Caller) -> Invited | Refused:
        return self._invite("host", ask.name, None, caller)

    async def invite_user(self, ask: InviteUser, caller: Caller) -> Invited | Refused:
        return self._invite("user", ask.name, ask.grant, caller)

    async def change_grant(self, ask: ChangeGrant, caller: Caller) -> Done | Refused:
        issuer, about = self._issuer, f"user {ask.name}"
        if issuer is None or not self._issues:
            return self._not_here("realm.grant", caller, about)
        revocation = self._tried(lambda: issuer.change(ask.name, ask.grant, wall_s=time.time()), caller, "", about)
        if isinstance(revocation, Refused):
            return revocation
        refusal = self._publish([revocation], caller, "realm.grant", about)
        return refusal or Done(f"{ask.name} has another grant; what was granted before is good for nothing any more")

    async def revoke(self, ask: Revoke, caller: Caller) -> Done | Refused:
        """Who is revoked takes the tag key with them, so that there is a new one: for a host at once; for a user once
        the one before is over, see `Upkeep`."""
        issuer, about = self._issuer, f"{ask.kind} {ask.member}"
        if issuer is None or not self._issues:
            return self._not_here("realm.revoke", caller, about)
        if ask.kind == "host" and ask.member in (self._identity.principal.name, self._identity.principal.id):
            return self._refuse("this-host", "a host can't remove itself", "ask another issuer", caller, about)

        def revoke() -> list[Signed[Message]]:
            documents: list[Signed[Message]] = [issuer.revoke(ask.kind, ask.member, ask.why, wall_s=time.time())]
            if ask.kind == "host" or (Scope.HOSTS in issuer.scopes and not self._identity.realm.older):
                documents.append(self._upkeep.new_key())
            return documents

        named = issuer.find(ask.kind, ask.member, time.time())
        documents = self._tried(revoke, caller, "", about)
        if isinstance(documents, Refused):
            return documents
        refusal = self._publish(documents, caller, "realm.revoke", about)
        return refusal or Done(
            f"{ask.kind} {named.name if named else ask.member} is revoked: here now, everywhere else in a moment"
        )

    async def make_issuer(self, caller: Caller) -> Renew | Refused:
        def make() -> Renew:
            if self._issuer is None:
                make_issuer_key(self._issuer_folder)
                self._issuer = self._upkeep.issuer = open_issuer(self._issuer_folder, self._identity)
            assert self._issuer is not None
            return Renew(self._issuer.request(self._identity.principal.name))

        return self._tried(make, caller, "realm.issuer", f"host {self._identity.principal.name}")

    def members(self, caller: Caller) -> Members | Refused:
        if self._issuer is None:
            return _not_here("its members")
        return Members(self._issuer.members(time.time()))

    # ---- joining

    def is_joining(self) -> bool:
        return self._tokens.is_open(now_s())

    def welcome(self) -> Welcome:
        return Welcome(self._identity.bundle.to_bytes())

    async def join(self, join: Join, server_leaf: bytes, address: str) -> Admitted | Refused:
        assert self._issuer is not None, "tokens are issued by issuers alone"
        try:
            answer = admit(
                join,
                self._tokens,
                self._issuer,
                self._identity,
                server_leaf=server_leaf,
                addresses=(address,) if address else (),
                now_s=now_s(),
                wall_s=time.time(),
            )
        except OSError as error:
            answer = _unwritten(error, f"token {join.token_id}")
        if isinstance(answer, Refused):
            self._audit.note("somebody", "realm.join", f"token {join.token_id}", outcome_of(answer), address=address)
            return answer
        admitted, issued, pending = answer
        member = issued.member
        self._audit.note(
            named(member),
            "realm.join",
            f"token {join.token_id}, by {pending.by}",
            "ok",
            address=address,
        )
        return admitted

    # ---- inside

    @property
    def _issues(self) -> bool:
        return self._issuer is not None and self._issuer.entry is not None

    def _invite(self, kind: PrincipalKind, name: str, grant: Grant | None, caller: Caller) -> Invited | Refused:
        issuer, about = self._issuer, f"{kind} {name or '(names itself)'}"
        if issuer is None or not self._issues:
            return self._not_here("realm.invite", caller, about)
        try:
            issuer.check(kind, grant)
        except IssueError as error:
            return self._refuse(error.code, error.said, error.helps, caller, about)
        wall_s, time_s = time.time(), now_s()
        if name and issuer.is_taken(kind, name, wall_s):
            first = f"electros {'realm remove' if kind == 'host' else 'user revoke'} {name}"
            hint = f"choose another name, or first: {first}"
            return self._refuse("name-taken", f"there is a {kind} {name} already", hint, caller, about)
        if name and (lost := self._tokens.withdraw(kind, name)):  # one name, one token: who lost it asks again
            about = f"{about}, instead of token {lost}"
        token = self._tokens.issue(
            kind,
            name=name,
            grant=grant,
            by=caller.name,
            root=fingerprint(public_key_of(self._identity.bundle.roots[-1])),
            addresses=own_addresses(),
            port=self._port,
            random=os.urandom(ID_BYTES + SECRET_BYTES),
            now_s=time_s,
        )
        if token is None:
            hint = "they end after 15 minutes"
            return self._refuse("too-many", "too many tokens wait to be redeemed here", hint, caller, about)
        self._audit.note(caller, "realm.invite", f"{about}, token {token.token_id}", "ok")
        return Invited(token.text(), int(TOKEN_S))

    def _tried(self, do: Callable[[], T], caller: Caller, what: str, about: str) -> T | Refused:
        try:
            self._upkeep.keep()
            done = do()
        except IssueError as error:
            return self._refuse(error.code, error.said, error.helps, caller, about)
        except OSError as error:
            refused = _unwritten(error, about)
            self._audit.note(caller, "realm.change", about, outcome_of(refused))
            return refused
        if what:
            self._audit.note(caller, what, about, "ok")
        return done

    def _not_here(self, what: str, caller: Caller, about: str) -> Refused:
        """An admin has asked the wrong host, which its sysadmin may wonder about as well."""
        refused = _not_here(what)
        self._audit.note(caller, what, about, outcome_of(refused))
        return refused


def _not_here(asked: str) -> Refused:
    hint = "electros realm status tells who"
    return Refused("not-an-issuer", (Reason("realm", asked, "this host issues nothing", hint),))


def _unwritten(error: OSError, about: str) -> Refused:
    said = f"the issuer can't write it down: {error.strerror}"
    return Refused("journal", (Reason("realm", about[:120], said[:120], "free space on the host's disk"),))
