"""`python -m tests.hostile --minutes 60`: random cases for this time, then a line per reader."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.hostile.files import READERS
from tests.hostile.loop import Loop

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> int:
    """Print failures, each with the seed that repeats it, and a table; returns 1 if any failed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--seed", type=int, default=None, help="null: another one each time")
    options.add_argument("--reader", choices=sorted(READERS), action="append")
    options.add_argument("--case", type=int, help="one case of one reader, by its seed")
    given = options.parse_args()
    readers = given.reader or sorted(READERS)
    seed = random.randrange(2**32) if given.seed is None else given.seed
    dice, counts, broken = random.Random(seed), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(Path(folder), REPOSITORY)
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            name = readers[sum(counts.values()) % len(readers)]
            number = dice.randrange(2**32) if given.case is None else given.case
            fault = loop.fault_of(name, number)
            counts[name] += 1
            if fault:
                broken[name] += 1
                print(fault, flush=True)
            if given.case is not None:
                break
        loop.close()
    print(f"\nseed {seed}, {sum(counts.values())} cases, {sum(broken.values())} broken\n")
    print("| reader | cases | broken |\n|---|---|---|")
    for name in readers:
        print(f"| {name} | {counts[name]} | {broken[name]} |")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
