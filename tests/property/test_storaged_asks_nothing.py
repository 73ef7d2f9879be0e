"""What storaged ignores without having opened it is what it would have had no answer to, and nothing else."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from matcher.wire.codec import encode
from matcher.wire.envelope import Kind, Sealed
from matcher.wire.messages import Address, Arch, Firmware, ImageFormat, Pledge, Policy, Query, VmAsk, VolumeAsk
from storaged.answering import asks_nothing

HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
WORDS = st.text("abcxyzAZ019_.:+-", max_size=64) | st.just("volumes")
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 1, False, (), Firmware.BIOS, True)
PLEDGE = Pledge("a" * 32, 0, (), False, "b" * 32, 1, ASK, (), b"", 100, 0, Policy.PACK)

pledges = st.builds(
    replace,
    st.just(PLEDGE),
    sent_at_ms=st.integers(0, 2**53),
    reply=st.lists(st.builds(Address, st.just("fe80::1"), st.integers(1, 65535)), max_size=2).map(tuple),
    vm=st.none() | st.builds(replace, st.just(ASK), flags=st.lists(WORDS, max_size=20).map(tuple)),
    volumes=st.lists(HEX, max_size=64).map(tuple),
    seal=st.binary(min_size=32, max_size=32) | st.just(b"volumes" + bytes(25)),
    room=st.none() | st.just(VolumeAsk(1, ImageFormat.RAW)),
    hosts_known=st.integers(0, 2**31 - 1),
)


@given(pledges)
def test_a_pledge_is_ignored_exactly_where_it_names_no_volume(pledge: Pledge) -> None:
    ignored = asks_nothing(Sealed(Kind.PLEDGE, b"", b"", encode(pledge)))
    assert ignored == (not pledge.volumes and pledge.room is None)


def test_a_query_is_never_ignored() -> None:
    query = Query("a" * 32, 0, (), "", False)
    assert not asks_nothing(Sealed(Kind.QUERY, b"", b"", encode(query)))
