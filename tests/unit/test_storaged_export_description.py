"""An export's names say what it is, and its secret says nothing."""

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from matcher.wire.messages import ImageFormat
from specs.ids import Vid
from storaged.export.description import (
    Access,
    Export,
    Image,
    Kind,
    Observed,
    chap_of,
    initiator_name,
    parse_target,
    target_name,
)
from storaged.testing import H1, H2, vid_of
from storaged.volume import COUNTER_MAX, Epoch

KEY, OTHER_KEY = bytes(32), bytes([1]) * 32
ONE, TWO = vid_of(1), vid_of(2)
EPOCH = Epoch(7, "0123456789abcdef")
IMAGE = Image(ONE, "/pool", "/pool/a.elimg", "data.img", ImageFormat.RAW)

vids = st.integers(0, 2**128 - 1).map(lambda number: Vid(f"{number:032x}"))
epochs = st.builds(Epoch, st.integers(0, COUNTER_MAX), st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}"))


@given(vids, epochs)
def test_a_targets_name_is_read_as_it_was_written_and_short_enough(vid: Vid, epoch: Epoch) -> None:
    name = target_name(vid, epoch)
    assert parse_target(name) == (vid, epoch)
    assert len(name) <= 223, "RFC 7143, 4.2.7.1"


@given(st.text(max_size=200))
def test_other_names_are_nobodys(name: str) -> None:
    assert parse_target(name) is None


def test_a_name_with_more_behind_it_is_not_ours() -> None:
    assert parse_target(target_name(ONE, EPOCH) + "\n") is None
    assert parse_target(target_name(ONE, EPOCH) + ".1") is None


def test_an_initiators_name_is_that_of_its_host() -> None:
    assert initiator_name(H1) == "iqn.2026-01.io.atomos:host.1111111111111111"
    assert initiator_name(H1) != initiator_name(H2)


@given(vids, epochs)
def test_a_secret_has_the_length_that_all_initiators_take(vid: Vid, epoch: Epoch) -> None:
    chap = chap_of(KEY, vid, epoch)
    assert 12 <= len(chap.secret) <= 16
    assert "," not in chap.secret + chap.user


def test_each_volume_epoch_and_key_has_a_credential_of_its_own_and_the_same_each_time() -> None:
    all_of_them = [
        chap_of(KEY, ONE, EPOCH),
        chap_of(KEY, TWO, EPOCH),
        chap_of(KEY, ONE, Epoch(8, EPOCH.nonce)),
        chap_of(KEY, ONE, Epoch(7, "0" * 16)),
        chap_of(OTHER_KEY, ONE, EPOCH),
    ]
    assert len({chap.user for chap in all_of_them}) == len({chap.secret for chap in all_of_them}) == 5
    assert chap_of(KEY, ONE, EPOCH) == all_of_them[0]


def test_no_repr_shows_the_secret() -> None:
    chap = chap_of(KEY, ONE, EPOCH)
    export = Export(IMAGE, EPOCH, Kind.ISCSI, H1, chap)
    access = Access(Kind.ISCSI, export.target, ImageFormat.RAW, False, chap=chap)
    assert chap.secret not in f"{chap}{export}{access}"


def test_what_serves_more_or_less_than_is_asked_does_not_serve() -> None:
    export = Export(IMAGE, EPOCH, Kind.ISCSI, H1, chap_of(KEY, ONE, EPOCH))
    assert export.chap is not None
    right = {
        "vid": ONE,
        "epoch": EPOCH,
        "initiators": frozenset({export.initiator}),
        "users": frozenset({export.chap.user}),
        "file": IMAGE.file,
        "readonly": False,
        "sessions": 3,
    }
    assert Observed(**right).serves(export)
    for name, wrong in {
        "vid": TWO,
        "epoch": Epoch(8, EPOCH.nonce),
        "initiators": frozenset({export.initiator, "192.0.2.1"}),
        "users": frozenset(),
        "file": "/pool/b.elimg/data.img",
        "readonly": True,
        "whole": False,
    }.items():
        assert not Observed(**{**right, name: wrong}).serves(export), name


def test_nfs_admits_by_address() -> None:
    export = Export(IMAGE, EPOCH, Kind.NFS, H1, client=IPv4Address("192.0.2.1"))
    assert export.admitted == "192.0.2.1"
