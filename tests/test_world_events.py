"""The generated world follows its own laws, and its log looks like one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interest_lm.data.synthetic import START, WorldConfig, generate_world
from interest_lm.data.synthetic_words import DOMAINS


DAY = 86_400


@pytest.fixture(scope="module")
def world():
    return generate_world(num_users=400, num_items=300, seed=3)


def test_the_same_arguments_give_the_same_world(world):
    again = generate_world(num_users=400, num_items=300, seed=3)
    pd.testing.assert_frame_equal(world.events, again.events)
    pd.testing.assert_frame_equal(world.items, again.items)
    other = generate_world(num_users=400, num_items=300, seed=4)
    assert not world.events["item_id"].head(100).equals(other.events["item_id"].head(100))


def test_configuration_survives_the_datasets_card():
    config = WorldConfig(num_users=7, seed=5, events_per_day=(0.1,))
    assert WorldConfig.from_facts(config.to_facts()) == config
    with pytest.raises(ValueError, match="world version is 0, expected"):
        WorldConfig.from_facts({**config.to_facts(), "version": 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_users": 0}, "num_users is 0, expected at least 1"),
        ({"num_items": 5}, "num_items is 5, expected at least 24"),
        ({"span_days": 3}, "span_days is 3, expected at least 14"),
        ({"level_days": 2.0}, "level_days is 2.0, expected at least 7"),
    ],
)
def test_impossible_worlds_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        generate_world(**{"num_users": 5, **settings})


def test_log_has_the_layout_of_a_dataset(world):
    events, items = world.events, world.items
    assert list(items.columns) == ["item_id", "title", "text", "categories", "created_at"]
    assert items["item_id"].is_unique and len(items) == 300
    assert {tuple(paths[0]) for paths in items["categories"]} == {
        (top, leaf) for top, (_, leaves) in DOMAINS.items() for leaf in leaves
    }
    assert events["timestamp"].dtype == np.int64 and events["item_id"].isin(items["item_id"]).all()
    assert events.groupby("user_id")["timestamp"].is_monotonic_increasing.all()
    assert events["user_id"].nunique() == 400 and 50 < len(events) / 400 < 110
    assert events["value"].isin([1, 2, 3, 4, 5]).all()
    assert 0.2 < (events["text"] != "").mean() < 0.4
    assert events["timestamp"].between(START, START + 728 * DAY).all()


def test_cold_items_appear_late_and_are_not_taken_before(world):
    created = world.items.set_index("item_id")["created_at"]
    late = created > START
    assert 0.15 < late.mean() < 0.45
    # Items become available in whole weeks.
    assert (world.events["timestamp"] >= created.loc[world.events["item_id"]].to_numpy() - 7 * DAY).all()
    span = created[late] - START
    assert span.max() > 600 * DAY and span.min() < 100 * DAY


def test_leaves_come_as_often_as_the_law_says(world):
    truth, process = world.truth, world.truth.process
    user = np.searchsorted(truth.user_ids, world.events["user_id"].to_numpy(dtype=str))
    time = world.events["timestamp"].to_numpy()
    item = np.searchsorted(world.items["item_id"].to_numpy(dtype=str), world.events["item_id"].to_numpy(dtype=str))
    leaf = process.item_leaf[item]
    law = truth.shares_at(user, time)
    np.testing.assert_allclose(law.sum(1), 1.0, rtol=1e-5)
    for stratum in range(world.config.num_strata):
        inside = truth.stratum[user] == stratum
        expected, variance = law[inside].sum(0), (law * (1 - law))[inside].sum(0)
        observed = np.bincount(leaf[inside], minlength=len(process.paths))
        assert (np.abs(observed - expected) < 5 * np.sqrt(variance)).all()


def test_people_like_what_they_are_interested_in(world):
    value, liking = world.events["value"], pd.Series(world.truth.liking)
    assert value[liking > liking.quantile(0.7)].mean() > value[liking < liking.quantile(0.3)].mean() + 0.5
    above = value > value.groupby(world.events["user_id"]).transform("mean")
    assert 0.25 < above.mean() < 0.75


def test_the_next_item_of_a_series_is_predictable(world):
    item = world.events["item_id"].str.removeprefix("item-").astype(int).to_numpy() - 1
    leaf = world.truth.process.item_leaf[item]
    user = world.events["user_id"].to_numpy()
    last, hits, chances = {}, 0, 0
    for person, domain, thing in zip(user, leaf, item):
        before = last.get((person, domain))
        chances += before is not None
        hits += before is not None and thing == before + 1
        last[person, domain] = thing
    assert hits / chances > 0.15


def test_truth_is_consistent_over_interest_future_and_rate(world):
    truth = world.truth
    user, time = np.arange(50), np.full(50, START + 500 * DAY)
    interest, future = truth.true_interest(user, time), truth.true_future(user, time, [7, 56])
    rate = truth.true_change_rate(user, time, 56)
    np.testing.assert_allclose(interest.sum(1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(future.sum(2), 1.0, rtol=1e-4)
    assert (np.abs(rate) < 1).all() and np.abs(rate).max() > 0.5
    np.testing.assert_allclose(interest * (1 + rate) / (1 - rate), future[:, 1], rtol=1e-4)


def test_intensity_is_the_expected_number_of_events(world):
    truth, time = world.truth, START + 400 * DAY
    user = np.flatnonzero(truth.join < time)
    expected = truth.true_intensity(user, np.full(len(user), time), [56])[:, 0]
    inside = world.events["timestamp"].between(time, time + 56 * DAY - 1)
    chosen = inside & world.events["user_id"].isin(truth.user_ids[user])
    assert abs(chosen.sum() - expected.sum()) < 5 * np.sqrt(expected.sum())
