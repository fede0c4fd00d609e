import re

import ipywidgets
import torch

from kdcourse import widgets
from kdcourse.data import Images

IMAGES = Images(
    torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8),
    torch.tensor([0, 1, 2, 0, 1]),
    ("ant", "bee", "cat"),
    (0.5,),
    (0.5,),
)
TEACHER = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0, 0], [0, 9, 0]])


def test_the_picture_follows_the_sliders():
    box = widgets.temperature(IMAGES, TEACHER, TEACHER / 2)
    image, tau, screen = box.children
    first = screen.value
    assert "temperature 1" in first
    assert "teacher 100% ant" in first
    tau.value = 100.0
    hot = screen.value
    assert "temperature 100" in hot
    assert "teacher 35% ant" in hot  # nearly uniform
    image.value = 2
    assert "cat" in screen.value
    assert len({first, hot, screen.value}) == 3


def test_controls_are_labelled_and_the_picture_has_a_description():
    box = widgets.temperature(IMAGES, TEACHER, TEACHER)
    *controls, screen = box.children
    assert [control.description for control in controls] == ["image", "temperature"]
    assert controls[0].max == len(IMAGES) - 1
    alt = re.search(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)">', screen.value)
    assert "Image 0" in alt[1]


def test_any_figure_function_becomes_a_widget():
    from matplotlib.figure import Figure

    calls = []

    def draw(k):
        calls.append(k)
        return Figure(figsize=(1, 1)), f"k is {k} & <more>"

    box = widgets.figure_widget(draw, k=ipywidgets.IntSlider(value=3))
    box.children[0].value = 7
    assert calls == [3, 7]
    assert "k is 7 &amp; &lt;more&gt;" in box.children[1].value
