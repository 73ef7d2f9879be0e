"""Whole realms in a folder, made in milliseconds as `electros realm create` and tokens would make them."""

from dataclasses import dataclass
from pathlib import Path

from matcher.trust.identity import Identity, load_identity
from matcher.trust.issuing import Issuer, open_issuer
from matcher.trust.realm import EVERYTHING, Root, create_root, found, make_member
from matcher.wire.realm import Grant

FOUNDER = "h0"  # holds the issuer


@dataclass(frozen=True)
class Realm:
    """`members` by name: those that start with "h" are hosts, all others are users who may do everything."""

    folder: Path
    root: Root
    issuer: Issuer
    members: dict[str, Identity]

    def __getitem__(self, name: str) -> Identity:
        return self.members[name]

    def add(self, name: str, grant: Grant = EVERYTHING) -> Identity:
        kind = "host" if name.startswith("h") else "user"
        folder = self.folder / name
        make_member(self.members[FOUNDER], self.issuer, kind, name, folder, grant=grant if kind == "user" else None)
        self.members[name] = load_identity(folder)
        return self.members[name]


def make_realm(folder: Path, *names: str, realm: str = "home") -> Realm:
    """A realm with its founder, and `names`."""
    root = create_root(folder / "root", realm)
    founder = found(root, host=FOUNDER, identity=folder / FOUNDER, issuer=folder / "issuer")
    issuer = open_issuer(folder / "issuer", founder)
    assert issuer is not None
    made = Realm(folder, root, issuer, {FOUNDER: founder})
    for name in names:
        made.add(name)
    return made
