"""Known rewards and terminations of Gymnasium's tasks, as batched torch functions of raw observations and actions.

    from mbrl_gym.tasks import known_reward
    reward = known_reward("Pendulum-v1")(obs, action, next_obs)     # [B]

For `KnownReward` and `KnownTermination` around a model, and wherever a model need not learn what is known.
"""

from mbrl_gym.tasks.common import TaskFunction
from mbrl_gym.tasks.table import known_reward, known_tasks, known_termination, register_reward, register_termination

__all__ = [
    "TaskFunction",
    "known_reward",
    "known_tasks",
    "known_termination",
    "register_reward",
    "register_termination",
]
