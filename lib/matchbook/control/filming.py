"""The trained body on film: an episode as frames, a strip of them for the page, and an `.mp4`.

Unusual: where nothing can be drawn, or no video be written, one warning says why, and all goes on:
the film has no frames, its strip is that sentence, and no file appears.
"""

import importlib
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes

from matchbook.control.acting import on_cpu
from matchbook.control.environments.adapters import DmEnv
from matchbook.control.environments.interface import Steps
from matchbook.control.environments.suite import suite_factory
from matchbook.control.environments.together import Together
from matchbook.control.evaluation import mean_step
from matchbook.control.learning import Learner
from matchbook.control.rendering import Camera, NoRenderer
from matchbook.critics.interface import check_positive

ROUNDING = 1e-6  # of times, in steps or frames


class Film(NamedTuple):
    """Part of an episode, or all of it.

    Arguments:
        frames: `UInt8[frames height width 3]`; none where nothing can be drawn.
        fps: frames in one second of the task's own time.
        reward: the sum of rewards until the last frame.
        missing: why there are no frames; empty where there are.
    """

    frames: np.ndarray
    fps: float
    reward: float
    missing: str = ""


def film(
    learner: Learner,
    policy: Any,
    task: str | Callable[[int], Any],
    *,
    seconds: int | float = 10.0,
    fps: int | float = 25.0,
    size: tuple[int, int] = (240, 320),
    camera: int = 0,
    seed: int = 0,
) -> Film:
    """The beginning of the first episode that `episode_returns` plays with this seed.

    Arguments:
        learner: whose `act` is used, without noise.
        policy: its parameters, such as `state.target.policy`.
        task: of dm-control's suite, as in "walker-walk"; or `factory(seed)` of a dm_env with
            `physics` and `control_timestep()`, such as dm-control's composer makes.
        seconds: of the task's own time; less if the episode ends before.
        fps: frames in one second of the task's time; fewer where its steps are longer than that.
        size: height and width, in pixels.
        camera: number of one of the task's cameras; -1 for one that sees everything.
        seed: of the episode.

    Raises:
        ValueError: there is no such task or camera, or `fps` is not above 0.
        NonFiniteStep: for an action, observation or reward.
    """
    check_positive(fps=fps)
    instance = DmEnv(suite_factory(task) if isinstance(task, str) else task)
    environments = Together([instance])
    observations = environments.reset(seed)
    timestep = instance.environment.control_timestep()
    fps = min(float(fps), 1 / timestep)
    try:
        view = Camera(instance.environment.physics, size, camera)
    except NoRenderer as reason:
        warnings.warn(str(reason), stacklevel=2)
        return Film(np.zeros((0, *size, 3), np.uint8), fps, 0.0, str(reason))
    play = partial(mean_step, learner, on_cpu(policy), environments)
    with view:
        frames, reward = _record(
            play, observations, view, seconds=seconds, fps=fps, timestep=timestep
        )
    return Film(np.stack(frames), fps, reward)


def strip(film: Film, num: int = 6) -> UInt8[np.ndarray, "height width 3"]:
    """Some frames side by side, evenly spaced from the first to the last.

    Raises:
        ValueError: there are no frames.
    """
    if not len(film.frames):
        raise ValueError(f"there are no frames to show: {film.missing}")
    return np.concatenate(list(film.frames[_chosen(film, num)]), axis=1)


def draw_strip(ax: Axes, film: Film, num: int = 6) -> None:
    """The strip with its times, in the task's seconds; or the sentence that says why there is none.

    Arguments:
        ax: axes of the shape of the strip, such as 6 to 1 times the frames' 4 to 3.
        film: as `film` gives it.
        num: frames to show.
    """
    ax.set_axis_off()
    if not len(film.frames):
        ax.text(0.5, 0.5, film.missing, transform=ax.transAxes, ha="center", va="center", wrap=True)
        return
    ax.imshow(strip(film, num))
    _, height, width, _ = film.frames.shape
    for i, frame in enumerate(_chosen(film, num)):
        place = (i + 0.5) * width, 1.03 * height
        ax.text(*place, f"{frame / film.fps:.1f} s", ha="center", va="top")


def save_mp4(film: Film, path: str | Path) -> Path | None:
    """Write the film; the file is there whole or not at all.

    It is H.264, which browsers play. Needs the extra `video`.

    Returns:
        The path; None where there are no frames, or nothing to write them with.
    """
    path = Path(path)
    if not len(film.frames):
        warnings.warn(f"{path} is not written: {film.missing}", stacklevel=2)
        return None
    try:
        av = importlib.import_module("av")  # the extra may be missing
    except ImportError:
        text = (
            f"{path} is not written: PyAV is not installed; `pip install matchbook[video]` adds it"
        )
        warnings.warn(text, stacklevel=2)
        return None
    unfinished = path.with_name(path.name + ".unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    _encode(av, film, unfinished)
    unfinished.replace(path)
    return path


def _record(
    step: Callable[..., Steps],
    observations: np.ndarray,
    view: Camera,
    *,
    seconds: int | float,
    fps: int | float,
    timestep: float,
) -> tuple[list[np.ndarray], float]:
    """Frames and the sum of rewards; `step(observations, number)` plays."""
    frames, total = [view.picture()], 0.0
    for number in range(1, 1 + int(seconds / timestep + ROUNDING)):
        steps = step(observations, number)
        observations, total = steps.observations, total + float(steps.rewards[0])
        if steps.last[0]:  # there is a new episode to be seen by now
            break
        if number * timestep >= len(frames) / fps - ROUNDING:
            frames.append(view.picture())
    return frames, total


def _chosen(film: Film, num: int) -> np.ndarray:
    """Which frames are in the strip."""
    return np.unique(np.linspace(0, len(film.frames) - 1, num).round().astype(int))


def _encode(av: Any, film: Film, path: Path) -> None:
    _, height, width, _ = film.frames.shape
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(film.fps).limit_denominator(1000))
        # Colours have half the pixels each way: an odd row or column is left out.
        stream.height, stream.width, stream.pix_fmt = height // 2 * 2, width // 2 * 2, "yuv420p"
        for frame in film.frames[:, : stream.height, : stream.width]:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
