"""AuGMEnT: a network that learns from rewards alone what to remember, for tasks that unfold in time."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from apical.errors import ConfigError, DataError, NonFiniteError
from apical.options import check_choice, check_positive

FEEDBACK = ("equal", "random")


class Augment(nn.Module):
    """Attention-gated memory tagging: SARSA by synaptic tags that attentional feedback from the chosen action sets.

    Regular units answer what is seen now; memory units integrate what appears and disappears, and keep it to the end
    of the trial. With `x` the observation and `[.]+` the positive part::

        x+(t) = [x(t) - x(t-1)]+,  x-(t) = [x(t-1) - x(t)]+          on and off cells
        y_R   = s(V_R [1, x]),     s(a) = 1 / (1 + exp(threshold - a))   regular units
        a_M  += V_M [x+, x-],      y_M = s(a_M)                      memory units
        q     = W [1, y_R, y_M]                                      action values

    Action `k` is the one of highest value; with probability `exploration` it is drawn from softmax(q) instead
    (max-Boltzmann). With `k'` the action before::

        delta = r + discount q_k(t) - q_k'(t-1)                      reward prediction error, global; q_k = 0 at the end
        every weight += learning_rate delta Tag                      W' as W

    and only then, with `l = trace_decay discount`, the chosen action alone feeds back to where it came from::

        Tag_W  <- l Tag_W + y z'                                     z is 1 for action k, else 0
        trace  <- trace + [x+, x-]                                   what arrived at a memory unit's synapses
        Tag_R  <- l Tag_R + [1, x]  (y_R (1 - y_R) W'_k)
        Tag_M  <- l Tag_M + trace   (y_M (1 - y_M) W'_k)

    Memory, traces and tags return to zero when a trial ends. Where W' equals W, a tag is the sum of the gradients of
    the values chosen so far, each faded by `l` a step: SARSA(lambda), although every factor is local to its synapse.

    Paper: Rombouts, Bohte and Roelfsema (2015), "How attention can create synaptic tags for the learning of working
    memories in sequential tasks", PLoS Computational Biology 11: e1004060. The equations as they stand here, both
    biases and the defaults are those of the program that the authors published with it (JRombouts/augment), whose
    feedback weights are the forward ones; that random ones work too is from its read-me. The paper's own numbering of
    equations was not at hand.

    Departs from the paper: equal action values go to the first of them (the authors draw one; the case needs two
    values equal to the last bit), and several environments can teach at once, which is this library's.

    It runs on the CPU, where networks of this size are quickest.

    Args:
        observations: numbers in an observation.
        actions: actions to choose among.
        regular: regular units.
        memory: memory units; 0 for a network without memory.
        environments: how many run side by side: the leading dimension of every input and answer.
        population: one network for each environment, each with weights of its own (many seeds at once), instead of
            one network that learns from all environments, by the mean of their changes.
        learning_rate: beta of the paper, 0.15.
        discount: of the next action's value for one step, gamma.
        trace_decay: lambda of SARSA(lambda): a tag keeps the share trace_decay * discount from step to step.
        exploration: probability of a draw from softmax(q), epsilon.
        threshold: drive at which a unit fires half of its highest rate, theta.
        spread: weights begin uniform between -spread and spread.
        feedback: "equal": feedback weights begin as the forward weights, and stay equal to the last bit since both
            learn by one rule. "random": they begin on their own.
        feedback_decay: share of the output and feedback weights that is lost at each step that learns. Both make the
            same changes, so what they do not share fades, and random feedback weights become the forward ones (Kolen
            and Pollack 1994).
        seed: of the weights and of exploration.
        dtype: torch's default where None.

    Attributes:
        action_values: (environments, actions), of the last step.
        reward_prediction_error: (environments,), delta of the last step; 0 where a trial had just started.

    Raises:
        ConfigError: an option that cannot be.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        *,
        regular: int = 3,
        memory: int = 4,
        environments: int = 1,
        population: bool = False,
        learning_rate: float = 0.15,
        discount: float = 0.9,
        trace_decay: float = 0.2,
        exploration: float = 0.025,
        threshold: float = 2.5,
        spread: float = 0.25,
        feedback: str = "equal",
        feedback_decay: float = 0.0,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_counts(observations=observations, actions=actions, environments=environments)
        if min(regular, memory) < 0 or regular + memory == 0:
            raise ConfigError(f"Augment: regular={regular} and memory={memory} leave no unit to learn with.")
        check_positive("Augment", learning_rate=learning_rate, spread=spread)
        _check_shares(
            discount=discount, trace_decay=trace_decay, exploration=exploration, feedback_decay=feedback_decay
        )
        if not math.isfinite(threshold):
            raise ConfigError(f"Augment: threshold={threshold!r} must be a finite number.")
        check_choice("Augment", "feedback", feedback, FEEDBACK)
        self.observations, self.actions, self.regular, self.memory = observations, actions, regular, memory
        self.environments, self.population = environments, population
        self.learning_rate, self.discount, self.trace_decay = learning_rate, discount, trace_decay
        self.exploration, self.threshold, self.spread = exploration, threshold, spread
        self.feedback, self.feedback_decay, self.seed = feedback, feedback_decay, seed
        self._generator = torch.Generator().manual_seed(seed)
        self._rows = torch.arange(environments)
        self._make_weights(dtype)
        self._make_state(dtype)

    def _make_weights(self, dtype: torch.dtype | None) -> None:
        """Weights (networks, before, after), feedback weights (networks, actions, units)."""
        units = self.regular + self.memory

        def uniform(before: int, after: int) -> nn.Parameter:
            drawn = torch.rand(self.networks, before, after, generator=self._generator, dtype=torch.float64)
            weights = drawn.mul_(2 * self.spread).sub_(self.spread)
            return nn.Parameter(weights.to(dtype or torch.get_default_dtype()), requires_grad=False)

        self.regular_weights = uniform(1 + self.observations, self.regular)
        self.memory_weights = uniform(2 * self.observations, self.memory)
        self.output_weights = uniform(1 + units, self.actions)
        if self.feedback == "equal":
            equal = self.output_weights[:, 1:].mT.clone()
            self.feedback_weights = nn.Parameter(equal, requires_grad=False)
        else:
            self.feedback_weights = uniform(self.actions, units)

    def _make_state(self, dtype: torch.dtype | None) -> None:
        """What a trial leaves behind in units and synapses, one for each environment."""

        def zeros(*shape: int) -> nn.Buffer:
            return nn.Buffer(torch.zeros(self.environments, *shape, dtype=dtype))

        self.action_values = zeros(self.actions)
        self.reward_prediction_error = zeros()
        self._seen = zeros(self.observations)
        self._memory = zeros(self.memory)
        self._trace = zeros(2 * self.observations)
        self._value = zeros()
        self._regular_tag = zeros(1 + self.observations, self.regular)
        self._memory_tag = zeros(2 * self.observations, self.memory)
        self._output_tag = zeros(1 + self.regular + self.memory, self.actions)
        self._fresh = nn.Buffer(torch.ones(self.environments, dtype=torch.bool))
        self._one = nn.Buffer(torch.ones(self.environments, 1, dtype=dtype), persistent=False)

    @property
    def networks(self) -> int:
        """How many networks learn: one, or one for each environment of a population."""
        return self.environments if self.population else 1

    @property
    def tags(self) -> dict[str, Tensor]:
        """The synaptic tags of each kind of weight, (environments, before, after)."""
        return {"regular": self._regular_tag, "memory": self._memory_tag, "output": self._output_tag}

    @torch.no_grad()
    def step(
        self,
        observation: Tensor | np.ndarray,
        reward: Tensor | np.ndarray | None = None,
        terminated: Tensor | np.ndarray | None = None,
        truncated: Tensor | np.ndarray | None = None,
        *,
        learning: bool | Tensor = True,
        exploring: bool = True,
    ) -> Tensor:
        """Take in what the last action led to, learn from it, and choose the next action.

        A trial that has ended takes its last observation here too; the action that comes back for it leads nowhere,
        and the next observation begins a new trial (gymnasium's "next step" autoreset).

        Args:
            observation: (environments, observations).
            reward: (environments,), for the action before; not looked at where a trial has just started.
            terminated: (environments,), whether that action ended the trial, so that nothing is to be gained after it.
            truncated: (environments,), whether the trial was cut off here: it ends, but its last observation keeps
                its value.
            learning: whether weights change; a tensor (environments,) says it for each.
            exploring: whether any action but the best is ever taken.

        Returns:
            The actions, (environments,), counted from 0.

        Raises:
            DataError: a shape that does not fit; nothing has changed then.
            NonFiniteError: NaN or infinity in an observation, a reward or, where learning has diverged, a value;
                no weight has changed by it.
        """
        seen = self._taken("observation", observation, (self.environments, self.observations))
        if not (math.isfinite(seen.sum().item()) or bool(seen.isfinite().all())):
            raise NonFiniteError(_lost("the observation", seen), layer="input")
        each = (self.environments,)
        rewards = torch.zeros_like(self._value) if reward is None else self._taken("reward", reward, each)
        over = None if terminated is None else self._taken("terminated", terminated, each).bool()
        cut = None if truncated is None else self._taken("truncated", truncated, each).bool()

        change = seen - self._seen
        transient = torch.cat([change, -change], 1).clamp_min_(0)
        biased = torch.cat([self._one, seen], 1)
        drive = torch.cat(
            [_through(biased, self.regular_weights), self._memory + _through(transient, self.memory_weights)], 1
        )
        rates = torch.sigmoid(drive - self.threshold)
        hidden = torch.cat([self._one, rates], 1)
        values = _through(hidden, self.output_weights)
        action = self._choose(values, exploring)
        value = values.gather(1, action[:, None]).squeeze(1)

        expected = value if over is None else value.masked_fill(over, 0.0)
        error = (rewards + self.discount * expected - self._value).masked_fill_(self._fresh, 0.0)
        if not math.isfinite(error.sum().item() + values.sum().item()):
            self._refuse(rewards, values)
        self.action_values.copy_(values)
        self.reward_prediction_error.copy_(error)
        if isinstance(learning, Tensor):
            self._learn(error, learning.to(error))
        elif learning:
            self._learn(error, torch.ones_like(error))

        self._memory.copy_(drive[:, self.regular :])
        self._trace.add_(transient)
        self._tag(action, biased, rates, hidden)
        self._seen.copy_(seen)
        self._value.copy_(value)
        self._fresh.zero_()
        ended = over if cut is None else cut if over is None else over | cut
        if ended is not None and bool(ended.any()):
            self._forget(ended)
        return action

    def reset(self) -> None:
        """Begin a new trial in every environment: memory, traces and tags return to zero, weights stay."""
        self._forget(torch.ones(self.environments, dtype=torch.bool))

    def _choose(self, values: Tensor, exploring: bool) -> Tensor:
        """The best actions, or now and then a draw from softmax(values): max-Boltzmann."""
        best = values.argmax(1)
        if not exploring:
            return best
        draw = torch.rand(self.environments, generator=self._generator, dtype=torch.float64)
        explores = draw < self.exploration
        if not bool(explores.any()):
            return best
        # Among those that explore, the draw is still uniform, up to `exploration`: one number serves both questions.
        shares = values.double().softmax(1).cumsum(1)
        drawn = (shares <= draw[:, None] / self.exploration).sum(1).clamp_max_(self.actions - 1)
        return torch.where(explores, drawn, best)

    def _learn(self, error: Tensor, taught: Tensor) -> None:
        """Every weight changes by learning_rate * error * tag where it is taught, W as W'."""
        rate = (self.learning_rate * error * taught)[:, None, None]
        if self.feedback_decay:
            kept = (1 - self.feedback_decay * taught)[:, None, None]
            kept = kept if self.networks == self.environments else kept.mean(0, keepdim=True)
            self.output_weights.mul_(kept)
            self.feedback_weights.mul_(kept)
        for weights, tag in (
            (self.regular_weights, self._regular_tag),
            (self.memory_weights, self._memory_tag),
            (self.output_weights, self._output_tag),
            (self.feedback_weights, self._output_tag[:, 1:].mT),
        ):
            if self.networks == self.environments:
                weights.addcmul_(tag, rate)
            else:
                weights.add_((tag * rate).mean(0, keepdim=True))

    def _tag(self, action: Tensor, biased: Tensor, rates: Tensor, hidden: Tensor) -> None:
        """Tags fade, and the synapses that led to the chosen action gain."""
        kept = self.trace_decay * self.discount
        attention = self.feedback_weights.expand(self.environments, -1, -1)[self._rows, action]
        gate = (rates * (1 - rates) * attention)[:, None, :]
        self._output_tag.mul_(kept)
        self._output_tag[self._rows, :, action] += hidden
        self._regular_tag.mul_(kept).addcmul_(biased[:, :, None], gate[..., : self.regular])
        self._memory_tag.mul_(kept).addcmul_(self._trace[:, :, None], gate[..., self.regular :])

    def _forget(self, ended: Tensor) -> None:
        """Nothing of a trial is left where it ended."""
        self._value.masked_fill_(ended, 0.0)
        for state in (self._seen, self._memory, self._trace):
            state.masked_fill_(ended[:, None], 0.0)
        for tag in self.tags.values():
            tag.masked_fill_(ended[:, None, None], 0.0)
        self._fresh.logical_or_(ended)

    def _taken(self, name: str, given: Tensor | np.ndarray, shape: tuple[int, ...]) -> Tensor:
        """An input as a tensor of the network's type."""
        tensor = torch.as_tensor(given).to(self._value)
        if tensor.shape != shape:
            raise DataError(
                f"Augment: {name} has the shape {tuple(tensor.shape)} where {shape} is needed: {self.environments} "
                f"environment(s) side by side, {self.observations} numbers in an observation, {self.actions} actions."
            )
        return tensor

    def _refuse(self, rewards: Tensor, values: Tensor) -> None:
        """Say which number was lost."""
        if not bool(rewards.isfinite().all()):
            raise NonFiniteError(_lost("the reward", rewards), layer="input")
        raise NonFiniteError(
            _lost("an action value", values) + f" Learning has diverged: learning_rate={self.learning_rate} is too "
            "large for these observations and rewards; lower it, or bring both to a size near 1.",
            layer="output",
        )

    def get_extra_state(self) -> dict[str, Tensor]:
        """The state of exploration's generator."""
        return {"generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `get_extra_state` gave."""
        self._generator.set_state(state["generator"].cpu())

    def extra_repr(self) -> str:
        """The sizes and what was set."""
        taught = f"{self.networks} networks" if self.population else f"{self.environments} environment(s)"
        return (
            f"{self.observations} observations, {self.regular} regular and {self.memory} memory units, "
            f"{self.actions} actions, {taught}, learning_rate={self.learning_rate}, discount={self.discount}, "
            f"trace_decay={self.trace_decay}, exploration={self.exploration}, feedback={self.feedback!r}"
        )


def _through(rates: Tensor, weights: Tensor) -> Tensor:
    """What arrives behind the weights, (environments, after); one network's weights serve all environments."""
    if weights.shape[0] == 1:
        return rates @ weights[0]
    return torch.bmm(rates[:, None], weights).squeeze(1)


def _lost(what: str, numbers: Tensor) -> str:
    """Which environment lost a number: the first whose largest is none."""
    sizes = numbers.abs().nan_to_num(nan=math.inf, posinf=math.inf).reshape(len(numbers), -1).amax(1)
    row = int(sizes.argmax())
    return f"Augment: {what} of environment {row} is not a finite number: {numbers[row].tolist()}."


def _check_counts(**counts: int) -> None:
    for option, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"Augment: {option}={count!r} must be a whole number from 1.")


def _check_shares(**shares: float) -> None:
    for option, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"Augment: {option}={share!r} must be between 0 and 1.")
