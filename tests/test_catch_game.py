"""The game that SimPLe is measured on: it can be won, and a policy can see what it is about."""

import importlib
import sys
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
catch_game = importlib.import_module("catch_game")


def test_the_scripted_player_catches_every_ball_and_a_random_one_few():
    env, returns = gym.make("CatchScreen-v0"), {"scripted": [], "random": []}
    env.action_space.seed(0)
    for name, found in returns.items():
        for seed in range(20):
            env.reset(seed=seed)
            total, over = 0.0, False
            while not over:
                action = catch_game.catcher(env.unwrapped) if name == "scripted" else env.action_space.sample()
                _, reward, over, _, _ = env.step(action)
                total += reward
            found.append(total)
    assert returns["scripted"] == [10.0] * 20
    assert np.mean(returns["random"]) < -4


def test_ball_and_paddle_stand_out_where_a_policy_sees_them():
    """In 84 x 84 pixels, averaged over areas as in Atari's preprocessing."""
    game = gym.make("CatchScreen-v0").unwrapped

    def seen(ball, paddle):
        game.ball, game.paddle = ball, paddle
        return cv2.resize(game._picture()[0], (84, 84), interpolation=cv2.INTER_AREA).astype(int)

    game.reset(seed=0)
    here = seen((56, 40), 16)
    for moved in (seen((56, 80), 16), seen((56, 40), 96)):
        assert (np.abs(moved - here) > 50).sum() >= 2 * 9
