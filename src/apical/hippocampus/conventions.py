"""scikit-learn's conventions for estimators that learn from samples alone, with scikit-learn or without it."""

import inspect
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from apical import rules
from apical.options import unknown
from apical.rules import LearningRule

Array = NDArray[Any]


class Estimator:
    """Options as attributes, and checks of the input; subclasses have `fit`, and set attributes that end in "_"."""

    n_features_in_: int

    # Checks

    def _rates(self, X: ArrayLike, *, first: bool = False, least: int = 1) -> Array:
        """The input as an array of floating-point numbers, checked; at least two samples to begin with."""
        if not first and not self.__sklearn_is_fitted__():
            raise self._not_fitted()
        least = 2 if first else least
        if isinstance(X, Tensor):  # of which scikit-learn would make float64
            X = X.detach().cpu().numpy()
        try:
            from sklearn.utils.validation import validate_data
        except ImportError:
            rates = self._check(X, first, least)
        else:
            rates = validate_data(self, X, reset=first, dtype=(np.float64, np.float32), ensure_min_samples=least)
        return np.ascontiguousarray(rates)

    def _check(self, X: ArrayLike, first: bool, least: int) -> Array:
        name = type(self).__name__
        rates = np.asarray(X)
        if np.iscomplexobj(rates):
            raise ValueError(f"{name}: X is complex. Pass real numbers.")
        if rates.dtype != np.float32:
            rates = rates.astype(np.float64)
        if rates.ndim != 2:
            raise ValueError(f"{name}: X has {rates.ndim} axes. Reshape your data to (samples, features).")
        if len(rates) < least or not rates.shape[1]:
            raise ValueError(
                f"{name}: X has {len(rates)} sample(s) and {rates.shape[1]} feature(s). Pass at least {least} and 1."
            )
        if not np.isfinite(rates).all():
            raise ValueError(f"{name}: X contains NaN or infinity. Fill them in; 0 is a lost entry of a cue.")
        if first:
            self.n_features_in_ = rates.shape[1]
        elif rates.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {rates.shape[1]} features, but {name} is expecting {self.n_features_in_} features as input."
            )
        return rates

    def _not_fitted(self) -> Exception:
        """scikit-learn's error for estimators that have learned nothing, or one like it."""
        methods = " or ".join(method for method in ("fit", "partial_fit") if hasattr(self, method))
        message = f"{type(self).__name__}: it has learned nothing yet. Call {methods} first."
        try:
            from sklearn.exceptions import NotFittedError
        except ImportError:
            return ValueError(message)
        error: Exception = NotFittedError(message)
        return error

    # What scikit-learn asks of an estimator

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Set options by name."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__}: {unknown('option', name, known)}.")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import Tags, TargetTags, TransformerTags

        transformer = TransformerTags(preserves_dtype=["float64", "float32"])
        return Tags(estimator_type=None, target_tags=TargetTags(required=False), transformer_tags=transformer)

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        own = {name: value for name, value in self.get_params().items() if value is not defaults[name].default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in own.items())})"


def rule_of(given: str | LearningRule, seed: int, loss: str = "squared_error") -> LearningRule:
    """A new rule for a circuit that learns by a loss of its own: by name with this seed, or like one with options."""
    if isinstance(given, LearningRule):
        return type(given)(**given.options())
    options = {"seed": seed} if "seed" in rules.get(given).option_names() else {}
    rule = rules.make(given, **options)
    return rules.make(given, **options, loss=loss) if rule.follows_loss else rule
