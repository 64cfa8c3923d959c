"""Promises of the repository about itself: its layout, its imports, the length of its files."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {"gpt2.py", "gpt2_pico.py", "sampling.py", "encoder.py", "utils.py", "batch.py", "explore.py"}
PACKAGES = {"checkpoints", "cli", "engine", "runner", "views"}
LINES = {"gpt2.py": 290, "gpt2_pico.py": 100, "sampling.py": 640}
STATEMENTS = {"gpt2.py": 180}
MODULE_LINES = 400  # of any other module

CORE = {"gpt2", "sampling", "checkpoints", "engine", "utils", "encoder"}
MAY_IMPORT = {  # module or package -> the modules and packages of the project that it may import
    "encoder": set(),
    "sampling": set(),
    "gpt2_pico": set(),
    "gpt2": {"sampling"},
    "checkpoints": {"encoder"},
    "engine": {"gpt2", "sampling", "checkpoints", "encoder"},
    "utils": {"checkpoints", "encoder", "engine"},
    "cli": CORE,
    "runner": CORE | {"cli"},
    "views": CORE | {"cli"},
    "batch": set(),
    "explore": set(),
}
THIRD_PARTY_OF_THE_CORE = {"encoder": {"regex"}, "sampling": {"numpy"}, "gpt2_pico": {"numpy"}, "gpt2": {"numpy"}}


def modules():
    """Return {dotted name: path} of the product's modules."""
    paths = [ROOT / name for name in TOP_LEVEL]
    for package in PACKAGES:
        paths += (ROOT / package).rglob("*.py")
    relative = {path: path.relative_to(ROOT).with_suffix("") for path in paths}
    return {".".join(name.parts).removesuffix(".__init__"): path for path, name in relative.items()}


MODULES = modules()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(nodes):
    """Return the dotted names that import statements among these nodes refer to: modules, or names in modules."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_import(tree):
    """Yield the nodes that run when a module is imported: not those of functions, nor of `if __name__ == ...`."""
    for node in ast.iter_child_nodes(tree):
        is_main = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        if not isinstance(node, (ast.FunctionDef, ast.Lambda)) and not is_main:
            yield node
            yield from at_import(node)


def module_of(name):
    """Return the module of the project that a dotted name is in, or None."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def project_imports(name, nodes):
    found = {module_of(imported) for imported in imported_names(nodes)}
    return found - {None, name}


# ---- layout ----------------------------------------------------------------------------------------------------


def test_the_top_level_holds_the_seven_files_to_read_and_run():
    assert {path.name for path in ROOT.glob("*.py")} == TOP_LEVEL


def test_every_folder_with_code_is_a_known_package():
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    folders = {name.split("/")[0] for name in tracked if "/" in name}
    assert folders <= PACKAGES | {"tests", "benchmarks", "models", "docs"}


def test_no_benchmark_has_the_name_of_a_module_of_the_product():
    names = {part for name in MODULES for part in name.split(".")}
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} & names == set()


def test_every_package_and_module_is_in_the_layout_of_contributing_md():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = {path.name for path in MODULES.values()} - {"__init__.py"}
    assert [name for name in sorted(files) if name not in text] == []


# ---- imports ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_the_table_allows(name):
    part = name.split(".")[0]
    allowed = MAY_IMPORT[part] | {part}
    nodes = ast.walk(tree_of(MODULES[name])) if part in PACKAGES else at_import(tree_of(MODULES[name]))
    parts = {imported.split(".")[0] for imported in project_imports(name, nodes)}
    assert parts - allowed == set()


def cycle_of(graph):
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return None


def test_imports_have_no_cycle():
    assert cycle_of({name: project_imports(name, at_import(tree_of(path))) for name, path in MODULES.items()}) is None


def test_imports_inside_functions_have_no_cycle_within_the_packages():
    inside = {name: path for name, path in MODULES.items() if name.split(".")[0] in PACKAGES}
    assert cycle_of({name: project_imports(name, ast.walk(tree_of(path))) for name, path in inside.items()}) is None


def test_imports_of_benchmarks_have_no_cycle():
    paths = {path.stem: path for path in (ROOT / "benchmarks").glob("*.py")}
    graph = {name: imported_names(ast.walk(tree_of(path))) for name, path in paths.items()}
    graph = {
        name: {imported.split(".")[0] for imported in names} & set(paths) - {name} for name, names in graph.items()
    }
    assert cycle_of(graph) is None


@pytest.mark.parametrize("name", THIRD_PARTY_OF_THE_CORE)
def test_a_teaching_file_imports_no_other_package(name):
    imported = {full.split(".")[0] for full in imported_names(ast.walk(tree_of(MODULES[name])))}
    own = {module.split(".")[0] for module in MODULES}
    assert imported - set(sys.stdlib_module_names) - own == THIRD_PARTY_OF_THE_CORE[name]


@pytest.mark.parametrize("removed", ["runner", "views"])
def test_the_rest_works_without_a_package(removed):
    users = {
        name.split(".")[0] for name, path in MODULES.items() if removed in str(imported_names(ast.walk(tree_of(path))))
    }
    assert users <= {removed, "batch", "explore"}


# ---- length and style ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), LINES.items())
def test_a_teaching_file_has_at_most_its_number_of_lines(name, limit):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.parametrize(("name", "limit"), STATEMENTS.items())
def test_a_teaching_file_has_at_most_its_number_of_statements(name, limit):
    nodes = list(ast.walk(tree_of(ROOT / name)))
    docstrings = [node for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    assert sum(isinstance(node, ast.stmt) for node in nodes) - len(docstrings) <= limit


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_has_at_most_400_lines(name):
    if f"{name}.py" not in LINES:
        assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= MODULE_LINES


def test_gpt2_has_five_rulers():
    rulers = [line for line in MODULES["gpt2"].read_text(encoding="utf-8").splitlines() if line.startswith("# ----")]
    titles = [ruler.strip("# -") for ruler in rulers]
    assert titles == ["arithmetic", "attention and its cache", "the model", "generation", "the command"]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_statement_assigns_one_value(name):
    """Unpacking the result of one call or one name is allowed; `a, b = x, y` is not."""
    packed = [
        node.lineno
        for node in ast.walk(tree_of(MODULES[name]))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
    ]
    assert packed == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_assert_guards_against_user_errors(name):
    assert not [node.lineno for node in ast.walk(tree_of(MODULES[name])) if isinstance(node, ast.Assert)]


# ---- files -----------------------------------------------------------------------------------------------------


def test_the_bundled_model_is_small_and_in_the_official_layout():
    folder = ROOT / "models" / "tiny"
    files = {
        "checkpoint",
        "encoder.json",
        "hparams.json",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "vocab.bpe",
    }
    assert files <= {path.name for path in folder.iterdir()}
    assert sum((folder / name).stat().st_size for name in files) <= 16 * 2**20


def test_git_ignores_generated_files():
    if not (ROOT / ".git").exists():
        return  # an archive without git has nothing to ignore
    made = ["models/tiny/model.safetensors", "models/124M/checkpoint", ".venv/bin/python", "__pycache__/gpt2.pyc"]
    done = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == made
