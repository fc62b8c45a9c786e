"""InterestLM: what people are interested in, how fast that changes, and what comes next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any


# Threads that wait for one another give their processor away after some microseconds, not milliseconds: beside other work, what they wait
# for needs it. OpenMP reads this when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_interest import InterestConfig
from .modeling_interest import InterestModel, InterestOutput
from .pipeline_interest import InterestPipeline, register_interest_pipeline
from .processing_interest import InterestProcessor


if TYPE_CHECKING:
    from .recommendation.encode import encode_items
    from .training.fit import Fitted, fit

AutoConfig.register("interest_lm", InterestConfig, exist_ok=True)
AutoModel.register(InterestConfig, InterestModel, exist_ok=True)
AutoProcessor.register(InterestConfig, InterestProcessor, exist_ok=True)
register_interest_pipeline()

__version__ = "0.1.0"
__all__ = [
    "Fitted",
    "InterestConfig",
    "InterestModel",
    "InterestOutput",
    "InterestPipeline",
    "InterestProcessor",
    "encode_items",
    "fit",
]


def __getattr__(name: str) -> Any:
    """Training and encoding are imported when they are first asked for: loading a model needs neither."""
    if name in ("fit", "Fitted"):
        from .training import fit as module

        return getattr(module, name)
    if name == "encode_items":
        from .recommendation.encode import encode_items

        return encode_items
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
