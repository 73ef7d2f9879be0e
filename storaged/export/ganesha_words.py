"""What ganesha reads and says: its settings, one export, and the answers of its manager on D-Bus, as dbus-send prints
them.

NFSv4 alone, on one port: no portmapper, no lock daemon, no Kerberos. After a restart the clients have a grace of
`GRACE_S` to take back what they had open; they show themselves more often than once a lease, so that nobody is late.
They come from ports below 1024, which are root's on their host: other users there have the same address, and so have
its guests, whose ports libvirt's NAT puts above.
Source: ganesha-config(8), ganesha-export-config(8) and src/support/exports.c of nfs-ganesha 4.3.
Pure.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address

from specs.ids import Vid
from storaged.export.description import Export
from storaged.volume import Epoch

GRACE_S = LEASE_S = 4  # a client that is not heard of for so long has lost its locks
ID_MAX = 2**16 - 1  # 0 is the root of all, which ganesha makes by itself

_PSEUDO = re.compile(r"/vol\.([0-9a-f]{32})\.(\d{1,16})\.([0-9a-f]{16})")
_PLAIN = re.compile(r"[\w./+@:,= -]+")
_EXPORTED = re.compile(r'uint16 (\d+)\s+string "([^"]*)"')
_CLIENT = re.compile(r'string "([^"/]+)/(?:32|128)"')
_OPTIONS = re.compile(r"uint32 (\d+)\s+uint32 \d+\s+\}")
_MAY_WRITE = 0x40  # EXPORT_OPTION_WRITE_ACCESS, src/include/nfs_exports.h
_STRING = re.compile(r'^   string "(.*)"$', re.MULTILINE)


def settings(address: IPv4Address | IPv6Address, port: int, state: str) -> str:
    return f"""
NFS_CORE_PARAM {{
    Protocols = 4; Bind_addr = {address}; NFS_Port = {port}; Enable_UDP = false;
    Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true;
}}
NFSv4 {{
    Grace_Period = {GRACE_S}; Lease_Lifetime = {LEASE_S}; Minor_Versions = 0, 1, 2; Only_Numeric_Owners = true;
    RecoveryBackend = fs; RecoveryRoot = "{state}";
}}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT_DEFAULTS {{
    Access_Type = None; Protocols = 4; Transports = TCP; SecType = sys; Squash = No_Root_Squash; PrivilegedPort = true;
}}
LOG {{ Default_Log_Level = EVENT; }}
"""


def export_block(export: Export, number: int) -> str:
    """One folder for one client. Each export has a number and a filesystem's number of its own, which stay the same, as
    they are in the handles that clients keep."""
    assert is_plain(export.image.file)
    assert 0 < number <= ID_MAX
    access = "RO" if export.image.readonly else "RW"
    return f"""
EXPORT {{
    Export_Id = {number}; Filesystem_Id = {number}.1; Path = "{export.image.file}"; Pseudo = "{pseudo_path(export)}";
    FSAL {{ Name = VFS; }}
    CLIENT {{ Clients = {export.client}; Access_Type = {access}; }}
}}
"""


def pseudo_path(export: Export) -> str:
    """Where a client finds it."""
    return f"/vol.{export.image.vid}.{export.epoch.counter}.{export.epoch.nonce}"


def number_for(target: str, taken: Collection[int]) -> int:
    """A number for the export, none of those `taken`: the same each time, as long as it is free."""
    assert len(taken) < ID_MAX
    first = int.from_bytes(hashlib.blake2s(target.encode(), digest_size=4).digest(), "big")
    return next(number for step in range(ID_MAX) if (number := (first + step) % ID_MAX + 1) not in taken)


def is_plain(path: str) -> bool:
    """Whether it can stand in the settings without being taken for something else."""
    return _PLAIN.fullmatch(path) is not None


def parse_exports(text: str) -> Mapping[int, tuple[Vid, Epoch]]:
    """The answer to `ShowExports`: those of ours, by number."""
    named = ((int(number), _PSEUDO.fullmatch(path)) for number, path in _EXPORTED.findall(text))
    return {number: (Vid(found[1]), Epoch(int(found[2]), found[3])) for number, found in named if found}


def parse_export(text: str) -> tuple[str, frozenset[str], bool]:
    """The answer to `DisplayExport`: its folder, the addresses that may use it, and whether they may only read."""
    strings, options = _STRING.findall(text), _OPTIONS.findall(text)
    may_write = any(int(option) & _MAY_WRITE for option in options)
    return (strings[0] if strings else ""), frozenset(_CLIENT.findall(text)), not may_write
