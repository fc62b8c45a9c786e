"""InterestLM: what people are interested in, how fast that changes, and what comes next."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_interest import InterestConfig
from .modeling_interest import InterestModel, InterestOutput
from .processing_interest import InterestProcessor


AutoConfig.register("interest_lm", InterestConfig, exist_ok=True)
AutoModel.register(InterestConfig, InterestModel, exist_ok=True)
AutoProcessor.register(InterestConfig, InterestProcessor, exist_ok=True)

__all__ = ["InterestConfig", "InterestModel", "InterestOutput", "InterestProcessor"]
