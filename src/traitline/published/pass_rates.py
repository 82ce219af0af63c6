"""The authors' own tables of pass rates, held against the judged answers and against the filter of a vector.

Knows the files `results/MODEL/.../pass_rate.csv`: how many answers of a side have a trait score of at least 50. Leaves counting
the answers and their accepted pairs to `extraction.py`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from traitline.published.columns import note_unknown, read_numbers
from traitline.published.release import RESULTS, Release

NEEDED = ("revision", "trait", "split", "passed", "total")
KNOWN = (*NEEDED, "model", "x_label", "label", "failed", "pass_rate", "threshold")


def check_pass_rates(release: Release, model: str, table: pd.DataFrame) -> None:
    """Compare tables of pass rates with the rows they count, and with the filter for which they are easily taken."""
    for path in sorted((release.root / RESULTS / model).rglob("pass_rate.csv")):
        rates = release.table(path, NEEDED, model=model)
        if rates is None:
            continue
        note_unknown(release, path, rates.columns, KNOWN, model=model)
        counts = read_numbers(release, path, rates, NEEDED[-2:], "these counts are compared with nothing", model=model)
        split = rates["trait"].astype(str).map(release.split)
        rates = rates[list(NEEDED)].assign(trait=split.str[0], strategy=split.str[1], checkpoint=rates["revision"].astype(str))
        rates[list(NEEDED[-2:])] = counts
        known = rates.dropna(subset=NEEDED[-2:]).merge(table.dropna(subset=["n_pairs"]), on=["trait", "strategy", "checkpoint"])
        positive = known["split"] == "pos"
        counted = known["pos_trait_ge50"].where(positive, known["neg_trait_ge50"])
        off = ((known["passed"] != counted) | (known["total"] != known["n_rows"])).fillna(True)
        file = release.file(path)
        if off.any():
            text = f"{int(off.sum())} of {len(known)} counts differ from the published answers; the answers are counted here"
            release.audit.add("pass_rate_differs", file, int(off.sum()), text, model=model)
        sides = known[positive]
        more = (sides["passed"] - sides["n_pairs"]).astype("Float64").fillna(0.0).to_numpy(dtype=np.float64)
        if more.any():
            count, worst = int((more != 0).sum()), sides.iloc[int(np.abs(more).argmax())]
            text = (
                f"passed counts rows with a trait score >= 50 on either side: for {count} of {len(sides)} checkpoints and "
                f"traits that is not the number of accepted pairs (furthest: {worst['trait']} at {worst['checkpoint']}, "
                f"{int(worst['passed'])} passed, {int(worst['n_pairs'])} accepted); a vector rests on the accepted pairs"
            )
            release.audit.add("pass_rate_is_not_the_filter", file, count, text, model=model)
