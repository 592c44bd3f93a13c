"""Films of a body: the episode that evaluation sees, drawn as dm-control draws it; or one sentence.

What needs EGL is skipped without it; what is said then is tested everywhere.
"""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from dm_control import suite

from matchbook import lab
from matchbook.control import environments, filming, rendering
from matchbook.control.evaluation import episode_returns
from matchbook.control.filming import Film, draw_strip, film, save_mp4, strip


class Swing:
    """A linear policy for cartpole."""

    observation_size, action_size = 5, 1

    def init(self, seed):
        raise AssertionError("it has learned")

    step = init

    def act(self, policy, observations, noise):
        return observations @ policy[:, None] + noise


POLICY = np.float32([1.0, 0.5, -0.5, 1.0, 1.0])


def short(seed, time_limit=0.2):
    kwargs = {"random": seed, "time_limit": time_limit}
    return suite.load("cartpole", "swingup", task_kwargs=kwargs)


@pytest.fixture(scope="module", autouse=True)
def switched_on():
    """The other tests draw nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MUJOCO_GL", raising=False)
        yield


@pytest.fixture(scope="module")
def drawn(switched_on):
    """A film of the whole of a short episode."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        played = film(Swing(), POLICY, short, seconds=9, fps=25, size=(60, 80), seed=3)
    if played.missing:
        pytest.skip(str(said[-1].message))
    return played


def test_it_is_the_episode_that_evaluation_sees(drawn):
    """20 steps of 0.01 s: pictures at 0, 0.04, ... 0.16 s, none of the episode that follows."""
    together = environments.from_dm_env(short, 2)
    returns = episode_returns(Swing(), POLICY, together, seed=3)
    np.testing.assert_allclose(drawn.reward, returns[0], rtol=1e-6)
    assert drawn.frames.shape == (5, 60, 80, 3)
    assert drawn.frames.dtype == np.uint8
    assert all(np.any(a != b) for a, b in zip(drawn.frames, drawn.frames[1:]))


def test_a_film_is_a_function_of_its_seed_and_its_seconds(drawn):
    begun = film(Swing(), POLICY, short, seconds=0.085, fps=25, size=(60, 80), seed=3)
    np.testing.assert_array_equal(begun.frames, drawn.frames[:3])
    slow = film(Swing(), POLICY, short, seconds=0.15, fps=12.5, size=(60, 80), seed=3)
    np.testing.assert_array_equal(slow.frames, drawn.frames[[0, 2]])
    fast = film(Swing(), POLICY, short, seconds=0.02, fps=1000, size=(60, 80), seed=3)
    assert (len(fast.frames), fast.fps) == (3, 100)  # one for each step of 0.01 s
    other = film(Swing(), POLICY, short, seconds=0, size=(60, 80), seed=4)
    assert np.any(other.frames != drawn.frames[:1])


def test_pictures_are_dm_controls_own(drawn):
    """In a process that was told of EGL before dm-control was imported, as it wants to be."""
    code = """
import numpy as np
from dm_control import suite
from matchbook.control.rendering import Camera

for domain, camera in ("cartpole", 0), ("cartpole", 1), ("walker", 0), ("reacher", -1):
    physics = suite.load(domain, suite.TASKS_BY_DOMAIN[domain][0]).physics
    theirs = physics.render(48, 64, camera_id=camera).astype(int)
    with Camera(physics, (48, 64), camera) as view:
        ours = view.picture().astype(int)
    assert theirs.std() > 5
    assert abs(ours - theirs).mean() < 0.5, (domain, camera, abs(ours - theirs).mean())
"""
    environment = {"MUJOCO_GL": "egl", "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_larger_than_the_models_own_buffer(drawn):
    physics = short(0).physics
    with rendering.Camera(physics, (500, 700), 0) as view:
        picture = view.picture()
    assert picture.shape == (500, 700, 3)
    assert min(picture[:, :20].std(), picture[:, -20:].std(), picture.std()) > 1


def test_a_camera_that_is_not_there(drawn):
    with pytest.raises(ValueError, match="2 cameras, got 2"):
        film(Swing(), POLICY, short, camera=2)


def made(num=9, size=(6, 8)):
    """Frame i is of the colour 20 i."""
    frames = np.broadcast_to(20 * np.arange(num)[:, None, None, None], (num, *size, 3))
    return Film(frames.astype(np.uint8), 4.0, 1.0)


def test_a_strip_is_evenly_spaced_from_first_to_last():
    picture = strip(made(), 5)
    assert picture.shape == (6, 40, 3)
    np.testing.assert_array_equal(picture[0, ::8, 0], [0, 40, 80, 120, 160])
    assert strip(made(2), 5).shape == (6, 16, 3)
    _, ax = lab.subplots()
    draw_strip(ax, made(), 3)
    np.testing.assert_array_equal(ax.images[0].get_array(), strip(made(), 3))
    assert [text.get_text() for text in ax.texts] == ["0.0 s", "1.0 s", "2.0 s"]


@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_an_mp4_holds_the_film(size, tmp_path):
    av = pytest.importorskip("av")
    path = save_mp4(made(9, size), tmp_path / "new" / "film.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 4)
    assert np.shape(frames) == (9, 48, 64, 3)
    np.testing.assert_allclose(np.mean(frames, axis=(1, 2, 3)), 20 * np.arange(9), atol=4)
    assert [place.name for place in path.parent.iterdir()] == ["film.mp4"]


def test_an_mp4_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    pytest.importorskip("av")

    def broken(av, film, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(filming, "_encode", broken)
    with pytest.raises(KeyboardInterrupt):
        save_mp4(made(), tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.warns(UserWarning, match=r"film.mp4 is not written.*matchbook\[video\]"):
        assert save_mp4(made(), tmp_path / "film.mp4") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["switched off", "a card that is not there"])
def test_where_nothing_can_be_drawn_one_sentence_says_so(how, tmp_path, monkeypatch):
    if how == "switched off":
        monkeypatch.setenv("MUJOCO_GL", "disable")
    else:
        egl = pytest.importorskip("mujoco.egl", exc_type=Exception)
        monkeypatch.setattr(egl, "EGL_DISPLAY", None)
        monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "99")
    with pytest.warns(UserWarning, match="no picture can be drawn here") as said:
        nothing = film(Swing(), POLICY, short, size=(60, 80))
    ours = [str(one.message) for one in said if one.category is UserWarning]
    assert ours == [nothing.missing]
    assert nothing.frames.shape == (0, 60, 80, 3)
    assert "EGL" in nothing.missing
    _, ax = lab.subplots()
    draw_strip(ax, nothing)
    assert [text.get_text() for text in ax.texts] == [nothing.missing]
    with pytest.warns(UserWarning, match="is not written: no picture"):
        assert save_mp4(nothing, tmp_path / "film.mp4") is None
    with pytest.raises(ValueError, match="no frames to show: no picture"):
        strip(nothing)
