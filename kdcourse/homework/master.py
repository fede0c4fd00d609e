'''The format of masters: otter's, except that a requirement and its two checks are written once.

A check is a function of the student's function, and of inputs that have defaults::

    """ # BEGIN TEST CONFIG
    points: 1
    failure_message: Take the mean over the samples, not the sum.
    hidden: [{seed: 1}, {seed: 2, samples: 3}]
    """ # END TEST CONFIG

    def mean_over_the_samples(kd_loss, seed=0, samples=6):
        """The same samples twice give the same loss."""

The defaults are the inputs of the public check, ``hidden`` are those of the hidden one. So both ask
for the same; and as the docstring becomes a line of the question, what is graded is always said.
'''

import ast
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

LISTED = "<!-- requirements -->"  # where a question's text lists them
MINUTES = """\
# Not graded: how many minutes did each question take you? It keeps the times above honest.
minutes"""


def spell_out(master: NotebookNode) -> dict[str, float]:
    """Turn a master into one for otter, in place: each requirement into two checks and a line.

    At the end, students are asked how long it took.

    Returns:
        The points of each question.
    """
    from otter.assign.blocks import BlockType, get_cell_config, is_block_boundary_cell

    points: dict[str, float] = {}
    cells: list[NotebookNode] = []
    testing = False
    for cell in master.cells:
        if is_block_boundary_cell(cell, BlockType.QUESTION):
            config = get_cell_config(cell)
            name = config["name"]
            points[name] = config.get("points", 0)
        elif LISTED in cell.source:
            text = cell
        elif is_block_boundary_cell(cell, BlockType.TESTS):
            testing, lines = True, ["**What is graded**", ""]
        elif is_block_boundary_cell(cell, BlockType.TESTS, end=True):
            testing = False
            text.source = text.source.replace(LISTED, "\n".join(lines))
        if testing and cell.cell_type == "code":
            worth, about, checks = _checks(cell.source)
            points[name] += worth
            lines.append(f"- {about}")
            cells += [new_code_cell(check) for check in checks]
        else:
            cells.append(cell)
    table = "".join(f'    "{name}": None,\n' for name in points)
    master.cells = [*cells, new_code_cell(f"{MINUTES} = {{\n{table}}}", id="minutes")]
    return points


def _checks(source: str) -> tuple[float, str, list[str]]:
    """Return a requirement's points, what it is about, and its checks: a public, a hidden one."""
    import yaml

    match ast.parse(source).body:
        case [ast.Expr(value=ast.Constant()) as config, ast.FunctionDef() as function]:
            pass
        case _:
            raise ValueError(f"not a config and one function with a docstring: {source[:200]!r}")
    settings = yaml.safe_load(ast.literal_eval(config.value).partition("\n")[2])
    points, hidden = settings["points"], settings.pop("hidden")
    said = " ".join(str(ast.get_docstring(function)).split())
    about = f"{said} ({points} point{'s' * (points != 1)})"
    _, *body = function.body
    answer, *inputs = (argument.arg for argument in function.args.args)
    defaults = zip(inputs, map(ast.unparse, function.args.defaults), strict=True)
    given = ast.parse("\n".join(f"{name} = {value}" for name, value in defaults)).body
    calls = ast.parse("\n".join(f"{function.name}({answer}, **{one})" for one in hidden)).body

    def check(name: str, body: list[ast.stmt], **config: Any) -> str:
        signature = ast.arguments([], [ast.arg(answer)], kwonlyargs=[], kw_defaults=[], defaults=[])
        doc = ast.Expr(ast.Constant(about))
        test = ast.FunctionDef(name, signature, [doc, *body], [], lineno=0)
        config = yaml.safe_dump({**settings, **config}, allow_unicode=True, width=10_000)
        return f'""" # BEGIN TEST CONFIG\n{config}""" # END TEST CONFIG\n{ast.unparse(test)}'

    public = check(function.name, [*given, *body], points=0, hidden=False)
    elsewhere = check(f"{function.name}_elsewhere", [function, *calls], hidden=True)
    return points, about, [public, elsewhere]
