"""Networks by name, for runs that are described in text, and the modules that they are made of.

from apical import models

model = models.build("mlp:500,500", input_shape=(1, 28, 28), classes=10, seed=0)
"""

from apical.models.named import ACTIVATIONS, FORMS, Spec, build, parse
from apical.models.resnet import ResNet
from apical.models.tree import Tree3

__all__ = ["ACTIVATIONS", "FORMS", "ResNet", "Spec", "Tree3", "build", "parse"]
