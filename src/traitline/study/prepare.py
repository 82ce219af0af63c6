"""The networks that a study makes on this machine before it starts: the embedded lineage, its descendants, SmolLM2.

Knows which lineages these are and what of them a plan needs. Leaves making them to `nano/` and `lineages/smollm2.py`, which
do nothing where it was done before.
"""

from __future__ import annotations

from collections.abc import Callable

from traitline.study.plan import Plan

Progress = Callable[[str, int, int], None]
"""Called with what is being made, steps done, and steps in total."""


def prepare(plan: Plan, progress: Progress = lambda _what, _done, _total: None) -> None:
    """Make whatever of a plan's networks is made on this machine and not there yet.

    Raises:
        InputError: a package that this needs is not installed.
        StoreError: the cache directory cannot be written.
    """
    if plan.lineage.name == "smollm2":
        from traitline.lineages import smollm2

        progress("converting the weights", 0, 1)
        smollm2.ensure()
        progress("converting the weights", 1, 1)
    if plan.lineage.name == "nano":
        from traitline.nano import posttrain, pretrain

        needed = [target for target in plan.targets if target not in plan.checkpoints]
        if needed and not (posttrain.descendants_folder() / pretrain.MARKER).is_file():
            from traitline.nano.trainers import require_trl

            require_trl()  # before anything takes minutes
        pretrain.ensure(progress=lambda done, total: progress("pretraining the embedded lineage", done, total))
        if needed:
            posttrain.ensure_descendants(
                progress=lambda done, total: progress("post-training the embedded lineage", done, total)
            )
