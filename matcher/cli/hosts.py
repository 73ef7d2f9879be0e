"""`electros hosts`: who is on my links, and what is free there."""

from typing import Any

from matcher.cli.output import Output, Table, emit
from matcher.cli.session import no_host_in_reach, session, tell_silent
from matcher.net.client import Said
from matcher.wire.messages import Answer, Role


def hosts(*, output: Output = "table") -> None:
    """List the hosts in reach of this machine."""
    with session() as mine:
        heard = mine.query()
    if not heard.answers:
        raise no_host_in_reach(heard)
    by_host: dict[str, list[Said]] = {}
    for said in heard.answers:
        by_host.setdefault(said.host_id, []).append(said)
    shown = sorted((_document(answers) for answers in by_host.values()), key=lambda host: str(host["name"]))
    table = Table(
        ("HOST", "ROLES", "CPU", "ACCEL", "THREADS FREE", "RAM FREE", "VMS", "VOLUMES", "ADDRESS"),
        [_row(host) for host in shown],
        [host["name"] for host in shown],
        [f"{host['name']} takes no new VMs: drained by its sysadmin" for host in shown if host["drained"]],
    )
    emit(output, {"hosts": shown}, table)
    tell_silent(heard)


def _document(answers: list[Said]) -> dict[str, Any]:
    """One host of one or two daemons: compute says what is free, storage says how many volumes there are."""
    by_role = {said.message.role: said for said in answers if isinstance(said.message, Answer)}
    first = by_role.get(Role.COMPUTE) or by_role[Role.STORAGE]
    compute = first.message
    assert isinstance(compute, Answer)
    storage = by_role[Role.STORAGE].message if Role.STORAGE in by_role else None
    return {
        "name": compute.host,
        "id": first.host_id,
        "roles": sorted(role.value for role in by_role),
        "address": first.address,
        "front_door_port": compute.front_door_port,
        "version": compute.version,
        "cpu": compute.cpu_model,
        "archs": compute.arch.split("+") if compute.arch else [],
        "accelerator": compute.accelerator,
        "threads": {"total": compute.threads_total, "free": compute.threads_free},
        "ram_mib": {"total": compute.ram_total_mib, "free": compute.ram_free_mib},
        "vms": compute.vms,
        "drained": compute.drained,
        "volumes": storage.volumes if isinstance(storage, Answer) else 0,
    }


def _row(host: dict[str, Any]) -> tuple[object, ...]:
    threads, ram = host["threads"], host["ram_mib"]
    return (
        host["name"],
        ",".join(host["roles"]),
        host["cpu"],
        host["accelerator"],
        f"{threads['free']}/{threads['total']}",
        f"{ram['free']}/{ram['total']} MiB",
        host["vms"],
        host["volumes"],
        host["address"],
    )
