"""python -m tests.fuzz --inputs N --seed N: mutated inputs for all that reads what others wrote; exit code 1 on a find.

Told for each target: inputs, how many a second, how often something was raised that is no refusal (never, it should
be), and what the process has grown by. Growth in all beyond `GROWN_MAX_BYTES` is a find as well.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fakes.realms import make_realm
from tests.fuzz.front_door import fuzz_door
from tests.fuzz.running import fuzz, rss_bytes
from tests.fuzz.targets import targets

GROWN_MAX_BYTES = 32 << 20
DOOR_SHARE = 2  # of a thousand, on top


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), options.inputs, options.seed)


def run(folder: Path, inputs: int, seed: int) -> int:
    realm, begun_s = make_realm(folder, "ann", "h1", "h2"), time.perf_counter()
    all_targets = targets(realm, seed)
    fuzz(all_targets, 20_000, seed + 1, lambda _: None)  # so that what is measured is growth and not growing up
    before = rss_bytes()
    reports = fuzz(all_targets, inputs, seed, lambda line: print(line, flush=True))
    reports.append(fuzz_door(realm, inputs * DOOR_SHARE // 1000, seed))
    after = rss_bytes()
    print(reports[-1].line())
    for find in (find for report in reports for find in report.finds):
        print(find, file=sys.stderr)
    done, raised = sum(report.inputs for report in reports), sum(report.raised for report in reports)
    took_s = time.perf_counter() - begun_s
    print(
        f"seed {seed}: {done:,} inputs in {took_s:.0f} s, {raised} raised, "
        f"RSS {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after"
    )
    return 1 if raised or after - before > GROWN_MAX_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
