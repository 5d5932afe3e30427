"""The value of final observations as an SB3 algorithm sees them, for `SB3VecEnv.bootstrap_with`."""

import copy
import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

# The wrappers through which `bootstrap_with` can follow a final observation: VecNormalize and VecTransposeImage change
# it in a known way, the others pass it and the reward on.
_TRANSPARENT = (VecNormalize, VecTransposeImage, VecCheckNan, VecVideoRecorder)


def check_critic(algorithm: Any) -> None:
    """Raises a TypeError unless the algorithm has a critic that needs nothing but the observation."""
    if not isinstance(algorithm, OnPolicyAlgorithm):
        raise TypeError(
            "algorithm must be an on-policy algorithm of SB3 (PPO, A2C, TRPO, MaskablePPO), "
            f"got {type(algorithm).__name__}: off-policy algorithms bootstrap in their own loss, leave it out"
        )
    signature = inspect.signature(algorithm.policy.predict_values)
    required = [name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty]
    if len(required) > 1:
        raise TypeError(
            f"algorithm must have a critic that needs the observation only, that of {type(algorithm).__name__} "
            f"needs {required}: leave bootstrap_with out, SB3's own loop passes its recurrent state"
        )


def wrappers_up_to(venv: VecEnv, algorithm: BaseAlgorithm) -> list[VecEnvWrapper]:
    """The wrappers between ``venv`` and the algorithm, innermost first."""
    wrappers: list[VecEnvWrapper] = []
    env = algorithm.get_env()
    while isinstance(env, VecEnvWrapper):
        wrappers.insert(0, env)
        env = env.venv
    if env is not venv:
        raise ValueError(
            f"algorithm must be built on this SB3VecEnv, its env is {env!r}: pass the venv to "
            f"{type(algorithm).__name__}(policy, venv), or turn bootstrapping off with bootstrap_with(None)"
        )
    for wrapper in wrappers:
        _check_transparent(wrapper)
    return wrappers


def discounted_values(venv: VecEnv, algorithm: OnPolicyAlgorithm, obs: Any, final_obs: Any) -> NDArray[np.float32]:
    """Gamma * V [k] of final observations [k, *obs], seen as the policy sees them. `obs`: what the step returns."""
    for wrapper in wrappers_up_to(venv, algorithm):
        obs, final_obs = _seen_through(wrapper, obs, final_obs)
    tensor, _ = algorithm.policy.obs_to_tensor(final_obs)
    with torch.no_grad():
        value = algorithm.policy.predict_values(tensor)
    return np.asarray(algorithm.gamma * value.cpu().numpy().reshape(-1), dtype=np.float32)


def _check_transparent(wrapper: VecEnvWrapper) -> None:
    if not isinstance(wrapper, _TRANSPARENT):
        known = ", ".join(kind.__name__ for kind in _TRANSPARENT)
        raise ValueError(
            f"{type(wrapper).__name__} lies between this environment and the algorithm, and bootstrapping cannot "
            f"follow what it does to rewards and observations (it can with {known}): "
            "leave it out (SB3VecEnv keeps episode statistics without VecMonitor) or leave bootstrap_with out"
        )
    if isinstance(wrapper, VecNormalize) and wrapper.norm_reward:
        raise ValueError(
            "VecNormalize above this environment must have norm_reward=False, got True: it would rescale the values "
            "that bootstrapping adds. Normalise rewards below SB3VecEnv or leave bootstrap_with out"
        )


def _seen_through(wrapper: VecEnvWrapper, obs: Any, final_obs: Any) -> tuple[Any, Any]:
    """Both batches of observations as the wrapper will hand them on at the end of this step."""
    if isinstance(wrapper, VecTransposeImage):
        return wrapper.transpose_observations(obs), wrapper.transpose_observations(final_obs)
    if isinstance(wrapper, VecNormalize):
        wrapper = _updated(wrapper, obs)
        return wrapper.normalize_obs(obs), wrapper.normalize_obs(final_obs)
    return obs, final_obs


def _updated(normalizer: VecNormalize, obs: Any) -> VecNormalize:
    """A copy with the statistics after this step: VecNormalize updates them before it normalises final observations."""
    if not (normalizer.training and normalizer.norm_obs):
        return normalizer
    ahead = copy.copy(normalizer)
    ahead.obs_rms = copy.deepcopy(normalizer.obs_rms)
    if isinstance(ahead.obs_rms, dict):
        for key, statistics in ahead.obs_rms.items():
            statistics.update(obs[key])
    else:
        ahead.obs_rms.update(obs)
    return ahead
