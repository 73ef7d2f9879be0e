"""What `top` shows: sums of the realm, then a line for each host, in as many cells and lines as there are.

    acme   2,943 hosts: 2,940 alive, 3 gone   as h1 sees it
    slots   ████████████░░░░░░░░  12,104/20,480   ram  ███░░░ ...
    HOST    STATE   SLOTS                 RAM ...
    h17     alive   ██████████  16/16     ██████░░░░  38/64 GiB ...
    and 2,926 more

Where there is little room, the columns that matter less go first, then the sums; the first line and one host stay as
long as there are two lines. No line is longer than `width`, and there are no more than `height` of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from matcher.cli import hosts_views as views
from matcher.cli.hosts_seen import Host, Looked
from matcher.cli.hosts_views import Amount
from matcher.cli.output import cell_len, cut, printable
from matcher.wire.gossip import HostState

WIDTH_MIN, HEIGHT_MIN = 2, 1
BARS = (10, 5, 0)  # cells of a bar in a host's line: as many as leave room for slots and RAM
SUMS_BAR, SUMS_WORDS = 20, 29  # cells of the realm's bars, and of what stands beside each
NAME_MAX = 24
GAP = 2
MATTERS = 7  # columns from here on are worth narrower bars
SUMS_HEIGHT_MIN = 8  # from so many lines on, the sums have lines of their own


class Tone(Enum):
    PLAIN = ""
    HEAD = "1"
    GOOD = "32"
    WARM = "33"
    HOT = "31"
    DIM = "2"


Span = tuple[str, Tone]
Line = list[Span]


@dataclass(frozen=True, slots=True)
class Look:
    """How it is to look. `height` 0: as many lines as there are hosts; `fill` and `rest` are what bars are made of."""

    width: int
    height: int = 0
    sort: views.Sort = "slots"
    fill: str = "█"
    rest: str = "░"


@dataclass(frozen=True, slots=True)
class _Column:
    """`matters`: the larger, the longer it stays. `show` gives spans that are `width` cells wide at most."""

    head: str
    width: int
    matters: int
    show: Callable[[Host], Line]


def picture(looked: Looked, realm: str, look: Look, note: str = "") -> list[Line]:
    """Lines of spans, without any control character."""
    width, height = max(WIDTH_MIN, look.width), max(HEIGHT_MIN, look.height) if look.height else 0
    hosts = views.by_use(looked.hosts, look.sort)
    sums = views.sums(hosts)
    lines = _heads(looked, realm, sums, note, width, look)
    if height and height < SUMS_HEIGHT_MIN:
        lines = lines[: min(2, max(1, height - 1))]
    columns = _that_fit(hosts, width, look)
    if not height or height >= SUMS_HEIGHT_MIN:
        lines.append([(_row([(each.head, each.width) for each in columns]), Tone.HEAD)])
    room = height - len(lines) if height else len(hosts)
    shown = hosts if len(hosts) <= room else hosts[: max(0, room - 1)]
    lines += [_host_line(host, columns) for host in shown]
    if len(shown) < len(hosts) and room > 0:
        lines.append([(f"and {len(hosts) - len(shown):,} more", Tone.DIM)])
    return [fitted(line, width) for line in lines]


def fitted(line: Line, width: int) -> Line:
    """Cut after so many cells; a wide character that would stick out goes whole."""
    done, left = Line(), width
    for text, tone in line:
        shown = printable(text)
        if cell_len(shown) > left:
            shown = cut(shown, left)
        done.append((shown, tone))
        left -= cell_len(shown)
        if left <= 0:
            break
    return done


def plain(line: Line) -> str:
    return "".join(text for text, _ in line).rstrip()


def coloured(line: Line) -> str:
    return "".join(f"\x1b[{tone.value}m{text}\x1b[0m" if tone.value and text else text for text, tone in line)


# ---- the realm


def _heads(looked: Looked, realm: str, sums: views.Sums, note: str, width: int, look: Look) -> list[Line]:
    by = f"as {looked.asked} sees it" if looked.asked else "as they answer for themselves"
    hosts = "1 host" if len(looked.hosts) == 1 else f"{len(looked.hosts):,} hosts"
    is_well = set(sums.states) <= {HostState.ALIVE}
    first: Line = [(f"{realm}  ", Tone.HEAD), (f"{hosts}: {views.counted(sums.states)}", _tone_of(is_well=is_well))]
    first.append((f"  {by}", Tone.DIM))
    if note:
        first.insert(0, (f"{note}  ", Tone.HOT))
    return [first, *_sums(sums, width, look)]


def _sums(sums: views.Sums, width: int, look: Look) -> list[Line]:
    """A bar for each thing that is there, as many on a line as fit."""
    drained = f", {sums.drained:,} drained" if sums.drained else ""
    cells = max(0, min(SUMS_BAR, width - SUMS_WORDS))
    parts: list[Line] = [
        [(f"{name:<8}", Tone.PLAIN), *_bar(amount, cells, look), (f" {_used(name, amount, ','):<20}", Tone.PLAIN)]
        for name, amount in sums.amounts.items()
        if amount.total
    ]
    parts.append([(f"{'VMs':<8}{sums.vms:,}{drained}", Tone.PLAIN)])
    abreast = max(1, width // (SUMS_BAR + SUMS_WORDS))
    return [[span for part in parts[at : at + abreast] for span in part] for at in range(0, len(parts), abreast)]


# ---- the hosts


def _that_fit(hosts: Sequence[Host], width: int, look: Look) -> list[_Column]:
    """With the widest bars that leave room for what matters; without any, where nothing does."""
    for cells in BARS:
        columns = _columns(hosts, cells, look)
        wanted = [each for each in columns if each.matters >= MATTERS]
        if _width(wanted) <= width or not cells:
            break
    while len(columns) > 1 and _width(columns) > width:
        columns.remove(min(columns, key=lambda each: each.matters))
    return columns


def _width(columns: Sequence[_Column]) -> int:
    return sum(each.width + GAP for each in columns) - GAP


def _columns(hosts: Sequence[Host], cells: int, look: Look) -> list[_Column]:
    name = min(NAME_MAX, max((cell_len(printable(host.view.name)) for host in hosts), default=4))

    def bar(head: str, width: int, matters: int, of: Callable[[Host], Amount | None], unit: str) -> _Column:
        shown = head if cells else head.removesuffix(" USED")
        return _Column(shown, cells + 1 + width, matters, lambda host: _host_bar(host, of(host), unit, cells, look))

    state = max((len(views.state(host)) for host in hosts), default=5)
    found = [
        _Column("HOST", max(4, name), 9, lambda host: [(host.view.name, _name_tone(host))]),
        bar("SLOTS USED", 9, 8, views.slots, "slots"),
        bar("RAM USED", 13, 7, views.ram_mib, "ram"),
        _Column("STATE", max(5, state), 6, lambda host: [(views.state(host), _state_tone(host))]),
        _Column("VMS", 5, 4, lambda host: [(str(host.view.digest.vms), Tone.PLAIN)]),
        _Column("TOLD", 6, 3, lambda host: [(views.age(host.view.told_s), Tone.DIM)]),
    ]
    if any(views.devices(host) and host.view.digest.devices for host in hosts):
        found.insert(3, bar("DEVICES USED", 7, 5, views.devices, "devices"))
    if any(views.disk_gb(host) for host in hosts):
        found.insert(-3, bar("DISK USED", 15, 2, views.disk_gb, "disk"))
    return found


def _host_line(host: Host, columns: Sequence[_Column]) -> Line:
    line = Line()
    for column in columns:
        spans = fitted(column.show(host), column.width)
        pad = column.width + GAP - sum(cell_len(text) for text, _ in spans)
        line += [*spans, (" " * pad, Tone.PLAIN)]
    return line


def _host_bar(host: Host, amount: Amount | None, name: str, cells: int, look: Look) -> Line:
    """Nothing is in use or free where nobody is."""
    if amount is None or host.view.state not in views.COUNTS:
        return [("-", Tone.DIM)]
    return [*_bar(amount, cells, look), (f" {_used(name, amount)}" if cells else _used(name, amount), Tone.PLAIN)]


def _bar(amount: Amount, cells: int, look: Look) -> Line:
    """Whatever is in use shows, and what is not full does not look so."""
    filled = round(amount.share * cells)
    if cells > 1 and 0 < amount.used < amount.total:
        filled = min(max(filled, 1), cells - 1)
    tone = Tone.GOOD if amount.share < 0.7 else Tone.WARM if amount.share < 0.9 else Tone.HOT
    return [(look.fill * filled, tone), (look.rest * (cells - filled), Tone.DIM)]


def _used(name: str, amount: Amount, comma: str = "") -> str:
    shown = {"ram": views.mib, "disk": views.gb}.get(name)
    return (
        views.of_total(Amount(amount.total, amount.used), shown)
        if shown
        else f"{amount.used:{comma}}/{amount.total:{comma}}"
    )


def _row(cells: Sequence[tuple[str, int]]) -> str:
    return (" " * GAP).join(f"{text[:width]:<{width}}" for text, width in cells)


def _name_tone(host: Host) -> Tone:
    return Tone.PLAIN if host.view.state in views.COUNTS else Tone.DIM


def _state_tone(host: Host) -> Tone:
    match host.view.state:
        case HostState.ALIVE:
            return Tone.WARM if host.view.digest.drained else Tone.PLAIN
        case HostState.SUSPECT | HostState.DOWN:
            return Tone.WARM
        case HostState.GONE:
            return Tone.HOT
        case HostState.LEFT:
            return Tone.DIM


def _tone_of(*, is_well: bool) -> Tone:
    return Tone.PLAIN if is_well else Tone.WARM
