"""Our hosts, Serf and the floor on one machine, in turns: medians, the worst of a hundred, and ratios beside the goals.

    sudo .venv/bin/python -m tests.bench.gossip -n 50 --rounds 3

Needs root, for namespaces, and Debian, for Serf. All traffic stays on a bridge without an uplink, and all of it is gone
when this process is, however it ends. Prints a table, and judges nothing but the goals in it. The machine should have
nothing else to do; ratios are to be believed sooner than milliseconds.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

from tests.bench.gossip import serf
from tests.bench.gossip.rounds import Size, one_round
from tests.bench.gossip.table import table
from tests.bench.gossip.usage import come_first


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gossip", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("-n", type=int, default=50, metavar="HOSTS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=60, help="in a round, to ours and to each floor")
    parser.add_argument("--serf-questions", type=int, default=20)
    parser.add_argument("--placings", type=int, default=60, help="in a round, one at a time")
    parser.add_argument(
        "--sustained", type=float, default=10.0, metavar="SECONDS", help="of placing by several at once"
    )
    parser.add_argument("--rest", type=float, default=20.0, metavar="SECONDS", help="of being asked nothing")
    parser.add_argument("--out", type=Path, help="every figure, as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    serf.install()
    come_first()
    size = Size(
        hosts=options.n,
        questions=options.questions,
        serf_questions=options.serf_questions,
        placings=options.placings,
        sustained_s=options.sustained,
        rest_s=options.rest,
    )
    rounds = []
    for number in range(options.rounds):
        rounds.append(one_round(size))
        if options.out:
            options.out.write_text(json.dumps([dataclasses.asdict(each) for each in rounds], indent=1))
        load = " ".join(f"{each:.1f}" for each in os.getloadavg())
        print(f"\n{options.n} hosts, {number + 1} of {options.rounds} rounds; {os.cpu_count()} cores, load {load}")
        print(table(rounds), flush=True)


if __name__ == "__main__":
    main()
