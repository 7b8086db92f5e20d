"""Rules can be told apart: by everyone, in both themes, and without colour."""

from itertools import combinations

import numpy as np
import pytest

from apical.report.styles import DARK, LIGHT, MARKERS, assign

PAPER = {LIGHT: "#fcfbf8", DARK: "#15171c"}

# Machado, Oliveira & Fernandes 2009, severity 1, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(color):
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(rgb):
    """Ottosson 2020: distances in it are about as large as differences look."""
    lms = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.array(lab) @ np.cbrt(np.array(lms) @ rgb)


def contrast(one, other):
    luminances = sorted(linear(color) @ [0.2126, 0.7152, 0.0722] + 0.05 for color in (one, other))
    return luminances[1] / luminances[0]


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_hues_stay_apart(palette, vision):
    seen = [oklab(np.clip(np.array(VISION[vision]) @ linear(color), 0, 1)) for color in palette]
    for (i, one), (j, other) in combinations(enumerate(seen), 2):
        assert np.linalg.norm(one - other) > 0.08, (palette[i], palette[j])  # Okabe & Ito's own hues reach 0.076


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_hues_stand_out_from_the_page(palette):
    for color in palette:
        assert contrast(color, PAPER[palette]) >= 2.95, color


def test_colour_is_never_the_only_cue():
    looks = assign([("backprop", "Backpropagation"), *((f"rule {i}", f"Rule {i}") for i in range(20))])
    assert looks["Backpropagation"].color == "var(--rule-0)"
    assert len({(look.color, look.marker, look.dash) for look in looks.values()}) == 21
    first = list(looks.values())[: len(MARKERS)]
    assert len({look.marker for look in first}) == len(first)


def test_backprop_has_the_ink_wherever_it_stands():
    looks = assign([("feedback_alignment", "Feedback alignment"), ("backprop", "Backpropagation")])
    assert looks["Backpropagation"].color == "var(--rule-0)"
    assert looks["Feedback alignment"].color == "var(--rule-1)"
