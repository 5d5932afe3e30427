"""Experience of real environments: recorded, kept on disk, as episodes, from and to Minari."""

from mbrl_gym.data.episodes import Episode, episodes, replay_of
from mbrl_gym.data.experience import experience_facts, load_experience, save_experience
from mbrl_gym.data.minari import from_minari, minari_facts, to_minari
from mbrl_gym.data.recording import Predict, Step, play, random_policy, record

__all__ = [
    "Episode",
    "Predict",
    "Step",
    "episodes",
    "experience_facts",
    "from_minari",
    "load_experience",
    "minari_facts",
    "play",
    "random_policy",
    "record",
    "replay_of",
    "save_experience",
    "to_minari",
]
