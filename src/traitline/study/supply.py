"""The files of a run's networks: downloaded ahead of their visit, pinned to one commit, and off the disk when spent.

Knows which networks a run still needs, in which order. Leaves downloading to `models/downloads.py`, room on the disk to
`models/disk.py`, and what is done at a network to `visits.py`.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from traitline.errors import InputError, ModelError
from traitline.models.disk import GB, SETTING, Disk, Rank, free_bytes, over_budget, over_disk, taken_bytes
from traitline.models.downloads import Download, Snapshot, Watch, ask, at_once, fetch, look
from traitline.models.prefetch import Prefetch
from traitline.models.snapshots import Checked, Listing, bytes_here, is_cached, readable
from traitline.study.plan import Network
from traitline.study.store import RunStore

if TYPE_CHECKING:
    from traitline.study.visits import Phase

FOLDER = "downloads"
"""Where a run keeps which commits it uses and what it has downloaded."""
ASKED_AT_ONCE = 8
WAIT_SECONDS = 1.0
"""How often it is looked whether room has come."""

_log = logging.getLogger("traitline.downloads")
Method = TypeVar("Method", bound=Callable[..., Any])


class _LaterError(Exception):
    """There is no room yet: the network is downloaded when it is visited."""


class Supply:
    """Brings the files of the networks that one process of a run works on.

    Args:
        store: the run directory.
        disk_gb: how much of the disk downloads may take at once, in gigabytes; None for no limit.
        phases: the run's phases, in order.
        watch: told how far a download is.
    """

    def __init__(
        self, store: RunStore, disk_gb: float | None, phases: Callable[[], list[Phase]], watch: Watch = lambda _download: None
    ) -> None:
        self._store, self._phases, self.watch = store, phases, watch
        self.disk = Disk(store.root / FOLDER, None if disk_gb is None else round(disk_gb * GB))
        self._using = ExitStack()
        self._current: Network | None = None
        self._next: tuple[Network, Prefetch] | None = None

    def bring(self, network: Network) -> Snapshot | None:
        """Return a network's files, whole and kept from being deleted until `release`; None for a local directory.

        Raises:
            ModelError: they cannot be downloaded, or there is no room for them.
        """
        self.release()
        self._current = network
        if network.revision is None:
            return None
        if self._next is not None and self._next[0] == network:
            self._wait_for(self._next[1])
        commit = self._commit(network)
        self._using.enter_context(self.disk.using(network.source, commit))
        return self._fetched(network, commit, self._admit_now)

    def release(self) -> None:
        """Let go of the network that was brought last: its files may leave the disk from now on, if they are spent."""
        self._using.close()

    def ahead(self, following: Network | None) -> None:
        """Begin to bring the network that comes next, if there is room beside what is in use.

        Args:
            following: the network; where nobody knows, or all of it is done, the first that is needed later.
        """
        if self._next is not None and not self._next[1].over:
            return
        if following is None or not any(following == network for network in self._coming(with_failed=True)):
            following = next((network for network in self._coming() if network != self._current), None)
        if following is not None and following != self._current:
            network = following
            self._next = (network, Prefetch(lambda: self._brought_ahead(network)))

    def prepare(self, networks: Sequence[Network]) -> None:
        """Find out which commits a run uses, once, and whether each network fits on the disk, before anything is done.

        A network that the hub does not know, or does not tell of now, is left for its visit to fail at.

        Raises:
            InputError: a checkpoint is larger than the budget or the disk, or all are larger than the disk and none may leave.
        """
        lacking: dict[Network, Listing] = {}

        def find_out(network: Network) -> None:
            if network.revision is None:
                return
            pinned = self.disk.commit(network.source, network.revision)
            try:
                checked = self._described(network, pinned)
            except ModelError as error:
                _log.warning("%s: %s", network.name, error)
                return
            self.disk.note_commit(network.source, network.revision, checked.listing.commit)
            lacking[network] = checked.listing

        at_once(find_out, dict.fromkeys(networks), ASKED_AT_ONCE)
        self._refuse_too_large(lacking)

    def _described(self, network: Network, commit: str | None) -> Checked:
        """Describe a network from the cache, or ask the hub where that lacks anything."""
        revision = str(network.revision)
        checked = look(network.source, revision, commit)
        return checked if checked is not None else ask(network.source, revision, commit)

    def _refuse_too_large(self, listings: dict[Network, Listing]) -> None:
        if not listings:
            return
        held, budget = self.disk.held(), self.disk.budget_bytes
        ours = {blob for one in held for blob in one.blobs}
        taken, free = taken_bytes(held), free_bytes()
        sizes: dict[Network, int] = {}
        union: dict[tuple[str, str], int] = {}
        for network, listing in listings.items():
            there = {blob for blob in listing.blobs if is_cached(network.source, blob)}
            new = {blob: size for blob, size in listing.blobs.items() if blob in ours or blob not in there}
            sizes[network] = sum(new.values())
            union |= {(network.source, blob): size for blob, size in new.items()}
        network = max(sizes, key=lambda one: sizes[one])
        largest, total = sizes[network], sum(union.values())
        if budget is not None and largest > budget:
            raise InputError(over_budget(listings[network].name, largest, budget))
        if largest > free + taken:
            raise InputError(over_disk(f"{listings[network].name} alone needs {readable(largest)}"))
        if budget is None and total > free + taken:
            raise InputError(over_disk(f"the run's {len(sizes)} checkpoints need {readable(total)}"))
        if total - taken > 0:
            limit = f"{SETTING} {budget / GB:g}" if budget is not None else "all of which stay"
            _log.info("%s to download for %d checkpoints, %s", readable(total - taken), len(sizes), limit)

    def _fetched(self, network: Network, commit: str, admit: Callable[[Listing], None]) -> Snapshot:
        snapshot = fetch(network.source, str(network.revision), commit, admit=admit, watch=self.watch)
        self.disk.finished(commit)
        return snapshot

    def _commit(self, network: Network) -> str:
        """Return the commit of a network, the same throughout the run."""
        revision = str(network.revision)
        commit = self.disk.commit(network.source, revision)
        if commit is None:
            found = self._described(network, None).listing.commit
            commit = self.disk.note_commit(network.source, revision, found)
        return commit

    def _admit_now(self, listing: Listing) -> None:
        """Wait until there is room for a network that is to be visited."""
        told = False
        while not self.disk.admit(listing, self._rank(), now=True):
            if not told:
                _log.info("%s: waits for room on the disk (%s is in use)", listing.name, SETTING)
            told = True
            time.sleep(WAIT_SECONDS)

    def _admit_ahead(self, listing: Listing) -> None:
        """Give up where there is no room beside what is in use."""
        if not self.disk.admit(listing, self._rank(), now=False):
            _log.info(
                "%s: downloaded when the checkpoint before it is spent, for both together exceed %s", listing.name, SETTING
            )
            raise _LaterError

    def _brought_ahead(self, network: Network) -> Path | None:
        """Bring a network that comes later; nothing where there is no room beside what is in use."""
        if network.revision is None:
            return Path(network.source)
        commit = self._commit(network)
        with self.disk.using(network.source, commit), suppress(_LaterError):
            return self._fetched(network, commit, self._admit_ahead).folder
        return None

    def _wait_for(self, prefetch: Prefetch) -> None:
        """Wait for a network that is being brought.

        Raises:
            ModelError: as downloading it did.
        """
        prefetch.wait()
        self._next = None
        if isinstance(prefetch.error, ModelError):
            raise prefetch.error

    def _rank(self) -> Rank:
        """Return what tells how many visits it is until a commit is needed again."""
        coming: dict[tuple[str, str | None], int] = {}
        for i, network in enumerate(self._coming()):
            if network.revision is not None:
                coming.setdefault((network.source, self.disk.commit(network.source, network.revision)), i)
        return lambda source, commit: coming.get((source, commit))

    def _coming(self, *, with_failed: bool = False) -> list[Network]:
        """Return the networks that have cells which are neither done nor failed, in the order of visits."""
        found: list[Network] = []
        for phase in self._phases():
            ledger = self._store.ledger(phase.table)
            states = ledger[ledger["state"] == "failed"][["network", "trait", "strategy"]]
            failed = set() if with_failed else set(states.itertuples(index=False, name=None))
            for network in phase.networks:
                cells = [cell for cell in phase.cells(network) if (cell.network, cell.trait, cell.strategy) not in failed]
                if not all(phase.path(cell).is_file() for cell in cells):
                    found.append(network)
        return found


def under_way(run: Path) -> list[Download]:
    """Return the downloads that any process of a run on this machine is at, and how far they are, from any process."""
    held = Disk(run / FOLDER).under_way()
    return [Download(one.source, one.revision, bytes_here(one.source, one.blobs), sum(one.blobs.values())) for one in held]


def releases(method: Method) -> Method:
    """Let go of the network that a method of `Visits` has brought, when that method is over."""

    @functools.wraps(method)
    def released(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        finally:
            self.supply.release()

    return released  # type: ignore[return-value]
