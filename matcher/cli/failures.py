"""Everything that can go wrong for a person at the terminal, with the exit code that scripts can rely on."""

from collections.abc import Mapping, Sequence
from enum import IntEnum

from matcher.cli.output import printable
from matcher.scheduler.outcomes import HostReasons, Nearest
from matcher.wire.messages import Reason
from specs.ids import dashed, parse_id


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NO_HOST_FITS = 3
    NOT_FOUND = 4
    DENIED = 5
    UNREACHABLE = 6
    TIMEOUT = 7
    INTERRUPTED = 130


CODES = {
    Exit.FAILED: "failed",
    Exit.USAGE: "usage",
    Exit.NO_HOST_FITS: "no-host-fits",
    Exit.NOT_FOUND: "not-found",
    Exit.DENIED: "denied",
    Exit.UNREACHABLE: "unreachable",
    Exit.TIMEOUT: "timeout",
    Exit.INTERRUPTED: "interrupted",
}


class Failure(Exception):
    """One sentence, what each host said, and the command that helps where there is one."""

    def __init__(
        self,
        exit_code: Exit,
        message: str,
        *,
        hosts: Sequence[HostReasons] = (),
        nearest: Sequence[Nearest] = (),
        helps: str = "",
        problems: Sequence[Mapping[str, str]] = (),
        code: str = "",
    ) -> None:
        super().__init__(message)
        self.exit_code, self.message, self.helps = exit_code, message, helps
        self.hosts, self.nearest, self.problems = tuple(hosts), tuple(nearest), tuple(problems)
        self.code = code or CODES[exit_code]

    def document(self) -> dict[str, object]:
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.helps:
            error["hint"] = self.helps
        if self.problems:
            error["problems"] = [dict(problem) for problem in self.problems]
        if self.hosts:
            error["refusals"] = [refusal(said.host, said.reasons) for said in self.hosts]
        if self.nearest:
            error["nearest"] = [{"host": near.host, "set": list(near.edits)} for near in self.nearest]
        return {"error": error}

    def text(self) -> str:
        """For a terminal. No word of a host's begins a line of its own, which would pass for one of ours."""
        lines = [f"electros: {self.message}"]
        width = max((len(said.host) for said in self.hosts), default=0)
        for said in self.hosts:
            lines += [f"  {said.host:<{width}}  {line}" for line in _reason_lines(said.reasons)]
        for near in self.nearest[:1]:
            lines.append(f"  nearest: {near.host} fits with  {' '.join(f'--set {edit}' for edit in near.edits)}")
        for problem in self.problems:
            lines.append(f"  {problem['path']}: {problem['problem']}")
            lines += [f"      hint: {problem['hint']}"] if problem["hint"] else []
        if self.helps:
            lines.append(f"  {self.helps}")
        return "\n".join(printable(line) for line in lines)


def refusal(host: str, reasons: Sequence[Reason]) -> dict[str, object]:
    return {
        "host": host,
        "reasons": [
            {"resource": r.resource, "asked": r.asked, "has": r.has, "hint": r.hint}
            | ({"set": r.edit} if r.edit else {})
            for r in reasons
        ],
    }


def _reason_lines(reasons: Sequence[Reason]) -> list[str]:
    return [
        f"{named(r.resource)}: {'' if is_deed(r) else f'asked {r.asked}; '}{r.has}" + (f" ({r.hint})" if r.hint else "")
        for r in reasons
    ]


def is_deed(reason: Reason) -> bool:
    """What was asked is a deed, which is not worth repeating to who asked for it, as an amount is."""
    return reason.asked.startswith("to ")


def named(resource: str) -> str:
    """A volume's UUID as all else shows it."""
    what, _, vid = resource.partition(" ")
    return f"volume {dashed(vid)}" if what == "volume" and parse_id(vid) else resource
