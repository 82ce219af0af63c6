"""What models on servers cost: read from `data/prices.yaml`, or from a file of the user's that goes before it.

Knows the form of such a file, and money from tokens. Leaves counting to `judges/spending.py`, and limits to `budget.py`. A
model without an entry has no price: None, never 0.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from traitline.errors import InputError, misfit
from traitline.judges.spending import Spending

PRICES = Path(__file__).parents[1] / "data" / "prices.yaml"
MILLION = 1_000_000
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Price(BaseModel):
    """What one model costs, in US dollars per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd: float = Field(ge=0)
    """For the prompt."""
    output_usd: float = Field(ge=0)
    """For the answer, thinking included."""
    cached_input_usd: float | None = Field(default=None, ge=0)
    """For that part of the prompt that the server had read before; as much as for the rest where left out."""
    batch_factor: float = Field(default=1.0, ge=0, le=1)
    """What a batch endpoint charges of these prices."""
    thinking: bool = False
    """The model writes much more than the number it is asked for, and gives no probabilities."""
    source: str = ""
    """Where the price was seen."""

    def usd(self, spent: Spending, *, batch: bool = False) -> float:
        """Return what tokens cost."""
        cached = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        fresh_tokens = spent.prompt_tokens - spent.cached_tokens
        full = fresh_tokens * self.input_usd + spent.cached_tokens * cached + spent.completion_tokens * self.output_usd
        return full / MILLION * (self.batch_factor if batch else 1.0)


class _PriceFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seen: date | None = None
    models: dict[str, Price]


@lru_cache(maxsize=8)
def load_prices(path: Path = PRICES) -> dict[str, Price]:
    """Read a file of prices, by model.

    Raises:
        InputError: no such file, broken YAML, or an entry that does not fit.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(_PriceFile.model_validate(content).models)
    except OSError as error:
        raise InputError(f"the file of prices {str(path)!r} cannot be read ({error.strerror}); give another path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the file of prices {str(path)!r} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise InputError(f"the file of prices {str(path)!r} does not fit:\n{misfit(error)}") from error


def find_price(model: str, prices: Path | None = None) -> Price | None:
    """Return a model's price; that of `gpt-4.1-mini` also for `gpt-4.1-mini-2025-04-14`.

    Args:
        model: the name the server knows the model by.
        prices: a file of the user's, looked into first.

    Raises:
        InputError: the file cannot be used.
    """
    for path in (prices, PRICES) if prices else (PRICES,):
        known = load_prices(path)
        for name in (model, _DATED.sub("", model)):
            if name in known:
                return known[name]
    return None


def no_price(model: str) -> str:
    """Say what to do about a model without a price."""
    return (
        f"no price is known for {model!r}; write its US dollars per million tokens into a YAML file and name it as "
        f"`judging: {{prices: FILE}}` (docs/judges.md shows one)"
    )
