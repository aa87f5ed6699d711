"""The parts of the demo that need no trained model: its picture, its measures, its text."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

DEMO = Path(__file__).resolve().parents[2] / "demo"


def load(name):
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def history(n):
    return [
        {"step": i, "tokens": (i + 1) * 600_000, "train": 4 / (i + 1), "valid": 4.2 / (i + 1)}
        for i in range(n)
    ]


@pytest.mark.parametrize("n", [1, 2, 40])
def test_picture_is_well_formed_and_inside_its_frame(n):
    plot = load("plot")
    root = ElementTree.fromstring(plot.draw({"history": history(n)}))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, p.split(","))) for e in lines for p in e.get("points").split()]
    assert len(lines) == 2
    assert len(points) == 2 * n
    assert all(0 <= x <= plot.WIDTH and 0 <= y <= plot.HEIGHT for x, y in points)


def test_quality_of_a_copy_is_no_divergence_and_of_a_guess_is_the_vocabulary():
    demo = load("demo")
    random = np.random.default_rng(1)
    original = [demo.log_softmax(random.standard_normal((5, 8), np.float32))]
    flat = [demo.log_softmax(np.zeros((5, 8), np.float32))]
    targets = [np.arange(5)]
    assert demo.compare(original, original, targets).divergence == pytest.approx(0, abs=1e-12)
    assert demo.compare(original, flat, targets).perplexity == pytest.approx(8)
    assert demo.compare(original, flat, targets).divergence > 0


def test_stories_are_about_two_thousand_tokens_of_text():
    stories = load("demo").read_stories()
    assert len(stories) == 13
    assert 1500 < sum(len(story.split()) for story in stories) < 3000
