"""Tokens as a person gets them: the token alone on stdout, what to do with it on stderr."""

import sys

from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Table, emit, note
from matcher.cli.session import Session
from matcher.trust.certificates import public_key_of
from matcher.trust.principal import PrincipalKind, fingerprint
from matcher.trust.tokens import BadToken, read_token
from matcher.wire.realm import Invited

WHERE = {"host": ("on the new host", "sudo atomd join TOKEN"), "user": ("there", "electros login TOKEN")}


def emit_token(mine: Session, output: str, invited: Invited, kind: PrincipalKind, name: str) -> None:
    """Raises `Failure` where a host gave something that is no token of this realm."""
    bundle = mine.client.identity.bundle
    try:
        token = read_token(invited.token)
    except BadToken as error:
        raise Failure(Exit.FAILED, f"a host answered with something else than a token: {error}") from None
    if token.kind != kind or token.root not in {fingerprint(public_key_of(root)) for root in bundle.roots}:
        raise Failure(Exit.FAILED, f"a host answered with another token than one for a {kind} of this realm")
    if output in ("table", "name"):
        sys.stdout.write(token.text() + "\n")
        sys.stdout.flush()
        where, command = WHERE[kind]
        who = f"{name}, " if kind == "user" else ""
        note(f"electros: {who}{where}: {command}   (good for {max(1, invited.expires_in_s // 60)} min, once)")
        return
    said = {"token": token.text(), "kind": kind, "name": name or None, "expires_in_s": invited.expires_in_s}
    emit(output, said, Table((), ()))
