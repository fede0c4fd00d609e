import copy
import json

import ipywidgets
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from tqdm.notebook import tqdm

from kdcourse.course import widgets
from kdcourse.course.notebooks import VIEW
from kdcourse.course.saved_widgets import STATE, freeze
from kdcourse.language import Characters
from kdcourse.models import language_model


def notebook(*shown):
    """What JupyterLab is about to save: references to widgets, and the state of all of them."""
    outputs = [
        new_output("display_data", {VIEW: w._repr_mimebundle_()[VIEW], "text/plain": "a widget"})
        for w in shown
    ]
    state = ipywidgets.Widget.get_manager_state(drop_defaults=True)
    content = new_notebook(
        cells=[new_code_cell("", outputs=outputs)], metadata={"widgets": {STATE: state}}
    )
    return {"type": "notebook", "content": json.loads(json.dumps(content))}


def saved(model):
    """The contents of the outputs in the file, and whether the state of widgets is, too."""
    freeze(model=model, path="a.ipynb", contents_manager=None)
    content = model["content"]
    outputs = [output["data"] for cell in content["cells"] for output in cell["outputs"]]
    return outputs, "widgets" in content["metadata"]


def test_what_a_widget_showed_is_saved_as_html():
    box = widgets.html_widget(
        lambda k, x, way: f"<b>{k} {x} {way}</b>",
        k=ipywidgets.IntSlider(description="k < 1"),
        x=ipywidgets.FloatLogSlider(description="temperature", min=0, max=2),
        way=ipywidgets.ToggleButtons(description="way", options=["left", "right"]),
    )
    _, x, way, screen = box.children
    x.value, way.value = 10**0.7, "right"
    (output,), state = saved(notebook(box))
    assert output.keys() == {"text/html", "text/plain"}
    assert not state
    assert screen.value in output["text/html"]
    for said in ("k &lt; 1: 0", "temperature: 5.01", "way: right", "Run the cells above"):
        assert said in output["text/html"]


def test_settings_at_their_defaults_which_are_not_in_the_state():
    sliders = [ipywidgets.FloatLogSlider(description="temperature"), ipywidgets.IntSlider()]
    (output,), _ = saved(notebook(ipywidgets.VBox(sliders)))
    assert "<div>temperature: 1</div><div>0</div>" in output["text/html"]


def test_a_word_that_was_written():
    words = [ipywidgets.Text("a < b", description="or another"), ipywidgets.Text(description="or")]
    (output,), _ = saved(notebook(ipywidgets.VBox(words)))
    assert "<div>or another: a &lt; b</div><div>or</div>" in output["text/html"]
    assert "Run the cells above" in output["text/html"]


def test_what_writers_wrote_is_saved():
    letters = Characters("\n:ab")
    models = {"one": language_model(8, 1, 2, len(letters), seed=0)}
    box = widgets.writers(models, letters, ["ab", "ba"])
    box.children[0].value = "ba"
    (output,), state = saved(notebook(box))
    assert not state
    assert box.children[-1].value in output["text/html"]
    for said in ("word: ba", "or another", "temperature: 1", "draw: 0", "Run the cells above"):
        assert said in output["text/html"]


def test_a_choice_that_was_not_made():
    (output,), _ = saved(
        notebook(ipywidgets.Dropdown(description="way", options=["left"], value=None))
    )
    assert "<div>way</div>" in output["text/html"]


def test_a_progress_bar_is_saved_with_its_numbers():
    bar = tqdm(total=3, unit="step")
    bar.update(2)
    bar.close()
    (output,), _ = saved(notebook(bar.container))
    assert "67%" in output["text/html"]
    assert "2/3" in output["text/html"]
    assert "<progress value='2.0' max='3.0'>" in output["text/html"]
    assert "Run the cells above" not in output["text/html"]


@pytest.mark.parametrize(
    "widget", [ipywidgets.ColorPicker(), ipywidgets.VBox([ipywidgets.Image(value=b"")])]
)
def test_a_widget_of_another_kind_is_saved_as_jupyterlab_does(widget):
    model = notebook(widgets.vote(), widget)
    before = copy.deepcopy(model)
    (ours, other), state = saved(model)
    assert VIEW not in ours
    assert other == before["content"]["cells"][0]["outputs"][1]["data"]
    assert state
    assert model["content"]["metadata"] == before["content"]["metadata"]


def test_a_widget_whose_state_is_unknown_is_left():
    model = notebook(widgets.vote())
    del model["content"]["metadata"]["widgets"]
    before = copy.deepcopy(model)
    saved(model)
    assert model == before


def test_a_widget_whose_kernel_is_gone_is_saved_as_it_was_at_the_save_before():
    box = widgets.vote()
    (before,), _ = saved(notebook(box))
    model = notebook(box)
    model["content"]["metadata"]["widgets"][STATE]["state"] = {}
    (after,), state = saved(model)
    assert after == before
    assert not state


@pytest.mark.parametrize("model", [{"type": "file", "content": "text"}, {"type": "directory"}])
def test_other_files_are_left(model):
    before = copy.deepcopy(model)
    freeze(model=model, path="a.txt", contents_manager=None)
    assert model == before
