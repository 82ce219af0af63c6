"""Scores: what a response shows of a trait, and whether it is coherent."""

from traitline.judges.base import Judge, Score, default_judge, make_judge

__all__ = ["Judge", "Score", "default_judge", "make_judge"]
