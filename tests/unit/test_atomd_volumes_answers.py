"""Whom a compute host asks for a VM's volumes, and what it takes for an answer."""

from dataclasses import replace

import pytest

from atomd.vms.lifecycle import State
from atomd.volumes.answers import (
    ASK_AGAIN,
    Answer,
    Silent,
    has_own_images,
    is_away,
    is_same,
    joined,
    may_be_a_host,
    one_of,
    servers_of,
    some_may_be_attached,
    why_not_begun,
)
from matcher.wire.messages import Address, ImageFormat, Reason, Refused, VolumeClaim
from matcher.wire.volumes import Attached, AttachedVolume, ChapSecret, IscsiTarget, NfsFolder
from specs.ids import HostId
from tests.fakes.one_host import HOST, a_vm, attached_for

H2, H3 = HostId("2" * 64), HostId("3" * 64)
A, B, C = "a" * 32, "b" * 32, "c" * 32
DOOR2, DOOR3 = Address("10.0.0.2", 7767), Address("10.0.0.3", 7767)
CLAIMS = (
    VolumeClaim(A, H2, "1" * 32, DOOR2),
    VolumeClaim(B, HOST, "2" * 32),
    VolumeClaim(C, H2, "1" * 32, DOOR3),
)
IN_USE = Refused("volume-in-use", (Reason("volume a", "to write", "another has it", ""),))
GONE = Refused("volume-unusable", (Reason("volume b", "to use it", "not here", ""),))


def given(*claims: VolumeClaim) -> Attached:
    vm = a_vm(State.PREPARED)
    return attached_for(replace(vm, confirm=replace(vm.confirm, volumes=claims)))


def test_each_server_is_asked_once_at_the_door_that_its_first_claim_names() -> None:
    assert servers_of(CLAIMS) == {H2: DOOR2, HOST: None}


def test_what_they_give_comes_in_the_order_of_the_claims_with_every_secret() -> None:
    answers: dict[HostId, Answer] = {H2: given(CLAIMS[2], CLAIMS[0]), HOST: given(CLAIMS[1])}
    attached = joined(CLAIMS, answers, HOST)
    assert isinstance(attached, Attached)
    assert [volume.vid for volume in attached.volumes] == [A, B, C]
    assert {secret.vid for secret in attached.secrets} == {A, C}


def test_a_refusal_counts_with_the_reasons_of_all_and_before_a_silence() -> None:
    refused = joined(CLAIMS, {H2: IN_USE, HOST: GONE}, HOST)
    assert refused == Refused("volume-in-use", (*IN_USE.reasons, *GONE.reasons))
    assert joined(CLAIMS, {H2: Silent("h2 is silent"), HOST: GONE}, HOST) == GONE
    assert joined(CLAIMS, {H2: Silent("h2 is silent"), HOST: given(CLAIMS[1])}, HOST) == Silent("h2 is silent")


GOOD = given(CLAIMS[0])
EXPORT = GOOD.volumes[0]
PORTAL = EXPORT.iscsi


@pytest.mark.parametrize(
    "volume",
    [
        replace(EXPORT, iscsi=None, path="/etc/shadow"),
        replace(EXPORT, path="/etc/shadow"),
        replace(EXPORT, format=ImageFormat.QCOW2),
        replace(EXPORT, vid=B),
        replace(EXPORT, iscsi=replace(PORTAL, portal=Address("127.0.0.1", 3260)) if PORTAL else None),
    ],
    ids=["a file of this host", "a file beside it", "a header that may name files", "another volume", "a port here"],
)
def test_another_host_gives_raw_targets_elsewhere_and_nothing_else(volume: AttachedVolume) -> None:
    confirm = (CLAIMS[0],)
    assert joined(confirm, {H2: GOOD}, HOST) == GOOD
    secrets = (ChapSecret(volume.vid, "s"),) if volume.iscsi else ()
    answer = joined(confirm, {H2: Attached((volume,), secrets)}, HOST)
    assert answer == Silent(f"storaged of host {H2[:16]} gives what was not asked for")


def test_a_target_without_its_secret_and_a_secret_without_its_target_are_not_taken() -> None:
    assert isinstance(joined((CLAIMS[0],), {H2: Attached(GOOD.volumes)}, HOST), Silent)
    extra = replace(GOOD, secrets=(*GOOD.secrets, ChapSecret(B, "s")))
    assert isinstance(joined((CLAIMS[0],), {H2: extra}, HOST), Silent)


AT = NfsFolder(Address("10.0.0.2", 7769), f"/vol.{A}.1.{'0' * 16}")
FOLDER = AttachedVolume(A, "", ImageFormat.FOLDER, False, True, False, None, AT)


@pytest.mark.parametrize(
    "volume",
    [
        replace(FOLDER, nfs=None),
        replace(FOLDER, path="/etc"),
        replace(FOLDER, nfs=None, path="/etc"),
        replace(FOLDER, nfs=replace(AT, server=Address("127.0.0.1", 2049))),
        replace(FOLDER, format=ImageFormat.RAW),
        replace(EXPORT, nfs=AT),
    ],
    ids=["nothing", "a folder beside it", "a folder of this host", "a port here", "a disk by NFS", "both ways at once"],
)
def test_another_host_gives_folders_of_its_own_by_nfs_and_nothing_else(volume: AttachedVolume) -> None:
    claims = CLAIMS[:1]
    assert joined(claims, {H2: Attached((FOLDER,))}, HOST) == Attached((FOLDER,))
    secrets = (ChapSecret(volume.vid, "s"),) if volume.iscsi else ()
    assert isinstance(joined(claims, {H2: Attached((volume,), secrets)}, HOST), Silent)


def test_a_folder_in_another_epoch_is_another_volume_and_its_server_may_move() -> None:
    moved = replace(FOLDER, nfs=replace(AT, server=Address("10.0.0.9", 7769)))
    later = replace(FOLDER, nfs=replace(AT, path=AT.path.replace(".1.", ".2.")))
    assert is_away((FOLDER,))
    assert is_same((FOLDER,), (moved,))
    assert not is_same((FOLDER,), (later,))


def test_this_hosts_own_storage_may_give_what_it_exports_alone() -> None:
    """A pool that several servers serve: its exporter has the lease."""
    target = IscsiTarget(Address("127.0.0.1", 7770), "iqn.2026-01.test:t", 1, "iqn.2026-01.test:i", "user")
    own = AttachedVolume(B, "", ImageFormat.RAW, False, False, False, target)
    given = Attached((own,), (ChapSecret(B, "s"),))
    assert joined(CLAIMS[1:2], {HOST: given}, HOST) == given
    assert isinstance(joined(CLAIMS[1:2], {HOST: Attached((own,))}, HOST), Silent), "nobody could open it"
    elsewhere = replace(CLAIMS[1], server=H2)
    assert isinstance(joined([elsewhere], {H2: given}, HOST), Silent), "another host's loopback is not this one's"


def test_this_hosts_own_storage_gives_folders_as_they_are() -> None:
    own = Attached((replace(FOLDER, vid=B, nfs=None, path="/pool/b.elimg/share"),))
    assert joined(CLAIMS[1:2], {HOST: own}, HOST) == own
    away = Attached((replace(FOLDER, vid=B),))
    assert isinstance(joined(CLAIMS[1:2], {HOST: away}, HOST), Silent)


@pytest.mark.parametrize(
    "ip",
    [
        *("127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "169.254.169.254"),
        *("fe80::1", "::ffff:127.0.0.1", "1.2", "::::", "", "127.1", "2130706433"),
    ],
)
def test_a_door_is_never_on_this_host_nor_a_group_nor_on_one_link_alone(ip: str) -> None:
    assert not may_be_a_host(ip)


@pytest.mark.parametrize("ip", ["10.0.0.2", "192.168.1.20", "203.0.113.9", "fd00::2", "2001:db8::2"])
def test_other_addresses_may_be_a_hosts(ip: str) -> None:
    assert may_be_a_host(ip)


def test_who_was_silent_may_have_attached_and_so_may_the_others_beside_who_refused() -> None:
    one, several = (CLAIMS[0],), CLAIMS
    assert some_may_be_attached(one, Silent("asked"))
    assert not some_may_be_attached(several, Silent("never asked", asked=False))
    assert some_may_be_attached(several, IN_USE)
    assert not some_may_be_attached(one, IN_USE)


def test_of_several_volumes_one_is_told_of_with_what_opens_it() -> None:
    vm = a_vm(State.COMMITTED)
    given = attached_for(replace(vm, confirm=replace(vm.confirm, volumes=CLAIMS)))
    one = one_of(given, CLAIMS[0].vid)
    assert isinstance(one, Attached)
    assert [volume.vid for volume in one.volumes] == [CLAIMS[0].vid]
    assert {secret.vid for secret in one.secrets} <= {CLAIMS[0].vid}
    assert one_of(IN_USE, CLAIMS[0].vid) == IN_USE


@pytest.mark.parametrize("code", sorted(ASK_AGAIN))
def test_who_could_not_do_all_of_it_may_have_attached(code: str) -> None:
    """A storage host gives a volume away, and then finds that it can't export it."""
    assert some_may_be_attached(CLAIMS[:1], Refused(code, IN_USE.reasons))


def test_a_guest_that_has_not_begun_begins_with_what_it_was_given_and_waits_for_a_word() -> None:
    vm = a_vm(State.COMMITTED)
    vm = replace(vm, confirm=replace(vm.confirm, volumes=CLAIMS))
    given = attached_for(vm)
    assert why_not_begun(given.volumes, given) is None
    assert why_not_begun(given.volumes, Silent("no answer")) is None
    assert why_not_begun(given.volumes, Refused("unavailable", ())) is None
    assert why_not_begun(given.volumes, Refused("busy", ())) is None, "it is being rolled back, say"
    assert why_not_begun(given.volumes, attached_for(vm, epoch=2)) == "its volumes were taken over"
    assert "taken over: " in str(why_not_begun(given.volumes, IN_USE))


def test_only_an_image_of_this_host_that_can_be_written_needs_its_lock() -> None:
    image = AttachedVolume("a" * 32, "/x", ImageFormat.RAW, False, False, True)
    assert has_own_images([image])
    others = [v for v in GOOD.volumes if v.iscsi is not None]
    assert others
    assert not has_own_images([replace(image, readonly=True), replace(image, shareable=True), *others])


def test_the_same_target_in_another_epoch_is_another_volume_and_its_portal_may_move() -> None:
    vm = a_vm(State.RUNNING)
    vm = replace(vm, confirm=replace(vm.confirm, volumes=CLAIMS))
    first, again, next_epoch = attached_for(vm), attached_for(vm), attached_for(vm, epoch=2)
    assert is_same(first.volumes, again.volumes)
    assert not is_same(first.volumes, next_epoch.volumes)
    moved = tuple(
        replace(v, iscsi=replace(v.iscsi, portal=Address("10.0.0.9", 3260)) if v.iscsi else None) for v in again.volumes
    )
    assert is_same(first.volumes, moved)
