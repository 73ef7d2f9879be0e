"""Who calls, and from where: what every request that changes something is judged by, and what the audit says of it.

Pure.
"""

from dataclasses import dataclass

from matcher.trust.principal import Principal

REQUEST = "Idempotency-Key"  # the header that names a request: draft-ietf-httpapi-idempotency-key-header
REQUEST_PATTERN = r"^[0-9A-Za-z_-]{1,64}$"


@dataclass(frozen=True, slots=True)
class Caller:
    """`address` is numeric, or empty where there is none. `request` names the one request that the caller may repeat,
    where it has lost the answer; empty where it says no such name."""

    who: Principal
    address: str
    request: str = ""

    @property
    def id(self) -> str:
        return self.who.id

    @property
    def name(self) -> str:
        return self.who.name
