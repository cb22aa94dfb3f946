"""A small table of published numbers, and records with names, for tests of the results."""

from lra_tasks import record
from lra_tasks.published import parse_published

SMALL = parse_published(
    {
        "unit": "percent",
        "tasks": [{"task": "listops", "title": "ListOps"}, {"task": "text", "title": "Text"}],
        "rows": [
            {"row": "transformer", "title": "Transformer", "reproduced": True},
            {"row": "local", "title": "Local", "reproduced": False},
            {"row": "luna16", "title": "Luna-16", "reproduced": True},
        ],
        "sources": {
            "luna": {
                **{"short": "Luna, Table 1", "paper": "Luna (Ma et al.)", "arxiv": "2106.01540", "table": "Table 1"},
                **{"protocol": "its recipes", "caveat": "quoted"},
            }
        },
        "confirmations": {"mega": "Mega, Table 2"},
        "values": [
            {"source": "luna", "row": row, "printed_row": row, "task": task, "percent": percent}
            | {"confirmed_by": ["mega"]}
            for row, task, percent in [
                ("transformer", "listops", 37.11),
                ("transformer", "average", 51.16),
                ("luna16", "listops", 60.0),
                ("local", "text", 52.98),
            ]
        ],
    }
)


def name_records(*records: record.Record) -> list[tuple[str, record.Record]]:
    return [(f"{index}.json", one) for index, one in enumerate(records)]
