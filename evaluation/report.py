"""Results on the screen and on disk."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from .run import MODEL, OWN


# Columns of each group's table, with the figures that are better when smaller marked.
COLUMNS = {
    "ranking": ("ndcg@10", "hit_rate@10", "mrr"),
    "overall": ("auc", "accuracy", "f1", "log_loss", "ece"),
    "completion": ("cross_entropy", "kl", "js", "skill"),
    "future": ("cross_entropy", "kl", "js", "skill", "coverage_80"),
    "change": ("auc", "stratified_auc", "balanced_accuracy", "spearman", "mae"),
    "intensity": ("nb_deviance", "poisson_deviance", "mae", "coverage_80"),
    "next_event": ("cross_entropy", "kl", "js", "skill"),
    "scenes": ("cross_entropy", "kl", "js", "skill"),
    "scene_share": ("cross_entropy", "accuracy"),
    "rating": ("rmse", "mae"),
}
IMPRESSION_COLUMNS = (
    "auc",
    "ece",
    "impression_auc",
    "impression_ndcg@10",
)  # of "overall", where the log has impressions
OWN_LINES = frozenset(
    {"coverage_80", "stratified_auc"}
)  # told below a table on the screen, which is narrower than a card
SHUFFLED_COLUMNS = {"future": ("over_shrinkage", "kl_skill"), "change": ("auc", "stratified_auc")}
SMALLER_IS_BETTER = frozenset(
    {"cross_entropy", "kl", "js", "mae", "rmse", "nb_deviance", "poisson_deviance", "log_loss", "ece", "brier"}
)


def _cell(figures: dict, metric: str, intervals: dict, group: str) -> str:
    value = figures.get(metric)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    bounds = intervals.get(f"{group}.{metric}")
    return f"{value:.4f}" + (f" [dim][{bounds[0]:.4f}, {bounds[1]:.4f}][/]" if bounds else "")


def _difference(entry: dict) -> str:
    """One of `paired`: the difference, its unit and its interval."""
    bounds = entry["interval"]
    shown = f" [{bounds[0]:+.4f}, {bounds[1]:+.4f}]" if bounds else ""
    return f"{entry['difference']:+.4f}{' %' if entry['unit'] == 'per cent' else ''}{shown}"


def print_table(results: dict, console: Console | None = None) -> None:
    """One table per group: the model first, then every baseline; 95 % intervals over users beside the first figure."""
    console = console or Console()
    protocol = results["protocol"]
    title = f"{results['data']}, {results['split']} ({protocol['rule']}, {protocol['users']:,} users asked)"
    console.print(f"[bold]{title}[/]", highlight=False)
    for group, metrics in COLUMNS.items():
        rows = {name: entry[group] for name, entry in results["baselines"].items() if entry.get(group)}
        model = results.get(group)
        if model is None and not rows:
            console.print(f"{group}: none ({results['reasons'].get(group, 'not measured')})", highlight=False)
            continue
        reference = model or next(iter(rows.values()))
        metrics = IMPRESSION_COLUMNS if "impression_auc" in reference else metrics
        metrics = [metric for metric in metrics if metric not in OWN_LINES]
        unit = "pairs" if group == "change" else "cases"
        count = reference.get(unit)
        kind = f", {protocol['headline']}" if group == "ranking" else ""
        table = Table(title=f"{group}{kind}" + (f" ({count:,} {unit})" if count else ""), title_justify="left")
        table.add_column("", no_wrap=True)
        for metric in metrics:
            table.add_column(metric + (" ↓" if metric in SMALLER_IS_BETTER else ""), justify="right", no_wrap=True)
        named = ([(results["model"] or "model", model, results["intervals"])] if model else []) + [
            (name, figures, results["baselines"][name].get("intervals", {})) for name, figures in rows.items()
        ]
        for position, (name, figures, intervals) in enumerate(named):
            cells = [
                _cell(figures, metrics[0], intervals, group),
                *(_cell(figures, m, {}, group) for m in metrics[1:]),
            ]
            mark = " *" if results["best_baseline"].get(group) == name else ""
            table.add_row(name + mark, *cells, style="bold" if model and position == 0 else None)
        console.print(table)
        if group == "change":
            within = (f"{name} {_cell(figures, 'stratified_auc', {}, group)}" for name, figures, _ in named)
            console.print(f"auc within deciles of p: {', '.join(within)}", highlight=False)
        elif model and model.get("coverage_cells"):
            share, cells = model["coverage_80"], model["coverage_cells"]
            console.print(f"80 % intervals hold {share:.1%} of {cells:,} counts", highlight=False, markup=False)
        if entry := next((v for k, v in results["paired"].items() if k.startswith(f"{group}.")), None):
            console.print(f"model minus {entry['baseline']}: {_difference(entry)}", highlight=False, markup=False)
    for name, content in (results.get("ablations") or {}).items():
        changes = [f"{metric} {_difference(entry)}" for metric, entry in content["paired"].items()]
        console.print(f"{name}: {', '.join(changes)}", highlight=False, markup=False)
    shuffled = results["controls"].get("time_shuffled")
    if shuffled:
        ours = shuffled.get("future")
        mixed = shuffled["baselines"]["future"]["mixture"]["cross_entropy"]
        skilled = f", the model's skill {ours['skill']:+.4f}" if ours else ""
        console.print(f"time-shuffled log: mixture cross-entropy {mixed:.4f}{skilled}", highlight=False)
        _print_differences(results, shuffled["real_minus_shuffled"], console)
    for group, figures in results.get("oracle", {}).items():
        for against, entry in figures.items():
            if against.startswith("over_"):
                share = entry.get("model_share_of_gain")
                taken = f"; the model takes {100 * share:.0f} % of it" if share is not None else ""
                gain = f"the oracle gains {entry['gain_percent']:.1f} % over {against[5:]}"
                console.print(f"{group}: {gain}{taken}", highlight=False)
        found = figures.get("well_known")
        if found and np.isfinite(found["model_share_of_gain"]):
            low_high = found.get("interval")
            between = f" \\[{100 * low_high[0]:.0f}, {100 * low_high[1]:.0f}]" if low_high else ""
            gain = f"{100 * found['model_share_of_gain']:.0f} %{between} of its gain over the mixture"
            console.print(f"{group}: with 50 events or more ({found['cases']:,} people) {gain}", highlight=False)
        if found := figures.get("true_rate"):
            shown = ", ".join(f"{name} {found[name]:.3f}" for name in ("oracle", "model") if name in found)
            console.print(
                f"{group}: correlation with the true rate ({found['pairs']:,} pairs): {shown}", highlight=False
            )
    console.print(
        "[dim]* best baseline; ↓ smaller is better; intervals: 95 %, bootstrap over users[/]", highlight=False
    )


def _print_differences(results: dict, found: dict, console: Console) -> None:
    """A table per group of its first figure."""
    for group, (metric, *_) in SHUFFLED_COLUMNS.items():
        rows = {name: entry[metric] for name, entry in found[group].items() if metric in entry}
        if not rows:
            continue
        table = Table(title=f"{group}, {metric}: real minus time-shuffled log", title_justify="left")
        table.add_column("", no_wrap=True)
        for column in ("real", "shuffled", "difference"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, entry in rows.items():
            bounds = entry["interval"]
            shown = f" [dim][{bounds[0]:+.3f}, {bounds[1]:+.3f}][/]" if bounds else ""
            cells = (f"{entry['real']:.3f}", f"{entry['shuffled']:.3f}", f"{entry['difference']:+.3f}{shown}")
            model = results["model"] or "model"
            label = {MODEL: model, OWN: f"{model}, as people see it"}.get(name, name)
            table.add_row(label, *cells, style="bold" if name in (MODEL, OWN) else None)
        console.print(table)


def to_json(results: dict) -> dict:
    """The results as plain JSON values; every number that is none becomes null, with a reason under `reasons`."""
    reasons = dict(results.get("reasons", {}))

    def plain(value, path: str):
        if isinstance(value, dict):
            return {str(key): plain(inner, f"{path}.{key}" if path else str(key)) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner, f"{path}[{position}]") for position, inner in enumerate(value)]
        if isinstance(value, np.ndarray):
            return plain(value.tolist(), path)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            reasons.setdefault(path, "not defined for these cases (one class only, or constant predictions)")
            return None
        return value

    converted = plain({key: value for key, value in results.items() if key != "reasons"}, "")
    return converted | {"reasons": plain(reasons, "reasons")}


def write_results(results: dict, path: str | Path) -> Path:
    """Writes `results.json`, beside and then moved into place.

    Raises:
        ValueError: the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no folder {path.parent}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        content = json.dumps(to_json(results), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(content + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
