"""Volumes as libvirt is told them: a domain's disks, one more for a domain that runs, and what opens them. Pure.

A volume is found again in a running domain by its serial. A CD is taken out of its drive, and the drive stays.
"""

from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from itertools import count

from lxml import etree

from atomd.hypervisor.domains import DomainSecret, StartFailed
from atomd.volumes.answers import is_folder
from matcher.wire.volumes import AttachedVolume, ChapSecret, IscsiTarget
from specs.ids import VmId, dashed

NAME_PREFIX = "atomos-"
DISK_SERIAL_MAX = 20  # virtio-blk's own limit: the guest sees /dev/disk/by-id/virtio-<first 20 digits of the vid>

Element = etree._Element


def add(parent: Element, name: str, text: str | None = None, /, **attributes: str | int) -> Element:
    child = etree.SubElement(parent, name, {key: str(value) for key, value in attributes.items()})
    child.text = text
    return child


def add_disks(devices: Element, volumes: Sequence[AttachedVolume], vm_id: VmId, *, is_x86: bool) -> None:
    """Bootable disks first, else in the user's order: vda is what the machine boots from. A CD is booted where no disk
    can be: before anything is installed, that is."""
    images = [volume for volume in volumes if not is_folder(volume)]
    disks = sorted((v for v in images if not v.cdrom), key=lambda volume: not volume.bootable)
    bootable = sum(volume.bootable for volume in disks)
    for place, volume in enumerate(disks):
        _disk(devices, volume, _name("vd", place), vm_id, place + 1 if volume.bootable else None)
    discs = [volume for volume in images if volume.cdrom]
    for place, volume in enumerate(discs):
        _disc(devices, volume, _name("sd", place), vm_id, bootable + place + 1, is_x86=is_x86)
    if discs and not is_x86:
        add(devices, "controller", type="scsi", model="virtio-scsi")


def add_folders(devices: Element, volumes: Iterable[AttachedVolume]) -> None:
    """Each by a virtiofsd of its own, which libvirt starts and ends with the VM, and which sees nothing but the folder.
    The guest mounts it by its vid. Read-only is the mount that the path leads to: virtiofs itself can't be."""
    for volume in filter(is_folder, volumes):
        folder = add(devices, "filesystem", type="mount", accessmode="passthrough")
        add(folder, "driver", type="virtiofs")
        add(add(folder, "binary"), "sandbox", mode="namespace")
        add(folder, "source", dir=_path(volume))
        add(folder, "target", dir=volume.vid)


def one_disk_xml(volume: AttachedVolume, vm_id: VmId, taken: Collection[str]) -> str:
    """For a domain that runs, and has devices of the names `taken`. Raises `StartFailed`, as for a whole domain."""
    devices = etree.Element("devices")
    name = next(name for place in count() if (name := _name("vd", place)) not in taken)
    _disk(devices, volume, name, vm_id, None)
    return etree.tostring(devices[0], encoding="unicode")


def _disk(devices: Element, volume: AttachedVolume, name: str, vm_id: VmId, boot: int | None) -> None:
    disk = _opened(devices, volume, "disk", vm_id)
    add(disk, "target", dev=name, bus="virtio")
    if volume.readonly:
        add(disk, "readonly")
    elif volume.shareable:
        add(disk, "shareable")
    _known(disk, volume, boot)


def _disc(devices: Element, volume: AttachedVolume, name: str, vm_id: VmId, boot: int, *, is_x86: bool) -> None:
    """On SATA, whose driver every installer brings, where the machine has that."""
    disc = _opened(devices, volume, "cdrom", vm_id)
    add(disc, "target", dev=name, bus="sata" if is_x86 else "scsi")
    add(disc, "readonly")
    _known(disc, volume, boot)


def _known(disk: Element, volume: AttachedVolume, boot: int | None) -> None:
    add(disk, "serial", volume.vid[:DISK_SERIAL_MAX])
    if boot is not None:
        add(disk, "boot", order=boot)


def _opened(devices: Element, volume: AttachedVolume, device: str, vm_id: VmId) -> Element:
    """On an I/O error the guest pauses and can go on; it never sees a broken disk. The format is stated and the chain
    ends here: QEMU neither probes nor opens a backing file that a header names."""
    disk = add(devices, "disk", type="file" if volume.iscsi is None else "network", device=device)
    driver = {"name": "qemu", "type": volume.format.value}
    errors = {"error_policy": "stop", "rerror_policy": "stop"}
    discard = {} if volume.readonly else {"discard": "unmap"}  # what a guest frees, the pool gets back
    add(disk, "driver", **driver, **_caching(volume), **errors, **discard)
    if volume.iscsi is None:
        add(disk, "source", file=_path(volume))
    else:
        _iscsi(disk, volume.iscsi, secret_usage(vm_id, volume.vid))
    add(disk, "backingStore")
    return disk


def _caching(volume: AttachedVolume) -> dict[str, str]:
    """A guest's flush reaches the disk either way.

    A file: `writeback`, the host's page cache serves the rest. `none` would need O_DIRECT, which not every filesystem
    under a pool has, and a VM that can't start is worse than a cached one; two guests on one host stay coherent, since
    both go through the one page cache. `io='threads'` follows from it: native AIO blocks on cached files.
    A target: `none`. QEMU itself speaks iSCSI, past this host's page cache, whatever is said here; `none` says so, and
    a flush becomes the server's SYNCHRONIZE CACHE."""
    return {"cache": "writeback", "io": "threads"} if volume.iscsi is None else {"cache": "none"}


def _path(volume: AttachedVolume) -> str:
    assert volume.path.startswith("/"), "storage names absolute paths"
    if not volume.path.isprintable():  # XML has no way to say it, and nobody means it
        raise StartFailed(f"the volume's path {volume.path!a} holds characters that libvirt can't take: rename it")
    return volume.path


def _iscsi(disk: Element, target: IscsiTarget, usage: str) -> None:
    """As `target`'s initiator, with the secret that libvirt knows under `usage`: no secret is ever in the XML."""
    source = add(disk, "source", protocol="iscsi", name=f"{target.target}/{target.lun}")
    add(source, "host", name=target.portal.ip, port=target.portal.port)
    add(add(source, "auth", username=target.user), "secret", type="iscsi", usage=usage)
    add(add(source, "initiator"), "iqn", name=target.initiator)


def _name(prefix: str, place: int) -> str:
    """vda … vdz, vdaa …"""
    letters = ""
    while True:
        letters = chr(ord("a") + place % 26) + letters
        place = place // 26 - 1
        if place < 0:
            return f"{prefix}{letters}"


def secret_usage(vm_id: VmId, vid: str) -> str:
    return f"{NAME_PREFIX}{vm_id}-{vid}"


def domain_secrets(vm_id: VmId, secrets: Iterable[ChapSecret]) -> tuple[DomainSecret, ...]:
    return tuple(DomainSecret(secret_usage(vm_id, secret.vid), secret.secret) for secret in secrets)


def secret_xml(usage: str) -> str:
    """`ephemeral`: in libvirtd's memory, never on its disk. `private`: nobody reads it back, root with virsh neither.
    The UUID follows from the usage, so that one that stayed behind is taken over and not in the way."""
    secret = etree.Element("secret", ephemeral="yes", private="yes")
    add(secret, "uuid", dashed(sha256(b"atomos-secret:" + usage.encode()).hexdigest()[:32]))
    add(add(secret, "usage", type="iscsi"), "target", usage)
    return etree.tostring(secret, encoding="unicode")


# ---- reading back

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)


def parse(xml: str) -> Element | None:
    try:
        return etree.fromstring(xml, _PARSER)
    except (etree.XMLSyntaxError, ValueError):
        return None


class Disks:
    """Those of a running domain, from its XML."""

    def __init__(self, xml: str) -> None:
        domain = parse(xml)
        self._disks = [] if domain is None else domain.findall("devices/disk")

    @property
    def names(self) -> frozenset[str]:
        targets = (disk.find("target") for disk in self._disks)
        return frozenset(target.get("dev", "") for target in targets if target is not None)

    def has(self, vid: str) -> bool:
        return self._of(vid) is not None

    def alias(self, vid: str) -> str:
        """As libvirt calls it. It is there, and no CD."""
        disk = self._of(vid)
        alias = None if disk is None else disk.find("alias")
        return "" if alias is None else alias.get("name", "")

    def without_disc(self, vid: str) -> str | None:
        """The drive that this CD is in, as it is to be: empty; `None` where it is a disk."""
        disc = self._of(vid)
        if disc is None or disc.get("device") != "cdrom":
            return None
        empty = etree.Element("disk", type="file", device="cdrom")
        target = disc.find("target")
        assert target is not None, "libvirt names every disk"
        add(empty, "target", dev=target.get("dev", ""), bus=target.get("bus", ""))
        add(empty, "readonly")
        return etree.tostring(empty, encoding="unicode")

    def _of(self, vid: str) -> Element | None:
        """An empty drive keeps its last CD's serial, and a source that names nothing."""
        serial = vid[:DISK_SERIAL_MAX]
        return next((d for d in self._disks if d.findtext("serial") == serial and _is_full(d)), None)


def _is_full(disk: Element) -> bool:
    source = disk.find("source")
    return source is not None and bool(source.get("file") or source.get("name"))
