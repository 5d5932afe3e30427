"""UncertaintyPenalty: what the model is unsure of is worth less."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from mbrl_gym.model import Prediction, State, WorldModel
from mbrl_gym.wrappers.calibrated import check_at_least
from mbrl_gym.wrappers.disagreement import UncertaintyWrapper, diverged, penalised


class UncertaintyPenalty(UncertaintyWrapper[State]):
    """A model whose reward is less by ``coefficient`` times how unsure it is of the step.

    ``info["raw_reward"]`` less ``info["penalty"]`` is the reward. A row that diverged has no penalty: it is cut, and in
    a planner it loses. Sources: Yu et al. 2020 (MOPO); Lu et al. 2022 compare the measures; OfflineRL-Kit
    ``dynamics/ensemble_dynamics.py``, whose coefficients (0.5 to 5) are for ``units="raw"``.

    The default is the ensemble's disagreement: on a deterministic environment the aleatoric deviations of MOPO say
    little about the model's error.

    Args:
        inner: the model to wrap.
        coefficient: reward a unit of uncertainty, at least 0.
        measure: "ensemble_std" (the default), "pairwise" or "max_aleatoric" (MOPO's), or another one of
            `mbrl_gym.wrappers.disagreement.MEASURES`.
        units: "standard" or "raw" (see `UncertaintyWrapper`).

    Raises:
        ValueError: an argument is not as described, or the inner model lacks what the measure needs.
    """

    changes_reward = True

    def __init__(
        self,
        inner: WorldModel[State],
        coefficient: float = 1.0,
        measure: str = "ensemble_std",
        units: str = "standard",
    ) -> None:
        super().__init__(inner, measure, units)
        check_at_least("coefficient", coefficient, 0.0)
        self.coefficient = coefficient

    def around(self, inner: WorldModel[State]) -> "UncertaintyPenalty[State]":
        """Return the same penalty around another model."""
        return UncertaintyPenalty(inner, self.coefficient, self.measure, self.units)

    def arguments(self) -> dict[str, Any]:
        """Return coefficient, measure and units."""
        return {"coefficient": self.coefficient, "measure": self.measure, "units": self.units}

    def change(self, state: State, action: Tensor, after: State, prediction: Prediction) -> Prediction:
        """Return the prediction with the penalised reward."""
        penalty = self.coefficient * self.measured(state, action, prediction)
        reward, info = penalised(prediction, penalty.masked_fill(diverged(prediction), 0.0))
        return replace(prediction, reward=reward, info=info)
