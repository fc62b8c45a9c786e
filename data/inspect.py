"""What a log can support, told in a minute and before any training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .card import FAIR_RELIABILITY, moment
from .columns import find_columns
from .inspect_report import print_inspection
from .labels import SECONDS_PER_DAY, overall_labels
from .log import CARD_FILE, TEST, TRAIN, InterestLog
from .prepare import find_files, prepare
from .reading import first_fields, read_table
from .recipes.amazon import review_layout
from .recipes.table import EVENT_ROLES
from .reliability import EVENT_HORIZONS, MIN_HISTORY, MIN_WINDOW, change_facts, suggest_horizons


__all__ = ["detect_recipe", "inspect_log", "inspect_path", "print_inspection", "suggest_horizons"]


def inspect_log(log: InterestLog, seed: int = 0) -> dict:
    """What a prepared log holds and what it can support.

    Args:
        log (`InterestLog`): a log; everything about windows is measured on its training events only.
        seed (`int`): of the random halves.

    Returns:
        A dict of plain values: `users`, `items`, `events`, `time` (span, days per user), `ties`, `repeats`, `text`,
        `value`, `place`, `domains`, `forecast` (cuts, `cross_entropy` per level of the next window: its entropy, which no
        forecast can undercut, and what history and population give), `change` (split-half reliability of the rate),
        `windows` (the same of other windows, in days and events),
        `supported` (task -> None, or the reason why not), `suggested` (split, horizons, unit, reference horizon).
    """
    per_user = np.diff(log.offsets)
    seconds = log.facts["time"] != "order"
    report: dict = {
        "name": log.name,
        "users": log.num_users,
        "items": log.num_items,
        "events": log.num_events,
        "events_per_user": _quantiles(per_user),
        "time": _times(log) if seconds else None,
        "ties": _share(_tied(log)),
        "repeats": _share(_repeated(log)),
        "text": {
            "items_with_title": _share(log.items["title"].ne("").to_numpy()),
            "items_with_text": _share(log.items["text"].ne("").to_numpy()),
            "events_with_text": 0.0 if log.text is None else _share(log.text != ""),
        },
        "value": _values(log),
        "place": 0.0 if log.place is None else _share(~np.isnan(log.place[:, 0])),
        "scene": 0.0 if log.scene is None else _share(log.scene >= 0),
        "domains": {
            "nodes": 0 if log.tree is None else len(log.tree),
            "levels": 0 if log.tree is None else log.tree.num_levels,
            "items_without": _share(np.diff(log.item_nodes.indptr) == 0) if log.tree is not None else 1.0,
        },
        "cold": _cold(log),
    }
    horizons, unit, reference = suggest_horizons(log)
    report |= change_facts(log, seed)
    one_sitting = seconds and report["time"]["distinct_days_per_user"]["median"] <= 1
    if one_sitting:
        horizons, unit, reference = EVENT_HORIZONS
    report["suggested"] = {
        "split": "global-time" if seconds and not one_sitting else "leave-last",
        "horizons": horizons,
        "horizon_unit": unit,
        "reference_horizon": reference,
    }
    report["supported"] = _supported(log, report, one_sitting)
    return report


def inspect_path(source: str | Path | Sequence[str | Path], **options) -> dict:
    """`inspect_log` of a prepared folder or of raw files, whose recipe is told by looking.

    Args:
        source: an interest dataset, a folder of raw files, or raw files (events, items).
        options: as in `prepare`, for raw files (`columns`, `time`, `events`, `items`, ...).

    Returns:
        The report, with `recipe` (None for a prepared folder), `dropped` and `notes` of the preparation.
    """
    sources = [Path(source)] if isinstance(source, (str, Path)) else [Path(path) for path in source]
    if len(sources) == 1 and (sources[0] / CARD_FILE).exists() and (sources[0] / "events").is_dir():
        log = InterestLog.load(sources[0])
        recipe = None
    else:
        recipe = options.pop("recipe", None) or detect_recipe(sources, options.get("events"), options.get("items"))
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / (sources[0].resolve().name if sources else "log")
            prepare(recipe, sources, output, quiet=True, **options)
            log = InterestLog.load(output)
            if log.facts["time"] == "seconds" and log.facts["end"] < 10_000_000 and "time" not in options:
                prepare(recipe, sources, output, quiet=True, overwrite=True, time="order", **options)
                log = InterestLog.load(output)
    report = inspect_log(log)
    if recipe is not None:
        report["suggested"]["recipe"] = recipe
        report["suggested"]["time"] = "order" if log.facts["time"] == "order" else None
    report["dropped"], report["notes"] = log.facts.get("dropped", {}), log.facts.get("notes", [])
    return report


def detect_recipe(sources: Sequence[Path], events: str | Path | None = None, items: str | Path | None = None) -> str:
    """`movielens`, `mind`, `amazon-reviews`, `checkins` or `table`, by the files' names and columns."""
    if len(sources) == 1 and not sources[0].exists():
        raise ValueError(f"{sources[0]}: no such file or folder")
    if len(sources) == 1 and sources[0].is_dir():
        for names in (("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat"), ("u.data", "u.item")):
            if all((sources[0] / name).exists() for name in names):
                return "movielens"
    if sources and all((source / name).exists() for source in sources for name in ("news.tsv", "behaviors.tsv")):
        return "mind"
    events_file, items_file = find_files(sources, events, items)
    if review_layout(first_fields(events_file)):
        return "amazon-reviews"
    if items_file is not None:
        found = find_columns(read_table(events_file), EVENT_ROLES, {})
        if "latitude" in found and "longitude" in found:
            return "checkins"
    return "table"


def _supported(log: InterestLog, report: dict, one_sitting: bool) -> dict[str, str | None]:
    """Task -> None, or why the log does not support it."""
    none = "no domains: the items have neither categories nor texts"
    forecast, change = report["forecast"], report["change"]
    time_reason = None
    if log.facts["time"] == "order":
        time_reason = "the log has only positions"
    elif one_sitting:
        time_reason = "the median user did everything on one day"
    few = (
        f"only {forecast['cuts']} windows with {MIN_WINDOW} events after {MIN_HISTORY}"
        if forecast["cuts"] < 30
        else None
    )
    reliability = change["reliability"]
    unsure = "the rate cannot be measured twice" if reliability is None else None
    if reliability is not None and reliability < FAIR_RELIABILITY:
        unsure = f"split-half reliability {reliability:.2f}: mostly noise"
    value = report["value"]
    both = value is not None and 0 < value["positive"] < 1
    return {
        "ranking": None if log.num_items > 1 else "one item",
        "interest (completion)": none if log.tree is None else None,
        "future interest": (none if log.tree is None else None) or time_reason or few,
        "change rate": (none if log.tree is None else None) or time_reason or few or unsure,
        "intensity": time_reason,
        "overall interest": None
        if both or log.impressions is not None
        else "no observed negatives (no values above and below the user's mean)",
        "rating": None if value is not None and value["distinct"] > 2 else "no graded values",
        "review text": None if report["text"]["events_with_text"] > 0.01 else "events carry no text",
        "places": None if report["place"] > 0.01 else "events carry no latitude and longitude",
        "scenes": None if report["scene"] > 0.01 else "events carry no scene",
    }


def _times(log: InterestLog) -> dict:
    first, last = log.timestamp[log.offsets[:-1]], log.timestamp[log.offsets[1:] - 1]
    days = log.timestamp // SECONDS_PER_DAY
    new = np.r_[True, (log.user[1:] != log.user[:-1]) | (days[1:] != days[:-1])]
    return {
        "first": moment(int(log.timestamp.min()), "seconds"),
        "last": moment(int(log.timestamp.max()), "seconds"),
        "span_days_per_user": _quantiles((last - first) / SECONDS_PER_DAY),
        "distinct_days_per_user": _quantiles(np.bincount(log.user[new], minlength=log.num_users)),
    }


def _values(log: InterestLog) -> dict | None:
    if log.value is None:
        return None
    known = log.value[~np.isnan(log.value)]
    label = overall_labels(log)
    labelled = label[~np.isnan(label)]
    return {
        "distinct": len(np.unique(known)),
        "mean": float(known.mean()) if len(known) else float("nan"),
        "labelled": len(labelled),
        "positive": float(labelled.mean()) if len(labelled) else 0.0,
    }


def _cold(log: InterestLog) -> dict:
    """Shares of the test events whose item or user has no training event."""
    train, test = log.split == TRAIN, log.split == TEST
    if not test.any():
        return {"items": 0.0, "users": 0.0}
    items, users = np.unique(log.item[train]), np.unique(log.user[train])
    return {"items": _share(~np.isin(log.item[test], items)), "users": _share(~np.isin(log.user[test], users))}


def _tied(log: InterestLog) -> np.ndarray:
    same = (log.user[1:] == log.user[:-1]) & (log.timestamp[1:] == log.timestamp[:-1])
    return np.r_[same, False] | np.r_[False, same]


def _repeated(log: InterestLog) -> np.ndarray:
    order = np.lexsort((log.item, log.user))
    same = (np.diff(log.user[order]) == 0) & (np.diff(log.item[order]) == 0) & (log.item[order][1:] >= 0)
    repeated = np.zeros(log.num_events, dtype=bool)
    repeated[order[1:]] = same
    return repeated


def _share(flags: np.ndarray) -> float:
    return float(np.mean(flags)) if len(flags) else 0.0


def _quantiles(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9]) if len(values) else (0.0, 0.0, 0.0)
    return {"low": float(low), "median": float(median), "high": float(high)}
