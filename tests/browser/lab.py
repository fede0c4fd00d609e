"""A JupyterLab as a student starts it, and a notebook that is open in it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import ElementHandle, Page

from kdcourse.course.notebooks import NOTEBOOKS


class Lab:
    """``python -m kdcourse lab`` on a copy of the notebooks, with no settings of the user's.

    Args:
        folder: where the copy goes.
        startup: a script that every kernel runs first.
    """

    token = "course"

    def __init__(self, folder: Path, startup: Path | None = None):
        self.notebooks = folder / "notebooks"
        shutil.copytree(
            NOTEBOOKS, self.notebooks, ignore=shutil.ignore_patterns(".ipynb_checkpoints")
        )
        scripts = folder / "ipython" / "profile_default" / "startup"
        scripts.mkdir(parents=True)
        if startup is not None:
            shutil.copy(startup, scripts)
        settings = folder / "config" / "labconfig"
        settings.mkdir(parents=True)
        # Saving by hand just when JupyterLab does by itself: it asks which version to keep.
        (settings / "default_setting_overrides.json").write_text(
            '{"@jupyterlab/docmanager-extension:plugin": {"autosave": false}}'
        )
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        }
        self.log = folder / "lab.log"

    def __enter__(self) -> "Lab":
        """Start the server and wait until it answers."""
        options = [
            *("--no-browser", "--port", str(self.port)),
            f"--ServerApp.root_dir={self.notebooks}",
            f"--ServerApp.token={self.token}",
            # The tests read the notebook's model.
            "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",
        ]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kdcourse", "lab", *options],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        while self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/api?token={self.token}"):
                    return self
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"the server stopped:\n{self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()  # JupyterLab ends its kernels itself
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PANEL = "const panel = window.jupyterapp.shell.currentWidget;"
POLLING = 200  # milliseconds: asking at every frame, as is usual, slows down what is waited for


class Notebook:
    """The notebook in front: acted on by mouse and keyboard, read through JupyterLab's model."""

    def __init__(self, page: Page):
        self.page = page

    def wait_for_kernel(self, name: str | None = None) -> None:
        """Wait until a notebook (any, without a name) is in front and its kernel is idle."""
        self.page.wait_for_function(
            """name => {
                const panel = window.jupyterapp?.shell?.currentWidget;
                return panel?.sessionContext?.session?.kernel?.status === 'idle'
                    && (name === null || panel.context.path === name);
            }""",
            arg=name,
            polling=POLLING,
        )

    def open(self, name: str) -> None:
        """Open a notebook from the list of files."""
        self.page.locator(".jp-DirListing-itemText", has_text=name).dblclick()
        self.wait_for_kernel(name)

    def close(self) -> None:
        """Shut the kernel down and close the notebook, without saving."""
        self.page.evaluate(
            f"""async () => {{
                {PANEL}
                await panel.sessionContext.shutdown();
                panel.context.model.dirty = false;
                panel.close();
            }}"""
        )

    def menu(self, menu: str, item: str) -> None:
        """Choose an item of a menu."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=menu).first.click()
        self.page.locator(".lm-Menu-itemLabel", has_text=item).first.click()

    def restart_and_run_all(self) -> None:
        """Choose *Restart Kernel and Run All Cells…*, and confirm."""
        self.menu("Kernel", "Restart Kernel and Run All Cells")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()

    def run(self, cell: int) -> None:
        """Run one cell with Shift and Enter, and wait until it has a number or an error."""
        self.start(cell)
        self.wait_until_run(cell)

    def start(self, cell: int) -> None:
        """Select a cell and press Shift and Enter."""
        self.node(cell).query_selector(".jp-InputPrompt").click()
        self.page.keyboard.press("Shift+Enter")

    def wait_until_run(self, cell: int | None = None) -> None:
        """Wait until a cell (or all) has a number, or any has an error."""
        self.page.wait_for_function(
            f"""cell => {{
                {PANEL}
                const cells = [...panel.content.model.cells].filter((c, n) =>
                    c.type === 'code' && (cell === null || n === cell));
                const failed = c => c.outputs.toJSON().some(o => o.output_type === 'error');
                return cells.every(c => c.executionCount !== null) || cells.some(failed);
            }}""",
            arg=cell,
            polling=POLLING,
            timeout=1_200_000,
        )

    def cells(self) -> list[dict]:
        """Return the cells as they would be stored."""
        return self.page.evaluate(
            f"() => {{ {PANEL} return [...panel.content.model.cells].map(c => c.toJSON()) }}"
        )

    def code_cells(self) -> list[int]:
        """Return the places of the code cells."""
        return [n for n, cell in enumerate(self.cells()) if cell["cell_type"] == "code"]

    def has_run(self) -> bool:
        """Whether every code cell has a number."""
        return None not in [cell.get("execution_count", 0) for cell in self.cells()]

    def node(self, cell: int) -> ElementHandle:
        """Scroll to a cell and return its element."""
        # A notebook that is still being laid out takes cells off the page again.
        handle = self.page.evaluate_handle(
            f"""async cell => {{
                {PANEL}
                const frame = () => new Promise(requestAnimationFrame);
                const {{node}} = panel.content.widgets[cell];
                for (let attempt = 0; attempt < 100; attempt++) {{
                    await panel.content.scrollToItem(cell, 'start');
                    await frame();
                    await frame();
                    if (node.isConnected && node.offsetHeight) break;
                }}
                return node;
            }}""",
            cell,
        )
        element = handle.as_element()
        element.wait_for_element_state("visible")
        return element

    def save(self) -> None:
        """Press Ctrl+S, and wait until the file is written."""
        written = "window.jupyterapp.shell.currentWidget.context.contentsModel.last_modified"
        before = self.page.evaluate(written)
        self.page.keyboard.press("Control+s")
        self.page.wait_for_function(f"before => {written} !== before", arg=before)

    def evaluate(self, code: str, expression: str) -> object:
        """Run code in the notebook's kernel, silently, and return an expression's value."""
        reply = self.page.evaluate(
            f"""async ([code, value]) => {{
                {PANEL}
                const kernel = panel.sessionContext.session.kernel;
                const future = kernel.requestExecute(
                    {{code, store_history: false, user_expressions: {{value}}}});
                return (await future.done).content;
            }}""",
            [code, f"__import__('json').dumps({expression})"],
        )
        assert reply["status"] == "ok", reply
        value = reply["user_expressions"]["value"]
        assert value["status"] == "ok", value
        return json.loads(eval(value["data"]["text/plain"]))
