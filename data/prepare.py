"""From a raw log to an interest dataset, by recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from ..taxonomy_interest import SCENE_RULES, scene_codes
from .reading import RawLog
from .recipes.amazon import read_amazon_reviews
from .recipes.checkins import read_checkins
from .recipes.mind import read_mind
from .recipes.movielens import read_movielens
from .recipes.table import read_log_table
from .taxonomy import load_domains
from .writing import check_options, check_output, write_dataset


__all__ = ["RECIPES", "find_files", "prepare", "write_dataset"]

RECIPES = ("movielens", "amazon-reviews", "mind", "checkins", "table", "synthetic")


def prepare(
    recipe: str,
    sources: Sequence[str | Path] = (),
    output: str | Path = "",
    *,
    split: str | None = None,
    min_events: int | None = None,
    time: str | None = None,
    columns: dict[str, str] | None = None,
    overwrite: bool = False,
    events: str | Path | None = None,
    items: str | Path | None = None,
    domains: str | Path | Sequence | None = None,
    world: dict | None = None,
    merge_texts: bool | None = None,
    value_threshold: float | None = None,
    scene: str | None = None,
    licence: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    test_events: int = 1,
    quiet: bool = False,
) -> Path:
    """Reads a raw log with a recipe and writes an interest dataset.

    Args:
        recipe (`str`): `movielens`, `amazon-reviews`, `mind`, `checkins`, `table` or `synthetic`.
        sources: one folder, or one file of events, or a file of events and a file of items; for `mind` one folder, or
            several, of which the last one tests. None for `synthetic`.
        output: the folder to write; it must not exist.
        split (`str`, *optional*): `global-time` (default where the log has times) or `leave-last`.
        min_events (`int`, *optional*): users with fewer events are dropped; by default 2 for `global-time`, 5 for
            `leave-last`.
        time (`str`, *optional*): `seconds`, `iso` or `order`; without it seconds and dates are told apart by looking.
        columns: our name -> the user's column, see `read_log_table`.
        overwrite (`bool`): whether an interest dataset at `output` is replaced.
        events, items: the two files by name, instead of `sources`.
        domains (*optional*): a taxonomy (a file, a list of nodes or of paths) instead of the tree of the items'
            categories.
        world: settings of the generated world (`num_users`, `num_items`, `seed`, ...).
        merge_texts (`bool`, *optional*): whether rows of one user, item and time become one event with joined texts
            (one row per tag). By default where there are texts, no values, and that is so for a fifth of the rows.
        value_threshold (`float`, *optional*): values from here on are positive; by default those above the user's own
            mean.
        scene (`str`, *optional*): the scene of every event: `weekend` (weekday or weekend), `hour_band` (night, morning,
            afternoon, evening) or `weekend_hour` (both), from its time; else a column of the events (recipes `table` and
            `checkins`), as `columns={"scene": ...}`.
        licence (`str`, *optional*): of the source, where the recipe does not know it.
        validation_fraction, test_fraction (`float`): shares of the events, for `global-time`.
        test_events (`int`): events per user that test, for `leave-last`; at most a third of what a user has.
        quiet (`bool`): print nothing.

    Returns:
        `output` as a path.

    Raises:
        ValueError: bad input; one line names the file, row or field and the value, and what was expected.
    """
    if recipe not in RECIPES:
        raise ValueError(f"no recipe {recipe!r}, expected one of {', '.join(RECIPES)}")
    output = check_output(output, overwrite)
    check_options(split, time)
    if scene is not None and scene not in SCENE_RULES:
        if recipe not in ("table", "checkins"):
            raise ValueError(
                f"--scene is {scene!r}, expected one of {', '.join(SCENE_RULES)} with the recipe {recipe}"
            )
        columns = {**(columns or {}), "scene": scene}
    console = Console(quiet=quiet)
    facts: dict = {}
    tree = load_domains(domains) if domains is not None else None
    with console.status(f"reading {recipe}"):
        if recipe == "synthetic":
            from .synthetic import generate_world

            if sources or events or items:
                raise ValueError("the recipe synthetic reads no files")
            generated = generate_world(**(world or {}))
            facts["world"] = generated.config.to_facts()
            raw = RawLog(generated.events, generated.items, source="the generated world", licence="apache-2.0")
        elif recipe == "movielens":
            if time not in (None, "seconds"):
                raise ValueError(f"--time is {time!r}, but MovieLens files have seconds")
            if len(sources) != 1 or events or items or columns:
                raise ValueError(
                    "the recipe movielens takes one folder and no columns; see the recipe table for other files"
                )
            raw = read_movielens(Path(sources[0]))
        elif recipe == "mind":
            if not sources or events or items or columns or time:
                raise ValueError("the recipe mind takes one or several folders, and neither --time nor columns")
            raw = read_mind([Path(source) for source in sources])
        else:
            events_file, items_file = find_files(sources, events, items)
            if recipe == "amazon-reviews":
                if columns or time not in (None, "seconds"):
                    raise ValueError(
                        "the recipe amazon-reviews takes neither columns nor --time; see the recipe table for other files"
                    )
                raw = read_amazon_reviews(events_file, items_file)
            elif recipe == "checkins":
                if items_file is None:
                    raise ValueError("the recipe checkins takes a file of check-ins and a file of places")
                raw = read_checkins(events_file, items_file, columns, time)
            else:
                raw = read_log_table(events_file, items_file, columns, time)
    told = raw.events
    if scene in SCENE_RULES:
        if raw.time != "seconds":
            raise ValueError(f"--scene is {scene!r}, but this log has only positions, no times to tell it from")
        names = np.array(SCENE_RULES[scene], dtype=object)
        told = told.assign(scene=names[scene_codes(told["timestamp"].to_numpy(), scene)])
        facts["scene_rule"] = scene
    return write_dataset(
        told,
        raw.items,
        output,
        recipe=recipe,
        split=split,
        min_events=min_events,
        time=raw.time,
        domains=tree,
        dropped=raw.dropped,
        notes=raw.notes,
        repairs=raw.repairs,
        source=raw.source,
        licence=licence or raw.licence,
        value_threshold=value_threshold if value_threshold is not None else raw.value_threshold,
        drop_duplicates=raw.drop_duplicates,
        merge_texts=merge_texts if merge_texts is not None else (None if raw.merge_texts else False),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        test_events=test_events,
        impressions=raw.impressions,
        dated_from=raw.dated_from,
        test_start=raw.test_start,
        facts=facts,
        overwrite=overwrite,
        quiet=quiet,
    )


def find_files(
    sources: Sequence[str | Path], events: str | Path | None = None, items: str | Path | None = None
) -> tuple[Path, Path | None]:
    """The file of events and that of items: as named, or of one folder by their names.

    Raises:
        ValueError: none or several candidates.
    """
    paths = [Path(source) for source in sources]
    if events is not None:
        if paths:
            raise ValueError(f"{paths[0]}: give either SOURCE or --events FILE, not both")
        return Path(events), None if items is None else Path(items)
    if not paths:
        raise ValueError("no source given, expected a folder, or --events FILE and --items FILE")
    if len(paths) == 1 and paths[0].is_dir():
        endings = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt")
        files = [
            f
            for f in sorted(paths[0].iterdir())
            if f.is_file() and f.name.lower().removesuffix(".gz").endswith(endings)
        ]
        files = [file for file in files if not file.name.lower().startswith(("readme", "license", "."))]
        logs = (
            "event",
            "check",
            "rating",
            "review",
            "transaction",
            "interaction",
            "purchase",
            "click",
            "visit",
            "order",
            "log",
        )
        things = (
            "item",
            "poi",
            "place",
            "venue",
            "product",
            "movie",
            "book",
            "meta",
            "article",
            "news",
            "artist",
            "track",
        )
        chosen = [file for file in files if any(word in file.name.lower() for word in logs)]
        others = [file for file in files if any(word in file.name.lower() for word in things) and file not in chosen]
        if len(files) == 1:
            chosen = files
        if len(chosen) != 1 or len(others) > 1:
            raise ValueError(
                f"{paths[0]}: cannot tell events from items among {', '.join(f.name for f in files) or 'no tables'}; "
                "name them with --events FILE and --items FILE"
            )
        return chosen[0], Path(items) if items is not None else (others[0] if others else None)
    if len(paths) > 2 or (len(paths) == 2 and items is not None):
        raise ValueError(f"{len(paths)} sources, expected a file of events and a file of items")
    return paths[0], Path(items) if items is not None else (paths[1] if len(paths) == 2 else None)
