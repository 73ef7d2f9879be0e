"""What every command that talks to hosts needs: who I am, the links, and finding a VM by name, UUID or prefix."""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from matcher.cli import afterwards, folders, output, relaying
from matcher.cli.failures import Exit, Failure
from matcher.cli.known import Known, door_of
from matcher.net.client import Client, Said
from matcher.net.https import Connection, Door, Unanswered, Unreachable
from matcher.trust.identity import Identity, IdentityError, load_identity
from matcher.trust.verifier import REVOKED
from matcher.wire.messages import Answer, Clock, Message, Query, Refused, Role, VmView, VmViews
from matcher.wire.realm import Verb
from specs.ids import new_id, parse_id

QUIET_S = 0.15  # after the last new answer, nobody else is expected
DEADLINE_S = 0.6
REPEAT_S = 0.2
ANSWER_S = 10.0  # a host's answer by HTTPS
FOLLOW_MAX = 4  # hosts that know something else, asked in one command
LEARN_S = 86_400.0  # a command that runs anyway asks what the realm has signed since
EXIT_OF_CODE = {"not-found": Exit.NOT_FOUND, "denied": Exit.DENIED, "unavailable": Exit.UNREACHABLE}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Heard:
    """The answers to one query; `silent` are known daemons that gave none."""

    answers: tuple[Said, ...]
    silent: tuple[str, ...]
    clocks: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Found:
    vm: VmView
    door: Door


class Session:
    def __init__(self, client: Client, known: Known) -> None:
        self.client, self.known = client, known
        self.random = random.SystemRandom()
        self.doors: dict[str, Door] = {}  # those that answered, by the host's id
        self._has_caught_up = False

    def query(self, match: str = "", *, exact: bool = False, patience_s: float = DEADLINE_S) -> Heard:
        """Ask everybody; ends when all known daemons have answered, or when it has been quiet for a while."""
        if not self.client.identity.principal.may(Verb.PLEDGE):
            helps = "an admin can grant it: electros user change; then: electros whoami"
            raise Failure(Exit.DENIED, "your grant does not let you ask hosts (it lacks pledge)", helps=helps)
        query = Query(new_id(self.random), time.time_ns() // 1_000_000, (), match, exact)
        heard: dict[tuple[str, str], Said] = {}
        clocks: dict[str, Said] = {}
        expected = self.known.peers()
        started_s = self.client.now_s()
        repeat_s, end_s = started_s + REPEAT_S, started_s + patience_s
        self.client.ask(query)
        while (now_s := self.client.now_s()) < end_s and not (expected and expected <= heard.keys()):
            if now_s >= repeat_s:
                self.client.ask(query)
                repeat_s = end_s
            for said in self.client.hear(min(end_s, repeat_s)):
                if isinstance(said.message, Answer) and said.message.query_id == query.query_id:
                    heard.setdefault((said.host_id, said.message.role.value), said)
                    if not expected:
                        end_s = min(end_s, self.client.now_s() + QUIET_S)
                elif isinstance(said.message, Clock):
                    clocks.setdefault(said.host_id, said)
        self._follow(heard)
        has_door = any(door_of(said) for said in heard.values())  # else nobody was asked: who is out may answer alone
        if not has_door and not clocks and self.known.doors() and self._is_behind():
            return self.query(match, exact=exact, patience_s=patience_s)
        expected &= self.known.peers()
        names = self.known.names()
        silent = tuple(sorted({names[peer] for peer in expected - heard.keys()} - _names(heard.values())))
        if heard:
            with suppress(OSError):  # a full or read-only disk costs the cache, not the answer
                self.known.remember(heard.values())
            self.client.known = self.known.doors()
            self.doors |= {said.host_id: door for said in heard.values() if (door := door_of(said)) is not None}
        return Heard(tuple(heard.values()), silent, tuple(clocks.values()))

    def _follow(self, heard: dict[tuple[str, str], Said]) -> None:
        """Ask whoever knows something else of the realm than we do; then, who was removed has not spoken."""
        identity = self.client.identity
        asked = {identity.short_digest, ""}
        for said in list(heard.values()):
            door = door_of(said) or door_of(said, Role.STORAGE)
            assert isinstance(said.message, Answer)
            if door is None or said.message.realm in asked or len(asked) > FOLLOW_MAX:
                continue
            asked.add(said.message.realm)
            self.learn_from(door)
        for peer in [peer for peer in heard if not identity.verifier.is_member("host", peer[0])]:
            del heard[peer]
        self._forget_strangers()

    def learn_from(self, door: Door) -> None:
        """What this host knows of the realm."""
        from matcher.cli.upkeep import ASK_S, ask_bundle, take

        with suppress(Unreachable, Unanswered), self.client.interrupts.waiting():
            answer = ask_bundle(self.client.connect(door, timeout_s=ASK_S))
            if isinstance(answer, bytes):
                take(self.client.identity, answer)
        self._forget_strangers()

    def _forget_strangers(self) -> None:
        identity = self.client.identity
        for peer in [peer for peer in self.known.peers() if not identity.verifier.is_member("host", peer[0])]:
            self.known.forget(peer)

    def vms(self, match: str = "", *, exact: bool = False, patience_s: float = DEADLINE_S) -> tuple[list[Found], Heard]:
        """My VMs whose name or id is, or starts with, `match`, from every host that has one."""
        heard = self.query(match, exact=exact, patience_s=patience_s)
        return self.vms_of(heard, match, exact=exact), heard

    def vms_of(self, heard: Heard, match: str = "", *, exact: bool = False) -> list[Found]:
        """Those VMs of mine that the hosts have which were heard."""
        found: list[Found] = []
        for said in heard.answers:
            answer, door = said.message, door_of(said)
            if door is None or not isinstance(answer, Answer) or not answer.vms_matching:
                continue
            try:
                views = self.ask(door, lambda connection: connection.ask("GET", "/v1/vms", VmViews))
            except Failure as failure:  # one host that is broken, or bad, must not hide what the others have
                output.note(f"electros: {failure.message}")
                continue
            found += [Found(vm, door) for vm in views.vms if _is_meant(vm, match, exact=exact)]
        return found

    def one(self, match: str) -> Found:
        """The one VM that `match` names: exactly, or as the only one that starts so. Raises `Failure`."""
        found, heard = self.vms(match)
        exact = [each for each in found if _is_meant(each.vm, match, exact=True)]
        meant = exact or found
        if len({each.vm.id for each in meant}) == 1:  # one VM; a host that it has left may remember an older generation
            return max(meant, key=lambda each: each.vm.generation)
        if meant:
            which = ", ".join(f"{each.vm.name} ({each.vm.id[:8]} on {each.vm.host})" for each in meant)
            raise Failure(Exit.USAGE, f'"{match}" could be several VMs: {which}', helps="say it by its UUID")
        if not heard.answers:
            raise no_host_in_reach(heard)
        missing = f" ({', '.join(heard.silent)} did not answer)" if heard.silent else ""
        raise Failure(Exit.NOT_FOUND, f'no VM of yours is named "{match}"{missing}', helps="electros ps shows yours")

    def ask(self, door: Door, question: Callable[[Connection], T | Refused], *, timeout_s: float = ANSWER_S) -> T:
        """Ask one host by HTTPS; what goes wrong becomes a `Failure`. A leaf that was superseded is renewed first."""
        answer = self._ask(door, question, timeout_s)
        if is_leaf_revoked(answer):
            from matcher.cli import upkeep

            upkeep.renew_or_fail(self, door)
            answer = self._ask(door, question, timeout_s)
        if isinstance(answer, Refused):
            raise refused(door.host, answer)
        return answer

    def _ask(self, door: Door, question: Callable[[Connection], T | Refused], timeout_s: float) -> T | Refused:
        try:
            with self.client.interrupts.waiting(), self.client.connect(door, timeout_s=timeout_s) as connection:
                return question(connection)
        except Unreachable as error:
            raise Failure(Exit.UNREACHABLE, f"{door.host} can't be reached: {error}") from None
        except Unanswered as error:
            raise Failure(Exit.TIMEOUT, f"{door.host} was asked and did not answer: {error}") from None

    def _is_behind(self) -> bool:
        """Nobody answers though hosts are known: whether that was because the realm has moved on, and it is made up
        for now. Raises `Failure` where we belong to it no more."""
        if self._has_caught_up:
            return False
        self._has_caught_up = True
        from matcher.cli import upkeep

        return upkeep.catch_up(self)


@contextmanager
def session(*soon: type[Message]) -> Iterator[Session]:
    """Who I am and my links, for the time of one command; `soon`: see `Client`."""
    try:
        identity = load_identity(folders.identity_folder())
    except IdentityError as error:
        raise Failure(Exit.DENIED, str(error)) from None
    known = Known()
    with Client(identity, known=known.doors(), soon=soon, relays=relaying.calling(identity, known)) as client:
        mine = Session(client, known)
        try:
            yield mine
        finally:
            relaying.remember(client)
    if identity.is_due(time.time()) or _knows_little(identity):
        doors = (client.relay,) if client.relay is not None else tuple(mine.doors.values())
        afterwards.leave(partial(_tend, identity, doors))


def is_leaf_revoked(answer: object) -> bool:
    """The leaf that was shown is good for nothing: another grant was given since, or the member is none any more."""
    return (
        isinstance(answer, Refused)
        and answer.code == "denied"
        and any(REVOKED in (reason.has, reason.asked) for reason in answer.reasons)
    )


def refused(host: str, answer: Refused) -> Failure:
    """A host's typed no, as a sentence."""
    said = "; ".join(f"{r.has} ({r.resource}: asked {r.asked})" for r in answer.reasons) or answer.code
    helps = next((reason.hint for reason in answer.reasons if reason.hint), "")
    exit_code = EXIT_OF_CODE.get(answer.code, Exit.FAILED)
    return Failure(exit_code, f"{host} says no: {said}", helps=helps, code=answer.code)


def no_host_in_reach(heard: Heard | None = None) -> Failure:
    behind = [
        f"{said.message.host} is {abs(said.message.now_ms / 1000 - time.time()):.0f} s off this machine's clock"
        for said in (heard.clocks if heard else ())
        if isinstance(said.message, Clock)
    ]
    helps = "is atomd running on a host of this link, and of this realm? A new one needs some seconds"
    return Failure(Exit.UNREACHABLE, "no host in reach has answered", helps="; ".join(behind) or helps)


def tell_silent(heard: Heard) -> None:
    """Best effort, and honest about it."""
    if heard.silent:
        known = len(heard.silent) + len(_names(heard.answers))
        output.note(
            f"electros: answered {known - len(heard.silent)} of {known} known hosts; silent: {', '.join(heard.silent)}"
        )


def _knows_little(identity: Identity) -> bool:
    """`save` writes the bundle whether it grew or not, so its file tells when the realm was asked last."""
    try:
        return time.time() - (identity.folder / "realm.bundle").stat().st_mtime > LEARN_S
    except OSError:
        return False


def _tend(identity: Identity, doors: tuple[Door, ...]) -> None:
    from matcher.cli import upkeep

    upkeep.tend(identity, doors)


def _names(answers: Iterable[Said]) -> set[str]:
    return {said.message.host for said in answers if isinstance(said.message, Answer)}


def _is_meant(vm: VmView, match: str, *, exact: bool) -> bool:
    if exact:
        return match in (vm.name, vm.id) or parse_id(match) == vm.id
    return vm.name.startswith(match) or vm.id.startswith(match.replace("-", "").lower())
