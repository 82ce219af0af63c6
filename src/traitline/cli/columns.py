"""Responses to one prompt under several doses: columns that grow while tokens come, their colours, and the closing table.

Knows widths, colours and frames. Model text is untrusted: control characters are written out and markup is never interpreted.
Leaves to `conversation.py` what is asked, and to `vectors/projection.py` what a projection is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.style import Style
from rich.table import Table
from rich.text import Text

from traitline.api import Stream
from traitline.cli.console import harmless, known, print_table, say
from traitline.models.stream import Step, Token
from traitline.vectors.projection import Axis

NARROWEST = 30
"""Columns stand side by side where each has at least this many characters."""
BETWEEN = 3
FRAME_SECONDS = 0.05
REST = 4
"""After a frame, at least this many times what it took goes to generation: long texts take long to lay out."""
SWATCHES = 9
GREY, BLUE, RED = (118, 118, 118), (26, 111, 240), (224, 49, 47)
"""Equally bright: each reads 4.5 to 1 on white as on black."""


@dataclass
class Column:
    """One response as far as it is known.

    Attributes:
        coef: the coefficient; None for the baseline.
        tokens: the response's tokens so far.
        finish: `eos`, `length`, or `stopped` by the user; None while it is generated.
    """

    coef: float | None
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None

    @property
    def label(self) -> str:
        """What it is called."""
        return "baseline" if self.coef is None else f"{self.coef:+g}"

    @property
    def text(self) -> str:
        """The response so far."""
        return "".join(token.text for token in self.tokens)

    @property
    def mean_projection(self) -> float | None:
        """Mean projection over the tokens; None without any."""
        return sum(token.projection for token in self.tokens) / len(self.tokens) if self.tokens else None


def take(step: Step, columns: Sequence[Column]) -> None:
    """Add what became known in one step to the columns."""
    for token in step.tokens:
        columns[token.row].tokens.append(token)
    for row, how in step.finished.items():
        columns[row].finish = how


def follow(stream: Stream, columns: Sequence[Column], console: Console) -> bool:
    """Take a stream in to its end, or until Ctrl-C, and show the columns: on a terminal as they grow, otherwise once whole.

    Returns:
        Whether it came to its end. Columns that Ctrl-C cut are marked `stopped`.
    """
    whole = True
    with _growing(columns, stream.axis, console) as draw:
        try:
            for step in stream:
                take(step, columns)
                draw()
        except KeyboardInterrupt:
            whole = False
            for column in columns:
                column.finish = column.finish or "stopped"
    if console.is_terminal:
        console.print(_frame(columns, stream.axis, console))
    else:
        for column in columns:
            say(f"[{column.label}]\n{column.text if column.text.strip() else '(nothing)'}\n")
    return whole


def summarise(columns: Sequence[Column]) -> None:
    """Print the closing table: one line per dose."""
    rows = [
        (column.label, known(column.mean_projection, lambda x: f"{x:+.3f}"), len(column.tokens), column.finish)
        for column in columns
    ]
    print_table("", ("dose", ">mean projection", ">tokens", "end"), rows)


def explain(axis: Axis, trait: str | None, console: Console) -> None:
    """Print what the projections are, and on a coloured terminal the scale of the colours."""
    what = f"projection onto {harmless(trait or 'the vector')} at layer {axis.layer}, in activation norms"
    if _coloured(console):
        scale = Text(f"{axis.low:+.2f} ")
        for i in range(SWATCHES):
            scale.append("■", _shade(axis, axis.low + (axis.high - axis.low) * i / (SWATCHES - 1)))
        console.print(scale.append(f" {axis.high:+.2f}"))
    said = (
        f"Colours and numbers: each token's {what}." if _coloured(console) else f"Numbers: the tokens' mean {what}.",
        f"The median of neutral text is {axis.neutral:+.2f}, and 95 % of it lies between {axis.low:+.2f} and {axis.high:+.2f}.",
        "A token is read before the vector is added: this is what the text says, not the push.",
    )
    console.print(Text(" ".join(said)), soft_wrap=not console.is_terminal)


@contextmanager
def _growing(columns: Sequence[Column], axis: Axis, console: Console) -> Iterator[Callable[[], None]]:
    """Give the body something to call after each step; on a terminal it draws the columns over the last frame."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda: None
        return
    due = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw() -> None:
            nonlocal due
            begun = time.monotonic()
            if begun >= due:
                live.update(_frame(columns, axis, console, rows=console.height - 1), refresh=True)
                now = time.monotonic()
                due = now + max(FRAME_SECONDS, REST * (now - begun))

        yield draw


def _frame(columns: Sequence[Column], axis: Axis, console: Console, rows: int | None = None) -> RenderableType:
    """Return the columns side by side, or stacked where the screen is too narrow; in `rows` screen rows if given."""
    width = (console.width - BETWEEN * (len(columns) - 1)) // len(columns)
    if width < NARROWEST:
        height = None if rows is None else max(1, rows // len(columns) - 2)
        parts = [(Text(f"── {c.label} ──", "bold"), _body(c, axis, console, console.width, height), Text()) for c in columns]
        return Group(*[line for part in parts for line in part][:-1])
    table = Table(box=box.MINIMAL, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(Text(column.label), width=width, overflow="fold")
    height = None if rows is None else max(1, rows - 3)
    table.add_row(*(_body(column, axis, console, width, height) for column in columns))
    return table


def _body(column: Column, axis: Axis, console: Console, width: int, rows: int | None) -> Text:
    """Return a column's text with its colours, in at most `rows` rows: the last ones."""
    body = Text(overflow="fold")
    for token in column.tokens:
        piece = harmless(token.text)
        body.append(piece if body else piece.lstrip(), _shade(axis, token.projection) if _coloured(console) else None)
    if column.finish and not column.text.strip():
        body = Text("(nothing)", "italic")
    return body if rows is None else Text("\n").join(list(body.wrap(console, width, overflow="fold"))[-rows:])


def _coloured(console: Console) -> bool:
    return console.is_terminal and console.color_system is not None and not console.no_color


def _shade(axis: Axis, projection: float) -> Style:
    """Return the style of one projection: grey where neutral texts are, blue below and red above, bold beyond the scale."""
    place = axis.place(projection)
    share = min(1.0, abs(place))
    end = RED if place > 0 else BLUE
    red, green, blue = (round(grey + share * (full - grey)) for grey, full in zip(GREY, end, strict=True))
    return Style(color=f"rgb({red},{green},{blue})", bold=abs(place) > 1)
