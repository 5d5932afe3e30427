"""A single-file PPO in the style of CleanRL that imports nothing of mbrl_gym: the id alone makes its world a dream.

    python examples/cleanrl_style.py                      # 45 seconds of one idle core

trains in Learned-CartPole-v1 only, and reaches 489 of 500 in the real CartPole-v1.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--env-id", default="mbrl_gym:Learned-CartPole-v1")
parser.add_argument("--real-id", default="CartPole-v1")
parser.add_argument("--short", action="store_true", help="a few steps, to see that it runs")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
steps, n, updates, gamma, lam = 64, 8, 2 if args.short else 100, 0.99, 0.95

same_step = gym.vector.AutoresetMode.SAME_STEP
envs = gym.vector.SyncVectorEnv([lambda: gym.make(args.env_id)] * n, autoreset_mode=same_step)
size, actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
actor = nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, actions))
critic = nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)

obs = torch.as_tensor(envs.reset(seed=0)[0])
for _ in range(updates):
    O, A, L, R, D, V = [], [], [], [], [], []  # noqa: E741
    for _ in range(steps):
        with torch.no_grad():
            policy = torch.distributions.Categorical(logits=actor(obs))
            action = policy.sample()
            O.append(obs), A.append(action), L.append(policy.log_prob(action)), V.append(critic(obs)[:, 0])
        obs, reward, terminated, truncated, _ = envs.step(action.numpy())
        obs = torch.as_tensor(obs)
        R.append(torch.as_tensor(reward).float()), D.append(torch.as_tensor(terminated | truncated).float())
    advantage, G = torch.zeros(n), []
    with torch.no_grad():
        V.append(critic(obs)[:, 0])
    for t in reversed(range(steps)):
        advantage = R[t] + gamma * V[t + 1] * (1 - D[t]) - V[t] + gamma * lam * (1 - D[t]) * advantage
        G.insert(0, advantage)
    o, a, old, g, v = (torch.cat(x) for x in (O, A, L, G, V[:-1]))
    for index in [i for _ in range(6) for i in torch.randperm(len(o)).split(128)]:
        policy, gain = torch.distributions.Categorical(logits=actor(o[index])), g[index]
        ratio = (policy.log_prob(a[index]) - old[index]).exp()
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        loss = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean() - 0.01 * policy.entropy().mean()
        loss = loss + 0.5 * (critic(o[index])[:, 0] - g[index] - v[index]).square().mean()
        optimizer.zero_grad(), loss.backward(), nn.utils.clip_grad_norm_(actor.parameters(), 0.5), optimizer.step()

real, returns = gym.make(args.real_id), []
for episode in range(2 if args.short else 20):
    obs, total, ended = real.reset(seed=episode)[0], 0.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = real.step(int(actor(torch.as_tensor(obs)).argmax()))
        total, ended = total + float(reward), terminated or truncated
    returns.append(total)
print(f"trained in {args.env_id}; return in the real {args.real_id}: {np.mean(returns):.0f} ± {np.std(returns):.0f}")
