"""The picture of a profile: interest with its change at the left, history and forecast fan per domain at the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any


FAN_DOMAINS = 4
COLOURS = {"growing": "#1a7f37", "fading": "#cf222e", "steady": "#57606a"}
BAR, FAN = "#b6c7e6", "#3b6fb6"


def check_picture(path: str | Path) -> None:
    """Raises a `ValueError` where [`plot_profile`] could not write: no such folder, or an ending that matplotlib does not know."""
    from matplotlib.figure import Figure

    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no folder {path.parent}")
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(
            f"{path}: expected a picture's ending, such as .png or .svg (one of {', '.join(sorted(known))})"
        )


def plot_profile(profile: dict[str, Any], path: str | Path) -> Path:
    """Draws a profile of [`interest_profile`] into a PNG (or any format that matplotlib writes by its ending).

    Left: long-run interest per domain as bars, and an arrow from it to the forecast over the reference horizon, green
    where it grows, red where it fades, grey where it is steady. Right: for the strongest domains the shares of past windows
    as steps, the long-run interest as a dashed line, the forecast with its 90 % intervals as a fan, and the events behind it.

    Returns:
        The path.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    domains = profile["domains"]
    strongest = [position for position, row in enumerate(domains) if row["depth"] == domains[0]["depth"]]
    strongest = sorted(strongest, key=lambda position: -domains[position]["interest"])[:FAN_DOMAINS]
    rows = max(len(strongest), 1)
    figure = plt.figure(figsize=(11, max(3.6, 0.34 * len(domains) + 1.6, 1.45 * rows + 0.9)), layout="constrained")
    grid = figure.add_gridspec(rows, 2, width_ratios=[1.15, 1])
    _bars(figure.add_subplot(grid[:, 0]), profile)
    shared = None
    for row, position in enumerate(strongest):
        shared = axis = figure.add_subplot(grid[row, 1], sharex=shared)
        _fan(axis, profile, position)
        if row < rows - 1:
            axis.tick_params(labelbottom=False)
        else:
            axis.set_xlabel(f"{profile['horizon_unit']} from now")
    figure.suptitle(_plain(f"User {profile['user']} at {profile['at']} ({profile['events']:,} events)"), fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return Path(path)


def _plain(text: str, limit: int = 60) -> str:
    """A label without matplotlib's mathematics, cut to `limit` characters."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.replace("$", r"\$")


def _name(row: dict[str, Any]) -> str:
    return "   " * row["depth"] + _plain(row["domain"].split(" > ")[-1], 32)


def _bars(axis, profile: dict[str, Any]) -> None:
    domains = profile["domains"]
    places = range(len(domains))
    axis.barh(places, [row["interest"] for row in domains], color=BAR, height=0.62)
    longest = max([row["interest"] for row in domains] + [row["future"] for row in domains] + [1e-6])
    for place, row in zip(places, domains, strict=True):
        colour = COLOURS[row["trend"]]
        axis.annotate(
            "",
            xy=(row["future"], place),
            xytext=(row["interest"], place),
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0},
        )
        axis.text(
            max(row["interest"], row["future"]) + 0.02 * longest,
            place,
            f"{row['change']:+.2f} {row['trend']}" if profile["change_is_reliable"] else row["trend"],
            va="center",
            fontsize=8,
            color=colour,
        )
    axis.set_yticks(list(places), [_name(row) for row in domains], fontsize=9, ha="left")
    axis.tick_params(axis="y", length=0, pad=120)
    axis.set_xlim(0, 1.35 * longest)
    axis.invert_yaxis()
    axis.set_xlabel(
        "share of interest; arrow: to the next " + f"{profile['reference_horizon']:g} {profile['horizon_unit']}"
    )
    axis.spines[["top", "right"]].set_visible(False)


def _fan(axis, profile: dict[str, Any], position: int) -> None:
    row = profile["domains"][position]
    for band in profile["history"]:
        if band["events"]:
            axis.fill_between(
                [band["start"], band["end"]], 0, band["shares"][position], color=BAR, linewidth=0, alpha=0.9
            )
    horizons = [0.0, *(step["horizon"] for step in row["forecast"])]
    middle = [row["interest"], *(step["future"] for step in row["forecast"])]
    low = [row["interest"], *(step["interval"][0] for step in row["forecast"])]
    high = [row["interest"], *(step["interval"][1] for step in row["forecast"])]
    axis.axhline(row["interest"], color="black", linewidth=0.8, linestyle=(0, (4, 3)))
    axis.fill_between(horizons, low, high, color=FAN, alpha=0.25, linewidth=0)
    axis.plot(horizons, middle, color=FAN, marker="o", markersize=3.5, linewidth=1.6)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_ylim(bottom=0)
    axis.set_title(_plain(row["domain"]), fontsize=9, loc="left", pad=3)
    names = dict.fromkeys(str(event["title"] or event["item_id"] or "own words") for event in row["because"])
    if names:
        because = "because " + ", ".join(_plain(name, 28) for name in names)
        axis.text(0.01, 0.96, because, transform=axis.transAxes, fontsize=7, va="top", color=COLOURS["steady"])
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
