"""What every host has of its realm for members to read, and takes in of it from them: who issues, who was revoked.

A host that runs storaged alone has no more than that, and takes part by it: it hears news and spreads them, and members
catch up with it as it does with them. What only an issuer can do is asked at a `Desk`.
"""

import time
from collections.abc import Sequence

from matcher.net.audit import Audit, outcome_of
from matcher.net.caller import Caller
from matcher.net.upkeep import Upkeep
from matcher.trust.bundle import Bundle
from matcher.trust.documents import Signed, read_documents
from matcher.trust.telling import realm_status
from matcher.wire.framing import frame
from matcher.wire.messages import Message, Reason, Refused
from matcher.wire.realm import Done, RealmStatus


class Board:
    """Implements what `matcher.net.door` wants of a realm's board."""

    def __init__(self, upkeep: Upkeep, *, audit: Audit) -> None:
        self._upkeep, self._audit = upkeep, audit
        self._identity = upkeep.identity

    def status(self) -> RealmStatus:
        identity = self._identity
        return realm_status(
            identity.bundle, host=identity.principal.name, key_number=identity.key_number, wall_s=time.time()
        )

    def bundle(self) -> bytes:
        return frame([self._identity.bundle.to_bytes(), self._identity.tag_key_documents()])

    async def offer(self, documents: bytes, caller: Caller) -> Done | Refused:
        """Documents that prove themselves, whoever brings them; what is not of this realm is passed over, and leaves no
        line in the audit, which any member could fill with it."""
        before = self._known()
        refusal = self._publish(list(read_documents(documents)), caller, "", "")
        if refusal is not None or self._known() == before:
            return refusal or Done("nothing of it was new")
        self._audit.note(caller, "realm.documents")
        return Done("known now")

    def denied(self, caller: Caller, asked: str, why: str) -> None:
        """The front door has turned somebody away."""
        self._audit.note(caller, "denied", asked, "refused: denied", why)

    # ---- inside

    def _known(self) -> tuple[Bundle, int]:
        return self._identity.bundle, self._identity.key_number

    def _publish(self, documents: Sequence[Signed[Message]], caller: Caller, what: str, about: str) -> Refused | None:
        try:
            self._upkeep.publish(documents)
        except OSError as error:
            said = f"it is in force, but can't be kept on this host's disk: {error.strerror}"
            return self._refuse("journal", said, "free space on the host's disk, then do it again", caller, about)
        if what:
            self._audit.note(caller, what, about, "ok")
        return None

    def _refuse(self, code: str, said: str, helps: str, caller: Caller, about: str) -> Refused:
        refused = Refused(code, (Reason("realm", about[:120], said[:120], helps[:160]),))
        self._audit.note(caller, "realm.change", about, outcome_of(refused))
        return refused
