import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing

import pytest

import memtrace_core
from memtrace_core import clock, duty, errors, ports, routing, testing
from memtrace_core.errors import MemtraceError

FOREIGN = {"apsw", "litestar", "aiohttp", "cryptography", "loguru", "cyclopts", "psycopg", "uvicorn"}
ADAPTERS = {"memtrace_sqlite", "memtrace_postgres", "memtrace_arc", "memtrace_http", "memtrace_cli"}


def test_the_public_names_are_sorted_and_there():
    """Every name that the package exports can be imported from it, once each, in order."""
    assert list(memtrace_core.__all__) == sorted(set(memtrace_core.__all__))
    for name in memtrace_core.__all__:
        assert getattr(memtrace_core, name).__module__.startswith("memtrace_core.")


def test_what_is_imported_into_the_package_is_exported():
    """`__all__` equals the public names of the package, its modules apart."""
    public = {
        name
        for name, value in vars(memtrace_core).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(memtrace_core.__all__)


def test_every_error_is_exported():
    """A program that embeds Memtrace can catch each error by its public name."""
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert raised <= set(memtrace_core.__all__)


@pytest.mark.parametrize("name", [n for n, v in vars(errors).items() if isinstance(v, type)])
def test_every_error_is_a_memtrace_error_with_a_stable_code(name):
    """Errors have one base, a code in snake case, and stand in the tree of their module."""
    error = getattr(errors, name)
    assert issubclass(error, MemtraceError)
    assert error.code.replace("_", "").isalnum()
    assert error.code == error.code.lower()
    assert f" {name} " in f" {errors.__doc__} ".replace("\n", " ")


def test_bad_input_is_a_value_error_too():
    """Programs may catch what the language calls a bad value."""
    assert issubclass(errors.InvalidInput, ValueError)


def test_the_core_needs_nothing_but_msgspec():
    """Importing all of the core, in a fresh interpreter, loads the standard library and msgspec alone."""
    modules = [f"memtrace_core.{one.name}" for one in pkgutil.iter_modules(memtrace_core.__path__)]
    script = (
        "import sys; before = set(sys.modules); import importlib;"
        f"[importlib.import_module(name) for name in {['memtrace_core', *modules]!r}];"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    command = [sys.executable, "-c", script]
    root = memtrace_core.__path__[0].removesuffix("memtrace_core")
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=60)
    loaded = set(ran.stdout.split())
    assert {"memtrace_core", "msgspec"} <= loaded
    assert not loaded & (FOREIGN | ADAPTERS)
    # msgspec itself loads typing_extensions where that is installed.
    assert loaded - set(sys.stdlib_module_names) <= {"memtrace_core", "msgspec", "typing_extensions"}


IMPLEMENTATIONS = [
    (ports.Clock, testing.ManualClock),
    (ports.Clock, clock.SystemClock),
    (ports.KeyVault, testing.TransparentVault),
    (ports.FormerKeys, testing.InMemoryFormerKeys),
    (ports.OrderBook, testing.InMemoryJournal),
    (ports.Journal, testing.InMemoryJournal),
    (ports.ArcGateway, testing.InMemoryGateway),
    (ports.ArcGateway, routing.GatewayByURL),
    (ports.MetadataRepo, testing.InMemoryMetadataRepo),
    (ports.Ownership, testing.InMemoryOwnership),
    (ports.Ownership, duty.SoleOwner),
]


def parameters(function):
    """Return what a function takes and gives, defaults apart."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, {**vars(importlib.import_module(function.__module__)), **vars(ports)})
    return [(one.name, one.kind, hints.get(one.name)) for one in signature.parameters.values()], hints["return"]


@pytest.mark.parametrize(("port", "implementation"), IMPLEMENTATIONS, ids=lambda one: one.__name__)
def test_an_implementation_has_every_method_of_its_port(port, implementation):
    """Names, parameters, types and kinds of methods are those of the Protocol."""
    methods = [name for name, value in vars(port).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert methods
    for name in methods:
        promised, kept = getattr(port, name), getattr(implementation, name)
        assert parameters(kept) == parameters(promised), name
        assert inspect.iscoroutinefunction(kept) == inspect.iscoroutinefunction(promised), name


def test_every_port_has_an_implementation_for_tests():
    """Embedders find a fake of each port in `memtrace_core.testing`."""
    protocols = {value for value in vars(ports).values() if getattr(value, "_is_protocol", False)} - {
        typing.Protocol
    }
    faked = {
        port for port, implementation in IMPLEMENTATIONS if implementation.__module__.startswith(testing.__name__)
    }
    assert protocols == faked


def test_the_fakes_are_the_public_names_of_testing():
    """`testing.__all__` lists the implementations and nothing else."""
    fakes = [one.__name__ for _, one in IMPLEMENTATIONS if one.__module__.startswith(testing.__name__)]
    assert list(testing.__all__) == sorted(set(fakes))


@pytest.mark.parametrize("module", [one.name for one in pkgutil.iter_modules(memtrace_core.__path__)])
def test_a_module_says_what_it_is_about(module):
    """Every module of the core begins with a sentence on itself."""
    assert importlib.import_module(f"memtrace_core.{module}").__doc__
