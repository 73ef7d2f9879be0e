"""A program in the sandbox can't do what it should not, and is gone when its caller is."""

import os
import pwd
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storaged.beneath import Unusable
from storaged.images.sandbox import SAID_MAX_BYTES, Failed, Sandbox

NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox.of("nobody" if os.geteuid() == 0 else None, deadline_s=30)


def sh(sandbox: Sandbox, script: str, *, files: tuple[int, ...] = (), file_max_bytes: int = 2**20) -> str:
    return sandbox.run(["sh", "-c", script], files=files, file_max_bytes=file_max_bytes)


def status(sandbox: Sandbox) -> dict[str, list[str]]:
    lines = sh(sandbox, "cat /proc/self/status").splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


@as_root
def test_it_is_another_user_without_groups(sandbox: Sandbox) -> None:
    ours = os.getgroups()
    os.setgroups([0, 4])
    try:
        facts = status(sandbox)
    finally:
        os.setgroups(ours)
    assert set(facts["Uid"]) == {str(NOBODY.pw_uid)}
    assert set(facts["Gid"]) == {str(NOBODY.pw_gid)}
    assert facts["Groups"] == []
    assert int(facts["CapBnd"][0], 16) == 0


def test_it_has_no_capabilities_and_gets_none(sandbox: Sandbox) -> None:
    facts = status(sandbox)
    assert [int(facts[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    assert facts["NoNewPrivs"] == ["1"]


@as_root
def test_it_has_no_network(sandbox: Sandbox) -> None:
    assert [line.split(":")[0].strip() for line in sh(sandbox, "cat /proc/net/dev").splitlines()[2:]] == ["lo"]


def test_its_environment_says_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    names = {line.partition("=")[0] for line in sh(sandbox, "env").splitlines()}
    assert names <= {"PATH", "LC_ALL", "MALLOC_ARENA_MAX", "PWD", "SHLVL", "_"}


def test_memory_processes_files_and_time_are_bounded(sandbox: Sandbox) -> None:
    limits = {line[:26].strip(): line[26:].split()[:2] for line in sh(sandbox, "cat /proc/self/limits").splitlines()}
    assert limits["Max address space"] == [str(2**30)] * 2
    assert limits["Max cpu time"] == ["3600"] * 2
    assert limits["Max file size"] == [str(2**20)] * 2
    assert limits["Max open files"] == ["64"] * 2
    assert limits["Max processes"] == ["256"] * 2
    assert limits["Max core file size"] == ["0"] * 2


def test_sixty_four_threads_have_room(sandbox: Sandbox) -> None:
    """As many as qemu-img has at most, all at once where the disk is slow."""
    begin = "import threading as t; b = t.Barrier(65); [t.Thread(target=b.wait).start() for _ in range(64)]; b.wait()"
    assert sandbox.run(["python3", "-c", begin], files=[], file_max_bytes=2**20) == ""


def test_a_file_that_grows_too_far_ends_it(sandbox: Sandbox, tmp_path: Path) -> None:
    file = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    with sandbox.lent(file), pytest.raises(Failed, match="grown larger than is allowed"):
        sandbox.run(
            ["dd", "if=/dev/zero", f"of=/proc/self/fd/{file}", "bs=64k", "count=100"],
            files=[file],
            file_max_bytes=2**20,
        )
    os.close(file)
    assert (tmp_path / "a").stat().st_size <= 2**20


@as_root
def test_it_reads_no_file_but_those_it_is_lent(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("swordfish")
    secret.chmod(0o600)
    with pytest.raises(Failed, match="Permission denied"):
        sh(sandbox, f"cat {secret}")
    file = os.open(secret, os.O_RDONLY)
    with sandbox.lent(file):
        assert sh(sandbox, f"cat /proc/self/fd/{file}", files=(file,)) == "swordfish"
        assert os.fstat(file).st_uid == NOBODY.pw_uid
    assert os.fstat(file).st_uid == 0
    with pytest.raises(Failed, match="Permission denied"):  # when it is over, even with the descriptor at hand
        sh(sandbox, f"cat /proc/self/fd/{file}", files=(file,))
    os.close(file)


@as_root
def test_a_lent_file_comes_back_when_the_program_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    file = os.open(tmp_path / "a", os.O_RDONLY)
    with pytest.raises(Failed), sandbox.lent(file):
        sh(sandbox, "exit 3")
    assert os.fstat(file).st_uid == 0
    os.close(file)


def test_no_other_descriptor_of_ours_goes_along(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    file = os.open(tmp_path / "a", os.O_RDONLY)
    os.set_inheritable(file, True)
    assert len(sh(sandbox, "ls /proc/self/fd").split()) == 4  # in, out, error, and the folder that ls reads
    os.close(file)


def test_a_failure_is_one_line_without_our_paths(sandbox: Sandbox) -> None:
    with pytest.raises(Failed, match=r"^sh failed: Could not open the image: no$") as failed:
        sh(sandbox, "echo first; echo \"qemu-img: Could not open '/proc/self/fd/7': no\"; exit 1")
    assert failed.value.code == 1


def test_a_full_pool_is_told_of_even_when_the_program_aborts_for_it(sandbox: Sandbox) -> None:
    with pytest.raises(Failed, match=r"^the pool is full$"):
        sh(sandbox, "echo 'qemu-img: error while writing: No space left on device'; echo oh; kill -ABRT $$")


def test_an_abort_is_told_with_its_last_words(sandbox: Sandbox) -> None:
    with pytest.raises(Failed, match=r"^sh failed: qemu: no more threads$"):
        sh(sandbox, "echo 'qemu: no more threads'; kill -ABRT $$")
    with pytest.raises(Failed, match=r"^sh failed: it was ended by signal 6$"):
        sh(sandbox, "kill -ABRT $$")


def test_what_it_says_is_bounded_and_printable(sandbox: Sandbox) -> None:
    with pytest.raises(Failed) as failed:
        sh(sandbox, "printf 'a\\033[2Jb'; head -c 3000000 /dev/zero | tr '\\0' x; exit 1")
    assert len(str(failed.value)) < 400
    assert str(failed.value).isprintable()
    assert len(sh(sandbox, "head -c 3000000 /dev/zero | tr '\\0' x")) == SAID_MAX_BYTES


def test_a_program_that_is_not_there_is_said_with_its_package(sandbox: Sandbox) -> None:
    with pytest.raises(Unusable, match="qemu-utils"):
        sandbox.run(["qemu-image-that-is-nowhere"], files=[], file_max_bytes=0)


def test_one_that_takes_too_long_is_ended() -> None:
    sandbox = Sandbox(os.geteuid(), os.getegid(), deadline_s=0.3)
    with pytest.raises(Unusable, match="took too long"):
        sandbox.run(["sleep", "1000"], files=[], file_max_bytes=0)


def is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_caller_that_stops_takes_the_program_and_its_children_along(sandbox: Sandbox) -> None:
    class Stop(Exception):
        pass

    read, write = os.pipe()

    def stop_when_both_run(_percent: int) -> None:
        if select.select([read], [], [], 0)[0]:
            raise Stop

    script = f"sleep 1000 & echo $$ $! >&{write}; wait"
    with pytest.raises(Stop):
        sandbox.run(["bash", "-c", script], files=[write], file_max_bytes=0, tick=stop_when_both_run)
    pids = [int(pid) for pid in os.read(read, 100).split()]
    assert len(pids) == 2
    os.close(read)
    os.close(write)
    wait_until_gone(pids)


def wait_until_gone(pids: list[int]) -> None:
    for _ in range(500):
        if not any(is_alive(pid) for pid in pids):
            return
        time.sleep(0.01)
    raise AssertionError("it lives on")


def test_it_dies_with_storaged(tmp_path: Path) -> None:
    """Killed as hard as can be: nobody is left to end the child, and the kernel does it."""
    code = (
        "import sys; from storaged.images.sandbox import Sandbox; "
        "Sandbox.of().run(['sh', '-c', 'echo $$ >&9; exec sleep 1000'], files=[9], file_max_bytes=2**20)"
    )
    read, write = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", f"import os; os.dup2({write}, 9); {code}"], pass_fds=[write])
    os.close(write)
    pid = int(os.read(read, 100))
    os.close(read)
    assert is_alive(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until_gone([pid])


@as_root
def test_without_the_right_to_borrow_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    file = os.open(tmp_path / "a", os.O_RDONLY)
    child = os.fork()
    if child == 0:
        os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)
        try:
            with Sandbox.of().lent(file):
                os._exit(1)
        except Unusable as refused:
            os._exit(0 if "belongs to user 0" in str(refused) else 2)
    _, status = os.waitpid(child, 0)
    os.close(file)
    assert os.waitstatus_to_exitcode(status) == 0


@as_root
def test_a_service_that_is_not_root_becomes_another_user_with_four_capabilities(tmp_path: Path) -> None:
    """As `AmbientCapabilities=` of a unit gives them; what it runs has none of them."""
    caps = "-all,+chown,+kill,+setgid,+setuid"
    service = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups", f"--inh-caps={caps}", f"--ambient-caps={caps}"]
    code = (
        "import os; from storaged.images.sandbox import Sandbox\n"
        "sandbox, file = Sandbox.of('nobody'), os.memfd_create('image')\n"
        "with sandbox.lent(file):\n"
        "    script = f'cat /proc/self/status /proc/net/dev /proc/self/fd/{file}'\n"
        "    said = sandbox.run(['sh', '-c', script], files=[file], file_max_bytes=0)\n"
        "print(said)"
    )
    root = Path(__file__).parents[2]
    said = subprocess.run([*service, sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in said.stdout.splitlines())}
    assert set(facts["Uid"]) == {str(NOBODY.pw_uid)}
    assert [int(facts[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    links = {
        line.partition(":")[0].strip() for line in said.stdout.split("Receive")[-1].splitlines()[1:] if ":" in line
    }
    assert links - {"CapInh"} == {"lo"}, "it has no network either"
