"""Whether a VM of a host that does not answer may run again elsewhere.

    the realm holds its host for      start --elsewhere
    gone, or knows nothing of it      goes on
    anything else                     is refused: the VM may be running there; who knows better says --host-is-dead

A list of hosts is one host's word (docs/THREATS.md): it never starts a VM, it only stops a person who may be wrong.
"""

from matcher.cli.failures import Exit, Failure
from matcher.cli.hosts_asking import look
from matcher.cli.hosts_seen import Host, Looked
from matcher.cli.records import Record
from matcher.cli.session import Session
from matcher.wire.gossip import HostState

SAID = {
    HostState.ALIVE: "alive",
    HostState.SUSPECT: "silent, and not yet for long",
    HostState.DOWN: "there, though its atomd does not answer",
    HostState.LEFT: "without its daemons, which were stopped; that stops no VM",
}


def judge(mine: Session, kept: Record) -> None:
    """Raises `Failure`: its host is not gone, as far as another one knows."""
    looked = look(mine)
    host = next((host for host in looked.hosts if host.view.id == kept.host_id), None)
    if host is None or host.view.state is HostState.GONE:
        return
    said = f"{kept.host} is {SAID[host.view.state]}, {_source(looked, host)}: {kept.name} may be running there"
    helps = f"if you know that this machine is off: electros start {kept.name} --elsewhere --host-is-dead"
    raise Failure(Exit.FAILED, said, helps=helps, code="host-not-gone")


def _source(looked: Looked, host: Host) -> str:
    return "as it says" if host.by_answer or not looked.asked else f"as {looked.asked} has heard"
