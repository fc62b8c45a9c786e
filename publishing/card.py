"""The model card: what a checkpoint is, how it was made, and its figures beside every baseline's."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..data.card import split_rule, verdict
from ..data.hub import split_revision
from ..data.markdown import escape, number, table
from ..evaluation.report import to_json
from .card_tables import (
    ablations_table,
    controls_table,
    model_index,
    oracle_table,
    protocol_line,
    reasons_list,
    results_tables,
    served_worst,
    shuffled_table,
    slices_table,
)
from .files import is_local_path, plain


TEMPLATE = Path(__file__).resolve().parents[1] / "model_cards" / "template.md"

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
    base: tuple[str, str] | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        config (`InterestConfig`): the model's.
        results (`dict`, *optional*): content of `results.json`.
        facts (`dict`, *optional*): `InterestLog.facts` of the data.
        training (`dict`, *optional*): how it was trained; `backbone`, `tuning`, `minutes` and others,
            each one line; `log` holds the validations.
        name (`str`): the model's name.
        repository (`str`, *optional*): its id on the Hub, for the snippets and the links.
        revision (`str`): what the snippets pin.
        licence (`str`, *optional*): a licence id of the Hub, for the metadata.
        base (`tuple[str, str]`, *optional*): of an adapter, the id and commit of the checkpoint that it goes on.

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
        library_name="peft" if base else "transformers",
        base_model=base[0] if base else base_model,
        datasets=[split_revision(facts["repository"])[0]] if facts.get("repository") else None,
        base_model_relation=("adapter" if base else "finetune") if base or base_model else None,
        model_name=name,
        tags=["interest-lm", "user-interest", "recommendation", "personalization", "time-series-forecasting"],
        eval_results=model_index(results, data) or None,
    )
    unit = getattr(config, "horizon_unit", "days")
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=escape(name),
        loading=loading(repository or name, revision, base),
        processing=base[0] if base else None,
        summary=_rows(_summary(config, base_model, data, facts, training, base)),
        results=results_tables(results),
        controls="\n\n".join(part for part in (controls_table(results), shuffled_table(results)) if part),
        slices=slices_table(results),
        worst=served_worst(results),
        ablations=ablations_table(results),
        oracle=oracle_table(results.get("oracle")),
        reasons=reasons_list(results),
        protocol=protocol_line(results),
        data="\n\n".join(part for part in (_data(facts), _trends(facts, training), _ratings(training)) if part),
        split_rule=_split_rule(facts, training),
        horizons=", ".join(f"{horizon:g}" for horizon in config.horizons) + f" {unit}",
        reference_horizon=f"{config.reference_horizon:g} {unit}",
        positive=_positive(facts),
        training=_training(training),
        licence_note=_licence_note(facts),
        citation=_citation(name, repository, revision),
        versions=", ".join(f"{package} {_version(package)}" for package in ("python", *PACKAGES)),
    )


def _base_model(config, training: dict) -> str | None:
    text = getattr(config, "text_config", None)
    name = training.get("backbone") or getattr(text, "_name_or_path", None)
    return str(name) if name and not is_local_path(str(name)) else None


def loading(repository: str, revision: str, base: tuple[str, str] | None = None) -> str:
    """The lines of Python that load a checkpoint, an adapter where `base` (id and commit) is given, at one revision."""
    name, pinned = (_plain_id(text) for text in (repository, revision))
    if base is None:
        return f"""from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}", revision="{pinned}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{name}", revision="{pinned}", trust_remote_code=True)"""
    whole, commit = (_plain_id(text) for text in base)
    return f"""from peft import AutoPeftModelForFeatureExtraction
from transformers import AutoProcessor

model = AutoPeftModelForFeatureExtraction.from_pretrained("{name}", revision="{pinned}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{whole}", revision="{commit}", trust_remote_code=True)"""


def _plain_id(text: str) -> str:
    """A name for a code block: nothing that could close the string or the block."""
    return "".join(character for character in str(text) if character.isalnum() or character in "-_./") or "PATH"


def _version(package: str) -> str:
    return platform.python_version() if package == "python" else version(package)


def _summary(
    config, base_model: str | None, data: str, facts: dict, training: dict, base
) -> Iterable[tuple[str, str]]:
    text = config.text_config
    counts = facts.get("counts") or {}
    if base:
        yield "adapter for", f"{escape(base[0])} at commit {escape(base[1])}"
    yield "text backbone", escape(base_model or getattr(text, "model_type", "none"))
    if training.get("backbone_revision"):
        yield "its revision", escape(training["backbone_revision"])
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
    if facts.get("repository"):
        lines[0] += f" (on the Hub: {escape(facts['repository'], limit=300)})"
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


def _trends(facts: dict, training: dict) -> str:
    """Whether the log has change to find, and whether the model tells trends."""
    parts, found, checked = [], facts.get("change") or {}, training.get("change") or {}
    if (found.get("forecast") or {}).get("cuts"):
        window = f"{float(found['forecast']['horizon']):g} {escape(found['forecast']['unit'])}"
        reliability = found["change"]["reliability"]
        shown = "not measurable" if reliability is None else number(reliability, 2)
        parts.append(f"Split-half reliability of the change rate over {window}: {shown} ({verdict(reliability)}).")
    if checked and checked.get("auc") is not None:
        parts.append(
            f"Change rates on validation: AUC {number(checked['auc'], 3)}, on the time-shuffled log "
            f"{number(checked['shuffled_auc'], 3)}."
        )
    if checked:
        told = "Trends are told" if checked["reliable"] else 'Every trend reads "steady"'
        parts.append(f"{told} (`change_is_reliable` in `config.json`).")
    if training.get("residual_scale", 1.0) < 1:
        parts.append(
            f"Of what the network adds to the statistics of domains {number(100 * training['residual_scale'], 0)} % counts "
            "(`residual_scale` in `config.json`): its gain on validation less one standard error."
        )
    return " ".join(parts)


def _ratings(training: dict) -> str:
    """What predicted ratings are made of."""
    weights = (training.get("reputation") or {}).get("rating")
    if not weights:
        return ""
    network, item, person, _ = (number(weight, 2) for weight in weights)
    return (
        f"Ratings are {network} times what the network says, {item} times how far the item's values stand above the mean and {person} times "
        "how far the person's stand above their items', as validation found best."
    )


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


def _citation(name: str, repository: str | None, revision: str) -> str:
    """BibTeX of this checkpoint; where it lies is said only of a repository."""
    where = (
        f"  howpublished = {{Hugging Face Hub, {_plain_id(repository)}, revision {_plain_id(revision)}}},\n"
        if repository
        else ""
    )
    title = "".join(character for character in name if character.isalnum() or character in "-_. ")
    return f"@misc{{interest_lm,\n  title = {{{title}: an InterestLM checkpoint}},\n  author = {{The InterestLM team}},\n{where}}}"


def _licence_note(facts: dict) -> str:
    if not facts.get("licence"):
        return ""
    return (
        f"The data were used under these terms, which may bind the weights too: {escape(facts['licence'], limit=300)}."
    )
