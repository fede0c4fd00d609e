import json

import nbformat
import pytest

from kdcourse.homework import fence, release

NAMES = release.names()


@pytest.fixture(scope="session")
def fenced():
    """Skip where submissions cannot be fenced in, and say so."""
    try:
        fence.check()
    except fence.NoFenceError as error:
        pytest.skip(f"no submission was run: {error}")


class Assignments(dict):
    """Assignments as released, each built when it is first asked for."""

    def __missing__(self, name):
        self[name] = release.build(name)
        return self[name]


@pytest.fixture(scope="session")
def assignments():
    return Assignments()


@pytest.fixture(scope="session")
def masters():
    """The sources of all masters, by assignment and name of the cell."""
    return {
        name: {
            cell.id: cell.source
            for cell in nbformat.read(release.MASTERS / f"{name}.ipynb", as_version=4).cells
        }
        for name in NAMES
    }


@pytest.fixture(scope="session")
def solutions(masters):
    """The reference solutions of all assignments, as functions by name."""
    functions = {}
    for name, cells in masters.items():
        names = {}
        exec(cells["setup"], names)
        for cell, source in cells.items():
            if cell.endswith("-answer") and source.startswith("def "):
                exec(source, names)
        functions[name] = names
    return functions


@pytest.fixture(scope="session")
def notebook(assignments, masters):
    """Make a notebook of an assignment as bytes: the released one, with some cells replaced.

    ``solved`` puts the reference solutions in; ``cells`` are sources by the cell's name, which
    are added at the end where there is no such cell, and None takes a cell out.
    """

    def make(name, *, solved=True, **cells):
        content = json.loads(assignments[name].notebook)
        own = {id: s for id, s in masters[name].items() if solved and id.endswith("-answer")}
        own |= {cell.replace("_", "-"): source for cell, source in cells.items()}
        for cell in content["cells"]:
            cell["source"] = own.pop(cell["id"], cell["source"])
        content["cells"] = [cell for cell in content["cells"] if cell["source"] is not None]
        content["cells"] += [
            nbformat.v4.new_code_cell(source, id=id) for id, source in own.items() if source
        ]
        return json.dumps(content).encode()

    return make
