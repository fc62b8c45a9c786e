# Copyright 2026 The InterestLM team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""InterestLM configuration."""

import functools
import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .taxonomy_interest import DomainTree


TASKS = ("ranking", "ahead", "overall", "completion", "future", "change", "intensity", "rating", "next_event", "scene")


def plain_value_errors(config_class):
    """Class decorator above `@strict`: a setting that cannot be is a `ValueError` of one line, when it is made, changed or
    saved, in place of huggingface_hub's `StrictDataclassError`, which is none."""
    strict_setattr, strict_validate = config_class.__setattr__, config_class.validate

    @functools.wraps(strict_setattr)
    def __setattr__(self, name: str, value: Any) -> None:
        try:
            strict_setattr(self, name, value)
        except StrictDataclassError as error:
            kind = type(self).__dataclass_fields__[name].type
            expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.Literal", "one of ")
            raise ValueError(f"`{name}` is {value!r:.80}, expected {expected}") from error

    @functools.wraps(strict_validate)  # with the mark by which `@strict` knows its own on a subclass
    def validate(self) -> None:
        try:
            strict_validate(self)
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__)) from error

    config_class.__setattr__, config_class.validate = __setattr__, validate
    return config_class


@plain_value_errors
@strict
class InterestConfig(PreTrainedConfig):
    r"""
    Configuration of an [`InterestModel`].

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            The text backbone, any encoder or decoder that `AutoModel` knows. Default: a BERT of MiniLM-L6's size.
        text_pooling (`str`, *optional*, defaults to `"mean"`):
            How token states become one text vector: `"mean"` over tokens, `"last"` token (decoders), or `"cls"`.
        normalize_text (`bool`, *optional*, defaults to `True`):
            Scale text vectors to length 1, as sentence encoders do.
        use_text (`bool`, *optional*, defaults to `True`):
            Item vectors see the text. Without it only ids speak (an ablation).
        hidden_size (`int`, *optional*, defaults to 128):
            Interest width D.
        encoder (`str`, *optional*, defaults to `"transformer"`):
            What reads the history: `"transformer"`, or `"gru"` or `"lstm"` fed the same time gaps.
        num_hidden_layers (`int`, *optional*, defaults to 2):
            Layers of the history encoder.
        num_attention_heads (`int`, *optional*, defaults to 2):
            Heads of the history encoder and of the query layer; divides `hidden_size` into even parts.
        intermediate_size (`int`, *optional*, defaults to 256):
            Width of the SwiGLU.
        hidden_dropout (`float`, *optional*, defaults to 0.2):
            Dropout on event vectors and residual branches.
        domain_dropout (`float`, *optional*, defaults to 0.2):
            The same where the history is read as a sequence of domains, and on what the domain head reads of it.
        rms_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the norms.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of linear and embedding weights at the start.
        rope_theta (`float`, *optional*, defaults to 1000.0):
            Base of the rotary positions (in events).
        max_history (`int`, *optional*, defaults to 200):
            Events that the encoder sees; older ones travel as `history_counts`.
        time_unit (`str`, *optional*, defaults to `"seconds"`):
            `"seconds"` since 1970, or `"order"` where timestamps are positions.
        use_positions (`bool`, *optional*, defaults to `True`):
            Attention knows the order of events by rotary positions.
        use_time_bias (`bool`, *optional*, defaults to `True`):
            Attention is biased by log-bucketed time gaps; recurrent encoders are fed the gap to the last event.
        num_time_buckets (`int`, *optional*, defaults to 32):
            Buckets of that bias.
        use_place (`bool`, *optional*, defaults to `False`):
            Events carry latitude and longitude; attention is biased by log-bucketed distances.
        num_distance_buckets (`int`, *optional*, defaults to 16):
            Buckets of that bias.
        use_calendar (`bool`, *optional*, defaults to `True`):
            The query sees hour, weekday and month of its time (never where `time_unit` is `"order"`).
        use_event_text (`bool`, *optional*, defaults to `True`):
            Events see the person's own text.
        use_values (`bool`, *optional*, defaults to `False`):
            Events see their value (rating, amount).
        value_mean (`float`, *optional*, defaults to 0.0), value_std (`float`, *optional*, defaults to 1.0):
            Location and scale of the values; predicted ratings are in the same unit.
        value_threshold (`float`, *optional*):
            From which value on something is liked. Default: above the mean of what the person rated before.
        actions (`list[str]`, *optional*):
            Names of the event actions.
        scenes (`list[str]`, *optional*):
            Names of the scenes that events carry (a device, a country, a kind of day), at least two: events see theirs, and the
            model says what somebody is interested in given each (`scene_interest`) and how often it is (`scene_share`).
        scene_rule (`str`, *optional*):
            Where scenes follow from the time: `"weekend"`, `"hour_band"` or `"weekend_hour"`; the processor then derives them.
        num_items (`int`, *optional*, defaults to 0):
            Items with a vector of their own (the collaborative part); 0: content only.
        item_id_dropout (`float`, *optional*, defaults to 0.1):
            Share of items whose own vector is dropped in a training batch, in history and candidates alike, so that unseen
            items rank by text.
        num_item_features (`int`, *optional*, defaults to 7):
            Popularity features per item and moment behind the ranking bias.
        use_popularity (`bool`, *optional*, defaults to `True`):
            Ranking has a bias that is a function of decayed counts and age.
        popularity_units (`int`, *optional*, defaults to 0):
            With `use_popularity`: hidden units of the network that turns these features into that bias, beside their linear sum; 0: the sum alone.
        use_centered_queries (`bool`, *optional*, defaults to `False`):
            Ranking compares items with how a person differs from the mean one: what everybody has in common is left to popularity.
        use_repetition (`bool`, *optional*, defaults to `True`):
            Ranking sees how often and how lately the person had the very item before.
        num_neighbours (`int`, *optional*, defaults to 0):
            Entries per known item of a linear item-to-item model whose scores are blended with the network's; 0: none.
        use_newcomers (`bool`, *optional*, defaults to `False`):
            Beside these, items that training saw seldom do without a vector of their own, and weigh their popularity apart.
        use_reputation (`bool`, *optional*, defaults to `False`):
            With `use_values` and `num_items`: beside the network, predicted ratings and overall interest go by how far an item's values stand
            above the mean and the person's above their items', weighed on validation.
        use_personal_popularity (`bool`, *optional*, defaults to `False`):
            With `use_popularity`: how much an item's popularity and age count depends on the person, too.
        domains (`list[dict]`, *optional*):
            Nodes of the domain tree, `{"id", "name", "parent"}`; see [`DomainTree`].
        added_domains (`list[str]`, *optional*):
            Ids of the domains that were added by name after training, see [`InterestModel.add_domains`]: items have a share in
            them by their text.
        domain_temperature (`float`, *optional*, defaults to 0.07):
            Temperature of that softmax over siblings, of cosines; training fits it to the items' known domains.
        residual_scale (`float`, *optional*, defaults to 1.0):
            In [0, 1]: what the network adds to the statistics of a person's domains, in log shares, is multiplied by this; training
            ends with what its gain on validation is sure of, and trains with 1.
        intensity_calibration (`list[float]`, *optional*):
            `[a, b, c, d, e]`: the log of the expected events a day is a and so much of what the decayed counts, the network and the pause since the
            last event say of it, and of the log of the person's own long-run rate. Fine-tuning ends with `[0, 1, w, 1, 0]`, w what validation
            says that the network is worth, and trains without, which is `[0, 1, 1, 1, 0]`.
        use_rate_prior (`bool`, *optional*, defaults to `False`):
            How many days a person's rates are pulled towards the long run, and that towards everybody's, is learnt; without it each is
            worth about one event. Fine-tuning sets it.
        use_absence (`bool`, *optional*, defaults to `False`):
            Numbers of events are zero-inflated: some people stay away altogether. Fine-tuning sets it.
        horizons (`list[float]`, *optional*, defaults to `[1.0, 7.0, 28.0]`):
            Ascending forecast horizons, in `horizon_unit`.
        horizon_unit (`str`, *optional*, defaults to `"days"`):
            `"days"` or `"events"`.
        reference_horizon (`float`, *optional*, defaults to 28.0):
            W of the change rate; one of `horizons`.
        change_is_reliable (`bool`, *optional*, defaults to `True`):
            Whether trends are told to people. Training sets it to `False` where validation finds change rates no better than
            on a time-shuffled log: then every trend reads "steady".
        half_lives_events (`list[float]`, *optional*), half_lives_days (`list[float]`, *optional*):
            Where the learned half-lives of the statistical prior start.
        use_prior (`bool`, *optional*, defaults to `True`):
            Drift starts from decayed counts, recent population and calendar; else from no change.
        use_drift (`bool`, *optional*, defaults to `True`):
            Future interest differs from long-run interest.
        use_domain_residual (`bool`, *optional*, defaults to `True`):
            The network corrects the statistics.
        trajectory_half_lives (`list[float]`, *optional*):
            A small network corrects the statistical prior's drift, the same for every domain; it reads everybody's shares of these
            half-lives, too, in days, for `time_unit="order"` in hundredths of the log. None: no such network.
        num_topics (`int`, *optional*, defaults to 0):
            Groups of domains that go together, T: what a person's mix of them says of each domain is part of the statistical
            prior. 0: none.
        use_domain_view (`bool`, *optional*, defaults to `True`):
            Domain and intensity heads read the history as a sequence of domains, through layers of their own; without it they
            read the states that ranking reads.
        use_domain_fusion (`bool`, *optional*, defaults to `True`):
            Ranking sees the forecast: `y = u + gate * sum f_d v_d`.
        use_next_event (`bool`, *optional*, defaults to `False`):
            The model also says in which domain an event at the time of the query falls (`next_interest`), by a head that reads
            hour, weekday, gap and last place.
        ranking_loss (`str`, *optional*, defaults to `"softmax"`):
            `"softmax"` over the item table, or `"gbce"`, binary cross-entropy of every item (Petrov & Macdonald 2023).
        gbce_calibration (`float`, *optional*, defaults to 0.75):
            t of gBCE, 0 to 1: how far the weight of positives makes up for the sampling of negatives.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Share of the next item's label that is spread evenly over the item table (softmax only).
        temperature (`float`, *optional*, defaults to 1.0):
            Where the learned temperature of the ranking scores starts, usually .05 to 1.
        task_weights (`dict[str, float]`, *optional*):
            Lambda per task, of `ranking`, `ahead` (every position foresees the domains of the windows that follow it, which
            teaches the states that the domain head reads), `overall`, `completion`, `future`, `change` (which domains grow and
            which fade), `intensity`, `rating`, `next_event`, `scene`; 0 switches one off. Where all the others are given and
            `change` is not, as in checkpoints from before it, it is 0.
        task_weighting (`str`, *optional*, defaults to `"fixed"`):
            `"fixed"`, or `"uncertainty"` (Kendall et al. 2018, eq. 10: learned log-variance per task).

    Raises:
        ValueError: a setting of another type, out of its range, or at odds with others; one line with name and value.

    Example:

    ```python
    >>> from interest_lm import InterestConfig
    >>> config = InterestConfig(domains=[{"id": "Film", "name": "Film", "parent": None}], reference_horizon=7.0)
    >>> config.horizons
    [1.0, 7.0, 28.0]

    ```
    """

    model_type = "interest_lm"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="bert",
            init_kwargs={
                "hidden_size": 384,
                "num_hidden_layers": 6,
                "num_attention_heads": 12,
                "intermediate_size": 1536,
            },
        )
    }

    text_config: dict | PreTrainedConfig | None = None
    text_pooling: Literal["mean", "last", "cls"] = "mean"
    normalize_text: bool = True
    use_text: bool = True
    hidden_size: int = 128
    encoder: Literal["transformer", "gru", "lstm"] = "transformer"
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 256
    hidden_dropout: float | int = 0.2
    domain_dropout: float | int = 0.2
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    rope_theta: float | int = 1000.0
    max_history: int = 200
    time_unit: Literal["seconds", "order"] = "seconds"
    use_positions: bool = True
    use_time_bias: bool = True
    num_time_buckets: int = 32
    use_place: bool = False
    num_distance_buckets: int = 16
    use_calendar: bool = True
    use_event_text: bool = True
    use_values: bool = False
    value_mean: float | int = 0.0
    value_std: float | int = 1.0
    value_threshold: float | int | None = None
    actions: list[str] | None = None
    scenes: list[str] | None = None
    scene_rule: Literal["weekend", "hour_band", "weekend_hour"] | None = None
    num_items: int = 0
    item_id_dropout: float | int = 0.1
    num_item_features: int = 7
    use_popularity: bool = True
    popularity_units: int = 0
    use_centered_queries: bool = False
    use_repetition: bool = True
    num_neighbours: int = 0
    use_newcomers: bool = False
    use_reputation: bool = False
    use_personal_popularity: bool = False
    domains: list[dict] | None = None
    added_domains: list[str] | None = None
    domain_temperature: float | int = 0.07
    residual_scale: float | int = 1.0
    intensity_calibration: list[float | int] | None = None
    use_rate_prior: bool = False
    use_absence: bool = False
    horizons: list[float | int] | None = None
    horizon_unit: Literal["days", "events"] = "days"
    reference_horizon: float | int = 28.0
    change_is_reliable: bool = True
    half_lives_events: list[float | int] | None = None
    half_lives_days: list[float | int] | None = None
    use_prior: bool = True
    use_drift: bool = True
    use_domain_residual: bool = True
    trajectory_half_lives: list[float | int] | None = None
    num_topics: int = 0
    use_domain_view: bool = True
    use_domain_fusion: bool = True
    use_next_event: bool = False
    ranking_loss: Literal["softmax", "gbce"] = "softmax"
    gbce_calibration: float = 0.75
    label_smoothing: float = 0.0
    temperature: float = 1.0
    task_weights: dict[str, float | int] | None = None
    task_weighting: Literal["fixed", "uncertainty"] = "fixed"

    def __post_init__(self, **kwargs):
        if self.horizons is None:
            self.horizons = [1.0, 7.0, 28.0]
        self.horizons = [float(horizon) for horizon in self.horizons]
        self.reference_horizon = float(self.reference_horizon)
        if self.half_lives_events is None:
            self.half_lives_events = [4.0, 16.0, 64.0]
        if self.half_lives_days is None:
            self.half_lives_days = [7.0, 30.0, 120.0]
        if self.time_unit == "order":
            self.half_lives_days = []
        if self.domains is not None:
            self.domains = DomainTree(self.domains).nodes
        given = dict(self.task_weights or {})
        if {"ranking", "overall", "completion", "future", "intensity", "rating"} <= set(given):
            given.setdefault("change", 0.0)  # saved before there was such a task
        self.task_weights = dict.fromkeys(TASKS, 1.0) | given
        try:
            super().__post_init__(**kwargs)
        except StrictDataclassError as error:
            raise ValueError(f"`text_config`: {error.__cause__}") from error

    @property
    def num_domains(self) -> int:
        """K, the number of nodes of the domain tree."""
        return len(self.domains or [])

    @property
    def num_horizons(self) -> int:
        """H."""
        return len(self.horizons or [])

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that this model can be taught."""
        change = (self.task_weights or {}).get("change", 1.0)
        off = {"next_event": not self.use_next_event, "scene": not self.scenes, "change": not change}
        return tuple(task for task in TASKS if not off.get(task))

    @property
    def num_scenes(self) -> int:
        """S."""
        return len(self.scenes or [])

    @property
    def reference_index(self) -> int:
        """Position of `reference_horizon` in `horizons`."""
        return (self.horizons or []).index(self.reference_horizon)

    def validate_architecture(self):
        """Checks that sizes, horizons and tasks fit together."""
        for name in (
            "hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers", "max_history",
            "num_time_buckets", "num_distance_buckets",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}, expected at least 1")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"`hidden_size` is {self.hidden_size}, expected a multiple of 2 * `num_attention_heads` "
                f"({2 * self.num_attention_heads})"
            )
        if not self.horizons or any(not horizon > 0 or math.isinf(horizon) for horizon in self.horizons):
            raise ValueError(f"`horizons` is {self.horizons}, expected positive numbers of {self.horizon_unit}")
        for name in ("half_lives_events", "half_lives_days"):
            if any(not value > 0 or math.isinf(value) for value in getattr(self, name) or []):
                raise ValueError(f"`{name}` is {getattr(self, name)}, expected positive numbers")
        if self.horizons != sorted(set(self.horizons)):
            raise ValueError(f"`horizons` is {self.horizons}, expected ascending distinct numbers")
        if self.reference_horizon not in self.horizons:
            raise ValueError(f"`reference_horizon` is {self.reference_horizon}, expected one of {self.horizons}")
        if self.time_unit == "order" and self.horizon_unit == "days":
            raise ValueError('`horizon_unit` is "days", expected "events" where `time_unit` is "order"')
        for name in ("hidden_dropout", "domain_dropout", "item_id_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}, expected a number in [0, 1)")
        for name in ("num_items", "num_item_features", "num_neighbours", "popularity_units"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}, expected 0 or more")
        if self.use_personal_popularity and self.use_popularity and 0 < self.num_item_features < 6:
            raise ValueError(
                f"`num_item_features` is {self.num_item_features}, expected 6 or more with `use_personal_popularity`"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"`label_smoothing` is {self.label_smoothing}, expected a number in [0, 1)")
        if self.label_smoothing and self.ranking_loss != "softmax":
            raise ValueError(f"`label_smoothing` is {self.label_smoothing}, expected 0 with `ranking_loss` gbce")
        if not 0 <= self.gbce_calibration <= 1:
            raise ValueError(f"`gbce_calibration` is {self.gbce_calibration}, expected a number in [0, 1]")
        if not self.domain_temperature > 0:
            raise ValueError(f"`domain_temperature` is {self.domain_temperature}, expected a positive number")
        if not 0 <= self.residual_scale <= 1:
            raise ValueError(f"`residual_scale` is {self.residual_scale}, expected a number in [0, 1]")
        rate = self.intensity_calibration
        if rate is not None and not (len(rate) == 5 and all(map(math.isfinite, rate))):
            raise ValueError(f"`intensity_calibration` is {rate}, expected five numbers")
        if unknown := sorted(set(self.added_domains or []) - {node["id"] for node in self.domains or []}):
            raise ValueError(f"`added_domains` has {unknown[0]!r}, expected ids of `domains`")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` is {self.temperature}, expected a positive number")
        if not self.value_std > 0:
            raise ValueError(f"`value_std` is {self.value_std}, expected a positive number")
        if self.use_next_event and not self.domains:
            raise ValueError("`use_next_event` is True, expected False without `domains`")
        if self.scenes is not None and (len(set(self.scenes)) < max(2, len(self.scenes)) or not self.domains):
            raise ValueError(f"`scenes` is {self.scenes!r:.80}, expected two or more names, with `domains`")
        for task, weight in (self.task_weights or {}).items():
            if task not in TASKS or not weight >= 0:
                raise ValueError(f"`task_weights` has {task!r}: {weight}, expected tasks of {TASKS} with weights >= 0")


__all__ = ["InterestConfig"]
