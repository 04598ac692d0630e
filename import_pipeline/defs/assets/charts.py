"""Pictures for the UI: numbers as bars of text, a table of months and sources as stacked bars in a small picture.

How figures look, and nothing of where they come from. A picture travels inside Markdown as a PNG of few colours.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from import_pipeline.errors import one_line

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_INCHES = (7.6, 2.9)
_DPI = 88
_COLOURS = 32
"""More than there are bars of different colours; the rest smooths the letters."""
_MOST_LABELS = 8
_LONGEST_LABEL = 30
_FEWEST_PLACES = 12
"""So that a single month is a bar and no wall."""
_PALETTE = ("#4f43dd", "#2e9e6b", "#e0861a", "#c93c6b", "#3d8bd9", "#8a8f98", "#7b5cc4", "#a3a137")


def draw_months(frame: pd.DataFrame, title: str) -> str:
    """Return Markdown that shows a stacked bar for each month.

    Args:
        frame: Months × sources, whole numbers; not empty. At most 36 months are readable.
        title: Stands above the picture, and in its place where pictures are not shown.
    """
    # Slow to import, and needed only here. The object-oriented face needs no display and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    below = [0] * len(frame)
    for position, source in enumerate(frame.columns):
        heights = frame[source].tolist()
        colour = _PALETTE[position % len(_PALETTE)]
        axes.bar(range(len(frame)), heights, bottom=below, width=0.72, label=_label(source), color=colour)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    step = -(-len(frame) // _MOST_LABELS)
    axes.set_xticks(range(0, len(frame), step), [str(month) for month in frame.index[::step]], fontsize=8)
    axes.set_xlim(-0.6, max(len(frame), _FEWEST_PLACES) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.tick_params(axis="y", labelsize=8)
    axes.tick_params(axis="both", length=0)
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    return f"![{title}]({_as_data_uri(figure)})"


def _label(source: object) -> str:
    """Return the name of a source as it is to be drawn; any text may be one, and `$` would begin a formula."""
    text = one_line(str(source), _LONGEST_LABEL)
    return text.replace("$", r"\$").lstrip("_") or "?"  # a name that begins with `_` would be left out


def draw_bars(numbers: Sequence[int], longest: int) -> list[str]:
    """Return a bar of text for each number; the largest is `longest` characters long."""
    largest = max(numbers, default=0) or 1
    return ["█" * (number * longest // largest) or ("▏" if number else "") for number in numbers]


def _as_data_uri(figure: Figure) -> str:
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, format="png")
    small = io.BytesIO()
    Image.open(raw).convert("RGB").quantize(_COLOURS).save(small, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"
