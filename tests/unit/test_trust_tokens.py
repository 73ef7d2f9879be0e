"""A token is good once, where it was issued, for a quarter of an hour, to who can prove that they hold all of it."""

from collections.abc import Callable
from string import ascii_letters, digits

import pytest

from matcher.trust import tokens as module
from matcher.trust.tokens import (
    PENDING_MAX,
    TOKEN_S,
    TRIES_MAX,
    BadToken,
    Token,
    TokenRefusal,
    Tokens,
    proof,
    read_token,
)
from matcher.wire.realm import Join
from tests.fakes.realms import EVERYTHING

LEAF = b"the leaf of the host that issued it"


def issue(tokens: Tokens, number: int = 1, now_s: float = 0.0, name: str = "ann") -> Token | None:
    return tokens.issue(
        "user",
        name=name,
        grant=EVERYTHING,
        by="admin",
        root="ab" * 32,
        addresses=("10.0.0.1", "fd00::1"),
        port=6443,
        random=number.to_bytes(8, "big") + b"16 secret bytes.",
        now_s=now_s,
    )


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
def token(tokens: Tokens) -> Token:
    made = issue(tokens)
    assert made is not None
    return made


def join(token: Token, request: bytes = b"request", leaf: bytes = LEAF) -> Join:
    return Join(token.token_id, request, proof(token.secret, request, leaf))


def test_a_token_is_read_as_it_was_written(token: Token) -> None:
    assert read_token(f"  {token.text()}\n") == token
    assert len(token.text()) < 300
    many = Token("host", "cd" * 32, tuple(f"fd00::{each}" for each in range(1, 9)), 1, "0" * 16, bytes(16))
    assert read_token(many.text()) == many
    assert len(many.text()) <= 512


def test_every_changed_character_is_told(token: Token) -> None:
    text = token.text()
    for at in range(len(text)):
        for letter in ascii_letters + digits + "-_!=.~é \n\0":
            if letter == text[at] or (letter.isspace() and at == len(text) - 1):
                continue
            with pytest.raises(BadToken):
                read_token(text[:at] + letter + text[at + 1 :])
        with pytest.raises(BadToken):
            read_token(text[:at] + text[at + 1 :])
        for letter in "_!=" if at else "_":
            with pytest.raises(BadToken):
                read_token(text[:at] + letter + text[at:])


def test_what_is_no_token_says_so(token: Token) -> None:
    nowhere = Token("user", token.root, (), 6443, token.token_id, token.secret)
    closed = Token("user", token.root, token.addresses, 0, token.token_id, token.secret)
    crowded = Token("user", token.root, ("10.0.0.1",) * 9, 6443, token.token_id, token.secret)
    for text in ("", "hello", "atomos1-", "atomos2-AAAA", "atomos1-" + "A" * 9999, nowhere.text(), closed.text()):
        with pytest.raises(BadToken) as caught:
            read_token(text)
        assert str(caught.value).endswith((".", "atomos1-"))
    with pytest.raises(BadToken):
        read_token(crowded.text())


def test_no_secret_is_shown(tokens: Tokens, token: Token) -> None:
    pending = tokens.judge(join(token), LEAF, 0.0)
    assert not isinstance(pending, TokenRefusal)
    for shown in (repr(token), repr(pending)):
        assert repr(token.secret) not in shown
        assert "secret" not in shown


def test_it_is_redeemed_once_and_a_repeat_is_the_same_member(tokens: Tokens, token: Token) -> None:
    first = tokens.judge(join(token), LEAF, 1.0)
    assert not isinstance(first, TokenRefusal)
    assert (first.kind, first.name, first.grant, first.by) == ("user", "ann", EVERYTHING, "admin")
    tokens.use(join(token))
    assert tokens.judge(join(token), LEAF, 2.0) is first
    assert tokens.judge(join(token, b"another"), LEAF, 2.0) is TokenRefusal.NOT_GOOD
    assert tokens.count(2.0) == 0
    assert tokens.withdraw("user", "ann") is None, "it was redeemed"
    assert tokens.is_open(2.0)  # for the repeat


def test_what_admitted_nobody_can_be_redeemed_by_another_request(tokens: Tokens, token: Token) -> None:
    tokens.use(join(token))
    tokens.give_back(join(token, b"another"))  # not theirs to give back
    assert tokens.judge(join(token, b"another"), LEAF, 1.0) is TokenRefusal.NOT_GOOD
    tokens.give_back(join(token))
    assert not isinstance(tokens.judge(join(token, b"another"), LEAF, 1.0), TokenRefusal)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda token: Join(token.token_id, b"request", bytes(32)),
        lambda token: Join(token.token_id, b"request", b""),
        lambda token: join(token, leaf=b"another host's"),
        lambda token: Join(token.token_id, b"swapped", join(token).proof),
        lambda token: Join(token.token_id, b"request", proof(bytes(16), b"request", LEAF)),
    ],
)
def test_a_wrong_proof_counts_and_ends_the_token(tokens: Tokens, token: Token, wrong: Callable[[Token], Join]) -> None:
    for _ in range(TRIES_MAX - 1):
        assert tokens.judge(wrong(token), LEAF, 1.0) is TokenRefusal.NOT_GOOD
    assert tokens.count(1.0) == 1
    assert tokens.judge(wrong(token), LEAF, 1.0) is TokenRefusal.NOT_GOOD
    assert tokens.judge(join(token), LEAF, 1.0) is TokenRefusal.NOT_GOOD
    assert not tokens.is_open(1.0)


def test_an_unknown_token_is_not_good_even_with_a_proof_by_nothing(tokens: Tokens, token: Token) -> None:
    unknown = Join("f" * 16, b"request", proof(bytes(16), b"request", LEAF))
    assert tokens.judge(unknown, LEAF, 1.0) is TokenRefusal.NOT_GOOD
    assert Tokens().judge(join(token), LEAF, 1.0) is TokenRefusal.NOT_GOOD  # of another host


def test_it_ends(tokens: Tokens, token: Token) -> None:
    assert not isinstance(tokens.judge(join(token), LEAF, TOKEN_S - 1), TokenRefusal)
    assert tokens.is_open(TOKEN_S - 1)
    assert tokens.withdraw("host", "ann") is None
    assert tokens.withdraw("user", "bob") is None
    assert not tokens.is_open(TOKEN_S)
    assert tokens.judge(join(token), LEAF, TOKEN_S) is TokenRefusal.NOT_GOOD


def test_a_withdrawn_token_is_good_for_nothing(tokens: Tokens, token: Token) -> None:
    assert tokens.withdraw("user", "ann") == token.token_id
    assert tokens.judge(join(token), LEAF, 1.0) is TokenRefusal.NOT_GOOD
    assert not tokens.is_open(1.0)


def test_how_many_may_wait_is_limited_and_redeemed_ones_do_not_count(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REDEEMED_MAX", 3)
    made = [issue(tokens, number, now_s=1.0) for number in range(PENDING_MAX)]
    assert issue(tokens, 99, now_s=1.0) is None
    for each in made:
        assert each is not None
        tokens.use(join(each))
    assert len(tokens._pending) == 3
    assert issue(tokens, 99, now_s=1.0) is not None
    assert issue(tokens, 100, now_s=1.0 + TOKEN_S) is not None
    assert len(tokens._pending) == 1
