"""A pool is marked once, read strictly, and refused where it is not the one that was there; each has its limits."""

import json
import os
from pathlib import Path

import pytest

from specs.ids import UserId, dashed
from storaged import main
from storaged import pool as pool_module
from storaged.beneath import Unusable
from storaged.config import Config, PoolSettings
from storaged.fit import offer_volumes
from storaged.index import Index
from storaged.pool import MEMORY, POOL, Mark, Pool, Pools, adopt, parse_mark, read_mark, render_mark
from storaged.testing import ALICE, BOB, H1, H2, make_volume, vid_of
from storaged.volume import PoolUse, Snapshot
from tests.fakes.realms import make_realm
from tests.unit.test_storaged_fit import pledge

ONE, TWO, THREE = vid_of(1), vid_of(2), vid_of(3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


def marks(root: Path, host: str = H1) -> Pools:
    return Pools(host, root.parent / MEMORY)  # type: ignore[arg-type]


def scan(root: Path, *, host: str = H1, limit_mib: int | None = None, volumes_max: int = 100) -> Snapshot:
    return Index(marks(root, host)).scan([Pool(str(root), limit_mib, volumes_max)])


def use(root: Path, host: str = H1) -> PoolUse:
    (found,) = scan(root, host=host).pools
    return found


def problem(root: Path) -> str:
    snapshot = scan(root)
    assert not snapshot.volumes
    assert not snapshot.pools
    (sentence,) = snapshot.problems
    return sentence


def mark_of(root: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((root / POOL).read_text())
    return found


# ---- the mark


def test_a_pool_that_is_new_is_marked_once_as_this_hosts_own(root: Path) -> None:
    first = use(root)
    assert mark_of(root) == {"pool_id": first.pool_id, "owner": H1, "shared": False}
    assert use(root) == first
    assert [path.name for path in root.iterdir()] == [POOL]
    assert json.loads((root.parent / MEMORY).read_text()) == {str(root): first.pool_id}


def test_who_only_looks_marks_nothing(root: Path) -> None:
    (found,) = Index().scan([root]).pools
    assert (found.pool_id, list(root.iterdir()), found.withheld) == (None, [], "")


def test_who_only_looks_is_told_of_a_pool_that_is_not_mounted_and_changes_nothing(root: Path) -> None:
    use(root)
    memory = root.parent / MEMORY
    before = memory.read_bytes()
    (root / POOL).unlink()
    snapshot = Index(Pools(H1, memory, only_looks=True)).scan([Pool(str(root))])
    assert "mount that one" in snapshot.problems[0]
    assert (memory.read_bytes(), [*root.iterdir()]) == (before, [])


def test_the_mark_is_on_the_disk_before_it_is_remembered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a crash would leave a host that waits for a pool that never was."""
    order: list[str] = []
    really_sync, really_remember = os.fsync, pool_module._remember

    def sync(file: int) -> None:
        order.append(Path(f"/proc/self/fd/{file}").readlink().name)
        really_sync(file)

    def remember(memory: Path, pools: dict[str, str]) -> None:
        order.append("remember")
        really_remember(memory, pools)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(pool_module, "_remember", remember)
    use(root)
    assert order[:3] == [f".{POOL}.{H1[:16]}", "pool", "remember"]


def test_of_two_hosts_that_begin_one_pool_at_once_the_first_ones_mark_stands(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = os.link
    theirs = Mark(pool_module.PoolId("5" * 32), H2)

    def link(*names: str, **where: object) -> None:
        if not (root / POOL).exists():
            (root / POOL).write_bytes(render_mark(theirs))
        really_link(*names, **where)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link)
    found = use(root)
    assert found.pool_id == theirs.pool_id
    assert f"that of host {H2[:16]}" in found.withheld


def test_a_crash_between_the_two_names_of_a_new_mark_is_mended(root: Path) -> None:
    use(root)
    os.link(root / POOL, root / f".{POOL}.{H1[:16]}")
    assert use(root).withheld == ""
    assert [path.name for path in root.iterdir()] == [POOL]


GOOD = {"pool_id": "a" * 32, "owner": H1, "shared": False}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 1000,
        json.dumps({**GOOD, "more": 1}).encode(),
        json.dumps({**GOOD, "pool_id": "A" * 32}).encode(),
        json.dumps({**GOOD, "pool_id": 7}).encode(),
        json.dumps({**GOOD, "owner": H1[:-1]}).encode(),
        json.dumps({**GOOD, "shared": 0}).encode(),
        json.dumps({**GOOD, "shared": "false"}).encode(),
        json.dumps({"pool_id": "a" * 32, "owner": H1}).encode(),
        json.dumps(GOOD).encode()[:-1] + b', "shared": true}',
        json.dumps(GOOD).encode() + b" " * pool_module.POOL_MAX_BYTES,
    ],
)
def test_a_mark_is_read_strictly_and_a_damaged_one_leaves_the_pool_out(root: Path, text: bytes) -> None:
    make_volume(root, ONE)
    (root / POOL).write_bytes(text)
    assert parse_mark(text) is None
    assert "pool.json is damaged, so that nobody knows which pool this is" in problem(root)
    assert (root / POOL).read_bytes() == text


def test_what_is_written_is_read_back() -> None:
    mark = Mark(pool_module.PoolId("a" * 32), H2, shared=True)
    assert parse_mark(render_mark(mark)) == mark


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "FIFO", "folder"])
def test_a_mark_that_is_no_plain_file_leaves_the_pool_out(root: Path, kind: str) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.write_bytes(render_mark(Mark(pool_module.PoolId("a" * 32), H1)))
    match kind:
        case "symbolic link":
            (root / POOL).symlink_to(elsewhere)
        case "hard link":
            os.link(elsewhere, root / POOL)
        case "FIFO":
            os.mkfifo(root / POOL)
        case "folder":
            (root / POOL).mkdir()
    assert "pool.json is" in problem(root)


def test_a_pool_in_which_no_mark_can_be_made_is_read_and_not_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "link", refused)
    make_volume(root, ONE)
    make_volume(root, TWO, readonly=True)
    snapshot = scan(root)
    assert set(snapshot.volumes) == {TWO}
    assert snapshot.bad[ONE].reason == "its pool has no pool.json, and none can be made: Read-only file system"


# ---- another host's, or everybody's


@pytest.mark.parametrize(
    ("owner", "shared", "words"), [(H2, False, f"that of host {H2[:16]}"), (H1, True, "shared by several servers")]
)
def test_a_pool_that_is_not_ours_alone_is_listed_and_not_given_for_writing(
    root: Path, owner: str, shared: bool, words: str
) -> None:
    (root / POOL).write_text(json.dumps({**GOOD, "owner": owner, "shared": shared}))
    make_volume(root, ONE)
    make_volume(root, TWO, shareable=True)
    make_volume(root, THREE, readonly=True)
    snapshot = scan(root)
    assert set(snapshot.volumes) == {THREE}
    assert set(snapshot.bad) == {ONE, TWO}
    assert words in snapshot.bad[ONE].reason
    assert (snapshot.pools[0].withheld, snapshot.pools[0].volumes) == (snapshot.bad[ONE].reason, 3)


def test_a_withheld_volume_that_is_private_is_nobody_elses_to_hear_of(root: Path) -> None:
    (root / POOL).write_text(json.dumps({**GOOD, "owner": H2}))
    make_volume(root, ONE, owner=ALICE)
    make_volume(root, TWO, owner=ALICE, meta=b'{size: 1, private: true, owner: "%b", image: gone}' % ALICE.encode())
    snapshot = scan(root)
    heard = {user: offer_volumes(pledge(ONE, TWO), snapshot, (), user_id=user, host_id=H1) for user in (ALICE, BOB)}
    assert [len(heard[user].reasons) for user in (ALICE, BOB)] == [2, 0]


@pytest.mark.parametrize("mark", [{**GOOD, "owner": H2}, "damaged", "linked", None])
def test_a_pool_that_a_person_adopts_is_given_again_and_keeps_its_id(root: Path, mark: object) -> None:
    """Another host's, a damaged one, or one that is begun anew where another one was."""
    make_volume(root, ONE)
    use(root)
    (root / POOL).unlink()
    if mark == "linked":
        (root / POOL).symlink_to("/etc/hostname")
    elif mark is not None:
        (root / POOL).write_text(json.dumps(mark))
    assert not scan(root).volumes
    adopted = adopt(Pool(str(root)), H1, root.parent / MEMORY)
    assert set(scan(root).volumes) == {ONE}
    assert mark_of(root) == {"pool_id": adopted.pool_id, "owner": H1, "shared": False}
    assert (adopted.pool_id == GOOD["pool_id"]) == isinstance(mark, dict)
    assert not (root / POOL).is_symlink()


def test_a_shared_pool_is_nobodys_to_adopt(root: Path) -> None:
    (root / POOL).write_text(json.dumps({**GOOD, "owner": H2, "shared": True}))
    with pytest.raises(Unusable, match="pool unshare"):
        adopt(Pool(str(root)), H1, root.parent / MEMORY)
    assert "shared by several servers" in use(root).withheld


def test_the_command_adopts_a_pool_of_the_settings_and_no_other_folder(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_realm(root.parent / "realm", "h1")["h1"]
    identity, settings, audit = (root.parent / name for name in ("realm/h1", "storaged.toml", "audit.jsonl"))
    settings.write_text(f'identity = "{identity}"\nstate = "{root.parent}"\npools = ["{root}"]\naudit = "{audit}"\n')
    (root / POOL).write_text(json.dumps({**GOOD, "owner": H2}))
    make_volume(root, ONE)
    main.volumes(config=settings)
    said = capsys.readouterr()
    assert f"that of host {H2[:16]}" in said.err
    assert f"{dashed(ONE)}  {root}/{dashed(ONE)}.elimg  not given for writing" in said.out
    main.adopt(root, config=settings)
    main.volumes(config=settings)
    said = capsys.readouterr()
    assert (said.err, mark_of(root)["owner"]) == ("", host.principal.id)
    assert f"{dashed(ONE)}  128 MiB  raw" in said.out
    assert '"what": "pool.adopt"' in audit.read_text()
    with pytest.raises(SystemExit, match="is no pool of this host"):
        main.adopt(root.parent, config=settings)


# ---- unmounted under way


def test_an_empty_folder_in_a_pools_place_is_refused_and_stays_empty(root: Path) -> None:
    make_volume(root, ONE)
    pool_id = use(root).pool_id
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    assert f"there is no pool.json here, and this host has used pool {pool_id}: mount that one" in problem(root)
    assert list(root.iterdir()) == []


def test_another_pool_in_a_pools_place_is_refused_until_a_person_says_that_it_is_meant(root: Path) -> None:
    pool_id = use(root).pool_id
    (root / POOL).write_text(json.dumps(GOOD))
    make_volume(root, ONE)
    said = problem(root)
    assert f"pool {'a' * 32} lies here" in said
    assert f"used pool {pool_id}" in said
    assert said.endswith("storaged adopt PATH")
    adopt(Pool(str(root)), H1, root.parent / MEMORY)
    assert set(scan(root).volumes) == {ONE}


def test_the_same_pool_on_another_device_is_the_same_pool(root: Path) -> None:
    """A filesystem that is mounted again may get another device number: `pool_id` tells, not the device."""
    make_volume(root, ONE)
    use(root)
    copy = root.with_name("copy")
    copy.mkdir()
    for name in (POOL, f"{next(root.glob('*.elimg')).name}"):
        (root / name).rename(copy / name)
    root.rmdir()
    copy.rename(root)
    assert set(scan(root).volumes) == {ONE}


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"/p": 7}', b"[" * 5000])
def test_where_it_cannot_be_told_which_pools_were_used_none_is(root: Path, text: bytes) -> None:
    (root.parent / MEMORY).write_bytes(text)
    assert MEMORY in problem(root)
    assert list(root.iterdir()) == []


def test_one_pool_that_is_refused_does_not_stop_the_others(root: Path, tmp_path: Path) -> None:
    make_volume(tmp_path / "other", ONE)
    (root / POOL).write_text("{")
    snapshot = Index(marks(root)).scan([Pool(str(root)), Pool(str(tmp_path / "other"))])
    assert (set(snapshot.volumes), len(snapshot.problems), len(snapshot.pools)) == ({ONE}, 1, 1)


def test_of_very_many_pools_that_were_used_the_last_ones_are_remembered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "REMEMBERED_MAX", 2)
    for number in range(3):
        (root / str(number)).mkdir()
        Index(marks(root)).scan([root / str(number)])
    assert list(json.loads((root.parent / MEMORY).read_text())) == [f"{root}/1", f"{root}/2"]


# ---- how full


def test_what_a_pool_has_promised_is_the_sum_of_its_volumes_virtual_sizes(root: Path) -> None:
    make_volume(root, ONE, size_mib=256)
    make_volume(root, TWO, size_mib=512, owner=ALICE)
    make_volume(root / "deep", THREE, size_mib=128, readonly=True)
    (found,) = scan(root, limit_mib=1024).pools
    disk = os.statvfs(root)
    assert (found.path, found.promised_mib, found.volumes, found.left_mib) == (str(root), 896, 3, 128)
    assert 0 < found.free_mib <= disk.f_blocks * disk.f_frsize // 2**20


def test_a_pool_without_a_limit_has_none_left_to_speak_of(root: Path) -> None:
    assert use(root).left_mib is None


def test_copies_of_one_vid_count_each_in_its_pool(root: Path) -> None:
    make_volume(root / "a", ONE, size_mib=128)
    make_volume(root / "b", ONE, size_mib=128)
    snapshot = scan(root)
    assert set(snapshot.conflicts) == {ONE}
    assert snapshot.pools[0].promised_mib == 256


def test_a_pool_that_promises_more_than_its_limit_says_so_and_is_served(root: Path) -> None:
    make_volume(root, ONE, size_mib=2048)
    snapshot = scan(root, limit_mib=1024)
    assert set(snapshot.volumes) == {ONE}
    assert snapshot.problems == (f"pool {root}: its volumes have 2 GB together, its limit is 1 GB",)
    assert snapshot.pools[0].left_mib == 0


def test_a_pools_own_limit_of_volumes_leaves_the_other_pools_alone(root: Path, tmp_path: Path) -> None:
    for number in range(3):
        make_volume(root, vid_of(number))
        make_volume(tmp_path / "other", vid_of(number + 10))
    snapshot = Index().scan([Pool(str(root), volumes_max=2), Pool(str(tmp_path / "other"))])
    assert sorted(use.volumes for use in snapshot.pools) == [2, 3]
    assert snapshot.problems == (f"more than 2 volumes in {root}; some are left out",)


def test_a_pool_within_a_pool_counts_for_itself(root: Path) -> None:
    make_volume(root, ONE)
    make_volume(root / "inner", TWO)
    snapshot = Index().scan([root, root / "inner"])
    assert {use.path: use.volumes for use in snapshot.pools} == {str(root): 1, f"{root}/inner": 1}
    assert snapshot.volumes[TWO].pool == f"{root}/inner"


# ---- settings


def test_a_bare_path_and_a_table_name_a_pool() -> None:
    pools = Config.model_validate({"pools": ["/a", {"path": "/b", "limit_gb": 3, "volumes_max": 7}]}).pools
    assert [pool.named() for pool in pools] == [Pool("/a"), Pool("/b", 3072, 7)]
    assert Config().pools == (PoolSettings(path=Path("/srv/atomos")),)


@pytest.mark.parametrize("pool", [{}, {"path": "/a", "limit_gb": -1}, {"path": "/a", "limit": 1}, 7, None])
def test_a_pool_that_makes_no_sense_is_refused(pool: object) -> None:
    with pytest.raises(ValueError, match="pools"):
        Config.model_validate({"pools": [pool]})


def test_a_users_count_of_volumes_holds_what_all_may_see_and_their_own(root: Path) -> None:
    make_volume(root, ONE)
    make_volume(root, TWO, owner=ALICE)
    snapshot = scan(root)
    assert [snapshot.visible_count(UserId(user)) for user in (ALICE, BOB)] == [2, 1]


def test_a_mark_is_read_from_the_folder_that_is_open(root: Path) -> None:
    folder = os.open(root, os.O_RDONLY)
    try:
        assert read_mark(folder) is None
        (root / POOL).write_text("{")
        with pytest.raises(Unusable):
            read_mark(folder)
    finally:
        os.close(folder)
