"""Swing up the real pendulum by planning in a learned model, from 2,000 real steps: PETS trains no policy at all.

    python examples/pets_pendulum.py                      # one minute of one core

prints the return of each of the ten episodes of training: about -1200 for the first ones, -145 for the mean of the last
five (benchmarks/pets_learning.py has five seeds, whose mean is -133).
"""

import argparse

from stable_baselines3.common.callbacks import BaseCallback

from mbrl_gym.agents import PETS
from mbrl_gym.planners import ICEMConfig


class PrintEpisodes(BaseCallback):
    """Prints what every real episode brought."""

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            plan = 1e3 * self.model.policy.last_seconds
            episode = self.locals["infos"][0]["episode"]
            print(f"\n{self.num_timesteps:6,} real steps: return {episode['r']:8.1f}, {plan:.0f} ms a plan", flush=True)
        return True


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    if args.short:
        planner = ICEMConfig(candidates=20, elites=4, iterations=2, horizon=5, particles=5)
        agent = PETS("MlpPolicy", "Pendulum-v1", planner=planner, seed=args.seed).learn(400)
    else:
        agent = PETS("MlpPolicy", "Pendulum-v1", seed=args.seed).learn(2_000, PrintEpisodes(), progress_bar=True)

    last = [episode["r"] for episode in agent.ep_info_buffer][-5:]
    mean = sum(last) / len(last)
    print(f"{agent.num_timesteps:,} real steps, {agent.imagined_timesteps:,} imagined: the last returns {mean:.0f}")
    return mean


if __name__ == "__main__":
    main()
