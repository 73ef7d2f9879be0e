"""A VM's life on real hosts: it runs where its volume is, stops, starts again, ends; and everybody tells the truth."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import BOOT_S, HELIUM, Vms, booted, boots, domains, electros, free_threads, plainly, serial_of

pytestmark = pytest.mark.lab

RUN_KEYS = {"id", "generation", "name", "host", "state", "domain", "accelerator", "addresses"}
THREADS_OF_A_HOST = 2
TYPES_POWEROFF = "for _ in 1 2 3 4 5 6; do sleep 2; echo poweroff -f; done"  # a shell that asks for the size eats some


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


class Web:
    """One guest that has booted from h2's volume; tests that stop it leave it to the next one to start it again."""

    def __init__(self, lab: Any, until: Callable[..., Any], vms: Vms) -> None:
        self.lab, self._until = lab, until
        self._vm = vms.run("web", HELIUM, volumes=[lab.volumes("h2")["h2-boot"]])

    def up(self) -> dict[str, Any]:
        """Running, with its page served."""
        now, since = self.now(), 0
        if now["state"] in ("stopped", "failed"):
            since = len(serial_of(self.lab, now))
            electros(self.lab, "start", "web")
        return booted(self.lab, self._until, now, since=since)

    def now(self) -> dict[str, Any]:
        return dict(electros(self.lab, "inspect", self._vm["id"]).document["vm"])

    def page(self) -> str:
        vm = self.now()
        fetch = (
            f"import urllib.request as r; print(r.urlopen('http://{vm['addresses'][0]}/', timeout=3).read().decode())"
        )
        return str(self.lab.exec(vm["host"], "python3", "-c", fetch).stdout)


@pytest.fixture(scope="module")
def web(lab: Any, until: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    vms = Vms(lab, tmp_path_factory.mktemp("web"))
    yield Web(lab, until, vms)
    vms.remove_all()


def test_it_runs_where_its_volume_is_boots_from_it_and_serves_a_page_at_the_address_that_ps_shows(
    lab: Any, web: Web
) -> None:
    vm = web.up()
    assert (vm["host"], vm["state"]) == ("h2", "running")
    shown = next(each for each in electros(lab, "ps").document["vms"] if each["name"] == "web")
    assert shown["addresses"] == vm["addresses"] != []
    assert "ATOMOS-GUEST-UP" in plainly(lab, "console", "web", "--log").out
    assert f"ip {vm['addresses'][0]}\n" in web.page()
    assert set(shown) == RUN_KEYS


def test_virsh_lists_it_with_its_title(lab: Any, web: Web) -> None:
    vm = web.up()
    assert vm["domain"] == f"atomos-{vm['id']}"
    line = next(line for line in lab.virsh("h2", "list", "--title").splitlines() if vm["domain"] in line)
    assert "running" in line
    assert line.split()[-1] == "web"


def test_inspect_tells_all_of_it(lab: Any, web: Web) -> None:
    vm = web.up()
    assert set(vm) > RUN_KEYS
    assert vm["specfile"]["cpu"]["slots"] == 1
    assert vm["overprovision"] == 4
    assert not vm["exclusive"]
    vid = lab.volumes("h2")["h2-boot"].replace("-", "")
    assert vm["volumes"] == [{"vid": vid, "format": "raw", "readonly": False, "bootable": True, "from": "here"}]
    assert vm["ram_mib"] == 512
    assert vm["vcpus"] == len(vm["threads"]) == 1
    told = plainly(lab, "inspect", "web").out
    assert vm["id"] in told


def test_it_is_found_by_name_by_uuid_and_by_the_start_of_either(lab: Any, web: Web) -> None:
    vm = web.up()
    for words in ("web", "we", vm["id"], vm["id"].upper(), vm["id"].replace("-", ""), vm["id"][:8], vm["id"][:11]):
        assert electros(lab, "inspect", words).document["vm"]["id"] == vm["id"], words
    error = electros(lab, "inspect", "webb", code=4).error
    assert error["code"] == "not-found"
    assert "webb" in error["message"]


def test_a_name_that_could_be_several_is_told_with_all_of_them(lab: Any, vms: Vms) -> None:
    vms.run("twin-a")
    vms.run("twin-b")
    error = electros(lab, "inspect", "twin", code=2).error
    assert "twin-a" in error["message"]
    assert "twin-b" in error["message"]
    vms.run("twin")
    assert electros(lab, "inspect", "twin").document["vm"]["name"] == "twin", "a whole name is no prefix"


def test_what_is_typed_into_its_console_comes_back_from_the_guest(lab: Any, web: Web) -> None:
    web.up()
    script = '(sleep 1; echo; sleep 1; echo "echo $((6 * 7))-is-it"; sleep 2; printf "\\035") | electros console web'
    done = lab.exec("client", "sh", "-c", script.replace("$((", "\\$(("), timeout_s=30)
    assert "42-is-it" in done.stdout, "the guest's own shell has done the sum"
    assert "the VM goes on" in done.stderr
    assert web.now()["state"] == "running"


def test_a_console_that_is_taken_says_so(lab: Any, until: Callable[..., Any], web: Web) -> None:
    web.up()
    first = lab.popen("client", "electros", "console", "web")
    try:
        until(lambda: "connected" in first.stderr.readline(), within_s=10)
        second = lab.exec("client", "electros", "console", "web", check=False, timeout_s=20)
        assert second.returncode == 1
        assert "says no" in second.stderr
    finally:
        first.terminate()
        first.communicate(timeout=10)


def test_stop_presses_the_power_button_frees_compute_and_keeps_name_and_volume(lab: Any, web: Web, vms: Vms) -> None:
    before = web.up()
    stopped = electros(lab, "stop", "web").document["vms"]
    assert [vm["state"] for vm in stopped] == ["stopped"]
    assert "ATOMOS-POWEROFF" in serial_of(lab, before), "the guest itself obeyed"
    assert before["domain"] not in domains(lab, "h2")
    assert free_threads(lab)["h2"] == THREADS_OF_A_HOST
    assert vms.ps()["web"]["state"] == "stopped"
    thief = vms.arguments("thief", HELIUM, volumes=[lab.volumes("h2")["h2-boot"]])
    error = electros(lab, *thief, code=3).error
    reasons = [reason for host in error["refusals"] for reason in host["reasons"] if host["host"] == "h2"]
    assert any("web" in reason["has"] for reason in reasons), "whose volume it is stands in the reasons"


def test_start_is_the_next_generation_on_the_same_volume(lab: Any, until: Callable[..., Any], web: Web) -> None:
    before = web.up()
    electros(lab, "stop", "web")
    started = electros(lab, "start", "web", "--wait", "address").document["vm"]
    assert started["generation"] == before["generation"] + 1
    assert (started["id"], started["host"], started["state"]) == (before["id"], "h2", "running")
    assert started["addresses"]
    after = web.up()
    numbers = boots(lab, after)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), (
        "each boot found the number of the one before on its volume"
    )
    assert electros(lab, "start", "web").document["vm"]["generation"] == after["generation"], "it runs already"


def test_a_guest_that_powers_itself_off_is_stopped_and_says_why(lab: Any, until: Callable[..., Any], web: Web) -> None:
    vm = web.up()
    script = f"({TYPES_POWEROFF}) | electros console web"
    ended = lab.exec("client", "sh", "-c", script, timeout_s=40)
    assert "the console has ended" in ended.stderr
    now = until(lambda: (now := web.now())["state"] == "stopped" and now, within_s=20)
    assert now["why"] == "the guest powered itself off"
    assert now["generation"] == vm["generation"]
    assert free_threads(lab)["h2"] == THREADS_OF_A_HOST


def test_reboot_restarts_the_guest_where_it_is(lab: Any, until: Callable[..., Any], web: Web) -> None:
    """After the test of a guest's own poweroff: libvirt 9 now and then takes the next one for another reboot."""
    before = web.up()
    since = len(serial_of(lab, before))
    electros(lab, "reboot", "web")
    after = booted(lab, until, before, since=since)
    assert (after["generation"], after["host"], after["state"]) == (before["generation"], "h2", "running")
    assert boots(lab, after)[-1] == boots(lab, before)[-1]


def test_virsh_destroy_behind_its_back_is_told_honestly(lab: Any, until: Callable[..., Any], vms: Vms) -> None:
    vm = vms.run("victim", host="h1")
    lab.virsh("h1", "destroy", vm["domain"])
    now = until(lambda: (now := vms.ps()["victim"])["state"] != "running" and now, within_s=20)
    assert now["state"] == "stopped"
    assert "destroyed on its host" in now["why"]
    assert free_threads(lab)["h1"] == THREADS_OF_A_HOST
    assert electros(lab, "start", "victim").document["vm"]["state"] == "running"


def test_rm_ends_it_and_its_volume_is_free_for_another(lab: Any, vms: Vms) -> None:
    vid = lab.volumes("h3")["h3-data"]
    first = vms.run("first", volumes=[vid])
    assert first["host"] == "h3"
    used = {each["host"]: each["use"]["volumes_gb"] for each in electros(lab, "whoami").document["hosts"]}
    assert used["h3"] > 0, "as the storaged of h3 counts it"
    assert used["h1"] == 0
    removed = electros(lab, "rm", "--force", "first").document["removed"]
    assert removed == [{"id": first["id"], "name": "first", "host": "h3"}]
    assert "first" not in vms.ps()
    assert first["domain"] not in domains(lab, "h3")
    assert free_threads(lab)["h3"] == THREADS_OF_A_HOST
    assert vms.run("second", volumes=[vid])["host"] == "h3"
    assert electros(lab, "inspect", "first", code=4).error["code"] == "not-found"


def test_four_vms_share_a_core_and_the_fifth_goes_elsewhere(lab: Any, vms: Vms) -> None:
    shared = {"slots": 1, "overprovision": 4, "ramsize": 64}
    vms.run("alone", host="h1")
    four = [vms.run(f"shared-{number}", shared, host="h1") for number in range(4)]
    assert [vm["host"] for vm in four] == ["h1"] * 4
    threads = {tuple(electros(lab, "inspect", vm["id"]).document["vm"]["threads"]) for vm in four}
    assert len(threads) == 1, "all four are on one core"
    assert free_threads(lab)["h1"] == 0
    asked = electros(lab, "pledge", vms.specfile(shared)).document
    assert {offer["host"] for offer in asked["offers"]} == {"h2", "h3"}
    reason = next(refusal for refusal in asked["refusals"] if refusal["host"] == "h1")["reasons"][0]
    assert reason["resource"] == "slots"
    assert vms.run("fifth", shared, host="h1")["host"] in ("h2", "h3")


def test_a_qcow2_volume_boots(lab: Any, until: Callable[..., Any], vms: Vms) -> None:
    vm = vms.run("qcow", HELIUM, volumes=[lab.volumes("h1")["h1-qcow2"]])
    up = booted(lab, until, vm)
    assert up["volumes"][0]["format"] == "qcow2"
    assert up["host"] == "h1"


def test_a_readonly_volume_boots_and_is_not_written(lab: Any, until: Callable[..., Any], vms: Vms) -> None:
    vid = lab.volumes("h3")["h3-boot"]
    folder = lab.folder("h3") / "srv" / f"{vid}.elimg"
    before, meta = sum_of(folder / "data.img"), (folder / "meta.json").read_text()
    try:
        (folder / "meta.json").write_text(json.dumps(json.loads(meta) | {"readonly": True}))
        lab.restart("h3", "storaged")  # it would look again by itself, in half a minute
        vm = vms.run("reader", HELIUM, volumes=[vid])
        until(lambda: "ATOMOS-GUEST-UP boots=readonly " in serial_of(lab, vm), within_s=BOOT_S)
        assert electros(lab, "inspect", "reader").document["vm"]["volumes"][0]["readonly"] is True
        vms.remove_all()
    finally:
        (folder / "meta.json").write_text(meta)
        lab.restart("h3", "storaged")
    assert sum_of(folder / "data.img") == before


def sum_of(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()
