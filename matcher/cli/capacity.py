"""`electros capacity`: how many more VMs like this one fit now, on each host and in all, and what runs out first."""

from typing import Any

from matcher.cli.asking import Edits, Emulation, PolicyName, allows_emulation
from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Output, Table, emit
from matcher.cli.reading import read_specfile
from matcher.cli.surveys import survey
from matcher.scheduler.outcomes import HostReasons, Surveyed
from matcher.scheduler.pledging import vm_ask
from matcher.wire.messages import Policy, VmOffer

WHAT_MAX = 4  # resources named in one row


def capacity(
    specfile: str,
    *,
    edits: Edits = None,
    policy: PolicyName = Policy.PACK,
    allow_emulation: Emulation = None,
    output: Output = "table",
) -> None:
    """Count how many more VMs like this one fit now, on each host and in all; nothing is held.

    Your grant counts as well. With -o name comes the sum alone. The exit code is 0 where at least one fits, 3 where
    none does.

    Parameters
    ----------
    specfile
        The specfile; "-" reads standard input.
    """
    ask = vm_ask(read_specfile(specfile, edits or ()), allow_emulation=allows_emulation(allow_emulation))
    _, surveyed = survey(ask, policy=policy, counts=True)
    offers = sorted((c.vm.offer for c in surveyed.choices if not c.vm.offer.pretended), key=lambda o: -o.copies)
    total = sum(offer.copies for offer in offers)
    emit(output, _document(offers, surveyed, total), _table(offers, surveyed, total))
    if not total:
        raise Failure(Exit.NO_HOST_FITS, f'no host fits "{specfile}" now', helps=f"electros why {specfile}")


def _document(offers: list[VmOffer], surveyed: Surveyed, total: int) -> dict[str, Any]:
    fits = [
        {"host": o.host, "fits": o.copies, "at_least": o.copies_at_least, "runs_out": list(o.runs_out)} for o in offers
    ]
    none = [{"host": u.host, "fits": 0, "at_least": False, "runs_out": _lacks(u)} for u in surveyed.unfits]
    return {"fits": total, "at_least": any(offer.copies_at_least for offer in offers), "hosts": [*fits, *none]}


def _table(offers: list[VmOffer], surveyed: Surveyed, total: int) -> Table:
    rows = [(o.host, _number(o.copies, o.copies_at_least), _named(o.runs_out)) for o in offers]
    rows += [(unfit.host, "0", _named(_lacks(unfit))) for unfit in surveyed.unfits]
    number = _number(total, any(offer.copies_at_least for offer in offers))
    notes = [f"in all: {number}"]
    if sum(any(word.startswith("grant") for word in offer.runs_out) for offer in offers) > 1:
        notes.append("your grant counts over all hosts: it may allow fewer in all")
    return Table(("HOST", "FITS", "RUNS OUT FIRST"), rows, [str(total)], notes)


def _lacks(unfit: HostReasons) -> list[str]:
    return list(dict.fromkeys(reason.resource for reason in unfit.reasons if reason.resource != "more"))


def _number(count: int, at_least: bool) -> str:
    return f"{count} or more" if at_least else str(count)


def _named(resources: tuple[str, ...] | list[str]) -> str:
    return ", ".join(resources[:WHAT_MAX]) + (", …" if len(resources) > WHAT_MAX else "")
