"""Imports go down only, the packages know what they may know, functions and files keep their size."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# lowest first; a module may import modules of lower floors only, never one of its own
FLOORS = {
    "luna_jax": [
        ["axes", "initializers"],
        ["ops", "dense", "apollo", "generation_rules"],
        ["attention.checks", "causal", "generation"],
        ["sequence_parallel"],
        ["attention.base", "attention.blocks"],
        ["attention.chunked", "attention.kernelised", "attention.causal_luna", "attention.folded"],
        [
            *("attention.luna", "attention.softmax", "attention.local", "attention.sparse", "attention.longformer"),
            *("attention.linformer", "attention.reformer", "attention.sinkhorn", "attention.synthesizer"),
            *("attention.bigbird", "attention.linear", "attention.performer", "attention.random_feature"),
        ],
        ["attention.registry"],
        ["layers"],
        ["encoder", "decoder"],
        ["classifier", "seq2seq", "language_model"],
        ["fairseq", "examination"],
        ["conformance"],
    ],
    "lra_tasks": [
        [
            *("errors", "allocator", "metrics", "provenance", "console", "label_layout", "row_styles"),
            *("gradients", "fingerprints", "profiling", "clock", "stopping", "collectives"),
        ],
        ["vocab", "typed_json", "folders", "backend", "contact_sheet", "pathfinder_settings", "intervals", "blocks"],
        ["record_fields", "translation", "subwords"],
        ["task", "record", "bleu", "runlog", "archives", "pathfinder_patches", "published_tables", "report"],
        ["mechanisms", "downloads", "pathfinder_work", "published", "curves", "efficiency", "translation_record"],
        ["machine"],
        ["settings", "efficiency_numbers", "bleu_intervals", "groups", "hosts", "distributed"],
        ["pathfinder_snakes", "pathfinder_pictures", "archive_members", "translation_settings", "workdirs"],
        ["listops_expression", "listops_trees", "pathfinder_images", "efficiency_tables", "speed_plot", "seeds"],
        [
            "store",
            "loader",
            "optim",
            "checkpoint",
            "model",
            "tables",
            "splits",
            "translation_groups",
            "translation_model",
        ],
        [
            *(
                "listops_raw",
                "pathfinder_raw",
                "texts",
                "evaluation",
                "steps",
                "averages",
                "calibration",
                "comparisons",
                "worth",
                "translation_optim",
                "translation_data",
            ),
            *("figure_data", "cells", "card_parts"),
        ],
        [
            *("listops", "text", "retrieval", "image", "pathfinder", "entries", "findings"),
            *("figure_panels", "page_charts", "seeds_steps"),
        ],
        ["translation_layout", "translation_batches", "seeds_checkpoints"],
        [
            "registry",
            "layout",
            "table_text",
            "figures",
            "page",
            "translation_card",
            "translation_steps",
            "translation_decoding",
        ],
        ["dataset", "collection", "selection", "loop"],
        ["preparation", "training", "card", "outputs", "parallel_text", "translation_training"],
        [
            "finishing",
            "translation_finishing",
            "seeds_loop",
            "cli",
            "benchmark_tasks",
            "costs",
            "efficiency_machine",
            "efficiency_files",
        ],
        ["measurements"],
        [
            *("efficiency_cells", "translation_preparation", "causal_benchmark", "sequence_benchmark"),
            *("seeds_training", "seeds_benchmark", "split_benchmark", "program_benchmark"),
        ],
        ["efficiency_run", "memory_benchmark", "speed_benchmark"],
        ["train", "evaluate", "translate", "prepare", "results", "benchmark", "models", "conformance", "drift"],
    ],
}
PACKAGES = ["luna_jax", "lra_tasks", "configs"]
ENTRIES = {f"lra_tasks.{name}" for name in FLOORS["lra_tasks"][-1]}
COMMAND_LINE = ENTRIES | {"lra_tasks.cli"}
MAX_FUNCTION_LINES, MAX_FILE_LINES = 50, 300


def list_modules(package):
    """{dotted name: file} of a package that is there."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


ALL_MODULES = {name: file for package in PACKAGES for name, file in list_modules(package).items()}


def list_imports(source, modules):
    """Dotted names that the source imports anywhere, also inside functions; `from a import b`: a.b if a module."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else str(node.module) for name in whole}
    return names


def find_upward_imports(package, floors, sources):
    """(module, imported) pairs that do not go down, for sources {module: text}; a module without a floor has none."""
    floor_of = {f"{package}.{module}": number for number, floor in enumerate(floors) for module in floor}
    return [
        (module, imported)
        for module, source in sources.items()
        for imported in sorted(list_imports(source, sources))
        if module in floor_of and imported in floor_of and floor_of[imported] >= floor_of[module]
    ]


def read_package(package):
    """{module: text}, without the empty __init__ files."""
    return {name: file.read_text() for name, file in list_modules(package).items() if file.name != "__init__.py"}


@pytest.mark.parametrize("package", FLOORS)
def test_every_module_stands_on_a_floor(package):
    known = {f"{package}.{module}" for floor in FLOORS[package] for module in floor}
    assert set(read_package(package)) == known, "a module that comes or goes is entered in FLOORS"


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_down_only(package):
    assert find_upward_imports(package, FLOORS[package], read_package(package)) == []


@pytest.mark.parametrize("name", [name for name, file in ALL_MODULES.items() if file.name == "__init__.py"])
def test_packages_are_empty_so_that_modules_are_imported_by_name(name):
    tree = ast.parse(ALL_MODULES[name].read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def list_roots(name):
    """Top-level packages that a module imports, the standard library left out."""
    roots = {imported.split(".")[0] for imported in list_imports(ALL_MODULES[name].read_text(), ALL_MODULES)}
    return roots - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", [name for name in ALL_MODULES if name.split(".")[0] == "luna_jax"])
def test_the_model_library_knows_no_task_file_flag_or_config_system(name):
    optax = {"optax"} if name == "luna_jax.apollo" else set()
    assert list_roots(name) <= {"jax", "flax", "jaxtyping", "numpy", "luna_jax"} | optax
    called = [node.func for node in ast.walk(ast.parse(ALL_MODULES[name].read_text())) if isinstance(node, ast.Call)]
    assert "open" not in [function.id for function in called if isinstance(function, ast.Name)]


@pytest.mark.parametrize("name", [name for name in ALL_MODULES if name.split(".")[0] == "configs"])
def test_configs_open_without_jax(name):
    assert list_roots(name) <= {"ml_collections", "configs"}


@pytest.mark.parametrize("name", [name for name in ALL_MODULES if name.split(".")[0] == "lra_tasks"])
def test_flags_and_config_dicts_stay_in_the_entries(name):
    roots = list_roots(name)
    assert name in ENTRIES or "configs" not in roots
    assert name in COMMAND_LINE or not roots & {"absl", "ml_collections"}


@pytest.mark.parametrize("name", ALL_MODULES)
def test_functions_and_files_keep_their_size(name):
    source = ALL_MODULES[name].read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    sizes = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert {function: lines for function, lines in sizes.items() if lines > MAX_FUNCTION_LINES} == {}


def test_the_reader_of_imports_sees_every_form():
    sources = {"a.low": "", "a.high": "def f():\n    from a import low\n"}
    assert find_upward_imports("a", [["low"], ["high"]], sources) == []
    assert find_upward_imports("a", [["high"], ["low"]], sources) == [("a.high", "a.low")]
    for text in ("import a.low", "from a.low import x", "from a import low", "import a.low as low"):
        sources = {"a.low": "", "a.beside": text}
        assert find_upward_imports("a", [["low", "beside"]], sources) == [("a.beside", "a.low")]
