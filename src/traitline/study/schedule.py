"""What a worker does next: visit a network that nobody has visited, or join the visit of another worker.

Knows one round over the networks of a phase: who is where, which stages have rows that others may generate, which networks have
cost workers their lives. Knows neither processes nor files, so that whoever can carry an order to a worker can use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from traitline.study.plan import Cell, Network

LIVES = 2
"""So many workers may end at one network; then its cells have failed."""


@dataclass(frozen=True)
class Visit:
    """Do all that the phase has for a network."""

    network: Network
    following: Network | None
    """The network that is visited after this one, as far as is known."""


@dataclass(frozen=True)
class Join:
    """Generate a share of the rows of a stage that another worker is at."""

    network: Network
    stage: str
    cells: tuple[Cell, ...]


class Schedule:
    """One round over networks.

    Args:
        networks: in the order of visits.
        needed: tells which network must have been elicited before one is visited; None where it can be at once. Such a network
            that is not under way keeps nobody waiting.
    """

    def __init__(self, networks: Sequence[Network], needed: Callable[[Network], Network | None]) -> None:
        self.put_off: list[Network] = []
        self._waiting = list(networks)
        self._needed = needed
        self._visits: dict[Hashable, Network] = {}
        self._open: dict[Network, Join] = {}
        self._ended: Counter[Network] = Counter()

    @property
    def over(self) -> bool:
        """Whether every network was visited."""
        return not self._waiting and not self._visits

    def next(self, worker: Hashable) -> Visit | Join | None:
        """Return what an idle worker does next; None where there is nothing for it now."""
        under_way = {*self._waiting, *self._visits.values()}
        for network in self._waiting:
            if self._needed(network) not in under_way:
                self._waiting.remove(network)
                self._visits[worker] = network
                return Visit(network, self._waiting[0] if self._waiting else None)
        join = next((join for join in self._open.values() if not self._ended[join.network]), None)
        if join is not None:
            self._open[join.network] = self._open.pop(join.network)  # the next worker joins another one
        return join

    def begun(self, worker: Hashable, stage: str, cells: Sequence[Cell]) -> None:
        """Note that a worker has begun a stage, which others may join."""
        network = self._visits[worker]
        self._open[network] = Join(network, stage, tuple(cells))

    def used_up(self, join: Join) -> None:
        """Note that a stage has no rows left that nobody has claimed."""
        if self._open.get(join.network) == join:
            del self._open[join.network]

    def settled(self, worker: Hashable) -> Network:
        """Note that a worker is done with the network it visited, and return that."""
        network = self._visits.pop(worker)
        self._open.pop(network, None)
        return network

    def wait_for_judging(self, worker: Hashable) -> Network:
        """Note that the rows of the network that a worker visited wait to be judged, and return that network."""
        network = self.settled(worker)
        self.put_off.append(network)
        return network

    def ended(self, worker: Hashable, network: Network) -> Network | None:
        """Note that a worker has ended at a network, which another one takes up again; nobody joins that one any more.

        Returns:
            The network, where too many have ended there and nobody takes it up.
        """
        self._ended[network] += 1
        if worker not in self._visits:
            return None
        network = self.settled(worker)
        if self._ended[network] >= LIVES:
            return network
        self._waiting.insert(0, network)
        return None
