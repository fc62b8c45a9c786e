"""The `interest-lm` command: from a log to a published interest model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .publishing.commands import push, serve, tell_dataset


class Split(StrEnum):
    LEAVE_LAST = "leave-last"
    GLOBAL_TIME = "global-time"


class Time(StrEnum):
    SECONDS = "seconds"
    ISO = "iso"
    ORDER = "order"


class EvaluationSplit(StrEnum):
    VALIDATION = "validation"
    TEST = "test"


app = typer.Typer(
    name="interest-lm",
    help="What people are interested in, how fast that changes, and what comes next.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Bad input ends with one line and exit status 2; INTEREST_LM_TRACEBACK=1 shows where it was found.",
)

DataOption = Annotated[Path, typer.Option("--data", help="Folder of an interest dataset (`interest-lm prepare`).")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a checkpoint, or a Hub repository.")]
UserOption = Annotated[list[str], typer.Option("--user", help="A user's own id; may be given several times.")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=COLUMN", help="E.g. user_id=CustomerID; `text=` switches a column off that is found by its name."
    ),
]
AtOption = Annotated[
    str | None,
    typer.Option(help="Moment: seconds or an ISO date (UTC), or a position. Default: right after the last event."),
]


def main() -> None:
    """Runs the command; what is wrong with the input becomes one line on stderr and exit status 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("INTEREST_LM_TRACEBACK"):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


@app.command()
def inspect(
    source: Annotated[list[Path], typer.Argument(metavar="LOG...", help="A prepared folder, or files of a raw log.")],
    recipe: Annotated[str | None, typer.Option(help="How to read a raw log; found out where it is not given.")] = None,
    time: Annotated[Time | None, typer.Option(help="What `timestamp` holds; found out where it is not given.")] = None,
    column: ColumnOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell before any training what a log can support: spans, ties, repeats, reliability of change, suggestions."""
    from .data.inspect import inspect_path, print_inspection

    options = {"recipe": recipe, "time": time and str(time), "columns": _columns(column or [])}
    report = inspect_path(source, **{name: value for name, value in options.items() if value})
    if as_json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        print_inspection(report)


@app.command()
def prepare(
    recipe: Annotated[str, typer.Argument(help="movielens, amazon-reviews, mind, checkins, table or synthetic.")],
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="SOURCE...", help="Folder or files of the log.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder to write.")] = ...,  # type: ignore[assignment]
    split: Annotated[Split | None, typer.Option(help="Split rule; default: the recipe's.")] = None,
    min_events: Annotated[int | None, typer.Option(min=1, help="Drop users with fewer events.")] = None,
    test_events: Annotated[int, typer.Option(min=1, help="Events per user that test (leave-last).")] = 1,
    time: Annotated[Time | None, typer.Option(help="What `timestamp` holds; found out where it is not given.")] = None,
    column: ColumnOption = None,
    events: Annotated[Path | None, typer.Option(help="File of events (recipe table).")] = None,
    items: Annotated[Path | None, typer.Option(help="File of items (recipe table).")] = None,
    domains: Annotated[Path | None, typer.Option(help="A taxonomy file instead of the items' categories.")] = None,
    merge_texts: Annotated[
        bool | None,
        typer.Option(
            "--merge-texts/--keep-rows",
            help="Rows of one user, item and time become one event with joined texts (a row per tag); "
            "default: where there are texts, no values, and that is so for a fifth of the rows.",
        ),
    ] = None,
    value_threshold: Annotated[
        float | None,
        typer.Option(help="Values from here on are positive; default: the recipe's, or the user's own mean."),
    ] = None,
    validation_fraction: Annotated[float, typer.Option(help="Share of the events that validate (global-time).")] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Share of the events that test (global-time).")] = 0.1,
    scene: Annotated[
        str | None,
        typer.Option(
            metavar="weekend|hour_band|weekend_hour|COLUMN",
            help="The scene of each event, from its time or a column: interest is learnt given each.",
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the log, for the cards.")] = None,
    num_users: Annotated[int | None, typer.Option(min=1, help="Users of the generated world.")] = None,
    num_items: Annotated[int | None, typer.Option(min=1, help="Items of the generated world.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the generated world.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
    push: Annotated[
        str | None, typer.Option(metavar="REPO_ID", help="Push the dataset to the Hub, events and all.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make that repository private.")] = False,
) -> None:
    """Turn a raw log into an interest dataset: events and items as Parquet, splits, domain tree, card."""
    from .data.prepare import prepare as run
    from .publishing.hub import check_repo_id
    from .publishing.push import push_dataset

    if push:
        check_repo_id(push)
    elif private:
        raise ValueError("--private is for --push REPO_ID")
    world = {"num_users": num_users, "num_items": num_items, "seed": seed}
    world = {name: value for name, value in world.items() if value is not None}
    if world and recipe != "synthetic":
        raise ValueError(f"--{next(iter(world)).replace('_', '-')} is for the recipe synthetic, not {recipe!r}")
    run(
        recipe,
        sources or [],
        output,
        split=split and str(split),
        min_events=min_events,
        test_events=test_events,
        time=time and str(time),
        columns=_columns(column or []),
        overwrite=overwrite,
        events=events,
        items=items,
        domains=domains,
        merge_texts=merge_texts,
        value_threshold=value_threshold,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        scene=scene,
        licence=licence,
        world=world or None,
    )
    if push:
        try:
            tell_dataset(push_dataset(output, push, private=private))
        except ValueError as error:
            raise ValueError(f"{error}; prepared in {output}: `interest-lm push {output} {push}` goes on") from None


def _columns(pairs: list[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--column is {pair!r}, expected NAME=COLUMN, or NAME= where there is none")
        columns[name] = column
    return columns


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def finetune(context: typer.Context) -> None:
    """Fine-tune on one process; takes the arguments of `python -m interest_lm.training.finetune` (see its --help)."""
    from .training.finetune import main as run

    raise SystemExit(run(context.args))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def search(
    context: typer.Context,
    data: DataOption = ...,  # type: ignore[assignment]
    output: Annotated[Path, typer.Option(help="Folder of the search; the same command goes on in it.")] = ...,  # type: ignore[assignment]
    trials: Annotated[int, typer.Option(min=1, help="Trials, with those of earlier calls.")] = 20,
    minutes_per_trial: Annotated[
        float | None,
        typer.Option(min=0, help="Budget of a trial; 0: none; default: what the recipe would take, or 5."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no trial that would not end within so many minutes.")
    ] = None,
) -> None:
    """Search a recipe's dials on validation; writes OUTPUT/best.yaml for `interest-lm finetune`, and trials.csv.

    Takes a config.yaml and any flag of `interest-lm finetune`; what they fix is not searched. The dials: learning_rate
    3e-4 to 4e-3, hidden_dropout .1 to .5, item_id_dropout 0 to .4, num_hidden_layers 1 to 4, hidden_size 64, 128 or 192,
    and the log's own, max_history 50, 100, 200 or 400 up to what its histories need. The first trial is the recipe as it stands.
    """
    from .training.search import search as run

    run(context.args, data, output, trials, minutes_per_trial, max_minutes)


@app.command()
def evaluate(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Folder of a checkpoint, or a Hub repository.")
    ] = None,
    data: DataOption = ...,  # type: ignore[assignment]
    predictions: Annotated[
        Path | None, typer.Option(help="Parquet of anybody's lists or forecasts instead of MODEL.")
    ] = None,
    split: Annotated[EvaluationSplit, typer.Option(help="What is asked.")] = EvaluationSplit.TEST,
    baselines: Annotated[str, typer.Option(help="`all`, `none`, or names with commas between.")] = "all",
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; default: results.json in the checkpoint, whose card is rendered anew."),
    ] = None,
    max_users: Annotated[int | None, typer.Option(min=1, help="Ask about a random sample of users.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of samples, hidden halves and bootstrap.")] = 0,
    ablations: Annotated[bool, typer.Option("--ablations", help="Ask again without each part of the model.")] = False,
) -> None:
    """Measure a model, or anybody's predictions, beside tuned baselines on the same cases."""
    from .data.log import InterestLog
    from .evaluation.report import print_table
    from .publishing.measure import evaluate_checkpoint, evaluate_predictions

    if (model is None) == (predictions is None):
        raise ValueError("expected either MODEL or --predictions FILE")
    log = InterestLog.load(data)
    names = baselines if baselines == "all" else [name for name in baselines.split(",") if name and name != "none"]
    options = {"split": str(split), "baselines": names, "seed": seed, "max_users": max_users, "output": output}
    if predictions is not None and ablations:
        raise ValueError("--ablations leaves parts of a MODEL out; --predictions has none")
    if predictions is not None:
        results = evaluate_predictions(predictions, log, **options)
    else:
        results = evaluate_checkpoint(str(model), log, ablations=ablations, **options)
    print_table(results)


@app.command()
def profile(
    model: ModelArgument,
    data: DataOption,
    user: UserOption,
    at: AtOption = None,
    level: Annotated[int | None, typer.Option(min=0, help="Level of the domain tree, 0 = top; default: all.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Domains per level.")] = 8,
    why: Annotated[int, typer.Option(min=0, help="Events behind each domain.")] = 3,
    add_domain: Annotated[
        list[str] | None,
        typer.Option(help='A further domain by its name, as in "Film > Heist"; nothing is trained. May be repeated.'),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what one person is interested in, how fast that changes, and what comes next."""
    from .recommendation.picture import check_picture, plot_profile
    from .recommendation.profile import interest_profile, print_profile

    if plot is not None and len(user) > 1:
        raise ValueError(f"--plot draws one person, and --user is given {len(user)} times")
    if plot is not None:
        check_picture(plot)
    predictor, log = _predictor(model, data, add_domain or [])
    profiles = [interest_profile(predictor, log, name, at=at, level=level, top=top, why=why) for name in user]
    if as_json:
        print(json.dumps(profiles if len(profiles) > 1 else profiles[0], indent=1, ensure_ascii=False))
    else:
        for found in profiles:
            print_profile(found)
    if plot is not None:
        plot_profile(profiles[0], plot)
        print(f"picture: {plot}", file=sys.stderr)


@app.command()
def recommend(
    model: ModelArgument,
    data: DataOption,
    user: UserOption,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Length of the list.")] = 10,
    at: AtOption = None,
    filter_seen: Annotated[
        bool | None,
        typer.Option(
            "--filter-seen/--keep-seen", help="Leave out what the person had; default: by the log's repeat rate."
        ),
    ] = None,
    diversity: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="X", help="0: the best items; 1: as unlike each other as the best ones have."
        ),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per user.")] = False,
) -> None:
    """List the items to show to people, each with the event it follows from."""
    from .recommendation.recommend import print_recommendations
    from .recommendation.recommend import recommend as run

    predictor, log = _predictor(model, data)
    vectors = predictor.item_vectors()
    lists = run(predictor, log, user, top_k, filter_seen=filter_seen, at=at, item_vectors=vectors, diversity=diversity)
    if as_json:
        for entry in lists:
            print(json.dumps(entry, ensure_ascii=False))
    else:
        print_recommendations(lists)


def _predictor(model: str, data: Path, added: Sequence[str] = ()):
    from .data.log import InterestLog
    from .evaluation.predict import ModelPredictor
    from .processing_interest import InterestProcessor
    from .publishing.export import load_checkpoint

    log = InterestLog.load(data)
    network, processor, _ = load_checkpoint(model)
    if added:
        network = network.add_domains(added, processor.tokenizer)
        ids, tokens = processor.item_ids, processor.max_text_tokens
        processor = InterestProcessor.from_model(network, processor.tokenizer, ids, tokens)
    predictor = ModelPredictor(network, processor, log)
    return predictor, predictor.log


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny world: about a minute, and figures to match.")
    ] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Minutes of training; default 4.2, or 0.5 if quick.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the world and of the training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """The whole way on a generated world: prepare, fine-tune, evaluate, picture, card. Minutes on two cores."""
    from .demo import run

    run(output, quick=quick, max_minutes=max_minutes, seed=seed, overwrite=overwrite)


app.command()(push)
app.command()(serve)


if __name__ == "__main__":
    main()
