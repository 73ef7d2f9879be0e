"""libvirt's words to ours: its errors, the states of its domains, and what its events say."""

from typing import Any

import libvirt

from atomd.hypervisor.domains import (
    ConsoleBusy,
    DomainState,
    HypervisorDown,
    HypervisorError,
    NoDomain,
    NotNow,
    Unknown,
    What,
    Why,
)
from atomd.hypervisor.libvirt_words import plain


def plain_words(error: Any) -> str:
    return plain(error.get_error_message() or str(error))


def is_alive(connection: Any) -> bool:
    """One that another thread has closed meanwhile is no connection at all."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def no_answer(doing: str, how_long: str, *, changes: bool) -> HypervisorError:
    text = f"libvirt did not answer {how_long}, while {doing}"
    if changes:
        return Unknown(f"{text}: it may have happened or may still happen")
    return HypervisorDown(text)


def translated(error: Any, doing: str) -> HypervisorError:
    code, words = error.get_error_code(), plain_words(error)
    if code == libvirt.VIR_ERR_NO_DOMAIN or "domain is not running" in words:
        return NoDomain(f"{doing}: there is no such domain on this host")
    if "Active console session exists" in words:
        return ConsoleBusy("somebody is at this console already; --force takes it over")
    return NotNow(f"{doing}: {words}")


# Another change of the domain was under way for too long, or QEMU does not answer.
NOT_SURE = frozenset({libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_AGENT_UNRESPONSIVE})

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.SHUTTING_DOWN,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}

PAUSED = {libvirt.VIR_DOMAIN_PAUSED_USER: Why.ASKED, libvirt.VIR_DOMAIN_PAUSED_IOERROR: Why.IO_ERROR}

LIFECYCLE: dict[tuple[int, int | None], tuple[What, Why | None, str]] = {
    (libvirt.VIR_DOMAIN_EVENT_STARTED, None): (What.STARTED, None, ""),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, None): (What.PAUSED, Why.ASKED, "paused by somebody on this host"),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR): (
        What.PAUSED,
        Why.IO_ERROR,
        "paused: a volume can't be read or written",
    ),
    (libvirt.VIR_DOMAIN_EVENT_RESUMED, None): (What.RESUMED, None, ""),
    # A shutdown by the HOST is QEMU obeying a destroy: its `STOPPED` says all.
    (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST): (What.SHUTTING_DOWN, None, ""),
    (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_FINISHED): (What.SHUTTING_DOWN, None, ""),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, None): (What.STOPPED, Why.OTHER, "saved or moved by somebody on this host"),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN): (
        What.STOPPED,
        Why.POWERED_OFF,
        "the guest powered off",
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED): (
        What.STOPPED,
        Why.DESTROYED,
        "the domain was destroyed",
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED): (
        What.STOPPED,
        Why.CRASHED,
        "the guest crashed",
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED): (
        What.STOPPED,
        Why.FAILED,
        "QEMU ended by itself",
    ),
    (libvirt.VIR_DOMAIN_EVENT_CRASHED, None): (What.CRASHED, Why.CRASHED, "the guest's kernel panicked"),
}
