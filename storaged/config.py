"""`/etc/atomos/storaged.toml`: where a host keeps volumes."""

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import BaseModel, ConfigDict, model_validator

from matcher.net import audit, multicast
from matcher.net.gossip import seeds as seeding
from matcher.net.gossip import sockets
from specs.units import GB_MIB
from storaged.export import nfs, tgt
from storaged.export.choosing import Driver
from storaged.pool import VOLUMES_MAX, Pool

PORT = 7767  # beside atomd's front door
SHARED_PORT = 7770  # beside those of exports

PATH = Path("/etc/atomos/storaged.toml")


class Narrow(BaseModel):
    """What this host takes away from every grant; it can give nothing. Users, hours and the rest are for `atomd`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    volumes_gb: Annotated[int, Ge(0), Le(2**31 - 1)] | None = None


class PoolSettings(BaseModel):
    """A folder that is searched for volumes, at any depth. A bare path says as much as one without limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    limit_gb: Annotated[int, Ge(0), Le(2**31 - 1)] | None = None  # of the virtual sizes of its volumes together
    volumes_max: Annotated[int, Ge(1), Le(VOLUMES_MAX)] = VOLUMES_MAX

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str | os.PathLike) else value

    def named(self) -> Pool:
        limit_mib = None if self.limit_gb is None else self.limit_gb * GB_MIB
        return Pool(os.path.abspath(self.path), limit_mib, self.volumes_max)


class Config(BaseModel):
    """One host's settings; every key has a default. `iscsi_port` or `nfs_port` 0: volumes, or folders, are for VMs on
    this host alone. `iscsi_driver`: which one serves, where storaged is not to choose. Each pool that several servers
    serve has a port of its own, from `shared_port` on; sanlock takes a read or write of a lease for failed after
    `lease_io_s`. `exports` is for the programs that serve. `image_user` is who qemu-img runs as, and `fetch_allowed`
    opens addresses from which no image would be fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: Path = Path("/var/lib/atomos/identity")
    state: Path = Path("/var/lib/atomos")
    socket: Path = Path("/run/atomos/storaged.sock")
    pools: Annotated[tuple[PoolSettings, ...], MaxLen(64)] = (PoolSettings(path=Path("/srv/atomos")),)
    audit: Path = audit.PATH
    iscsi_driver: Driver | Literal["auto"] = "auto"
    iscsi_port: Annotated[int, Ge(0), Le(65535)] = tgt.PORT
    nfs_port: Annotated[int, Ge(0), Le(65535)] = nfs.PORT
    shared_port: Annotated[int, Ge(1), Le(65535 - 64)] = SHARED_PORT
    lease_io_s: Annotated[int, Ge(1), Le(60)] = 10
    exports: Path = Path("/run/atomos/exports")
    image_user: str = ""  # empty: the first of `sandbox.USERS` that the machine has
    fetch_allowed: Annotated[tuple[IPv4Network | IPv6Network, ...], MaxLen(64)] = ()
    rescan_s: Annotated[float, Ge(1), Le(86_400)] = 30.0
    multicast_port: Annotated[int, Ge(1), Le(65535)] = multicast.PORT
    gossip_port: Annotated[int, Ge(1), Le(65535)] = sockets.PORT
    seeds: seeding.Setting = ()
    front_door_port: Annotated[int, Ge(1), Le(65535)] = PORT
    narrow: Narrow = Narrow()
