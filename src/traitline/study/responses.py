"""Responses to judge again, from wherever they lie: a run directory, one of its files, or anybody's table of answers.

Knows where they lie and which comparisons and traits belong to them. Leaves tables that no run wrote to `answer_tables.py`,
scores to `rejudge.py`, and what follows from them to `traitline.analysis`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from traitline.analysis import effects
from traitline.analysis.conclusions import CONTRAST, EVALUATION, TRANSFER, Planned, planned_from_rows, restricted
from traitline.analysis.effects import Thresholds
from traitline.errors import InputError, StoreError, nearest
from traitline.lineages import safe_name
from traitline.study.answer_tables import ALL_CONDITIONS, answer_rows
from traitline.study.config import COMBINED, FORCED
from traitline.study.store import RESPONSES
from traitline.traits import Trait, load_trait
from traitline.traits.strategies import COMMON, STRATEGIES, strategy

FILES = {EVALUATION: "cells/*/*/*/evaluation.parquet", TRANSFER: "targets/*/*/*/transfer.parquet"}
FILES[CONTRAST] = "cells/*/*/*/contrast.parquet"
UNREAD = {"prompt", "prompt_token_ids", "facets", "other_scores"}


@dataclass(frozen=True, eq=False)
class Responses:
    """Responses of one study or table.

    Attributes:
        rows: one row per response: the columns of a run's response rows as far as they are known, and `table`
            (`evaluation`, `transfer`, `contrast`), `shown` (the condition, of contrast rows the polarity), `style`, `purpose`.
        settings: the content of the run's study.yaml; empty where there is none.
        run: the run directory, if the rows are of one.
        given: traits by the names or files that the user gave.
    """

    rows: pd.DataFrame
    settings: dict[str, Any]
    run: Path | None
    given: dict[str, Trait]

    @cached_property
    def once(self) -> pd.DataFrame:
        """The rows, each response once: what a target shares with the last checkpoint is there twice in `rows`."""
        return self.rows[~self.rows["row_key"].duplicated()]

    @cached_property
    def traits(self) -> list[str]:
        """The names of the traits."""
        return [str(name) for name in pd.unique(self.rows["trait"])]

    def trait(self, name: str) -> Trait:
        """Return a trait of the rows: the one given, the study's own, or the packaged one.

        Raises:
            InputError: its file is not found.
        """
        if name in self.given:
            return self.given[name]
        folder: dict[str, Path] = {}
        if self._of_nano:
            from traitline.nano import traits_folder

            folder = {"folder": traits_folder()}
        for listed in self.settings.get("study", {}).get("traits", ()):
            if Path(str(listed)).suffix and Path(str(listed)).is_file():
                found = load_trait(str(listed))
                if found.name == name:
                    return found
        try:
            return load_trait(name, **folder)
        except InputError as error:
            raise InputError(
                f"the rows are of trait {name!r}, whose file is not known; give --trait path/to/{name}.yaml"
            ) from error

    @property
    def _of_nano(self) -> bool:
        return bool(self.rows["lineage"].eq("nano").any())

    @cached_property
    def planned(self) -> Planned:
        """The comparisons: those of the run's own tables, or those that the rows hold."""
        found = planned_from_rows(self.rows, int(self.settings.get("study", {}).get("seed", 0)))
        tables = self.run / "tables" if self.run is not None else None
        if tables is None or not (tables / "emergence.csv").is_file():
            return found
        parts: dict[str, Any] = {name: _planned(tables / f"{name}.csv") for name in ("emergence", "transfer", "controls")}
        checkpoints = self.settings.get("resolved", {}).get("checkpoints", [])
        planned = replace(
            found,
            **parts,
            order=tuple(str(one["name"]) for one in checkpoints),
            total_tokens=checkpoints[-1]["tokens"] if checkpoints else None,
            thresholds=Thresholds(**self.settings.get("study", {}).get("criteria", {})),
        )
        return restricted(planned, self.traits)

    def judge_errors(self) -> dict[str, float]:
        """Return the delta error by trait that the run's own judge stated."""
        path = self.run / "tables" / "emergence.csv" if self.run is not None else None
        if path is None or not path.is_file():
            return {}
        table = pd.read_csv(path)
        if "judge_error" not in table.columns:
            return {}
        known = table.dropna(subset=["judge_error"])
        return {str(t): float(e) for t, e in zip(known["trait"], known["judge_error"], strict=True)}


def read_responses(source: Path | None, traits: Sequence[str] = ()) -> Responses:
    """Read responses.

    Args:
        source: a run directory, one of its parquet files, or a CSV or parquet with `trait`, `question` and `answer`; where left
            out, the only run below `runs/`.
        traits: keep these alone: names, or trait files.

    Raises:
        InputError: nothing there that can be read, or none of the traits.
        StoreError: a response file is broken.
    """
    path = _only_run() if source is None else source
    given = [load_trait(name) if Path(name).suffix else None for name in traits]
    names = [name if one is None else one.name for name, one in zip(traits, given, strict=True)]
    if path.is_dir():
        run: Path | None = path
        rows = _run_rows(path, names)
    elif path.is_file():
        rows, run = _file_rows(path)
    else:
        raise InputError(f"{str(path)!r} does not exist; give a run directory, or a .parquet or .csv file of responses")
    settings = _settings(run)
    unknown = [name for name in names if not rows["trait"].eq(name).any()]
    if unknown:
        there = [str(name) for name in pd.unique(rows["trait"])]
        raise InputError(f"{str(path)!r} has no rows of trait {unknown[0]!r}; {nearest(unknown[0], there)}")
    if names:
        rows = rows[rows["trait"].isin(names)].reset_index(drop=True)
    if rows.empty:
        raise InputError(f"{str(path)!r} holds no responses; give a run that has begun, or another file")
    alone = run if path.is_dir() else None
    return Responses(_styled(rows, settings), settings, alone, {one.name: one for one in given if one is not None})


def _only_run() -> Path:
    """Return the only run below `runs/`.

    Raises:
        InputError: there is none, or several.
    """
    found = sorted(path.parent for path in Path("runs").glob("*/study.yaml"))
    if len(found) == 1:
        return found[0]
    have = f"there are {', '.join(map(str, found))}" if found else "no run lies below runs/"
    raise InputError(f"which responses? {have}; give --rows with a run directory, a response .parquet, or a CSV of answers")


def _settings(run: Path | None) -> dict[str, Any]:
    path = run / "study.yaml" if run is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{str(path)!r} is broken ({error}); give another run directory") from error
    return found if isinstance(found, dict) else {}


def _run_rows(run: Path, traits: Sequence[str]) -> pd.DataFrame:
    """Read the response files of a run, of some traits if named; contrast rows that a cell took from others are left out.

    Raises:
        InputError: there is no response file.
    """
    files = [(table, path) for table, pattern in FILES.items() for path in sorted(run.glob(pattern))]
    own = [(table, path) for table, path in files if table != CONTRAST or path.parent.name not in {FORCED, COMBINED}]
    there = {path.parent.parent.name for _, path in own}
    wanted = {safe_name(name) for name in traits} & there or there  # what is not there is told of by the caller
    frames = [_response_rows(path, table) for table, path in own if path.parent.parent.name in wanted]
    full = [frame for frame in frames if len(frame)]
    if not full:
        raise InputError(f"no responses lie in {str(run)!r}; give a run directory whose study has begun")
    return pd.concat(full, ignore_index=True)


def _response_rows(path: Path, table: str) -> pd.DataFrame:
    """Read one response file without what no judge needs.

    Raises:
        StoreError: the file is truncated or is no response file.
    """
    unread = UNREAD if table == CONTRAST else {*UNREAD, "response_token_ids"}
    columns = [name for name in RESPONSES.names if name not in unread]
    try:
        frame: pd.DataFrame = pq.read_table(path, columns=columns).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{str(path)!r} is broken ({str(error).splitlines()[0]}); run the study again, or give others"
        ) from error
    lacking = [name for name in columns if name not in frame.columns]
    if lacking:
        raise StoreError(f"{str(path)!r} lacks the columns {', '.join(lacking)}; it is no response file of this version")
    return frame.assign(table=table)


def _file_rows(path: Path) -> tuple[pd.DataFrame, Path | None]:
    """Read one file, and find the run that it is of.

    Raises:
        InputError: no table of responses.
    """
    if path.suffix == ".parquet":
        try:
            names = set(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{str(path)!r} cannot be read ({str(error).splitlines()[0]}); give a .parquet or .csv") from error
        if {"row_key", "response", "question"} <= names and "answer" not in names and set(RESPONSES.names) <= names:
            table = path.stem if path.stem in FILES else EVALUATION
            run = next((parent for parent in path.resolve().parents if (parent / "study.yaml").is_file()), None)
            return _response_rows(path, table), run
        return answer_rows(pq.read_table(path).to_pandas(), path), None
    if path.suffix == ".csv":
        try:
            table_ = pd.read_csv(path, keep_default_na=False, dtype=str)
        except (OSError, ValueError) as error:
            raise InputError(f"{str(path)!r} cannot be read as CSV ({error}); save it as CSV in UTF-8") from error
        return answer_rows(table_, path), None
    raise InputError(f"{str(path)!r} is neither a .parquet nor a .csv file; give one, or a run directory")


def _styled(rows: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """Add what a judge is told: which rubric fits, and what the scores are for."""
    strategies = [str(name) for name in settings.get("study", {}).get("strategies", [])]
    generating = [name for name in strategies if name not in {FORCED, COMBINED}]
    asked = {FORCED: generating[0] if generating else "", COMBINED: COMMON}
    names = rows["strategy"].fillna("").astype(str)
    wording = {name: asked.get(name, name) for name in pd.unique(names)}
    known = {*STRATEGIES, COMMON}
    styles = {name: strategy(how).style if how in known else "continuation" for name, how in wording.items()}
    shown = rows["condition"].where(rows["table"].ne(CONTRAST), rows["polarity"])
    purpose = np.where(rows["split"].eq("elicit"), "accept", "evaluate")
    if "style" not in rows:
        rows = rows.assign(style=names.map(styles))
    return rows.assign(shown=shown.fillna(ALL_CONDITIONS).astype(str), purpose=purpose)


def _planned(path: Path) -> pd.DataFrame:
    """Read the plan columns of one of a run's effect tables."""
    if not path.is_file():
        return pd.DataFrame(columns=[*effects.PLAN_COLUMNS, *effects.CONDITION_KEY])
    table = pd.read_csv(path)
    own = table.reindex(columns=[*effects.PLAN_COLUMNS, *effects.CONDITION_KEY])
    return own.assign(vector_trait=own["trait"], vector_strategy=own["strategy"])


def reported(responses: Responses) -> pd.DataFrame:
    """Return the responses that deltas are made of, each once: baseline ones and those steered by vectors of their own cell.

    Where there is neither, for example in a table without conditions, all of them.
    """
    rows = responses.once
    own = rows["vector_trait"].eq(rows["trait"]) & rows["vector_strategy"].eq(rows["strategy"])
    kept = (rows["condition"].eq("baseline") | (rows["condition"].eq("steered") & own)) & rows["split"].eq("evaluate")
    some = rows[kept] if kept.any() else rows
    return some.assign(condition=some["shown"])
