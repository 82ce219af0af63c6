"""The plan: every row of a study, its keys, and the batches rows belong to. Nothing here loads a model.

The plan alone fixes which rows share a batch and in which order, so that a resumed run repeats an uninterrupted one. A row's
key names all of its identity; its noise key leaves the condition out, so that baseline and steered rows share their random
numbers. Leaves the work to `run.py` and the estimate of what it takes to `estimate.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from traitline.errors import InputError, nearest
from traitline.lineages import Checkpoint, Descendant, Lineage, load_lineage
from traitline.study.config import BASELINE_FACTOR, COMBINED, FORCED, Elsewhere, StudyConfig
from traitline.traits import Trait, load_trait
from traitline.traits.strategies import COMMON, Format, Message, strategy
from traitline.traits.trait import Polarity, Split

CONTROL_KINDS = ("isotropic", "covariance", "shuffled")
CHECKPOINTS, DESCENDANTS = "checkpoints", "descendants"
"""What `evaluate.where` calls all networks of a kind."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that tells one response from another; None where a field does not apply."""

    lineage: str
    checkpoint: str
    target: str
    trait: str
    strategy: str
    split: Split
    condition: str
    question_id: str
    sample: int
    polarity: Polarity | Literal["neutral"] | None = None
    instruction_id: str | None = None
    control_kind: str | None = None
    control_seed: int | None = None
    vector_checkpoint: str | None = None
    vector_trait: str | None = None
    vector_strategy: str | None = None
    layer: int | None = None
    dose: str | None = None
    coef: float | None = None
    positions: str | None = None

    def columns(self) -> dict[str, Any]:
        """Return the fields by name (quicker than `dataclasses.asdict`, and there are hundreds of thousands of rows)."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One response to be generated: who it is, the question alone (which the judge sees) and the whole prompt."""

    identity: Identity
    question: str
    prompt: str | tuple[tuple[tuple[str, str], ...], ...]

    def messages(self) -> str | list[Message]:
        """Return the prompt as `models.prompts.encode` takes it."""
        return self.prompt if isinstance(self.prompt, str) else [dict(message) for message in self.prompt]


def row_key(identity: Identity) -> str:
    """Return the hash of all identity columns of a row, 32 hexadecimal digits."""
    return _hash(identity.columns(), 16).hex()


def noise_key(seed: int, identity: Identity) -> int:
    """Return the 64-bit key of a row's random numbers, which the condition and the vector have no part in."""
    parts = [
        seed,
        identity.target,
        identity.strategy,
        identity.split,
        identity.polarity,
        identity.instruction_id,
        identity.question_id,
        identity.sample,
    ]
    return int.from_bytes(_hash(parts, 8), "little")


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else."""
    return int.from_bytes(_hash([str(part) for part in parts], 8), "little") >> 1


def _hash(content: Any, size: int) -> bytes:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8"), digest_size=size).digest()


@dataclass(frozen=True, slots=True)
class Cell:
    """One (checkpoint, trait, strategy) of the study, or, in the transfer phase, one (target, trait, strategy)."""

    network: str
    trait: str
    strategy: str


@dataclass(frozen=True, slots=True)
class Network:
    """A network the study loads: one of the lineage's checkpoints, or a descendant."""

    name: str
    source: str
    revision: str | None
    tokens: int | None
    form: Format

    @classmethod
    def of(cls, node: Checkpoint | Descendant) -> Network:
        """Make one of a checkpoint (prompted plainly) or of a descendant (with its chat template)."""
        chat = isinstance(node, Descendant) and node.chat
        tokens = node.tokens if isinstance(node, Checkpoint) else None
        return cls(node.name, node.source, node.revision, tokens, "chat" if chat else "plain")


@dataclass(frozen=True)
class Plan:
    """A study with its lineage and traits resolved."""

    config: StudyConfig
    lineage: Lineage
    checkpoints: tuple[Network, ...]
    targets: tuple[Network, ...]
    traits: dict[str, Trait]

    @property
    def last(self) -> Network:
        """The last checkpoint of the study."""
        return self.checkpoints[-1]

    @property
    def order(self) -> list[str]:
        """Names of the checkpoints in order of training."""
        return [network.name for network in self.checkpoints]

    def networks(self) -> list[Network]:
        """Return the checkpoints in the order they are worked on: the last one first, whose rows `forced` reads."""
        return [self.last, *self.checkpoints[:-1]]

    @property
    def descendants(self) -> tuple[Network, ...]:
        """The targets that are elicited themselves, so that their vectors can be applied to every target."""
        return tuple(t for t in self.targets if t != self.last) if self.config.descendant_vectors else ()

    @property
    def layers(self) -> tuple[int, ...]:
        """All layers at which anything is steered, in rising order."""
        places = [self.place(network.name, trait) for network in (*self.checkpoints, *self.targets) for trait in self.traits]
        return tuple(sorted({layer for layers, _ in places for layer in layers}))

    def place(self, network: str, trait: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return the layers and the coefficients that a trait's vectors are applied with to a network."""
        layers, coefs = self.config.evaluate.layers, self.config.evaluate.coefs
        for entry in self.config.evaluate.where:
            if self._holds(entry, network, trait):
                layers, coefs = entry.layers or layers, entry.coefs or coefs
        return layers, coefs

    def _holds(self, entry: Elsewhere, network: str, trait: str) -> bool:
        """Tell whether an entry of `evaluate.where` is about a trait and a network."""
        kind = CHECKPOINTS if network in self.order else DESCENDANTS
        if entry.through is not None and (kind != CHECKPOINTS or self.order.index(network) > self.order.index(entry.through)):
            return False
        return (not entry.traits or trait in entry.traits) and (not entry.networks or bool({network, kind} & {*entry.networks}))

    def cells(self, network: Network) -> list[Cell]:
        """Return the cells of one network in a fixed order."""
        return [Cell(network.name, trait, strategy) for trait in self.traits for strategy in self.config.strategies]

    def elicited(self, network: Network) -> list[Cell]:
        """Return the cells of a network that have contrast rows: at a descendant all but those of `forced`."""
        return [cell for cell in self.cells(network) if cell.strategy != FORCED or network in self.checkpoints]

    @cached_property
    def digest(self) -> str:
        """Hash of everything that decides the results: configuration, revisions and the traits' texts.

        The facet judge is left out: it may be named, or another, when a run is done, and labels what is there.
        """
        nodes = [[n.name, _place(n), n.revision] for n in (*self.checkpoints, *self.targets)]
        traits = {name: trait.digest for name, trait in self.traits.items()}
        return _hash([self.config.model_dump(mode="json", exclude={"facet_judge"}), nodes, traits], 16).hex()

    def elicit_rows(self, network: Network, cell: Cell) -> Iterator[PlannedRow]:
        """Yield the contrast rows of one cell, both polarities, and neutral ones if asked; none for `forced` and `combined`."""
        if cell.strategy in {FORCED, COMBINED}:
            return
        trait, wording = self.traits[cell.trait], strategy(cell.strategy)
        contrasts = trait.texts(cell.strategy).contrasts
        for i, contrast in enumerate(contrasts):
            for question in trait.questions(cell.strategy, "elicit"):
                for polarity in ("pos", "neg"):
                    prompt = wording.prompt(contrast.side(polarity), question.text, network.form, trait.task)
                    for sample in range(self.config.elicit.samples):
                        identity = Identity(
                            **self._who(network, cell, "elicit"),
                            condition="elicit",
                            question_id=question.id,
                            sample=sample,
                            polarity=polarity,
                            instruction_id=f"{cell.trait}-{cell.strategy}-contrast-{i:02d}",
                        )
                        yield PlannedRow(identity, question.text, _frozen(prompt))
        if self.config.elicit.neutral:
            yield from self._neutral_rows(network, cell, len(contrasts) * self.config.elicit.samples)

    def _neutral_rows(self, network: Network, cell: Cell, samples: int) -> Iterator[PlannedRow]:
        """Yield the rows that answer the same questions without an instruction."""
        trait, wording = self.traits[cell.trait], strategy(cell.strategy)
        for question in trait.questions(cell.strategy, "elicit"):
            prompt = wording.prompt(None, question.text, network.form, trait.task)
            for sample in range(samples):
                identity = Identity(
                    **self._who(network, cell, "elicit"),
                    condition="elicit",
                    question_id=question.id,
                    sample=sample,
                    polarity="neutral",
                    instruction_id=f"{cell.trait}-{cell.strategy}-neutral",
                )
                yield PlannedRow(identity, question.text, _frozen(prompt))

    def baseline_rows(self, network: Network, cell: Cell, split: Split) -> Iterator[PlannedRow]:
        """Yield the rows of one cell to which nothing is done."""
        for question, prompt in self._asked(network, cell, split):
            for sample in range(self.config.evaluate.samples * BASELINE_FACTOR):
                identity = Identity(
                    **self._who(network, cell, split), condition="baseline", question_id=question[0], sample=sample
                )
                yield PlannedRow(identity, question[1], prompt)

    def steered_rows(
        self, network: Network, cell: Cell, vector: Cell, *, split: Split = "evaluate", controls: bool = False
    ) -> Iterator[PlannedRow]:
        """Yield the rows of one cell under one vector and its bootstrap vectors, with controls if asked.

        On the `tune` split, and where the vector is another strategy's, it is applied alone: that is all that choosing a
        dose or comparing strategies needs.
        """
        alone = split == "tune" or vector.strategy != cell.strategy
        asked, who = self._asked(network, cell, split), self._who(network, cell, split)
        layers, coefs = self.place(network.name, vector.trait)
        for condition, kind, seed, coef, samples in self._conditions(coefs, controls=controls):
            if (alone and condition != "steered") or (vector.strategy != cell.strategy and coef < 0):
                continue
            for layer in layers:
                for question, prompt in asked:
                    for sample in range(samples):
                        identity = Identity(
                            **who,
                            condition=condition,
                            question_id=question[0],
                            sample=sample,
                            control_kind=kind,
                            control_seed=seed,
                            vector_checkpoint=vector.network,
                            vector_trait=vector.trait,
                            vector_strategy=vector.strategy,
                            layer=layer,
                            dose=self.config.evaluate.dose,
                            coef=coef,
                            positions=self.config.evaluate.positions,
                        )
                        yield PlannedRow(identity, question[1], prompt)

    def evaluation_rows(self, network: Network, cell: Cell) -> Iterator[PlannedRow]:
        """Yield what a checkpoint is evaluated on: its own vector and, where strategies are compared, theirs.

        The last checkpoint also answers the `tune` questions.
        """
        yield from self.baseline_rows(network, cell, "evaluate")
        yield from self.steered_rows(network, cell, cell, controls=True)
        for other in self.others(cell):
            yield from self.steered_rows(network, cell, other)
        for component in self.config.components_at(cell.strategy):
            yield from self.steered_rows(network, cell, Cell(cell.network, cell.trait, component))
        if network == self.last:
            yield from self.baseline_rows(network, cell, "tune")
            yield from self.steered_rows(network, cell, cell, split="tune")

    def transfer_rows(self, network: Network, cell: Cell) -> Iterator[PlannedRow]:
        """Yield what a target is evaluated on: the vectors of every checkpoint, and of every descendant that has some.

        A descendant also meets the controls of the last checkpoint's vector; at that checkpoint itself they were evaluated
        before. Where strategies are compared, a descendant is asked the common questions under the last vector of each.
        """
        yield from self.baseline_rows(network, cell, "evaluate")
        for source in (*self.checkpoints, *self.descendants):
            controls = source == self.last and network != self.last
            yield from self.steered_rows(network, cell, Cell(source.name, cell.trait, cell.strategy), controls=controls)
        if cell.strategy == COMBINED and network != self.last:
            for other in self.others(Cell(self.last.name, cell.trait, cell.strategy)):
                yield from self.steered_rows(network, cell, other)

    def others(self, cell: Cell) -> list[Cell]:
        """Return the cells of the strategies that a cell is compared with; none for `forced`."""
        compared = self.config.compared if cell.strategy != FORCED else ()
        return [Cell(cell.network, cell.trait, other) for other in compared if other != cell.strategy]

    def control_seeds(self, kind: str) -> range:
        """Return the seeds of one kind of control; no seed belongs to two kinds."""
        start = 0
        for other in CONTROL_KINDS:
            count = getattr(self.config.controls, other)
            if other == kind:
                return range(start, start + count)
            start += count
        raise InputError(f"no control is called {kind!r}; there are {', '.join(CONTROL_KINDS)}")

    def _conditions(
        self, coefs: Sequence[float], *, controls: bool
    ) -> Iterator[tuple[str, str | None, int | None, float, int]]:
        """Yield (condition, control kind, control seed, coef, samples per question)."""
        evaluate, counts = self.config.evaluate, self.config.controls
        for coef in coefs:
            yield "steered", None, None, coef, evaluate.samples
        for coef in (c for c in coefs if c > 0):
            for seed in range(counts.bootstrap):
                yield "bootstrap", None, seed, coef, counts.bootstrap_samples
            for kind in CONTROL_KINDS if controls else ():
                for seed in self.control_seeds(kind):
                    condition = "shuffled" if kind == "shuffled" else "random"
                    yield condition, kind, seed, coef, counts.samples or evaluate.samples

    def _who(self, network: Network, cell: Cell, split: Split) -> dict[str, Any]:
        return {
            "lineage": self.lineage.name,
            "checkpoint": network.name,
            "target": network.name,
            "trait": cell.trait,
            "strategy": cell.strategy,
            "split": split,
        }

    def _asked(self, network: Network, cell: Cell, split: Split) -> list[tuple[tuple[str, str], Any]]:
        """Return ((question id, question), prompt without instruction) of a split."""
        trait, asked = self.traits[cell.trait], self.config.asked(cell.strategy)
        wording = strategy(asked)
        return [
            ((q.id, q.text), _frozen(wording.prompt(None, q.text, network.form, trait.task)))
            for q in trait.questions(asked, split)
        ]


def batches(rows: Sequence[PlannedRow], size: int) -> Iterator[list[PlannedRow]]:
    """Yield the rows in their planned order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def make_plan(config: StudyConfig) -> Plan:
    """Resolve a study's lineage and traits and check that they have what the study asks for.

    Raises:
        InputError: an unknown lineage, revision, target, trait, strategy, or a trait without the questions needed.
    """
    lineage = load_lineage(config.lineage)
    if isinstance(config.checkpoints, int):
        config = config.model_copy(update={"checkpoints": tuple(one.name for one in lineage.grid(config.checkpoints))})
    names = config.checkpoints if isinstance(config.checkpoints, tuple) else ()
    nodes = [lineage.checkpoint(name) for name in names] or list(lineage.checkpoints)
    checkpoints = tuple(Network.of(node) for node in nodes)
    targets = tuple(checkpoints[-1] if t == "last" else Network.of(lineage.descendant(t)) for t in config.targets)
    traits = {trait.name: trait for trait in (load_trait(name, **_folder(lineage)) for name in config.traits)}
    if len(traits) < len(config.traits):
        raise InputError(f"two of the traits {', '.join(config.traits)} have the same name; rename one in its file")
    for trait in traits.values():
        for name in config.generating:
            strategy(name)
            for split in ("elicit", "evaluate"):
                if not trait.questions(name, split):
                    raise InputError(f"trait {trait.name!r} has no {split!r} questions for strategy {name!r}; add some")
        if COMBINED in config.strategies and not trait.questions(COMMON, "evaluate"):
            raise InputError(
                f"trait {trait.name!r} has no common questions, which {COMBINED!r} vectors are evaluated on; add some under "
                "`common: evaluate:` in its file, or leave the strategy out"
            )
    if config.facet_judge is not None and not any(trait.facets for trait in traits.values()):
        raise InputError(
            f"facet_judge is {config.facet_judge}, but none of the traits {', '.join(traits)} has facets; name their kinds "
            "under `facets:` in their files, or leave it out"
        )
    if config.descendant_vectors and targets in {(), (checkpoints[-1],)}:
        raise InputError("descendant_vectors is set, but no descendant is among the targets; name some, or leave it out")
    plan = Plan(config, lineage, checkpoints, targets, traits)
    _check_where(plan)
    return plan


def _check_where(plan: Plan) -> None:
    """Check that `evaluate.where` names nothing that the study does not have."""
    networks = {*plan.order, *(target.name for target in plan.targets), CHECKPOINTS, DESCENDANTS}
    for entry in plan.config.evaluate.where:
        asked = (("trait", entry.traits, set(plan.traits)), ("network", entry.networks, networks))
        through = ("checkpoint", (entry.through,) if entry.through is not None else (), set(plan.order))
        for what, names, known in (*asked, through):
            for name in names:
                if name not in known:
                    raise InputError(
                        f"evaluate.where names {what} {name!r}, which the study does not have; {nearest(name, known)}"
                    )


def _place(network: Network) -> str:
    """Return what tells where a network lies wherever the folder of its lineage was moved to."""
    return network.source if network.revision else "/".join(Path(network.source).parts[-2:])


def _folder(lineage: Lineage) -> dict[str, Path]:
    """Return where a lineage's traits are looked for: nano supplies its own, in its own language."""
    if lineage.name != "nano":
        return {}
    from traitline.nano import traits_folder

    return {"folder": traits_folder()}


def _frozen(prompt: str | list[Message]) -> Any:
    return prompt if isinstance(prompt, str) else tuple(tuple(message.items()) for message in prompt)
