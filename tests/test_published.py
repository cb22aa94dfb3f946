"""results/published.json: what it holds, that its numbers agree with each other, and what is refused on reading."""

import copy
import json
import math
import re
from pathlib import Path

import pytest

from lra_tasks import published
from lra_tasks.errors import UserError
from lra_tasks.typed_json import JsonError

ROOT = Path(__file__).parent.parent
RAW = json.loads((ROOT / "results" / "published.json").read_text(encoding="utf-8"))
PUBLISHED = published.parse_published(RAW)
LATER = {row.row for row in PUBLISHED.rows if row.later}
MAIN = [value for value in PUBLISHED.values if value.row not in LATER]
# printed averages that the printed tasks of the same row do not give: the mean of the tasks
MISPRINTED = {
    ("lra", "sinkhorn", "average"): 51.476,
    ("fractal", "s5", "average_six"): 87.0566667,
    ("lion", "lion_d", "average_six"): 85.6816667,
    ("lion", "lion_s", "average_six"): 86.0216667,
}


def cells_of(source, row):
    return {value.task: value.percent for value in PUBLISHED.values if (value.source, value.row) == (source, row)}


def edited(*path, to):
    """The raw file with one entry changed."""
    raw = copy.deepcopy(RAW)
    target = raw
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = to
    return raw


def refused(raw):
    with pytest.raises(JsonError) as caught:
        published.parse_published(raw)
    return str(caught.value)


def test_the_main_table_is_that_of_the_two_papers_over_five_tasks():
    assert [task.task for task in PUBLISHED.tasks] == ["listops", "text", "retrieval", "image", "pathfinder32"]
    assert [task.task for task in PUBLISHED.more_tasks] == ["pathfinder128"]
    assert {value.source for value in MAIN} == {"luna", "lra"}
    assert {value.task for value in MAIN} == {*PUBLISHED.averages["average"].tasks, "average"}
    assert len(MAIN) == 13 * 6
    assert len({(value.source, value.row) for value in MAIN}) == 13


def test_later_rows_come_from_later_sources_and_are_not_reproduced():
    sources = {value.source for value in PUBLISHED.values if value.row in LATER}
    assert sources == PUBLISHED.sources.keys() - {"luna", "lra"}
    assert {"s4", "s5", "mega", "dss_softmax", "lru", "lion_s", "mamba", "xlstm", "luna256_s4", "tlb", "igloo"} <= LATER
    assert not any(row.reproduced for row in PUBLISHED.rows if row.later)
    assert [name for name, average in PUBLISHED.averages.items() if average.later] == ["average_without_listops"]
    assert {row.row for row in PUBLISHED.rows} >= LATER | {"luna16", "luna128", "luna256"}


def test_every_row_and_confirmation_is_used():
    printed = {cell.row for cell in (*PUBLISHED.values, *PUBLISHED.failures)}
    assert printed >= LATER
    used = {name for cell in (*PUBLISHED.values, *PUBLISHED.failures) for name in cell.confirmed_by}
    used |= {name for table in PUBLISHED.tables for name in table.confirmed_by}
    assert used == PUBLISHED.confirmations.keys()
    for text in (source.arxiv for source in PUBLISHED.sources.values()):
        assert re.fullmatch(r"\d{4}\.\d{5}", text)
    assert all("https://" in text for name, text in PUBLISHED.confirmations.items() if name != "luna_figure_script")


@pytest.mark.parametrize("name", PUBLISHED.averages)
def test_printed_averages_are_the_means_of_the_printed_tasks(name):
    average = PUBLISHED.averages[name]
    printed = [value for value in PUBLISHED.values if value.task == name]
    misprinted = {}
    for value in printed:
        cells = cells_of(value.source, value.row)
        if average.failed_percent is not None:
            failed = [task for task in average.tasks if PUBLISHED.has_failed(value.source, value.row, task)]
            cells |= dict.fromkeys(failed, average.failed_percent)
        mean = math.fsum(cells[task] for task in average.tasks) / len(average.tasks)
        # both sides are rounded to two decimals: half a hundredth from the cells, half from the average
        if abs(mean - value.percent) > 0.01 + 1e-9:
            misprinted[value.source, value.row, name] = mean
            assert value.caveat
    assert bool(printed) == (name != "average_without_retrieval")  # that one is only in a figure
    assert misprinted == pytest.approx({key: mean for key, mean in MISPRINTED.items() if key[2] == name})


def test_path_x_failed_for_every_model_of_the_benchmark_paper():
    assert {row for source, row in PUBLISHED.failed("pathfinder128") if source == "lra"} == {
        value.row for value in MAIN if value.source == "lra"
    }
    assert PUBLISHED.has_failed("lra", "transformer", "pathfinder128")
    assert not PUBLISHED.has_failed("luna", "transformer", "pathfinder128")
    assert not PUBLISHED.has_failed("lra", "transformer", "text")


def test_different_numbers_for_one_model_stand_side_by_side():
    assert [(value.source, value.percent) for value in PUBLISHED.find("s5", "pathfinder128")] == [
        ("s5", 98.58),
        ("fractal", 98.62),
    ]
    assert [value.percent for value in PUBLISHED.find("mamba", "retrieval")] == [90.2, 72.14]
    (first,), (final,) = PUBLISHED.find("luna256", "listops"), PUBLISHED.find("luna256_s4", "listops")[:1]
    assert (first.percent, final.percent) == (37.98, 37.25)


def test_speed_ratios_are_the_quotients_of_the_steps_a_second():
    table = PUBLISHED.table("lra_table2")
    for line in table.rows[1:]:
        for length in ("1k", "2k", "3k", "4k"):
            steps, ratio = (table.value(line.printed_row, f"{name}_{length}") for name in ("steps", "ratio"))
            base = table.value("Transformer", f"steps_{length}")
            # printed to one decimal, of steps that are rounded to one decimal themselves
            low, high = (steps - 0.05) / (base + 0.05), (steps + 0.05) / (base - 0.05)
            assert low - 0.05 <= ratio <= high + 0.05, (line.printed_row, length)


def test_tables_of_costs_agree_with_each_other():
    luna, figure, mega, lra = (
        PUBLISHED.table(key) for key in ("luna_table2", "luna_figure1", "mega_table2_cost", "lra_table2")
    )
    for name in ("Luna-16", "Luna-128", "Luna-256"):
        for kind in ("speed", "memory"):
            assert luna.value(name, f"{kind}_4k") == figure.value(name, kind)
    for kind in ("speed", "memory"):
        assert luna.value("Luna-256", f"{kind}_4k") == mega.value("Luna-256", f"{kind}_4k")
    for name in ("Reformer", "Linformer", "BigBird", "Performer"):
        assert mega.value(name, "speed_4k") == lra.value(name, "ratio_4k")
        memory = lra.value(name, "gigabytes_4k") / lra.value("Transformer", "gigabytes_4k")
        assert mega.value(name, "memory_4k") == pytest.approx(memory, abs=0.005)


def test_test_accuracies_of_the_train_accuracy_table_are_those_of_the_main_table():
    rows = PUBLISHED.table("lra_table3").rows
    assert {line.row: line.values[0] for line in rows} == {
        value.row: value.percent for value in MAIN if (value.source, value.task) == ("lra", "image")
    }


def test_task_means_are_those_of_the_main_table():
    table = PUBLISHED.table("lra_table1_tasks")
    for task in (*PUBLISHED.averages["average"].tasks, "average"):
        values = [value.percent for value in MAIN if (value.source, value.task) == ("lra", task)]
        # printed without decimals, ListOps and Image cut instead of rounded
        assert abs(table.value("Task Avg (Std)", f"{task}_mean") - sum(values) / len(values)) < 1


def test_what_was_not_found_is_named_and_holds_no_number():
    gaps = {(gap.arxiv, gap.table) for gap in PUBLISHED.missing}
    assert gaps >= {("2106.01540", f"Table {number}") for number in (1, 2, 3, 4, 5, 6)}
    assert PUBLISHED.find("luna16", "text") == PUBLISHED.find("luna128", "text") == []
    assert not any(re.search(r"\d\d\.\d", gap.rows + gap.why) for gap in PUBLISHED.missing)


def test_tables_and_cells_are_found_by_name():
    table = PUBLISHED.table("lra_table2")
    assert table.value("Performer", "steps_4k") == 8.0
    assert table.value("Transformer", "ratio_4k") is None
    with pytest.raises(UserError, match=r"'lra_tabel2' does not exist; did you mean 'lra_table2'"):
        PUBLISHED.table("lra_tabel2")
    with pytest.raises(UserError, match=r"'lra_table2' has no column 'steps_5k'; did you mean 'steps_"):
        table.value("Performer", "steps_5k")
    with pytest.raises(UserError, match=r"has no row 'Perfomer'; did you mean 'Performer'"):
        table.value("Perfomer", "steps_4k")


@pytest.mark.parametrize(
    ("path", "to", "fault"),
    [
        (("values", 0, "source"), "lunar", r"values\[0\]\.source = 'lunar'.*did you mean 'luna'"),
        (("values", 0, "row"), "tranformer", r"values\[0\]\.row = 'tranformer'.*did you mean 'transformer'"),
        (("values", 0, "task"), "listop", r"values\[0\]\.task = 'listop'.*did you mean 'listops'"),
        (("values", 0, "percent"), 100.5, r"values\[0\]\.percent = 100\.5: must be from 0 to 100"),
        (("values", 0, "percent"), -0.1, r"values\[0\]\.percent = -0\.1"),
        (("values", 0, "percent"), math.nan, r"values\[0\]\.percent = nan"),
        (("values", 0, "percent"), "37.11", r"values\[0\]\.percent = '37\.11': must be float"),
        (("values", 0, "confirmed_by"), [], r"values\[0\]\.confirmed_by: empty"),
        (("values", 0, "confirmed_by"), ["meg"], r"values\[0\]\.confirmed_by = 'meg'.*did you mean 'mega'"),
        (("values", 1), RAW["values"][0], r"given twice: \('luna', 'transformer', 'listops'\)"),
        (("values", 0), "37.11", r"values\[0\] = '37\.11': must be an object"),
        (("failures", 0, "task"), "text", r"given twice: \('lra', 'transformer', 'text'\)"),
        (("failures", 0, "source"), "lrar", r"failures\[0\]\.source = 'lrar'.*did you mean 'lra'"),
        (("averages", "average", "tasks"), ["listop"], r"averages\.average\.tasks = 'listop'"),
        (("averages", "average"), 59.24, r"averages\.average = 59\.24: must be an object"),
        (("averages",), [], r"averages = \[\]: must be an object"),
        (("more_tasks", 0, "task"), "text", r"tasks and averages: given twice: text"),
        (("rows", 1, "row"), "transformer", r"rows: given twice: transformer"),
        (("rows", 0, "later"), True, r"rows\[0\]\.later = True: transformer is reproduced"),
        (("tables", 0, "rows", 0, "values"), [1.2], r"tables\[0\]\.rows\[0\]\.values: 1 values for 8 columns"),
        (("tables", 0, "rows", 0, "values", 2), math.inf, r"tables\[0\]\.rows\[0\]\.values, speed_3k = inf"),
        (("tables", 0, "rows", 0, "row"), "luna61", r"tables\[0\]\.rows\[0\]\.row = 'luna61'.*did you mean 'luna16'"),
        (("tables", 0, "columns", 1, "column"), "speed_1k", r"tables\[0\]\.columns: given twice: speed_1k"),
        (("tables", 0, "rows", 1, "printed_row"), "Luna-16", r"tables\[0\]\.rows: given twice: Luna-16"),
        (("tables", 0, "confirmed_by"), ["nobody"], r"tables\[0\]\.confirmed_by = 'nobody'"),
        (("tables", 1, "key"), "luna_table2", r"tables: given twice: luna_table2"),
        (("tables", 0, "rows"), "none", r"tables\[0\]\.rows = 'none': must be a list"),
        (("tables",), "none", r"tables = 'none': must be a list"),
        (("missing", 0), {"paper": "Luna"}, r"missing\[0\]: missing arxiv, table, rows, why"),
    ],
)
def test_a_fault_names_its_field(path, to, fault):
    assert re.search(fault, refused(edited(*path, to=to)))


def test_percent_bounds_hold_in_tables_of_percent_only():
    keys = [table["key"] for table in RAW["tables"]]
    train, costs = keys.index("lra_table3"), keys.index("luna_table2")
    assert "train = 101" in refused(edited("tables", train, "rows", 0, "values", 1, to=101))
    assert published.parse_published(edited("tables", costs, "rows", 0, "values", 0, to=101)).tables[costs]


def test_what_is_not_a_file_of_published_numbers_is_refused(tmp_path):
    path = tmp_path / "published.json"
    for text in ("[1]", "{", '{"unit": "percent", "rows": 3}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"published\.json: cannot be used as published numbers"):
            published.read_published(path)
    with pytest.raises(UserError, match=r"cannot be used as published numbers"):
        published.read_published(tmp_path / "absent.json")


def test_the_new_fields_may_be_left_out():
    kept = ("unit", "tasks", "sources", "confirmations")
    rows = [{key: value for key, value in row.items() if key != "later"} for row in RAW["rows"]]
    small = published.parse_published({**{key: RAW[key] for key in kept}, "rows": rows, "values": RAW["values"][:6]})
    assert (small.more_tasks, small.failures, small.tables, small.missing) == ((), (), (), ())
    assert small.averages["average"].tasks == tuple(task.task for task in PUBLISHED.tasks)
    assert not any(entry.later for entry in (*small.rows, *small.averages.values()))
    assert small.failed("pathfinder128") == frozenset()
