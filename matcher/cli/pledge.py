"""`electros pledge`: who could serve this specfile, and why the others could not. Nothing is held."""

from typing import Any

from matcher.cli.asking import Edits, Emulation, PolicyName, Rank, Volumes, allows_emulation, ranking
from matcher.cli.failures import refusal
from matcher.cli.output import Output, Table, emit
from matcher.cli.reading import read_specfile, read_volumespec
from matcher.cli.surveys import survey
from matcher.scheduler.choosing import Choice
from matcher.scheduler.explaining import nearest
from matcher.scheduler.outcomes import HostReasons
from matcher.scheduler.pledging import vm_ask
from matcher.wire.messages import Policy


def pledge(
    specfile: str,
    *,
    volumes: Volumes = None,
    edits: Edits = None,
    policy: PolicyName = Policy.PACK,
    rank: Rank = None,
    allow_emulation: Emulation = None,
    output: Output = "table",
) -> None:
    """Ask all hosts for this hardware, dry: every host answers, with an offer or with all its reasons.

    Parameters
    ----------
    specfile
        The specfile; "-" reads standard input.
    """
    spec = read_specfile(specfile, edits or ())
    vids = read_volumespec(volumes) if volumes else ()
    value = ranking(rank)
    ask = vm_ask(spec, allow_emulation=allows_emulation(allow_emulation))
    pledge_id, outcome = survey(ask, vids, policy=policy, value=value)
    document = {
        "pledge_id": pledge_id,
        "offers": [_offer(choice) for choice in outcome.choices],
        "refusals": [refusal(said.host, said.reasons) for said in outcome.unfits],
    }
    emit(output, document, _table(outcome.choices, outcome.unfits))


def _offer(choice: Choice) -> dict[str, Any]:
    offer = choice.vm.offer
    return {
        "host": offer.host,
        "score": round(offer.score, 4),
        "threads": list(offer.threads),
        "threads_per_core": offer.threads_per_core,
        "numa": offer.numa if offer.numa >= 0 else None,
        "choice": offer.choice,
        "pci": list(offer.pci),
        "usb": list(offer.usb),
        "ecc_source": offer.ecc_source or None,
        "volumes": [claim.vid for claim in choice.claims],
        "expires_in_s": offer.expires_in_ms / 1000,
        "arch": offer.arch.value,
        "accelerator": offer.accelerator.value,
        "pretended": offer.pretended,
    }


def _table(choices: tuple[Choice, ...], unfits: tuple[HostReasons, ...]) -> Table:
    rows: list[tuple[object, ...]] = []
    for choice in choices:
        offer = choice.vm.offer
        threads = ",".join(map(str, offer.threads[:8])) + ("…" if len(offer.threads) > 8 else "")
        count = len(offer.threads)
        what = f"{count} vCPU{'s' if count != 1 else ''} on thread{'s' if count != 1 else ''} {threads}"
        if offer.numa >= 0:
            what += f", NUMA node {offer.numa}"
        if offer.pci:
            what += f", {', '.join(offer.pci)}"
        if offer.usb:
            what += f", USB {', '.join(offer.usb)}"
        if offer.choice:
            what += f" (alternative {offer.choice + 1})"
        if offer.ecc_source:
            what += f", ECC (by {offer.ecc_source})"
        emulated = "pretended" if offer.pretended else offer.accelerator.value
        rows.append((offer.host, "offers", f"{offer.score:.2f}", emulated, what))
    for said in unfits:
        for number, reason in enumerate(said.reasons):
            text = f"{reason.resource}: asked {reason.asked}; {reason.has}" + (
                f" ({reason.hint})" if reason.hint else ""
            )
            rows.append((said.host if number == 0 else "", "refuses" if number == 0 else "", "", "", text))
    near = () if choices else nearest(unfits)[:1]
    notes = [f"nearest: {each.host} fits with  {' '.join(f'--set {edit}' for edit in each.edits)}" for each in near]
    return Table(("HOST", "", "SCORE", "ACCEL", "WHAT"), rows, [choice.vm.offer.host for choice in choices], notes)
