"""Pictures of a MuJoCo model, without a screen.

Unusual: the drawing context is made here, with EGL on Linux, only once a picture is asked for. Both
MuJoCo and dm-control choose theirs when they are imported: left alone, one that needs a screen.
"""

import os
import platform
from typing import Any

import mujoco as _mujoco
import numpy as np
from jaxtyping import UInt8

mujoco: Any = _mujoco  # its members are known at run time only
SWITCHED_OFF = ("disable", "disabled", "off", "false", "0")
MOST_SHAPES = 10_000  # in one picture


class NoRenderer(RuntimeError):
    """Nothing can be drawn on this machine; the message says why, and what to do."""


class Camera:
    """Looks at a model; to be closed, or used in a `with` statement.

    Arguments:
        physics: dm-control's, such as `environment.physics`.
        size: height and width, in pixels.
        camera: number of one of the model's cameras; -1 for one that sees all of it.

    Raises:
        ValueError: the model has no such camera.
        NoRenderer: there is no EGL, or none that works, or MUJOCO_GL says to draw nothing.
    """

    def __init__(self, physics: Any, size: tuple[int, int], camera: int):
        self._model, self._data, self._size = physics.model.ptr, physics.data.ptr, size
        self._camera = self._placed(camera)
        buffer = self._model.vis.global_  # how large a picture can be
        buffer.offheight = max(size[0], buffer.offheight)
        buffer.offwidth = max(size[1], buffer.offwidth)
        self._scene = mujoco.MjvScene(self._model, MOST_SHAPES)
        self._option = mujoco.MjvOption()
        try:
            self._open(size)
        except Exception as reason:  # PyOpenGL, EGL and MuJoCo raise of many kinds
            raise NoRenderer(
                f"no picture can be drawn here ({type(reason).__name__}: {reason}); on Linux, "
                "install EGL (libegl1) or a graphics driver, and leave MUJOCO_GL unset"
            ) from reason

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """What there is to see now."""
        height, width = self._size
        frame, everywhere = (
            np.empty((height, width, 3), np.uint8),
            mujoco.MjrRect(0, 0, width, height),
        )
        everything = mujoco.mjtCatBit.mjCAT_ALL
        self._gl.make_current()
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, self._camera, everything, self._scene
        )
        mujoco.mjr_render(everywhere, self._scene, self._context)
        mujoco.mjr_readPixels(frame, None, everywhere, self._context)
        return frame[::-1]  # OpenGL begins at the bottom

    def close(self) -> None:
        """Give back the context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _placed(self, camera: int) -> Any:
        there = self._model.ncam
        if not -1 <= camera < there:
            raise ValueError(f"the model has {there} cameras, got {camera}; -1 sees all of it")
        placed = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(self._model, placed)
        if camera >= 0:
            placed.type, placed.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        return placed

    def _open(self, size: tuple[int, int]) -> None:
        self._gl = _context_class()(size[1], size[0])
        self._gl.make_current()
        scale = mujoco.mjtFontScale.mjFONTSCALE_100.value
        self._context = mujoco.MjrContext(self._model, scale)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)


def _context_class() -> Any:
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen in SWITCHED_OFF:
        raise RuntimeError(f"MUJOCO_GL is {chosen!r}")
    if platform.system() == "Linux" and chosen in ("", "egl"):
        from mujoco.egl import GLContext
    else:
        from mujoco.gl_context import GLContext
    return GLContext
