"""The number under which ganesha knows each export: its own, and the same whatever is started again.

Clients keep it in their handles. It is on the disk before it is used for the first time, and stays there after the
export has ended: so no other export gets it soon, to whom an old handle would seem to belong.
"""

import json
import logging
from collections.abc import Collection
from pathlib import Path

from matcher.trust import files
from storaged.export.ganesha_words import ID_MAX, number_for
from storaged.export.wanted import EXPORTS_MAX

NUMBERS_MAX = 16 * EXPORTS_MAX  # of those beyond, the first ones are forgotten; a quarter of all that there are
MEMORY_MAX_BYTES = 256 * NUMBERS_MAX

log = logging.getLogger("storaged")


class Numbers:
    """By name of target, in the order in which they were given. One caller at a time."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._given: dict[str, int] | None = None

    def of(self, target: str, *, taken: Collection[int], wanted: Collection[str]) -> int:
        """The number of that export. `taken`: what ganesha has for others now; `wanted`: whose numbers are not to be
        forgotten. Raises `OSError` where it can't be kept: it is not to be used then."""
        given = self._given if self._given is not None else self._read()
        number = given.get(target)
        if number is None or number in taken:
            number = number_for(target, {*taken, *given.values()})
            given = _newest({**given, target: number}, wanted)
            files.make_folder(self._memory.parent)
            files.write(self._memory, json.dumps(given).encode())
        self._given = given
        return number

    def _read(self) -> dict[str, int]:
        """What can't be read is made anew: most exports get the same numbers again."""
        try:
            with self._memory.open("rb") as file:
                value = json.loads(file.read(MEMORY_MAX_BYTES))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as problem:
            log.warning("the numbers of exports in %s are damaged, and given anew: %s", self._memory, problem)
            return {}
        pairs = value.items() if isinstance(value, dict) else ()
        sound = {target: number for target, number in pairs if isinstance(number, int) and 0 < number <= ID_MAX}
        each_once = {number: target for target, number in sound.items()}
        return {target: number for number, target in each_once.items()}


def _newest(given: dict[str, int], wanted: Collection[str]) -> dict[str, int]:
    forgotten = [target for target in given if target not in wanted][: max(0, len(given) - NUMBERS_MAX)]
    return {target: number for target, number in given.items() if target not in {*forgotten}}
