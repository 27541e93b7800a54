"""Every notebook runs from top to bottom, on one tiny model, in one kernel whose names are wiped before each; it is short and kept without outputs."""
from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
ORIGINALS = {"sof_DataPreprocess", "sof_TestAll", "sof_Test_MV_Inference", "sof_Test_Slicing", "sof_Test_mIoU", "sof_Test_GMM", "sof_CleanData",
             "sof_Test_expression"}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel that runs in another folder than the notebooks'."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"NOTEBOOKS_OUT": str(tmp_path_factory.mktemp("out")), "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        manager.start_kernel(cwd=str(tmp_path_factory.mktemp("elsewhere")))
    yield manager
    manager.shutdown_kernel(now=True)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_each_of_the_originals_is_there():
    assert {path.stem for path in NOTEBOOKS} >= ORIGINALS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_short_and_kept_without_outputs(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert 4 <= len(cells) <= 12
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, kernel, tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel, timeout=300).execute()
    nbformat.write(notebook, tmp_path / path.name)
    pictures = [output for cell in code_cells(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3, f"{len(pictures)} pictures"
