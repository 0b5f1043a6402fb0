"""A look at the sources: what is put into SQL is a name or a part of a statement, a number or an escaped text.

This is about spelling, so it can be deceived; that no value gets through is tested with values, in
`test_text_in_sql.py`. It is here so that a new statement that is made in another way does not go unnoticed.
"""

import ast
import re
from pathlib import Path

import pytest

import memtrace_arc
import memtrace_core
import memtrace_postgres
import memtrace_sqlite

SQL = re.compile(
    r"\b(?:SELECT|INSERT|REPLACE|UPDATE|DELETE|CREATE|DROP|PRAGMA|FROM|WHERE|AND|IN|BY|VALUES|CAST)\b|[=<>] ?[?']"
)
CONSTANT = re.compile(r"_?[A-Z][A-Z_]*(?:\[\w+\])?")
# What makes SQL of something else: the escape for texts, times for Arc's pruner, and what gives names and parts.
RENDERING = {
    "text_value",
    "_quoted",
    "self._column",
    "self._identity",
    "self._is_covered",
    "self._is_single",
    "self._text",
    "quoted_id",
    "_quoted_moment",
    "self._span",
    "table_of",
    "ordering",
    "event.lower",
}
# Names of variables that hold names of tables and columns, words of SQL, and parts made by statements above them.
PARTS = {
    "aside", "bounds", "change", "column", "columns", "comparison", "conditions", "direction", "event", "failed",
    "hidden", "how", "identity", "importance", "index", "into", "known", "moment", "name", "otherwise", "own",
    "owner", "part", "parts", "places", "plain", "portion", "predicate", "recent", "self._measurement",
    "self._org", "state", "table", "where",
}  # fmt: skip
# Numbers that are written in Python's form.
NUMBERS = {"query.min_importance!r", "query.max_importance!r", "map(str, refused)"}


def may_stand(braces):
    """Tell whether what stands between the braces of an f-string may stand in a statement."""
    if braces.format_spec is not None:
        return ast.unparse(braces.format_spec) == "f'd'"
    if braces.conversion == ord("r"):
        return f"{ast.unparse(braces.value)}!r" in NUMBERS
    return is_part(braces.value)


def is_part(node):
    """Tell whether an expression is a part of a statement: known by its name, or made by what makes such."""
    written = ast.unparse(node)
    if written in PARTS | NUMBERS or CONSTANT.fullmatch(written) or written.startswith("'?' * "):
        return True
    if isinstance(node, ast.GeneratorExp):
        return isinstance(node.elt, ast.JoinedStr)  # which is looked at itself
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.Constant)
    called = ast.unparse(node.func)
    if called == "map":
        return ast.unparse(node.args[0]) in RENDERING
    if isinstance(node.func, ast.Attribute) and node.func.attr == "join":
        return isinstance(node.func.value, ast.Constant) and is_part(node.args[0])
    return called in RENDERING


def suspicious(source):
    """Return what is put into SQL in a source and is not known to be harmless, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.JoinedStr(values=values):
                fixed = "{}".join(value.value for value in values if isinstance(value, ast.Constant))
                braces = [value for value in values if isinstance(value, ast.FormattedValue)]
                found += [one for one in braces if SQL.search(fixed) and not may_stand(one)]
            case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Add() | ast.Mod(), right=right):
                if SQL.search(text) and not is_part(right):
                    found.append(node)
            case ast.Call(func=ast.Attribute(value=ast.Constant() | ast.Name(), attr="format"), args=given):
                if [ast.unparse(one) for one in given] != ["places"]:
                    found.append(node)
    return [f"{one.lineno}: {ast.unparse(one)}" for one in found]


PACKAGES = (memtrace_arc, memtrace_core, memtrace_postgres, memtrace_sqlite)
SOURCES = [file for one in PACKAGES for file in Path(one.__path__[0]).rglob("*.py")]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_nothing_but_names_numbers_and_escaped_texts_is_put_into_sql(file):
    """Whatever stands in braces within a statement is one of the few things that may."""
    assert suspicious(file.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "run(f'SELECT x FROM t WHERE a = {value}')",
        "run(f\"SELECT x FROM t WHERE a = '{query.agent_id}'\")",
        "parts.append(f\"dedup_key = '{key}'\")",
        "run(f'SELECT {COLUMNS} FROM t WHERE a IN ({\", \".join(values)})')",
        "run(f'SELECT x FROM t LIMIT {limit}')",
        "run('SELECT x FROM t WHERE a = ' + value)",
        "run('SELECT x FROM t WHERE a = %s' % value)",
        "run('SELECT x FROM t WHERE a = {}'.format(value))",
        "run(f'SELECT x FROM {called(value)}')",
        "run(f'SELECT x FROM t WHERE a = {value!r}')",
    ],
)
def test_a_value_in_a_statement_is_noticed(source):
    """Each of the usual ways to put a value into SQL is found by this look."""
    assert len(suspicious(source)) == 1
