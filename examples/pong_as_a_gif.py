"""Watch the shipped Pong without ALE and without a ROM: a player that follows the ball, as a GIF.

    python examples/pong_as_a_gif.py                      # 14 seconds of one core

writes 600 screens, 40 seconds of the game; no point won and 9 lost (--seed 0; the shipped model is not finished, and
this player loses in it more often than in the real game: mbrl_gym/zoo/Learned-Pong/CARD.md).
"""

import argparse

import gymnasium as gym
from PIL import Image

import mbrl_gym  # noqa: F401  (registers the Learned-* ids)
from mbrl_gym.report import save_animation
from mbrl_gym.zoo.pong import follow


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="pong.gif", help=".gif or .webp")
    args = parser.parse_args()

    env = gym.make("Learned-Pong", render_mode="rgb_array", device="cpu")
    env.reset(seed=args.seed)
    screens, points = [], []
    for _ in range(10 if args.short else 600):
        screens.append(env.render())  # [210, 160, 3], as the game draws it
        action = follow(screens[-1].mean(-1)[None])[0]  # or a policy's: env.step returns [4, 84, 84] as from ale-py
        _, reward, terminated, truncated, _ = env.step(action)
        points.append(float(reward))
        if terminated or truncated:
            env.reset()

    save_animation([Image.fromarray(screen) for screen in screens], args.out, fps=15)
    won, lost = points.count(1.0), points.count(-1.0)
    print(f"{len(screens)} imagined screens in {args.out}: {won} points won, {lost} lost")
    return sum(points)


if __name__ == "__main__":
    main()
