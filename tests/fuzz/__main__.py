"""``python -m tests.fuzz``: a campaign by hand.

One line of JSON for every finding on stdout, the counts by kind and exit code at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from .campaign import Campaign, Tally
from .cases import KINDS, draw
from .material import make


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.fuzz")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", choices=sorted(KINDS), help="only cases of this kind")
    parser.add_argument("--only", type=int, help="one case, whose room is kept")
    parser.add_argument("--material", type=Path, help="folder for the whole files, kept between runs")
    parser.add_argument("--log", type=Path, help="file that gets a line for every case")
    given = parser.parse_args()
    tally, began = Tally(), time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="talkswap-fuzz-"))
    whole = make(given.material or place / "whole", with_data=True)
    with Campaign(whole, given.seed, place) as campaign:
        if given.only is not None:
            outcome = campaign.one(given.only, given.kind or draw(given.seed, given.only, campaign.shares), keep=True)
            print(outcome.case.arguments, outcome.code, outcome.trouble, outcome.err, place, sep="\n")
            return len(outcome.trouble)
        for outcome in campaign.cases(range(given.first, given.first + given.cases), given.kind):
            tally.outcomes.append(outcome)
            if outcome.trouble:
                print(json.dumps(dataclasses.asdict(Tally([outcome]).findings[0])), flush=True)
            if given.log is not None:
                line = [
                    outcome.case.number,
                    outcome.case.kind,
                    outcome.case.about,
                    outcome.code,
                    round(outcome.seconds, 2),
                ]
                with given.log.open("a") as log:
                    log.write(json.dumps([*line, outcome.trouble, outcome.err[-300:]]) + "\n")
        untouched = campaign.untouched()
    found = {
        "seed": given.seed, "first": given.first, "cases": len(tally.outcomes), "findings": len(tally.findings),
        "seconds": round(time.monotonic() - began), "slowest": round(max(o.seconds for o in tally.outcomes), 1),
        "whole files untouched": untouched, "codes": tally.table(),
    }  # fmt: skip
    print(json.dumps(found), file=sys.stderr)
    return int(bool(tally.findings) or not untouched)


if __name__ == "__main__":
    sys.exit(run())
