"""What a bench says of many seeds: means, ratios of paired means with their confidence, and what goes into a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean, quantiles
from typing import Any

RESAMPLES = 10_000


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Of the means, with a bootstrap's 95 % interval (percentiles; seeds are drawn, each with both of its figures)."""
    random, pairs = Random(1), list(zip(ours, theirs, strict=True))
    drawn = []
    for _ in range(RESAMPLES):
        sample = random.choices(pairs, k=len(pairs))
        below = sum(their for _, their in sample)
        drawn.append(sum(our for our, _ in sample) / below if below else float("inf"))
    cuts = quantiles(drawn, n=40)
    below = sum(theirs)
    return (sum(ours) / below if below else float("nan")), cuts[0], cuts[-1]


def told(name: str, ours: Sequence[float], theirs: Sequence[float], goal: str) -> dict[str, Any]:
    middle, low, high = ratio(ours, theirs)
    print(f"{name}: {middle:.3f}, 95 % of {RESAMPLES} resamples in [{low:.3f}, {high:.3f}] (goal: {goal})", flush=True)
    return {"of": name, "ratio": middle, "low": low, "high": high, "goal": goal, "seeds": len(ours)}


def p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98] if len(values) > 1 else float("nan")


def mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return fmean(row[key] for row in rows)


def column(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows]


class Report:
    """Rows and sums, written anew after each: whoever ends the bench early has what was there."""

    def __init__(self, path: Path | None, **about: Any) -> None:
        self._path = path
        self._said: dict[str, Any] = {**about, "rows": [], "sums": []}

    def row(self, row: dict[str, Any]) -> None:
        print("  ".join(f"{key} {f'{value:.4f}' if isinstance(value, float) else value}" for key, value in row.items()),
              flush=True)  # fmt: skip
        self._said["rows"].append(row)
        self._write()

    def sums(self, *sums: dict[str, Any]) -> None:
        self._said["sums"] += sums
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            self._path.write_text(json.dumps(self._said, indent=1) + "\n")
