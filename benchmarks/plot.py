"""The figures as a picture, readable on a light page and on a dark one."""

from pathlib import Path

from .rounds import Row
from .subjects import STORES
from .workload import Kind

#: Of a brightness between black and white, so that they stand out from both.
_INK, _FAINT = "#6e7781", "#6e778155"
_COLOURS = {Kind.FIRST: "#d9730d", Kind.REPLAY: "#2383e2"}
_MARKERS = {"ours": "o", "peer": "s", "floor": "|"}


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Write `results.svg` and `results.png`. Raises `ImportError` without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    shown = [row for row in rows if row.trouble is None]
    groups = ("ours", "peer", "floor")
    shown.sort(key=lambda row: (STORES.index(row.subject.store), groups.index(row.subject.group)))
    with pyplot.rc_context({"svg.hashsalt": "benchmarks", "font.size": 9, "text.color": _INK}):
        figure, axes = pyplot.subplots(figsize=(8.5, 0.27 * len(shown) + 1.6))
        places, place, last = [], 0.0, None
        for row in shown:
            place += 0.8 if last not in (None, row.subject.store) else 0.0
            if row.subject.store != last:
                axes.text(
                    1.01, place, row.subject.store, transform=axes.get_yaxis_transform(), va="center", weight="bold"
                )
            places.append(place)
            last = row.subject.store
            place += 1.0
        for row, at in zip(shown, places, strict=True):
            axes.axhline(at, color=_FAINT, linewidth=0.5, zorder=0)
            for kind, colour in _COLOURS.items():
                cell = row.cells[kind]
                lower, upper = cell.spread
                axes.plot([lower, upper], [at, at], color=colour, linewidth=2, alpha=0.6, solid_capstyle="butt")
                marker = _MARKERS[row.subject.group]
                axes.plot(cell.fraction, at, marker, color=colour, markersize=10 if marker == "|" else 6, mew=2)
        axes.axvline(1, color=_INK, linewidth=1)
        axes.set_xscale("log")
        ticks = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_yticks(places, [_label(row) for row in shown])
        axes.invert_yaxis()
        axes.set_xlabel("requests per second, as a fraction of the bare handler's (right is faster)", color=_INK)
        axes.tick_params(colors=_INK, length=0)
        for label, row in zip(axes.get_yticklabels(), shown, strict=True):
            label.set_fontweight("bold" if row.subject.group == "ours" else "normal")
            label.set_fontstyle("italic" if row.subject.group == "floor" else "normal")
        for spine in axes.spines.values():
            spine.set_visible(False)
        marks = [(kind.value + " request" * (kind is Kind.FIRST), "o", colour) for kind, colour in _COLOURS.items()]
        marks += [("this library", "o", _INK), ("peer", "s", _INK), ("floor", "|", _INK)]
        handles = [
            Line2D([], [], marker=marker, color=colour, linestyle="", label=label, mew=2)
            for label, marker, colour in marks
        ]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False)
        figure.tight_layout()
        paths = [folder / "results.svg", folder / "results.png"]
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, transparent=True, dpi=150, metadata=metadata)
        pyplot.close(figure)
    return paths


def _label(row: Row) -> str:
    return f"floor: {row.subject.name}" if row.subject.group == "floor" else row.subject.name
