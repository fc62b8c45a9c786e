"""One person's interests as people read them: shares, signed changes with intervals, forecasts, in words and in a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.labels import history_range
from ..evaluation.cases import ForecastCases, Histories
from ..pipeline_interest import (
    change,
    future_spread,
    interest_level,
    interest_trend,
    rate_interval,
    scene_summary,
    share_interval,
)
from ..taxonomy_interest import SEPARATOR
from .why import event_contributions, reasons


if TYPE_CHECKING:
    from ..data.log import InterestLog
    from ..taxonomy_interest import DomainTree


logger = logging.getLogger(__name__)

HISTORY_BANDS = 8
BARS = "▁▂▃▄▅▆▇█"
SECONDS_PER_DAY = 86400
LATEST = 253_402_300_800  # the year 10000, which no date says


def interest_profile(
    predictor,
    log: InterestLog,
    user_id: str,
    at: int | str | None = None,
    level: int | None = None,
    top: int = 8,
    why: int = 3,
) -> dict[str, Any]:
    """What one person is interested in at a moment, how fast that changes, and what comes next.

    Args:
        predictor: a `ModelPredictor`, or anything with its `forecast(cases)`.
        log (`InterestLog`): the person's events; everything strictly before `at` is seen.
        user_id (`str`): the log's own id.
        at (`int` or `str`, *optional*): seconds or an ISO date (UTC); by default right after the last event.
        level (`int`, *optional*): domains of this level of the tree, 0 = top. By default the `top` domains of every level.
        top (`int`): at most so many domains per level, strongest first.
        why (`int`): at most so many events behind each domain, 0 for none. The model is asked once more per event, of the
            latest 200.

    Returns:
        A dict that `json.dumps` takes:

        - `user`, `at` (ISO date, or a position), `events` (how many the person had), `horizon_unit`, `reference_horizon`,
          `change_is_reliable` (whether training found that this log's changes can be foreseen at all);
        - `domains`: per domain `domain`, `depth`, `interest` (long-run share), `change` (signed rate over the reference
          horizon, in (-1, 1)) with its 90 % `interval` and `z`, `future` (share over the reference horizon), `forecast`
          (per horizon `horizon`, `future`, `interval`), `level` (`"high"` from a share of .2, `"medium"` from .05, `"low"`),
          `trend` (`"growing"`, `"fading"`, or `"steady"` unless |z| > 1.64 and change is reliable), `events` (evidence: how many were about it),
          `because` (the events that add most to `future`: `item_id`, `title`, `at`, and `contribution`, the share that the
          forecast loses without the event);
        - `intensity`: per horizon `horizon` and `events`, the expected number;
        - `history`: past windows of the reference horizon's length, `start`, `end`, `events`, `shares` (one per domain of
          `domains`), oldest first;
        - `scenes`, where the model knows any: per scene `scene`, `share` (its chance at the next event) and the strongest
          `domains` given it (`domain`, `interest`), else an empty list.

    Raises:
        ValueError: an unknown user, a moment that cannot be read, a level that the tree does not have, no domains.
    """
    if log.tree is None:
        raise ValueError(f"{log.name}: a profile needs domains, and the data has no taxonomy")
    if level is not None and not 0 <= level < log.tree.num_levels:
        raise ValueError(f"`level` is {level}, expected 0 to {log.tree.num_levels - 1}")
    if top < 1:
        raise ValueError(f"`top` is {top}, expected at least 1")
    if why < 0:
        raise ValueError(f"`why` is {why}, expected 0 or more")
    user = user_position(log, user_id)
    time = moment(log, user, at)
    warn_late(log, time)
    config = predictor.model.config
    horizons = tuple(config.horizons)
    cases = forecast_query(
        log, np.array([user]), np.array([time]), horizons, config.horizon_unit, config.reference_horizon
    )
    answer = predictor.forecast(cases)
    interest = np.asarray(answer["interest"][0], dtype=np.float64)
    future = np.asarray(answer["future"][0], dtype=np.float64)
    concentration = answer.get("concentration")
    concentration = None if concentration is None else np.asarray(concentration[0], dtype=np.float64)
    spread = future_spread(future, concentration, log.tree)
    chosen = choose_domains(log.tree, interest, level, top)
    reference = horizons.index(config.reference_horizon)
    because: dict[int, list[dict[str, Any]]] = {}
    if why:
        events, contributions = event_contributions(predictor, cases)
        for node in chosen:
            because[node] = reasons(log, events, contributions[:, node], why, lambda when: show_time(log, when))
    scenes = []
    if config.scenes:
        given = predictor.scene_interest(cases)
        scenes = scene_summary(config.scenes, given["interest"][0], given["share"][0], log.tree)
    return {
        "user": str(user_id),
        "at": show_time(log, time),
        "events": len(cases.histories.index),
        "horizon_unit": config.horizon_unit,
        "reference_horizon": config.reference_horizon,
        "change_is_reliable": config.change_is_reliable,
        "domains": [
            _domain(log.tree, node, interest, future, spread, horizons, reference, cases.history_counts[0])
            | ({} if config.change_is_reliable else {"trend": "steady"})
            | {"because": because.get(node, [])}
            for node in chosen
        ],
        "intensity": [
            {"horizon": horizon, "events": round(float(events), 3)}
            for horizon, events in zip(horizons, answer["intensity"][0], strict=True)
        ]
        if answer.get("intensity") is not None
        else None,
        "history": history_bands(log, cases.histories, time, config.horizon_unit, config.reference_horizon, chosen),
        "scenes": scenes,
    }


def _domain(tree, node, interest, future, spread, horizons, reference, counts) -> dict[str, Any]:
    share = float(interest[node])
    low, high, z = rate_interval(share, float(future[reference, node]), float(spread[reference, node]))
    bounds = [share_interval(float(future[h, node]), float(spread[h, node])) for h in range(len(horizons))]
    return {
        "domain": tree.ids[node],
        "depth": int(tree.depth[node]),
        "interest": round(share, 4),
        "change": round(change(share, float(future[reference, node])), 4),
        "interval": [round(low, 4), round(high, 4)],
        "z": round(z, 2),
        "future": round(float(future[reference, node]), 4),
        "forecast": [
            {
                "horizon": horizon,
                "future": round(float(future[h, node]), 4),
                "interval": [round(x, 4) for x in bounds[h]],
            }
            for h, horizon in enumerate(horizons)
        ],
        "level": interest_level(share),
        "trend": interest_trend(z),
        "events": round(float(counts[node]), 2),
    }


def choose_domains(tree: DomainTree, interest: np.ndarray, level: int | None, top: int) -> list[int]:
    """The strongest `top` nodes of a level; without a level those of every level, children below their parents."""
    if level is not None:
        nodes = tree.level(level)
        return nodes[np.argsort(-interest[nodes], kind="stable")][:top].tolist()
    kept: set[int] = set()
    for depth in range(tree.num_levels):
        nodes = np.flatnonzero(tree.depth == depth)
        nodes = nodes[[int(tree.parent[node]) in kept or depth == 0 for node in nodes]]
        kept.update(nodes[np.argsort(-interest[nodes], kind="stable")][:top].tolist())
    ordered: list[int] = []

    def visit(parent: int) -> None:
        children = [node for node in kept if tree.parent[node] == parent]
        for node in sorted(children, key=lambda node: (-interest[node], node)):
            ordered.append(node)
            visit(node)

    visit(-1)
    return ordered


def forecast_query(
    log: InterestLog,
    user: np.ndarray,
    time: np.ndarray,
    horizons: Sequence[float],
    unit: str,
    reference_horizon: float,
) -> ForecastCases:
    """Forecast cases without an answer: Q users at Q moments; what happened is zeros, observed nowhere."""
    start, stop = history_range(log, user, time)
    histories = Histories.from_ranges(start, stop)
    cases, horizon_count, domains = len(user), len(horizons), log.item_nodes.shape[1]
    return ForecastCases(
        user=user,
        time=time,
        histories=histories,
        horizons=tuple(horizons),
        unit=unit,
        history_counts=histories.count_nodes(log),
        counts=np.zeros((cases, horizon_count, domains), dtype=np.float32),
        totals=np.zeros((cases, horizon_count), dtype=np.float32),
        mask=np.zeros((cases, horizon_count), dtype=bool),
        reference_horizon=reference_horizon,
        reference_counts=np.zeros((cases, domains), dtype=np.float32),
        reference_mask=np.zeros(cases, dtype=bool),
        rate=None,
        gate=None,
    )


def history_bands(
    log: InterestLog, histories: Histories, time: int, unit: str, width: float, nodes: Sequence[int]
) -> list[dict[str, Any]]:
    """Shares of some domains in up to eight past windows, oldest first; `width` in days or events."""
    event = histories.index
    if not len(event):
        return []
    if unit == "events":
        band = (len(event) - 1 - np.arange(len(event))) // max(1, round(width))
    else:
        band = (time - 1 - log.timestamp[event]) // int(width * SECONDS_PER_DAY)
    counts = log.item_nodes[np.maximum(log.item[event], 0)].multiply((log.item[event] >= 0)[:, None]).tocsr()
    bands = []
    for number in range(min(HISTORY_BANDS, int(band.max()) + 1) - 1, -1, -1):
        inside = np.flatnonzero(band == number)
        shares = np.asarray(counts[inside].sum(0)).ravel()[list(nodes)] if len(inside) else np.zeros(len(nodes))
        bands.append(
            {
                "start": -(number + 1) * width,
                "end": -number * width,
                "events": len(inside),
                "shares": [round(float(share), 4) for share in shares / max(len(inside), 1)],
            }
        )
    return bands


def user_position(log: InterestLog, user_id: str) -> int:
    """Position of a user's own id.

    Raises:
        ValueError: no such user; the message names the id and a known one.
    """
    found = np.flatnonzero(log.user_ids == str(user_id))
    if not len(found):
        known = f", {log.user_ids[0]!s} for example" if log.num_users else ""
        raise ValueError(f"user {str(user_id)!r} is not in {log.name} ({log.num_users:,} users{known})")
    return int(found[0])


def moment(log: InterestLog, user: int, at: int | str | None) -> int:
    """The moment asked about: `at`, or right after the user's last event.

    Raises:
        ValueError: neither a number of seconds, 0 or more and before the year 10000, nor an ISO date; a date where the log
            knows only order.
    """
    if at is None:
        last = int(log.offsets[user + 1]) - 1
        return int(log.timestamp[last]) + 1 if last >= log.offsets[user] else int(log.facts["end"])
    try:
        value = int(at)
    except (TypeError, ValueError, OverflowError):
        value = None
    if value is None and log.facts["time"] == "seconds":
        try:
            parsed = datetime.fromisoformat(str(at))
            value = int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())
        except ValueError:
            value = None
    if value is None or not 0 <= value < (LATEST if log.facts["time"] == "seconds" else 2**62):
        expected = "seconds since 1970 or an ISO date" if log.facts["time"] == "seconds" else "a position"
        raise ValueError(f"`at` is {at!r}, expected {expected}")
    return value


def warn_late(log: InterestLog, time: int) -> None:
    """Says so where a moment lies a day or more after everything that the log knows."""
    days = (time - int(log.timestamp.max())) // SECONDS_PER_DAY if log.num_events else 0
    if log.facts["time"] == "seconds" and days > 0:
        logger.warning(
            f"{show_time(log, time)} is {days:,} days after the last event of {log.name}: nothing between is known"
        )


def show_time(log: InterestLog, time: int) -> str | int:
    """ISO date in UTC, or the position where the log knows only order."""
    if log.facts["time"] == "order":
        return int(time)
    return datetime.fromtimestamp(int(time), tz=UTC).isoformat()


def print_profile(profile: dict[str, Any], console=None) -> None:
    """The profile as a table in the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console()
    window = f"{profile['reference_horizon']:g} {profile['horizon_unit']}"
    title = f"User {escape(profile['user'])} at {profile['at']}, {profile['events']:,} events"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("domain", max_width=40)
    table.add_column("past", no_wrap=True)
    for column in ("events", "share", f"next {window}", "change", "90 %"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("trend", no_wrap=True)
    colours = {"growing": "green", "fading": "red", "steady": "default"}
    marks = {"growing": "▲", "fading": "▼", "steady": "="}
    for position, row in enumerate(profile["domains"]):
        low, high = row["interval"]
        colour = colours[row["trend"]]
        table.add_row(
            _shown_domain(row),
            _bands([band["shares"][position] if band["events"] else None for band in profile["history"]]),
            f"{row['events']:.0f}",
            f"{row['interest']:.3f}",
            f"{row['future']:.3f}",
            f"[{colour}]{row['change']:+.2f}[/]",
            f"{low:+.2f} {high:+.2f}",
            f"[{colour}]{marks[row['trend']]} {row['trend']}[/]",
        )
    console.print(table)
    if not profile["change_is_reliable"]:
        console.print(
            "steady throughout: training found no change in this log that can be foreseen better than by chance"
        )
    if profile["intensity"]:
        amounts = ", ".join(f"{row['events']:.1f} in {row['horizon']:g}" for row in profile["intensity"])
        console.print(f"Expected events: {amounts} {profile['horizon_unit']}")
    fan = Table(title="forecast, 90 % in brackets", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    fan.add_column("domain", max_width=40)
    for step in profile["domains"][0]["forecast"] if profile["domains"] else []:
        fan.add_column(f"{step['horizon']:g} {profile['horizon_unit']}", justify="right", no_wrap=True)
    for row in profile["domains"]:
        steps = (f"{_short(s['future'])} ({'-'.join(map(_short, s['interval']))})" for s in row["forecast"])
        fan.add_row(_shown_domain(row), *steps)
    console.print(fan)
    if any(row["because"] for row in profile["domains"]):
        why = Table(title="events behind it, with the share each adds", title_justify="left", box=SIMPLE_HEAD)
        why.add_column("domain", max_width=40)
        why.add_column("because")
        for row in profile["domains"]:
            if row["because"]:
                why.add_row(_shown_domain(row), escape(", ".join(map(shown_reason, row["because"]))))
        console.print(why)
    if profile["scenes"]:
        table = Table(title="Given the scene", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("scene", no_wrap=True)
        table.add_column("chance", justify="right", no_wrap=True)
        table.add_column("strongest domains")
        for row in profile["scenes"]:
            named = (f"{escape(d['domain'].split(SEPARATOR)[-1])} {d['interest']:.2f}" for d in row["domains"])
            table.add_row(escape(row["scene"]), f"{row['share']:.2f}", ", ".join(named))
        console.print(table)


def shown_reason(event: dict[str, Any]) -> str:
    """An event behind a forecast, for people: `Heat (1995) (2020-10-03) +0.021`."""
    when = event["at"] if isinstance(event["at"], int) else event["at"][:10]
    return f"{event['title'] or event['item_id'] or 'own words'} ({when}) {event['contribution']:+.3f}"


def _short(share: float) -> str:
    """`.45` and `1.0`: three characters each."""
    return f"{share:.2f}"[1:] if share < 0.995 else "1.0"


def _shown_domain(row: dict[str, Any]) -> str:
    from rich.markup import escape

    return "  " * row["depth"] + escape(row["domain"].split(SEPARATOR)[-1])


def _bands(shares: list[float | None]) -> str:
    """Shares of past windows as bars, oldest first; a dot where nothing happened."""
    return "".join("·" if share is None else BARS[min(int(share * len(BARS)), len(BARS) - 1)] for share in shares)
