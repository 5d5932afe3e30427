"""mbrl_gym: learned models of Gymnasium environments, handed back as Gymnasium environments.

Importing it registers the ``Learned-*`` ids with Gymnasium and changes nothing else.
"""

from pathlib import Path as _Path

# In a checkout agents/ and wrappers/ stand beside this folder; in a wheel they are inside it.
_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "agents" / "__init__.py").is_file():
    __path__.append(str(_root))

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.checker import check_world_model
from mbrl_gym.checkpoint import CheckpointError
from mbrl_gym.data_as_demonstrator import DataAsDemonstrator
from mbrl_gym.envs.checker import check_vector_env
from mbrl_gym.envs.registry import (
    ModelNotAvailable,
    available_models,
    make,
    make_vec,
    publish,
    register_all,
    spec,
)
from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.envs.vector import LearnedVectorEnv
from mbrl_gym.fit import FitReport, ModelTrainer, TrainerConfig
from mbrl_gym.model import (
    DensityModel,
    ModelLoss,
    Prediction,
    Trajectory,
    WorldModel,
    imagine,
    trajectory_return,
)
from mbrl_gym.models.bayes_by_backprop import BayesByBackprop, BayesByBackpropConfig
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.models.gaussian_process import GaussianProcess, GaussianProcessConfig
from mbrl_gym.models.last_layer import LastLayer, LastLayerConfig
from mbrl_gym.models.mc_dropout import MCDropout, MCDropoutConfig
from mbrl_gym.models.rssm import RSSM
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.models.swag import SWAG, SWAGConfig
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.spaces import ActionCodec, ObservationCodec
from mbrl_gym.start_states import StartStates
from mbrl_gym.store import StoredModel, load_model, save_model
from mbrl_gym.tensors import TensorStruct

__version__ = "0.1.0"

__all__ = [
    "RSSM",
    "SWAG",
    "ActionCodec",
    "BayesByBackprop",
    "BayesByBackpropConfig",
    "CheckpointError",
    "DataAsDemonstrator",
    "DensityModel",
    "Ensemble",
    "EnsembleConfig",
    "FitReport",
    "GaussianProcess",
    "GaussianProcessConfig",
    "LastLayer",
    "LastLayerConfig",
    "LearnedEnv",
    "LearnedVectorEnv",
    "MCDropout",
    "MCDropoutConfig",
    "ModelLoss",
    "ModelNotAvailable",
    "ModelTrainer",
    "ObservationCodec",
    "Prediction",
    "RSSMConfig",
    "SWAGConfig",
    "SequenceBatch",
    "SequenceReplay",
    "StartStates",
    "StoredModel",
    "TensorStruct",
    "TrainerConfig",
    "Trajectory",
    "WorldModel",
    "available_models",
    "check_vector_env",
    "check_world_model",
    "imagine",
    "load_model",
    "make",
    "make_vec",
    "publish",
    "save_model",
    "spec",
    "trajectory_return",
]

register_all()
