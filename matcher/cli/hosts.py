"""`electros hosts`: the hosts of the realm, as one of them has heard of them, and what is free there."""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from matcher.cli import hosts_views as views
from matcher.cli.failures import Exit, Failure
from matcher.cli.hosts_asking import look
from matcher.cli.hosts_seen import SETTLED_S, Host, Looked
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.session import session
from matcher.wire.gossip import HostState
from matcher.wire.hosts import HostViews

State = Literal["alive", "suspect", "daemon-down", "gone", "left"]
States = Annotated[
    list[State] | None, Parameter(name="--state", help="those in this state alone; may be repeated", negative="")
]
Sort = Annotated[views.Sort, Parameter(help="by name, or the one with the most of it free first")]
AsSeenBy = Annotated[str | None, Parameter(help="ask this host, by name; each has a view of its own")]

assert set(get_args(State)) == {state.value for state in HostState}


def hosts(
    *names: str,
    state: States = None,
    sort: Sort = "name",
    as_seen_by: AsSeenBy = None,
    output: Output = "table",
) -> None:
    """List the hosts of the realm, what is free there, and whether they live.

    One host is asked for what it has heard of all. SLOTS are hardware threads. TOLD: how long ago the host's last word
    came to the one that was asked; a host that is alive tells each change at once.

    Parameters
    ----------
    names
        Those of these names alone; 'rack3-*' is several.
    """
    with session(HostViews) as mine:
        looked = look(mine, as_seen_by=as_seen_by)
    shown = views.by_room(views.chosen(looked.hosts, names, [HostState(each) for each in state or ()]), sort)
    if not shown and names:
        raise Failure(Exit.NOT_FOUND, f"no such host in the realm: {', '.join(names)}", helps="electros hosts")
    document = {
        "asked": looked.asked or None,
        "listens_s": looked.listens_s if looked.listens_s >= 0 else None,
        "hosts": [views.document(host) for host in shown],
        "silent": list(looked.silent),
    }
    rows = [views.cells(host) for host in shown] if output == "table" else []
    emit(output, document, Table(views.HEADS, rows, [host.view.name for host in shown], _drained(shown)))
    _tell(looked)


def _drained(shown: Sequence[Host]) -> list[str]:
    return [f"{host.view.name} takes no new VMs: drained by its sysadmin" for host in shown if host.view.digest.drained]


def _tell(looked: Looked) -> None:
    """How good the list is, where it may not be whole."""
    for each in looked.notes:
        note(f"electros: {each}")
    if looked.asked and looked.listens_s < SETTLED_S:
        since = f"for {looked.listens_s} s" if looked.listens_s >= 0 else "to nobody yet"
        note(f"electros: {looked.asked}, which was asked, has listened {since}: it may not know of all hosts yet")
    if looked.silent:
        note(f"electros: silent: {', '.join(looked.silent)}")
