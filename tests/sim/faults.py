"""What goes wrong, and how often: each a chance between 0 and 1, of one message, one call, one second of a host."""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Faults:
    # of each datagram or HTTPS leg
    loss: float = 0.05
    duplication: float = 0.05
    delay: float = 0.05  # seconds instead of milliseconds: what was sent later overtakes it
    # of each effect that a daemon performs, and of each answer it gives
    crash: float = 0.005
    # of each host and second
    reboot: float = 0.0005
    partition: float = 0.01
    disk_full: float = 0.005
    libvirt_stall: float = 0.005
    libvirt_down: float = 0.005
    storage_stall: float = 0.01  # SIGSTOP to storaged
    storaged_crash: float = 0.005
    tgtd_dies: float = 0.003
    tgtd_stops: float = 0.003
    freeze: float = 0.001  # the whole host stops, and goes on as if nothing had happened
    virsh: float = 0.002  # a domain is destroyed behind atomd's back
    clock: float = 0.003  # its wall clock is up to an hour off, for a while
    rollback: float = 0.0002  # it comes back from a power failure with an older pool
    restore: float = 0.0003  # its disk is replaced by an older one, as far as the realm goes
    # of each second
    split: float = 0.001  # hosts do not hear each other, in two parts, for seconds or many minutes
    removed: float = 0.0005  # a host that was there once is removed, and the tag key changes
    anchor: float = 0.001  # the root drops an issuer or names it again, or a new root takes over
    # of each call
    start_slow: float = 0.05
    start_fails: float = 0.03
    list_slow: float = 0.03  # what libvirt says of its domains is old when it comes
    storage_lost: float = 0.03
    storage_refuses: float = 0.03
    # of each person and second
    revoked: float = 0.001
    narrowed: float = 0.001  # their leaves of before are revoked, as the grant has changed
    # of each guest
    deaf: float = 0.1  # to the power button
    power_off: float = 0.1  # by itself
    # of each placement
    interrupt: float = 0.03
    client_crash: float = 0.02
    other_terminal: float = 0.01  # the person says `rm` elsewhere meanwhile
    # of each time that a person looks around
    elsewhere: float = 0.2  # starts a VM of a host that does not answer on another one
    takeover: float = 0.02  # frees a volume, whoever has it


# All that can happen to who writes a volume, who serves it, and who decides about it.
ABOUT_VOLUMES = (
    "none,loss=0.05,duplication=0.05,delay=0.05,crash=0.004,partition=0.03,split=0.01,reboot=0.003,freeze=0.012,"
    "storage_stall=0.01,storaged_crash=0.02,tgtd_dies=0.02,tgtd_stops=0.015,rollback=0.002,storage_lost=0.03,"
    "start_slow=0.1,list_slow=0.03,disk_full=0.005,virsh=0.005,libvirt_stall=0.01,libvirt_down=0.01,deaf=0.1,"
    "interrupt=0.03,client_crash=0.02,elsewhere=0.8,takeover=0.05"
)

NONE = Faults(**{field.name: 0.0 for field in fields(Faults)})


def parse_faults(text: str) -> Faults:
    """`loss=0.05,crash=0.01` over the defaults; `none` for a perfect world, `none,loss=0.2` for one fault alone.

    Raises `ValueError` with a sentence."""
    faults = Faults()
    names = [field.name for field in fields(Faults)]
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name == "none":
            faults = NONE
        elif name not in names:
            raise ValueError(f"no fault is named {name!r}; there are {', '.join(names)}")
        else:
            faults = replace(faults, **{name: _chance(name, value)})
    return faults


def _chance(name: str, value: str) -> float:
    try:
        chance = float(value)
    except ValueError:
        chance = -1.0
    if not 0 <= chance <= 1:
        raise ValueError(f"{name} is a chance between 0 and 1, not {value!r}")
    return chance
