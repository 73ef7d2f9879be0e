"""Whatever a person types as a ranking, the answer is a number or one clear refusal, and it comes at once."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from matcher.scheduler.choosing import Choice
from matcher.scheduler.heard import Heard
from matcher.scheduler.ranking import TEXT_MAX_CHARACTERS, VOCABULARY, WORST, RankingError, compile_ranking
from matcher.wire.messages import Accelerator, Arch, VmOffer
from specs.ids import HostId

OFFER = VmOffer("0" * 32, "1" * 32, "h1", 7443, 3, 3000, 0.5, (2, 3), 2, 0, (), Arch.X86_64, Accelerator.TCG)
CHOICE = Choice(Heard(OFFER, HostId("a" * 64), "10.0.0.1"), ())

WORDS = [*VOCABULARY, "1", "0", "2.5", "1e300", "'h1'", "'kvm'", "and", "or", "not", "in", "if", "else", "min", "abs"]
SIGNS = ["+", "-", "*", "**", "/", "//", "%", "(", ")", ",", "==", "!=", "<", ">=", "[", "]", ":=", ".", "lambda:", "~"]
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS + SIGNS), max_size=25).map(" ".join))


def terms() -> st.SearchStrategy[str]:
    """Expressions that do compile."""
    leaf = st.sampled_from(["score", "threads", "numa", "volumes_away", "0", "2", "1e300", "(host == 'h1')"])

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<", "and", "or"])
        binary = st.tuples(inner, operators, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        choice = st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})")
        return (
            binary
            | choice
            | inner.map(lambda t: f"-{t}")
            | st.tuples(inner, inner).map(lambda t: f"max({t[0]}, {t[1]})")
        )

    return st.recursive(leaf, grown, max_leaves=12).filter(lambda text: len(text) <= TEXT_MAX_CHARACTERS)


def refused_at(text: str) -> int | None:
    """The column of the refusal, or `None` for a ranking."""
    try:
        compile_ranking(text)
    except RankingError as refused:
        return refused.column
    return None


@settings(max_examples=300, deadline=None)
@given(texts)
def test_any_text_is_a_ranking_or_is_refused_at_a_place_within_it(text: str) -> None:
    column = refused_at(text)
    if column is not None:
        assert 1 <= column <= len(text) + 1
    else:
        value = compile_ranking(text).value(CHOICE)
        assert math.isfinite(value) or value == WORST


@settings(max_examples=200, deadline=None)
@given(terms())
def test_an_expression_ranks_finite_or_worst_and_always_the_same(text: str) -> None:
    ranking = compile_ranking(text)
    value = ranking.value(CHOICE)
    assert math.isfinite(value) or value == WORST
    assert ranking.value(CHOICE) == value
