"""`/etc/atomos/atomd.toml`: a sysadmin's settings for a host. Every key has a default; an empty file is a good one."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict

from atomd.guest_cpu import RAM_RESERVE_MIB
from matcher.net import audit, multicast
from matcher.net.door import serving

PATH = Path("/etc/atomos/atomd.toml")

Port = Annotated[int, Ge(1), Le(65535)]


class Config(BaseModel):
    """One host's settings. `inventory_root`: pretend to be the machine recorded there; such a host runs nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: Path = Path("/var/lib/atomos/identity")
    issuer: Path = Path("/var/lib/atomos/issuer")
    state: Path = Path("/var/lib/atomos")
    audit: Path = audit.PATH
    storaged_socket: Path = Path("/run/atomos/storaged.sock")
    libvirt_uri: str = "qemu:///system"
    network: str = "default"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    ram_reserve_mib: Annotated[int, Ge(0)] = RAM_RESERVE_MIB
    reserved_core: bool = True
    share_cores_between_users: bool = False
    inventory_root: Path | None = None
    multicast_port: Port = multicast.PORT
    front_door_port: Port = serving.PORT
