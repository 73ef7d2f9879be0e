"""`[narrow]` in the settings: what it means, and a sentence for what it can't."""

from pathlib import Path

import pytest

from atomd.config import Config
from matcher.net.starting import SettingsError, load_settings
from matcher.trust.grants import Narrowing
from matcher.wire.realm import PciLimit
from storaged.config import Config as StorageConfig


def read(folder: Path, text: str) -> Narrowing:
    (folder / "atomd.toml").write_text(text)
    return load_settings(folder / "atomd.toml", Config).narrow.narrowing()


def test_a_host_without_settings_takes_nothing_away(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Narrowing()


def test_everything_that_can_be_said_is_understood(tmp_path: Path) -> None:
    text = """
        [narrow]
        users = ["ann", "@lab"]
        hours = ["08:00-20:00", "22:30-24:00"]
        pci = ["10de:*=1", "8086:1572"]
        usb = ["1050:*"]
        slots = 4
        ram_mib = 8192
        vms = 3
        lease_max = "12h"
        overprovision_min = 2
    """
    assert read(tmp_path, text) == Narrowing(
        users=("ann", "@lab"),
        hours=((480, 1200), (1350, 1440)),
        pci=(PciLimit("10de", "*", 1), PciLimit("8086", "1572", 1)),
        usb=(PciLimit("1050", "*", 1),),
        slots=4,
        ram_mib=8192,
        vms=3,
        lease_max_s=12 * 3600,
        overprovision_min=2,
    )


def test_cpus_are_listed_as_the_kernel_lists_them(tmp_path: Path) -> None:
    (tmp_path / "atomd.toml").write_text('reserved_cpus = "0-1,32-33"')
    assert load_settings(tmp_path / "atomd.toml", Config).reserved_cpus == {0, 1, 32, 33}


@pytest.mark.parametrize("wrong", ['"0-"', '"x"', "3", "[0, 1]", '"3-1"', '"0-99999999"'])
def test_cpus_that_are_no_list_are_refused_with_an_example(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "atomd.toml").write_text(f"reserved_cpus = {wrong}")
    with pytest.raises(SettingsError, match="such as"):
        load_settings(tmp_path / "atomd.toml", Config)


def test_a_lease_may_be_seconds_and_a_span_may_go_over_midnight(tmp_path: Path) -> None:
    narrowing = read(tmp_path, '[narrow]\nlease_max = 90\nhours = ["22:00-06:00"]')
    assert narrowing.lease_max_s == 90
    assert narrowing.is_open(0)
    assert not narrowing.is_open(12 * 60)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('hours = ["8-20"]', "narrow.hours.0"),
        ('hours = ["08:00-24:01"]', "08:00-20:00"),
        ('hours = ["25:00-26:00"]', "08:00-20:00"),
        ('hours = ["08:00-08:00"]', "no length"),
        ('pci = ["gpu"]', "no limit of devices"),
        ('lease_max = "soon"', "12h"),
        ("lease_max = true", "12h"),
        ("lease_max = 59", "greater than or equal to 60"),
        ("slots = -1", "narrow.slots"),
        ('users = ["a b"]', "narrow.users.0"),
        ("volumes_gb = 5", "narrow.volumes_gb"),
        ("overprovision_min = 0", "narrow.overprovision_min"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(SettingsError, match=r"atomd\.toml") as told:
        read(tmp_path, f"[narrow]\n{line}")
    assert said in str(told.value)


def test_gigabytes_of_volumes_are_narrowed_by_storaged(tmp_path: Path) -> None:
    (tmp_path / "storaged.toml").write_text("[narrow]\nvolumes_gb = 5")
    assert load_settings(tmp_path / "storaged.toml", StorageConfig).narrow.volumes_gb == 5
    (tmp_path / "storaged.toml").write_text("[narrow]\nvolumes_gb = -5")
    with pytest.raises(SettingsError, match=r"narrow\.volumes_gb"):
        load_settings(tmp_path / "storaged.toml", StorageConfig)
