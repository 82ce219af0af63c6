"""Ask the hub again: which of its failures pass by, how long to wait, and what to say of those that do not.

Knows the errors of huggingface_hub and of what it is made of. Leaves what is asked for to `downloads.py`.
"""

from __future__ import annotations

import email.utils
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from traitline.errors import ModelError, nearest
from traitline.models.snapshots import Misfit, cache_folder

ATTEMPTS = 5
"""How often a file is asked for, or a list of files."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0
LONGEST_WISH_SECONDS = 900.0
"""The longest pause that a hub may wish for (`Retry-After`)."""

_log = logging.getLogger("traitline.downloads")
Made = TypeVar("Made")


class BrokenError(Exception):
    """A file came and does not fit."""

    def __init__(self, misfit: Misfit) -> None:
        super().__init__(f"it came broken: expected {misfit.expected}, found {misfit.found}")


def persistently(once: Callable[[], Made], what: str, final: Callable[[Exception], str | None]) -> Made:
    """Do something again until it succeeds, with growing pauses or those that the hub wishes for.

    Raises:
        ModelError: it failed for good, or too often.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return once()
        except Exception as error:
            reason = final(error)
            if reason is not None:
                raise ModelError(reason) from error
            why = _why(error)
            if attempt == ATTEMPTS:
                advice = "what is here already is kept. Run the same command again when the hub can be reached"
                if isinstance(error, BrokenError):
                    advice = "the broken file was removed. Try again later, and tell who keeps the repository if it stays so"
                raise ModelError(f"cannot download {what}, tried {ATTEMPTS} times: {why}; {advice}") from error
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            pause = max(pause, min(LONGEST_WISH_SECONDS, _wish(error) or 0.0))
            _log.warning("%s: %s; trying again in %.0f s (%d of %d)", what, why, pause, attempt + 1, ATTEMPTS)
        time.sleep(pause)
    raise AssertionError


def final_reason(error: Exception, source: str, revision: str) -> str | None:
    """Return what to say of an error that trying again does not help; None where it may."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain = list(_chain(error))
    if any(isinstance(one, RevisionNotFoundError) for one in chain):
        return f"{source!r} has no revision {revision!r}; {nearest(revision, revisions(source))}"
    if any(isinstance(one, HFValidationError) for one in chain):
        return f"{source!r} is neither a directory here nor a repository's name (organisation/name); check the spelling"
    if any(isinstance(one, GatedRepoError) for one in chain):
        return f"{source!r} asks for a login: accept its terms on the hub, and set HF_TOKEN"
    if any(isinstance(one, RepositoryNotFoundError) for one in chain):
        return f"the hub has no repository {source!r}, or not for you; check the spelling, or set HF_TOKEN if it is private"
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return f"{source!r} cannot be downloaded while HF_HUB_OFFLINE is set; unset it"
    full = next((one for one in chain if isinstance(one, OSError) and one.errno in {errno.ENOSPC, errno.EDQUOT}), None)
    if full is not None:
        return (
            f"the disk of {str(cache_folder())!r} is full ({full.strerror}); free some space, set HF_HUB_CACHE to another "
            "disk, or set disk_gb so that spent checkpoints leave"
        )
    status = _status(error)
    if status is not None and 400 <= status < 500 and status not in {408, 429}:
        return f"the hub refuses {source!r} at {revision!r} (status {status}); check the name, the revision and HF_TOKEN"
    return None


def revisions(source: str) -> list[str]:
    """Return the branches and tags of a hub repository, none where the hub cannot be asked."""
    try:
        from huggingface_hub import HfApi

        refs = HfApi().list_repo_refs(source)
    except Exception:  # offline, private or absent: the caller's message says that loading failed
        return []
    return [ref.name for ref in [*refs.branches, *refs.tags]]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__ or error


def _response(error: Exception) -> Any:
    responses = (getattr(one, "response", None) for one in _chain(error))
    return next((response for response in responses if response is not None), None)


def _status(error: Exception) -> int | None:
    status = getattr(_response(error), "status_code", None)
    return status if isinstance(status, int) else None


def _wish(error: Exception) -> float | None:
    """Return how many seconds the hub asks to wait."""
    said = str(getattr(_response(error), "headers", {}).get("Retry-After", "")).strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _why(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"the hub answered with status {status}"
    deepest = list(_chain(error))[-1]
    lines = str(deepest).strip().splitlines()
    text = lines[0] if lines else "no message"
    return text if isinstance(error, BrokenError) else f"{type(deepest).__name__}: {text}"
