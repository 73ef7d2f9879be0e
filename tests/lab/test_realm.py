"""Who belongs: a realm made on a fresh host, others that join it, users that come and go; on real hosts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Lab, raised, until
from tests.lab.vms import TINY, Ended

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def fresh() -> Iterator[Lab]:
    """h1, h2 and h3, whose daemons run and which belong to nobody."""
    with raised("fresh", "-n", "3", "--unclaimed", "h1") as lab:
        yield lab


class Person:
    """Somebody with a home of their own, at the keyboard of the client or of a host."""

    def __init__(self, lab: Lab, folder: Path, name: str, at: str = "client") -> None:
        self.lab, self.at = lab, at
        kinds = ("CONFIG", "STATE", "CACHE", "DATA")
        self.own = ["env", *(f"XDG_{kind}_HOME={folder}/{name}/{kind.lower()}" for kind in kinds), "electros"]

    def says(self, *words: str, code: int | None = 0) -> Ended:
        done = self.lab.exec(self.at, *self.own, *words, check=False)
        ended = Ended(done.returncode, done.stdout, done.stderr)
        if code is not None and ended.code != code:
            pytest.fail(f"electros {' '.join(words)}: exit {ended.code}, not {code}\n{ended.out}{ended.err}")
        return ended

    def asks(self, *words: str) -> Any:
        return self.says(*words, "-o", "json").document

    def token(self, *words: str) -> str:
        return self.says(*words, "-o", "name").out.strip()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(scope="module")
def root(fresh: Lab, home: Path) -> Person:
    """Who made the realm, on h1; h2 has joined."""
    founder = Person(fresh, home, "founder", at="h1")
    made = founder.asks("realm", "create", "office", "--user", "founder")["realm"]
    assert made["name"] == "office"
    until(lambda: "of realm office" in fresh.logs("h1", "atomd"))
    joined = fresh.exec("h2", "atomd", "join", founder.token("realm", "invite"))
    assert "h2 is a host of realm office now, by h1" in joined.stdout
    until(lambda: told(founder).keys() == {"h1", "h2"})  # by its own door, of which its storage knows nothing
    until(lambda: hosts(founder) == {"h1", "h2"})
    return founder


def told(person: Person) -> dict[str, dict[str, Any]]:
    """What each host says of the realm."""
    return {each["host"]: each for each in person.asks("realm", "status")["realm"]["hosts"]}


def hosts(person: Person) -> set[str]:
    ended = person.says("hosts", "-o", "json", code=None)
    return {host["name"] for host in ended.document["hosts"]} if ended.code == 0 else set()


def user(root: Person, home: Path, name: str, *grant: str) -> Person:
    person = Person(root.lab, home, name)
    person.says("login", root.token("user", "add", name, *grant))
    return person


def spec(home: Path, **fields: object) -> str:
    path = home / "spec.json"
    path.write_text(json.dumps(TINY | fields))
    return str(path)


def audit_of(lab: Lab, host: str) -> list[dict[str, Any]]:
    lines = (lab.folder(host) / "lib" / "audit.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line]


def test_a_host_that_belongs_to_nobody_runs_and_says_what_to_do(fresh: Lab, root: Person) -> None:
    assert "atomd join TOKEN" in fresh.logs("h3", "atomd")
    assert fresh.daemon("h3", "atomd")["state"] == "up"
    assert fresh.exec("h3", "ss", "-Hltn", "sport", "=", ":7766").stdout == "", "it listens to nobody"
    assert "h3" not in hosts(root)


def test_who_is_revoked_takes_the_tag_key_with_them(root: Person, home: Path) -> None:
    """First of all revocations here: of many in a row, the others wait until the key before is over."""

    def numbers() -> set[int]:
        return {each["key_number"] for each in told(root).values()}

    user(root, home, "zoe")
    assert numbers() == {1}
    root.says("user", "revoke", "zoe")
    until(lambda: numbers() == {2}, within_s=20)


def test_a_token_is_good_once_and_at_its_own_host_alone(fresh: Lab, root: Person) -> None:
    token = root.token("realm", "invite", "h9")
    fresh.exec("h3", "atomd", "join", "--config", "/dev/null", token, check=False)
    assert "h9" in {host["name"] for host in root.asks("realm", "hosts")["hosts"]}
    again = fresh.exec("h2", "atomd", "join", "--again", token, check=False)
    assert again.returncode == 1
    assert "h2" in hosts(root), "who could not join anew is what it was"
    root.says("realm", "remove", "h9")

    def share_a_key() -> bool:
        numbers = {host: said["key_number"] for host, said in told(root).items()}
        return {"h1", "h2"} <= numbers.keys() and len({numbers["h1"], numbers["h2"]}) == 1

    until(share_a_key, within_s=20)  # until then h2 may not hear what is asked under the new one
    fresh.exec("h3", "sh", "-c", "rm -rf /var/lib/atomos/identity")
    fresh.restart("h3", "atomd")


def test_a_user_has_what_was_granted_and_not_more(fresh: Lab, root: Person, home: Path) -> None:
    ann = user(root, home, "ann", "--slots", "1", "--vms", "1", "--ram", "1GiB", "--until", "90d")
    who = ann.asks("whoami")
    assert "ann" in json.dumps(who)
    vm = ann.asks("run", spec(home), "--name", "first", "--rank", 'host == "h1"')["vm"]
    assert vm["host"] == "h1"

    def used() -> dict[str, int]:
        return {each["host"]: each["use"]["vms"] for each in root.asks("user", "show", "ann")["user"]["hosts"]}

    until(lambda: used() == {"h1": 1, "h2": 0}, within_s=20)  # h2 hears of the tag key that came with h9's removal
    shown = root.asks("user", "show", "ann")["user"]
    assert shown["use"]["volumes_gb"] == 0
    until(lambda: not ann.asks("pledge", spec(home))["offers"], within_s=20)
    refused = ann.says("run", spec(home), "--name", "second", code=3)
    assert "grant" in refused.err, "on h1 by its own ledger, on h2 by what h1 tells"
    assert ann.says("user", "add", "eve", code=None).code == 5
    assert any(line["outcome"].startswith("refused") for line in audit_of(fresh, "h1"))
    wider = ann.says("user", "change", "ann", "--slots", "64", code=None)
    assert wider.code == 5
    root.says("user", "change", "ann", "--slots", "1", "--vms", "2", "--ram", "1GiB")
    ann.says("rm", "--force", vm["id"])
    ann.says("run", spec(home), "--name", "third")
    ann.says("rm", "--force", "third")


def test_who_is_revoked_is_out_at_once_and_what_ran_goes_on(fresh: Lab, root: Person, home: Path) -> None:
    bob = user(root, home, "bob")
    vm = bob.asks("run", spec(home), "--name", "work")["vm"]
    root.says("user", "revoke", "bob", "--why", "left")
    for words in (("ps",), ("run", spec(home), "--name", "more"), ("stop", "work")):
        out = bob.says(*words, code=None)
        assert out.code == 5, (words, out)
        assert "revoked" in out.err
    assert f"atomos-{vm['id']}" in fresh.virsh(vm["host"], "list", "--name")
    fresh.virsh(vm["host"], "destroy", f"atomos-{vm['id']}")


def test_a_host_that_was_away_hears_of_a_revocation_when_it_is_back(fresh: Lab, root: Person, home: Path) -> None:
    carl = user(root, home, "carl")
    carl.says("hosts")
    fresh.stop("h2", "atomd")
    fresh.stop("h2", "storaged")
    root.says("user", "revoke", "carl")
    fresh.start("h2", "storaged")
    fresh.start("h2", "atomd")

    def knows() -> bool:
        now = told(root)
        return "h2" in now and now["h2"]["revocations"] == now["h1"]["revocations"]

    until(knows, within_s=40)
    assert carl.says("ps", code=None).code == 5


def test_a_removed_host_is_gone_for_everybody_and_the_tag_key_with_it(fresh: Lab, root: Person, home: Path) -> None:
    dora = user(root, home, "dora")
    assert hosts(dora) == {"h1", "h2"}
    before = root.asks("realm", "status")["realm"]["hosts"][0]["key_number"]
    root.says("realm", "remove", "h2")
    assert hosts(dora) == {"h1"}
    assert hosts(root) == {"h1"}
    assert root.asks("realm", "status")["realm"]["hosts"][0]["key_number"] == before + 1
    out = dora.says("run", spec(home, slots=2), "--name", "only-h1", code=None)
    assert out.code == 0
    assert "h2" not in out.out
    dora.says("rm", "--force", "only-h1")
    back = fresh.exec("h2", "atomd", "join", "--again", root.token("realm", "invite", "h2"))
    assert "its old identity is in" in back.stdout.lower()
    for daemon in ("storaged", "atomd"):
        fresh.restart("h2", daemon)
    until(lambda: hosts(root) == {"h1", "h2"})


def test_the_root_key_leaves_and_comes_back_for_a_new_root(fresh: Lab, root: Person, home: Path) -> None:
    passphrase = home / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    root.says("realm", "export-root", f"{home}/root.p12", "--passphrase-file", str(passphrase))
    assert root.says("realm", "rotate", code=None).code != 0
    root.says("realm", "import-root", f"{home}/root.p12", "--passphrase-file", str(passphrase))
    root.says("realm", "rotate")

    def all_follow() -> bool:
        return {each["epoch"] for each in root.asks("realm", "status")["realm"]["hosts"]} == {2}

    until(all_follow, within_s=40)
    erna = user(root, home, "erna")
    assert hosts(erna) == {"h1", "h2"}
    root.says("realm", "rotate", "--finish")
    assert hosts(erna) == {"h1", "h2"}


def test_another_host_becomes_an_issuer_and_stands_in_for_the_first(fresh: Lab, root: Person, home: Path) -> None:
    root.says("realm", "issuer", "add", "h2")
    fresh.stop("h1", "atomd")
    gustav = user(root, home, "gustav")
    assert hosts(gustav) == {"h2"} or hosts(gustav) == {"h1", "h2"}, "storage of h1 may answer"
    fresh.start("h1", "atomd")
    until(lambda: "h1" in hosts(root))
    until(lambda: hosts(root) == {"h1", "h2"})
    removed = root.says("realm", "issuer", "remove", "h2")
    assert "out at once, until they join or log in again: user gustav" in removed.err
    assert hosts(root) == {"h1", "h2"}, "h1 has let both in"
    until(lambda: gustav.says("ps", code=None).code == 5)
    assert "certificate" in gustav.says("ps", code=5).err


def test_a_client_without_a_name_says_whom_to_ask(fresh: Lab, root: Person, home: Path) -> None:
    nobody = Person(fresh, home, "nobody")
    assert nobody.says("ps", code=5).err.count("electros login TOKEN") == 1


def test_plain_https_with_the_files_of_an_identity(fresh: Lab, root: Person, home: Path) -> None:
    user(root, home, "fred")
    folder = f"{home}/fred/config/atomos/default"
    words = ["curl", "-sS", "--max-time", "10", "--cert", f"{folder}/leaf.pem", "--key", f"{folder}/key.pem"]
    address = "10.98.0.1"  # of h1 in every lab
    got = fresh.exec("client", *words, "--cacert", f"{folder}/root.pem", f"https://{address}:7766/v1/vms")
    assert json.loads(got.stdout) == {"vms": []}
    stranger = fresh.exec(
        "client",
        "curl",
        "-sS",
        "--max-time",
        "10",
        "--cacert",
        f"{folder}/root.pem",
        f"https://{address}:7766/v1/vms",
        check=False,
    )
    assert stranger.returncode != 0
    assert stranger.stdout == ""
