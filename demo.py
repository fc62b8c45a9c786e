"""`interest-lm demo`: from a generated world to a published-looking model, its figures and a picture."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
from rich.console import Console


FULL = {"num_users": 1500, "num_items": 600}
QUICK = {"num_users": 250, "num_items": 200}
CANDIDATES = 40  # people with the most events, of whom the most telling profile is shown


def run(output: Path, *, quick: bool, max_minutes: float | None, seed: int, overwrite: bool) -> dict:
    """Prepares a generated world, fine-tunes on it, evaluates, draws a profile, and says where everything lies.

    Args:
        output: the folder; gets `data/`, `model/` (the checkpoint with card, results and `profile.png`).
        quick (`bool`): a world of 250 users and less training.
        max_minutes (`float`, *optional*): training budget; 4.2, or 0.5 if quick.
        seed (`int`): of world and training.
        overwrite (`bool`): replace `output` where it is a former demo's.

    Returns:
        `results.json` as a dict.

    Raises:
        ValueError: `output` exists.
    """
    from .data.log import InterestLog
    from .data.prepare import prepare
    from .evaluation.predict import ModelPredictor
    from .evaluation.report import print_table
    from .publishing.export import load_checkpoint
    from .publishing.measure import CACHE_FOLDER, evaluate_checkpoint
    from .recommendation.picture import plot_profile
    from .recommendation.profile import interest_profile, print_profile
    from .training.finetune import main as finetune

    console = Console()
    started = time.perf_counter()
    data, model = output / "data", output / "model"
    if output.exists():
        if not overwrite:
            raise ValueError(f"{output}: exists already; choose another folder or say --overwrite")
        unknown = sorted(path.name for path in output.iterdir() if path.name not in ("data", "model"))
        if not output.is_dir() or unknown:
            raise ValueError(
                f"{output}: is not a demo's folder ({', '.join(unknown[:3])} in it) and is not overwritten"
            )
        shutil.rmtree(output)
    console.rule("1  a log: the generated world")
    prepare("synthetic", [], data, world={**(QUICK if quick else FULL), "seed": seed})
    console.rule("2  fine-tuning")
    minutes = max_minutes or (0.5 if quick else 4.2)
    arguments = {"data": data, "output_dir": model, "max_minutes": f"{minutes:g}", "seed": seed, "baselines": "none"}
    # every item's text says its domain plainly: there is nothing in it that a tuned text tower would find
    arguments |= {
        "tuning": "frozen",
        "hidden_dropout": 0.25,
        "item_id_dropout": 0.4,
        "prior_steps": 20 if quick else 80,
        "disable_tqdm": quick,
    }
    arguments |= {"evaluations": 2, "max_eval_users": 400}
    status = finetune([word for name, value in arguments.items() for word in (f"--{name}", str(value))])
    if status:
        raise SystemExit(status)
    console.rule("3  evaluation beside tuned baselines")
    log = InterestLog.load(data)
    results = evaluate_checkpoint(model, log, seed=seed)
    print_table(results, console)
    console.rule("4  a profile")
    network, processor, _ = load_checkpoint(model)
    predictor = ModelPredictor(network, processor, log, cache_dir=model / CACHE_FOLDER)
    busiest = np.argsort(-np.diff(log.offsets), kind="stable")[:CANDIDATES]
    profiles = [interest_profile(predictor, log, user, top=5, why=0) for user in log.user_ids[busiest].tolist()]
    profile = interest_profile(predictor, log, most_telling(profiles)["user"], top=5)
    print_profile(profile, console)
    picture = plot_profile(profile, model / "profile.png")
    console.rule("done")
    console.print(
        f"model    {model}  (AutoModel.from_pretrained({str(model)!r}, trust_remote_code=True))\n"
        f"card     {model / 'README.md'}\nfigures  {model / 'results.json'}\npicture  {picture}\n"
        f"{(time.perf_counter() - started) / 60:.1f} minutes",
        highlight=False,
    )
    return results


def most_telling(profiles: list[dict]) -> dict:
    """The profile with the most changes that are sure."""
    return max(profiles, key=lambda profile: sum(row["trend"] != "steady" for row in profile["domains"]))
