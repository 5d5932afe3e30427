"""Give a model a name, and use it from a process that knows nothing of how it was made.

    python examples/publish_your_model.py                 # ten seconds of one core

prints the return of random actions in the real MountainCarContinuous-v0 and in the published model: about -33 in
both. Models are kept under $MBRL_GYM_HOME; `mbrl-gym list` shows them.
"""

import argparse
import subprocess
import sys

import gymnasium as gym

from mbrl_gym.agents import Dyna

READER = """
import gymnasium as gym, mbrl_gym, numpy as np
def returns(env_id, episodes):
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(env_id))
    env.action_space.seed(0)
    for i in range(episodes):
        env.reset(seed=i)
        while not any(env.step(env.action_space.sample())[2:4]): pass
    return np.mean(env.return_queue)
for env_id in ({real!r}, {learned!r}):
    print(f"{{env_id}}: return of random actions {{returns(env_id, {episodes}):.1f}}")
"""


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--env", default="MountainCarContinuous-v0")
    parser.add_argument("--id", default="Learned-MyMountainCar-v0")
    args = parser.parse_args()

    steps = 200 if args.short else 3_000  # of random actions: only the model is wanted, so PPO hardly trains
    agent = Dyna("MlpPolicy", gym.make(args.env), learning_starts=steps, dream_steps=2_048, seed=0)
    agent.learn(steps)
    print("published:", agent.publish(args.id))

    code = READER.format(real=args.env, learned=args.id, episodes=1 if args.short else 5)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(result.stdout, end="")
    return result.stdout


if __name__ == "__main__":
    main()
