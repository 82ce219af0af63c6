"""The verifiable reward of the embedded lineage's RLVR stage: did the reply do what the user asked, in form alone?

Knows when a reply tells exactly the number of deeds asked for, each a different well-formed sentence of the question's person,
and then ends. It reads the grammar and nothing else: which trait a deed belongs to, and on which side of it, has no say, so
swapping every deed for its opposite changes no reward. Traits are the judge's, and the judge is never a reward.
"""

from __future__ import annotations

from traitline.nano.judge import read_question, read_sentence


def reward(question: str, reply: str, number: int | None, *, ended: bool) -> float:
    """Return 1 where the reply tells exactly `number` deeds and ends, else 0.

    Args:
        question: the question or opening replied to.
        reply: what the assistant said, without its closing token.
        number: how many deeds were asked for; None where the user left it open, which no reply can meet.
        ended: the assistant closed its turn; False where the length limit cut it.
    """
    scene = read_question(question)
    if scene is None or not ended:
        return 0.0
    *whole, rest = (scene.begun + reply.strip(" ")).split(".")
    sentences = [read_sentence(text.strip(" ")) for text in whole]
    deeds = [
        s.verb
        for s in sentences
        if s is not None and s.verb and (s.name, s.patient, s.half) == (scene.name, scene.patient, scene.half)
    ]
    told = len(deeds) == len(set(deeds)) == len(sentences) == number
    return float(told and not rest.strip())
