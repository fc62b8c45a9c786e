"""Writes mlinter's own rules, but for those that do not fit a model outside transformers, to the file given.

- TRF041 wants the checkpoints named that take each side of a branch on the config: here every part has a switch by
  design, for the ablation table, and any checkpoint may take either side.
- TRF057 wants `@auto_docstring`, which knows the arguments of transformers' models and prints an error for each of ours.
"""

import re
import sys
from pathlib import Path

import mlinter


OFF = ("TRF041", "TRF057")

rules = (Path(mlinter.__file__).parent / "rules.toml").read_text(encoding="utf-8")
for rule in OFF:
    rules, found = re.subn(rf"(\[rules\.{rule}\](?:\n(?!\[).*)*?\ndefault_enabled = )true", r"\1false", rules)
    if not found:
        raise SystemExit(f"mlinter has no rule {rule} that is on: take it from OFF in {__file__}")
target = Path(sys.argv[1])
target.parent.mkdir(exist_ok=True)
target.write_text(rules, encoding="utf-8")
