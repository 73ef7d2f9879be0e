"""`electros ps, inspect, stop, reboot, rm`: the VMs that are mine."""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

from cyclopts import Parameter

from matcher.cli import records
from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Output, emit, note
from matcher.cli.session import Found, Session, no_host_in_reach, session, tell_silent
from matcher.cli.views import detail_table, vm_detail, vm_document, vms_table
from matcher.wire.messages import VmView
from specs.ids import VmId, dashed

ENDED_S = 80.0  # a host gives the guest 60 s to obey the power button

Names = Annotated[list[str], Parameter(help="names, UUIDs, or the start of either", negative="")]


def ps(*, output: Output = "table") -> None:
    """List my VMs on all hosts in reach, whatever their state."""
    with session() as mine:
        found, heard = mine.vms()
    if not heard.answers:
        raise no_host_in_reach(heard)
    vms = sorted((each.vm for each in found), key=lambda vm: (vm.name, vm.host))
    emit(output, {"vms": [vm_document(vm) for vm in vms]}, vms_table(vms))
    tell_silent(heard)


def inspect(vm: str, *, output: Output = "table") -> None:
    """Show everything that is known of one VM.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    """
    with session() as mine:
        found = mine.one(vm)
    emit(output, {"vm": vm_detail(found.vm)}, detail_table(found.vm))


def stop(
    *vms: str,
    force: Annotated[bool, Parameter(help="pull the plug instead of pressing the power button")] = False,
    output: Output = "table",
) -> None:
    """Press the power button of VMs and wait until they are off; name and volumes stay, compute is free."""
    with session() as mine:
        ended, failure = _each(vms, lambda name: _stop(mine, mine.one(name), force=force))
    if ended or failure is None:
        emit(output, {"vms": [vm_document(vm) for vm in ended]}, vms_table(ended))
    if failure is not None:
        raise failure


def reboot(vm: str, *, output: Output = "table") -> None:
    """Restart the guest where it is.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    """
    with session() as mine:
        after = _act(mine, mine.one(vm), "POST", "reboot")
    note(f"electros: {after.name} is asked to restart; a guest that is just booting may not hear it")
    emit(output, {"vm": vm_document(after)}, vms_table([after]))


def rm(
    *vms: str,
    force: Annotated[bool, Parameter(name=["--force", "-f"], help="pull the plug of a VM that runs")] = False,
    output: Output = "table",
) -> None:
    """Remove VMs; one that runs is stopped first. Their volumes stay, free for other VMs; a seed of `run` goes."""
    with session() as mine:
        gone, failure = _each(vms, lambda name: _stop_and_remove(mine, name, force=force, aloud=output == "table"))
    if output != "table" and (gone or failure is None):
        removed = [{"id": dashed(vm.id), "name": vm.name, "host": vm.host} for vm in gone]
        emit(output, {"removed": removed}, vms_table(gone))
    if failure is not None:
        raise failure


def _each(names: tuple[str, ...], act: Callable[[str], VmView]) -> tuple[list[VmView], Failure | None]:
    """All of them, whatever becomes of one: what was done, and the failures as one."""
    if not names:
        raise Failure(Exit.USAGE, "which VM? Say its name, its UUID, or the start of either", helps="electros ps")
    done: list[VmView] = []
    failures: list[Failure] = []
    for name in names:
        try:
            done.append(act(name))
        except Failure as failure:
            failures.append(failure)
    if len(failures) < 2:
        return done, failures[0] if failures else None
    said = "; ".join(failure.message for failure in failures)
    return done, Failure(failures[0].exit_code, said, helps=failures[0].helps, code=failures[0].code)


def _stop_and_remove(mine: Session, name: str, *, force: bool, aloud: bool) -> VmView:
    found = mine.one(name)
    if found.vm.state in ("running", "stopping") and not force:
        _stop(mine, found, force=False, helps=f"electros rm --force {found.vm.name}")
    _remove(mine, found)
    for older in mine.vms(found.vm.id, exact=True)[0]:
        _remove(mine, older)
    if aloud:
        note(f"electros: {found.vm.name} is removed from {found.vm.host}")
    if found.vm.state == "failed":  # it had let go of its volumes, so that no storage host knows what goes with it
        from matcher.cli.seeding import remove_left_of

        remove_left_of(mine, VmId(found.vm.id))
    return found.vm


def _remove(mine: Session, found: Found) -> None:
    path = f"/v1/vms/{found.vm.id}?generation={found.vm.generation}"
    last = mine.ask(found.door, lambda connection: connection.ask("DELETE", path, VmView), timeout_s=ENDED_S)
    if last.state == "removing":
        said = f"{found.vm.host} is still removing {found.vm.name}, and goes on: its domain or volumes are not free yet"
        raise Failure(Exit.TIMEOUT, said, helps="electros ps shows it until it is gone")
    with suppress(OSError):
        records.forget(VmId(found.vm.id))


def _stop(mine: Session, found: Found, *, force: bool, helps: str = "") -> VmView:
    vm = _act(mine, found, "POST", f"stop?force={int(force)}")
    if vm.state not in ("stopped", "failed"):
        helps = helps or f"electros stop --force {vm.name}"
        raise Failure(Exit.TIMEOUT, f"{vm.name} is still {vm.state}: {vm.why}", helps=helps)
    return vm


def _act(mine: Session, found: Found, method: str, verb: str) -> VmView:
    path = f"/v1/vms/{found.vm.id}/{verb}"
    return mine.ask(found.door, lambda connection: connection.ask(method, path, VmView), timeout_s=ENDED_S)
