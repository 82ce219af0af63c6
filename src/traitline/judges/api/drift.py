"""Whether a judge on a server is still the one it was: its first prompts, asked again from time to time.

Knows which prompts are kept, when they were asked again, and what the change amounts to. The model behind a name may be changed
by its provider from one day to the next; the first prompts of a judge cache, spread over the first that were asked at once, are
kept with their first answers, and asked anew, never from the cache. Leaves asking, and what it costs, to the judge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Protocol

from traitline.judges.cache import JudgeCache
from traitline.judges.numbers import Reading

if TYPE_CHECKING:
    import pandas as pd

NOTEWORTHY_POINTS = 1.0
"""A mean change smaller than this is no news, however certain it is."""

COLUMNS = ["judge", "asked_first", "asked_again", "n", "n_missing", "mean_change", "ci_low", "ci_high", "mae", "beyond_noise"]


class Repeats(Protocol):
    """A judge that answers prompts again."""

    cache: JudgeCache | None
    min_mass: float

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    def numbers(self, prompts: Sequence[str], again: str = "") -> dict[str, list[Reading | str]]:
        """Return what the judge says to each prompt, as one reading or more."""
        ...


@dataclass(frozen=True, slots=True)
class Drift:
    """How the judge's scores of the kept prompts have changed.

    Attributes:
        judge: its name.
        asked_first: when the prompts were kept, in seconds since 1970.
        asked_again: when they were asked anew.
        n: scores compared.
        n_missing: scores missing the first time or now.
        mean_change: new minus first, in points; None without scores.
        ci_low: lower end of its 95 % interval over prompts; None with fewer than two.
        ci_high: upper end.
        mae: mean absolute change, in points.
    """

    judge: str
    asked_first: float
    asked_again: float
    n: int
    n_missing: int
    mean_change: float | None
    ci_low: float | None
    ci_high: float | None
    mae: float | None

    @property
    def beyond_noise(self) -> bool:
        """Whether the mean change is at least a point and its interval leaves out 0."""
        if self.mean_change is None or self.ci_low is None or self.ci_high is None:
            return False
        return abs(self.mean_change) >= NOTEWORTHY_POINTS and not self.ci_low <= 0 <= self.ci_high

    def __str__(self) -> str:
        if self.mean_change is None:
            return f"judge {self.judge} gave no score to any of the {self.n_missing} prompts it was asked again"
        interval = "" if self.ci_low is None else f" [{self.ci_low:+.1f}, {self.ci_high:+.1f}]"
        days = (self.asked_again - self.asked_first) / 86400
        verdict = (
            "it has changed, so scores from before and after do not compare" if self.beyond_noise else "no sign of a change"
        )
        return (
            f"judge {self.judge}, asked again after {days:.1f} days, scores {self.n} prompts {self.mean_change:+.1f} points"
            f"{interval} from the first time (mean absolute change {self.mae:.1f}): {verdict}"
        )


def keep_prompts(cache: JudgeCache, judge: str, answered: Sequence[str], count: int) -> bool:
    """Keep `count` of a judge's first prompts, evenly spread, unless there are some already; tell whether there are now."""
    if _kept(cache, judge):
        return True
    if len(answered) < count:
        return False
    chosen = [answered[i * len(answered) // count] for i in range(count)]
    with cache.transaction() as connection:
        rows = [(judge, number, prompt) for number, prompt in enumerate(dict.fromkeys(chosen))]
        connection.executemany("INSERT OR IGNORE INTO drift_prompts VALUES (?, ?, ?)", rows)
        connection.execute("INSERT INTO drift_checks VALUES (?, ?, 1)", (judge, time.time()))
    return True


def check_drift(judge: Repeats, *, hours: float) -> Drift | None:
    """Ask the kept prompts again where the last time is `hours` ago or more.

    A look that was cut short is finished, not begun anew.

    Returns:
        How the scores have changed; None where no prompts are kept or it is too early.

    Raises:
        JudgeError: the judge cannot be asked, for example for lack of budget.
    """
    if judge.cache is None or not (prompts := _kept(judge.cache, judge.name)):
        return None
    looks = _looks(judge.cache, judge.name)
    at = next((when for when, finished in looks if not finished), None)
    if at is None:
        if time.time() - looks[-1][0] < hours * 3600:
            return None
        at = time.time()
        with judge.cache.transaction() as connection:
            connection.execute("INSERT INTO drift_checks VALUES (?, ?, 0)", (judge.name, at))
    found = _drift(judge, prompts, looks[0][0], at)
    with judge.cache.transaction() as connection:
        connection.execute("UPDATE drift_checks SET finished = 1 WHERE judge = ? AND at = ?", (judge.name, at))
    return found


def drift_table(judge: Repeats) -> pd.DataFrame:
    """Return every look at a judge so far, oldest first; asks nothing."""
    import pandas as pd

    prompts = _kept(judge.cache, judge.name) if judge.cache is not None else []
    looks = [when for when, finished in _looks(judge.cache, judge.name) if finished] if judge.cache is not None else []
    records = []
    for at in looks[1:]:
        found = _drift(judge, prompts, looks[0], at)
        times = {name: pd.Timestamp(getattr(found, name), unit="s").strftime("%Y-%m-%dT%H:%M:%SZ") for name in COLUMNS[1:3]}
        records.append({**{name: getattr(found, name) for name in COLUMNS}, **times})
    return pd.DataFrame(records, columns=COLUMNS)


def _drift(judge: Repeats, prompts: Sequence[str], first: float, at: float) -> Drift:
    from scipy import stats

    before, after = judge.numbers(prompts), judge.numbers(prompts, again=f"drift {at:.6f}")
    changes, missing = _changes(before, after, judge.min_mass)
    mean = low = high = mae = None
    if len(changes):
        mean, mae = fmean(changes), fmean(abs(change) for change in changes)
    if mean is not None and len(changes) > 1:
        error = stdev(changes) / math.sqrt(len(changes))
        reach = error * float(stats.t.ppf(0.975, len(changes) - 1))
        low, high = mean - reach, mean + reach
    return Drift(judge.name, first, at, len(changes), missing, mean, low, high, mae)


def _changes(
    before: Mapping[str, list[Reading | str]], after: Mapping[str, list[Reading | str]], min_mass: float
) -> tuple[list[float], int]:
    """Return new minus first scores, and how many could not be compared."""
    pairs = [(old, new) for prompt in before for old, new in zip(before[prompt], after[prompt], strict=True)]
    scores = [(_score(old, min_mass), _score(new, min_mass)) for old, new in pairs]
    changes = [new - old for old, new in scores if old is not None and new is not None]
    return changes, len(scores) - len(changes)


def _score(told: Reading | str, min_mass: float) -> float | None:
    if isinstance(told, str):
        return None
    if told.refuses(min_mass):
        return 0.0
    return told.mean if told.mass >= min_mass - 1e-9 else None


def _kept(cache: JudgeCache, judge: str) -> list[str]:
    with cache.transaction() as connection:
        rows = connection.execute("SELECT prompt FROM drift_prompts WHERE judge = ? ORDER BY number", (judge,)).fetchall()
    return [prompt for (prompt,) in rows]


def _looks(cache: JudgeCache, judge: str) -> list[tuple[float, bool]]:
    with cache.transaction() as connection:
        rows = connection.execute("SELECT at, finished FROM drift_checks WHERE judge = ? ORDER BY at", (judge,)).fetchall()
    return [(at, bool(finished)) for at, finished in rows]
