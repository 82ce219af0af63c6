"""What a judge spends during a run, entered in the run's ledger as it goes.

Knows judges that count what they use (`usage`); of others there is nothing to enter.
"""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

from traitline.study.store import RunStore


class Account:
    """What one judge has spent in a run.

    Args:
        store: the run whose ledger it is entered in.
        judge: anything with a `name`, and with a `usage` where it counts what it uses.
    """

    def __init__(self, store: RunStore, judge: Any) -> None:
        self._store, self._judge = store, judge
        self._entered: dict[str, int] = {}

    def enter(self) -> None:
        """Enter what was spent since it was done last."""
        usage = getattr(self._judge, "usage", None)
        now = asdict(usage) if is_dataclass(usage) and not isinstance(usage, type) else {}
        spent = {field: int(now[field]) - self._entered.get(field, 0) for field in now}
        self._entered = {field: int(value) for field, value in now.items()}
        if any(spent.values()):
            self._store.note_judging(self._judge.name, 0, spent)
