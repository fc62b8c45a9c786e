"""Tables of the population and of popularity: from strictly earlier events only, equal to a plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from label_logs import DAY, make_log, random_frames, random_log

from interest_lm.data.population import PopularityTable, PopulationTable, even_shares


def test_population_shares_are_consistent_and_never_zero():
    log = random_log()
    shares = PopulationTable.build(log).shares(np.arange(-1, 102) * DAY)
    assert (shares > 0).all()
    np.testing.assert_allclose(shares[..., log.tree.depth == 0].sum(-1), 1.0, rtol=1e-5)
    for node in np.flatnonzero(~log.tree.is_leaf):
        np.testing.assert_allclose(shares[..., log.tree.parent == node].sum(-1), shares[..., node], rtol=1e-5)
    np.testing.assert_allclose(shares[0], np.stack([even_shares(log.tree)] * 2), rtol=1e-5)


@pytest.mark.parametrize("day", [0, 1, 37, 99])
def test_a_days_shares_ignore_that_day_and_everything_after(day):
    frame, items = random_frames(1)
    changed = frame.copy()
    changed.loc[frame["timestamp"] >= day * DAY, "item_id"] = "i3"
    before, after = (make_log(table, items) for table in (frame, changed))
    asked = np.array([day * DAY, day * DAY + DAY - 1])
    one, other = (PopulationTable.build(log).shares(asked) for log in (before, after))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one[0], one[1])
    later = np.array([101 * DAY])
    assert (PopulationTable.build(before).shares(later) != PopulationTable.build(after).shares(later)).any()


def test_long_run_shares_count_allowed_events_of_earlier_days():
    log = random_log(2)
    allowed = log.split == 0
    table = PopulationTable.build(log, allowed)
    for day in (3, 50, 200):
        inside = allowed & (log.timestamp < day * DAY) & (log.item >= 0)
        counts = np.asarray(log.item_nodes[log.item[inside]].sum(0))[0] + 10 * even_shares(log.tree)
        expected = counts / counts[log.tree.depth == 0].sum()
        np.testing.assert_allclose(table.shares(np.array([day * DAY]))[0, 0], expected, rtol=1e-4)


def test_recent_shares_follow_the_last_days():
    frame, items = random_frames(3, events=2_000)
    frame.loc[frame["timestamp"] >= 80 * DAY, "item_id"] = "i3"
    log = make_log(frame, items)
    music = log.tree.index["Music"]
    long_run, recent = PopulationTable.build(log, half_life_days=5).shares(np.array([101 * DAY]))[0, :, music]
    assert recent > 0.75 and long_run < 0.6


def test_further_half_lives_are_tables_of_their_own():
    log = random_log()
    asked = np.arange(0, 102, 7) * DAY
    shares = PopulationTable.build(log, further=(3.0, 60.0)).shares(asked)
    assert shares.shape[1] == 4
    for column, half_life in ((1, 14.0), (2, 3.0), (3, 60.0)):
        alone = PopulationTable.build(log, half_life_days=half_life).shares(asked)
        np.testing.assert_array_equal(shares[:, [0, column]], alone)
    with pytest.raises(ValueError, match="half_life_days is 0.0, expected a positive number"):
        PopulationTable.build(log, further=(3.0, 0.0))


def test_population_needs_domains_and_a_half_life():
    log = random_log()
    with pytest.raises(ValueError, match="no domain tree"):
        PopulationTable.build(replace(log, tree=None))
    with pytest.raises(ValueError, match="half_life_days is -1, expected a positive number"):
        PopulationTable.build(log, half_life_days=-1)


def test_popularity_features_equal_a_loop_over_strictly_earlier_events():
    log = random_log(5)
    allowed = log.split < 2
    table = PopularityTable.build(log, allowed, max_points=12)
    assert len(table.grid) <= 12 and (np.diff(table.grid) > 0).all()
    assert table.names == (*(f"decayed_{half_life}_days" for half_life in (1, 7, 30, 120)), "total", "age", "seen")
    for row in (0, 3, len(table.grid) - 1):
        now = table.grid[row]
        for item in range(log.num_items):
            ages = (now - log.timestamp[allowed & (log.item == item) & (log.timestamp < now)]) / DAY
            expected = [np.log1p((0.5 ** (ages / half_life)).sum()) for half_life in (1, 7, 30, 120)]
            expected += [np.log1p(len(ages)), np.log1p(ages.max(initial=0.0)), float(len(ages) > 0)]
            np.testing.assert_allclose(table.features[row, item], expected, rtol=1e-4, atol=1e-5)


def test_popularity_answers_from_a_grid_point_that_is_not_later():
    log = random_log(6)
    table = PopularityTable.build(log, max_points=9)
    time = np.arange(-3, 110) * DAY
    rows = table.index(time)
    assert (table.grid[rows] <= np.maximum(time, table.grid[0])).all()
    assert (rows[time >= table.grid[-1]] == len(table.grid) - 1).all()
    assert not table.features[0].any() and table.features[-1, :, 4].any()


def test_age_counts_from_creation_where_that_is_known():
    frame, items = random_frames(7)
    items["created_at"] = [-10 * DAY, 0, 0, 0, 0, 10_000 * DAY]
    table = PopularityTable.build(make_log(frame, items))
    age = np.expm1(table.features[-1, :, 5])
    assert age[0] == pytest.approx(table.grid[-1] / DAY + 10, rel=1e-4)
    assert age[1] == pytest.approx(table.grid[-1] / DAY, rel=1e-4)


def test_positions_decay_by_the_share_of_events_that_passed():
    frame, items = random_frames(8)
    frame["timestamp"] = np.random.default_rng(0).permutation(len(frame)) ** 2
    log = make_log(frame, items, split="leave-last", time="order")
    table = PopularityTable.build(log, half_lives=(10.0,), max_points=5)
    assert table.names[0] == "decayed_10_percent"
    ranks = np.argsort(np.argsort(log.timestamp))
    item = log.item[np.argmax(log.timestamp)]
    passed = (log.num_events - ranks[log.item == item]) * 100 / (log.item >= 0).sum()
    assert np.expm1(table.features[-1, item, 0]) == pytest.approx((0.5 ** (passed / 10)).sum(), rel=0.1)
    assert np.isfinite(PopulationTable.build(log).table).all()
