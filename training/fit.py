"""From two tables to a fitted model in one Python call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.log import InterestLog
from ..data.writing import write_dataset
from ..evaluation.predict import ModelPredictor
from ..modeling_interest import InterestModel
from ..processing_interest import InterestProcessor
from ..recommendation.profile import interest_profile
from ..recommendation.recommend import recommend
from .arguments import InterestTrainingArguments
from .run import check_output, train


@dataclass
class Fitted:
    """A fitted model beside its log, asked by the log's own ids.

    Attributes:
        model ([`InterestModel`]), processor ([`InterestProcessor`]): what was trained and saved.
        log (`InterestLog`): the log.
        results (`dict`, *optional*): the closing evaluation, as in `results.json`.
        predictor (`ModelPredictor`): answers cases on the log.
        directory (`Path`): the checkpoint.
    """

    model: InterestModel
    processor: InterestProcessor
    log: InterestLog
    results: dict | None
    predictor: ModelPredictor
    directory: Path

    def recommend(self, user_ids, k: int = 10, **options) -> list[dict[str, Any]]:
        """The best `k` items per person, see [`recommend`]."""
        vectors = self.predictor.item_vectors()
        return recommend(self.predictor, self.log, user_ids, k, item_vectors=vectors, **options)

    def profile(self, user_id: str, at: int | str | None = None, **options) -> dict[str, Any]:
        """Interest, change and forecast of one person, see [`interest_profile`]."""
        return interest_profile(self.predictor, self.log, str(user_id), at=at, **options)


def as_frame(table: Any, name: str) -> pd.DataFrame:
    """A pandas frame from pandas, polars, pyarrow or a `datasets.Dataset`.

    Raises:
        ValueError: something else.
    """
    if isinstance(table, pd.DataFrame):
        return table
    for method in ("to_pandas", "to_arrow"):
        convert = getattr(table, method, None)
        if convert is not None:
            try:
                frame = convert()
            except ModuleNotFoundError:  # polars without its own pandas bridge
                continue
            return frame if isinstance(frame, pd.DataFrame) else frame.to_pandas()
    raise ValueError(f"`{name}` is a {type(table).__name__}, expected a pandas, polars or Arrow table or a Dataset")


def fit(
    events_df,
    items_df,
    output_dir: str | Path,
    max_minutes: float = 10.0,
    *,
    split: str | None = None,
    overwrite: bool = False,
    domains=None,
    **training,
) -> Fitted:
    """Prepares two tables, fine-tunes a model on them and evaluates it: `prepare`, `finetune` and `evaluate` in one call.

    Args:
        events_df: a pandas, polars or Arrow table or a `Dataset` with `user_id`, `item_id`, `timestamp` (seconds, dates),
            and where there are any `value`, `text` (the person's own words), `action`, `latitude`, `longitude`,
            `scene`.
        items_df: the same with `item_id`, and `title`, `text`, `categories` (lists of paths).
        output_dir: folder of the checkpoint; the interest dataset is written to its `data` sub-folder.
        max_minutes (`float`, *optional*, defaults to 10): time budget of the training.
        split (`str`, *optional*): `"global-time"` or `"leave-last"`; see `interest-lm prepare`.
        overwrite (`bool`, *optional*): replace an existing folder.
        domains (*optional*): a taxonomy file, a list of paths, or `None` to take the items' categories.
        training: further [`InterestTrainingArguments`], for instance `tuning="frozen"`.

    Returns:
        [`Fitted`].

    Raises:
        ValueError: tables that cannot be used, or an existing folder.

    Example:

    ```python
    fitted = interest_lm.fit(events_df, items_df, output_dir="model", max_minutes=10)
    fitted.recommend(["alice"], k=10)
    fitted.profile("alice")
    ```
    """
    output = Path(output_dir)
    args = InterestTrainingArguments(output_dir=str(output), max_minutes=max_minutes, overwrite=overwrite, **training)
    check_output(args)
    data = write_dataset(
        as_frame(events_df, "events_df"),
        as_frame(items_df, "items_df"),
        output / "data",
        split=split,
        domains=domains,
        overwrite=overwrite,
        quiet=True,
    )
    outcome = train(args, InterestLog.load(data), fresh=False)
    log = outcome["tensors"].log
    predictor = ModelPredictor(outcome["model"], outcome["processor"], log, tensors=outcome["tensors"])
    return Fitted(outcome["model"], outcome["processor"], log, outcome["results"], predictor, output)
