"""DreamLog: a callback that shows in TensorBoard, as a run goes on, what the model dreams and how true it is."""

import importlib.util
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat

from mbrl_gym.agents import ModelBasedAlgorithm
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.report.data_report import ReportConfig, measure_data, reach
from mbrl_gym.report.drawn import drawn_film
from mbrl_gym.report.figures import dimension_names
from mbrl_gym.report.panels import figures
from mbrl_gym.report.pictures import sees
from mbrl_gym.report.record import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

LITTLE = ReportConfig(windows=500, segments=100, particles=16, films=16)
SEEN = 5  # rows of a film that the model is shown, or its context where that is more
FILM = "report/film"


class DreamLog(BaseCallback):
    """Every so many real steps, writes a film of the model's open loop and the report's figures to TensorBoard.

    They are of the agent's own experience, which the model was fitted to: they show how a model comes along, and are no
    test. What is measured draws nothing from the run's randomness, so that a run with this callback is the run without.
    Other outputs of the log get nothing of it.

    The film is an animated GIF (truth, prediction and difference, one above the other), which TensorBoard plays without
    moviepy; that of SB3's ``Video`` needs a moviepy before 2.

    Args:
        every: real steps between two.
        config: how much is measured; ``horizon`` is the film's, too. Its episodes are not played.
        windows: late segments of experience in the film, side by side.
        fps: of the film.
        with_figures: whether the report's figures are drawn, which takes the most of the time.

    Raises:
        ValueError: a number is below 1; at the first step: the log has no TensorBoard.
        TypeError: at the first step: the algorithm learns no model.
        ImportError: figures are to be drawn, and matplotlib is not installed.
    """

    def __init__(
        self,
        every: int = 10_000,
        config: ReportConfig = LITTLE,
        windows: int = 2,
        fps: int = 10,
        with_figures: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("every", every), ("windows", windows), ("fps", fps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if with_figures and importlib.util.find_spec("matplotlib") is None:
            raise ImportError("matplotlib draws the figures, and is not installed; pip install 'mbrl-gym[viz]'")
        self._every, self._config, self._windows, self._fps = every, config, windows, fps
        self._with_figures = with_figures

    def _on_training_start(self) -> None:
        if not isinstance(self.model, ModelBasedAlgorithm):
            raise TypeError(f"the algorithm must learn a model, got {type(self.model).__name__}; take one of ours")
        if not self._outputs():
            raise ValueError(
                "the agent's log must have TensorBoard, got none; make the agent with tensorboard_log=FOLDER, or give "
                "set_logger() a TensorBoardOutputFormat"
            )
        self._next = self.num_timesteps + self._every

    def _on_step(self) -> bool:
        agent: Any = self.model
        if self.num_timesteps >= self._next and agent.trainer.updates:
            with isolated_randomness(0):
                self._write(agent)
            self._next = self.num_timesteps + self._every
        return True

    def _outputs(self) -> list[TensorBoardOutputFormat]:
        return [output for output in self.logger.output_formats if isinstance(output, TensorBoardOutputFormat)]

    def _write(self, agent: ModelBasedAlgorithm) -> None:
        try:
            horizon = reach(agent.model, agent.replay, self._config.horizon)
        except ValueError:  # no episode is long enough yet
            return
        film = self._film(agent, horizon)
        drawings = [(f"report/{name}", figure) for name, figure in self._figures(agent)] if self._with_figures else []
        for output in self._outputs():
            _add_gif(output, FILM, film, self._fps, self.num_timesteps)
            others = ("stdout", "log", "json", "csv")
            for name, figure in drawings:
                output.write({name: Figure(figure, close=False)}, {name: others}, self.num_timesteps)

    def _film(self, agent: ModelBasedAlgorithm, horizon: int) -> np.ndarray[Any, Any]:
        model, replay = agent.model, agent.replay
        length = model.context + horizon
        starts = replay.windows(length)[::-1][::length][: self._windows][::-1]
        seen = min(max(SEEN, model.context), length - 1)
        return drawn_film(model, replay.gather(starts, length, device=model.device), seen, agent.real_id)

    def _figures(self, agent: ModelBasedAlgorithm) -> Iterator[tuple[str, "Drawing"]]:
        model = agent.model
        measured = measure_data(model, agent.replay, "experience so far", self._config)
        names = () if sees(model) else tuple(dimension_names(agent.real_id, model.observation_space))
        for name, _, figure in figures(Report("", {}, names, (measured,))):
            yield name.removeprefix("0_"), figure


def _add_gif(output: TensorBoardOutputFormat, name: str, film: np.ndarray[Any, Any], fps: int, step: int) -> None:
    """Write pictures [T, H, W, 3] as an image that moves."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # an optional extra

    frames, buffer = [Image.fromarray(picture) for picture in film], BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)
    height, width = film.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
    writer = output.writer.file_writer
    assert writer is not None
    writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
    output.writer.flush()
