"""A pledge's seal: a promise that only its maker can open, in two steps and without a signature.

    x  --H-->  H(x)  --H-->  H(H(x))
    done       enough        the seal, in the pledge

Whoever has the pledge can check what is revealed, and nobody can guess it (a hash chain, after Lamport 1981). *Enough*
does not give *done* away. Pure: randomness comes in as an argument.
"""

from dataclasses import dataclass
from hashlib import blake2s
from random import Random
from typing import Literal, Self

SECRET_BYTES = 32

Opening = Literal["enough", "done"]


def opens(seal: bytes, secret: bytes) -> Opening | None:
    """What `secret`, taken from a `Reveal`, says about the pledge that carries `seal`; `None` if it says nothing.

    Two hashes at most, whatever comes: cheap enough to check for any stranger's datagram.
    """
    if len(secret) != SECRET_BYTES or len(seal) != SECRET_BYTES:
        return None
    once = _hash(secret)
    if once == seal:
        return "enough"
    return "done" if _hash(once) == seal else None


@dataclass(frozen=True, slots=True, repr=False)
class Seal:
    """The maker's side: `sealed` goes into the pledge, `enough` and `done` are revealed, in that order."""

    done: bytes  # x

    @classmethod
    def new(cls, random: Random) -> Self:
        """A fresh secret; `random` should be a `SystemRandom` outside of tests."""
        return cls(random.randbytes(SECRET_BYTES))

    @property
    def enough(self) -> bytes:
        return _hash(self.done)

    @property
    def sealed(self) -> bytes:
        return _hash(self.enough)


def _hash(data: bytes) -> bytes:
    return blake2s(data, digest_size=SECRET_BYTES, person=b"atm-seal").digest()
