"""A storage host offers what it has and can give, and says why not the rest, without betraying another user's."""

import pytest
from pydantic import TypeAdapter

from matcher.wire.messages import ImageFormat, Pledge, Policy, Reach, Reason
from specs.ids import HostId, UserId, Vid
from storaged.claims import SharedVolume, VolumeShare, admits
from storaged.fit import VolumeFit, offer_volumes
from storaged.testing import ALICE, BOB, H1, H2, vid_of, vm_of
from storaged.volume import BadVolume, Conflict, Epoch, Right, Snapshot, Volume

ONE, TWO, THREE = vid_of(1), vid_of(2), vid_of(3)


def volume(vid: Vid = ONE, *, shareable: bool = False, readonly: bool = False, owner: UserId | None = None) -> Volume:
    return Volume(
        vid=vid,
        name="data",
        size_mib=128,
        format=ImageFormat.RAW,
        bootable=False,
        private=owner is not None,
        shareable=shareable,
        readonly=readonly,
        owner=owner,
        pool="/pool",
        path=f"/pool/{vid}.elimg",
        image="data.img",
    )


def snapshot(*volumes: Volume) -> Snapshot:
    return Snapshot({v.vid: v for v in volumes})


def pledge(*vids: Vid, generation: int = 1) -> Pledge:
    return Pledge(
        pledge_id="e" * 32,
        sent_at_ms=0,
        reply=(),
        dry=True,
        vm_id=vm_of(1),
        generation=generation,
        vm=None,
        volumes=vids,
        seal=b"",
        hold_ms=3000,
        hosts_known=0,
        policy=Policy.PACK,
    )


def share(
    vm: int, *vids: Vid, user_id: UserId = ALICE, generation: int = 1, writable: bool = True, shareable: bool = False
) -> VolumeShare:
    shared = tuple(SharedVolume(vid, writable, shareable) for vid in vids)
    return VolumeShare(vm_of(vm), generation, user_id, shared, "web")


def fit(
    asked: Pledge, found: Snapshot, *residents: VolumeShare, user_id: UserId = ALICE, host: HostId = H1
) -> VolumeFit:
    answer = offer_volumes(asked, found, residents, user_id=user_id, host_id=host)
    for reason in answer.reasons:
        TypeAdapter(Reason).validate_python(reason)  # the limits of the wire hold
    return answer


def test_asked_volumes_that_are_here_are_offered_in_order() -> None:
    answer = fit(pledge(TWO, THREE, ONE), snapshot(volume(ONE), volume(TWO)))
    assert [offered.vid for offered in answer.offered] == [TWO, ONE]
    assert {offered.reach for offered in answer.offered} == {Reach.LOCAL}
    assert answer.reasons == ()
    assert answer.share == VolumeShare(
        vm_of(1), 1, ALICE, (SharedVolume(TWO, True, False), SharedVolume(ONE, True, False))
    )


def test_a_volume_that_is_not_here_is_no_reason_and_no_claim() -> None:
    assert fit(pledge(ONE), snapshot()) == VolumeFit((), (), None)


def test_another_users_private_volume_is_as_if_it_were_not_here() -> None:
    mine = snapshot(volume(ONE, owner=ALICE))
    assert fit(pledge(ONE), mine).offered
    assert fit(pledge(ONE), mine, user_id=BOB) == fit(pledge(ONE), snapshot(), user_id=BOB)
    assert fit(pledge(ONE), mine, share(9, ONE), user_id=BOB).reasons == ()


def test_a_conflict_of_another_users_private_volume_is_not_told() -> None:
    copies = (volume(ONE, owner=ALICE), volume(ONE, owner=ALICE))
    found = Snapshot(conflicts={ONE: Conflict(ONE, ("/p1/x", "/p2/x"), copies)})
    assert fit(pledge(ONE), found).reasons
    assert not fit(pledge(ONE), found, user_id=BOB).reasons


def test_a_conflict_names_both_paths() -> None:
    found = Snapshot(conflicts={ONE: Conflict(ONE, ("/p1/x", "/p2/" + "y" * 300), ())})
    (reason,) = fit(pledge(ONE), found).reasons
    assert reason.has.startswith("2 copies: /p1/x and /p2/y")


def test_a_bad_volume_is_a_reason_that_says_why_and_where() -> None:
    found = Snapshot(bad={ONE: BadVolume("/pool/" + "x" * 5000, "meta.json is missing", ONE)})
    (reason,) = fit(pledge(ONE), found).reasons
    assert reason.resource == f"volume {ONE}"
    assert reason.has == "unusable: meta.json is missing"
    assert reason.hint.startswith("to mend in /pool/x")


def test_a_volume_in_use_names_the_vm_to_its_own_user_alone() -> None:
    found = snapshot(volume(ONE))
    (mine,) = fit(pledge(ONE), found, share(2, ONE)).reasons
    assert mine.has == 'in use by your VM "web"'
    (theirs,) = fit(pledge(ONE), found, share(2, ONE, user_id=BOB)).reasons
    assert theirs.has == "in use by another user's VM"
    assert "web" not in theirs.has + theirs.hint
    assert vm_of(2) not in theirs.has + theirs.hint


@pytest.mark.parametrize(("shareable", "readonly"), [(True, False), (False, True), (True, True)])
def test_a_shareable_or_readonly_volume_has_many_users(shareable: bool, readonly: bool) -> None:
    found = snapshot(volume(ONE, shareable=shareable, readonly=readonly))
    resident = share(2, ONE, user_id=BOB, writable=not readonly, shareable=shareable)
    assert fit(pledge(ONE), found, resident).offered


def test_a_vm_in_its_next_generation_is_not_in_its_own_way() -> None:
    found = snapshot(volume(ONE))
    assert fit(pledge(ONE, generation=2), found, share(1, ONE)).offered
    (over,) = fit(pledge(ONE, generation=1), found, share(1, ONE, generation=2)).reasons
    assert "generation 1 is over" in over.has


def test_a_vm_id_borrowed_from_another_user_opens_nothing() -> None:
    found = snapshot(volume(ONE))
    answer = fit(pledge(ONE, generation=9), found, share(1, ONE, user_id=BOB))
    assert not answer.offered
    assert answer.reasons[0].has == "in use by another user's VM"


def test_a_volume_that_another_host_holds_is_not_offered() -> None:
    right = Right(ONE, Epoch(3, "0" * 16), H2, H2, ALICE, vm_of(5), 1, held=True)
    held = Volume(**{**{name: getattr(volume(ONE), name) for name in Volume.__slots__}, "right": right})
    (reason,) = fit(pledge(ONE), snapshot(held)).reasons
    assert "by another host" in reason.has
    assert fit(pledge(ONE), snapshot(held), host=H2).offered


def test_a_volume_asked_for_twice_is_offered_once() -> None:
    assert len(fit(pledge(ONE, ONE), snapshot(volume(ONE))).offered) == 1


def test_a_claim_is_admitted_only_as_the_volumes_are() -> None:
    found = snapshot(volume(ONE), volume(TWO, owner=BOB))
    assert admits(found, (), share(1, ONE))
    assert not admits(found, (), share(1, ONE, ONE))
    assert not admits(found, (), share(1))
    assert not admits(found, (), share(1, THREE))
    assert not admits(found, (), share(1, ONE, shareable=True))
    assert not admits(found, (), share(1, ONE, writable=False))
    assert not admits(found, (), share(1, ONE, TWO))
    assert not admits(found, (share(2, ONE),), share(1, ONE))
    assert not admits(found, (share(1, ONE, generation=2),), share(1, ONE))
    assert not admits(found, (share(1, ONE, user_id=BOB),), share(1, ONE, generation=2))
    assert admits(found, (share(1, ONE),), share(1, ONE, generation=2))
    assert admits(found, (share(2, TWO),), share(1, ONE))


def test_a_volume_that_is_being_changed_is_not_offered_and_says_so() -> None:
    fit = offer_volumes(
        pledge(ONE, TWO),
        snapshot(volume(ONE), volume(TWO)),
        (),
        user_id=ALICE,
        host_id=H1,
        doing=lambda vid: "resized" if vid == ONE else None,
    )
    assert [offered.vid for offered in fit.offered] == [TWO]
    assert [(each.resource, each.has) for each in fit.reasons] == [(f"volume {ONE}", "it is being resized")]


def test_what_is_done_to_another_users_private_volume_is_not_told() -> None:
    fit = offer_volumes(
        pledge(ONE), snapshot(volume(ONE, owner=BOB)), (), user_id=ALICE, host_id=H1, doing=lambda _: "resized"
    )
    assert (fit.offered, fit.reasons) == ((), ())
