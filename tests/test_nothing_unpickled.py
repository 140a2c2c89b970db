"""Files that others made are read as data: no source of ours unpickles, but one that stands in for everything a pickle may name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("imanim", "data_pipeline", "evaluation", "launchers")
RESTRICTED = {"imanim/pickled_tensors.py": ["pickle"]}
"""It subclasses pickle.Unpickler and overrides what would import names; tests/test_pickled_tensors.py tries to get past it."""
UNPICKLERS = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def unsafe(source: str) -> list[str]:
    """Imports and calls in Python source that would run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [n.name for n in node.names if n.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.split(".")[0] in UNPICKLERS else []
            found += ["torch.load" for n in node.names if module == "torch" and n.name == "load"]
        elif isinstance(node, ast.Call):
            given = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else None for k in node.keywords}
            if ast.unparse(node.func) == "torch.load" and given.get("weights_only") is not True:
                found.append("torch.load without weights_only=True")
            if given.get("allow_pickle", False) is not False:
                found.append("allow_pickle")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=x)",
        "import pickle",
        "from pickle import load",
        "from torch import load",
        "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=x)",
    ],
)
def test_the_search_finds_what_it_is_for(line):
    assert unsafe(line)


def test_nothing_is_unpickled_in_any_room():
    assert unsafe("torch.load(p, weights_only=True); np.load(p, allow_pickle=False)") == []
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 100
    found = {str(path.relative_to(ROOT)): unsafe(path.read_text()) for path in sources}
    assert {path: what for path, what in found.items() if what} == RESTRICTED
