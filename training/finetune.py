"""`accelerate launch -m interest_lm.training.finetune [config.yaml] --data DIR --output_dir OUT [...]`."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from safetensors import SafetensorError
from transformers import HfArgumentParser

from .arguments import InterestTrainingArguments
from .run import train


RECIPES = Path(__file__).parent / "recipes"


def read_recipe(argv: list[str]) -> tuple[list[str], dict]:
    """The other words, and what the YAML file among them says, `{}` without one.

    A name that is no file may be one of the recipes in this folder's `recipes/`, such as `shop.yaml`.

    Raises:
        ValueError: an unreadable file or an unknown key.
    """
    argv = list(argv)
    defaults = {}
    positional = [
        place
        for place, word in enumerate(argv)
        if word.endswith((".yaml", ".yml")) and (place == 0 or not argv[place - 1].startswith("--"))
    ]
    if positional:
        file = argv.pop(positional[0])
        shipped = RECIPES / file
        try:
            with open(shipped if shipped.is_file() and not Path(file).exists() else file, encoding="utf-8") as stream:
                defaults = yaml.safe_load(stream) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"{file}: {error}".splitlines()[0]) from None
        if not isinstance(defaults, dict):
            raise ValueError(f"{file}: expected `name: value` lines")
        unknown = sorted(set(defaults) - set(InterestTrainingArguments.__dataclass_fields__))
        if unknown:
            raise ValueError(f"{file}: unknown argument {unknown[0]!r}")
    return argv, defaults


def parse(argv: list[str]) -> InterestTrainingArguments:
    """Arguments from an optional YAML file, anywhere among the words, and from flags, which win.

    Raises:
        ValueError: an unreadable file or an unknown key.
    """
    parser = HfArgumentParser(InterestTrainingArguments)
    argv, defaults = read_recipe(argv)
    parser.set_defaults(**defaults)
    return parser.parse_args_into_dataclasses(argv)[0]


def main(argv: list[str] | None = None) -> int:
    """Trains; one line and exit status 2 for input that cannot be used or a full disk, 130 after an interruption."""
    args = None
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        outcome = train(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {str(error).strip().splitlines()[-1].strip()}", file=sys.stderr)
        return 2
    except (OSError, SafetensorError, RuntimeError) as error:
        # Python, safetensors; torch.save
        if args is None or not any(words in str(error) for words in ("No space left", "PytorchStreamWriter failed")):
            raise
        goes_on = "make room, then --resume_from_checkpoint True goes on from the last whole checkpoint"
        print(f"error: {args.output_dir}: the disk is full; {goes_on}", file=sys.stderr)
        return 2
    return 130 if outcome["training"]["interrupted"] else 0


if __name__ == "__main__":
    sys.exit(main())
