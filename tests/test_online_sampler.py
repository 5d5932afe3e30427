"""Windows of new experience first, then any."""

import numpy as np
from gymnasium import spaces

from mbrl_gym import SequenceReplay
from mbrl_gym.agents.online_sampler import OnlineSampler

BOX, ACTIONS = spaces.Box(-1e6, 1e6, (1,)), spaces.Discrete(2)


def fill(replay, steps, begin=0):
    """Add steps of which the observation is 1000 env + row."""
    each = np.arange(replay.n_envs)[:, None] * 1000.0
    if not len(replay):
        replay.begin(each)
        begin = 1
    no = np.zeros(replay.n_envs, bool)
    for row in range(begin, begin + steps):
        replay.add(np.zeros(replay.n_envs, int), each + row, np.zeros(replay.n_envs), no, no)


def first_rows(batch):
    return sorted(int(x) for x in batch.obs[:, 0, 0])


def test_every_environments_new_windows_come_once_and_do_not_overlap():
    replay = SequenceReplay(BOX, ACTIONS, 300, 3)
    sampler = OnlineSampler(replay, batch_size=3, length=4, seed=0)
    assert not sampler.ready
    fill(replay, 10)  # rows 0 to 10 of each
    assert sampler.ready
    assert first_rows(sampler.sample("cpu")) == [0, 4, 1000]  # by environment, in the order of their ends
    assert first_rows(sampler.sample("cpu")) == [1004, 2000, 2004]
    fill(replay, 1, 11)
    batch = sampler.sample("cpu")
    assert first_rows(batch) == [8, 1008, 2008]
    assert np.array_equal(batch.obs[..., 0].numpy() % 1000, np.tile(np.arange(8, 12), (3, 1)))


def test_windows_that_were_overwritten_while_they_waited_are_left_out():
    replay = SequenceReplay(BOX, ACTIONS, 20, 1)
    sampler = OnlineSampler(replay, batch_size=2, length=4, seed=0)
    fill(replay, 50)  # the ring holds rows 31 to 50
    seen = first_rows(sampler.sample("cpu")) + first_rows(sampler.sample("cpu"))
    assert sorted(seen) == [32, 36, 40, 44]


def test_without_it_windows_are_drawn():
    replay = SequenceReplay(BOX, ACTIONS, 100, 1)
    sampler = OnlineSampler(replay, batch_size=50, length=4, seed=0, online=False)
    fill(replay, 50)
    assert len(set(first_rows(sampler.sample("cpu")))) > 20


def test_its_state_goes_on():
    replay = SequenceReplay(BOX, ACTIONS, 100, 1)
    samplers = [OnlineSampler(replay, batch_size=2, length=4, seed=seed) for seed in (0, 1)]
    fill(replay, 30)
    samplers[0].sample("cpu")
    samplers[1].load_state_dict(samplers[0].state_dict())
    for _ in range(5):
        assert first_rows(samplers[0].sample("cpu")) == first_rows(samplers[1].sample("cpu"))
