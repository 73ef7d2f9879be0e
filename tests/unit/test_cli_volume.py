"""`electros volume`: what several storage hosts have is one list, and one volume is found by name, UUID or prefix."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import image, importing, making, reshaping, vms, volume
from matcher.cli.failures import Exit, Failure
from matcher.cli.ordering import Order, ordered
from matcher.cli.session import refused, session
from matcher.wire.codec import to_json
from matcher.wire.messages import ImageFormat, Reason, Refused, Reveal, Role, VmViews, VolumeOffer
from matcher.wire.realm import Done
from matcher.wire.volumes import VolumeProgress, VolumeView, VolumeViews
from specs.ids import Vid, dashed
from tests.fakes.door import VM
from tests.fakes.hosts import Host, Link, keyboard


def view(digit: str, name: str, host: str, **more: Any) -> VolumeView:
    traits = {"bootable": False, "private": False, "shareable": False, "readonly": False}
    known = {"owner": None, "host_id": "1" * 64, "pool": "/srv/atomos", "state": "free", **traits, **more}
    return VolumeView(vid=digit * 32, name=name, size_mib=1152, format=ImageFormat.RAW, host=host, **known)


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    with keyboard(tmp_path, monkeypatch, "h1", "h2") as link:
        for name in ("h1", "h2"):
            link.hosts.append(Host(link, link.realm[name], role=Role.STORAGE))
        has(link, "h1", view("a", "data", "h1", state="attached", vms=("web",)), view("b", "database", "h1"))
        has(link, "h2", view("c", "boot", "h2", bootable=True, readonly=True))
        yield link


def has(link: Link, name: str, *views: VolumeView, left_out: int = 0) -> None:
    storage = next(host for host in link.hosts if host.name == name and host.role is Role.STORAGE)
    storage.answers["GET /v1/volumes"] = VolumeViews(views, left_out)


def computes(link: Link, name: str, vm_id: str) -> None:
    """The host has a VM of mine."""
    link[name].answers["GET /v1/vms"] = VmViews((replace(VM, id=vm_id),))


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_volumes_of_all_storage_hosts_are_one_list(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    volume.ls(output="json")
    shown = printed(capsys)["volumes"]
    assert [(each["name"], each["host"], each["size_gb"]) for each in shown] == [
        ("boot", "h2", 1.125),
        ("data", "h1", 1.125),
        ("database", "h1", 1.125),
    ]
    volume.ls()
    table = capsys.readouterr().out
    assert "bootable,readonly" in table
    assert "attached: web" in table
    assert "1.125 GB" in table


def test_a_seed_whose_vm_no_host_has_is_told_of_with_the_command_that_removes_it(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    private = {"private": True, "readonly": True, "owner": link.realm["ada"].principal.id}
    gone, living, held = "d" * 32, "e" * 32, "f" * 32
    seeds = [
        view("1", "gone-seed", "h1", goes_with=gone, **private),
        view("2", "living-seed", "h1", goes_with=living, **private),
        view("4", "anothers", "h1", goes_with=gone, owner="9" * 64),
        view("3", "held-seed", "h1", goes_with=held, state="attached", **private),
    ]
    has(link, "h1", *seeds)
    computes(link, "h2", living)
    volume.ls()
    told = capsys.readouterr().err
    assert f"electros volume rm {dashed('1' * 32)}" in told
    assert "living-seed" not in told
    assert "anothers" not in told
    assert f"takeover {dashed('3' * 32)} --host-is-dead; electros volume rm {dashed('3' * 32)}" in told
    assert f"takeover {dashed('1' * 32)}" not in told


def test_the_seed_of_a_failed_vm_goes_when_that_is_removed_and_no_other_does(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = link.realm["ada"].principal.id
    of_it = view("d", "web-seed", "h1", owner=owner, goes_with=VM.id)
    others = (view("e", "other-seed", "h1", owner=owner, goes_with="e" * 32), view("f", "disk", "h1", owner=owner))
    has(link, "h1", of_it, *others)
    link["h1"].answers["GET /v1/vms"] = VmViews((replace(VM, state="failed", host="h1"),))
    gone = replace(VM, state="removed")
    link["h1"].answers[f"DELETE /v1/vms/{VM.id}?generation={VM.generation}"] = gone
    storage = says(link, f"DELETE /v1/volumes/{of_it.vid}", VolumeProgress("done", volume=of_it))
    vms.rm(VM.name)
    assert [asked for asked in storage.asked if asked.startswith("DELETE")] == [f"DELETE /v1/volumes/{of_it.vid}"]
    assert "web-seed is removed from h1, too" in capsys.readouterr().err


def test_what_does_not_fit_one_answer_is_told_of(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    has(link, "h2", left_out=7)
    volume.ls()
    assert "h2 has 7 more" in capsys.readouterr().err


@pytest.mark.parametrize("meant", ["data", "a" * 32, "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "AAAA"])
def test_a_volume_is_found_by_name_uuid_or_the_start_of_it(
    link: Link, capsys: pytest.CaptureFixture[str], meant: str
) -> None:
    volume.inspect(meant, output="json")
    assert printed(capsys)["volume"]["vid"].startswith("aaaaaaaa-")


def test_of_more_than_a_host_lists_each_is_found_by_its_uuid(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    has(link, "h2", left_out=7)
    link.hosts[-1].answers[f"GET /v1/volumes/{'f' * 32}"] = view("f", "far", "h2")
    volume.inspect(dashed("f" * 32), output="json")
    said = capsys.readouterr()
    assert json.loads(said.out)["volume"]["name"] == "far"
    assert "7 more, which are not shown; each is found by its UUID" in said.err


def test_a_name_that_could_be_several_says_which(link: Link) -> None:
    with pytest.raises(Failure, match=r"data \(aaaaaaaa on h1\), database \(bbbbbbbb on h1\)") as failed:
        volume.inspect("dat")
    assert failed.value.exit_code == Exit.USAGE


def test_a_name_that_nobody_has_is_not_found(link: Link) -> None:
    with pytest.raises(Failure, match='no volume in reach is named "nothing"') as failed:
        volume.inspect("nothing")
    assert failed.value.exit_code == Exit.NOT_FOUND


def test_hosts_without_storage_are_told_as_such(link: Link) -> None:
    link.hosts[:] = [host for host in link.hosts if host.role is not Role.STORAGE]
    with pytest.raises(Failure, match="no host in reach has volumes") as failed:
        volume.ls()
    assert failed.value.exit_code == Exit.UNREACHABLE


def test_a_host_that_does_not_answer_at_its_door_does_not_hide_what_others_have(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    link.hosts[-1].close()
    volume.ls(output="json")
    out, err = capsys.readouterr()
    assert [each["name"] for each in json.loads(out)["volumes"]] == ["data", "database"]
    assert "h2 can't be reached" in err
    link.hosts[-2].close()
    with pytest.raises(Failure, match="h1 can't be reached") as failed:
        volume.ls()
    assert failed.value.exit_code == Exit.UNREACHABLE


def test_a_refusal_of_a_storage_host_is_a_sentence(link: Link) -> None:
    storage = link.hosts[-1]
    storage.answers["GET /v1/volumes"] = Refused("denied", (Reason("grant", "GET", "your grant lacks it", ""),))
    with pytest.raises(Failure, match="your grant lacks it") as failed:
        volume.ls()
    assert failed.value.exit_code == Exit.DENIED


# ---- one that several servers serve


@pytest.mark.parametrize("lender", ["h1", "h2", ""])
def test_what_two_servers_serve_is_one_volume_at_the_one_that_has_given_it_away(
    link: Link, capsys: pytest.CaptureFixture[str], lender: str
) -> None:
    ids = {"h1": "1" * 64, "h2": "2" * 64}
    for host, host_id in ids.items():
        state = "attached" if lender else "bad" if host == "h1" else "free"
        has(link, host, view("d", "ours", host, host_id=host_id, state=state, shared=True, lent_by=ids.get(lender)))
    volume.inspect("ours", output="json")
    assert printed(capsys)["volume"]["host"] == (lender or "h2")
    volume.ls(output="json")
    assert len(printed(capsys)["volumes"]) == 2


def test_a_copy_that_two_hosts_have_each_for_itself_is_for_a_person_to_sort_out(link: Link) -> None:
    for host, digit in (("h1", "1"), ("h2", "2")):
        has(link, host, view("d", "twice", host, host_id=digit * 64))
    with pytest.raises(Failure, match="could be several volumes"):
        volume.inspect("twice")


def test_a_takeover_from_a_server_that_is_away_is_for_another_to_judge(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says whether a person has to know that the server is dead."""
    ours = view("d", "ours", "h1", state="attached", vms=("web",), shared=True, lent_by="2" * 64)
    has(link, "h1", ours)
    storage = next(host for host in link.hosts if host.name == "h1" and host.role is Role.STORAGE)
    for dead in (0, 1):
        storage.answers[f"POST /v1/volumes/{'d' * 32}/takeover?dead={dead}"] = Done(f"dead: {dead}")
        reshaping.takeover("ours", host_is_dead=bool(dead))
        assert f"dead: {dead}" in capsys.readouterr().err
    has(link, "h1", replace(ours, lent_by=ours.host_id))
    with pytest.raises(Failure, match="your VM web has it"):
        reshaping.takeover("ours")


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\x1b[31mb"])
def test_a_name_that_nobody_could_say_is_told_before_anybody_is_asked(link: Link, name: str) -> None:
    with pytest.raises(Failure, match="can't be a volume's name") as failure:
        making.create(size="1", name=name)
    assert failure.value.exit_code is Exit.USAGE
    with pytest.raises(Failure, match="can't be a volume's name"):
        reshaping.rename("database", name)


def test_a_volume_that_is_no_image_is_not_removed_as_one(link: Link) -> None:
    with pytest.raises(Failure, match="database is no image") as failure:
        image.rm("boot", "database", yes=True)
    assert failure.value.exit_code is Exit.USAGE
    assert all(not asked.startswith("DELETE") for host in link.hosts for asked in host.asked)


def test_what_is_no_file_is_not_waited_for(link: Link, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Failure, match="is no file") as failure:
        importing.import_(str(tmp_path / "fifo"), name="data")
    assert failure.value.exit_code is Exit.USAGE


# ---- what people say, and what comes of it


@pytest.mark.parametrize("url", ["ftp://h/x", "file:///etc/passwd", "nbd:h:10809", 'json:{"driver":"raw"}', "s3://b/x"])
def test_a_url_that_no_host_fetches_is_told_with_those_that_they_do(link: Link, url: str) -> None:
    with pytest.raises(Failure, match="by https:// and http:// alone") as failure:
        importing.import_(url, name="data")
    assert failure.value.exit_code is Exit.USAGE
    assert all(not host.asked for host in link.hosts)


def test_a_file_may_be_called_as_a_url_is(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nbd:disk").touch()
    with pytest.raises(Failure, match="nbd:disk is empty"):
        importing.import_("nbd:disk", name="data")


def test_a_disk_that_no_volume_can_hold_is_told_before_anybody_is_asked(link: Link, tmp_path: Path) -> None:
    eight_eib = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + (2**63).to_bytes(8, "big")
    (tmp_path / "huge.qcow2").write_bytes(eight_eib)
    with pytest.raises(Failure, match="is a disk of 8589934592 GB; a volume has at most 65536 GB") as failure:
        importing.import_(str(tmp_path / "huge.qcow2"), name="data")
    assert failure.value.exit_code is Exit.USAGE
    assert all(not host.asked for host in link.hosts)


@pytest.mark.parametrize(
    ("size", "mib"), [("10", 10240), ("0.125", 128), ("10GB", 10240), ("512MiB", 512), ("1T", 2**20)]
)
def test_a_size_is_in_gb_unless_it_says_its_unit(size: str, mib: int) -> None:
    assert reshaping.size_mib(size) == mib


@pytest.mark.parametrize(
    "size", ["0", "-1", "0.1", "0.3GB", "nan", "inf", "1e3", "", "ten", "65537", "8589934592", "9" * 400]
)
def test_a_size_that_no_volume_has_is_none(size: str) -> None:
    with pytest.raises(Failure, match=r"a multiple of 0\.125 GB, more than 0 and at most 65536") as failure:
        reshaping.size_mib(size)
    assert failure.value.exit_code is Exit.USAGE


@pytest.mark.parametrize(
    ("traits", "why"),
    [
        ({"shareable": True, "bootable": True}, "can't be bootable"),
        ({"shareable": True, "image_format": ImageFormat.QCOW2}, "can't be qcow2"),
        ({"image_format": ImageFormat.FOLDER}, "say --shareable"),
    ],
)
def test_traits_that_exclude_each_other_are_told_before_anybody_is_asked(
    link: Link, traits: dict[str, Any], why: str
) -> None:
    with pytest.raises(Failure, match=why) as failure:
        making.create(size="1", name="odd", **traits)
    assert failure.value.exit_code is Exit.USAGE
    assert all(not host.asked for host in link.hosts)


def test_a_hosts_no_says_what_was_not_done_to_which_volume_and_why(link: Link) -> None:
    vid = "b" * 32
    no = Refused("volume-in-use", (Reason(f"volume {vid}", "renamed", "your VM web has it", "electros volume detach"),))
    link.hosts[-2].answers[f"PATCH /v1/volumes/{vid}"] = no
    with pytest.raises(Failure) as failure:
        reshaping.rename("database", "other")
    assert failure.value.text() == "electros: h1 did not rename database: your VM web has it\n  electros volume detach"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (Reason(f"volume {'b' * 32}", "to use it", "a VM has it", ""), f"a VM has it (volume {dashed('b' * 32)})"),
        (Reason("volume", "this volume", "no such volume here", ""), "no such volume here"),
        (Reason("volumes", "attached", "storaged is away", ""), "storaged is away"),
        (Reason("token", "to join with it", "it is used up", ""), "it is used up"),
        (Reason("ram", "8 GiB", "2 GiB free", ""), "2 GiB free (ram: asked 8 GiB)"),
    ],
)
def test_a_reason_repeats_what_was_asked_only_where_it_is_an_amount(reason: Reason, said: str) -> None:
    assert refused("h1", Refused("refused", (reason,))).message == f"h1 says no: {said}"


def says(link: Link, order: str, progress: VolumeProgress) -> Host:
    """The storage host h1 has this one line to say of the order."""
    link.hosts[-2].answers[order] = to_json(progress).encode() + b"\n"  # type: ignore[assignment]
    return link.hosts[-2]


def test_the_same_volume_said_twice_is_removed_once(link: Link) -> None:
    says(link, f"DELETE /v1/volumes/{'b' * 32}", VolumeProgress("done", volume=view("b", "database", "h1")))
    reshaping.rm("database", "b" * 32, yes=True)
    assert sum(asked.startswith("DELETE") for host in link.hosts for asked in host.asked) == 1


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            VolumeProgress("done", "share", 1152, 1152),
            "electros: it shares its blocks with database: nothing is copied",
        ),
        (VolumeProgress("done", "copy", 300, 300), "electros: 300 MiB of database are copied, in "),
    ],
)
def test_a_copy_says_how_much_was_copied_and_that_blocks_are_shared(
    link: Link, capsys: pytest.CaptureFixture[str], last: VolumeProgress, said: str
) -> None:
    says(link, f"POST /v1/volumes/{'b' * 32}/clones", replace(last, volume=view("d", "copy", "h1")))
    reshaping.clone("database", name="copy")
    assert said in capsys.readouterr().err


def test_what_is_being_made_is_found_by_its_name_and_cancelled(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    new = view("e", "debian", "h1", state="busy", why="it is being imported, copy 25 % of 4 GiB")
    has(link, "h1", new)
    link.hosts[-2].answers[f"DELETE /v1/volumes/{new.vid}/job"] = Done("it is not imported: all is as it was before")
    volume.ls()
    assert "busy: it is being imported, copy 25 % of 4 GiB" in capsys.readouterr().out
    reshaping.cancel("debian")
    assert capsys.readouterr().err == "electros: debian: it is not imported: all is as it was before\n"


# ---- Ctrl-C


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_once_a_host_has_begun_says_what_goes_on_and_what_shows_and_ends_it(link: Link) -> None:
    storage, vid = says(link, "POST /v1/imports", VolumeProgress("doing", "convert", 1, 2)), "e" * 32
    with session() as mine, pytest.raises(Failure) as failure:
        ordered(mine, storage.door, Order.to_make("/v1/imports", vid, "import data"), interrupt)
    assert failure.value.exit_code is Exit.INTERRUPTED
    assert failure.value.message == "interrupted; h1 was asked to import data, and goes on with it"
    assert f"electros volume inspect {dashed(vid)}" in failure.value.helps
    assert f"electros volume cancel {dashed(vid)}" in failure.value.helps


def test_after_ctrl_c_no_second_host_makes_the_same_volume(link: Link) -> None:
    first, second = says(link, "POST /v1/volumes", VolumeProgress("doing")), link.hosts[-1]
    offers = [VolumeOffer("0" * 32, "0" * 32, name, 2, 3000, ()) for name in ("h1", "h2")]
    rooms = tuple(making.Room(host.door, offer) for host, offer in zip((first, second), offers, strict=True))
    order = Order.to_make("/v1/volumes", "d" * 32, "make data")
    held = making.Rooms(rooms, Reveal("0" * 32, b"0" * 32))
    with session() as mine, pytest.raises(Failure, match="goes on with it"):
        making.made_at_best(mine, held, order, lambda _: Done("made"), lambda _: interrupt())
    assert second.asked == []


def test_ctrl_c_before_an_image_is_sent_whole_makes_nothing_of_it_and_afterwards_it_goes_on(
    link: Link, tmp_path: Path
) -> None:
    storage, vid = link.hosts[-2], Vid("e" * 32)
    storage.answers[f"PUT /v1/uploads/{vid}"] = Done("taken in")
    (tmp_path / "image").write_bytes(b"x" * 10_000)

    def sent(*, whole: bool) -> None:
        image = (tmp_path / "image").open("rb")
        with session() as mine, image, importing.Sending(mine, vid, image, 10_000) as sending:
            if whole:
                sending.begin(storage.door)
                while not storage.asked:
                    time.sleep(0.01)
            raise Failure(Exit.INTERRUPTED, "interrupted; h1 goes on")

    with pytest.raises(Failure, match="nothing is made of it"):
        sent(whole=False)
    with pytest.raises(Failure, match="h1 goes on"):
        sent(whole=True)
    assert storage.asked == [f"PUT /v1/uploads/{vid}"]


def test_ctrl_c_before_that_does_not_say_more_than_is_known(link: Link) -> None:
    door = link.hosts[-2].door
    with session() as mine, mine.client.interrupts:
        os.kill(os.getpid(), signal.SIGINT)  # it is kept until somebody waits
        with pytest.raises(Failure, match="h1 was asked to remove data, and may do it all the same") as failure:
            ordered(mine, door, Order("remove data", "DELETE", "/v1/volumes/x"))
        assert failure.value.exit_code is Exit.INTERRUPTED
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Failure, match="h1 was asked to give web data, and may do it") as failure:
            mine.ask(door, lambda connection: connection.ask("GET", "/", Done), doing="give web data")
        assert failure.value.exit_code is Exit.INTERRUPTED
