"""Whether a release agrees with itself: its answers with each other, its tables with its files, its results with their sense.

Each check adds rows to the audit and changes nothing: one row per kind of defect and file. Leaves prompt tails to `leaks.py`,
activation norms to `calibration.py`, whether a published number reproduces to `significance.py`, and what belongs to vectors to
`extraction.py` and `directions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from traitline.published.answers import Answers, Shelf, finite
from traitline.published.calibration import NORM_FILES, check_norms
from traitline.published.comparisons import ALPHA, Comparison, comparisons
from traitline.published.release import RESPONSES, RESULTS, TRAIT_FILES, VECTORS, Release

TINY = 0.5
FLOOR, LOSS = 50.0, 25.0
"""Steered coherence under the floor with more than this loss has collapsed."""
CONTROLS = "controls"
SIDES, SCORES, SPREAD = ("baseline", "output"), ("trait", "coherence"), ("mean", "median", "std")
KNOWN = {
    *("trait", "vector_trait", "extract_revision", "eval_revision", "eval_model", "eval_model_name", "layer", "coef", "status"),
    *("vector_path", "vector_exists", "vector_status_path", "vector_status", "vector_reason_code", "vector_status_message"),
    *("effective_rows", "pos_path", "neg_path", "pos_rows", "neg_rows", "scaling_mode", "target_norm_from_name"),
    *NORM_FILES,
    *NORM_FILES.values(),
    *("target_vector_norm", "target_norm", "norm_ratio", "transfer_scale", "first_answer_preview", "paired_questions"),
    *(f"{side}_{name}" for side in SIDES for name in ("path", "rows")),
    *(f"{side}_{score}_{name}" for side in (*SIDES, "pos", "neg") for score in SCORES for name in SPREAD),
    *(f"delta_{score}_{name}" for score in SCORES for name in SPREAD),
}
"""Columns of a table of significance; `TESTED` are names it makes by rule."""
TESTED = r"(paired_)?(trait|coherence)_(sign_flip|sign_test|primary|question_mean|mean|median)_\w+"
ENDING = r"""[.!?…:;"'”’)\]*_`~|]\s*$"""


def check_consistency(
    release: Release, models: Sequence[str], significance: pd.DataFrame, shelves: Mapping[str, Shelf]
) -> None:
    """Put into the audit what does not fit together in the results of these models.

    Args:
        release: the release.
        models: whose results.
        significance: the table of `significance.py`.
        shelves: model -> its judged answers.
    """
    _trait_folders(release)
    for model in models:
        found = significance[significance["model"] == model]
        readable = list(comparisons(found, shelves[model]))
        note = _notes(release, model)
        _folders(release, model, found, note)
        _files({part.file: part for one in readable for side in one.sides for part in side.parts}, note)
        _sides(readable, note)
        _claims(release, found, note)
        _repeats(found, note)
        _counts(found, note)
        _columns(release, model, note)
        check_norms(release, model)


Note = Callable[[str, str, int, str], None]


def _notes(release: Release, model: str) -> Note:
    def note(kind: str, file: str, count: int, consequence: str) -> None:
        if count:
            release.audit.add(kind, file, count, consequence, model=model)

    return note


def _trait_folders(release: Release) -> None:
    """Look for the trait files whose names tell trait from strategy."""
    folders = TRAIT_FILES[:2]
    if not any((release.root / folder).is_dir() for folder in folders):
        text = f"nor is {folders[1]} in the release; where trait ends and strategy begins in a name is told apart by guess"
        release.audit.add("missing_folder", folders[0], len(folders), text)


def _folders(release: Release, model: str, significance: pd.DataFrame, note: Note) -> None:
    """Look for the folders a model should have, and for those its tables list."""
    consequences = {
        RESULTS / model: "the model has no result tables; nothing of it can be compared with what was published",
        VECTORS / model: "the model has no vectors; no directions are computed for it",
        RESPONSES / "extract" / model: "no answers that vectors were made from; accepted pairs cannot be counted",
    }
    for folder, consequence in consequences.items():
        note("missing_folder", folder.as_posix(), int(not (release.root / folder).is_dir()), consequence)
    files = pd.concat([significance["baseline_file"], significance["steered_file"]]).dropna().astype(str)
    parts = files[files != ""].drop_duplicates().map(lambda file: _answers_folder(file))
    for listed, count in parts.value_counts(sort=False).items():
        if listed and not (release.root / str(listed)).is_dir():
            text = "listed in the tables, not in the release; the comparisons that need it cannot be recomputed"
            note("missing_folder", str(listed), int(count), text)


def _answers_folder(file: str) -> str:
    """Return the folder of a listed file down to the model, for example data/model_responses/eval/MODEL; empty if elsewhere."""
    parts = Path(file).parts
    start = next((i for i in range(len(parts)) if parts[i : i + 2] == RESPONSES.parts), len(parts))
    return "/".join(parts[start : start + 4]) if len(parts) > start + 4 else ""


def _files(files: Mapping[str, Answers], note: Note) -> None:
    """Look inside the files of judged answers, and for the same answers under two names."""
    same: dict[tuple[str, ...], list[Answers]] = {}
    cut = total = 0
    for file, one in files.items():
        rows = one.rows
        repeated = int(rows.duplicated(["question", "answer"]).sum())
        text = "the same answer to the same question more than once; these rows are not independent samples"
        note("duplicated_rows", file, repeated, text)
        empty = rows["answer"].str.strip() == ""
        note("empty_answers", file, int(empty.sum()), "the model said nothing; the judge's scores are of an empty text")
        scores = rows[["trait_score", "coherence"]]
        outside = int(((scores < 0) | (scores > 100)).any(axis=1).sum())
        note("score_out_of_range", file, outside, "scores are 0 to 100; the means these rows enter are not to be trusted")
        same.setdefault(tuple(rows["question"] + "\0" + rows["answer"]), []).append(one)
        cut += int((~rows["answer"].str.contains(ENDING, regex=True) & ~empty).sum())
        total += len(rows)
    for group in same.values():
        for first, second in pairwise(group):
            note("identical_files", second.file, second.n, _identical(first, second))
    if cut > total / 2:
        text = (
            f"{cut} of {total} answers stop in the middle of a sentence, so at the length limit; coherence is judged on pieces"
        )
        note("answers_cut_short", "", cut, text)


def _identical(first: Answers, second: Answers) -> str:
    text = f"the same answers, in the same order, as {first.file}; comparisons with the two are not independent"
    gaps = (first.rows[["trait_score", "coherence"]] - second.rows[["trait_score", "coherence"]]).abs()
    if not (gaps > 0).any(axis=None):
        return text
    trait, coherence = gaps.mean()
    return (
        f"{text}. They were judged twice: scores differ by {trait:.2g} (trait) and {coherence:.2g} (coherence) points on "
        f"average, at most {gaps['trait_score'].max():.2g} and {gaps['coherence'].max():.2g}, which is the judge's own noise"
    )


def _sides(readable: Sequence[Comparison], note: Note) -> None:
    """Compare the questions and prompts of the two sides."""
    for one in {one.files: one for one in readable}.values():
        file, baseline = one.steered.parts[0].file, one.baseline.parts[0].file
        asked = [side.rows.groupby("question")["prompt"].agg(frozenset) for side in one.sides]
        left, right = (prompts.index for prompts in asked)
        lonely = left.symmetric_difference(right)
        text = f"questions that only one side has, of {len(left.union(right))} (baseline {baseline}); they "
        note("mismatched_pairs", file, len(lonely), f"{text}enter the delta and not the paired difference")
        both = left.intersection(right)
        unlike = int((asked[0].reindex(both) != asked[1].reindex(both)).sum())
        text = f"questions put in another prompt than in the baseline {baseline}; the prompt's effect is in the delta"
        note("mismatched_prompts", file, unlike, text)


def _claims(release: Release, significance: pd.DataFrame, note: Note) -> None:
    """Look for significant results that do not say what significance suggests."""
    coherence = _steered_coherence(release, significance)
    table = significance.assign(
        p=_best(significance, "p_two_sided"),
        delta=_best(significance, "delta_trait_mean"),
        loss=-_best(significance, "delta_coherence_mean"),
        coherence=coherence,
    )
    table = table[table["p"] < ALPHA]
    for file, rows in table.groupby("file"):
        count, n = len(rows), str(file)
        negative = int((rows["delta"] < 0).sum())
        text = f"of {count} results with p < {ALPHA:g} go against the trait; a star alone hides the sign"
        note("significant_negative_delta", n, negative, text)
        collapsed = int(((rows["coherence"] < FLOOR) & (rows["loss"] > LOSS)).sum())
        text = f"of {count} results with p < {ALPHA:g} have steered coherence under {FLOOR:g} and over {LOSS:g} points lost; "
        note("significant_collapsed_coherence", n, collapsed, f"{text}the trait is scored on broken text")
        tiny = int((rows["delta"].abs() < TINY).sum())
        text = f"of {count} results with p < {ALPHA:g} are smaller than {TINY:g} points of 100; significant is not large"
        note("significant_tiny_delta", n, tiny, text)


def _best(significance: pd.DataFrame, name: str) -> pd.Series:
    """Return a statistic with every row counted once; as published where it cannot be recomputed."""
    return significance[f"honest_{name}"].fillna(significance[f"published_{name}"])


def _steered_coherence(release: Release, significance: pd.DataFrame) -> pd.Series:
    """Return the published mean coherence of the steered answers, NaN where none is listed."""
    listed: dict[tuple[str, str], float] = {}
    for file in significance["file"].unique():
        try:
            table = pd.read_csv(release.root / str(file), usecols=["output_path", "output_coherence_mean"])
        except (OSError, ValueError):  # `significance.py` reports it
            continue
        paths, values = table["output_path"], finite(table["output_coherence_mean"])
        listed |= {(str(file), str(path)): float(value) for path, value in zip(paths, values, strict=True)}
    keys = zip(significance["file"], significance["steered_file"], strict=True)
    return pd.Series([listed.get((str(file), str(path)), np.nan) for file, path in keys], significance.index, dtype=float)


def _repeats(significance: pd.DataFrame, note: Note) -> None:
    """Look for tables that copy rows of others: a merged file counts them again."""
    key = ["baseline_file", "steered_file", "layer", "coef", "published_delta_trait_mean"]
    listed = significance[significance["steered_file"] != ""]
    sizes = listed.groupby("file").size()
    order = sorted(sizes.index, key=lambda file: (sizes[file], file))
    own = {file: set(listed.loc[listed["file"] == file, key].itertuples(index=False, name=None)) for file in order}
    for i, file in enumerate(order):
        others = {one: len(own[file] & own[one]) for one in order[:i]}
        names = [Path(str(one)).parent.name for one, count in others.items() if count]
        copied = len(own[file] & set().union(*(own[one] for one in order[:i])))
        text = f"of {sizes[file]} rows also stand in {', '.join(names)}; together they count one comparison more than once"
        note("repeated_comparison", str(file), copied, text)


def _counts(significance: pd.DataFrame, note: Note) -> None:
    """Compare the numbers of rows listed with those found."""
    for side in ("baseline", "steered"):
        listed, found = significance[f"published_n_rows_{side}"], significance[f"n_rows_{side}"]
        unlike = significance[listed.notna() & found.notna() & (listed != found)]
        for file, rows in unlike.groupby("file"):
            row = rows.iloc[0]
            text = (
                f"rows list another number of {side} answers than their file has (the first "
                f"{row[f'published_n_rows_{side}']:.0f}, found {row[f'n_rows_{side}']:.0f}); it was replaced or trimmed since"
            )
            note("row_count_differs", str(file), len(rows), text)


def _columns(release: Release, model: str, note: Note) -> None:
    """Look for columns of the tables of runs that nobody knows; those of controls are looked at by `controls.py`."""
    folder = release.root / RESULTS / model
    for path in sorted(folder.rglob("combined*.csv")):
        if CONTROLS not in path.relative_to(folder).parts:
            table = release.table(path, (), model=model)
            columns = [] if table is None else [str(name) for name in table.columns]
            unknown = [name for name in columns if name not in KNOWN and not re.fullmatch(TESTED, name)]
            text = f"unknown columns {', '.join(unknown)}; they are ignored"
            note("unknown_columns", release.file(path), len(unknown), text)
