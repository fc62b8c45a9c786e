"""The report of `interest-lm inspect` as tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def print_inspection(report: dict, console: Console | None = None) -> None:
    """Prints a report as tables."""
    console = console or Console()
    table = Table(title=report["name"], show_header=False, title_justify="left")
    table.add_column()
    table.add_column()
    per_user = report["events_per_user"]
    table.add_row("users, items, events", f"{report['users']:,}, {report['items']:,}, {report['events']:,}")
    table.add_row(
        "events per user", f"median {per_user['median']:g}, {per_user['low']:g} to {per_user['high']:g} (10-90 %)"
    )
    if report["time"]:
        time = report["time"]
        table.add_row("time", f"{time['first']} to {time['last']}")
        table.add_row("days from first to last event", f"median user {time['span_days_per_user']['median']:.1f}")
        table.add_row("distinct days", f"median user {time['distinct_days_per_user']['median']:g}")
    else:
        table.add_row("time", "order only")
    table.add_row("ties (share user and time)", f"{report['ties']:.1%}")
    table.add_row("repeats (item had before)", f"{report['repeats']:.1%}")
    text = report["text"]
    table.add_row("text", f"titles {text['items_with_title']:.0%}, item texts {text['items_with_text']:.0%} of items; "
                          f"own words {text['events_with_text']:.0%} of events")  # fmt: skip
    if report["value"]:
        value = report["value"]
        table.add_row("value", f"{value['distinct']:,} distinct, mean {value['mean']:.2f}; positive {value['positive']:.0%} of "
                               f"{value['labelled']:,} labelled")  # fmt: skip
    table.add_row("place", f"{report['place']:.0%} of events")
    table.add_row("domains", f"{report['domains']['nodes']:,} in {report['domains']['levels']} levels")
    cold = report["cold"]
    table.add_row("test events of new items, new users", f"{cold['items']:.0%}, {cold['users']:.0%}")
    console.print(table)
    forecast, change = report["forecast"], report["change"]
    if forecast["cuts"]:
        window = f"{forecast['horizon']:g} {forecast['unit']}"
        table = Table(title=f"next {window}: cross-entropy in nats, {forecast['cuts']:,} cuts, median "
                            f"{forecast['events_per_window']:g} events a window", title_justify="left")  # fmt: skip
        for column in ("level", "floor (entropy of the window)", "own history", "population"):
            table.add_column(column, justify="left" if column == "level" else "right")
        for level, row in enumerate(forecast["cross_entropy"]):
            table.add_row(str(level), f"{row['floor']:.3f}", f"{row['history']:.3f}", f"{row['population']:.3f}")
        console.print(table)
    if change["reliability"] is not None:
        console.print(f"change rate: split-half reliability {change['reliability']:.2f} over {change['pairs']:,} pairs of user "
                      f"and domain (halves by moment: {_shown(change['reliability_by_moment'])})")  # fmt: skip
    if report["windows"]:
        table = Table(title="split-half reliability of the change rate by window", title_justify="left")
        for column in ("window", "cuts", "reliability", "by moment"):
            table.add_column(column, justify="left" if column == "window" else "right")
        for row in report["windows"]:
            shown = (_shown(row[name]) for name in ("reliability", "reliability_by_moment"))
            table.add_row(f"{row['horizon']:g} {row['unit']}", f"{row['cuts']:,}", *shown)
        console.print(table)
    table = Table(title="what it supports", show_header=False, title_justify="left")
    table.add_column()
    table.add_column()
    for task, reason in report["supported"].items():
        table.add_row(task, "yes" if reason is None else f"no: {reason}")
    console.print(table)
    for why, number in report.get("dropped", {}).items():
        console.print(f"dropped {number:,}: {why}", markup=False)
    for note in report.get("notes", []):
        console.print(f"note: {note}", markup=False)
    suggested = report["suggested"]
    recipe = f"interest-lm prepare {suggested['recipe']} ... --split" if "recipe" in suggested else "--split"
    order = " --time order" if suggested.get("time") == "order" else ""
    horizons = ", ".join(f"{horizon:g}" for horizon in suggested["horizons"])
    console.print(f"suggested: {recipe} {suggested['split']}{order}; horizons {horizons} {suggested['horizon_unit']}, "
                  f"reference {suggested['reference_horizon']:g}", markup=False)  # fmt: skip


def _shown(number: float | None) -> str:
    return "too few" if number is None else f"{number:.2f}"
