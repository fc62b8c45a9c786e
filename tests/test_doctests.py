"""Every example in a docstring runs and says what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import interest_lm


NOT_MODULES_OF_OURS = ("interest_lm.tests", "interest_lm.__main__", "interest_lm.setup")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(interest_lm.__path__, "interest_lm.")
    if not module.name.startswith(NOT_MODULES_OF_OURS)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_some_examples_are_found():
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(bool(test.examples) for module in modules for test in finder.find(module)) >= 3
