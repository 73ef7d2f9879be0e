"""`/etc/atomos/storaged.toml`: where a host keeps volumes."""

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le, MaxLen
from pydantic import BaseModel, ConfigDict

from matcher.net import audit, multicast

PORT = 7767  # beside atomd's front door
ISCSI_PORT = 7768  # a sysadmin's own targets have 3260

PATH = Path("/etc/atomos/storaged.toml")


class Narrow(BaseModel):
    """What this host takes away from every grant; it can give nothing. Users, hours and the rest are for `atomd`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    volumes_gb: Annotated[int, Ge(0), Le(2**31 - 1)] | None = None


class Config(BaseModel):
    """One host's settings; every key has a default. `pools`: folders that are searched for volumes, at any depth.
    `iscsi_port` 0: volumes are for VMs on this host alone. `exports` is for the programs that serve them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: Path = Path("/var/lib/atomos/identity")
    state: Path = Path("/var/lib/atomos")
    socket: Path = Path("/run/atomos/storaged.sock")
    pools: Annotated[tuple[Path, ...], MaxLen(64)] = (Path("/srv/atomos"),)
    audit: Path = audit.PATH
    iscsi_port: Annotated[int, Ge(0), Le(65535)] = ISCSI_PORT
    exports: Path = Path("/run/atomos/exports")
    rescan_s: Annotated[float, Ge(1), Le(86_400)] = 30.0
    multicast_port: Annotated[int, Ge(1), Le(65535)] = multicast.PORT
    front_door_port: Annotated[int, Ge(1), Le(65535)] = PORT
    narrow: Narrow = Narrow()
