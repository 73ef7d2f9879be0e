"""A PCI device's configuration space: Access Control Services, and what may be shown of it to others. Pure.

Source: PCI Express Base Specification, 7.6 (extended configuration space) and 7.7.11 (ACS).
"""

CONFIG_BYTES = 4096

_EXTENDED = 0x100  # where the capabilities of PCI Express begin
_ACS = 0x000D
_HEADER_BYTES = 64
_ISOLATES = 0b1_1101  # source validation, request and completion redirect, upstream forwarding: as the kernel groups by


def acs(config: bytes) -> str | None:
    """ "on", "off", or "none" where a port has no such capability; `None` where only root may read that far."""
    if len(config) < CONFIG_BYTES:
        return None
    found = _acs_control(config)
    if found is None:
        return "none"
    return "on" if found & _ISOLATES == _ISOLATES else "off"


def covered_config(config: bytes) -> bytes:
    """The header and ACS alone: among the others is one with the device's serial number."""
    header = config[:_HEADER_BYTES]
    if len(config) < CONFIG_BYTES:
        return header
    control = _acs_control(config)
    capability = b"" if control is None else _ACS.to_bytes(4, "little") + bytes(2) + control.to_bytes(2, "little")
    return (header + bytes(_EXTENDED - len(header)) + capability).ljust(CONFIG_BYTES, b"\0")


def _acs_control(config: bytes) -> int | None:
    """The capability's control register."""
    offset, seen = _EXTENDED, 0
    while _EXTENDED <= offset <= CONFIG_BYTES - 8 and seen < CONFIG_BYTES // 8:
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header & 0xFFFF == _ACS:
            return int.from_bytes(config[offset + 6 : offset + 8], "little")
        offset, seen = header >> 20 & 0xFFC, seen + 1
    return None
