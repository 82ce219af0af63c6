"""Facets of a study's responses: which rows a facet judge is asked about, what it said, and the table made of it.

Knows two sources. Where the study names a facet judge, that one labels, beside the run and after acceptance, the rows that show
the trait, and keeps what it said in a file per cell; no score, vector or other table depends on it. Where it names none and the
judge of scores annotates (`nano`), that one has labelled rows while it scored them (`elicit.py`). Leaves asking to
`judges/facets.py`, and shares with their intervals to `analysis/facets.py`.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from traitline.analysis import facets
from traitline.errors import JudgeError, StoreError
from traitline.files import write_whole
from traitline.judges import Judge
from traitline.judges.base import UNAVAILABLE, Annotator, Style
from traitline.judges.facets import FacetJudge, facet_judge, make_facet_judge
from traitline.study.accounts import Account
from traitline.study.config import COMBINED, FORCED
from traitline.study.found import Found
from traitline.study.plan import Cell, Identity, Network, Plan
from traitline.study.store import RunStore, read_rows
from traitline.traits import Trait
from traitline.traits.strategies import strategy
from traitline.vectors.estimators import passing

COLUMNS = ["trait", "strategy", "checkpoint", "tokens", "scheme", "set", *facets.COLUMNS]
LABELS = pa.schema(
    [
        *((name, pa.string()) for name in ("row_key", "facet")),
        ("shown", pa.bool_()),
        ("score", pa.float64()),
        *((name, pa.string()) for name in ("missing_reason", "judge")),
    ]
)
"""A cell's facets.parquet: one row per response and facet. `score` is null where the judge tells only whether it is shown."""
BATCHED = 32
"""Cells that are labelled at the same time where each waits for a batch of the provider."""
_JUDGE = b"facet_judge"


def labels_path(store: RunStore, cell: Cell) -> Path:
    """Return the path of what a facet judge said of a cell's responses."""
    return store.cell(cell) / "facets.parquet"


def facet_calls(plan: Plan, network: Network, phase: str) -> int:
    """Return how many questions a phase has for the facet judge at one network, if every response showed the trait."""
    return sum(len(plan.traits[cell.trait].facets) * rows for cell, rows in facet_rows(plan, network, phase))


def facet_rows(plan: Plan, network: Network, phase: str) -> Iterator[tuple[Cell, int]]:
    """Yield, per cell of one network, how many responses the facet judge is asked about, if every one showed the trait."""
    if plan.config.facet_judge is None or network not in plan.checkpoints or phase == "transfer":
        return
    rows = plan.elicit_rows if phase == "elicit" else plan.evaluation_rows
    for cell in plan.cells(network):
        if plan.traits[cell.trait].facets:
            yield cell, sum(_may_show(row.identity, plan) for row in rows(network, cell))


class FacetStage:
    """Labels finished cells while the run goes on. A context manager, whose end drops what was not begun.

    It does nothing where there is no facet judge. One that fails leaves labels missing, never a cell failed: the next run asks
    for them again. What another facet judge said is asked anew.

    Args:
        plan: the study, which names its facet judge or none.
        store: its run directory.
        scorer: the judge of scores, which is asked for facets, too, where both have one name.
        given: the facet judge to use instead of the one that the study names.

    Raises:
        InputError: the judge that the study names knows no facets.
        JudgeError: it cannot be used, for example without a key.
    """

    def __init__(self, plan: Plan, store: RunStore, scorer: Judge, given: Annotator | None = None) -> None:
        self.plan, self.store = plan, store
        self.judge = given or _named(plan, store, scorer)
        self.name = plan.config.facet_judge or str(getattr(given, "name", "given"))
        reader: object = self.judge.reader if isinstance(self.judge, FacetJudge) else None
        self._account = Account(store, None if reader is scorer else reader)
        self._pool = ThreadPoolExecutor(BATCHED if plan.config.judging.batch else 1, thread_name_prefix="traitline-facets")
        self._pending: list[Future[None]] = []
        self._closing = threading.Event()
        self._stopped = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)

    def begin(self, cells: Iterable[Cell]) -> None:
        """Have cells labelled as far as their files are there, those of descendants left out; returns at once."""
        wanted = [c for c in cells if c.network in self.plan.order and self.plan.traits[c.trait].facets] if self.judge else []
        self._pending += [self._pool.submit(self._label, cell) for cell in wanted]

    def finish(self) -> tuple[str, ...]:
        """Wait for all labels, asking once more for those left open. Returns what is to be said of them; mostly nothing.

        Raises:
            StoreError: labels could not be written.
        """
        if self.judge is None:
            return ()
        cells = [cell for network in self.plan.networks() for cell in self.plan.cells(network)]
        self._settle()
        self.begin(cell for cell in cells if _unanswered(read_labels(self.store, cell)).any())
        self._settle()
        self._account.enter()
        open_labels = sum(int(_unanswered(read_labels(self.store, cell)).sum()) for cell in cells)
        if not open_labels:
            return ()
        why = f" ({self._stopped})" if self._stopped else ""
        text = f"the facet judge {self.name} left {open_labels} labels open{why}; scores and vectors do not need them, and "
        return (text + "running the study again asks for them",)

    def _settle(self) -> None:
        while self._pending:
            self._pending.pop().result()

    def _label(self, cell: Cell) -> None:
        """Bring a cell's labels up to date with its responses."""
        wanted = _shown(self.plan, self.store, cell)
        said = read_labels(self.store, cell, self.name)
        left_open = said.loc[_unanswered(said), "row_key"]
        kept = said[~said["row_key"].isin(left_open) & said["row_key"].isin(wanted["row_key"])]
        asked = wanted[~wanted["row_key"].isin(kept["row_key"])]
        step = max(1, len(asked)) if self.plan.config.judging.batch else self.plan.config.batch_rows
        for start in range(0, len(asked), step):
            if self._closing.is_set():
                return
            found = self._ask(cell, asked[start : start + step])
            kept = pd.concat([kept, found], ignore_index=True) if len(kept) else found
            _write_labels(labels_path(self.store, cell), kept, self.name)

    def _ask(self, cell: Cell, rows: pd.DataFrame) -> pd.DataFrame:
        trait, judge = self.plan.traits[cell.trait], self.judge
        said: dict[str, dict[str, Any]] = {}
        try:
            for style, part in rows.groupby(rows["question_id"].map(_style), sort=False):
                if judge is not None and not self._stopped:
                    said |= dict(zip(part["row_key"], _read(judge, trait, part, style), strict=True))
        except JudgeError as error:
            self._stopped = str(error)
        name, nothing = getattr(judge, "name", self.name), {"missing_reason": UNAVAILABLE}
        records = [
            {"row_key": key, "facet": facet, **said.get(key, {}).get(facet, nothing), "judge": name}
            for key in rows["row_key"]
            for facet in trait.facets
        ]
        return pd.DataFrame(records, columns=LABELS.names)


def _named(plan: Plan, store: RunStore, scorer: Judge) -> Annotator | None:
    """Return the facet judge that a study names, if any."""
    name = plan.config.facet_judge
    if name is None:
        return None
    if name == plan.config.judge:
        return facet_judge(scorer, name)
    options = plan.config.judging.options() if name.startswith("openai:") else {}
    return make_facet_judge(name, store.judge_cache, **options)


def read_labels(store: RunStore, cell: Cell, judge: str | None = None) -> pd.DataFrame:
    """Return what a facet judge said of a cell's responses; nothing where no file is there, or one of another judge.

    Raises:
        StoreError: the file is broken.
    """
    path = labels_path(store, cell)
    if not path.is_file():
        return pd.DataFrame(columns=LABELS.names)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{str(path)!r} is broken ({str(error).splitlines()[0]}); delete it and run again: what was answered is in the "
            "judge's cache"
        ) from error
    by = (table.schema.metadata or {}).get(_JUDGE, b"").decode()
    return table.to_pandas() if judge in {None, by} else pd.DataFrame(columns=LABELS.names)


def facet_table(found: Found, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the share of responses that show each facet, along training and per strategy.

    Sets: `elicited`, the accepted positive contrast rows; `baseline`; `steered`, the cell's own vector at each positive
    dose; and `steered, common questions`, the same of every strategy where strategies are compared. What a facet judge
    labelled is named so: of baseline and steered rows those alone that show the trait, and a column `judge` says who it was.

    Args:
        found: the run's files.
        rows: the evaluated rows of all checkpoints.
    """
    labels = pd.concat([read_labels(found.store, cell) for cell in found.cells] or [pd.DataFrame(columns=LABELS.names)])
    by_facet_judge = found.plan.config.facet_judge is not None or len(labels) > 0
    shown = labels.pivot(index="row_key", columns="facet", values="shown").astype(float)
    elicited = found.elicited()
    elicited = elicited if by_facet_judge else elicited[elicited["facets"].notna()]
    sets = [("elicited", elicited)]
    if len(rows):
        reported = rows[_reported(rows, found.plan)]
        shows = passing(reported.assign(polarity="pos"))
        sets += _evaluated(reported[shows if by_facet_judge else reported["facets"].notna()], found.plan)
    records = []
    for name, part in sets:
        for (trait, wording, checkpoint), answers in part.groupby(["trait", "strategy", "checkpoint"], sort=False):
            known = list(found.plan.traits[str(trait)].facets)
            if by_facet_judge and not known:
                continue
            table = shown.reindex(index=answers["row_key"], columns=known) if by_facet_judge else _told(answers, known)
            shares = facets.share_table(table.reset_index(drop=True), answers["question_id"].reset_index(drop=True))
            who: dict[str, Any] = {"trait": trait, "strategy": wording, "checkpoint": checkpoint}
            where = name if name == "elicited" or not by_facet_judge else f"{name}, showing the trait"
            records.append(shares.assign(**who, tokens=found.tokens[str(checkpoint)], scheme="facets", set=where))
    if not records:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(records, ignore_index=True)[COLUMNS]
    return table.assign(judge="; ".join(sorted(labels["judge"].dropna().unique()))) if by_facet_judge else table


def _evaluated(rows: pd.DataFrame, plan: Plan) -> list[tuple[str, pd.DataFrame]]:
    """Return the sets of the evaluated rows, each with its name."""
    steered = rows[rows["condition"] == "steered"]
    own = steered[steered["vector_strategy"] == steered["strategy"]]
    common = steered[steered["strategy"] == COMBINED] if plan.config.compared else steered.iloc[:0]
    renamed = common.assign(strategy=common["vector_strategy"])
    return [
        ("baseline", rows[rows["condition"] == "baseline"]),
        *((f"steered {coef:+g}", part) for coef, part in own.groupby("coef")),
        *((f"steered {coef:+g}, common questions", part) for coef, part in renamed.groupby("coef")),
    ]


def _reported(rows: pd.DataFrame, plan: Plan) -> pd.Series:
    """Tell which evaluated rows are in a set of the table: baseline, and steered as `_evaluated` says."""
    own = rows["vector_strategy"].eq(rows["strategy"])
    common = rows["strategy"].eq(COMBINED) & bool(plan.config.compared)
    steered = rows["condition"].eq("steered") & rows["coef"].gt(0) & (own | common)
    return rows["split"].eq("evaluate") & (rows["condition"].eq("baseline") | steered)


def _may_show(who: Identity, plan: Plan) -> bool:
    """Tell of a planned row whether the facet judge is asked about it if it shows the trait: as `_reported` and `_shown`."""
    if who.split != "evaluate":
        return who.split == "elicit" and who.polarity == "pos"
    own = who.vector_strategy == who.strategy or (bool(plan.config.compared) and who.strategy == COMBINED)
    return who.condition == "baseline" or (who.condition == "steered" and own and (who.coef or 0.0) > 0)


def _shown(plan: Plan, store: RunStore, cell: Cell) -> pd.DataFrame:
    """Return the responses of a cell that a facet judge is asked about, those whose files are there: all show the trait."""
    parts = []
    if cell.strategy != FORCED and store.contrast(cell).is_file():
        rows = read_rows(store.contrast(cell))
        parts.append(rows[rows["accepted"].fillna(False).astype(bool) & rows["polarity"].eq("pos")])
    if store.evaluation(cell).is_file():
        rows = read_rows(store.evaluation(cell))
        rows = rows[_reported(rows, plan)]
        parts.append(rows[passing(rows.assign(polarity="pos"))])
    columns = ["row_key", "question_id", "question", "response"]
    filled = [part[columns] for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)


def _style(question_id: str) -> Style:
    """Return the style of the answers to a question: its id names the strategy whose question it is."""
    return strategy(question_id.split("-")[1]).style


def _read(judge: Annotator, trait: Trait, rows: pd.DataFrame, style: Any) -> list[dict[str, dict[str, Any]]]:
    """Return, per row, facet -> its columns in the file."""
    questions, answers = rows["question"].tolist(), rows["response"].tolist()
    if isinstance(judge, FacetJudge):
        return [
            {f: {"shown": r.shown, "score": r.score, "missing_reason": r.missing_reason} for f, r in read.items()}
            for read in judge.read_facets(trait, questions, answers, style=style)
        ]
    told = judge.annotate(trait, questions, answers)
    unknown: dict[str, Any] = {"missing_reason": "the judge does not say"}
    return [{f: unknown if one is None else {"shown": f in one} for f in trait.facets} for one in told]


def _unanswered(labels: pd.DataFrame) -> pd.Series:
    """Tell which labels another time may bring."""
    return labels["missing_reason"].eq(UNAVAILABLE)


def _told(rows: pd.DataFrame, known: Sequence[str]) -> pd.DataFrame:
    """Return the labels that the judge of scores gave: one column per facet, 1 or 0, NaN where missing."""
    listed = [set(json.loads(text)) if isinstance(text, str) else None for text in rows["facets"]]
    return pd.DataFrame({f: [np.nan if one is None else float(f in one) for one in listed] for f in known})


def _write_labels(path: Path, labels: pd.DataFrame, judge: str) -> None:
    buffer = io.BytesIO()
    schema = LABELS.with_metadata({_JUDGE: judge.encode()})
    pq.write_table(pa.Table.from_pandas(labels, schema=schema, preserve_index=False), buffer, compression="zstd")
    write_whole(path, buffer.getvalue())
