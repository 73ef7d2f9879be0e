"""What a judge says."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation(Exception):
    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"
