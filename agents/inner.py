"""The SB3 algorithm that lives in the dream: its defaults there, and its state as plain data and tensors."""

import copy
import inspect
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from torch import Tensor


def annealed(progress_remaining: float) -> float:
    """Return a learning rate in the dream: 1e-3, falling to a tenth of it towards the end of each training.

    SB3 counts progress over all trainings so far, so later ones also begin lower: the policy that a training leaves
    behind, the one that acts in reality, is not shaken by a last large step.
    """
    return 1e-3 * max(0.1, progress_remaining)


# Batches that fit many dream environments: SB3's own defaults are made for one real environment (see the speeds in
# benchmarks/env_throughput.py). What the caller passes wins.
ON_POLICY_DEFAULTS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 32, "batch_size": 512, "n_epochs": 10, "learning_rate": annealed, "gamma": 0.98},
    "RecurrentPPO": {"n_steps": 32, "batch_size": 512, "n_epochs": 5, "learning_rate": annealed, "gamma": 0.98},
    "TRPO": {"n_steps": 32, "batch_size": 512, "gamma": 0.98},
    "A2C": {"n_steps": 16, "gamma": 0.98},
}
# The buffer is the agent's own (mbrl_gym.agents.dream_data), so SB3 shall allocate none.
OFF_POLICY_DEFAULTS: dict[str, Any] = {"learning_starts": 0, "train_freq": 1, "batch_size": 256, "buffer_size": 1}
# Updates are far more than real steps, and the last of them shall not shake the policy: the target network follows
# smoothly, and the learning rate falls (benchmarks/mbpo_learning.py cartpole_dqn).
DISCRETE_DEFAULTS: dict[str, Any] = {
    **OFF_POLICY_DEFAULTS,
    "target_update_interval": 1,
    "tau": 0.01,
    "exploration_fraction": 0.2,
    "learning_rate": annealed,
}


def dream_defaults(algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    """Return constructor arguments that suit ``algorithm`` in many dream environments at once."""
    if issubclass(algorithm, OffPolicyAlgorithm):
        discrete = "exploration_fraction" in inspect.signature(algorithm.__init__).parameters
        return dict(DISCRETE_DEFAULTS if discrete else OFF_POLICY_DEFAULTS)
    return dict(ON_POLICY_DEFAULTS.get(algorithm.__name__, {}))


def is_on_policy(algorithm: BaseAlgorithm) -> bool:
    """Return whether the algorithm learns from its own latest rollout."""
    return isinstance(algorithm, OnPolicyAlgorithm)


def plain_attributes(algorithm: BaseAlgorithm) -> dict[str, Any]:
    """Return the attributes that are numbers: counters and hyperparameters."""
    return {name: value for name, value in vars(algorithm).items() if _is_plain(name, value)}


def algorithm_state(algorithm: BaseAlgorithm, as_made: dict[str, Any]) -> dict[str, Any]:
    """Return what ``algorithm`` learned and counts: state dicts, variables, and the plain attributes that changed.

    Args:
        algorithm: the algorithm.
        as_made: its `plain_attributes` before any training. Those that are still the same are hyperparameters, which
            the constructor's arguments decide, also where they differ on loading.
    """
    names, variables = algorithm._get_torch_save_params()
    return {
        "state_dicts": {name: recursive_getattr(algorithm, name).state_dict() for name in names},
        "variables": {name: recursive_getattr(algorithm, name) for name in variables},
        "attributes": {k: v for k, v in plain_attributes(algorithm).items() if k not in as_made or as_made[k] != v},
    }


def load_algorithm_state(algorithm: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Take up what `algorithm_state` returned."""
    algorithm.set_parameters(state["state_dicts"], exact_match=True)
    for name, value in state["variables"].items():
        current = recursive_getattr(algorithm, name)
        if isinstance(current, Tensor) and current.requires_grad:
            current.data.copy_(value)  # an optimiser holds this very tensor
        elif value is not None:
            recursive_setattr(algorithm, name, value)
    for name, value in state["attributes"].items():
        setattr(algorithm, name, value)


def real_noise(algorithm: BaseAlgorithm, n_envs: int) -> VectorizedActionNoise | None:
    """Return the algorithm's action noise for ``n_envs`` real environments, fresh; None where it has none."""
    noise = algorithm.action_noise
    if noise is None:
        return None
    base = noise.base_noise if isinstance(noise, VectorizedActionNoise) else noise  # SB3 makes one for each dream
    return VectorizedActionNoise(copy.deepcopy(base), n_envs)


def add_noise(algorithm: BaseAlgorithm, action: Any, noise: VectorizedActionNoise) -> Any:
    """Return ``action`` [n, *act] with noise on its scale of [-1, 1], as SB3 explores (``_sample_action``)."""
    policy = algorithm.policy
    scaled: Any = np.clip(policy.scale_action(action) + noise(), -1, 1)
    return policy.unscale_action(scaled)


def _is_plain(name: str, value: Any) -> bool:
    local = {"verbose", "seed", "n_envs", "use_sde", "start_time"}
    return isinstance(value, bool | int | float) and name not in local
