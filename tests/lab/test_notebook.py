"""Notebooks are found, read and converted one way; a pair that differs is noticed."""

import nbformat
import pytest
from toy_checkout import make_checkout

from matchbook.lab.notebook import (
    Notebook,
    all_notebooks,
    convert,
    find_notebook,
    normalise,
    pair_agrees,
    write_notebook,
)
from matchbook.lab.parameters import UsageError
from matchbook.lab.profiles import cross

TOYS = ("00_overview", "toy/counting", "toy/fitting")


@pytest.fixture
def root(tmp_path):
    return make_checkout(tmp_path, TOYS)


def _notebook(folder, *cells):
    path = folder / "made.py"
    path.write_text("\n\n".join(cells) + "\n")
    return Notebook("made", path)


PARAMETERS = '# %% tags=["parameters"]\nprofile: str = "laptop"  # p\narms: list[str] = ["a"]  # w'


def test_notebooks_are_listed_by_name(root):
    (root / "notebooks" / ".ipynb_checkpoints").mkdir()
    (root / "notebooks" / ".ipynb_checkpoints" / "x.py").write_text("")
    assert [notebook.name for notebook in all_notebooks(root)] == list(TOYS)


@pytest.mark.parametrize(
    "asked",
    ["toy/counting", "toy/counting.py", "notebooks/toy/counting.ipynb", "notebooks/toy/counting"],
)
def test_notebooks_are_found_by_name_and_path(root, asked, monkeypatch):
    monkeypatch.chdir(root)
    assert find_notebook(asked, root).name == "toy/counting"
    monkeypatch.chdir(root / "notebooks" / "toy")
    assert find_notebook("counting.py", root).name == "toy/counting"


@pytest.mark.parametrize(
    ("asked", "near"),
    [("toy/countign", "toy/counting"), ("counting", "toy/counting"), ("overview", "00_overview")],
)
def test_a_misspelt_notebook_is_refused_with_the_nearest(root, asked, near):
    with pytest.raises(UsageError, match=f"did you mean '{near}'"):
        find_notebook(asked, root)


def test_an_unknown_notebook_is_refused_with_the_list(root):
    with pytest.raises(UsageError) as error:
        find_notebook("zzz", root)
    assert "did you mean" not in str(error.value)
    assert all(name in str(error.value) for name in TOYS)


def test_titles_keep_their_question_mark(root):
    counting = find_notebook("toy/counting", root)
    assert counting.title == "Counting?"
    assert counting.node.cells[0].source.startswith("# Counting?\n")


def test_conversion_is_the_same_each_time_and_valid(root, tmp_path):
    for copy in ("one", "two"):
        convert(find_notebook("toy/counting", root), tmp_path / copy)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    node = nbformat.read(tmp_path / "one", as_version=4)
    nbformat.validate(node)
    assert node.cells[1].metadata == {"tags": ["parameters"]}


def test_cells_that_are_alike_have_different_ids_and_an_edit_changes_one(tmp_path):
    twins = _notebook(tmp_path, "# %%\n1", "# %%\n1", "# %%\n2").node.cells
    assert len({cell.id for cell in twins}) == 3
    edited = _notebook(tmp_path, "# %%\n1", "# %%\n1", "# %%\n3").node.cells
    assert [a.id == b.id for a, b in zip(twins, edited)] == [True, True, False]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# Each arm counts", "# Each arm counts up"),
        ("sign = 1", "sign = 2"),
        (' tags=["parameters"]', ""),
        ("# %% [markdown]\n# Each", "# %%\n# Each"),
    ],
)
def test_a_pair_that_differs_is_noticed(root, old, new):
    counting = find_notebook("toy/counting", root)
    assert not pair_agrees(counting)
    convert(counting, counting.pair)
    assert pair_agrees(counting)
    text = counting.path.read_text()
    assert old in text
    counting.path.write_text(text.replace(old, new))
    assert not pair_agrees(find_notebook("toy/counting", root))


def test_outputs_do_not_make_a_pair_differ(root):
    counting = find_notebook("toy/counting", root)
    executed = nbformat.from_dict(counting.node)
    executed.cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text="hello")]
    write_notebook(executed, counting.pair)
    assert pair_agrees(find_notebook("toy/counting", root))


def test_normalised_notebooks_lose_what_differs_from_run_to_run(root):
    counting = find_notebook("toy/counting", root)
    executed = nbformat.from_dict(counting.node)
    executed.metadata.papermill = {"duration": 1.5}
    executed.metadata.widgets = {"state": {}}
    executed.metadata.language_info.version = "3.12.9"
    cell = executed.cells[2]
    cell.metadata.papermill = {"start_time": "now"}
    cell.metadata.execution = {"iopub.execute_input": "now"}
    pieces = [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]
    cell.outputs = [nbformat.v4.new_output("stream", name=n, text=t) for n, t in pieces]
    mark = nbformat.v4.new_markdown_cell("failed here")
    mark.metadata.tags = ["papermill-error-cell-tag"]
    injected = nbformat.v4.new_code_cell("x = 1")
    injected.metadata.tags = ["injected-parameters"]
    executed.cells = [mark, *executed.cells, injected]
    normal = normalise(executed, counting.node)
    assert normal.metadata == counting.node.metadata
    assert [c.metadata for c in normal.cells[:-1]] == [c.metadata for c in counting.node.cells]
    assert normal.cells[-1].metadata == {"tags": ["injected-parameters"]}
    assert [(o.name, o.text) for o in normal.cells[2].outputs] == [
        ("stdout", "ab"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]


def test_runs_are_read_from_the_source(root):
    counting = find_notebook("toy/counting", root)
    assert counting.runs("laptop", {}) == (["up", "down"], 1)
    assert counting.runs("laptop", {"seeds": 3, "arms": ["up"]}) == (["up"], 3)
    assert find_notebook("toy/fitting", root).runs("smoke", {}) == (["only"], 1)
    assert find_notebook("00_overview", root).runs("laptop", {}) == ([], 0)


@pytest.mark.parametrize(
    ("call", "runs"),
    [
        ("experiment.run(measure)", (["exact"], 1)),
        ("experiment.run(measure, arms=arms, seeds=2)", (["a"], 2)),
        ("runs = experiment.run(\n    measure,\n    arms=['b', 'c'],\n)", (["b", "c"], 1)),
        ("experiment.run(measure, arms=lab.cross(arms, ['x', 'y']))", (["a+x", "a+y"], 1)),
        ("other.run(measure, arms=['b'])", ([], 0)),
    ],
)
def test_runs_of_other_calls(tmp_path, call, runs):
    assert _notebook(tmp_path, PARAMETERS, f"# %%\n{call}").runs("laptop", {}) == runs


@pytest.mark.parametrize("call", ["arms=sorted(arms)", "seeds=count", "seeds=0", "arms=[]"])
def test_runs_that_cannot_be_told_are_refused(tmp_path, call):
    notebook = _notebook(tmp_path, PARAMETERS, f"# %%\nexperiment.run(measure, {call})")
    with pytest.raises(UsageError, match="expected"):
        notebook.runs("laptop", {})


@pytest.mark.parametrize(
    "cells", [["# %%\n1", PARAMETERS], ["# %% [markdown]\n# Only prose"], ['# %%\nprofile = "a"']]
)
def test_the_first_code_cell_is_the_parameters_cell(tmp_path, cells):
    with pytest.raises(UsageError, match='tags=\\["parameters"\\]'):
        _ = _notebook(tmp_path, *cells).parameters


def test_crossed_names_can_be_told_apart_again():
    assert cross(["a"], ["x", "y"], ["1"]) == ["a+x+1", "a+y+1"]
    with pytest.raises(ValueError, match=r"hold no \"\+\"; got \['a\+b'\]"):
        cross(["a+b"], ["x"])
