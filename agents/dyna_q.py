"""Dyna-Q and Dyna-Q+: learning, model learning and planning in tables. All of model-based RL in one small file.

Source: Sutton & Barto, Reinforcement Learning (2nd edition), sections 8.2 and 8.3 (recalled), beside ShangtongZhang's
``reinforcement-learning-an-introduction/chapter08/maze.py``.
"""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_gym.agents.progress import Progress
from mbrl_gym.agents.storage import agent_folder
from mbrl_gym.agents.tabular_model import Outcome, TabularModel
from mbrl_gym.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from mbrl_gym.spaces import space_from_json, space_to_json

Array = np.ndarray[Any, np.dtype[Any]]


class DynaQ:
    """Q-learning that replays what it remembers: every real step is followed by backups of remembered ones.

    Works with one Gymnasium environment of Discrete observations and actions. The model remembers the last outcome of
    each action, as in the book, which is exact where the world is deterministic.

    With a ``bonus`` it is Dyna-Q+: a remembered step that was last tried in reality t steps ago is worth
    ``bonus * sqrt(t)`` more, and actions that were never tried in a visited state are planned with too, as if they led
    back to that state with reward 0 (t then counts from the first step of all). So it keeps looking for changes.

    Args:
        env: the real environment, or its id; None: `set_env` brings it.
        learning_rate: alpha, of real and of planned backups.
        discount: gamma.
        exploration: epsilon, the probability of a random action while learning.
        planning_steps: planned backups after each real step; 0 is Q-learning.
        bonus: kappa of Dyna-Q+; 0 is Dyna-Q.
        stochastic: the model counts all outcomes of an action and draws from them, for worlds that are not
            deterministic.
        seed: of everything; None draws one.

    Attributes:
        q: [S, A] float64, the value of each action.
        model: what was seen.
        last_tried: [S, A] int64, the real step at which an action was last tried; 0 where never.
        num_timesteps: real steps so far.
        episode_lengths: steps of each whole episode so far.
        episode_returns: its undiscounted return.

    Raises:
        ValueError: a number is out of its range.
        TypeError: the environment is none of Gymnasium's, or a space is not Discrete.
    """

    kind = "dyna_q"

    def __init__(
        self,
        env: gym.Env[Any, Any] | str | None,
        learning_rate: float = 0.1,
        discount: float = 0.95,
        exploration: float = 0.1,
        planning_steps: int = 10,
        bonus: float = 0.0,
        stochastic: bool = False,
        seed: int | None = None,
    ) -> None:
        _check_numbers(learning_rate, discount, exploration, planning_steps, bonus, seed)
        self.learning_rate, self.discount, self.exploration = float(learning_rate), float(discount), float(exploration)
        self.planning_steps, self.bonus, self.stochastic = int(planning_steps), float(bonus), bool(stochastic)
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._rng = np.random.default_rng(self.seed)
        self._predict_rng = np.random.default_rng([self.seed, 1])  # so that evaluating changes no training
        self.model = TabularModel(self.stochastic)
        self.num_timesteps = 0
        self.episode_lengths: list[int] = []
        self.episode_returns: list[float] = []
        self.env: gym.Env[Any, Any] | None = None
        self._spaces: tuple[spaces.Discrete, spaces.Discrete] | None = None  # of the first environment
        if env is not None:
            self.set_env(env)

    def set_env(self, env: gym.Env[Any, Any] | str) -> None:
        """Learn in another real environment from now on; its spaces must be those of the first one.

        Raises:
            TypeError: it is no Gymnasium environment, or a space is not Discrete.
            ValueError: its spaces differ.
        """
        env = gym.make(env) if isinstance(env, str) else env
        if not isinstance(env, gym.Env):
            raise TypeError(f"env must be one Gymnasium environment or its id, got {type(env).__name__}")
        found = (
            _discrete("observation_space", env.observation_space, "bin its numbers, or use Dyna, PETS or MBPO"),
            _discrete("action_space", env.action_space, "list the actions to choose from, or use PETS or MBPO"),
        )
        if self._spaces is None:
            self._take_spaces(*found)
        elif found != self._spaces:
            raise ValueError(f"env must have the spaces that the agent learned on, {self._spaces}, got {found}")
        self.env = env

    def _take_spaces(self, observation_space: spaces.Discrete, action_space: spaces.Discrete) -> None:
        self._spaces = self.observation_space, self.action_space = observation_space, action_space
        self.q = np.zeros((int(observation_space.n), int(action_space.n)))
        self.last_tried = np.zeros(self.q.shape, np.int64)

    # ---- acting -----------------------------------------------------------------------------------------------------

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Return the action of one observation, or the actions [B] of a batch [B], and ``state`` as it is.

        Args:
            obs: observation(s) of the space.
            state: not used; SB3's signature.
            episode_start: not used.
            deterministic: the best action, the first of equals; False: as while learning, equals and explored actions
                drawn at random.

        Raises:
            ValueError: an observation is not in the space.
        """
        index = np.asarray(obs, dtype=np.int64) - int(self.observation_space.start)
        if ((index < 0) | (index >= len(self.q))).any():
            raise ValueError(f"obs must be in {self.observation_space}, got {obs}")
        if deterministic:
            action = self.q[index].argmax(-1)
        else:
            action = np.array([self._explore(i, self._predict_rng) for i in index.ravel().tolist()]).reshape(
                index.shape
            )
        return action + self.action_space.start, state

    def _explore(self, state: int, rng: np.random.Generator) -> int:
        """Return an epsilon-greedy action, equals drawn at random."""
        if rng.random() < self.exploration:
            return int(rng.integers(self.q.shape[1]))
        best = np.flatnonzero(self.q[state] == self.q[state].max())
        return int(best[0] if len(best) == 1 else rng.choice(best))

    # ---- learning ---------------------------------------------------------------------------------------------------

    def learn(self, total_timesteps: int, progress_bar: bool = False) -> "DynaQ":
        """Take ``total_timesteps`` more real steps; return the agent.

        It begins with a reset, whose seed comes from the run's own randomness: saving, loading and learning on is
        bit-equal to learning on without a stop. An episode that the last call left open does not count.

        Args:
            total_timesteps: real steps.
            progress_bar: show steps and returns as it goes.

        Raises:
            ValueError: ``total_timesteps`` is below 1, or there is no environment.
        """
        if total_timesteps < 1:
            raise ValueError(f"total_timesteps must be at least 1 real step, got {total_timesteps}")
        if self.env is None:
            raise ValueError("env is not set; give one to load(), or call set_env(env) before learn()")
        progress = Progress()
        if progress_bar:
            progress.open(total_timesteps, 0)
        try:
            self._steps(self.env, total_timesteps, progress)
        finally:
            progress.close()
        return self

    def _steps(self, env: gym.Env[Any, Any], total: int, progress: Progress) -> None:
        state = self._state(env.reset(seed=int(self._rng.integers(2**31 - 1)))[0])
        length, episode_return = 0, 0.0
        for _ in range(total):
            action = self._explore(state, self._rng)
            obs, reward, terminated, truncated, _ = env.step(action + self.action_space.start)
            outcome = Outcome(float(reward), self._state(obs), bool(terminated))
            self._learn_from(state, action, outcome)
            length, episode_return, state = length + 1, episode_return + outcome.reward, outcome.next_state
            progress.advance(1)
            if terminated or truncated:
                self.episode_lengths.append(length)
                self.episode_returns.append(episode_return)
                progress.show(episode_return=episode_return, steps=length)
                state, length, episode_return = self._state(env.reset()[0]), 0, 0.0

    def _state(self, obs: Any) -> int:
        return int(obs) - int(self.observation_space.start)

    def _learn_from(self, state: int, action: int, outcome: Outcome) -> None:
        """Learn from one real step, remember it, and plan: (d), (e) and (f) of the book's algorithm."""
        self.num_timesteps += 1
        self._backup(state, action, outcome, outcome.reward)
        self.model.record(state, action, outcome)
        self.last_tried[state, action] = self.num_timesteps
        for uniform in self._rng.random((self.planning_steps, 3)).tolist():
            self._plan(*uniform)

    def _plan(self, first: float, second: float, third: float) -> None:
        """Back up a remembered step: a random visited state, then a random action tried there (of all, with a bonus).

        Args:
            first: a random number in [0, 1), which decides about the state.
            second: about the action.
            third: about the outcome.
        """
        model = self.model
        state = model.states[int(first * len(model.states))]
        if not self.bonus:
            tried = model.tried[state]
            action = tried[int(second * len(tried))]
        else:
            action = int(second * self.q.shape[1])
        outcome = model.draw(state, action, third) or Outcome(0.0, state, False)
        reward = outcome.reward
        if self.bonus:
            reward += self.bonus * math.sqrt(self.num_timesteps - int(self.last_tried[state, action]))
        self._backup(state, action, outcome, reward)

    def _backup(self, state: int, action: int, outcome: Outcome, reward: float) -> None:
        """Move a value towards its target. A time limit is no end of the world: what comes after it counts."""
        target = reward if outcome.terminated else reward + self.discount * float(self.q[outcome.next_state].max())
        self.q[state, action] += self.learning_rate * (target - self.q[state, action])

    # ---- on disk ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write everything that resuming needs as a checkpoint directory (JSON and npz, nothing pickled).

        Raises:
            ValueError: the agent has never seen an environment.
            CheckpointError: the path holds something else.
            OSError: the disk is full or not ours to write.
        """
        if self._spaces is None:
            raise ValueError("the agent has seen no environment, so it has nothing to save; call set_env(env) first")
        names = ("learning_rate", "discount", "exploration", "planning_steps", "bonus", "stochastic", "seed")
        config = {
            "arguments": {name: getattr(self, name) for name in names},
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "num_timesteps": self.num_timesteps,
            "random": [rng.bit_generator.state for rng in (self._rng, self._predict_rng)],
        }
        tables = {
            "q": self.q,
            "last_tried": self.last_tried,
            "episode_lengths": np.array(self.episode_lengths, np.int64),
            "episode_returns": np.array(self.episode_returns, np.float64),
        }
        arrays = {"tables": tables, "model": self.model.to_arrays()}
        save_checkpoint(agent_folder(path), Checkpoint(self.kind, config, {}, arrays))

    @classmethod
    def load(cls, path: str | Path, env: gym.Env[Any, Any] | str | None = None) -> "DynaQ":
        """Return the agent that `save` wrote.

        Args:
            path: the checkpoint's directory.
            env: to learn on in; None for an agent that only predicts.

        Raises:
            CheckpointError: there is no sound checkpoint of a DynaQ.
            ValueError: ``env`` has other spaces.
        """
        checkpoint = load_checkpoint(agent_folder(path), kind=cls.kind)
        config, tables = checkpoint.config, checkpoint.arrays["tables"]
        agent = cls(None, **config["arguments"])
        observation_space, action_space = (
            space_from_json(config[f"{name}_space"]) for name in ("observation", "action")
        )
        if not (isinstance(observation_space, spaces.Discrete) and isinstance(action_space, spaces.Discrete)):
            raise CheckpointError(f"{path}: the spaces must be Discrete, got {observation_space} and {action_space}")
        agent._take_spaces(observation_space, action_space)
        agent.q, agent.last_tried = tables["q"].copy(), tables["last_tried"].copy()
        agent.episode_lengths = tables["episode_lengths"].tolist()
        agent.episode_returns = tables["episode_returns"].tolist()
        agent.model = TabularModel.from_arrays(dict(checkpoint.arrays["model"]), agent.stochastic)
        agent.num_timesteps = config["num_timesteps"]
        for rng, state in zip((agent._rng, agent._predict_rng), config["random"], strict=True):
            rng.bit_generator.state = state
        if env is not None:
            agent.set_env(env)
        return agent


def _check_numbers(
    learning_rate: float, discount: float, exploration: float, planning_steps: int, bonus: float, seed: int | None
) -> None:
    if not 0 < learning_rate <= 1:
        raise ValueError(f"learning_rate must be above 0 and at most 1, got {learning_rate}")
    if not 0 <= discount <= 1:
        raise ValueError(f"discount must be between 0 and 1, got {discount}")
    if not 0 <= exploration <= 1:
        raise ValueError(f"exploration must be a probability between 0 and 1, got {exploration}")
    if planning_steps < 0 or planning_steps != int(planning_steps):
        raise ValueError(f"planning_steps must be a whole number, 0 for Q-learning or more, got {planning_steps}")
    if not 0 <= bonus < math.inf:
        raise ValueError(f"bonus must be at least 0 and finite, 0 for Dyna-Q, got {bonus}")
    if seed is not None and seed < 0:
        raise ValueError(f"seed must be at least 0, or None to draw one, got {seed}")


def _discrete(name: str, space: spaces.Space[Any], remedy: str) -> spaces.Discrete:
    if not isinstance(space, spaces.Discrete):
        raise TypeError(f"{name} must be Discrete for a table, got {space}; {remedy}")
    return space
