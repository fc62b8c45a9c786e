"""The figures of `results.json` as the tables of a card, and as its `model-index`."""

from __future__ import annotations

from huggingface_hub import EvalResult

from ..data.markdown import escape, number, table
from ..evaluation.report import COLUMNS, SHUFFLED_COLUMNS, SMALLER_IS_BETTER
from ..evaluation.run import MODEL, OWN


TASK = "user-interest"
TITLES = {
    "ranking": "Ranking",
    "overall": "Overall interest",
    "completion": "Interest (completion of a hidden half)",
    "future": "Future interest",
    "change": "Change rate",
    "intensity": "Intensity",
    "next_event": "Next event at a known time",
    "scenes": "Interest given the scene",
    "scene_share": "Scene of the next event",
    "rating": "Rating",
}
CONTROLLED = (("ranking", "ndcg@10"), ("future", "cross_entropy"), ("future", "skill"), ("change", "auc"))
UNRANKED = ("coverage_80",)  # neither more nor less is better: it should be .8
RANKING_TITLES = {"filtered": "Ranking, seen items left out", "unfiltered": "Ranking, seen items kept"}
HEADLINES = (
    ("ranking", "ndcg@10"),
    ("ranking", "hit_rate@10"),
    ("overall", "auc"),
    ("completion", "cross_entropy"),
    ("future", "cross_entropy"),
    ("change", "auc"),
    ("intensity", "nb_deviance"),
    ("rating", "rmse"),
)


def results_tables(results: dict) -> str:
    """A table per group, the model's row first and the best figure of a column bold, and the distance to the best."""
    parts = []
    headline = (results.get("protocol") or {}).get("headline", "filtered")
    for group, title in TITLES.items():
        tables = [(title, [group])]
        if group == "ranking":
            other = "unfiltered" if headline == "filtered" else "filtered"
            tables = [(RANKING_TITLES[headline], [group]), (RANKING_TITLES[other], [group, other])]
        for name, path in tables:
            shown = _group_table(results, path)
            if shown:
                parts.append(f"### {name}\n\n{shown}")
    paired = results.get("paired") or {}
    if paired:
        rows = []
        for figure, entry in paired.items():
            unit = " %" if entry.get("unit") == "per cent" else ""
            rows.append(
                [
                    escape(figure),
                    escape(entry.get("baseline", "-")),
                    f"{number(entry.get('difference'))}{unit}",
                    _interval(entry.get("interval")) or "-",
                ]
            )
        parts.append("### Model minus the best baseline\n\n" + table(["", "baseline", "difference", "interval"], rows))
    return "\n\n".join(parts)


def _group_table(results: dict, path: list[str]) -> str:
    model = _section(results, path)
    if model is None:
        return ""
    rows = {"**this model**": model}
    for baseline, groups in (results.get("baselines") or {}).items():
        section = _section(groups or {}, path)
        if section is not None:
            rows[escape(baseline)] = section
    metrics = [name for name in COLUMNS[path[0]] if any(_is_figure(row.get(name)) for row in rows.values())]
    if not metrics:
        return ""
    best = {metric: _best(metric, [row.get(metric) for row in rows.values()]) for metric in metrics}
    intervals = results.get("intervals") or {}
    lines = []
    for place, (label, row) in enumerate(rows.items()):
        cells = []
        for metric in metrics:
            value = row.get(metric)
            cell = number(value)
            if _is_figure(value) and value == best[metric] and len(rows) > 1 and metric not in UNRANKED:
                cell = f"**{cell}**"
            if place == 0 and len(path) == 1:
                cell += _interval(intervals.get(f"{path[0]}.{metric}"), before=" ")
            cells.append(cell)
        lines.append([label, *cells])
    return table(["", *(f"{metric} ↓" if metric in SMALLER_IS_BETTER else metric for metric in metrics)], lines)


def controls_table(results: dict) -> str:
    """The headline figure of each group, as it is and under each control that measured it."""
    controls = {name: content for name, content in (results.get("controls") or {}).items() if content}
    rows = []
    for group, metric in CONTROLLED:
        figures = [(_section(content, [group]) or {}).get(metric) for content in controls.values()]
        if any(_is_figure(value) for value in figures):
            real = (_section(results, [group]) or {}).get(metric)
            rows.append([f"{group}.{metric}", number(real), *(number(value) for value in figures)])
    return table(["", "real", *(escape(name) for name in controls)], rows) if rows else ""


def ablations_table(results: dict) -> str:
    """The headline figure of each group, whole and without one part of the model at a time, with what that changes."""
    ablations = {name: content for name, content in (results.get("ablations") or {}).items() if content}
    shown = [pair for pair in HEADLINES if any(_figure(content, *pair) is not None for content in ablations.values())]

    def cell(content: dict, group: str, metric: str) -> str:
        entry = (_section(content, ["paired"]) or {}).get(f"{group}.{metric}")
        if not isinstance(entry, dict) or not _is_figure(entry.get("difference")):
            return number(_figure(content, group, metric))
        unit = " %" if entry.get("unit") == "per cent" else ""
        change = f"{'+' if entry['difference'] > 0 else ''}{number(entry['difference'])}{unit}"
        return f"{number(_figure(content, group, metric))} ({change}{_interval(entry.get('interval'), before=' ')})"

    rows = [
        [escape(name), *(cell(content, *pair) for pair in shown)]
        for name, content in (("whole", {**results, "paired": {}}), *ablations.items())
    ]
    names = [f"{group}.{metric}" + (" ↓" if metric in SMALLER_IS_BETTER else "") for group, metric in shown]
    return table(["", *names], rows) if shown else ""


def _figure(content: dict, group: str, metric: str) -> float | None:
    value = (_section(content, [group]) or {}).get(metric)
    return value if _is_figure(value) else None


SHUFFLED_LABELS = {MODEL: "**this model**", OWN: "**this model, the rate that people see**"}


def shuffled_table(results: dict) -> str:
    """Model and baselines on the log as it is and on the one whose items are permuted over each person's times: only the
    difference is what time tells."""
    found = ((results.get("controls") or {}).get("time_shuffled") or {}).get("real_minus_shuffled") or {}
    rows = []
    for group, metrics in SHUFFLED_COLUMNS.items():
        for metric in metrics:
            for name, entries in (found.get(group) or {}).items():
                if (entry := entries.get(metric)) is not None:
                    label = SHUFFLED_LABELS.get(name) or escape(name)
                    figures = [number(entry["real"]), number(entry["shuffled"]), number(entry["difference"])]
                    rows.append([f"{group}.{metric}", label, *figures, _interval(entry["interval"]) or "-"])
    return table(["", "by", "real", "time-shuffled", "difference", "interval"], rows) if rows else ""


def slices_table(results: dict) -> str:
    """Ranking of some kinds of cases: the model's row and that of the best baseline."""
    best = (results.get("best_baseline") or {}).get("ranking")
    compared = (results.get("baselines") or {}).get(best) or {}
    metrics = COLUMNS["ranking"]
    rows = []
    for name, own in (results.get("slices") or {}).items():
        for label, content in (("this model", own), (best, (compared.get("slices") or {}).get(name))):
            for part, figures in ((name, content), (f"{name}, among themselves", (content or {}).get("among_cold"))):
                if figures:
                    cases = number((content or {}).get("cases"))
                    rows.append(
                        [escape(part), escape(label), cases, *(number(figures.get(metric)) for metric in metrics)]
                    )
    return table(["", "by", "cases", *metrics], sorted(rows, key=lambda row: row[0])) if rows else ""


def served_worst(results: dict) -> str:
    """The slice with the lowest NDCG@10, beside the figure over all cases."""
    whole = _figure(results, "ranking", "ndcg@10")
    slices = {name: (content or {}).get("ndcg@10") for name, content in (results.get("slices") or {}).items()}
    slices = {name: value for name, value in slices.items() if _is_figure(value)}
    if whole is None or not slices:
        return ""
    worst = min(slices, key=slices.__getitem__)
    return f"NDCG@10 is lowest for {escape(worst)}: {number(slices[worst])}, beside {number(whole)} over all"


def oracle_table(oracle: dict | None) -> str:
    """Gain of the oracle in cross-entropy over a baseline, and how much of it the model takes."""
    rows = []
    for group, figures in (oracle or {}).items():
        for against, entry in figures.items():
            if against.startswith("over_"):
                gain, share = entry.get("gain_percent"), entry.get("model_share_of_gain")
                shown = "-" if share is None else f"{share:.0%}"
                rows.append([escape(group), escape(against[5:]), f"{number(gain, 1)} %", shown])
    shown = table(["", "over", "the oracle gains", "the model takes of it"], rows) if rows else ""
    known = ((oracle or {}).get("future") or {}).get("well_known") or {}
    if _is_figure(known.get("model_share_of_gain")):
        low_high = known.get("interval")  # none in results of earlier versions
        between = f" [{low_high[0]:.0%}, {low_high[1]:.0%}]" if low_high else ""
        shown += (
            f"\n\nOf the oracle's gain over the mixture in future windows the model takes {known['model_share_of_gain']:.0%}{between} among "
            f"the {number(known.get('cases'))} people with at least 50 events."
        )
    true = ((oracle or {}).get("change") or {}).get("true_rate") or {}
    if _is_figure(true.get("model")):
        shown += (
            f"\n\nCorrelation of change rates with the true ones, people with at least 50 events ({number(true.get('pairs'))} pairs): "
            f"{number(true['model'], 3)}, the oracle's {number(true.get('oracle'), 3)}."
        )
    return shown.strip()


def protocol_line(results: dict) -> str:
    protocol = results.get("protocol") or {}
    if not protocol:
        return ""
    users = f"{number(protocol.get('users'))} users asked, baselines tuned on {escape(protocol.get('tuned_on'))}"
    return f"Split {escape(results.get('split'))}: {escape(protocol.get('rule'), limit=300)}; {users}."


def reasons_list(results: dict) -> str:
    """Why a figure is missing, single baselines' and single numbers' reasons excepted."""
    return "\n".join(
        f"- **{escape(name)}**: {escape(reason, limit=400)}"
        for name, reason in (results.get("reasons") or {}).items()
        if name in TITLES or name.startswith(("slices.", "controls.")) and name.count(".") == 1
    )


def model_index(results: dict, data: str) -> list[EvalResult]:
    found = []
    for group, metric in HEADLINES:
        value = (_section(results, [group]) or {}).get(metric)
        if not _is_figure(value):
            continue
        interval = (results.get("intervals") or {}).get(f"{group}.{metric}")
        found.append(
            EvalResult(
                task_type=TASK,
                task_name=TITLES[group],
                dataset_type="interest-dataset",
                dataset_name=data,
                dataset_split=results.get("split"),
                metric_type=f"{group}_{metric}",
                metric_name=f"{TITLES[group]}: {metric}",
                metric_value=round(float(value), 6),
                metric_args={"interval_95": [float(bound) for bound in interval]} if interval else None,
            )
        )
    return found


def _section(results: dict, path: list[str]) -> dict | None:
    for key in path:
        results = results.get(key) if isinstance(results, dict) else None
    return results if isinstance(results, dict) and results else None


def _best(metric: str, values: list) -> float | None:
    figures = [value for value in values if _is_figure(value)]
    if not figures:
        return None
    return min(figures) if metric in SMALLER_IS_BETTER else max(figures)


def _interval(bounds: list | None, before: str = "") -> str:
    return f"{before}[{number(bounds[0])}, {number(bounds[1])}]" if bounds else ""


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
