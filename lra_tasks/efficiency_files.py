"""The files of an efficiency benchmark: JSON and plot in one folder, which is tried before anything is measured."""

from pathlib import Path

from lra_tasks.efficiency import Benchmark, write_benchmark
from lra_tasks.errors import UserError
from lra_tasks.folders import require_output
from lra_tasks.speed_plot import save


def require_writable(folder: Path, name: str) -> None:
    """Raises UserError, before anything is measured, where the files could not be written."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("the plot needs matplotlib; run: pip install -r requirements.txt") from None
    require_output(folder)
    for form in ("json", "png", "svg"):
        if (folder / f"{name}.{form}").is_dir():
            raise UserError(f"--output {folder}: {name}.{form} is a folder there; choose another --output")


def write_files(benchmark: Benchmark, folder: Path, name: str, *, with_json: bool) -> list[Path]:
    """Writes name.json, if asked for, then name.png and name.svg. Returns them. UserError where the disk refuses."""
    files = [folder / f"{name}.json"] if with_json else []
    try:
        if with_json:
            write_benchmark(files[0], benchmark)
        return files + save(benchmark, folder, name)
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror or error}") from None
