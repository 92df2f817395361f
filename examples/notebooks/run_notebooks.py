# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Run notebooks from their first cell to their last, and write them back with what they show.

    python examples/notebooks/run_notebooks.py examples/notebooks/paint.ipynb

It needs nbclient and ipykernel: pip install "diffusers_ediffi[docs]". Pictures are kept as JPEG, counts of cells and
times are not kept, so that a notebook changes where its results do. A notebook whose cell fails stays as it was.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from diffusers_ediffi.cli.options import file
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.files import written_whole

LIMIT = 300_000  # bytes of a notebook
SECONDS = 600  # that a cell may take


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=file, metavar="NOTEBOOK", help="a file such as start.ipynb")
    return parser.parse_args(arguments)


def run(path: Path) -> dict[str, Any]:
    """The notebook with its outputs.

    Raises:
        ValueError: It is no notebook, or a cell of it fails.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    try:
        notebook = nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as error:
        raise ValueError(f"{path} is no notebook: {str(error).splitlines()[0]}") from None
    client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(path.parent)}})
    try:
        return client.execute()
    except CellExecutionError as error:
        raise ValueError(f"{path}: {error.ename}: {error.evalue}") from None


def clean(notebook: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run, and with pictures as JPEG."""
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] != "code":
            continue
        cell["execution_count"] = None
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = None
            if "image/jpeg" in output.get("data", {}):
                output["data"].pop("image/png", None)
                output["data"]["text/plain"] = "a picture"
    return notebook


def main(arguments: list[str] | None = None) -> None:
    """Runs one notebook after the other."""
    for path in map(Path, parse_arguments(arguments).notebooks):
        text = json.dumps(clean(run(path)), indent=1, ensure_ascii=False) + "\n"
        if len(text.encode()) > LIMIT:
            raise ValueError(
                f"{path} would have {len(text.encode())} bytes, more than {LIMIT}: show smaller pictures."
            )
        with written_whole(path) as unfinished:
            Path(unfinished).write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
