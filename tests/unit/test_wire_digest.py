"""A digest is a few dozen bytes in a datagram, comes back as it went, and nothing else passes for one."""

from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from matcher.wire.codec import BadBytes, decode, encode, from_json, to_json
from matcher.wire.gossip import DIGEST_FIELDS, Alive, Digest, to_values
from matcher.wire.messages import Address, Arch, Role

BOTH = (Role.COMPUTE, Role.STORAGE)
SMALL = Digest(BOTH, "X86_32+X86_64", "x86-64-v3", 2, 1, 7642, 6991, 0, 0, 120, 96, 1, False, "a1b2c3d4")
ARCHS = "+".join(sorted(arch.value for arch in Arch))
MOST = Digest(BOTH, ARCHS, "x86-64-v4", 4096, 4096, 2**26, 2**26, 999, 999, 10**6, 10**6, 999, True, "a1b2c3d4", "tcg")


def alive(digest: Digest) -> Alive:
    return Alive(1_764_000_000_000, 77, (Address("10.98.0.2", 7766),), 7766, digest)


def packed(values: object) -> bytes:
    """A statement with this for a digest."""
    fields = msgpack.unpackb(encode(alive(SMALL)))
    data: bytes = msgpack.packb(fields | {"digest": values})
    return data


@pytest.mark.parametrize("digest", [Digest(), Digest((Role.STORAGE,), disk_gb=9), SMALL, MOST])
def test_it_comes_back_as_it_went(digest: Digest) -> None:
    said = alive(digest)
    assert decode(Alive, encode(said)) == said
    assert from_json(Alive, to_json(said)) == said
    assert from_json(Digest, to_json(digest)) == digest


def test_it_is_a_few_dozen_bytes() -> None:
    def size(digest: Digest) -> int:
        return len(msgpack.packb(to_values(digest)))

    assert size(SMALL) <= 30
    assert size(MOST) <= 64


def values(**changed: object) -> list[Any]:
    return list((dict(zip(DIGEST_FIELDS, to_values(SMALL), strict=True)) | changed).values())


@pytest.mark.parametrize(
    "bad",
    [
        values()[:-1],
        [*values()[:-2], values()[-1]],
        [*values(), 0],  # what a later version adds is refused, as unknown fields are everywhere
        [],
        None,
        "x86",
        dict(zip(DIGEST_FIELDS, to_values(SMALL), strict=True)),
        values(roles=4),
        values(roles=-1),
        values(roles=True),
        values(roles=1.0),
        values(roles=[1]),
        values(arch=128),
        values(level=10),
        values(slots=-1),
        values(slots="8"),
        values(slots=True),
        values(ram_mib=2**26 + 1),
        values(drained=1),
        values(like="\x1b[2J"),
        values(like="x" * 65),
        values(accelerator=4),
        values(accelerator=-1),
        values(accelerator="kvm"),
        values(accelerator=None),
    ],
)
def test_what_is_none_is_refused_as_bad_bytes(bad: object) -> None:
    assert decode(Alive, packed(values())).digest == SMALL
    with pytest.raises(BadBytes):
        decode(Alive, packed(bad))
