"""Breaks the core on purpose, in named ways, and shows which test notices.

    python benchmarks/mutations.py                 # all of them; exit code 1 if one goes unnoticed
    python benchmarks/mutations.py --list
    python benchmarks/mutations.py "signs dropped" # some of them

Each mutation replaces one piece of text, which must occur exactly once, in a copy of src; the tests that should notice
run against the copy. First of all the same tests run against a copy that is not broken: they must pass there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
SECONDS = 300


@dataclass(frozen=True)
class Mutation:
    """One way to break the core.

    Attributes:
        name: what is broken.
        file: under src/apical.
        old: the text that is replaced.
        new: what takes its place.
        tests: the file under tests/core that should notice.
        only: which of its tests, as pytest's -k takes it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    only: str = ""

    def apply(self, source: Path) -> None:
        """Break a copy of src.

        Raises:
            ValueError: the text is not there, or more than once.
        """
        path = source / "apical" / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} holds {text.count(self.old)} times, and not once: {self.old!r}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


CONTRACT, ORACLES, CLOSED = "test_contract.py", "test_oracles.py", "test_closed_forms.py"
TRACING, AROUND, ALIGNED = "test_tracing.py", "test_surroundings.py", "test_alignment.py"
TRAITS = "test_traits.py"
ATTENTION = "test_attention.py"
PREDICTIVE, EQUILIBRIUM, BURSTS = "test_predictive_coding.py", "test_equilibrium.py", "test_bursts.py"

MUTATIONS = (
    Mutation(
        "feedback through the forward weights",
        "layers/synapses.py",
        "        below = post.mm(weight) if",
        "        below = post.mm(self.weight) if",
        ORACLES,
        "equations",
    ),
    Mutation(
        "update against the gradient",
        "layers/synapses.py",
        "post.t().mm(_as(pre, post.dtype)) if weight",
        "post.t().mm(_as(-pre, post.dtype)) if weight",
        ORACLES,
        "autograd",
    ),
    Mutation(
        "mean over the batch instead of the sum",
        "layers/synapses.py",
        "post.sum(0) if bias",
        "post.mean(0) if bias",
        CLOSED,
        "synapses",
    ),
    Mutation(
        "padding not undone",
        "layers/synapses.py",
        "        transpose: Any = torch.func.vjp(self._padded, pre)[1]\n",
        "        transpose: Any = torch.func.vjp(lambda pre: F.pad(pre, self.pads), pre)[1]\n",
        CLOSED,
        "synapses",
    ),
    Mutation(
        "signals that meet replace each other",
        "wiring.py",
        "self.arrived[value] = before + signal",
        "self.arrived[value] = signal",
        ORACLES,
        "autograd",
    ),
    Mutation(
        "a broadcast rate gets the whole error",
        "layers/nodes.py",
        "        error = error.sum_to_size(shape)\n",
        "        error = error[(0,) * (error.dim() - len(shape))].expand(shape)\n",
        CLOSED,
        "meeting",
    ),
    Mutation(
        "an error forgets its type under autocast",
        "layers/nodes.py",
        "    return error if error.dtype == dtype else error.to(dtype)\n",
        "    return error\n",
        CLOSED,
        "meeting",
    ),
    Mutation(
        "frozen layers are taught all the same",
        "wiring.py",
        "            own = any(learns[slot] for slot in slots)\n",
        "            own = bool(slots)\n",
        CONTRACT,
        "frozen",
    ),
    Mutation(
        "what is kept of an answer is kept for ever",
        "circuit.py",
        "        tensors, packed = activity.pack()\n",
        "        tensors, packed = activity.pack()\n        self.__dict__['kept'] = tensors\n",
        CONTRACT,
        "kept_of_an_answer",
    ),
    Mutation(
        "NaN goes unnoticed",
        "circuit.py",
        "        check = self.check_finite and not torch.compiler.is_compiling()\n",
        "        check = False\n",
        CONTRACT,
        "none_are_named",
    ),
    Mutation(
        "the summed loss is taken for a mean",
        "wiring.py",
        '        return error.shape[0] if self.reduction == "mean" else 1\n',
        "        return error.shape[0]\n",
        CONTRACT,
        "summed",
    ),
    Mutation(
        "an update is differentiated again",
        "circuit.py",
        "    @once_differentiable\n",
        "",
        CONTRACT,
        "differentiated",
    ),
    Mutation(
        "the rule's signal goes past the neurons",
        "rules/rule.py",
        "            post = descent.somatic(layer, record, arrived) if layer.steps else arrived\n",
        "            post = arrived\n",
        ORACLES,
        "equations",
    ),
    Mutation(
        "direct signals go past the neurons",
        "rules/direct_feedback.py",
        "            post = descent.somatic(layer, record, arrived)\n            del arrived",
        "            post = arrived\n            del arrived",
        ORACLES,
        "equations",
    ),
    Mutation(
        "away from the target",
        "rules/direct_feedback.py",
        "        return negative.to(error.dtype) * (-1.0 / samples)\n",
        "        return negative.to(error.dtype) * (1.0 / samples)\n",
        ORACLES,
        "equations",
    ),
    Mutation(
        "signs dropped",
        "rules/sign_symmetry.py",
        "        signs = layer.weight.detach().sign()\n",
        "        signs = layer.weight.detach().sign().abs_()\n",
        ORACLES,
        "sign",
    ),
    Mutation(
        "batchwise sizes drawn once",
        "rules/randomness.py",
        "torch.from_numpy(self._bytes.random_raw(count)",
        "torch.from_numpy(np.random.SFC64(0).random_raw(count)",
        ORACLES,
        "batchwise",
    ),
    Mutation(
        "feedback weights without their own increment",
        "circuit.py",
        "                    if reciprocal is not None:\n",
        "                    if reciprocal is not None and layer.index % 2:\n",
        ORACLES,
        "increments",
    ),
    Mutation(
        "mirrors count every pattern of noise in full",
        "rules/feedback_alignment.py",
        "alpha=self.rate / self.samples",
        "alpha=self.rate",
        ORACLES,
        "mirror",
    ),
    Mutation(
        "feedback weights of twice the size",
        "rules/randomness.py",
        "        edge = math.sqrt(3) * standard_deviation\n",
        "        edge = math.sqrt(12) * standard_deviation\n",
        ORACLES,
        "size_that_is_asked_for",
    ),
    Mutation(
        "random state not restored",
        "rules/randomness.py",
        "        self.seed = int(words[6])\n",
        "        pass\n",
        ORACLES,
        "random_numbers",
    ),
    Mutation(
        "drawn bytes not restored",
        "rules/randomness.py",
        '            "state": {"state": words[:4].copy()},\n',
        '            "state": self._bytes.state["state"],\n',
        CONTRACT,
        "survives_a_file",
    ),
    Mutation(
        "evaluation moves the batch statistics",
        "layers/norms.py",
        "        from_batch = module.training or mean is None\n",
        "        from_batch = True\n",
        CLOSED,
        "BatchNorm",
    ),
    Mutation(
        "in place where a neighbour reads",
        "tracing/reader.py",
        "            step.in_place = wanted and value in self.fresh\n",
        "            step.in_place = wanted\n",
        TRACING,
        "place",
    ),
    Mutation(
        "dropout in evaluation",
        "layers/shapes.py",
        "not self.mode.training or self.module.p == 0:\n            return x, ()\n        if self.module.p == 1:\n",
        "self.module.p == 0:\n            return x, ()\n        if self.module.p == 1:\n",
        CLOSED,
        "Dropout",
    ),
    Mutation(
        "a derivative read off the answer",
        "layers/activations.py",
        "aten.elu_backward.default(grad, *self.constants, False, saved[0])",
        "aten.elu_backward.default(grad, *self.constants, True, saved[0])",
        CLOSED,
        "ELU",
    ),
    Mutation(
        "the probe looks at one mode",
        "layers/probing.py",
        "            for mode in (True, False) if isinstance",
        "            for mode in (True,) if isinstance",
        TRAITS,
        "near",
    ),
    Mutation(
        "the probe takes permuted units for their own",
        "layers/probing.py",
        "    for places in _layouts():\n",
        "    for places in _layouts()[:1]:\n",
        TRAITS,
        "near",
    ),
    Mutation(
        "the probe looks at values alone",
        "layers/probing.py",
        "        smooth = self.smooth[places] & ",
        "        smooth = torch.zeros(places.shape).bool() & ",
        TRAITS,
        "near",
    ),
    Mutation(
        "own neurons have no traits",
        "tracing/reader.py",
        "LocalGraph(module, traits=traits_of(module))",
        "LocalGraph(module)",
        TRAITS,
        "own_neurons and (burst or equilibrium)",
    ),
    Mutation(
        "parts of a module that draw go unnoticed",
        "layers/steps.py",
        "            random=traits.random or any(map(_draws, module.modules())),\n",
        "            random=traits.random,\n",
        TRAITS,
        "draws_and_memories",
    ),
    Mutation(
        "complex nudges of a linear loss are not conjugated",
        "rules/nudged.py",
        "        if self._whole:  # the derivative",
        "        if False:  # the derivative",
        EQUILIBRIUM,
        "loss_is_linear",
    ),
    Mutation(
        "values of training in evaluation",
        "functions.py",
        "        return template.training if template.owner.training else template.evaluation\n",
        "        return template.training\n",
        TRACING,
        "mode",
    ),
    Mutation(
        "one module in two places",
        "tracing/reader.py",
        "        if module in self.calls and keeps:\n",
        "        if False:\n",
        TRACING,
        "refusal",
    ),
    Mutation(
        "a forward of its own passes for nn.Linear's",
        "layers/synapses.py",
        '        if kind is not None and type(module).forward is getattr(base, "forward", None):\n',
        "        if kind is not None:\n",
        TRACING,
        "refusal",
    ),
    Mutation(
        "learning below a detach",
        "tracing/reader.py",
        "            node.taught = node.index + 1 in taught and not cut\n",
        "            node.taught = True\n",
        TRACING,
        "cut",
    ),
    Mutation(
        "a new rule leaves its parameters out",
        "circuit.py",
        "for n, _ in rule.named_parameters())",
        "for n, _ in [])",
        CONTRACT,
        "learns_something or increments or another_rule",
    ),
    Mutation(
        "the input is not taught",
        "circuit.py",
        "        return (activity.at_input if input_wanted else None), gradients\n",
        "        return None, gradients\n",
        CONTRACT,
        "input_is_taught",
    ),
    Mutation(
        "alignment measured in evaluation",
        "measure/alignment.py",
        "    rule = _weight_updates(copy.deepcopy(circuit), x, y, loss)\n",
        "    rule = _weight_updates(copy.deepcopy(circuit).eval(), x, y, loss)\n",
        ALIGNED,
        "",
    ),
    Mutation(
        "alignment leaves the circuit another rule",
        "measure/alignment.py",
        "copy.deepcopy(circuit).learn_by(Backprop())",
        "circuit.learn_by(Backprop())",
        ALIGNED,
        "trace",
    ),
    Mutation(
        "mirrors forget that autocast shortens numbers",
        "rules/feedback_alignment.py",
        ".to(feedback.dtype)",
        "",
        AROUND,
        "autocast and weight_mirror",
    ),
    Mutation(
        "bursts without a bound",
        "rules/burstccn.py",
        "                bursts = tanh_(arrived.div(events)).mul_(events)",
        "                bursts = arrived.clone()",
        BURSTS,
        "",
    ),
    Mutation(
        "an output that bursts more than always",
        "rules/bursts.py",
        "    return signal.clamp(-events, events).add_(signal, alpha=0)",
        "    return signal.clone()",
        BURSTS,
        "",
    ),
    Mutation(
        "events that are silenced twice over",
        "rules/burstccn.py",
        '        return kept - self.weights[layer] if self.feedback == "homeostatic" else kept',
        '        return kept - 2 * self.weights[layer] if self.feedback == "homeostatic" else kept',
        BURSTS,
        "",
    ),
    Mutation(
        "bursts with a teacher compared with none",
        "rules/burstprop.py",
        "    fallen: Tensor = aten.tanh_backward.default(x.mul_(events), raised)",
        "    fallen: Tensor = x.mul_(events)",
        BURSTS,
        "",
    ),
    Mutation(
        "recurrent input that is not taken away",
        "rules/burstprop.py",
        "        flat.addmm_(own, recurrent.to(own.dtype).t(), alpha=-units.tanh)\n",
        "",
        BURSTS,
        "",
    ),
    Mutation(
        "labels let in",
        "rules/choices.py",
        "        if units > 1:",
        "        if units > 10:",
        ATTENTION,
        "tells_more",
    ),
    Mutation(
        "a value of zero is no choice",
        "losses.py",
        "    value = _single(q).gather(1, action.unsqueeze(1)).squeeze(1)",
        "    value = (_single(q) * torch.eye(q.shape[1], dtype=q.dtype)[action] * (q != 0)).sum(1)",
        ATTENTION,
        "zero",
    ),
    Mutation(
        "a surprise that is not expansive",
        "losses.py",
        "    told = -expansive * drive",
        "    told = -delta * drive",
        ATTENTION,
        "agrel",
    ),
    Mutation(
        "feedback that does not learn",
        "rules/attention.py",
        'kind = KolenPollack if feedback == "kolen_pollack" else FeedbackAlignment',
        "kind = FeedbackAlignment",
        ATTENTION,
        "learned_feedback",
    ),
    Mutation(
        "prediction errors move at once and not by the rate",
        "rules/inference.py",
        "torch.sub(states.drives[index], signal, alpha=self.rate)",
        "torch.sub(states.drives[index], signal)",
        PREDICTIVE,
        "papers_equations",
    ),
    Mutation(
        "optimised errors stay where they are",
        "rules/inference.py",
        "        return signal\n\n    def _move_alone",
        "        return states.posts.get(index, signal)\n\n    def _move_alone",
        PREDICTIVE,
        "error_optimised",
    ),
    Mutation(
        "the wave gives each level the share of the one above",
        "rules/wavefront.py",
        "parts[level] / parts[level - 1] if",
        "parts[level - 1] / parts[level - 1] if",
        PREDICTIVE,
        "papers_equations",
    ),
    Mutation(
        "the nudging strength stays in what the weights learn",
        "rules/predictive_coding.py",
        "        unit = 1 / (samples * self.nudging)\n",
        "        unit = 1 / samples\n",
        PREDICTIVE,
        "weak_nudge",
    ),
    Mutation(
        "a told loss is forgotten while the output moves",
        "rules/nudging.py",
        "            return self._rest + self._softmax(y)\n",
        "            return self.error\n",
        EQUILIBRIUM,
        "knows_the_loss",
    ),
    Mutation(
        "a nudged ReLU lets every signal pass",
        "rules/nudged.py",
        "        return bound(signal, most, out=most)\n",
        "        return signal\n",
        EQUILIBRIUM,
        "papers_does",
    ),
    Mutation(
        "both nudges of a pair have one sign",
        "rules/equilibrium.py",
        ".get(self.nudging, [beta, -beta])",
        ".get(self.nudging, [beta, beta])",
        EQUILIBRIUM,
        "falls_with_the_nudges_order",
    ),
    Mutation(
        "Hopfield synapses carry nothing down",
        "rules/hopfield.py",
        "        return up.add_(down) if once else up + down\n",
        "        return up if once else up.clone()\n",
        EQUILIBRIUM,
        "through_time",
    ),
    Mutation(
        "synapses forget nothing",
        "circuit.py",
        "                    weight = None if weight is None else self._decayed(layer, weight_slot, weight, decay)\n",
        "",
        "test_hebbian.py",
        "equations",
    ),
    Mutation(
        "losers learn as winners do",
        "rules/hebbian.py",
        "torch.scatter(-y, axis",
        "torch.scatter(y, axis",
        "test_hebbian.py",
        "equations",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What a run of tests said: which test failed first (None: none did), and how long it took."""

    failed: str | None
    seconds: float


def run(source: Path, tests: Sequence[str], only: str) -> Outcome:
    """Run tests against a copy of src, up to the first that fails."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", "-rfE"]
    command += [*(f"tests/core/{name}" for name in tests), *(["-k", only] if only else [])]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Outcome(f"no end within {SECONDS} s", time.perf_counter() - start)
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        return Outcome(None, seconds)
    found = re.search(r"^(?:FAILED|ERROR) tests/core/(\S+(?: \S+)*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode != 1 or found is None:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")
    return Outcome(found.group(1), seconds)


def comes_from(source: Path) -> bool:
    """Whether the tests would import the copy."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    code = "import apical; print(apical.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout.startswith(str(source))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which mutations; without any, all")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    chosen = parser.parse_args()
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if chosen.list:
        print("\n".join(f"{m.name:48} {m.file}" for m in MUTATIONS))
        return 0
    if unknown := [name for name in chosen.names if name not in known]:
        parser.error(f"there is no mutation {unknown[0]!r}; --list says what there is")
    mutations = [known[name] for name in chosen.names] or list(MUTATIONS)
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        shutil.copytree(SOURCE, whole, ignore=shutil.ignore_patterns("__pycache__"))
        if not comes_from(whole):
            print("the tests do not import the copy of src: is another apical ahead on the path?")
            return 1
        if failed := run(whole, sorted({m.tests for m in mutations}), "").failed:
            print(f"a test fails without any mutation: {failed}")
            return 1
        width = max(len(mutation.name) for mutation in mutations)
        for mutation in mutations:
            broken = Path(folder) / "broken"
            shutil.copytree(whole, broken)
            mutation.apply(broken)
            outcome = run(broken, [mutation.tests], mutation.only)
            shutil.rmtree(broken)
            if outcome.failed is None:
                survivors.append(mutation.name)
            said = f"caught by {outcome.failed}" if outcome.failed else "NOT NOTICED"
            print(f"{mutation.name:{width}}  {outcome.seconds:5.1f} s  {said}", flush=True)
    print(f"\n{len(mutations) - len(survivors)} of {len(mutations)} mutations were caught.")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
