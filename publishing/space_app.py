"""A page on one InterestLM checkpoint; travels to a Gradio Space as `app.py` beside `model.json`, which pins the checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gradio as gr
from transformers import pipeline


COLUMNS = ["title", "categories (Film > Crime; Music)", "date", "value", "own words"]
EXAMPLE = [
    ["Heat (1995)", "Film > Crime", "2026-01-10", 4.5, ""],
    ["Casino (1995)", "Film > Crime", "2026-01-20", 4.0, ""],
]
MAX_EVENTS, MAX_CANDIDATES, MAX_CHARACTERS = 500, 200, 2_000


def read_history(rows: list[list]) -> list[dict]:
    """The rows of the table as events; rows without a title are left out."""
    events = []
    for title, categories, date, value, words in rows[: MAX_EVENTS + 1]:
        if not str(title or "").strip():
            continue
        event = {"title": str(title)[:MAX_CHARACTERS], "timestamp": str(date).strip()}
        paths = [
            [name.strip() for name in path.split(">")] for path in str(categories or "").split(";") if path.strip()
        ]
        if paths:
            event["categories"] = paths
        if str(value if value is not None else "").strip():
            event["value"] = float(value)
        if str(words or "").strip():
            event["text"] = str(words)[:MAX_CHARACTERS]
        events.append(event)
    if len(events) > MAX_EVENTS:
        raise ValueError(f"more than {MAX_EVENTS} events")
    return events


def make_page(pipe) -> gr.Blocks:
    """The page on a pipeline "user-interest"."""

    def answer(rows, candidates, at, horizon_days):
        titles = [line.strip()[:MAX_CHARACTERS] for line in (candidates or "").splitlines() if line.strip()]
        request = {"history": [], "candidates": [{"title": title} for title in titles[:MAX_CANDIDATES]]}
        try:
            request["history"] = read_history(rows)
            request |= {"at": at.strip()} if (at or "").strip() else {}
            request |= {"horizon_days": float(horizon_days)} if horizon_days else {}
            found = pipe(request)
        except ValueError as error:
            raise gr.Error(str(error)) from None
        domains = [
            [
                row["domain"],
                round(row["interest"], 3),
                round(row["change"], 2),
                round(row["future"], 3),
                row["level"],
                row["trend"],
            ]
            for row in found["domains"]
        ]
        ranking = [[row["title"], round(row["score"], 3), round(row["overall"], 3)] for row in found["ranking"]]
        return domains, ranking, found["intensity"]

    with gr.Blocks(title="InterestLM") as page:
        gr.Markdown(
            "# InterestLM\nWhat a history says of interests, how they change, and what comes next. Nothing typed here is kept."
        )
        history = gr.Dataframe(EXAMPLE, headers=COLUMNS, type="array", label="History", column_count=len(COLUMNS))
        candidates = gr.Textbox("Goodfellas (1990)\nA jazz album", lines=4, label="Things to rank, one per line")
        with gr.Row():
            at = gr.Textbox("", label="Moment (ISO date; empty: after the last event)")
            horizon = gr.Number(None, label="Days to look ahead (empty: the model's own)")
        button = gr.Button("Tell", variant="primary")
        domains = gr.Dataframe(headers=["domain", "interest", "change", "future", "level", "trend"], label="Interests")
        ranking = gr.Dataframe(headers=["title", "score", "overall"], label="Ranking")
        intensity = gr.Number(label="Expected events")
        button.click(answer, [history, candidates, at, horizon], [domains, ranking, intensity], api_name="answer")
    return page


def load_pipeline():
    """The pipeline of the checkpoint that `model.json` pins; its code is that of the same commit."""
    pinned = json.loads(Path(__file__).with_name("model.json").read_text(encoding="utf-8"))
    return pipeline("user-interest", **pinned, trust_remote_code=True, token=os.environ.get("HF_TOKEN"))


if __name__ == "__main__":
    make_page(load_pipeline()).launch()
