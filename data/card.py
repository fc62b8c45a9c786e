"""The dataset card: what a prepared log holds, how it was split, what was dropped and why."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from .markdown import escape


FACTS_KEY = "interest_lm"
FAIR_RELIABILITY = 0.3
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"))  # fmt: skip
LABELS = """Labels are not stored: they are computed at a cut time `t` between two distinct timestamps, from the history strictly before `t`.

- **interest**: the long-run, undecayed share of each domain, pulled towards the population where there is little evidence.
- **future interest**: the counts per domain in the window `[t, t + h)` for each horizon `h`.
- **intensity**: the number of events in that window, zeros included.
- **change rate**: `(f - p) / (f + p)`, from -1 (gone) over 0 (steady) to 1 (new), of the future share against the long run.
- **overall interest**: a value {overall}.
"""


def read_facts(path: str | Path) -> dict:
    """The facts in the front matter of a card: how the dataset was made.

    Raises:
        ValueError: no card there, or one that `interest-lm prepare` did not write.
    """
    try:
        facts = DatasetCard(Path(path).read_text(encoding="utf-8")).data.to_dict().get(FACTS_KEY)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:  # whatever the YAML parser raises
        raise ValueError(f"{path}: front matter is not readable ({str(error).splitlines()[0]})") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: no `{FACTS_KEY}` in its front matter; expected a card of `interest-lm prepare`")
    return facts


def moment(seconds: int | None, time: str) -> str:
    """A timestamp for people: a date and time in UTC, or a position."""
    if seconds is None:
        return "-"
    if time == "order":
        return f"position {seconds:,}"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def dataset_card(
    facts: dict, splits: list[str], columns: dict[str, list[str]], impressions: list[str] | None = None
) -> DatasetCard:
    """The card of an interest dataset, with the `configs` that `datasets.load_dataset` reads.

    Args:
        facts (`dict`): see `write_dataset`; stored whole in the front matter.
        splits: the splits of the events that have any event.
        columns: column names of `"events"`, `"items"` and `"impressions"`.
        impressions (*optional*): the splits that have impressions.
    """
    counts = facts["counts"]
    licence = facts["licence"] if facts["licence"] in ("mit", "apache-2.0", "cc-by-4.0", "cc0-1.0") else None
    data = DatasetCardData(
        license=licence or ("unknown" if facts["licence"] == "unknown" else "other"),
        pretty_name=facts["name"],
        tags=["interest_lm", "recommendation", "user-modeling"],
        size_categories=next((name for limit, name in SIZES if counts["events"] < limit), "10M<n<100M"),
        configs=[
            {
                "config_name": "events",
                "default": True,
                "data_files": [{"split": split, "path": f"events/{split}-*.parquet"} for split in splits],
            },
            {"config_name": "items", "data_files": [{"split": "train", "path": "items/items-*.parquet"}]},
            *(
                [
                    {
                        "config_name": "impressions",
                        "data_files": [
                            {"split": split, "path": f"impressions/{split}-*.parquet"} for split in impressions
                        ],
                    }
                ]
                if impressions
                else []
            ),
        ],  # fmt: skip
        **{FACTS_KEY: facts},
    )
    return DatasetCard(f"---\n{data.to_yaml(original_order=list(data.to_dict()))}\n---\n\n{_body(facts, columns)}")


def split_rule(facts: dict) -> str | None:
    """What the split rule of a dataset says, from its facts; None where they name none."""
    time = facts.get("time", "seconds")
    if facts.get("split") == "global-time":
        validation, test = (moment(facts.get(f"{name}_start"), time) for name in ("validation", "test"))
        return (
            f"everything before {validation} trains, from there to {test} validates, from {test} on tests: no training event "
            "is later than any test event"
        )
    if facts.get("split") != "leave-last":
        return None
    tested = facts.get("test_events") or 1
    last = (
        "each user's last event tests"
        if tested == 1
        else f"each user's last {tested} events test, at most a third of them, each asked with all before it known"
    )
    return f"{last}, the one before validates, the rest trains; users with fewer than three events only train"


def _line(text: str) -> str:
    """What a recipe says, with its own code marks, and names out of the log that cannot be more than text."""
    return escape(text, limit=400).replace("\\`", "`") if text.count("`") % 2 == 0 else escape(text, limit=400)


def _body(facts: dict, columns: dict[str, list[str]]) -> str:
    counts, time = facts["counts"], facts["time"]
    rule = split_rule(facts)
    threshold = facts["value_threshold"]
    overall = (
        f"of {threshold} or more is positive"
        if threshold is not None
        else "above the user's own mean so far is positive"
    )
    if "impressions" in counts:
        overall = "is not needed: what was clicked among what was shown is positive, what was not is negative"
    elif "value" not in columns["events"]:
        overall = "would be needed, this log has none: null"
    rows = [("users", counts["users"]), ("items", counts["items"]), ("items with events", counts["items_with_events"]),
            ("events", counts["events"]), ("of these train", counts["train"]), ("of these validation", counts["validation"]),
            ("of these test", counts["test"]), ("domains", facts["taxonomy"]["nodes"])]  # fmt: skip
    load = ""
    if "impressions" in counts:
        load = f'\nimpressions = load_dataset(DIR, "impressions")  # {", ".join(columns["impressions"])}'
        rows += [(name, counts[key]) for name, key in (("impressions", "impressions"), ("items shown in them", "shown"),
                                                       ("of these clicked", "clicked"))]  # fmt: skip
    table = "\n".join(f"| {name} | {number:,} |" for name, number in rows)
    dropped = "\n".join(f"- {number:,}: {_line(why)}" for why, number in facts["dropped"].items()) or "Nothing."
    notes = "\n".join(f"- {_line(note)}" for note in facts["notes"])
    source, licence = (escape(text, limit=300) for text in (facts["source"] or "tables in memory", facts["licence"]))
    span = f"from {moment(facts['start'], time)} to {moment(facts['end'] - 1, time)}"
    repairs = facts["taxonomy"].get("repairs")
    repaired = ""
    if repairs:
        repaired = (
            f" Repairs: {repairs['names']:,} names stood under several parents and were put under the most common one "
            f"({repairs['equal_to_parent']:,} of them stood under themselves too or alone); {repairs['items']:,} items changed."
        )
    return f"""# {escape(facts["name"])}

A log of what people did, as an interest dataset for InterestLM (`interest-lm`). Made with
`interest-lm prepare {facts["recipe"]}` from {source}. Licence of the source: {licence}.

```python
from datasets import load_dataset

events = load_dataset(DIR, "events")  # {", ".join(columns["events"])}
items = load_dataset(DIR, "items")["train"]  # {", ".join(columns["items"])}{load}
```

| what | number |
|---|---|
{table}

## Time and splits

Events {span}; `timestamp` is {"a position, as the source has no times" if time == "order" else "in seconds since 1970"}.
`{facts["split"]}`: {rule}.

Events are sorted by user and time, and the sorting is stable: the {facts["ties"]:,} events that share user and timestamp with
another one keep the order of the source. {facts["repeats"]:,} events are of an item that the user had before
({facts["repeat_rate"]:.1%} of the training events).

## Dropped

{dropped}

## Domains

{facts["taxonomy"]["nodes"]:,} domains in {facts["taxonomy"]["levels"]} levels, {facts["taxonomy"]["origin"]}.{repaired} Siblings always sum to their parent.

## Labels

{LABELS.format(overall=overall)}
## Is there change to find?

{_change(facts.get("change"))}

## Notes

{notes or "None."}
"""


def verdict(reliability: float | None) -> str:
    """What the reliability of a change rate means, for people."""
    if reliability is None:
        return "it cannot be measured twice: too few people have enough events on both sides of a moment"
    if reliability < FAIR_RELIABILITY:
        return "mostly noise: what a single window says of somebody's change tells little of what the next will say"
    return "partly noise" if reliability < 0.7 else "mostly real"


def _change(found: dict | None) -> str:
    """Entropy floor of the next window and reliability of the change rate, measured on the training events."""
    if not found or not found["forecast"]["cuts"]:
        return "Not measured: no domains, or nobody with ten training events before and five within a window."
    forecast, change = found["forecast"], found["change"]
    rows = [
        f"| {level} | {row['floor']:.3f} | {row['history']:.3f} | {row['population']:.3f} |"
        for level, row in enumerate(forecast["cross_entropy"])
    ]
    windows = [
        f"| {row['horizon']:g} {row['unit']} | {row['cuts']:,} | {row['reliability']:.2f} | "
        f"{_figure(row['reliability_by_moment'])} |"
        for row in found["windows"]
    ]
    reliability = change["reliability"]
    return "\n".join(
        [
            f"The next {forecast['horizon']:g} {forecast['unit']}, cross-entropy in nats over {forecast['cuts']:,} cuts within "
            f"the training events, median {forecast['events_per_window']:g} events a window. No forecast can go below the "
            "floor, the entropy of what happened:",
            "",
            "| level | floor | own history | population |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Split-half reliability of the change rate of that window: {_figure(reliability)} ({verdict(reliability)}). It is "
            "the correlation of the rates of two random halves of the events, stepped up to the whole (Spearman-Brown); by "
            "moment, events of one timestamp go into one half. Other windows:",
            "",
            "| window | cuts | reliability | by moment |",
            "|---|---|---|---|",
            *windows,
        ]
    )


def _figure(number: float | None) -> str:
    return "too few" if number is None else f"{number:.2f}"
