"""A run's look at whether its judge has changed: `tables/drift.csv`, and a sentence for the user.

Knows when to look and where it is written. Leaves what a change is to `judges/api/drift.py`. No run fails for it.
"""

from __future__ import annotations

from traitline.errors import JudgeError
from traitline.files import write_whole
from traitline.judges.api.drift import check_drift, drift_table
from traitline.judges.openai import OpenAIJudge
from traitline.study.config import Judging
from traitline.study.store import RunStore


def look_for_drift(judge: object, judging: Judging, store: RunStore) -> tuple[str, ...]:
    """Ask a judge by API its first prompts again, where that is due, and write the table of all looks.

    Returns:
        What is to be told: a change beyond noise, or why there was no look.
    """
    if not isinstance(judge, OpenAIJudge) or not judging.drift_prompts:
        return ()
    try:
        found = check_drift(judge, hours=judging.drift_hours)
    except JudgeError as error:
        return (f"whether the judge has changed could not be looked at: {error}",)
    if found is None:
        return ()
    write_whole(store.tables / "drift.csv", drift_table(judge).to_csv(index=False))
    return (str(found),) if found.beyond_noise or found.mean_change is None else ()
