"""What docs/embedding.md lists as public."""

import ast
import importlib
import inspect
import pkgutil
import re
import typing
from importlib import resources
from pathlib import Path

import pytest

import memtrace_core

ADAPTERS = {"memtrace_arc", "memtrace_http", "memtrace_postgres", "memtrace_sqlite"}

PAGE = Path(__file__).parents[2].joinpath("docs", "embedding.md").read_text(encoding="utf-8")
LISTED = {
    module: re.findall(r"`(\w+)`", names)
    for module, names in re.findall(r"^\| `(\w+(?:\.\w+)?)` \| (.*) \|$", PAGE, re.M)
}


def own_names(module):
    """Return the public names that a module defines itself: classes, functions, values, but not type variables."""
    found = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {
        name for name in found if not name.startswith("_") and not isinstance(getattr(module, name), typing.TypeVar)
    }


def test_the_public_modules_are_listed():
    """The page on embedding names each module that says what of it is public, and no other."""
    with_names = {
        f"memtrace_core.{one.name}"
        for one in pkgutil.iter_modules(memtrace_core.__path__)
        if hasattr(importlib.import_module(f"memtrace_core.{one.name}"), "__all__")
    }
    assert set(LISTED) == {"memtrace_core", *with_names, *ADAPTERS}


@pytest.mark.parametrize("name", sorted(LISTED))
def test_the_public_names_of_a_module_are_listed(name):
    """The page has the names of `__all__`, in its order, and they are what the module defines or exports."""
    module = importlib.import_module(name)
    assert LISTED[name] == list(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    if hasattr(module, "__path__"):
        assert all(hasattr(module, one) for one in module.__all__)
    else:
        assert set(module.__all__) == own_names(module)


@pytest.mark.parametrize("name", sorted(ADAPTERS | {"memtrace_core"}))
def test_a_package_tells_that_it_is_typed(name):
    """Type checkers look into an installed package only if it has a `py.typed`."""
    assert resources.files(name).joinpath("py.typed").is_file()
