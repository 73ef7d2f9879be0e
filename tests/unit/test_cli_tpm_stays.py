"""A VM with a TPM starts on another host only where a person says that its keys may be lost."""

import pytest

from matcher.cli import records, run
from matcher.cli.failures import Exit, Failure
from matcher.cli.records import Record
from matcher.cli.tpm_stays import at_home
from matcher.scheduler.outcomes import HostReasons
from matcher.wire.messages import Policy, Reason, VmView
from specs.ids import HostId, VmId

SPEC = '{"slots": 1, "ramsize": 512, "misc": {"tpm": true}}'
HOME, OTHER = HostId("1" * 64), HostId("2" * 64)
KEPT = Record(VmId("a" * 32), 1, "web", "h1", HOME, (), frozenset(), frozenset(), SPEC)
WEB = VmView(
    "a" * 32, 1, "web", "ada", "h1", HOME, "stopped", "", "", "tcg", "X86_64", (), 1, (0,), 1, 1, 0, 512, (), (), SPEC
)
BUSY = Reason("slots", "1 whole core", "2 in all, 0 free", "wait")


def test_the_keys_of_a_dead_hosts_tpm_are_not_lost_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    monkeypatch.setattr(records, "keep", lambda errand: noted.append(errand.generation))
    with pytest.raises(Failure, match="what the TPM of web holds is on h1") as raised:
        run._again(KEPT, Policy.PACK, True, 0, new_tpm=False)
    assert raised.value.code == "tpm-lost"
    assert raised.value.helps.endswith("electros start web --elsewhere --new-tpm")
    assert noted == [], "a generation that was not tried"
    run._again(KEPT, Policy.PACK, True, 0, new_tpm=True)
    assert noted == [2]


def test_a_home_that_does_not_fit_is_named_with_its_own_reasons() -> None:
    hosts = [HostReasons(HOME, "h1", (BUSY,)), HostReasons(OTHER, "h2", (BUSY,))]
    with pytest.raises(Failure, match="h1, where the TPM of web is") as raised, at_home(WEB):
        raise Failure(Exit.NO_HOST_FITS, "no host fits", hosts=hosts)
    assert (raised.value.exit_code, [host.host for host in raised.value.hosts]) == (Exit.NO_HOST_FITS, ["h1"])
    assert raised.value.helps.endswith("electros start web --new-tpm")


def test_what_else_goes_wrong_is_told_as_it_is() -> None:
    with pytest.raises(Failure, match="interrupted"), at_home(WEB):
        raise Failure(Exit.INTERRUPTED, "interrupted")
