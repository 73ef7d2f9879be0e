"""What was good once, somewhere else, for somebody else, or until it was taken back, is good for nothing now."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from matcher.trust.realm import EVERYTHING
from matcher.trust.tokens import read_token
from tests.attacks.attacking import pids
from tests.attacks.conftest import HOSTS
from tests.attacks.forge import ADDRESSES, Forge, holds, members, nobody_gets_in, realm_of, refusal, statuses
from tests.lab.conftest import Lab, until
from tests.lab.vms import Vms, domains, electros, login_as, plainly

pytestmark = pytest.mark.lab

KINDS = ("user", "host")
TOKEN_S = 8.0  # long enough for a command on a busy machine
HASTY = "import matcher.trust.tokens as tokens; tokens.TOKEN_S = {}; from atomd.main import main; main()"


@pytest.fixture(scope="module")
def forge(target: Lab, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    return Forge(target, tmp_path_factory.mktemp("forged"))


@pytest.fixture(autouse=True)
def none_left(forge: Forge) -> Iterator[None]:
    yield
    if left := [vm["id"] for vm in electros(forge.lab, "ps").document["vms"]]:
        electros(forge.lab, "rm", "--force", *left)


@pytest.fixture
def mallory(forge: Forge) -> str:
    return forge.made(grant=EVERYTHING)


# ---- confirms


def confirms(forge: Forge, *posts: dict[str, Any]) -> Any:
    """About an offer of h1 to the lab's own user: whose word, over whose TLS, to which host, sealed for which."""
    ids = {host: forge.host(host).principal.id for host in HOSTS}
    each = [{**post, "to": ADDRESSES[post["to"]]} for post in posts]
    return forge.does(do="confirms", **{"as": forge.member}, host="h1", ids=ids, posts=each)


def ended_as(said: dict[str, Any]) -> tuple[str, str, str]:
    """The last word of an answer to a confirm: what happened, to which VM, where."""
    assert said["status"] == 200, said
    last = json.loads(said["said"].splitlines()[-1])
    return last["event"], last["vm"]["id"], last["vm"]["host"]


def test_a_confirm_that_comes_again_has_the_same_answer_and_makes_one_vm(forge: Forge) -> None:
    """At the same moment, afterwards, and when its VM is gone."""
    me, lab = forge.member, forge.lab
    said = confirms(forge, {"by": me, "over": me, "to": "h1", "times": 4}, {"by": me, "over": me, "to": "h1"})
    assert {ended_as(each) for answers in said["answers"] for each in answers} == {("running", said["vm_id"], "h1")}
    assert len(domains(lab, "h1")) == 1
    assert domains(lab, "h2") == []
    electros(lab, "rm", "--force", said["vm_id"])
    until(lambda: not holds(lab))  # those of the pledge at the other host
    with nobody_gets_in(lab):
        (late,) = forge.ask(me, ("h1", "POST", "/v1/confirms", base64.b64decode(said["envelopes"][0])))
        assert late["status"] >= 400


def test_a_confirm_is_good_at_the_host_that_it_was_made_for_alone(forge: Forge) -> None:
    """Carried to another by its user or by its host; and made for another, about this one's offer."""
    me, h1 = forge.member, forge.host_folder("h1")
    relayed = {"by": me, "to": "h2"}
    with nobody_gets_in(forge.lab):
        said = confirms(
            forge, {**relayed, "over": me}, {**relayed, "over": h1}, {**relayed, "over": me, "sealed_for": "h2"}
        )
        until(lambda: not holds(forge.lab))  # those of the pledge, which nobody took
    codes = [refusal(each) for answers in said["answers"] for each in answers]
    assert codes[:2] == [(400, "bad-request"), (403, "denied")]
    assert codes[2][0] == 409


def test_an_offer_is_taken_by_none_but_the_user_whom_it_was_made_to(forge: Forge, mallory: str) -> None:
    """Nor is it spoilt by who tries."""
    me = forge.member
    said = confirms(
        forge,
        {"by": mallory, "over": mallory, "to": "h1"},
        {"by": me, "over": mallory, "to": "h1"},
        {"by": mallory, "over": me, "to": "h1"},
        {"by": me, "over": me, "to": "h1"},
    )
    *theirs, mine = [each for answers in said["answers"] for each in answers]
    assert [each["status"] // 100 for each in theirs] == [4, 4, 4]
    assert ended_as(mine) == ("running", said["vm_id"], "h1")
    assert len(domains(forge.lab, "h1")) == 1
    assert json.loads(forge.get(mallory, "h1", "/v1/vms")["said"]) == {"vms": []}


# ---- tokens


class Newcomer:
    """Somebody who redeems tokens of one kind, each time with a folder of their own."""

    def __init__(self, lab: Lab, folder: Path, kind: str) -> None:
        self.lab, self._folder, self.kind = lab, folder, kind
        self._count = 0

    def token(self, name: str) -> str:
        invite = ("user", "add", name) if self.kind == "user" else ("realm", "invite", name)
        return plainly(self.lab, *invite, "-o", "name").out.strip()

    def redeems(self, token: str) -> tuple[bool, str]:
        self._count += 1
        own = self._folder / f"{self.kind}-{self._count}"
        own.mkdir()
        (own / "atomd.toml").write_text(f'identity = "{own}/identity"\n')
        words = ["atomd", "join", "--wait", "0", "--name", "newcomer", "--config", f"{own}/atomd.toml", token]
        if self.kind == "user":
            words = ["env", *(f"XDG_{kind}_HOME={own}" for kind in ("CONFIG", "STATE", "CACHE", "DATA"))]
            words += ["electros", "login", token]
        done = self.lab.exec("client", *words, check=False)
        is_in = bool(list(own.rglob("leaf.pem")))
        assert is_in == (done.returncode == 0), done
        return is_in, done.stderr


def test_a_token_is_good_once_where_it_was_issued_and_as_it_is(forge: Forge, tmp_path: Path) -> None:
    """A person's and a host's."""
    comers = [(comer, comer.token("newcomer")) for comer in (Newcomer(forge.lab, tmp_path, kind) for kind in KINDS)]
    with nobody_gets_in(forge.lab):
        for comer, text in comers:
            token = read_token(text)
            is_in, said = comer.redeems(replace(token, addresses=(ADDRESSES["h2"],)).text())
            assert not is_in
            assert "nobody waits for this token" in said
            for guess in (replace(token, secret=bytes(16)), replace(token, token_id="0" * 16)):
                is_in, said = comer.redeems(guess.text())
                assert not is_in
                assert "not one that can be redeemed here" in said
    assert all(comer.redeems(text)[0] for comer, text in comers)
    with nobody_gets_in(forge.lab):
        for comer, text in comers:
            is_in, said = comer.redeems(text)
            assert not is_in
            assert "used, over, or of another host" in said


def pending(forge: Forge) -> int:
    """Tokens that wait on h1."""
    return int(json.loads(forge.get(forge.member, "h1", "/v1/realm")["said"])["tokens_pending"])


@contextmanager
def hasty(lab: Lab) -> Iterator[None]:
    """h1 with an atomd whose tokens end within seconds."""
    lab.stop("h1", "atomd")
    running = lab.popen("h1", sys.executable, "-c", HASTY.format(TOKEN_S))
    try:
        until(lambda: lab.exec("h1", "ss", "-Hltn", "sport", "=", ":7766").stdout)
        yield
    finally:
        running.terminate()
        running.communicate(timeout=30)
        lab.start("h1", "atomd")
        until(lambda: lab.daemon("h1", "atomd")["state"] == "up")


def test_a_token_ends_by_itself_and_with_the_daemon_that_has_issued_it(forge: Forge, tmp_path: Path) -> None:
    lab, comer = forge.lab, Newcomer(forge.lab, tmp_path, "user")
    with hasty(lab):
        over, before = comer.token("late"), members(lab)
        until(lambda: not pending(forge))
        assert "nobody waits for this token" in comer.redeems(over)[1]
        forgotten = comer.token("prompt")
        assert "used, over, or of another host" in comer.redeems(over)[1], "though another is waited for"
        assert members(lab) == before
    with nobody_gets_in(lab):
        assert "nobody waits for this token" in comer.redeems(forgotten)[1]


# ---- keys


@contextmanager
def readable(key: Path) -> Iterator[None]:
    """By the whole world."""
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    try:
        yield
    finally:
        key.chmod(0o600)


def test_a_daemon_does_not_start_with_a_private_key_that_others_can_read(forge: Forge) -> None:
    """A second one of each, beside those that run and with a state of its own."""
    lib, etc = forge.lab.folder("h1") / "lib", forge.lab.folder("h1") / "etc"
    (lib / "other").mkdir()
    (etc / "other.toml").write_text('state = "/var/lib/atomos/other"\naudit = "/var/lib/atomos/other/audit"\n')
    starting = [("atomd", "identity/key.pem"), ("storaged", "identity/key.pem"), ("atomd", "issuer/key.pem")]
    with nobody_gets_in(forge.lab):
        for daemon, key in starting:
            with readable(lib / key):
                words = ("timeout", "20", daemon, "--config", "/etc/atomos/other.toml")
                ended = forge.lab.exec("h1", *words, check=False)
            path = f"/var/lib/atomos/{key}"
            said = f"{daemon}: Others than you can read the private key {path}. Run: chmod 600 {path}"
            assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, said)


def test_a_client_does_nothing_with_a_private_key_that_others_can_read(forge: Forge, tmp_path: Path) -> None:
    spec = Vms(forge.lab, tmp_path).specfile()
    key = Path(forge.member) / "key.pem"
    with nobody_gets_in(forge.lab), readable(key):
        for words in (("run", spec), ("ps",), ("user", "add", "eve")):
            ended = plainly(forge.lab, *words, code=5)
            assert ended.out == ""
            assert f"chmod 600 {key}" in ended.err


# ---- revocation


def test_who_is_revoked_is_out_at_once_and_at_a_host_that_was_away_when_it_is_back(
    forge: Forge, tmp_path: Path
) -> None:
    """Also where a connection was open, and at a guest's console; what runs goes on."""
    lab = forge.lab
    words = login_as(lab, "carl", tmp_path)
    carl = str(tmp_path / "carl/config/atomos/default")
    vm = json.loads(lab.exec("client", *words, "run", Vms(lab, tmp_path).specfile(), *TO_H1).stdout)["vm"]
    vm_id, before, running = vm["id"].replace("-", ""), pids(lab), domains(lab, "h1")
    console = f"/v1/vms/{vm_id}/console"
    opened = [lingers(forge, carl, host, path) for host, path in (*((h, "/v1/whoami") for h in HOSTS), ("h1", console))]
    try:
        with away(lab, "h2"):
            electros(lab, "user", "revoke", "carl", code=None)
            assert refusal(forge.get(carl, "h1", "/v1/whoami")) == (403, "denied")
            assert "revoked" in forge.get(carl, "h1", "/v1/vms")["said"]
            assert lab.exec("client", *words, "ps", check=False).returncode == 5
            assert [json.loads(opened[at].communicate(timeout=60)[0])["ended"] for at in (0, 2)] == [True, True]
        until(lambda: forge.get(carl, "h2", "/v1/whoami")["status"] == 403, within_s=30)
        assert json.loads(opened[1].communicate(timeout=60)[0])["ended"]
        until(lambda: len({realm_of(status) for status in statuses(lab).values()}) == 1, within_s=30)  # the new tag key
        with nobody_gets_in(lab):
            tried = forge.does(do="tries", host=ADDRESSES["h2"], folders={"carl": carl})["carl"]
            assert tried["heard"] == 0
        assert pids(lab) == before
        assert domains(lab, "h1") == running != []
    finally:
        lab.exec("h1", "atomctl", "rm", vm["id"], "--yes")


TO_H1 = ("--rank", 'host == "h1"', "-o", "json")


def lingers(forge: Forge, who: str, host: str, path: str) -> "subprocess.Popen[str]":
    """With a connection that is open when this returns."""
    job = {"do": "linger", "as": who, "host": ADDRESSES[host], "path": path, "for_s": 40}
    running = forge.lab.popen("client", *forge.words(job))
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["said"].split()[1] in ("101", "200")
    return running


@contextmanager
def away(lab: Lab, host: str) -> Iterator[None]:
    """Its daemons stand still."""
    for daemon in ("atomd", "storaged"):
        lab.kill(host, daemon, "STOP")
    try:
        yield
    finally:
        for daemon in ("storaged", "atomd"):
            lab.kill(host, daemon, "CONT")
