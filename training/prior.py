"""The statistical prior, fitted before anything else learns."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..modeling_interest import InterestModel
from .batches import BatchBuilder, PackedRows


# of the others' learning rate: the mixture behind windows starts even and has far to go, contexts and intensity soon learn too much
WINDOWS_RATE = 4.0
TRAJECTORY_RATE = 0.06  # a network, not a handful of numbers


def prior_parameters(model: InterestModel) -> list[torch.nn.Parameter]:
    """Half-lives, strengths, mixtures, kernels, concentrations and rates: what statistics alone would tune."""
    parameters: list[torch.nn.Parameter] = []
    if model.domain_head is not None:
        head = model.domain_head
        parameters += [*head.statistics.parameters(), head.kernel, head.concentration, head.concentration_slope]
        parameters += [] if head.trajectory is None else head.trajectory.parameters()
    for head in (model.next_event_head, model.scene_head):
        if head is not None:
            parameters += [*head.statistics.parameters(), head.tilt]
    if model.scene_head is not None:
        head = model.scene_head
        parameters += [head.fade, head.share_strength, head.share_weight]
    if model.intensity_head is not None:
        head = model.intensity_head
        parameters += [head.mixture, head.level, head.dispersion, head.gap]
        parameters += [part for part in (head.strength, head.absence, head.absence_slopes) if part is not None]
    return parameters


def fit_prior(
    model: InterestModel,
    builder: BatchBuilder,
    rows: PackedRows,
    steps: int,
    learning_rate: float = 0.05,
    rows_per_step: int = 4,
) -> list[float]:
    """Fits the prior by the likelihood of future, completion and intensity on training cuts; all residuals are still zero.

    Returns:
        The loss of every step.
    """
    chosen = prior_parameters(model)
    if not chosen or steps <= 0:
        return []
    builder = BatchBuilder(builder.tensors, rows, cuts=16, completions=0.5, seed=builder.seed + 1, impressions=0)
    loader = DataLoader(rows, batch_size=min(rows_per_step, len(rows)), collate_fn=builder, drop_last=True)
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    head = model.domain_head
    windows = set() if head is None else set(head.parameters())
    trajectory = set() if head is None or head.trajectory is None else set(head.trajectory.parameters())
    rates = {
        TRAJECTORY_RATE: [parameter for parameter in chosen if parameter in trajectory],
        WINDOWS_RATE: [parameter for parameter in chosen if parameter in windows - trajectory],
        1.0: [parameter for parameter in chosen if parameter not in windows],
    }
    groups = [{"params": parameters, "lr": rate * learning_rate} for rate, parameters in rates.items()]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    switches = model.config.use_domain_residual, model.config.use_domain_fusion
    model.config.use_domain_residual = model.config.use_domain_fusion = False  # they are zero and cost the most
    model.encodes_history = False  # nothing reads what the encoders say yet
    model.eval()
    losses: list[float] = []
    unused = (
        "ranking_targets",
        "ranking_positions",
        "cut_targets",
        "overall_labels",
        "rating_labels",
        "item_features",
    )
    epoch = 0
    with tqdm(total=steps, desc="prior", unit="step") as bar:
        while len(losses) < steps:
            rows.set_epoch(10**6 + epoch)
            for batch in loader:
                inputs = {name: value.to(model.device) for name, value in batch.items() if name not in unused}
                with torch.autocast(model.device.type, dtype=torch.bfloat16):
                    loss = model(**inputs).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
                bar.update()
                if len(losses) == steps:
                    break
            epoch += 1
    rows.set_epoch(0)
    model.config.use_domain_residual, model.config.use_domain_fusion = switches
    model.encodes_history = True
    for parameter, wants in wanted.items():
        parameter.requires_grad_(wants)
        parameter.grad = None
    return losses
