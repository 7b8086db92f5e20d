"""Ways to break src: each replaces one piece of text, which must occur exactly once."""

from mutants import around, core, feedback, rules, runs
from mutants.mutation import Mutation as Mutation

MUTATIONS = (*core.MUTATIONS, *feedback.MUTATIONS, *rules.MUTATIONS, *around.MUTATIONS, *runs.MUTATIONS)
