"""Grants as people type them: what is not limited is not limited, but devices and administration have to be given."""

import time
from dataclasses import replace

import pytest

from matcher.cli.failures import Exit, Failure
from matcher.cli.granting import (
    DEFAULT,
    GrantOptions,
    grant_document,
    grant_rows,
    granted,
    summary,
    total,
    use_document,
    use_text,
)
from matcher.wire.realm import Grant, PciLimit, Use, Verb


def test_what_is_not_limited_is_not_limited_but_devices_and_administration() -> None:
    grant = granted(GrantOptions())
    assert grant == DEFAULT
    assert grant.verbs == (Verb.PLEDGE, Verb.RUN, Verb.CONSOLE)
    assert (grant.slots, grant.ram_mib, grant.vms, grant.volumes_gb, grant.lease_max_s) == (None,) * 5
    assert (grant.pci, grant.usb) == ((), ())


def test_every_option_finds_its_place() -> None:
    options = GrantOptions(
        slots="16",
        ram="64GiB",
        vms="8",
        volumes="500GB",
        pci=("10de:*=1", "8086:24B0"),
        usb=("1050:0407=2",),
        overprovision_min="2",
        lease_max="12h",
        groups="a,b",
        verbs="run,pledge",
        admin=True,
        until="2099-01-31",
    )
    assert granted(options) == Grant(
        verbs=(Verb.PLEDGE, Verb.RUN, Verb.ADMIN),
        slots=16,
        ram_mib=65_536,
        vms=8,
        volumes_gb=500,
        pci=(PciLimit("10de", "*", 1), PciLimit("8086", "24b0", 1)),
        usb=(PciLimit("1050", "0407", 2),),
        overprovision_min=2,
        lease_max_s=43_200,
        groups=("a", "b"),
        until_s=4_073_587_200,
    )


def test_any_device_is_all_of_them() -> None:
    assert granted(GrantOptions(pci=("*:*",))).pci == (PciLimit("*", "*", 4096),)
    assert ("PCI devices", "any") in grant_rows(granted(GrantOptions(pci=("*:*",))))


def test_a_number_alone_is_gb_for_volumes_and_mib_for_ram() -> None:
    grant = granted(GrantOptions(volumes="500", ram="2048"))
    assert (grant.volumes_gb, grant.ram_mib) == (500, 2048)
    assert granted(GrantOptions(volumes="2T")).volumes_gb == 2048


def test_a_change_leaves_alone_what_it_does_not_name() -> None:
    before = Grant(verbs=tuple(Verb), slots=4, vms=2, pci=(PciLimit("10de", "*", 1),), groups=("a",), until_s=10**10)
    after = granted(GrantOptions(slots="8", vms="unlimited"), before)
    assert after == Grant(verbs=tuple(Verb), slots=8, pci=before.pci, groups=("a",), until_s=10**10)
    cleared = granted(GrantOptions(pci=("none",), groups="none", admin=False, until="unlimited"), before)
    assert (cleared.pci, cleared.groups, cleared.until_s) == ((), (), None)
    assert Verb.ADMIN not in cleared.verbs


def test_days_count_from_now() -> None:
    until_s = granted(GrantOptions(until="90d")).until_s
    assert until_s is not None
    assert until_s - time.time() == pytest.approx(90 * 86_400, abs=3600)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (GrantOptions(slots="-1"), "--slots"),
        (GrantOptions(slots="many"), "--slots"),
        (GrantOptions(slots="99999999999"), "--slots"),
        (GrantOptions(ram="much"), "--ram"),
        (GrantOptions(vms="5000"), "--vms"),
        (GrantOptions(volumes="1.3GB"), "--volumes"),
        (GrantOptions(pci=("10de",)), "--pci"),
        (GrantOptions(pci=("10de:*", "10de:*=2")), "--pci"),
        (GrantOptions(pci=("",)), "--pci"),
        (GrantOptions(usb=("1050",)), "--usb"),
        (GrantOptions(overprovision_min="0"), "--overprovision-min"),
        (GrantOptions(lease_max="12"), "--lease-max"),
        (GrantOptions(lease_max="30s"), "--lease-max"),
        (GrantOptions(groups="a b"), "--groups"),
        (GrantOptions(groups=",".join("abcdefghi")), "--groups"),
        (GrantOptions(verbs="fly"), "--verbs"),
        (GrantOptions(verbs="pledge,admin"), "--verbs"),
        (GrantOptions(until="2001-01-31"), "--until"),
        (GrantOptions(until="next year"), "--until"),
        (GrantOptions(until="999999w"), "--until"),
    ],
)
def test_what_makes_no_sense_is_named_with_what_would(options: GrantOptions, said: str) -> None:
    with pytest.raises(Failure) as failed:
        granted(options)
    assert failed.value.exit_code == Exit.USAGE
    assert failed.value.message.startswith(said)


def test_administration_is_given_by_its_own_option_alone() -> None:
    with pytest.raises(Failure) as failed:
        granted(GrantOptions(verbs="run,admin"))
    assert "--admin" in failed.value.helps


def test_a_document_tells_numbers_and_times_for_programs() -> None:
    document = grant_document(granted(GrantOptions(slots="2", pci=("10de:*=1",), until="2099-01-31")))
    assert document["slots"] == 2
    assert document["ram_mib"] is None
    assert document["pci"] == ["10de:*=1"]
    assert document["until"] == "2099-02-01T00:00:00Z"


def test_a_line_names_the_limits_that_there_are() -> None:
    assert summary(granted(GrantOptions(slots="2", ram="1GiB", admin=True))) == "admin, 2 slots, 1 GiB"
    assert summary(None) == "-"


def test_what_is_used_on_several_hosts_is_added_up() -> None:
    one, two = Use(2, 512, 1, 10240, (PciLimit("10de", "24b0", 1),)), Use(1, 512, 1, 0, (PciLimit("10de", "24b0", 2),))
    both = total((one, two))
    assert both == Use(3, 1024, 2, 10240, (PciLimit("10de", "24b0", 3),))
    assert total((one, replace(two, volumes_mib=None))).volumes_mib is None
    assert use_document(replace(one, volumes_mib=1152))["volumes_gb"] == 1.125
    assert use_text(both) == "2 VMs, 3 slots, 1 GiB, 10 GB, 10de:24b0=3"
    assert total(()) == Use()
