"""Ways to break the core: each replaces one piece of text, which must occur exactly once."""

from mutants import core, feedback, rules
from mutants.mutation import Mutation as Mutation

MUTATIONS = (*core.MUTATIONS, *feedback.MUTATIONS, *rules.MUTATIONS)
