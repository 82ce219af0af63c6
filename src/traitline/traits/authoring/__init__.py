"""Write a new trait with a chat model: `draft` has a whole trait file written, checked, and marked where a person should look.

    from traitline.traits.authoring import draft

    done = draft("pessimistic", "Expects the worst of everything.", "openai:gpt-4.1-mini")
    for place in done.look:
        print(f"{done.path}:{place.line}  {place.kind}  {place.message}")

The rooms: `prompts.py` words requests, `answers.py` reads JSON, `parts.py`, `texts.py` and `fitness.py` know what each text
must be, `sheet.py` keeps the draft, `writers.py` reaches models, `drafting.py` asks and asks again, `pages.py` writes the file,
and `look.py` finds what to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from traitline.errors import InputError
from traitline.files import write_whole
from traitline.traits.authoring.answers import tidy
from traitline.traits.authoring.drafting import MAX_REQUESTS, TRIES, Drafter, Progress, requests_needed
from traitline.traits.authoring.look import Look, to_look_at
from traitline.traits.authoring.pages import lines, page
from traitline.traits.authoring.prompts import PROMPTS
from traitline.traits.authoring.sheet import Sheet, open_sheet
from traitline.traits.authoring.writers import DraftError, LocalWriter, ServerWriter, Writer, make_writer
from traitline.traits.check import Finding, check_trait
from traitline.traits.trait import Name, Trait

__all__ = [
    "DraftError",
    "Drafted",
    "LocalWriter",
    "Look",
    "ServerWriter",
    "Writer",
    "check_name",
    "draft",
    "draft_path",
    "make_writer",
    "planned_requests",
    "to_look_at",
]

LONGEST_DESCRIPTION = 2000


@dataclass(frozen=True)
class Drafted:
    """A trait that was drafted.

    Attributes:
        trait: the trait.
        path: its file.
        findings: what `check_trait` found.
        look: what a person should look at, with lines of the file.
        models: who wrote it.
        requests: answers asked for, over all calls.
        skipped: what the model was to look over and did not.
    """

    trait: Trait
    path: Path
    findings: tuple[Finding, ...]
    look: tuple[Look, ...]
    models: tuple[str, ...]
    requests: int
    skipped: tuple[str, ...]


def draft(
    name: str,
    describe: str,
    writer: Writer | str,
    *,
    path: str | Path | None = None,
    max_requests: int = MAX_REQUESTS,
    tries: int = TRIES,
    review: bool = True,
    seed: int = 0,
    progress: Progress = lambda _what, _settled: None,
    backoff_seconds: float = 1.0,
) -> Drafted:
    """Have a trait file written by a chat model, or go on with a draft of it.

    Every usable text is kept at once in `NAME.draft.yaml` beside the file, so that a call that fails or is stopped is gone on
    with by the next one, by another model if you like. The finished file is a draft as well: read it before use.

    Args:
        name: the trait's name: a lower-case letter, then up to 63 of a-z, 0-9 and _.
        describe: what it means, in your own words.
        writer: a chat model, or its name: `openai:<model>` or `local:<directory or hub id>`.
        path: the file to write; `NAME.yaml` in the current folder where left out. Never overwritten.
        max_requests: after how many requests this call stops; those that a server puts off by its rate limit do not count.
        tries: how often one thing is asked for.
        review: whether the model also looks its draft over, in seven more requests.
        seed: of the sampling.
        progress: told of every part in work, and of every planned request that it settled.
        backoff_seconds: the pause after a first failure of the server; it doubles.

    Raises:
        InputError: a name, description, file or model that cannot be used.
        DraftError: the model or its server gives nothing that can be used, or the budget is spent; the draft is kept.
        StoreError: the disk is full or the folder cannot be written.
    """
    if min(max_requests, tries) < 1:
        raise InputError(f"max_requests and tries must be at least 1; got {max_requests} and {tries}")
    goal = Path(path) if path is not None else Path(f"{name}.yaml")
    sheet = _begin(name, describe, goal)
    model = make_writer(writer) if isinstance(writer, str) else writer
    drafter = Drafter(sheet, draft_path(goal), model, max_requests, review, tries, seed, progress, backoff_seconds)
    drafter.run()
    trait = sheet.trait()
    head = [
        f"Drafted by {' and '.join(sheet.models)} with version {PROMPTS} of traitline's prompts; read it before use.",
        f"It was told: {sheet.described}",
    ]
    text = page(trait, head)
    _check_new(goal)
    write_whole(goal, text)
    draft_path(goal).unlink(missing_ok=True)
    look = to_look_at(trait, sheet, lines(text))
    return Drafted(
        trait, goal, tuple(check_trait(trait)), tuple(look), tuple(sheet.models), sheet.requests, tuple(drafter.skipped)
    )


def planned_requests(name: str, describe: str, path: str | Path | None = None, *, review: bool = True) -> int:
    """Return how many requests `draft` would still need if every answer could be used.

    Raises:
        InputError: as `draft`.
    """
    goal = Path(path) if path is not None else Path(f"{name}.yaml")
    return requests_needed(_begin(name, describe, goal), review=review)


def draft_path(path: Path) -> Path:
    """Return where the draft of a trait file is kept until it is finished."""
    return path.with_name(f"{path.stem}.draft.yaml")


def check_name(name: str) -> None:
    """Make sure that a name can name a trait, before it becomes part of a path.

    Raises:
        InputError: it cannot.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise InputError(
            f"{name[:80]!r} cannot name a trait; use a lower-case letter, then up to 63 of a-z, 0-9 and _, as in 'vain'"
        ) from error


def _begin(name: str, describe: str, goal: Path) -> Sheet:
    """Return the draft to go on with, after everything a user gave was looked at."""
    check_name(name)
    described = tidy(describe)
    if not described or len(described) > LONGEST_DESCRIPTION:
        raise InputError(
            f"the description has {len(described)} characters; say in 1 to {LONGEST_DESCRIPTION} what the trait means"
        )
    _check_new(goal)
    return open_sheet(draft_path(goal), name, described)


def _check_new(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise InputError(f"{str(path)!r} exists already and is never overwritten; give another path, or remove it first")
