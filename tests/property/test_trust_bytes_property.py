"""Whatever bytes or text come: what they say, or the one error that says they are nothing; and no host ever widens."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from matcher.trust.certificates import Untrusted, load
from matcher.trust.documents import read_document, read_documents
from matcher.trust.grants import (
    Narrowing,
    grant_bytes,
    grant_problem,
    limit_for,
    parse_pci_limit,
    read_grant,
    show_pci_limit,
)
from matcher.trust.requests import make_request, read_request
from matcher.trust.tokens import BadToken, Token, read_token
from matcher.trust.verifier import Verifier
from matcher.wire.codec import BadBytes
from matcher.wire.realm import Grant, PciLimit, Verb
from tests.fakes.realms import EVERYTHING, NOW_S, Papers, new_key

HOME = Papers()
VERIFIER = Verifier(HOME.bundle)
LEAF = HOME.leaf()
TOKEN = Token("user", "ab" * 32, ("10.0.0.1", "fd00::1"), 6443, "0123456789abcdef", b"0123456789abcdef")
REQUEST = make_request(new_key(), "ann")

hexes = st.integers(0, 0xFFFF).map(lambda number: f"{number:04x}")
limits = st.builds(
    lambda vendor, model, quantity: PciLimit(vendor, "*" if vendor == "*" else model, quantity),
    st.just("*") | hexes,
    st.just("*") | hexes,
    st.integers(0, 4096),
)
grants = st.builds(
    Grant,
    verbs=st.sets(st.sampled_from(Verb)).map(lambda verbs: tuple(verb for verb in Verb if verb in verbs)),
    slots=st.none() | st.integers(0, 4096),
    ram_mib=st.none() | st.integers(0, 64 * 1024 * 1024),
    vms=st.none() | st.integers(0, 4096),
    volumes_gb=st.none() | st.integers(0, 2**31 - 1),
    pci=st.lists(limits, max_size=16).map(tuple),
    overprovision_min=st.integers(1, 64),
    lease_max_s=st.none() | st.integers(60, 2**31 - 1),
    groups=st.lists(st.text("aZ09._-", min_size=1, max_size=32), max_size=8).map(tuple),
    until_s=st.none() | st.integers(0, 2**40),
)
narrowings = st.builds(
    Narrowing,
    pci=st.none() | st.lists(limits, max_size=4).map(tuple),
    slots=st.none() | st.integers(0, 5000),
    ram_mib=st.none() | st.integers(0, 2**30),
    vms=st.none() | st.integers(0, 5000),
    volumes_gb=st.none() | st.integers(0, 2**31),
    lease_max_s=st.none() | st.integers(60, 2**31),
    overprovision_min=st.integers(1, 64),
)


def mutated(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, and true ones with a part replaced, cut out, or said twice."""

    @st.composite
    def mutate(draw: st.DrawFn) -> bytes:
        seed = draw(st.sampled_from(seeds))
        start = draw(st.integers(0, len(seed)))
        stop = draw(st.integers(start, min(len(seed), start + 40)))
        return seed[:start] + draw(st.binary(max_size=8) | st.just(seed[start:stop] * 2)) + seed[stop:]

    return st.binary(max_size=400) | mutate()


@given(grants)
@settings(deadline=None)
def test_every_grant_is_read_as_it_was_written(grant: Grant) -> None:
    assert read_grant(grant_bytes(grant)) == grant
    assert grant_problem(grant) is None


@given(grants, narrowings)
@settings(deadline=None)
def test_a_narrowed_grant_is_never_wider_in_any_field(grant: Grant, narrowing: Narrowing) -> None:
    here = narrowing.narrowed(grant)
    assert {*here.verbs} <= {*grant.verbs}
    assert {*here.groups} <= {*grant.groups}
    assert (here.pci, here.until_s) == (grant.pci, grant.until_s)
    assert here.overprovision_min >= max(grant.overprovision_min, narrowing.overprovision_min)
    for field in ("slots", "ram_mib", "vms", "volumes_gb", "lease_max_s"):
        for limit in (getattr(grant, field), getattr(narrowing, field)):
            assert limit is None or (getattr(here, field) is not None and getattr(here, field) <= limit)
    assert narrowing.narrowed(here) == here


@given(st.lists(limits, max_size=6), hexes, hexes)
def test_a_device_has_the_limit_that_names_it_most_exactly(found: list[PciLimit], vendor: str, model: str) -> None:
    limit = limit_for(found, vendor, model)
    naming = [each for each in found if each.vendor in ("*", vendor) and each.model in ("*", model)]
    assert (limit is None) == (not naming)
    exact = [each for each in naming if each.model == model]
    assert not exact or limit == min(exact, key=lambda each: each.quantity)


@given(limits, st.text(max_size=20))
def test_pci_limits_are_text_and_back_or_a_sentence(limit: PciLimit, text: str) -> None:
    assert parse_pci_limit(show_pci_limit(limit)) == limit
    with suppress(ValueError):
        limit = parse_pci_limit(text)
        assert parse_pci_limit(show_pci_limit(limit)) == limit


@given(mutated(grant_bytes(EVERYTHING), grant_bytes(Grant(slots=2, groups=("a",), until_s=7))))
@settings(deadline=None, max_examples=500)
def test_bytes_are_a_grant_or_bad(data: bytes) -> None:
    try:
        grant = read_grant(data)
    except BadBytes:
        return
    assert read_grant(grant_bytes(grant)) == grant


@given(mutated(HOME.first.data, HOME.revocation("a" * 64).data, HOME.tag_key(1, bytes(32)).data))
@settings(deadline=None, max_examples=500)
def test_bytes_are_a_document_or_bad(data: bytes) -> None:
    with suppress(BadBytes):
        assert read_document(data).data == data
    list(read_documents(data))


@given(mutated(TOKEN.text().encode()).map(lambda data: data.decode("utf-8", "surrogateescape")) | st.text())
@settings(deadline=None, max_examples=500)
def test_text_is_a_token_or_bad_and_no_other_text_is_the_same_token(text: str) -> None:
    try:
        assert read_token(text).text() == text.strip()
    except BadToken:
        assert text != TOKEN.text()


@given(mutated(REQUEST))
@settings(deadline=None, max_examples=500)
def test_bytes_are_a_request_or_untrusted(data: bytes) -> None:
    try:
        read_request(data)
    except Untrusted:
        assert data != REQUEST


@given(mutated(LEAF, HOME.leaf("host", "h1")))
@settings(deadline=None, max_examples=500)
def test_bytes_are_a_leaf_or_untrusted(data: bytes) -> None:
    for judge in (load, lambda der: VERIFIER.principal(der, NOW_S)):
        try:
            judge(data)
        except Untrusted:
            continue
    if not VERIFIER.is_known(data):
        return
    assert VERIFIER.principal(data, NOW_S)[0].name in ("ann", "h1")
