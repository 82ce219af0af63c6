"""What a study is: the fields of its YAML file, each with its default.

Knows how a study is read and checked. Leaves to `plan.py` which rows follow from it and to `run.py` the work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from traitline.errors import InputError, misfit, nearest
from traitline.judges.base import default_judge
from traitline.traits.strategies import COMMON
from traitline.vectors.dose import FEWEST_NATS, KL

DATA = Path(__file__).parent / "data"
BASELINE_FACTOR = 4
"""Baselines get this many times the samples of a steered condition: many comparisons share them."""
FORCED = "forced"
"""The strategy whose vectors come from one fixed set of texts at every checkpoint."""
COMBINED = "combined"
"""The strategy whose vectors come from the pooled contrast rows of all that generate."""
SHARED, REST, POSITIVE_SIDE, NEGATIVE_SIDE = "shared", "rest-", "positive-", "negative-"
"""What the components of vectors are called where they are steered alone; all but the first go before a strategy's name."""

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Section):
    """How responses are generated."""

    samples: Positive = 1
    """Responses per question (and, when eliciting, per contrast and polarity)."""
    max_new_tokens: Positive = 64
    temperature: float = Field(default=1.0, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0)


class Elicitation(Sampling):
    """How contrast rows are generated."""

    neutral: bool = False
    """Also answer every question without an instruction, as often as on either side, to tell which side of a vector carries
    it."""


class Elsewhere(_Section):
    """Layers or coefficients that hold for some traits or networks only."""

    traits: tuple[str, ...] = ()
    """Names of the study's traits; all of them where empty."""
    networks: tuple[str, ...] = ()
    """Networks that are steered: names of checkpoints or descendants, `checkpoints` or `descendants` for all of a kind; every
    network where empty."""
    through: str | None = None
    """The last checkpoint, in order of training, for which it holds; no descendant is steered so then."""
    layers: tuple[Positive, ...] | None = Field(default=None, min_length=1)
    coefs: tuple[float, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _says_something(self) -> Elsewhere:
        if self.layers is None and self.coefs is None:
            raise ValueError("an entry of where needs layers, coefs or both")
        _check_place(self.layers or (), self.coefs or ())
        return self


def _check_place(layers: tuple[int, ...], coefs: tuple[float, ...]) -> None:
    if 0 in coefs:
        raise ValueError("coefs holds 0, which is the baseline; leave it out")
    if len(set(coefs)) < len(coefs) or len(set(layers)) < len(layers):
        raise ValueError("layers and coefs must not repeat")


class Evaluation(Sampling):
    """Where and how strongly vectors are applied."""

    samples: Positive = 4
    layers: tuple[Positive, ...] = Field(min_length=1)
    coefs: tuple[float, ...] = Field(min_length=1)
    """Coefficients; negative ones steer away from the trait."""
    where: tuple[Elsewhere, ...] = ()
    """Other layers and coefficients for some traits or networks; a later entry that fits goes before an earlier one."""
    dose: Literal["norm", "raw", "kl"] = "norm"
    """What coefs are: shares of the activation norm, multiples of the vector, or, with `kl`, nats by which the next-token
    distribution is moved on neutral text; each network, vector and control gets the coefficient that does it."""
    kl_statistic: Literal["p95", "mean"] = "p95"
    """With `kl`: what reaches the nats, the 95th percentile over positions or the mean."""
    positions: Literal["response", "prompt", "all"] = "response"
    other_rubrics: bool = True
    """Also score baseline and steered responses on the rubrics of the study's other traits."""

    @model_validator(mode="after")
    def _no_zero(self) -> Evaluation:
        _check_place(self.layers, self.coefs)
        if self.dose != KL and self.kl_statistic != "p95":
            raise ValueError(f"kl_statistic is for dose {KL!r}, and the dose is {self.dose!r}; leave it out")
        coefs = [*self.coefs, *(coef for one in self.where for coef in one.coefs or ())]
        if self.dose == KL and min(map(abs, coefs)) < FEWEST_NATS:
            raise ValueError(f"with dose {KL!r} coefs are nats, of {FEWEST_NATS:g} or more: less is lost in rounding")
        return self


class Controls(_Section):
    """How many control vectors of each kind each vector is compared with."""

    isotropic: Count = 2
    covariance: Count = 2
    shuffled: Count = 2
    bootstrap: Count = 8
    """Question-bootstrap vectors, whose spread enters the interval of each delta. Needs at least 2, or 0 for none."""
    bootstrap_samples: Positive = 1
    samples: Positive | None = None
    """Responses per question under a control; as many as the evaluation's where left out."""


class Criteria(_Section):
    """What `steerable` asks of a delta beyond significance."""

    minimum_effect: float = 5.0
    coherence_floor: float = 50.0
    coherence_loss: float = 25.0
    alpha: float = Field(default=0.05, gt=0, lt=1)


class Judging(_Section):
    """How a judge by API (`openai:<model>`) is asked, and what it may cost."""

    method: Literal["auto", "logprobs", "sample"] = "auto"
    """By the probabilities of numbers, by drawn answers, or by what the server can do."""
    samples: Positive = 5
    """Answers drawn per question, where answers are drawn."""
    joint: bool = False
    """Ask for trait and coherence in one request."""
    batch: bool = Field(default=False, exclude=True)
    """Judge through the provider's batch endpoint."""
    budget_usd: float | None = Field(default=None, gt=0, exclude=True)
    """US dollars after which judging stops, of all that was spent with the judge cache."""
    budget_tokens: Positive | None = Field(default=None, exclude=True)
    """Likewise, tokens sent and received."""
    prices: Path | None = Field(default=None, exclude=True)
    """A file of prices that goes before ours."""
    drift_prompts: Count = Field(default=20, exclude=True)
    """How many of the first prompts are asked again to see whether the judge has changed; 0 for none."""
    drift_hours: float = Field(default=24.0, ge=0, exclude=True)
    """How old the last look must be for another."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of `OpenAIJudge` that are said here."""
        names = ("method", "samples", "joint", "batch", "budget_usd", "budget_tokens", "prices", "drift_prompts")
        return {name: getattr(self, name) for name in names}


class StudyConfig(_Section):
    """One study. The fields are the keys of its YAML file."""

    name: Name
    lineage: str
    """Packaged name, YAML file, or a folder of checkpoints."""
    checkpoints: tuple[str, ...] | Annotated[int, Field(ge=1, strict=True)] = ()
    """Revisions in order of training; the lineage's own selection where empty. A number chooses so many, about evenly spaced in
    the logarithm of tokens; what they are decides the results, not the number."""
    targets: tuple[str, ...] = ("last",)
    """Networks that every checkpoint's vector is transferred to: `last`, or names of descendants. Empty: no transfer."""
    traits: tuple[str, ...] = Field(min_length=1)
    """Packaged names or YAML files."""
    strategies: tuple[str, ...] = ("character", FORCED)
    """Ways of eliciting. At every checkpoint `forced` reads the first strategy's accepted rows of the last one; `combined`
    pools the contrast rows of all others and asks the traits' common questions."""
    compare_strategies: bool = False
    """Also apply every strategy's vectors to every other strategy's questions and to the common ones."""
    descendant_vectors: bool = False
    """Also elicit at the descendants among the targets, and apply their vectors to every target."""
    components: bool = False
    """Also steer every checkpoint with components of its vectors alone: on the common questions with what the strategies share
    and with the rest of each (with `combined`), on a strategy's own with both sides of neutral (with `elicit.neutral`)."""
    detection: bool = Field(default=False, exclude=True)
    """Also read one fixed set of texts at every checkpoint, without the instruction, to tell when each trait is readable. May
    be set when a run is done."""
    judge: str
    """Who scores; where left out, `nano` on the embedded lineage and else `distilled`."""
    facet_judge: str | None = None
    """Who tells which facets the responses show; where left out, the judge if it can. No score depends on it."""
    judging: Judging = Judging()
    """How a judge by API is asked, and what it may cost. What changes no score may change from one run to the next."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    batch_rows: Positive = 64
    device: Annotated[str, StringConstraints(pattern=r"^[a-z]+(:[0-9]+)?$")] | None = Field(default=None, exclude=True)
    """Where networks are put: a GPU if there is one, else the CPU. `auto` spreads each over all GPUs. Another one may be named
    when a run goes on."""
    disk_gb: float | None = Field(default=None, gt=0, exclude=True)
    """How many gigabytes of the disk downloaded checkpoints may take at once; spent ones that the run itself downloaded leave
    to make room. No limit where left out, and then nothing is ever deleted. Another one may be named when a run goes on."""
    activation_norm: Literal["median", "mean"] = "median"
    elicit: Elicitation = Elicitation()
    evaluate: Evaluation
    controls: Controls = Controls()
    criteria: Criteria = Criteria()
    matched_loss: float = Field(default=5.0, gt=0, exclude=True)
    """Points of coherence at whose loss effects are compared across checkpoints, where there are several coefs. May be changed
    when a run is done."""

    @model_validator(mode="before")
    @classmethod
    def _with_judge(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("judge") is None:
            return {**fields, "judge": default_judge(str(fields.get("lineage")))}
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        for field in ("checkpoints", "targets", "traits", "strategies"):
            values = getattr(self, field)
            if isinstance(values, tuple) and len(set(values)) < len(values):
                raise ValueError(f"{field} names something twice: {', '.join(values)}")
        if not self.generating:
            raise ValueError(f"strategies needs at least one besides {FORCED!r} and {COMBINED!r}, whose rows they read")
        if COMBINED in self.strategies and len(self.generating) < 2:
            raise ValueError(f"{COMBINED!r} pools the rows of several strategies, and there is one: {self.generating[0]}")
        if self.compare_strategies and COMBINED not in self.strategies:
            raise ValueError(f"compare_strategies needs {COMBINED!r} among strategies, which asks the common questions")
        if self.components and COMBINED not in self.strategies and not self.elicit.neutral:
            raise ValueError(
                f"components needs {COMBINED!r} among strategies, or elicit.neutral: without them there are none to steer with"
            )
        if self.judging != Judging() and not self.by_api:
            raise ValueError(f"judging is for judges by API (openai:<model>), and the judge is {self.judge!r}; leave it out")
        if self.controls.bootstrap == 1:
            raise ValueError("controls.bootstrap is 1; a spread needs at least 2 vectors (0 for none)")
        return self

    @model_serializer(mode="wrap")
    def _deciding(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out newer fields where they are as ever, so that studies from before them keep their digest."""
        fields: dict[str, Any] = dump(self)
        if fields.get("judging") == Judging().model_dump():
            del fields["judging"]
        if not self.evaluate.where:
            fields.get("evaluate", {}).pop("where", None)
        if not self.components:
            fields.pop("components", None)
        if not self.elicit.neutral:
            fields.get("elicit", {}).pop("neutral", None)
        if self.evaluate.kl_statistic == "p95":
            fields.get("evaluate", {}).pop("kl_statistic", None)
        return fields

    def everything(self) -> str:
        """Return all fields as JSON, also those that decide no result and that `model_dump` leaves out."""
        return json.dumps(self, default=lambda one: dict(one) if isinstance(one, BaseModel) else str(one))

    @property
    def by_api(self) -> bool:
        """Whether the judge, or the facet judge, is asked through an API."""
        return any(name is not None and name.startswith("openai:") for name in (self.judge, self.facet_judge))

    @property
    def generating(self) -> tuple[str, ...]:
        """The strategies that generate rows of their own."""
        return tuple(s for s in self.strategies if s not in {FORCED, COMBINED})

    @property
    def compared(self) -> tuple[str, ...]:
        """The strategies whose vectors are applied to each other's questions; none unless asked for."""
        return tuple(s for s in self.strategies if s != FORCED) if self.compare_strategies else ()

    def components_at(self, strategy: str) -> tuple[str, ...]:
        """Return the components of vectors that are applied to a strategy's questions; none unless asked for."""
        if not self.components or strategy == FORCED:
            return ()
        if strategy == COMBINED:
            return (SHARED, *(REST + name for name in self.generating))
        return (POSITIVE_SIDE + strategy, NEGATIVE_SIDE + strategy) if self.elicit.neutral else ()

    def asked(self, strategy: str) -> str:
        """Return whose questions a strategy's vectors are evaluated on.

        Those of the first generating one for `forced`, the common ones for `combined`, else its own.
        """
        return {FORCED: self.generating[0], COMBINED: COMMON}.get(strategy, strategy)


def packaged_studies() -> list[str]:
    """Return the names of the studies that ship with traitline."""
    return sorted(path.stem for path in DATA.glob("*.yaml"))


def load_config(name: str | Path) -> StudyConfig:
    """Load a study by its packaged name or from a YAML file.

    Raises:
        InputError: no such study or file, broken YAML, or a field that does not fit.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        if str(name) not in packaged_studies():
            raise InputError(
                f"no study is called {str(name)!r}; {nearest(str(name), packaged_studies())}. For your own give its .yaml file"
            )
        path = DATA / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"study file {str(path)!r} does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"study file {str(path)!r} is not valid YAML: {error}") from error
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"study file {str(path)!r} does not fit:\n{misfit(error)}") from error
