"""The model asked again without one part at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from label_logs import make_log, random_frames
from transformers import AutoTokenizer

from interest_lm import InterestModel, InterestProcessor
from interest_lm.evaluation.ablations import PARTS
from interest_lm.evaluation.cases import completion_cases, ranking_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.protocol import evaluate
from interest_lm.evaluation.report import print_table, to_json
from interest_lm.publishing.card_tables import ablations_table
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.training.derive import config_for, fill_population, known_items


@pytest.fixture(scope="module")
def log():
    return make_log(*random_frames(3), repeat_rate=0.5)


def make_predictor(log, tiny_bert, **settings) -> ModelPredictor:
    """A model whose parts all say something."""
    torch.manual_seed(0)
    items = known_items(log)
    settings = {"num_items": len(items), "num_neighbours": 2, "use_newcomers": True} | config_for(log) | settings
    model = InterestModel.from_text_pretrained(str(tiny_bert), hidden_size=16, **settings).eval()
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert), items)
    tensors = LogTensors(log, model, processor, texts=torch.randn(2000, 32), progress=False)
    fill_population(model, tensors)
    with torch.no_grad():
        for parameter in (model.ranking_head.popularity, model.domain_head and model.domain_head.residual):
            if parameter is not None:
                parameter.weight.normal_()
        if model.neighbours is not None:
            model.neighbours.strength.uniform_()
            model.neighbours.weight.fill_(1.0)
            model.neighbours.popularity.normal_()
    return ModelPredictor(model, processor, log, tensors=tensors)


def test_a_part_that_is_left_out_says_nothing_more(log, tiny_bert):
    predictor = make_predictor(log, tiny_bert)
    cases, hidden = ranking_cases(log, fold(log, "test")), completion_cases(log, fold(log, "test"))
    everybody = slice(0, len(cases.user))
    whole, shares = predictor.rank(cases, everybody), predictor.completion(hidden)
    before = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    scores = {part: predictor.without(part).rank(cases, everybody) for part in PARTS}
    for part in PARTS:
        touched = np.abs(scores[part] - whole).max() > 1e-4
        # the network reads forecasts of domains into its ranking, but that is not what this part is measured by
        assert touched or part == "domain_network", part
    # without the blend the neighbours' strengths are as good as none
    predictor.model.neighbours.strength.zero_()
    np.testing.assert_allclose(predictor.without("blend").rank(cases, everybody), scores["blend"], atol=1e-5)
    predictor.model.neighbours.strength.copy_(before["neighbours.strength"])
    for name, tensor in predictor.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], msg=name)
    assert predictor.model.config.use_domain_residual

    alone = predictor.without("domain_network")
    assert np.abs(alone.completion(hidden) - shares).max() > 1e-3
    alone.model.domain_head.residual.weight.data.normal_()
    np.testing.assert_array_equal(
        alone.completion(hidden), predictor.without("domain_network").completion(hidden)
    )  # no network


def test_parts_that_a_model_lacks_and_unknown_ones(log, tiny_bert):
    bare = make_predictor(
        log,
        tiny_bert,
        num_items=0,
        num_neighbours=0,
        use_newcomers=False,
        use_popularity=False,
        domains=None,
        use_next_event=False,
    )
    assert [bare.without(part) for part in PARTS] == [None] * len(PARTS)
    with pytest.raises(ValueError, match="'text' is none of blend, popularity"):
        bare.without("text")


def test_every_ablation_stands_beside_the_whole_with_an_interval(log, tiny_bert, capsys):
    predictor = make_predictor(log, tiny_bert)
    config = predictor.model.config
    results = evaluate(
        log, predictor, horizons=config.horizons, horizon_unit=config.horizon_unit,
        reference_horizon=config.reference_horizon, baselines=["popularity", "shrinkage"], progress=False, bootstrap=20, ablations=True,
    )  # fmt: skip
    assert set(results["ablations"]) == {f"without {part.replace('_', ' ')}" for part in PARTS}
    without = results["ablations"]["without blend"]
    assert set(without) == {"ranking", "paired"} and without["ranking"]["cases"] == results["ranking"]["cases"]
    entry = without["paired"]["ranking.ndcg@10"]
    assert entry["difference"] == without["ranking"]["ndcg@10"] - results["ranking"]["ndcg@10"]
    assert entry["interval"][0] <= entry["difference"] <= entry["interval"][1] and entry["baseline"] == "model"
    assert "future.cross_entropy" in results["ablations"]["without domain network"]["paired"]
    shown = ablations_table(to_json(results))
    assert shown.splitlines()[2].startswith("| whole | ") and "without item ids" in shown
    assert "(" in shown.splitlines()[3] and "cross_entropy ↓" in shown.splitlines()[0]
    print_table(results)
    assert "without domain network: " in capsys.readouterr().out
    quiet = evaluate(log, None, horizons=(7,), horizon_unit="days", reference_horizon=7, baselines=["popularity"],
                     progress=False, bootstrap=0, ablations=True)  # fmt: skip
    assert quiet["ablations"] == {}
