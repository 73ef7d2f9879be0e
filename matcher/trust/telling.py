"""What somebody who keeps a realm's bundle can say of the realm, in one message."""

from matcher.trust.bundle import Bundle
from matcher.trust.certificates import public_key_of
from matcher.trust.principal import fingerprint
from matcher.wire.realm import RealmStatus


def realm_status(
    bundle: Bundle,
    *,
    host: str,
    key_number: int,
    wall_s: float,
    issuer_here: str = "",
    tokens_pending: int = 0,
) -> RealmStatus:
    """`issuer_here`: the id of the key by which this host issues, empty where it issues nothing."""
    heard_s = bundle.heard_s(wall_s)
    return RealmStatus(
        realm_id=bundle.anchor.realm_id,
        name=bundle.anchor.name,
        host=host,
        epoch=bundle.anchor.epoch,
        roots=tuple(fingerprint(public_key_of(root)) for root in bundle.roots),
        issuers=tuple(entry.key_id.hex() for entry in bundle.issuers),
        revocations=len(bundle.revocations),
        key_number=key_number,
        fresh_s=-1 if heard_s is None else max(0, int(wall_s - heard_s)),
        issues_here=bool(issuer_here),
        tokens_pending=tokens_pending,
        issuer_here=issuer_here,
        issuers_end_s=tuple(int(entry.ends_s) for entry in bundle.issuers),
    )
