"""In whatever order VMs come and go, on whatever machine, nothing is promised twice, and what can be placed is."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atomd.capacity.fit import Fit, Misfit, fit
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.occupancy import charged_mib, uncharged_mib
from atomd.capacity.placement import admits, place
from atomd.inventory.facts import Core, Pages, PciDevice, UsbDevice
from matcher.wire import codec
from matcher.wire.messages import Accelerator, Arch, CoreClass, Firmware, PciAsk, Policy, Reason, UsbAsk, VmAsk
from specs.forms import PCI_CLASSES
from specs.ids import UserId, VmId

USERS = [UserId(letter * 64) for letter in "ab"]
KINDS = [("10de", "24b0"), ("10de", "228b"), ("1002", "73bf")]
USB_KINDS = [("1050", "0407"), ("0951", "1666")]
OPEN_KINDS = [("", "", "03"), ("10de", "", "03"), ("10de", "24b0", "0302"), ("", "", "0403"), ("", "", "02")]


def broken(hardware: Hardware, claims: Sequence[Claim]) -> set[str]:
    """The rules that these claims break together, from the claims alone and in other words than the code's."""
    return {
        *(_broken_on(core, claims, hardware) for core in hardware.cores),
        *(_broken_by(claim, hardware) for claim in claims),
        "memory" if _overdrawn(hardware, claims) else "",
        "huge pages" if _overfilled(hardware, claims) else "",
        "devices" if _torn_apart(hardware, claims) else "",
        "plugged" if _pulled_apart(hardware, claims) else "",
    } - {""}


def _broken_on(core: Core, claims: Sequence[Claim], hardware: Hardware) -> str:
    on_core = [claim for claim in claims if set(claim.threads) & set(core.threads)]
    for thread in core.threads:
        on_thread = [claim for claim in on_core if thread in claim.threads]
        if len(on_thread) > min((claim.overprovision for claim in on_thread), default=1):
            return "a thread carries more than its strictest VM allows"
    if any(not claim.smt and len(on_core) > claim.overprovision for claim in on_core):
        return "a core carries more than its strictest whole-core VM allows"
    users = {claim.user_id for claim in on_core}
    if len(core.threads) > 1 and len(users) > 1 and not hardware.share_cores_between_users:
        return "two users on siblings"
    return ""


def _broken_by(claim: Claim, hardware: Hardware) -> str:
    cores = [core for core in hardware.cores if set(core.threads) & set(claim.threads)]
    if not claim.threads or not set(claim.threads) <= {thread for core in cores for thread in core.threads}:
        return "threads that are not there"
    if len({core.core_class for core in cores}) > 1 and not claim.spans_classes:
        return "spans classes"
    if claim.smt:
        return "" if claim.threads_per_core == 1 else "thread VMs have no siblings"
    whole = all(set(core.threads) <= set(claim.threads) for core in cores)
    return "" if whole and {len(core.threads) for core in cores} == {claim.threads_per_core} else "not whole and alike"


def _overdrawn(hardware: Hardware, claims: Sequence[Claim]) -> bool:
    used: Counter[int] = Counter()
    for claim in claims:
        used.update(dict(claim.ram_mib))
    return any(mib > dict(hardware.ram_mib).get(node, 0) for node, mib in used.items())


def _overfilled(hardware: Hardware, claims: Sequence[Claim]) -> bool:
    left = Counter({(pages.node, pages.size_kib): pages.count for pages in hardware.pages})
    for pages in (claim.pages for claim in claims if claim.pages is not None):
        left[pages.node, pages.size_kib] -= pages.count
    return any(count < 0 for count in left.values())


def _torn_apart(hardware: Hardware, claims: Sequence[Claim]) -> bool:
    """A device with two owners, one that is not lent, or an IOMMU group in more than one hand."""
    owners = [(address, claim.vm_id) for claim in claims for address in claim.pci]
    owner = dict(owners)
    if len(owner) < len(owners) or not owner.keys() <= {device.address for device in hardware.pci}:
        return True
    hands: dict[int, set[VmId | None]] = {}
    for device in (*hardware.pci, *hardware.pci_refused):
        if device.iommu_group is not None:
            hands.setdefault(device.iommu_group, set()).add(owner.get(device.address))
    return any(len(of_group) > 1 for of_group in hands.values())


def _pulled_apart(hardware: Hardware, claims: Sequence[Claim]) -> bool:
    """A USB device with two owners, one that is not lent, or one whose controller somebody has."""
    lent = {device.address: device for device in hardware.usb}
    ports = Counter(port for claim in claims for port in claim.usb)
    away = {address for claim in claims for address in claim.pci}
    return any(count > 1 or port not in lent or lent[port].controller in away for port, count in ports.items())


speeds = st.sampled_from([None, 2000, 3000, 5000])


@st.composite
def machines(draw: st.DrawFn, *, cores_max: int = 8, shares: bool | None = None) -> Hardware:
    """SMT 1 to 8, unequal and hybrid cores, nodes with no memory, nodes with memory alone, no node 0."""
    nodes = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True))
    numbers = iter(draw(st.permutations(range(cores_max * 8))))
    cores = []
    smt = draw(st.sampled_from([1, 2, 4, 8]))
    hybrid = draw(st.integers(0, 3)) == 3
    for _ in range(draw(st.integers(1, cores_max) | st.just(0))):
        threads = smt if draw(st.integers(0, 3)) else draw(st.integers(1, smt))  # some siblings are offline
        core_class = draw(st.sampled_from(["performance", "efficiency"])) if hybrid else None
        online = tuple(sorted(itertools.islice(numbers, threads)))
        cores.append(
            Core(online, draw(st.integers(0, 1)), draw(st.sampled_from(nodes)), core_class, max_mhz=draw(speeds))
        )
    lent = {
        node: draw(st.sampled_from([0, 300, 2000, 8192]))
        for node in draw(st.sets(st.integers(0, 5), min_size=1, max_size=4))
    }
    devices = [draw(_device(index, nodes)) for index in range(draw(st.integers(0, 6)))]
    plugged = [draw(_usb_device(index, devices)) for index in range(draw(st.integers(0, 4)))]
    return Hardware(
        archs=frozenset({Arch.X86_64}),
        accelerator=Accelerator.KVM,
        cpu_model="any",
        guest_flags=frozenset({"sse2"}),
        cores=tuple(cores),
        ram_mib=tuple(sorted(lent.items())),
        ecc=draw(st.sampled_from([True, False, None])),
        pci=tuple(device for device in devices if device.assignable),
        pci_refused=tuple(device for device in devices if not device.assignable),
        firmwares=frozenset(Firmware),
        share_cores_between_users=draw(st.booleans()) if shares is None else shares,
        usb=tuple(device for device in plugged if device.assignable),
        usb_refused=tuple(device for device in plugged if not device.assignable),
        pages=tuple(
            Pages(node, size_kib, draw(st.sampled_from([0, 3, 150, 2000])))
            for node in draw(st.sets(st.sampled_from(nodes)))
            for size_kib in draw(st.sets(st.sampled_from([2048, 65536])))
        ),
        caches=draw(_caches(cores)),
    )


@st.composite
def _caches(draw: st.DrawFn, cores: list[Core]) -> tuple[tuple[int, ...], ...]:
    """Each within a socket, some over nodes; some machines don't say, and some of some cores alone."""
    if draw(st.booleans()):
        return ()
    shared: dict[tuple[int, int], tuple[int, ...]] = {}
    for core in cores:
        number = draw(st.sampled_from([0, 0, 1, 1, 2, None]))
        if number is not None:
            shared[core.socket, number] = *shared.get((core.socket, number), ()), *core.threads
    return tuple(shared.values())


groups = st.sampled_from([None, None, None, 1, 2])


@st.composite
def machines_of_devices(draw: st.DrawFn) -> Hardware:
    """One or two nodes with cores and memory for some VMs, and up to six devices between them."""
    nodes = draw(st.sampled_from([[0], [0, 1]]))
    cores = tuple(Core((number,), 0, draw(st.sampled_from(nodes))) for number in range(draw(st.integers(3, 6))))
    devices = [
        replace(draw(_device(index, nodes)), numa=draw(st.sampled_from(nodes)), iommu_group=draw(groups))
        for index in range(draw(st.integers(1, 6)))
    ]
    return replace(
        draw(machines(cores_max=1, shares=True)),
        cores=cores,
        ram_mib=tuple((node, 8192) for node in nodes),
        pci=tuple(device for device in devices if device.assignable),
        pci_refused=tuple(device for device in devices if not device.assignable),
        usb=(),
        usb_refused=(),
        caches=(),
    )


@st.composite
def machines_of_caches(draw: st.DrawFn) -> Hardware:
    """Up to three nodes, each with cores of one kind in up to three caches, and memory enough on some."""
    smt, cores, caches = draw(st.sampled_from([1, 1, 2])), [], defaultdict[tuple[int, int], tuple[int, ...]](tuple)
    nodes = draw(st.sampled_from([1, 2, 2, 3]))
    for number in range(draw(st.integers(3, 6))):
        core = Core(tuple(range(number * smt, (number + 1) * smt)), 0, draw(st.integers(0, nodes - 1)))
        caches[core.numa, draw(st.integers(0, 2))] += core.threads
        cores.append(core)
    ram = tuple((node, draw(st.sampled_from([500, 16384]))) for node in range(nodes))
    base = draw(machines(cores_max=1, shares=True))
    return replace(base, cores=tuple(cores), ram_mib=ram, caches=tuple(caches.values()), pci=(), usb=(), pages=())


@st.composite
def _usb_device(draw: st.DrawFn, index: int, devices: list[PciDevice]) -> UsbDevice:
    """Behind any device: each may be a controller."""
    vendor, model = draw(st.sampled_from(USB_KINDS))
    controller = draw(st.sampled_from([None, *(device.address for device in devices)]))
    why_not = None if draw(st.integers(0, 4)) else "the host's own"
    port = f"1-{index + 1}"
    return UsbDevice(port, vendor, model, "000000", "", 1, index + 2, controller, None, why_not is None, why_not)


@st.composite
def _device(draw: st.DrawFn, index: int, nodes: list[int]) -> PciDevice:
    vendor, model = draw(st.sampled_from(KINDS))
    assignable = draw(st.integers(0, 4)) > 0
    return PciDevice(
        address=f"0000:{index:02x}:00.0",
        vendor=vendor,
        model=model,
        device_class="040300" if model == "228b" else draw(st.sampled_from(["030000", "030200"])),
        numa=draw(st.sampled_from([None, *nodes])),
        iommu_group=draw(st.sampled_from([None, 1, 2, 3])),
        driver=None,
        assignable=assignable,
        why_not=None if assignable else "the host's own",
    )


@st.composite
def asks(draw: st.DrawFn, *, slots_max: int = 6) -> VmAsk:
    any_kinds = st.sampled_from([*((*kind, "") for kind in KINDS), *OPEN_KINDS])
    kinds = draw(st.lists(any_kinds, max_size=3)) if draw(st.integers(0, 2)) == 0 else []
    plugged = draw(st.lists(st.sampled_from(USB_KINDS), max_size=2)) if draw(st.booleans()) else []
    return VmAsk(
        slots=draw(st.integers(1, slots_max)),
        smt=draw(st.booleans()),
        overprovision=draw(st.sampled_from([1, 1, 2, 3, 4])),
        archs=(Arch.X86_64,),
        flags=(),
        ram_mib=draw(st.integers(1, 300) | st.integers(1, 2048)),
        ecc=False,
        pci=tuple(PciAsk(vendor, model, draw(st.sampled_from([1, 1, 2])), code) for vendor, model, code in kinds),
        firmware=Firmware.BIOS,
        allow_emulation=False,
        core_class=draw(st.sampled_from([None, None, *CoreClass])),
        hugepages_kib=draw(st.sampled_from([0, 0, 0, 2048, 65536])),
        min_frequency_mhz=draw(st.sampled_from([0, 0, 0, 1, 2500, 5000, 5001])),
        usb=tuple(UsbAsk(vendor, model, draw(st.sampled_from([1, 1, 2]))) for vendor, model in plugged),
    )


users = st.sampled_from(USERS)
policies = st.sampled_from(Policy)


def vm(number: int) -> VmId:
    return VmId(f"{number:032x}")


def settled(before: list[tuple[VmAsk, UserId]], hardware: Hardware, policy: Policy = Policy.PACK) -> list[Claim]:
    """Those of the earlier VMs that found room."""
    residents: list[Claim] = []
    for number, (ask, user_id) in enumerate(before, 1):
        placed = place(ask, hardware, residents, vm_id=vm(number), user_id=user_id, policy=policy)
        residents += [placed.claim] if placed else []
    return residents


class PlacementRules(RuleBasedStateMachine):
    """Asks and releases in any order. The rules are checked from the claims alone, by other words than the code's."""

    @initialize(hardware=machines())
    def start(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.claims: list[Claim] = []
        self.made = 0

    @rule(ask=asks(), user_id=users, policy=policies)
    def ask(self, ask: VmAsk, user_id: UserId, policy: Policy) -> None:
        self.made += 1
        answer = fit(ask, self.hardware, self.claims, vm_id=vm(self.made), user_id=user_id, policy=policy)
        if isinstance(answer, Misfit):
            assert answer.reasons
            return
        claim = answer.placed.claim
        assert admits(self.hardware, self.claims, claim)
        assert 0 <= answer.placed.score <= 1
        is_what_was_asked(ask, claim, self.hardware)
        self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.claims.remove(data.draw(st.sampled_from(self.claims)))

    @invariant()
    def no_rule_is_broken(self) -> None:
        assert not broken(self.hardware, self.claims)


def is_what_was_asked(ask: VmAsk, claim: Claim, hardware: Hardware) -> None:
    cores = [core for core in hardware.cores if set(core.threads) & set(claim.threads)]
    assert len({core.core_class for core in cores}) == 1 or ask.core_class is CoreClass.ANY
    assert all(_is_wanted(core, ask) for core in cores)
    assert len(claim.threads) == ask.slots * claim.threads_per_core
    assert len(set(claim.threads)) == len(claim.threads)
    in_pages = 0 if claim.pages is None else claim.pages.mib
    assert (claim.pages.size_kib if claim.pages else 0) == ask.hugepages_kib
    assert ask.ram_mib <= in_pages < ask.ram_mib + 64 or not ask.hugepages_kib
    plain = charged_mib(ask.ram_mib) - (ask.ram_mib if ask.hugepages_kib else 0)
    assert sum(mib for _, mib in claim.ram_mib) == plain
    if not ask.smt:
        assert {len(core.threads) for core in cores} == {claim.threads_per_core}
        for at in range(0, len(claim.threads), claim.threads_per_core):
            assert claim.threads[at : at + claim.threads_per_core] in [core.threads for core in cores]
    if claim.numa >= 0:
        assert {core.numa for core in cores} == {claim.numa} == {node for node, _ in claim.ram_mib}
        assert claim.pages is None or claim.pages.node == claim.numa
    assert serve(ask, [device for device in hardware.pci if device.address in claim.pci])
    if not ask.pci:
        assert not claim.pci
    assert _plugged_as_asked(ask, [device for device in hardware.usb if device.address in claim.usb])


def _plugged_as_asked(ask: VmAsk, devices: Sequence[UsbDevice]) -> bool:
    wanted = [(each.vendor, each.model) for each in ask.usb for _ in range(each.quantity)]
    return sorted(wanted) == sorted((device.vendor, device.model) for device in devices)


def _is_wanted(core: Core, ask: VmAsk) -> bool:
    if ask.core_class in (CoreClass.PERFORMANCE, CoreClass.EFFICIENCY) and core.core_class != ask.core_class:
        return False
    return ask.min_frequency_mhz == 0 or (core.max_mhz is not None and core.max_mhz >= ask.min_frequency_mhz)


def serve(ask: VmAsk, devices: Sequence[PciDevice]) -> bool:
    """Whether these devices are what the ask wants, one for each: every way is tried."""
    wanted = [each for each in ask.pci for _ in range(each.quantity)]

    def left(index: int, over: Sequence[PciDevice]) -> bool:
        return index == len(wanted) or any(
            left(index + 1, [*over[:at], *over[at + 1 :]])
            for at, device in enumerate(over)
            if (wanted[index].vendor or device.vendor) == device.vendor
            and (wanted[index].model or device.model) == device.model
            and device.device_class[: len(wanted[index].device_class)] == wanted[index].device_class
        )

    return len(wanted) <= len(devices) and left(0, devices)


@st.composite
def claims_on(draw: st.DrawFn, hardware: Hardware, like: Claim | None) -> Claim:
    """Any claim: a good one with one thing changed, where there is a good one."""
    cores = draw(st.lists(st.sampled_from(hardware.cores), max_size=3, unique=True)) if hardware.cores else []
    whole = tuple(thread for core in cores for thread in core.threads)
    some = tuple(draw(st.lists(st.sampled_from(whole), unique=True))) if whole else ()
    here = [device.address for device in (*hardware.pci, *hardware.pci_refused)]
    addresses = tuple(draw(st.lists(st.sampled_from(here), unique=True))) if here else ()
    plugged = [device.address for device in (*hardware.usb, *hardware.usb_refused)]
    ports = tuple(draw(st.lists(st.sampled_from(plugged), unique=True))) if plugged else ()
    ram = tuple((node, draw(st.integers(1, 4000))) for node, _ in hardware.ram_mib)
    base = like or Claim(vm(98), USERS[0], some, 1, True, 1, ((0, 200),), -1, ())
    base = replace(base, user_id=draw(users), overprovision=draw(st.integers(1, 4)))
    changed = [
        base,
        replace(base, threads=some, threads_per_core=1, smt=True),
        replace(base, threads=whole, threads_per_core=len(cores[0].threads) if cores else 1, smt=False),
        replace(base, threads=base.threads[:-1]),
        replace(base, ram_mib=ram),
        replace(base, pci=addresses),
        replace(base, pci=base.pci[1:]),
        replace(base, threads=some, threads_per_core=1, smt=True, spans_classes=True),
        replace(base, pages=draw(st.builds(Pages, st.integers(0, 5), st.just(2048), st.integers(1, 200)))),
        replace(base, usb=ports),
        replace(base, usb=ports[:1]),
        replace(base, usb=ports[:1], pci=()),
        replace(base, usb=base.usb * 2),
    ]
    return draw(st.sampled_from(changed))


plain = st.builds(
    replace,
    asks(),
    slots=st.integers(1, 3),
    ram_mib=st.integers(1, 600),
    core_class=st.none(),
    hugepages_kib=st.just(0),
    min_frequency_mhz=st.just(0),
    usb=st.just(()),
)
"""What most people ask for, and what most machines have room for; with devices or without."""


@settings(max_examples=180, deadline=None)
@given(
    hardware=machines(cores_max=5),
    before=st.lists(st.tuples(asks(slots_max=2), users), max_size=5),
    ask=asks(slots_max=2),
    data=st.data(),
)
def test_the_judge_denies_exactly_what_would_break_a_rule(
    hardware: Hardware, before: list[tuple[VmAsk, UserId]], ask: VmAsk, data: st.DataObject
) -> None:
    residents = settled(before, hardware)
    good = place(ask, hardware, residents, vm_id=vm(98), user_id=USERS[0], policy=Policy.PACK)
    claim = data.draw(claims_on(hardware, good.claim if good else None))
    assert admits(hardware, residents, claim) == (not broken(hardware, [*residents, claim]))


TestPlacementRules = PlacementRules.TestCase
TestPlacementRules.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def some_share_exists(ask: VmAsk, hardware: Hardware, residents: list[Claim], user_id: UserId) -> bool:
    """Try everything, and let the judge decide: every set of units, RAM in every node, every set of devices."""
    need = charged_mib(ask.ram_mib) - (ask.ram_mib if ask.hugepages_kib else 0)
    used = Counter[int]()
    for claim in residents:
        used.update(dict(claim.ram_mib))
    ram = []
    for node, mib in hardware.ram_mib:
        if share := min(need, mib - used[node]):
            ram.append((node, share))
            need -= share
    cores = [core for core in hardware.cores if _is_wanted(core, ask)]
    units = [(thread,) for core in cores for thread in core.threads] if ask.smt else [core.threads for core in cores]
    devices = [
        tuple(device.address for device in some)
        for count in range(len(hardware.pci) + 1)
        for some in itertools.combinations(hardware.pci, count)
        if serve(ask, some) and (ask.pci or not some)
    ]
    plugged = [
        tuple(device.address for device in some)
        for some in itertools.combinations(hardware.usb, sum(each.quantity for each in ask.usb))
        if _plugged_as_asked(ask, some)
    ]
    if need or not devices:
        return False
    empty = Claim(vm(0), user_id, (), 1, ask.smt, ask.overprovision, tuple(ram), -1, ())
    if ask.hugepages_kib:
        count = -(-ask.ram_mib * 1024 // ask.hugepages_kib)
        wanted = [Pages(each.node, ask.hugepages_kib, count) for each in hardware.pages]
        found = [pages for pages in wanted if not _overfilled(hardware, [*residents, replace(empty, pages=pages)])]
        if not found:
            return False
        empty = replace(empty, pages=found[0])
    empty = replace(empty, spans_classes=ask.core_class is CoreClass.ANY)
    for some in itertools.combinations(units, ask.slots):
        threads = tuple(thread for unit in some for thread in unit)
        claim = replace(empty, threads=threads, threads_per_core=1 if ask.smt else len(some[0]))
        if admits(hardware, residents, claim):
            both = itertools.product(devices, plugged)
            return any(admits(hardware, residents, replace(claim, pci=pci, usb=usb)) for pci, usb in both)
    return False


@settings(max_examples=150, deadline=None)
@given(
    hardware=machines(cores_max=5),
    before=st.lists(st.tuples(asks(slots_max=2), users), max_size=5),
    ask=asks(slots_max=3),
    user_id=users,
    policy=policies,
)
def test_a_share_is_found_exactly_where_one_exists(
    hardware: Hardware, before: list[tuple[VmAsk, UserId]], ask: VmAsk, user_id: UserId, policy: Policy
) -> None:
    residents = settled(before, hardware, policy)
    found = place(ask, hardware, residents, vm_id=vm(99), user_id=user_id, policy=policy)
    assert (found is not None) == some_share_exists(ask, hardware, residents, user_id)
    assert found is None or admits(hardware, residents, found.claim)


_EDITED: dict[str, Callable[[VmAsk, str], VmAsk]] = {
    "cpu.slots": lambda ask, value: replace(ask, slots=int(value)),
    "cpu.overprovision": lambda ask, value: replace(ask, overprovision=int(value)),
    "cpu.allowSMT": lambda ask, value: replace(ask, smt=value == "true"),
    "ram.ramsize": lambda ask, value: replace(ask, ram_mib=int(value)),
    "ram.reqECC": lambda ask, value: replace(ask, ecc=value == "true"),
    "cpu.core_class": lambda ask, value: replace(ask, core_class=CoreClass(value)),
    "cpu.min_frequency": lambda ask, value: replace(ask, min_frequency_mhz=int(value)),
    "ram.hugepages": lambda ask, value: replace(ask, hugepages_kib={"none": 0}[value]),
    "misc.tpm": lambda ask, value: replace(ask, tpm=value == "true"),
    "misc.firmware": lambda ask, value: replace(ask, firmware=Firmware(value)),
}


def _named(ask: PciAsk) -> str:
    return f"{ask.vendor}:{ask.model}" if ask.vendor else ask.device_class


def edited(ask: VmAsk, edit: str) -> VmAsk:
    """What `--set` does, on the ask."""
    path, value = edit.split("=")
    if path == "cpu.flags-":
        return replace(ask, flags=tuple(flag for flag in ask.flags if flag not in value.split(",")))
    if path == "pci-":
        names = {value, PCI_CLASSES.get(value)}
        return replace(ask, pci=tuple(each for each in ask.pci if _named(each) not in names))
    if path == "usb-":
        return replace(ask, usb=tuple(each for each in ask.usb if f"{each.vendor}:{each.model}" != value))
    if path in _EDITED:
        return _EDITED[path](ask, value)
    bus, index, field = path.split(".")
    assert field == "quantity"
    if bus == "usb":
        usb = list(ask.usb)
        usb[int(index)] = replace(usb[int(index)], quantity=int(value))
        return replace(ask, usb=tuple(usb))
    pci = list(ask.pci)
    pci[int(index)] = replace(pci[int(index)], quantity=int(value))
    return replace(ask, pci=tuple(pci))


@settings(max_examples=150, deadline=None)
@given(
    hardware=machines(cores_max=5),
    before=st.lists(st.tuples(asks(slots_max=2), users), max_size=5),
    ask=asks(slots_max=8),
    ecc=st.booleans(),
    flags=st.lists(st.from_regex(r"[a-z0-9_.+:-]{1,64}", fullmatch=True), max_size=30),
    user_id=users,
)
def test_every_edit_takes_its_own_reason_away_and_no_other(
    hardware: Hardware,
    before: list[tuple[VmAsk, UserId]],
    ask: VmAsk,
    ecc: bool,
    flags: list[str],
    user_id: UserId,
) -> None:
    residents = settled(before, hardware)
    ask = replace(ask, ecc=ecc, flags=tuple(flags), firmware=Firmware.UEFI)

    def reasons(of: VmAsk) -> dict[str, Reason]:
        answer = fit(of, hardware, residents, vm_id=vm(99), user_id=user_id, policy=Policy.PACK)
        return {} if isinstance(answer, Fit) else {reason.resource: reason for reason in answer.reasons}

    against = reasons(ask)
    for name, reason in against.items():
        codec.decode(Reason, codec.encode(reason))  # within the limits of the wire
        if reason.edit:
            assert reasons(edited(ask, reason.edit)).keys() == against.keys() - {name}


@given(free_mib=st.integers(0, 1 << 27))
def test_the_largest_ram_that_fits_is_exact(free_mib: int) -> None:
    mib = uncharged_mib(free_mib)
    assert charged_mib(mib + 1) > free_mib
    assert mib == 0 or charged_mib(mib) <= free_mib
