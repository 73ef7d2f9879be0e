"""What must always hold: each invariant a small function that says its sentence when it does not.

`Judge` watches a run: what hosts write, begin and acknowledge, and what persons are told. `look` is called after every
event, `check_end` once faults have ended and a minute has passed. It judges by the world (domains, synced rows, what
was said aloud), not by the objects' own opinion of themselves. In a realm of many hosts an event is followed by a look
at those alone whose processes did something, and each second by one at all of them.

I11 means three things here. What a host knows of its realm only grows: after every event its anchor's epoch is no lower
and its revocations no fewer than before, and when a daemon starts, than when the last save before returned; a disk that
was replaced by an older one begins anew from what lies on it, and takes nobody else back. Then, growing ends in one: a
minute after faults end all hosts hold the same bundle and tag key, in memory and on the disk; where hosts tag with
different keys, and so do not hear each other, they have the time that asking takes (`World._hear_each_other`). And no
revocation gets lost on the way: where an admin was told that a user is revoked, it is on that host's disk; and if it
has lain on the disk of an issuer of today ever since, it is in force everywhere in the end. Not promised is what no
such disk holds any more: one host alone had heard of it, and an older copy of its disk came back, or its issuer was
dropped (an anchor that names it again and is lost on the way, with such a disk as well, makes it none of today).
That other disks hold a narrowing of the same user's leaves changes nothing, as that ends no membership.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from atomd.capacity.hardware import Claim, Hardware
from atomd.vms.lifecycle import RUNS, State, Vm
from matcher.scheduler.outcomes import AllRefused, Interrupted, NoHostFits, NoHostInReach, Outcome, VolumeMissing
from matcher.trust.bundle import Bundle
from matcher.trust.identity import Identity, load_identity
from matcher.wire.messages import VmAsk
from matcher.wire.realm import Grant, Revocation
from specs.ids import UserId, VmId
from tests.sim import papers
from tests.sim.host import Host
from tests.sim.realm import Leaf
from tests.sim.slow import Domain
from tests.sim.timeline import Timeline
from tests.sim.violation import Violation

HOLD_GRACE_S = 1.0
WHOLE_UP_TO = 8  # hosts that are all looked at after each event
WHOLE_EVERY_S = 1.0
SETTLES_S = 60.0
MAY_RUN = frozenset({State.COMMITTED, State.RUNNING, State.STOPPING, State.REMOVING})
TAKES = frozenset({State.PREPARED, State.COMMITTED, State.RUNNING, State.STOPPING})
IS_KEPT = frozenset({State.COMMITTED, State.RUNNING, State.STOPPING, State.STOPPED, State.FAILED})
Life = tuple[VmId, int]  # (vm_id, generation)


def no_more_than_capacity(hardware: Hardware, claims: Iterable[Claim], what: str) -> None:
    """I1 held + committed ≤ capacity, for each thread, MiB and device."""
    carried: defaultdict[int, list[Claim]] = defaultdict(list)
    used: Counter[int] = Counter()
    for claim in claims:
        for thread in claim.threads:
            carried[thread].append(claim)
        for node, mib in claim.ram_mib:
            used[node] += mib
    for thread, on_it in carried.items():
        if len(on_it) > min(claim.overprovision for claim in on_it):
            raise Violation("I1", f"thread {thread} is {what} {len(on_it)} times")
    lent = dict(hardware.ram_mib)
    for node, mib in used.items():
        if mib > lent.get(node, 0):
            raise Violation("I1", f"{mib} MiB of {lent.get(node, 0)} are {what} on node {node}")


def one_owner_of_a_device(claims: Iterable[Claim], what: str) -> None:
    """I2 a PCI device has one owner at most."""
    owned: set[str] = set()
    for claim in claims:
        for address in claim.pci:
            if address in owned:
                raise Violation("I2", f"{address} is {what} twice")
            owned.add(address)


def one_domain_over_all_hosts(life: Life, hosts: set[str]) -> None:
    """I5 one (vm_id, generation) makes one domain at most over all hosts."""
    if len(hosts) > 1:
        raise Violation("I5", f"{life[0][:6]}.{life[1]} is on {', '.join(sorted(hosts))}")


def no_start_after_a_no(life: Life, told_no: set[Life], host: str) -> None:
    """I5 as the person sees it: who was told "it runs nowhere" may start it anew, under another generation or id."""
    if life in told_no:
        raise Violation("I5", f"{life[0][:6]}.{life[1]} is promised by {host}, and its client was told that nobody did")


def by_a_member(host: Host, vm: Vm, leaf: Leaf | None, revoked_before_s: float) -> None:
    """I8 no change of state without a valid, unrevoked grant; here: nothing new is written down for who was revoked, as
    far as this host has learned, nor (`leaf`, for what was not there before) by a leaf that is superseded or out of its
    time."""
    life = f"{vm.vm_id[:6]}.{vm.generation}"
    if revoked_before_s == float("inf"):
        raise Violation("I8", f"{life} is {vm.state} on {host.name}, which knows that its user was revoked")
    if leaf is not None and not (leaf.is_in_time(host.wall_s) and leaf.starts_s >= revoked_before_s):
        raise Violation("I8", f"{life} is {vm.state} on {host.name} by a leaf that is not valid there now")


def only_grows(host: str, epoch: int, revocations: Iterable[bytes], bundle: Bundle, since: str) -> None:
    """I11 the trust anchor's epoch and the revocation set only grow: from event to event while a daemon lives, and over
    its death from what was on the disk when a save returned. Where the disk itself is an older one, from what lies on
    that one."""
    if bundle.anchor.epoch < epoch:
        raise Violation("I11", f"{host} goes by anchor {bundle.anchor.epoch}, and by {epoch} {since}")
    if lost := [digest for digest in revocations if digest not in bundle.revocations]:
        raise Violation("I11", f"{host} has forgotten {len(lost)} revocations that it had {since}")


def all_know_the_same(hosts: Iterable[Host]) -> None:
    """I11, so that growing ends in one: after faults end, all hosts hold the same bundle and today's tag key, in
    their memory and on their disk."""
    known = {host.name: _knows(host) for host in hosts}
    first, *others = known
    for name in others:
        for what, mine in known[first].items():
            if known[name][what] != mine:
                raise Violation("I11", f"{first} and {name} do not know the same {what} after all was well again")


def is_parted(hosts: Iterable[Host]) -> bool:
    """Whether some hosts tell with a key that others know nothing of, so that these hear nothing of it."""
    secrets = [host.daemon.upkeep.identity.realm for host in hosts if host.daemon is not None]
    return not all(mine.understands(other) for mine in set(secrets) for other in set(secrets))


def dropped_issuers_are_stood_in_for(hosts: Sequence[Host]) -> None:
    """I11, so that nothing gets lost on the way: whoever is revoked on the host of an issuer of today is revoked
    everywhere, though the issuer that said so may be none any more."""
    in_force = {host.name: _in_force(_bundle(host)) for host in hosts}
    for host in hosts:
        if _is_issuer(host):
            for member, before_s in in_force[host.name].items():
                if late := [name for name, revoked in in_force.items() if revoked.get(member, 0.0) < before_s]:
                    raise Violation("I11", f"{member[1][:6]} is revoked on {host.name}, and not on {', '.join(late)}")


def _knows(host: Host) -> dict[str, object]:
    assert host.daemon is not None, "systemd starts it again"
    identity = host.daemon.upkeep.identity
    saved = load_identity(host.home.folder, wall_s=host.wall_s, allow_expired=True)
    if saved.bundle.revocations.keys() != identity.bundle.revocations.keys() or saved.key_number != identity.key_number:
        raise Violation("I11", f"the disk of {host.name} does not hold what it knows")
    return {"bundle": identity.bundle.digest, "tag key": identity.realm.tag_key}


def _bundle(host: Host) -> Bundle:
    assert host.daemon is not None, "systemd starts it again"
    return host.daemon.upkeep.identity.bundle


def _is_issuer(host: Host) -> bool:
    """By the anchor that it goes by."""
    issuer = host.daemon.upkeep.issuer if host.daemon is not None else None
    return issuer is not None and issuer.entry is not None


def _on_disk(host: Host) -> Bundle:
    return load_identity(host.home.folder, wall_s=host.wall_s, allow_expired=True).bundle


def _is_revoked(bundle: Bundle, user_id: UserId) -> bool:
    """As a whole: that leaves of before were revoked, since another grant was given, ends no membership."""
    return _in_force(bundle).get(("user", user_id)) == float("inf")


def _in_force(bundle: Bundle) -> dict[tuple[str, str], float]:
    """For each member, the time before which its leaves are good for nothing."""
    revoked: dict[tuple[str, str], float] = {}
    for signed in bundle.revocations.values():
        member = signed.says.kind, signed.says.id
        revoked[member] = max(_reach(signed.says), revoked.get(member, 0.0))
    return revoked


def _is_undone(host: Host, row: Vm) -> bool:
    """A PREPARED row whose volumes storage has not let go of yet: what it took is free, as it is never promised."""
    now = host.daemon.compute.vms.get(row.vm_id) if host.daemon is not None else None
    return row.state is State.PREPARED and now is not None and now.state is State.REMOVING


def no_more_than_granted(host: Host, vm: Vm, grant: Grant) -> None:
    """I12 a grant's per-host limit is never exceeded: by what is on the disk and what `vm` adds to it, as asked for. A
    grant that has shrunk takes nothing away, so that only what would grow is judged; and who is gone takes nothing,
    though a storage host has yet to hear of it."""
    disk, daemon = host.disk, host.daemon
    gone = {life for life in disk.rows if life in disk.doomed or (daemon is not None and life in daemon.compute.owed)}
    rows = [row for life, row in disk.rows.items() if row.user_id == vm.user_id and life not in gone]
    ids, ask = {row.vm_id for row in rows}, vm.confirm.vm
    asks = [row.confirm.vm for row in rows if row.state in TAKES and not _is_undone(host, row)]
    counted = (
        ("slots", sum(other.slots for other in asks), ask.slots, grant.slots),
        ("MiB", sum(other.ram_mib for other in asks), ask.ram_mib, grant.ram_mib),
        ("VMs", len(ids), int(vm.vm_id not in ids), grant.vms),
        ("devices", sum(map(_devices, asks)), _devices(ask), max((limit.quantity for limit in grant.pci), default=0)),
    )
    for noun, has, more, most in counted:
        used = has + more
        if most is not None and used > most and more:
            raise Violation("I12", f"{vm.user_name} has {used} {noun} on {host.name} and may have {most}")
    if vm.confirm.vm.overprovision < grant.overprovision_min:
        raise Violation("I12", f"{vm.user_name} has a VM that is shared less than {grant.overprovision_min} times")


def _devices(ask: VmAsk) -> int:
    return sum(each.quantity for each in ask.pci)


def no_lease_ends_early(host: Host, vm: Vm, began: tuple[float, int] | None, now_s: float) -> None:
    """A VM lives as long as was agreed, whatever wall clocks do, as long as its host stays up."""
    if began is None or vm.lease is None or "lease" not in vm.why:
        return
    begun_s, boots = began
    if boots == host.boots and now_s < begun_s + vm.lease.for_s:
        left_s = begun_s + vm.lease.for_s - now_s
        raise Violation("lease", f"{vm.vm_id[:6]}.{vm.generation} on {host.name} ends {left_s:.0f} s before its time")


def nothing_runs_unpromised(host: Host) -> None:
    """I6 nothing runs without an fsynced commitment."""
    for domain in host.libvirt.domains.values():
        row = host.disk.rows.get((domain.vm_id, domain.generation))
        if row is None or row.state not in MAY_RUN:
            said = "nothing" if row is None else row.state
            raise Violation(
                "I6", f"{domain.vm_id[:6]}.{domain.generation} runs on {host.name}; the journal says {said}"
            )


def holds_end(host: Host, now_s: float) -> None:
    """I7 every hold ends within its time + 1 s."""
    if host.daemon is None:
        return
    for offer_id in host.daemon.ledger.holds(now_s):
        until_s = host.daemon.held_until_s.get(offer_id, now_s)
        if now_s > until_s + HOLD_GRACE_S:
            raise Violation("I7", f"{offer_id[:6]} is held on {host.name} {now_s - until_s:.1f} s after its end")


def acknowledged_survives(host: Host, acknowledged: Iterable[Life]) -> None:
    """I9 an acknowledged confirm survives any crash."""
    for vm_id, generation in acknowledged:
        row = host.disk.rows.get((vm_id, generation))
        if row is None or row.state not in IS_KEPT:
            said = "nothing" if row is None else row.state
            raise Violation("I9", f"{vm_id[:6]}.{generation} was acknowledged by {host.name}; its journal says {said}")


def _reach(revocation: Revocation) -> float:
    """Leaves that start before this are good for nothing."""
    return float(revocation.before_s or "inf")


def all_is_settled(host: Host) -> None:
    """I10 after faults end: ledger = libvirt = attachments in 60 s, and no VM is stuck busy."""
    daemon, rows = host.daemon, host.disk.rows
    assert daemon is not None, "systemd starts it again"
    for vm in rows.values():
        if vm.state is State.STOPPING and vm.why:  # its lease has just ended
            continue
        domain = host.libvirt.domains.get(vm.vm_id)
        is_up = domain is not None and domain.generation == vm.generation
        if vm.state not in (State.RUNNING, State.STOPPED, State.FAILED) and not (is_up and vm.state is State.STOPPING):
            raise Violation("I10", f"{vm.vm_id[:6]}.{vm.generation} is stuck on {host.name}: {vm.state}")
        if is_up != (vm.state in MAY_RUN):
            raise Violation("I10", f"{vm.vm_id[:6]}.{vm.generation} is {vm.state} on {host.name}, running: {is_up}")
    if {(vm.vm_id, vm.generation): vm for vm in daemon.compute.vms.values()} != rows:
        raise Violation("I10", f"the memory and the journal of {host.name} differ")
    if busy := [vm_id for vm_id, vm in daemon.compute.look().items() if vm is None]:
        raise Violation("I10", f"{busy[0][:6]} is busy on {host.name}, with nothing")
    promised = sorted(vm.claim.vm_id for vm in rows.values() if vm.state in RUNS)
    if sorted(claim.vm_id for claim in daemon.ledger.committed()) != promised:
        raise Violation("I10", f"the ledger of {host.name} is not what its journal says")
    attached = host.storage.attached()
    if left := {life for life in attached if life[:2] not in host.hosts[papers.number_of(life[2]) - 1].disk.rows}:
        lives = ", ".join(f"{vm_id[:6]}.{generation}" for vm_id, generation, _ in sorted(left))
        raise Violation("I10", f"volumes of {host.name} are attached to VMs that are no more: {lives}")


class Judge:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._whole_s = float("-inf")
        self._by_name: dict[str, Host] = {}
        self._ran: defaultdict[Life, set[str]] = defaultdict(set)
        self._promised: defaultdict[Life, set[str]] = defaultdict(set)
        self._acknowledged: defaultdict[str, dict[Life, None]] = defaultdict(dict)
        self._checked: dict[tuple[str, str], tuple[Claim, ...]] = {}
        self._told_no: set[Life] = set()
        self._began: dict[tuple[str, Life], tuple[float, int]] = {}  # when a life was first written down, in which boot
        self._seen: dict[str, tuple[Identity, Bundle]] = {}  # what each host goes by, since the last event
        self._floors: dict[str, Bundle] = {}  # what is on its disk for sure
        self._issuers: Sequence[str] = ()
        self._gone: set[UserId] = set()  # revoked, and an admin was told that it is done
        self._contradicted: set[VmId] = set()  # removed by a person whose `run` was still under way

    # ---- what is seen

    def wrote(self, host: Host, vm: Vm) -> None:
        life = (vm.vm_id, vm.generation)
        if vm.state in IS_KEPT:
            no_start_after_a_no(life, self._told_no, host.name)
            self._promised[life].add(host.name)
            self._once(life, self._promised[life])
        if vm.state is State.COMMITTED:  # takes the place of an older generation
            self._forget(host, vm.vm_id, vm.generation - 1)

    def writes(self, host: Host, vm: Vm) -> None:
        """Before it is on the disk."""
        self._see(host)
        before_s = self._revoked_before_s(host, vm.user_id)
        life = (vm.vm_id, vm.generation)
        is_new = (host.name, life) not in self._began
        leaf = host.shown.get(vm.offer_id)
        if is_new and vm.state in (State.PREPARED, State.COMMITTED):
            assert leaf is not None, "it came by a confirm"
            self._began[host.name, life] = self._timeline.now_s, host.boots
            by_a_member(host, vm, leaf, before_s)
            no_more_than_granted(host, vm, leaf.principal.grant)
        elif vm.state is State.COMMITTED:
            by_a_member(host, vm, None, before_s)
        no_lease_ends_early(host, vm, self._began.get((host.name, life)), self._timeline.now_s)

    def began(self, host: Host, domain: Domain) -> None:
        life = (domain.vm_id, domain.generation)
        self._ran[life].add(host.name)
        self._once(life, self._ran[life])

    def acknowledged(self, host: Host, vm: Vm) -> None:
        self._acknowledged[host.name][vm.vm_id, vm.generation] = None

    def removed(self, host: Host, vm: Vm) -> None:
        self._forget(host, vm.vm_id, vm.generation)

    def told(self, vm_id: VmId, generation: int, outcome: Outcome) -> None:
        is_no = isinstance(outcome, AllRefused | NoHostFits | NoHostInReach | VolumeMissing)
        if is_no or (isinstance(outcome, Interrupted) and outcome.left is None):
            self._told_no.add((vm_id, generation))
            if vm_id not in self._contradicted:
                for host in self._promised.get((vm_id, generation), ()):
                    no_start_after_a_no((vm_id, generation), self._told_no, host)

    def told_again(self, vm_id: VmId) -> None:
        self._contradicted.add(vm_id)

    def saved(self, host: Host, bundle: Bundle) -> None:
        self._see(host)  # an issuer that starts saves at once: what it has lost would be looked for no more
        self._floors[host.name] = bundle

    def restored(self, host: Host) -> None:
        """Its disk is an older one."""
        self._floors[host.name] = _on_disk(host)
        self.lost()

    def lost(self, issuers: Sequence[str] = ()) -> None:
        """A revocation that no issuer (`issuers`: of today) has on its disk can't be passed on to others."""
        self._issuers = issuers or self._issuers
        floors = [floor for name, floor in self._floors.items() if name in self._issuers]
        self._gone = {user_id for user_id in self._gone if any(_is_revoked(floor, user_id) for floor in floors)}

    def acknowledged_revocation(self, host: Host, user_id: UserId) -> None:
        """By one who may not have heard yet that it is no issuer any more: then it counts for itself alone."""
        on_disk = _on_disk(host)
        if not _is_revoked(on_disk, user_id):
            raise Violation(
                "I11", f"user {user_id[:6]} was revoked, as an admin was told, and {host.name} did not keep it"
            )
        self._floors[host.name] = on_disk
        self._gone.add(user_id)
        self.lost()

    # ---- the judgement

    def look(self, hosts: Sequence[Host]) -> None:
        touched, now_s = self._timeline.touched, self._timeline.now_s
        if len(hosts) <= WHOLE_UP_TO or now_s >= self._whole_s + WHOLE_EVERY_S:
            self._whole_s = now_s
            self.check(hosts)
        elif touched:
            self._by_name = self._by_name or {host.name: host for host in hosts}
            self.check(self._by_name[name] for name in touched if name)
        touched.clear()

    def check(self, hosts: Iterable[Host]) -> None:
        now_s = self._timeline.now_s
        for host in hosts:
            self._see(host)
            promised = host.daemon.ledger.promised(now_s) if host.daemon is not None else ()
            if not (promised or host.libvirt.domains or self._acknowledged[host.name]):
                continue  # as most hosts of a large realm: what has nothing has not too much
            self._check_claims(host, tuple(domain.claim for domain in host.libvirt.domains.values()), "in use")
            self._check_claims(host, promised, "promised")
            nothing_runs_unpromised(host)
            holds_end(host, now_s)
            acknowledged_survives(host, self._acknowledged[host.name])

    def check_end(self, hosts: Iterable[Host]) -> None:
        for host in hosts:
            all_is_settled(host)

    def check_known(self, hosts: Sequence[Host]) -> None:
        """Once the hosts have had the time to tell each other everything."""
        all_know_the_same(hosts)
        self.lost([host.name for host in hosts if _is_issuer(host)])  # the root's last word may have reached nobody
        dropped_issuers_are_stood_in_for(hosts)
        for user_id in sorted(self._gone):
            if self._revoked_before_s(hosts[0], user_id) != float("inf"):
                raise Violation("I11", f"user {user_id[:6]} was revoked, as an admin was told, and nobody knows it")

    def _see(self, host: Host) -> None:
        if host.daemon is None:
            return
        identity = host.daemon.upkeep.identity
        bundle = identity.bundle
        seen = self._seen.get(host.name)
        if seen is not None and seen[1] is bundle:
            return
        if seen is not None and seen[0] is identity:
            only_grows(host.name, seen[1].anchor.epoch, seen[1].revocations, bundle, "before")
        elif (floor := self._floors.get(host.name)) is not None:
            only_grows(host.name, floor.anchor.epoch, floor.revocations, bundle, "on its disk")
        self._seen[host.name] = identity, bundle

    def _revoked_before_s(self, host: Host, user_id: UserId) -> float:
        """By the documents that the host was seen with, and not by what it makes of them."""
        documents = self._seen[host.name][1].revocations.values()
        mine = (_reach(signed.says) for signed in documents if signed.says.id == user_id)
        return max(mine, default=0.0)

    def _check_claims(self, host: Host, claims: tuple[Claim, ...], what: str) -> None:
        """Once for every change; most events change nothing of it."""
        if self._checked.get((host.name, what)) != claims:
            self._checked[host.name, what] = claims
            no_more_than_capacity(host.hardware, claims, what)
            one_owner_of_a_device(claims, what)

    def _once(self, life: Life, hosts: set[str]) -> None:
        if life[0] not in self._contradicted:
            one_domain_over_all_hosts(life, hosts)

    def _forget(self, host: Host, vm_id: VmId, up_to: int) -> None:
        mine = self._acknowledged[host.name]
        for life in [life for life in mine if life[0] == vm_id and life[1] <= up_to]:
            del mine[life]
