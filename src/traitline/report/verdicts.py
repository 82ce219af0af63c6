"""The verdicts as the page shows them: what each comes to, for the overview, and in words, for the cards below it.

Knows which marks and words stand for an outcome and how an onset is told in a cell. Leaves the sentences to the run's table of
verdicts and the layout to `html/page.html`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from traitline.report.axis import tokens_text
from traitline.report.panels import Panel, panels, targets, verdict_of
from traitline.report.tables import Run

BADGES = {
    "steerable": "steerable",
    "not_steerable": "not steerable",
    "no_vector": "no vector",
    "failed": "failed",
    "unknown": "not measured",
}
MARKS = {"steerable": "●", "not_steerable": "○", "no_vector": "×", "failed": "!", "unknown": "?"}
MOST_CARDS = 6  # that stand open; more are folded below the overview


@dataclass(frozen=True)
class Outcome:
    """What the vectors of one trait and strategy come to in one place.

    Attributes:
        target: the network steered; empty for each checkpoint's own.
        state: what the last checkpoint is, a key of `BADGES`.
        delta: trait score at the last checkpoint, steered minus baseline, at the dose of the verdict; NaN where there is none.
        began: the onset interval in a few words; empty where there is none.
        sentence: the verdict in words; empty where there is none.
        anchor: where on the page the sentence stands.
    """

    target: str
    state: str
    delta: float
    began: str
    sentence: str
    anchor: str

    @property
    def mark(self) -> str:
        """The sign that tells the state without a colour."""
        return MARKS[self.state]

    @property
    def lost(self) -> bool:
        """Whether there was an onset and the last checkpoint is not steerable all the same."""
        return bool(self.began) and self.state != "steerable"


@dataclass(frozen=True)
class Card:
    """The verdicts on one trait and strategy: on the checkpoints' own networks, and on every target."""

    trait: str
    strategy: str
    label: str
    dose: str
    own: Outcome
    moved: tuple[Outcome, ...]

    @property
    def n_steered(self) -> int:
        """How many targets the last checkpoint's vector steers."""
        return sum(one.state == "steerable" for one in self.moved)


def cards(run: Run) -> list[Card]:
    """Return one card per trait and strategy, in the order of the study."""
    names = targets(run)
    moved = {name: {(one.trait, one.strategy): one for one in panels(run, "transfer", target=name)} for name in names}
    found = []
    for i, panel in enumerate(panels(run, "emergence")):
        place = f"verdict-{i + 1}"
        others = (
            _outcome(run, moved[name].get((panel.trait, panel.strategy)), verdict, f"{place}-{j + 1}", name)
            for j, name in enumerate(names)
            if (verdict := verdict_of(run, "transfer", panel.trait, panel.strategy, name)) is not None
        )
        own = _outcome(run, panel, panel.verdict, place)
        dose = panel.main.label if panel.main else ""
        found.append(Card(panel.trait, panel.strategy, panel.label, dose, own, tuple(others)))
    return found


def verdict_state(curve: pd.DataFrame | None) -> str:
    """Say whether the last checkpoint of a curve is steerable."""
    if curve is None or curve.empty:
        return "unknown"
    last = curve.iloc[-1]
    if last["status"] != "complete":
        return str(last["status"]) if last["status"] in BADGES else "unknown"
    return "steerable" if bool(last.get("steerable", False)) else "not_steerable"


def began(run: Run, verdict: pd.Series | None) -> str:
    """Tell the onset interval: `from 1.92–2.72 M` tokens, or the names of the checkpoints where tokens are unknown."""
    by = None if verdict is None else verdict.get("onset_by")
    if verdict is None or not isinstance(by, str) or not by:
        return ""
    after = verdict.get("onset_after")
    names = [name for name in (after, by) if isinstance(name, str) and name]
    counts = [run.axis.tokens.get(name, math.nan) for name in names]
    ends = names if any(map(math.isnan, counts)) else list(map(tokens_text, counts))
    if len(ends) == 1:
        return f"by {ends[0]}"
    first, last = ends
    same_unit = not any(map(math.isnan, counts)) and first.partition(" ")[2] == last.partition(" ")[2]
    return f"from {first.partition(' ')[0] if same_unit else first}–{last}"


def _outcome(run: Run, panel: Panel | None, verdict: pd.Series | None, anchor: str, target: str = "") -> Outcome:
    curve = panel.curves.get(panel.main) if panel is not None and panel.main is not None else None
    state = verdict_state(curve)
    complete = curve is not None and state in ("steerable", "not_steerable")
    delta = float(curve["delta_trait"].iloc[-1]) if curve is not None and complete else math.nan
    sentence = "" if verdict is None else str(verdict["sentence"])
    return Outcome(target, state, delta, began(run, verdict), sentence, anchor)
