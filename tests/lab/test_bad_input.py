"""Whatever a person gets wrong, or a host is short of: a clear error, and nothing is lost, held or left behind."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import HELIUM, Ended, Vms, domains, electros, free_threads, login_as, plainly

pytestmark = pytest.mark.lab

HOSTS = ("h1", "h2", "h3")
NOWHERE = "00000000000000000000000000000001"
WHOLE_HOST = {"slots": 2, "ramsize": 64}
SHARED = {"slots": 1, "overprovision": 8, "ramsize": 64}
INTERRUPTIONS = 15


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


def everything_is_free(lab: Any, vms: Vms) -> bool:
    """No VM, no domain, no hold: every host offers all that it has."""
    offers = electros(lab, "pledge", vms.specfile(WHOLE_HOST, "whole")).document["offers"]
    return len(offers) == len(HOSTS) and not vms.ps() and not any(domains(lab, host) for host in HOSTS)


def refusals_of(ended: Ended) -> dict[str, list[dict[str, str]]]:
    return {refusal["host"]: refusal["reasons"] for refusal in ended.error.get("refusals", [])}


def each_host(act: Callable[[str], object]) -> None:
    with ThreadPoolExecutor(len(HOSTS)) as pool:
        list(pool.map(act, HOSTS))


# ---- files


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ('{"slots": 1, "ramsize": 64, "colour": "red"}', "colour", "not a field"),
        ('{"cpu": {"slotz": 1}, "ram": {"ramsize": 64}}', "cpu.slotz", "slots"),
        ('{"slots": "two", "ramsize": 64}', "slots", "not a whole number"),
        ('{"slots": 1.5, "ramsize": 64}', "slots", "1.5"),
        ('{"slots": true, "ramsize": 64}', "slots", "true"),
        ('{"slots": 0, "ramsize": 64}', "slots", "the least is 1"),
        ('{"slots": -3, "ramsize": 64}', "slots", "the least is 1"),
        ('{"slots": 1000000000, "ramsize": 64}', "slots", "the most is"),
        ('{"slots": 1, "slots": 2, "ramsize": 64}', "slots", "2 times"),
        ('{"slots": 1, "ramsize": 64', "", "never closed"),
        ("", "", ""),
        ("[]", "", ""),
        ("[" * 5000, "", ""),
    ],
)
def test_a_specfile_with_a_mistake_names_the_place_and_exits_with_2(
    lab: Any, tmp_path: Path, text: str, path: str, said: str
) -> None:
    file = tmp_path / "spec.json"
    file.write_text(text)
    error = electros(lab, "run", str(file), code=2).error
    assert error["code"] == "malformed"
    assert str(file) in error["message"]
    about = [problem for problem in error["problems"] if path in problem["path"]]
    assert about
    assert any(said in problem["problem"] + problem["hint"] for problem in about)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'[{{"vid": "{NOWHERE}0"}}]', "33 hex digits"),
        (f'[{{"vid": "{NOWHERE}"}}, {{"vid": "{NOWHERE}"}}]', "again"),
        ('[{"vid": "none"}]', "vid"),
        ("[]", ""),
    ],
)
def test_a_volumespec_with_a_mistake_exits_with_2(lab: Any, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "volumes.json"
    file.write_text(text)
    error = electros(lab, "run", HELIUM, "--volumes", str(file), code=2).error
    assert error["code"] == "malformed"
    assert any(said in problem["problem"] + problem["hint"] for problem in error["problems"])


def test_all_mistakes_are_told_at_once(lab: Any, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text('{"slots": 0, "ramsize": "much", "flgas": []}')
    told = plainly(lab, "run", str(file), code=2).err
    for part in ("slots", "ramsize", "flgas", "flags", "3 problems"):
        assert part in told


# ---- volumes


def test_a_volume_that_nobody_has_is_named_and_exits_with_4(lab: Any, vms: Vms) -> None:
    error = electros(lab, *vms.arguments("lost", volumes=[NOWHERE]), code=4).error
    assert error["code"] == "not-found"
    assert "00000000-0000-0000-0000-000000000001" in error["message"]
    assert everything_is_free(lab, vms)


def test_a_volume_on_a_host_that_does_not_fit_names_both_hosts_and_why(lab: Any, vms: Vms) -> None:
    """Of those that only VMs on their own host can have."""
    vms.run("full", WHOLE_HOST, host="h1")
    ended = electros(lab, *vms.arguments("apart", volumes=[lab.volumes("h1")["h1-qcow2"]]), code=3)
    said = refusals_of(ended)
    assert any(reason["resource"] == "slots" for reason in said["h1"])
    apart = next(reason for reason in said["h2"] if reason["resource"].startswith("volume"))
    assert "h1" in apart["has"]
    assert "slots" in apart["has"]
    assert set(vms.ps()) == {"full"}


def test_a_raw_volume_on_a_host_that_does_not_fit_is_used_from_another(lab: Any, vms: Vms) -> None:
    vms.run("full", WHOLE_HOST, host="h2")
    assert vms.run("apart", volumes=[lab.volumes("h2")["h2-boot"]])["host"] in ("h1", "h3")


def test_volumes_on_two_hosts_come_together_on_one_of_them(lab: Any, vms: Vms) -> None:
    both = [lab.volumes("h1")["h1-data"], lab.volumes("h2")["h2-data"]]
    vm = vms.run("joined", volumes=both)
    assert vm["host"] in ("h1", "h2"), "a volume at home beats one across the network"
    shown = electros(lab, "inspect", "joined").document["vm"]["volumes"]
    assert sorted(volume["from"] == "here" for volume in shown) == [False, True]


def test_a_volume_for_vms_on_its_own_host_and_one_of_another_host_come_together_there(lab: Any, vms: Vms) -> None:
    both = [lab.volumes("h1")["h1-qcow2"], lab.volumes("h2")["h2-data"]]
    assert vms.run("joined", volumes=both, host="h2")["host"] == "h1"


def test_a_volume_that_another_vm_has_says_whose_it_is(lab: Any, vms: Vms) -> None:
    vid = lab.volumes("h1")["h1-data"]
    vms.run("owner", volumes=[vid])
    said = refusals_of(electros(lab, *vms.arguments("thief", volumes=[vid]), code=3))
    assert any("owner" in reason["has"] for reason in said["h1"])


def test_a_pledge_too_long_for_a_datagram_finds_its_volumes_all_the_same(lab: Any, vms: Vms) -> None:
    many = [f"{number:032x}" for number in range(0xB0, 0xB0 + 16)]
    pool = lab.folder("h1") / "srv" / "many"
    try:
        for vid in many:
            (pool / f"{vid}.elimg").mkdir(parents=True)
            (pool / f"{vid}.elimg" / "meta.json").write_text(json.dumps({"size": 0.125, "name": vid[-2:]}))
            (pool / f"{vid}.elimg" / "data.img").write_bytes(b"")
            os.truncate(pool / f"{vid}.elimg" / "data.img", 128 << 20)
        lab.restart("h1", "storaged")
        vm = vms.run("many", volumes=many)
        assert vm["host"] == "h1"
        assert len(electros(lab, "inspect", "many").document["vm"]["volumes"]) == len(many)
        error = electros(lab, *vms.arguments("more", volumes=[*many[:-1], NOWHERE]), code=4).error
        assert "000000000001" in error["message"]
        vms.remove_all()
    finally:
        shutil.rmtree(pool)
        lab.restart("h1", "storaged")


# ---- somebody else


def test_another_users_vms_are_not_there(lab: Any, vms: Vms, tmp_path: Path) -> None:
    vid = lab.volumes("h1")["h1-data"]
    vm = vms.run("secret", volumes=[vid])
    bob = login_as(lab, "bob", tmp_path)

    def says(*words: str) -> Ended:
        done = lab.exec("client", *bob, *words, "-o", "json", check=False)
        return Ended(done.returncode, done.stdout, done.stderr)

    assert says("ps").document == {"vms": []}
    for words in (("inspect",), ("stop", "--force"), ("reboot",), ("rm", "--force"), ("console",), ("start",)):
        assert says(*words, vm["id"]).code == 4, words
    thief = says("run", vms.specfile(), "--name", "thief", "--volumes", vms.volumespec(vid))
    assert thief.code == 3
    assert "secret" not in thief.err, "whose it is stays untold"
    mine = says("run", vms.specfile(), "--name", "secret")
    assert mine.code == 0, "names are each user's own"
    assert says("rm", "--force", "secret").code == 0
    assert vms.ps()["secret"]["state"] == "running"


# ---- names


def test_a_second_vm_of_one_name_is_refused_with_the_command_that_helps(lab: Any, vms: Vms) -> None:
    vms.run("mine")
    error = electros(lab, *vms.arguments("mine"), code=1).error
    assert error["code"] == "name-taken"
    assert "electros rm mine" in error["hint"]
    assert set(vms.ps()) == {"mine"}


def test_a_name_that_cannot_be_one_is_refused_before_anybody_is_asked(lab: Any, vms: Vms) -> None:
    for name in ("", "-x", "a b", "a" * 64, "a\x1b[31m", "</name>", "../x"):
        ended = electros(lab, "run", vms.specfile(), f"--name={name}", code=2)
        assert "\x1b" not in ended.err
    assert everything_is_free(lab, vms)


# ---- hosts


def test_no_host_fits_tells_each_hosts_reasons_and_the_nearest_thing_that_would_fit(lab: Any, vms: Vms) -> None:
    spec = {"slots": 3, "ramsize": 10_000_000}
    ended = electros(lab, *vms.arguments("huge", spec), code=3)
    said = refusals_of(ended)
    assert set(said) == set(HOSTS)
    for reasons in said.values():
        assert {reason["resource"] for reason in reasons} >= {"slots", "ram"}
        assert all(reason["asked"] and reason["has"] for reason in reasons)
    nearest = ended.error["nearest"][0]
    edits = [word for edit in nearest["set"] for word in ("--set", edit)]
    told = plainly(lab, *vms.arguments("huge", spec), code=3).err
    assert "nearest" in told
    offers = electros(lab, "pledge", vms.specfile(spec), *edits).document["offers"]
    assert nearest["host"] in {offer["host"] for offer in offers}, "what was proposed fits"


def test_why_proposes_a_change_with_which_a_host_fits(lab: Any, vms: Vms) -> None:
    spec = vms.specfile({"slots": 3, "ramsize": 64, "flags": ["avx512f"], "pci": [{"vendor": "10de", "model": "24b0"}]})
    whole = json.loads(plainly(lab, "why", spec, "-o", "json", code=3).out)
    assert {row["host"] for row in whole["hosts"]} == set(HOSTS)
    assert {row["asks"]["pci 10de:24b0"]["state"] for row in whole["hosts"]} == {"lacks"}
    words = plainly(lab, "why", spec, "-o", "name", code=3).out.splitlines()[0].split()
    offers = electros(lab, "pledge", spec, *words).document["offers"]
    assert {offer["host"] for offer in offers} == set(whole["relaxations"][0]["hosts"])
    assert plainly(lab, "why", spec, *words).out


def test_a_user_of_another_realm_reaches_no_host(lab: Any, vms: Vms, tmp_path: Path) -> None:
    foreign = ["env", f"XDG_CONFIG_HOME={tmp_path}/config", f"XDG_DATA_HOME={tmp_path}/data", "electros"]
    lab.exec("client", *foreign, "realm", "create", "elsewhere", "--state", f"{tmp_path}/state", "--user", "eve")
    spec = vms.specfile()
    for words in (("run", spec), ("pledge", spec), ("hosts",), ("ps",), ("stop", "web")):
        done = lab.exec("client", *foreign, *words, "-o", "json", check=False)
        assert done.returncode == 6, done.stderr
        assert json.loads(done.stderr)["error"]["code"] == "unreachable"


def test_somebody_without_an_identity_is_told_how_to_get_one(lab: Any, vms: Vms, tmp_path: Path) -> None:
    words = ["env", f"XDG_CONFIG_HOME={tmp_path}/none", "electros", "run", vms.specfile()]
    done = lab.exec("client", *words, check=False)
    assert done.returncode == 5
    assert "electros login TOKEN" in done.stderr


def test_no_daemons_at_all_is_no_host_in_reach(lab: Any, vms: Vms) -> None:
    try:
        each_host(lambda host: [lab.stop(host, daemon) for daemon in ("atomd", "storaged")])
        spec = vms.specfile()
        for words in (("run", spec), ("pledge", spec), ("hosts",), ("ps",)):
            error = electros(lab, *words, code=6).error
            assert error["code"] == "unreachable"
            assert "atomd" in error["hint"]
    finally:
        each_host(lambda host: [lab.start(host, daemon) for daemon in ("storaged", "atomd")])
    assert everything_is_free(lab, vms)


def test_a_host_without_libvirtd_says_so_and_the_vm_goes_elsewhere(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    with stopped(lab, until, vms, ["h1"]):
        refusals = electros(lab, "pledge", vms.specfile()).document["refusals"]
        assert [(each["host"], each["reasons"][0]["resource"]) for each in refusals] == [("h1", "hypervisor")]
        assert vms.run("elsewhere", host="h1")["host"] in ("h2", "h3")


def test_no_libvirtd_anywhere_is_told_host_by_host(lab: Any, until: Callable[..., Any], vms: Vms) -> None:
    with stopped(lab, until, vms, HOSTS):
        ended = electros(lab, *vms.arguments("nowhere"), code=3)
        said = refusals_of(ended)
        assert set(said) == set(HOSTS)
        assert {reasons[0]["resource"] for reasons in said.values()} == {"hypervisor"}
        assert all("libvirtd" in reasons[0]["hint"] for reasons in said.values())
    assert everything_is_free(lab, vms)


@contextmanager
def stopped(lab: Any, until: Callable[..., Any], vms: Vms, hosts: Any) -> Iterator[None]:
    """Without libvirtd; afterwards every host offers again."""
    try:
        for host in hosts:
            lab.stop(host, "libvirtd")
        yield
    finally:
        for host in hosts:
            lab.start(host, "libvirtd")
        shared = vms.specfile(SHARED, "shared")
        until(lambda: len(electros(lab, "pledge", shared).document["offers"]) == len(HOSTS), within_s=30)


# ---- a full disk


@contextmanager
def full_disk(lab: Any, host: str) -> Iterator[None]:
    """The host's daemons keep their state on a disk that is full."""
    daemons = ("storaged", "atomd")
    for daemon in daemons:
        lab.stop(host, daemon)
    state, kept = "/var/lib/atomos", "/run/kept"
    lab.exec(host, "sh", "-c", f"mkdir -p {kept} && cp -a {state}/identity {kept}; cp -a {state}/issuer {kept}; true")
    lab.exec(host, "mount", "-t", "tmpfs", "-o", "size=1m", "full", state)
    lab.exec(host, "sh", "-c", f"cp -a {kept}/. {state}/ && rm -r {kept}")  # who it is, it is still
    try:
        for daemon in daemons:
            lab.start(host, daemon)
        lab.exec(host, "sh", "-c", "dd if=/dev/zero of=/var/lib/atomos/filler bs=4k 2>/dev/null; true")
        yield
    finally:
        for daemon in daemons:
            lab.stop(host, daemon)
        lab.exec(host, "umount", "/var/lib/atomos")
        for daemon in daemons:
            lab.start(host, daemon)


def test_a_disk_that_is_full_at_confirm_is_told_and_the_vm_goes_elsewhere(lab: Any, vms: Vms) -> None:
    with full_disk(lab, "h1"):
        assert vms.run("elsewhere", host="h1")["host"] in ("h2", "h3")
        ended = electros(lab, *vms.arguments("bound", volumes=[lab.volumes("h1")["h1-qcow2"]]), code=1)
        said = refusals_of(ended)
        assert set(said) == {"h1"}
        assert "disk" in json.dumps(said["h1"]) or "full" in json.dumps(said["h1"])
        assert set(vms.ps()) == {"elsewhere"}
        assert free_threads(lab)["h1"] == 2
        assert domains(lab, "h1") == []
    assert vms.run("bound", volumes=[lab.volumes("h1")["h1-qcow2"]])["host"] == "h1", "nothing was left behind"


# ---- Ctrl-C


def test_ctrl_c_at_any_moment_leaves_a_vm_that_was_announced_or_nothing(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    begun_s = time.monotonic()
    vms.run("timed", SHARED)
    takes_s = time.monotonic() - begun_s
    ended: dict[str, Ended] = {}
    for number in range(INTERRUPTIONS):
        name = f"cut-{number:02}"
        words = vms.arguments(name, SHARED)
        running = lab.popen("client", "sh", "-c", 'echo; exec "$0" "$@"', "electros", *words)
        running.stdout.readline()  # from here on, it is electros that hears the signal
        time.sleep(takes_s * number / INTERRUPTIONS)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        ended[name] = Ended(running.returncode, out, err)
    announced = {name for name, end in ended.items() if end.code == 0 or "promised" in end.err}
    for name, end in ended.items():
        if "KeyboardInterrupt" in end.err and "/matcher/" not in end.err:
            continue  # no line of ours had run yet: these are the interpreter's own words
        assert end.code in (0, 130), (name, end)
        assert "Traceback" not in end.err, (name, end)
        assert (end.code == 0) == (name in end.out), (name, end)
    time.sleep(0.5)
    assert set(vms.ps()) == {"timed"} | announced, ended
    vms.remove_all()
    assert everything_is_free(lab, vms)
    assert len(announced) < INTERRUPTIONS, "some came early enough"


# ---- a host that only pretends


EPYC = Path(__file__).resolve().parents[3] / "shared" / "zoo" / "lscpu" / "x86_64-epyc_7451.tar.gz"


def test_a_pretended_host_answers_a_pledge_and_refuses_to_run_saying_why(
    make_lab: Callable[..., Any], until: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    pretend_sixteen_cores(root)
    lab = make_lab("-n", "2", "--pretend", f"h2={root}")
    vms = Vms(lab, tmp_path)
    big = {"slots": 8, "ramsize": 1024}
    until(lambda: electros(lab, "pledge", vms.specfile(big), code=None).code == 0)  # h2 may be busy with its start
    offer = electros(lab, "pledge", vms.specfile(big)).document["offers"][0]
    assert (offer["host"], offer["pretended"], len(offer["threads"])) == ("h2", True, 8)
    said = refusals_of(electros(lab, *vms.arguments("dream", big), code=3))
    assert "recording" in json.dumps(said["h2"])
    assert any(reason["resource"] == "slots" for reason in said["h1"])
    assert vms.run("real")["host"] == "h1"
    vms.remove_all()


def pretend_sixteen_cores(root: Path) -> None:
    """A machine's /sys and /proc by hand: as much as an inventory needs."""
    cpus = root / "sys/devices/system/cpu"
    cpus.mkdir(parents=True)
    (cpus / "online").write_text("0-15\n")
    for cpu in range(16):
        topology = cpus / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_cpus_list").write_text(f"{cpu}\n")
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{cpu}\n")
    (root / "proc").mkdir()
    block = "processor\t: {}\nvendor_id\t: AuthenticAMD\nmodel name\t: Pretended\nflags\t\t: fpu lm sse sse2\n\n"
    (root / "proc/cpuinfo").write_text("".join(block.format(cpu) for cpu in range(16)))
    (root / "proc/meminfo").write_text("MemTotal:       67108864 kB\n")
