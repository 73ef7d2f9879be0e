"""Who calls, and from where: what every request that changes something is judged by, and what the audit says of it."""

from dataclasses import dataclass

from matcher.trust.principal import Principal


@dataclass(frozen=True, slots=True)
class Caller:
    """`address` is numeric, or empty where there is none."""

    who: Principal
    address: str

    @property
    def id(self) -> str:
        return self.who.id

    @property
    def name(self) -> str:
        return self.who.name
