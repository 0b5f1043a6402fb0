"""What the pages tell people to type or to paste: every fenced block is parsed, and run where it can be.

A block is known by its page and the beginning of its first line.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from arc_double import ArcDouble
from cyclopts import CycloptsError
from e2e.processes import Deployment, Server

from memtrace_cli.app import app
from memtrace_cli.findings import shown
from memtrace_cli.settings import OTHER_VARIABLES, Settings, examine_settings

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

DRAWING = ""
CANNOT_BE_RUN = {
    "README.md: python3 -m venv .venv && .venv/bin/pip install --q": "CI runs it (the demo, and all tests)",
    "README.md: .venv/bin/memtrace serve --dev": "runs for ever; test_demo_and_dev starts it",
    "README.md: docker build -t memtrace -f Containerfile .": "needs a container engine and its registry",
    "README.md: mkdocs serve -f docs/site/mkdocs.yml": "runs for ever; the last test builds the site",
    "index.md: python3 -m venv .venv && .venv/bin/pip install --q": "CI runs it (the demo)",
    "index.md: .venv/bin/memtrace serve --dev": "runs for ever; test_demo_and_dev starts it",
    "metrics.md: pip install '.[otel]'": "installs from a registry",
    "mcp.md: pip install '.[mcp]'": "installs from a registry",
    "postgresql.md: pip install '.[postgres]'": "installs from a registry",
    "postgresql.md: memtrace backup /backups/node-1.tar": "needs a PostgreSQL; test_postgres makes such a backup",
    "mcp.md: claude mcp add memtrace --env MEMTRACE_URL=http://": "needs Claude Code; test_mcp_docs reads it",
    "mcp.md: claude mcp add --transport http memtrace http://12": "needs Claude Code; test_mcp_docs reads it",
    "mcp.md: memtrace mcp --http --host 127.0.0.1 --port 9101": "runs for ever; test_mcp starts it",
    "moving-from-go.md: systemctl stop memtrace": "needs systemd; test_moving_from_go goes the way back",
    "moving.md: memtrace org show-arc ORG_ID     # note the id of ": "needs the id that it shows; see test_moving",
    "scaling.md: memtrace serve --new-journal": "runs for ever; test_two_nodes starts it",
    "performance.md: PYTHONPATH=tests python -m benchmarks --folder /va": "takes an hour; see test_benchmarks",
    "performance.md: PYTHONPATH=tests python -m benchmarks.growth.anato": "looks at what that has filled in",
    "operations.md: useradd --system --home-dir /var/lib/memtrace --sh": "needs root",
    "operations.md: sudo -u memtrace MEMTRACE_MASTER_KEY_FILE=/etc/mem": "needs root",
    "operations.md: docker build -t memtrace -f Containerfile .": "needs a container engine and its registry",
    "operations.md: docker compose up -d": "needs a container engine and its registry",
    "operations.md: kubectl exec memtrace-0 -- memtrace org create acm": "needs a cluster",
}
"""Blocks of commands that are not run here, and why."""

CHANGES = {
    "memtrace serve  ": "true  ",  # it would run for ever: another server does
    "memtrace serve\n": "true\n",
    "https://arc.acme.example.com --database acme_memory ": "ARC_URL --database acme_memory --api-key ARC_KEY ",
    "memtrace journal drop ORG_ID": "memtrace journal drop ORG_ID --yes",  # there is no terminal to ask at
    "/backups/": "./",
    "memtrace restore ./memtrace-2026-11-23.tar": "MEMTRACE_AUTH_DB_PATH=new/memtrace.db memtrace restore ./*.tar",
}
"""What has to be another way where nobody looks on, and where one server is shared."""

WRAPPERS = ("docker", "sudo")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        """How the block is known."""
        return f"{self.page.name}: {self.text.splitlines()[0][:50]}"


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, each with the language that it says."""
    text = page.read_text(encoding="utf-8")
    found = [Block(page, language, content) for language, content in FENCED.findall(text)]
    assert len(found) * 2 == len(re.findall(r"^\s*```", text, re.MULTILINE)), f"a block of {page} is not closed"
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(language: str, *, but: Collection[str] = ()) -> pytest.MarkDecorator:
    """Run a test for each block in a language, those apart that are named."""
    chosen = [block for block in BLOCKS if block.language == language and block.name not in but]
    assert chosen
    return pytest.mark.parametrize("block", chosen, ids=[f"{one.page.stem}-{one.language}" for one in chosen])


def test_every_block_is_in_a_language_that_is_tested() -> None:
    """Drawings have none; what a person would paste has one that a test below takes."""
    tested = {"sh", "python", "json", "yaml", "toml", "ini"}
    of_other_programs = {"nginx", "caddyfile", "haproxy"}  # tests "behind a proxy" have what they mean, or run them
    of_other_programs |= {"sql"}  # test_postgres runs it
    assert {block.language for block in BLOCKS} <= {*tested, *of_other_programs, DRAWING}
    for block in BLOCKS:
        if block.language == DRAWING:
            assert re.search("[─►]", block.text), f"{block.name} is no drawing, and in no language"


def test_no_exception_outlives_its_block() -> None:
    """Every block that is listed as one that cannot be run is still there."""
    assert set(CANNOT_BE_RUN) <= {block.name for block in BLOCKS if block.language == "sh"}


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every call of memtrace in a script, also within containers and substitutions."""
    for line in re.sub(r"<(\w+)>", r"\1", text.replace("\\\n", " ")).splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split, words.commenters = True, "#"
        segments: list[list[str]] = [[]]
        for word in words:
            if re.fullmatch(r"[();<>|&]+|--", word):
                segments.append([])
            else:
                segments[-1].append(word)
        for segment in segments:
            while segment and re.match(r"\w+=", segment[0]):
                segment = segment[1:]
            places = [place for place, word in enumerate(segment) if word.rpartition("/")[2] == "memtrace"]
            if places and (places[0] == 0 or (segment[0] in WRAPPERS and segment[1] != "build")):
                yield segment[places[-1] + 1 :]


def assert_understood(arguments: list[str]) -> None:
    """Expect that a command with these options exists."""
    app.parse_args(arguments, exit_on_error=False, print_error=False)


@of("sh")
def test_every_command_exists(block: Block) -> None:
    """Commands and options of memtrace are those of the program, in blocks that are not run here, too."""
    for arguments in commands_in(block.text):
        assert_understood(arguments)


def test_a_command_that_does_not_exist_would_be_seen() -> None:
    """What the test above looks for is found, wherever in a line it stands."""
    script = (
        "sudo -u x /bin/memtrace org lst\nA=1 memtrace key create --org <org_id> --nam x > y\nx=$(memtrace serv)\n"
        "kubectl exec x -- memtrace docter"
    )
    found = list(commands_in(script))
    assert found == [["org", "lst"], ["key", "create", "--org", "org_id", "--nam", "x"], ["serv"], ["docter"]]
    for arguments in found:
        with pytest.raises(CycloptsError):
            assert_understood(arguments)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_nobody_is_told_to_install_another_program(page: Path) -> None:
    """The public package index has a `memtrace` that is not ours: every page installs from a folder."""
    for told in re.findall(r"pip install ([^`\n]*)", page.read_text(encoding="utf-8")):
        assert not re.search(r"(?<![\w/.-])memtrace(?!-sdk|[\w-])", told.partition("&&")[0]), told


@of("json")
def test_json_is_json(block: Block) -> None:
    """It can be pasted as it stands."""
    assert json.loads(block.text)


@of("yaml")
def test_yaml_is_yaml(block: Block) -> None:
    """It can be pasted as it stands."""
    assert all(yaml.safe_load_all(block.text))


@of("toml")
def test_settings_can_be_used(block: Block, tmp_path: Path) -> None:
    """A server takes them without an error or a warning."""
    assert tomllib.loads(block.text)
    file = tmp_path / "memtrace.toml"
    file.write_text(block.text)
    loaded = examine_settings(file, {})
    assert (loaded.problems, loaded.warnings) == ((), ())


def test_every_variable_exists() -> None:
    """No page, block or not, names a variable that Memtrace does not know."""
    known = {f"MEMTRACE_{name}" for name in OTHER_VARIABLES}
    for section in msgspec.structs.fields(Settings):
        known |= {f"MEMTRACE_{section.name}_{key}".upper() for key in section.type.__struct_fields__}
    for page in PAGES:
        named = set(re.findall(r"MEMTRACE_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
        assert named <= known, page


def test_every_setting_is_in_the_table() -> None:
    """The page on configuration has each key once, with its default."""
    page = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+\.\w+`(?:, )?)+) \| (.*?) \|", page, re.MULTILINE)
    told = {key: default for keys, default in rows for key in re.findall(r"`([\w.]+)`", keys)}
    wanted = {}
    for section in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(section.type):
            value = getattr(section.type(), field.name)
            wanted[f"{section.name}.{field.name}"] = (
                f"`{value:g}`" if type(value) is float else "none" if value in (None, ()) else f"`{shown(value)}`"
            )
    legacy = {f"arc.{key}" for key in ("url", "api_key", "database", "measurement")}
    assert told == {key: default for key, default in wanted.items() if key not in legacy}
    assert all(f"`{key}`" in page for key in legacy)


def documents(first_line: str) -> list[Any]:
    """Return what the YAML block that begins so holds."""
    (block,) = [one for one in BLOCKS if one.language == "yaml" and one.text.startswith(first_line)]
    return list(yaml.safe_load_all(block.text))


def test_the_manifests_serve_and_probe_what_there_is() -> None:
    """One replica, every probe at /health on the port, time enough to stop, the data where the image has them."""
    found = {one["kind"]: one for one in documents("apiVersion: v1")}
    workload = found["StatefulSet"]["spec"]
    assert workload["replicas"] == 1
    pod = workload["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 2 * Settings().server.shutdown_timeout
    (container,) = pod["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": Settings().server.port}]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    assert_understood(container["args"][1:])
    assert {one["mountPath"]: one["name"] for one in container["volumeMounts"]}["/app/data"] == "data"
    assert [one["metadata"]["name"] for one in workload["volumeClaimTemplates"]] == ["data"]
    (key_file,) = [one["value"] for one in container["env"] if one["name"] == "MEMTRACE_MASTER_KEY_FILE"]
    assert Path(key_file).name in found["Secret"]["stringData"]
    (port,) = found["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (Settings().server.port, "http")
    assert found["Service"]["spec"]["selector"] == workload["template"]["metadata"]["labels"]


def test_compose_builds_and_stops_what_there_is() -> None:
    """The Containerfile is there, the port is the server's, and there is time enough to stop."""
    (composed,) = documents("services:")
    service = composed["services"]["memtrace"]
    assert (TOP / service["build"]["dockerfile"]).is_file()
    assert service["ports"] == [f"127.0.0.1:{Settings().server.port}:{Settings().server.port}"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 2 * Settings().server.shutdown_timeout
    volumes = [volume for one in composed["services"].values() for volume in one["volumes"]]
    assert {volume.partition(":")[0] for volume in volumes} == set(composed["volumes"])


def test_replication_copies_both_databases() -> None:
    """Litestream is given the metadata database and the journal, each to a place of its own."""
    (configured,) = documents("dbs:")
    folder = "/var/lib/memtrace"
    assert [one["path"] for one in configured["dbs"]] == [f"{folder}/memtrace.db", f"{folder}/journal.db"]
    assert len({one["replica"]["url"] for one in configured["dbs"]}) == 2


@of("ini")
def test_the_systemd_unit_is_sound(block: Block, tmp_path: Path) -> None:
    """It starts commands that exist, gives the server time to stop, and passes systemd's own verification."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block.text)
    service = unit["Service"]
    for key in ("ExecStart", "ExecStartPre"):
        assert_understood(shlex.split(service[key])[1:])
    assert float(service["TimeoutStopSec"]) > 2 * Settings().server.shutdown_timeout
    if shutil.which("systemd-analyze"):
        # Verification wants programs that are there.
        text = block.text.replace("/opt/memtrace/bin/memtrace", sys.executable)
        file = tmp_path / "memtrace.service"
        file.write_text(text.replace("User=memtrace\nGroup=memtrace\n", ""))
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(file)],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert (verified.returncode, verified.stderr) == (0, "")


REFERENCE = runpy.run_path(str(TOP / "docs" / "site" / "reference.py"))


def test_the_reference_has_every_command() -> None:
    """The page on the command line is made of the program; its examples can be typed."""
    page = REFERENCE["cli_page"]()
    for words in ("org add-arc", "key rotate", "journal export", "config check", "serve", "completion"):
        assert f"# memtrace {words}\n" in page
    examples = re.findall(r"^```sh\n(.*)\n```$", page, re.MULTILINE)
    assert len(examples) > 25
    for example in examples:
        for arguments in commands_in(example):
            assert_understood(arguments)


def test_the_reference_has_every_endpoint(server: Server) -> None:
    """The page on HTTP has each method and path that a running server tells, and each object."""
    page = REFERENCE["http_page"]()
    with server.client() as anybody:
        told = anybody.get("/schema/openapi.json").json()
    for path, methods in told["paths"].items():
        for method in methods:
            assert f"### `{method.upper()} {path}`" in page
    for name in told["components"]["schemas"]:
        assert f"### {name}\n" in page
    for link in re.findall(r"\]\(#(\w+)\)", page):
        assert re.search(rf"^### {link}$", page, re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Home:
    """Where blocks are run: a folder with its server, and an Arc to bind organizations to."""

    deployment: Deployment
    server: Server
    arc: ArcDouble


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Return one for all blocks."""
    deployment = Deployment(tmp_path_factory.mktemp("home"))
    with ArcDouble() as arc, deployment.serve() as running:
        yield Home(deployment, running, arc)


def run(block: Block, command: list[str], home: Home) -> str:
    """Run a block with what its placeholders stand for; it must succeed. Return what it prints."""
    org_id = home.deployment.org(bound="org create" not in block.text)
    tenant = home.deployment.tenant()
    text = block.text
    for told, meant in {
        **CHANGES,
        "http://localhost:9100": home.server.url,
        "ARC_URL": home.arc.url,
        "ARC_KEY": home.arc.write_token,
        "mtk_…": tenant.key,
        "<org_id>": org_id,
        "ORG_ID": org_id,
    }.items():
        text = text.replace(told, meant)
    # A folder of its own, so that no block finds what another has left, with the data of the one server.
    folder = Path(tempfile.mkdtemp(dir=home.deployment.folder))
    folder.joinpath("data").symlink_to(home.deployment.data)
    place = Path(sys.executable).parent
    variables = {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}", "KEY": tenant.key, "PYTHONUTF8": "1"}
    ended = subprocess.run(
        [*command, text],
        cwd=folder,
        env=home.deployment.variables(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
@of("sh", but=CANNOT_BE_RUN)
def test_commands_can_be_pasted(block: Block, home: Home) -> None:
    """Every line of a block succeeds in a shell, against a server that runs."""
    # Without it a refused request would pass for a good one.
    strict = 'set -euo pipefail; curl() { command curl -sS --fail-with-body "$@"; }; eval "$1"'
    run(block, ["bash", "-c", strict, "bash"], home)


@pytest.mark.slow
@of("python")
def test_programs_can_be_pasted(block: Block, home: Home) -> None:
    """Every block of Python runs without a warning, and prints something."""
    assert run(block, [sys.executable, "-W", "error", "-c"], home)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Every link and anchor leads somewhere, and the pages that the program writes are there."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", TOP / "docs/site/mkdocs.yml", "-d", tmp_path],
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    for page in ("index", "cli", "http", "operations", "durability", "comparison", "changelog"):
        assert (tmp_path / f"{page}.html").is_file()
    assert "-m mkdocs" not in (tmp_path / "cli.html").read_text()
    # Nothing that a page needs comes from another host.
    sources = re.findall(
        r'(?:<script[^>]* src|<link[^>]*rel="stylesheet"[^>]* href)="([^"]+)"',
        (tmp_path / "index.html").read_text(),
    )
    assert sources
    assert not [one for one in sources if "//" in one]
