"""The model card: what a checkpoint is, how it was made, and its figures beside every baseline's."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..data.card import split_rule
from ..evaluation.report import to_json
from .card_tables import (
    controls_table,
    model_index,
    oracle_table,
    protocol_line,
    reasons_list,
    results_tables,
    slices_table,
)
from .files import is_local_path, plain
from .markdown import escape, number, table


TEMPLATE = Path(__file__).resolve().parents[1] / "model_cards" / "template.md"
LIBRARY = "transformers"

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub", "interest-lm")


def render_card(
    *,
    config,
    results: dict | None = None,
    facts: dict | None = None,
    training: dict | None = None,
    name: str = "interest-lm",
    repository: str | None = None,
    revision: str = "main",
    licence: str | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        config (`InterestConfig`): the model's.
        results (`dict`, *optional*): content of `results.json`.
        facts (`dict`, *optional*): `InterestLog.facts` of the data.
        training (`dict`, *optional*): how it was trained; `backbone`, `tuning`, `minutes` and others,
            each one line; `log` holds the validations.
        name (`str`): the model's name.
        repository (`str`, *optional*): its id on the Hub, for the snippet and the links.
        revision (`str`): what the snippet pins.
        licence (`str`, *optional*): a licence id of the Hub, for the metadata.

    Returns:
        `ModelCard`: its metadata hold a `model-index` with the headline figures.
    """
    results = to_json(results) if results else {}
    facts, training = plain(facts or {}), plain(training or {})
    base_model = _base_model(config, training)
    data = str(facts.get("name") or facts.get("recipe") or "a log of events")
    metadata = ModelCardData(
        language="en",
        license=licence,
        library_name=LIBRARY,
        base_model=base_model,
        model_name=name,
        tags=["interest-lm", "user-interest", "recommendation", "personalization", "time-series-forecasting"],
        eval_results=model_index(results, data) or None,
    )
    unit = getattr(config, "horizon_unit", "days")
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=escape(name),
        repository=_plain_id(repository or name),
        revision=_plain_id(revision),
        summary=_rows(_summary(config, base_model, data, facts)),
        results=results_tables(results),
        controls=controls_table(results),
        slices=slices_table(results),
        oracle=oracle_table(results.get("oracle")),
        reasons=reasons_list(results),
        protocol=protocol_line(results),
        data=_data(facts),
        split_rule=_split_rule(facts, training),
        horizons=", ".join(f"{horizon:g}" for horizon in config.horizons) + f" {unit}",
        reference_horizon=f"{config.reference_horizon:g} {unit}",
        positive=_positive(facts),
        training=_training(training),
        licence_note=_licence_note(facts),
        versions=", ".join(f"{package} {_version(package)}" for package in ("python", *PACKAGES)),
    )


def _base_model(config, training: dict) -> str | None:
    text = getattr(config, "text_config", None)
    name = training.get("backbone") or getattr(text, "_name_or_path", None)
    return str(name) if name and not is_local_path(str(name)) else None


def _plain_id(text: str) -> str:
    """A name for a code block: nothing that could close the string or the block."""
    return "".join(character for character in str(text) if character.isalnum() or character in "-_./") or "PATH"


def _version(package: str) -> str:
    return platform.python_version() if package == "python" else version(package)


def _summary(config, base_model: str | None, data: str, facts: dict) -> Iterable[tuple[str, str]]:
    text = config.text_config
    counts = facts.get("counts") or {}
    yield "text backbone", escape(base_model or getattr(text, "model_type", "none"))
    yield (
        "history encoder",
        f"{config.num_hidden_layers} layers of width {config.hidden_size}, up to {config.max_history} events",
    )
    yield "domains", f"{config.num_domains:,}" if config.domains else "none"
    yield "horizons", ", ".join(f"{horizon:g}" for horizon in config.horizons) + f" {config.horizon_unit}"
    yield "items with a vector of their own", f"{config.num_items:,}"
    yield (
        "trained on",
        escape(data)
        + "".join(
            f", {number(counts[key])} {key}"
            for key in ("users", "items", "events")
            if isinstance(counts.get(key), int)
        ),
    )


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"| {key} | {value} |" for key, value in pairs)


def _key_values(content: dict) -> str:
    pairs = [(escape(key), value) for key, value in _flatten(content) if value is not None]
    if not pairs:
        return ""
    return "| setting | value |\n| :-- | :-- |\n" + _rows((key, number(value)) for key, value in pairs)


def _training(training: dict) -> str:
    """Settings, and the validations of the run."""
    if not training:
        return "Not recorded."
    shown = _key_values({key: value for key, value in training.items() if key != "log"})
    rows = [
        [number(entry.get("step")), number(entry.get("epoch"), 2), number(entry.get("eval_objective"))]
        for entry in training.get("log") or []
        if isinstance(entry, dict)
    ]
    return shown + ("\n\n" + table(["step", "passes", "validation objective"], rows) if rows else "")


def _flatten(content: dict, prefix: str = "", depth: int = 3) -> Iterable[tuple[str, object]]:
    """`(dotted key, scalar)` of a nested dict; lists become one line, what is deeper than `depth` is left out."""
    for key, value in content.items():
        if isinstance(value, dict):
            if depth > 1:
                yield from _flatten(value, f"{prefix}{key}.", depth - 1)
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{key}", value


def _data(facts: dict) -> str:
    if not facts:
        return "Not recorded."
    lines = [f"**{escape(facts.get('name') or facts.get('recipe') or 'log')}**"]
    if facts.get("source"):
        lines[0] += f", from {escape(facts['source'], limit=300)}"
    lines[0] += f". Licence of the data: {escape(facts.get('licence') or 'not stated', limit=300)}."
    counts = {key: value for key, value in (facts.get("counts") or {}).items() if isinstance(value, int | float)}
    if counts:
        lines.append("Counts: " + ", ".join(f"{number(value)} {escape(key)}" for key, value in counts.items()) + ".")
    dropped = {key: value for key, value in (facts.get("dropped") or {}).items() if value}
    if dropped:
        lines.append(
            "Dropped: "
            + "; ".join(f"{number(value)} {escape(key, limit=200)}" for key, value in dropped.items())
            + "."
        )
    return "\n\n".join(lines)


def _split_rule(facts: dict, training: dict) -> str:
    rule = split_rule(facts)
    if rule is None:
        return "Split: not recorded."
    rule = f"Split `{facts['split']}`: {rule}. "
    if training.get("refit_steps"):
        return (
            f"{rule}Everything was chosen on validation; then the model trained on with the validation events, so that "
            "figures on that split would be those of seen events. No training window crosses into test."
        )
    return f"{rule}No training window crosses into validation or test."


def _positive(facts: dict) -> str:
    threshold = facts.get("value_threshold")
    if threshold is not None:
        return f"a value of at least {number(threshold)}"
    return "a value above the person's mean so far; not measured where events have no value"


def _licence_note(facts: dict) -> str:
    if not facts.get("licence"):
        return ""
    return (
        f"The data were used under these terms, which may bind the weights too: {escape(facts['licence'], limit=300)}."
    )
