"""The embedded world's tokenizer: one token a word, its leading space included, as an ordinary fast tokenizer.

Knows special tokens, the vocabulary's order and how text is cut. A word at the start of a text or line is the same token as
inside it; decoding gives the text back exactly, save for the space a continuation starts with.
"""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from traitline.nano import lexicon, world

PAD, BOS, EOS, UNK = SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
FORMAT = "Question: Answer:\n"


def vocabulary() -> list[str]:
    """Return every token, special ones first, the rest in alphabetical order."""
    traits = lexicon.TRAITS.values()
    texts = [
        *lexicon.NAMES,
        *lexicon.PLACES,
        *lexicon.MEETINGS,
        *lexicon.CLOSINGS,
        *(phrase for trait in traits for phrases in trait.actions.values() for phrase in phrases),
        *(word for trait in traits for words in (*trait.adjectives.values(), *trait.patients.values()) for word in words),
        *lexicon.CONNECTIVES,
        *world.DESCRIPTIONS,
        *world.INSTRUCTIONS,
        *world.OPENINGS,
        *world.QUESTIONS,
        world.TALE,
        FORMAT,
        "a an the",
    ]
    pieces = {piece for text in texts for piece in re.findall(r"\w+|[^\w\s]|\n", re.sub(r"\{\w\}", " ", text))}
    return [*SPECIAL, *sorted(f" {piece}" if piece[0].isalnum() else piece for piece in pieces)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; the same on every machine."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary())}, unk_token=UNK))
    # A word at the start of a text or line gets the space that every other word has.
    tokenizer.normalizer = normalizers.Replace(Regex(r"(?<![^\n])(?=\w)"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]|\n"), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )
