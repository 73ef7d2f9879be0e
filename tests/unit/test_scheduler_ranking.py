"""A person's ranking is computed, never run."""

import pytest

from matcher.scheduler.choosing import Choice
from matcher.scheduler.heard import Heard
from matcher.scheduler.ranking import TEXT_MAX_CHARACTERS, WORST, RankingError, compile_ranking
from matcher.wire.messages import Accelerator, Arch, VmOffer, VolumeClaim
from specs.ids import HostId

HOME, AWAY = HostId("a" * 64), HostId("b" * 64)
OFFER = VmOffer(
    pledge_id="0" * 32,
    offer_id="1" * 32,
    host="h1",
    front_door_port=7443,
    hosts_known=3,
    expires_in_ms=3000,
    score=0.5,
    threads=(2, 3),
    threads_per_core=2,
    numa=-1,
    pci=("0000:3b:00.0",),
    arch=Arch.X86_64,
    accelerator=Accelerator.KVM,
)
CLAIMS = (VolumeClaim("2" * 32, HOME, "3" * 32), VolumeClaim("4" * 32, AWAY, "5" * 32))
CHOICE = Choice(Heard(OFFER, HOME, "10.0.0.1", after_s=0.004), CLAIMS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("score", 0.5),
        ("-score + 1", 0.5),
        ("+threads * 2 ** 3 - 10 // 3 + 7 % 4", 16.0),
        ("threads / threads_per_core", 1.0),
        ("(accelerator == 'kvm') * 10", 10.0),
        ("'tcg' == accelerator", 0.0),
        ("host in ('h1', 'h2')", 1.0),
        ("host not in ['h1']", 0.0),
        ("5 if numa < 0 else 7", 5.0),
        ("not pci", 0.0),
        ("pci and score", 0.5),
        ("0 or 3", 3.0),
        ("0 < score < 1 <= threads", 1.0),
        ("min(threads, 9) + max(pci, 0, 4) + abs(numa)", 7.0),
        ("volumes_here - volumes_away", 0.0),
        ("answer_ms", 4.0),
        ("arch == 'X86_64'", 1.0),
        ("True + False", 1.0),
        ("  score  # the hosts' own", 0.5),
        ("(score\n + 1)", 1.5),
    ],
)
def test_a_ranking_computes_what_it_says(text: str, value: float) -> None:
    assert compile_ranking(text).value(CHOICE) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0",
        "1 // (score - score)",
        "5 % 0",
        "9.0 ** 9 ** 9",
        "(0 - 1) ** 0.5",
        "0 ** -1",
        "1e308 * 10",
        "1 if 1e308 * 10 > 0 else 0",
        "1e308 * 10 - 1e308 * 10",
        "abs(1e308) * 2",
    ],
)
def test_failed_arithmetic_ranks_worst(text: str) -> None:
    assert compile_ranking(text).value(CHOICE) == WORST


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("", 1, "empty"),
        ("   ", 1, "empty"),
        ("scoer", 1, "did you mean score?"),
        ("score + zzz", 9, 'no such name "zzz"; known: score, threads'),
        ("  score + zzz", 11, "zzz"),
        ("score +", 8, "cannot be read"),
        ("1 + host", 5, "text where a number belongs"),
        ("'é' + zzz", 1, "text where a number belongs"),
        ("(host == 'é') + zzz", 17, "zzz"),
        ("host < 3", 1, "compared with a number"),
        ("score == 'kvm'", 10, "compared with a number"),
        ("host in 'h1'", 9, "list of texts"),
        ("score in ('h1',)", 1, "before"),
        ("host in ('h1', 2)", 16, "texts alone"),
        ("score is 1", 1, "compare with =="),
        ("~threads", 1, "may stand before a value"),
        ("threads << 9", 1, "of operators"),
        ("threads @ 2", 1, "of operators"),
        ("open('/etc/passwd')", 1, "the only functions"),
        ("__import__('os').system('true')", 1, "the only functions"),
        ("min(*(1, 2))", 5, "a star"),
        ("min()", 1, "at least one value"),
        ("abs(1, 2)", 1, "one value"),
        ("max(1, 2, key=abs)", 1, "the only functions"),
        ("score.__class__", 1, "a dot"),
        ("score[0]", 1, "an index"),
        ("lambda: 1", 1, "a lambda"),
        ("(x := 1)", 2, "an assignment"),
        ("[s for s in (1, 2)]", 1, "a comprehension"),
        ("f'{score}'", 1, "an f-string"),
        ("(1, 2)", 1, "a tuple"),
        ("None", 1, "this value"),
        ("1j", 1, "this value"),
        ("b'x'", 1, "this value"),
        ("...", 1, "this value"),
        ("1e999", 1, "too large"),
        ("9" * 400, 1, "too large"),
        ("import os", 1, "cannot be read"),
        ("a = 1", 3, "cannot be read"),
        ("1; 2", 2, "cannot be read"),
        ("score\x00", 6, "has no place here"),
        ("'\\d' == host", 2, "has no place here"),
        ("\u202escore", 1, "has no place here"),
        ("(" * 250 + "1" + ")" * 249, None, "cannot be read"),
        ("-" * 300 + "1", None, "nested"),
        ("1" + "+1" * 200, None, "nested deeper"),
        ("1" * (TEXT_MAX_CHARACTERS + 1), TEXT_MAX_CHARACTERS + 1, "at most 500 are read"),
    ],
)
def test_what_is_no_ranking_is_refused_with_its_place(text: str, column: int | None, says: str) -> None:
    with pytest.raises(RankingError) as refused:
        compile_ranking(text)
    assert says in str(refused.value)
    if column is not None:
        assert refused.value.column == column
