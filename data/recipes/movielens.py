"""Recipe `movielens`: ratings of films in the three layouts of GroupLens, and MovieTweetings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..columns import category_paths, ids, numbers, texts, times
from ..reading import RawLog, SourceTable, read_lines, read_table


GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def read_movielens(folder: Path) -> RawLog:
    """Reads a folder with `ratings.csv` and `movies.csv` (latest, 20M, 25M, 32M; `tags.csv` and `links.csv` where they
    are), `ratings.dat` and `movies.dat` (1M, 10M, MovieTweetings), or `u.data` and `u.item` (100K).

    A rating's text are the same user's tags of the same film up to the moment of the rating; later tags are not used.

    Raises:
        ValueError: none of these layouts, or a broken row; the message names file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: expected a folder of MovieLens files" + ("" if folder.exists() else " (none there)")
        )
    notes: list[str] = []
    attributes: dict[str, dict[str, str]] = {}
    if (folder / "ratings.csv").exists():
        ratings, movies = read_table(folder / "ratings.csv"), read_table(folder / "movies.csv")
        for table, names in (
            (ratings, ("userId", "movieId", "rating", "timestamp")),
            (movies, ("movieId", "title", "genres")),
        ):
            for name in names:
                if name not in table.frame:
                    raise ValueError(
                        f"{table.name}: no column {name!r} (columns: {', '.join(table.frame.columns)}); "
                        "for other layouts use the recipe `table`"
                    )
        ratings.frame = ratings.frame.rename(columns={"userId": "user_id", "movieId": "item_id", "rating": "value"})
        movies.frame = movies.frame.rename(columns={"movieId": "item_id"})
        attributes = _links(folder / "links.csv")
        layout = "latest"
    elif (folder / "ratings.dat").exists():
        ratings = read_lines(folder / "ratings.dat", "::", ("user_id", "item_id", "value", "timestamp"))
        movies = read_lines(folder / "movies.dat", "::", ("item_id", "title", "genres"))
        layout = "1M"
    elif (folder / "u.data").exists():
        ratings = read_lines(folder / "u.data", "\t", ("user_id", "item_id", "value", "timestamp"))
        names = ("item_id", "title", "released", "video", "url", *GENRES_100K)
        movies = read_lines(folder / "u.item", "|", names, encoding="latin-1")
        flags = movies.frame[list(GENRES_100K)].to_numpy() == "1"
        movies.frame["genres"] = ["|".join(g for g, on in zip(GENRES_100K, row, strict=True) if on and g != "unknown")
                                  for row in flags]  # fmt: skip
        layout = "100K"
    else:
        raise ValueError(f"{folder}: no ratings.csv, ratings.dat or u.data in it; expected a MovieLens folder")
    notes += ratings.notes + movies.notes

    timestamp, assumed = times(ratings, "timestamp", "seconds")
    events = pd.DataFrame(
        {"user_id": ids(ratings, "user_id"), "item_id": ids(ratings, "item_id"), "timestamp": timestamp,
         "value": numbers(ratings, "value").astype(np.float32)}
    )  # fmt: skip
    for name in ("user_id", "item_id"):
        if (blank := (events[name] == "").to_numpy()).any():
            raise ratings.error(int(np.argmax(blank)), name, "", "an id")
    items = _films(movies, attributes)
    dropped: dict[str, int] = {}
    if layout == "latest" and (folder / "tags.csv").exists():
        events["text"], unused = _tags(read_table(folder / "tags.csv"), events)
        if unused:
            dropped["tags given after the rating or without one (not used)"] = unused
    licence = "GroupLens terms of use; see the README of the source"
    if (folder / "LICENSE").exists() and (folder / "LICENSE").read_text(errors="replace").startswith(
        "The MIT License"
    ):
        licence = "mit"
    source = f"{folder.resolve().name}: {ratings.name}, {movies.name}"
    return RawLog(
        events, items, source=source, licence=licence, dropped=dropped, notes=notes + assumed, drop_duplicates=True
    )


def _films(movies: SourceTable, attributes: dict[str, dict[str, str]]) -> pd.DataFrame:
    items = pd.DataFrame({"item_id": ids(movies, "item_id"), "title": texts(movies, "title"), "text": ""})
    if (twice := items["item_id"].duplicated().to_numpy()).any():
        row = int(np.argmax(twice))
        raise movies.error(row, "item_id", items["item_id"].iloc[row], "an id that occurs once")
    items["categories"] = pd.Series(category_paths(texts(movies, "genres")), dtype=object)
    year = items["title"].str.extract(r"\((\d{4})(?:[-–]\d{0,4})?\)\s*$")[0]
    known = year.notna().to_numpy()
    seconds = np.zeros(len(items), dtype=np.int64)
    years = year[known].astype(np.int64).to_numpy()
    seconds[known] = (years - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)
    items["created_at"] = pd.Series(seconds, dtype="Int64").where(known)
    items["attributes"] = pd.Series(
        [({"year": y} if isinstance(y, str) else {}) | attributes.get(i, {})
         for i, y in zip(items["item_id"], year, strict=True)], dtype=object
    )  # fmt: skip
    return items


def _links(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    frame = read_table(path).frame
    columns = [name for name in ("imdbId", "tmdbId") if name in frame]
    if "movieId" not in frame:
        raise ValueError(f"{path.name}: no column 'movieId' (columns: {', '.join(frame.columns)})")
    rows = zip(frame["movieId"], *(frame[name] for name in columns), strict=True)
    return {key: {name: cell for name, cell in zip(columns, cells, strict=True) if cell} for key, *cells in rows}


def _tags(tags: SourceTable, events: pd.DataFrame) -> tuple[pd.Series, int]:
    """Text per rating: the user's tags of that film not later than the rating; and how many tags found no rating."""
    for name in ("userId", "movieId", "tag", "timestamp"):
        if name not in tags.frame:
            raise ValueError(f"{tags.name}: no column {name!r} (columns: {', '.join(tags.frame.columns)})")
    moment, _ = times(tags, "timestamp", "seconds")
    given = pd.DataFrame({"user_id": tags.frame["userId"], "item_id": tags.frame["movieId"],
                          "tag": texts(tags, "tag"), "tagged": moment})  # fmt: skip
    rated = events[["user_id", "item_id", "timestamp"]].assign(row=np.arange(len(events)))
    joined = given.assign(number=np.arange(len(given))).merge(rated, on=["user_id", "item_id"])
    joined = joined[(joined["tagged"] <= joined["timestamp"]) & (joined["tag"] != "")]
    joined = joined.sort_values(["row", "tagged", "number"], kind="stable")
    text = pd.Series("", index=events.index, dtype="str")
    merged = joined.groupby("row")["tag"].agg(", ".join)
    text.iloc[merged.index.to_numpy()] = merged.to_numpy()
    return text, len(given) - joined["number"].nunique()
