"""The tables of a judge cache's SQLite file, how a file of an earlier version gets those it lacks, and how judgements go in.

Knows SQL only. Leaves files and threads to `cache.py`, batches to `api/orders.py`, and drift to `api/drift.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from traitline.judges.spending import Spending

VERSION = 2

Row = tuple[str, str, Spending, str]
"""Key, value as JSON, what it cost, and who paid: a model's name, or nobody."""

_PUT = """
INSERT INTO judgements VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens
"""
_SPEND = """
INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (payer, batch) DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens
"""

_JUDGEMENTS = """
CREATE TABLE judgements (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
) WITHOUT ROWID
"""

_SINCE_2 = (
    # what was paid, judgements thrown away included; `batch` is 1 for what a batch endpoint answered
    """
CREATE TABLE spending (
    payer TEXT NOT NULL,
    batch INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    PRIMARY KEY (payer, batch)
) WITHOUT ROWID
""",
    # batches at a provider: `id` is what it calls them, null until that is known; `state` is open or closed
    """
CREATE TABLE batches (
    tag TEXT PRIMARY KEY,
    payer TEXT NOT NULL,
    server TEXT NOT NULL,
    id TEXT,
    state TEXT NOT NULL,
    planned_at REAL NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
) WITHOUT ROWID
""",
    """
CREATE TABLE batch_keys (
    tag TEXT NOT NULL,
    key TEXT NOT NULL,
    logprobs INTEGER NOT NULL,
    pair INTEGER NOT NULL,
    PRIMARY KEY (tag, key)
) WITHOUT ROWID
""",
    "CREATE INDEX batch_of_key ON batch_keys (key)",
    # the prompts that are asked again to see whether a judge has changed, and when that was done
    """
CREATE TABLE drift_prompts (
    judge TEXT NOT NULL,
    number INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    PRIMARY KEY (judge, number)
) WITHOUT ROWID
""",
    """
CREATE TABLE drift_checks (
    judge TEXT NOT NULL,
    at REAL NOT NULL,
    finished INTEGER NOT NULL,
    PRIMARY KEY (judge, at)
) WITHOUT ROWID
""",
)

_PAID_BEFORE_2 = """
INSERT INTO spending
SELECT '', 0, sum(requests), sum(prompt_tokens), sum(completion_tokens), 0 FROM judgements HAVING count(*) > 0
"""


def bring_up_to_date(connection: sqlite3.Connection) -> bool:
    """Make the tables that a file lacks, within the caller's transaction.

    Returns:
        Whether the file is a judge cache now; False where it is an SQLite file of another kind, or of a later version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version not in ({1, VERSION} if tables else {0}):
        return False
    if version == VERSION:
        return True
    if version == 0:
        connection.execute(_JUDGEMENTS)
    for statement in _SINCE_2:
        connection.execute(statement)
    if version == 1:
        connection.execute(_PAID_BEFORE_2)
    connection.execute(f"PRAGMA user_version={VERSION}")
    return True


def record_judgements(connection: sqlite3.Connection, rows: Sequence[Row], *, batch: bool = False) -> None:
    """Write judgements and what they cost, within the caller's transaction.

    Args:
        connection: from `JudgeCache.transaction`.
        rows: key, value as JSON, cost, payer.
        batch: whether the provider's batch endpoint answered them.
    """
    numbers = [(key, value, cost.requests, cost.prompt_tokens, cost.completion_tokens) for key, value, cost, _ in rows]
    connection.executemany(_PUT, numbers)
    totals: dict[str, Spending] = {}
    for _, _, cost, payer in rows:
        if payer:
            totals[payer] = totals.get(payer, Spending()) + cost
    for payer, cost in totals.items():
        record_spending(connection, payer, cost, batch=batch)


def record_spending(connection: sqlite3.Connection, payer: str, cost: Spending, *, batch: bool = False) -> None:
    """Write what was paid, within the caller's transaction."""
    numbers = (cost.requests, cost.prompt_tokens, cost.completion_tokens, cost.cached_tokens)
    connection.execute(_SPEND, (payer, batch, *numbers))
