"""Saves notebooks with what their widgets showed: an extension of the Jupyter server.

JupyterLab saves a widget as a reference to a model that is stored elsewhere in the file. It drops
the models when a notebook is saved that was opened, but not run, and on a busy machine it may look
for one before it has read them. Both end in "model not found". HTML always reopens.
"""

import html
from typing import Any

import nbformat

from kdcourse.course.notebooks import VIEW, course_notebooks

STATE = "application/vnd.jupyter.widget-state+json"
BOXES = {"VBoxModel": "flex-direction: column", "HBoxModel": "align-items: center"}
VALUES: dict[str, Any] = {  # of sliders and of text, by default
    "IntSliderModel": 0,
    "FloatSliderModel": 0,
    "FloatLogSliderModel": 1,
    "TextModel": "",
}
CHOICES = ("ToggleButtonsModel", "SelectionSliderModel", "DropdownModel")
OPTIONS = "_options_labels"
SEEN: dict[str, str] = {}  # what widgets showed at the last save, even if their kernel is gone
HINT = "<div><i>As it was saved. Run the cells above, then this one, to change it.</i></div>"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    server.contents_manager.register_pre_save_hook(freeze)
    # JupyterLab removes drawings from HTML unless it trusts the whole notebook. It trusts what was
    # run here; outputs that come with the course deserve the same trust as its code.
    for path in course_notebooks():
        server.contents_manager.notary.sign(nbformat.read(path, as_version=4))


def freeze(model: dict[str, Any], **_: object) -> None:
    """Replace the references to a notebook's widgets by what the widgets show.

    The file, as the Jupyter server describes it, is changed in place. A widget that cannot be shown
    as HTML is left as it is, and so is the state of all widgets.
    """
    if model.get("type") != "notebook":
        return
    notebook = model["content"]
    models = notebook["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})
    all_shown = True
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if VIEW not in data:
                continue
            name = data[VIEW]["model_id"]
            try:
                SEEN[name] = as_html(name, models)
            except KeyError:
                if name not in SEEN:
                    all_shown = False
                    continue
            data["text/html"] = SEEN[name]
            del data[VIEW]
    if all_shown:
        notebook["metadata"].pop("widgets", None)


def as_html(name: str, models: dict[str, Any]) -> str:
    """Return what a widget shows as HTML, from the state of all models without default values.

    Raises:
        KeyError: There is no such model, or it is of a kind that has no HTML.
    """
    kind, state = models[name]["model_name"], models[name]["state"]
    if kind in BOXES:
        inside = [child.removeprefix("IPY_MODEL_") for child in state.get("children", ())]
        shown = [as_html(child, models) for child in inside]
        if any(models[child]["model_name"] in (*VALUES, *CHOICES) for child in inside):
            shown.append(HINT)
        style = f"display: flex; {BOXES[kind]}; gap: 4px 8px"
        return f"<div style='{style}'>{''.join(shown)}</div>"
    if kind == "HTMLModel":
        return f"<div>{state.get('value', '')}</div>"
    if kind == "FloatProgressModel":
        value, most = state.get("value", 0.0), state.get("max", 100.0)
        return f"<progress value='{value}' max='{most}'></progress>"
    if kind == "RadioButtonsModel":
        options = enumerate(map(html.escape, state[OPTIONS]))
        lines = (f"{'●' if n == state.get('index') else '○'} {text}<br>" for n, text in options)
        return f"<div>{''.join(lines)}</div>"
    if kind in CHOICES:
        chosen = state.get("index")
        value = "" if chosen is None else state[OPTIONS][chosen]
    else:
        value = state.get("value", VALUES[kind])
    value = f"{value:.3g}" if isinstance(value, float) else str(value)
    named = ": ".join(filter(None, (state.get("description"), value)))
    return f"<div>{html.escape(named)}</div>"
