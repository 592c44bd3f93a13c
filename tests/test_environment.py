"""One environment, said in several files: all must agree with uv.lock and .python-version."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYTHON = (ROOT / ".python-version").read_text().strip()
PLATFORMS = {"cpu": [], "cuda13": ["--extra", "cuda13"], "tpu": ["--extra", "tpu"]}


@pytest.fixture(scope="module")
def uv() -> str:
    ready = ROOT / ".venv" / ".ready"
    found = ready.read_text().strip() if ready.exists() else shutil.which("uv")
    assert found, "uv is not at hand: run `make setup` first"
    return found


@pytest.fixture(scope="module")
def lock() -> dict:
    return tomllib.loads((ROOT / "uv.lock").read_text())


def locked_version(lock: dict, name: str) -> str:
    (version,) = [p["version"] for p in lock["package"] if p["name"] == name]
    return version


@pytest.mark.parametrize("platform", PLATFORMS)
def test_requirement_files_are_exported_from_the_lock(uv, platform):
    command = [uv, "export", "--quiet", "--frozen", "--offline", "--no-dev", "--no-emit-project"]
    command += ["--no-hashes", "--no-header", "--no-annotate", *PLATFORMS[platform]]
    exported = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    committed = (ROOT / "env" / f"requirements-{platform}.txt").read_text()
    assert committed == exported, "run `make lock` and commit what it writes"


def test_lock_was_made_from_this_pyproject(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ours,) = [p for p in lock["package"] if p["name"] == "matchbook"]
    declared = {re.match(r"[\w-]+", d)[0] for d in project["dependencies"]}
    assert {d["name"] for d in ours["dependencies"]} == declared
    assert set(ours["optional-dependencies"]) == set(project["optional-dependencies"])


def test_lock_keeps_jax_where_the_gpu_machines_are(lock):
    assert locked_version(lock, "jax").startswith("0.11.")
    assert int(locked_version(lock, "mujoco").split(".")[0]) < 4


def test_conda_file_takes_everything_from_the_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = {"pip": ["-r env/requirements-cpu.txt", "-e ."]}
    assert conda["dependencies"] == [f"python={PYTHON}", "pip", pip]


def test_dockerfile_takes_everything_from_the_lock():
    dockerfile = (ROOT / "env" / "Dockerfile").read_text()
    assert f"FROM python:{PYTHON}-slim" in dockerfile
    assert "-r env/requirements-${PLATFORM}.txt" in dockerfile
    assert set(re.findall(r"pip install .*", dockerfile)) == {
        "pip install --no-cache-dir -r env/requirements-${PLATFORM}.txt",
        "pip install --no-cache-dir --no-deps -e .",
    }


def test_python_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"].startswith(f">={PYTHON}")
    assert project["tool"]["ruff"]["target-version"] == "py" + PYTHON.replace(".", "")
    assert f"Python {PYTHON}" in (ROOT / "README.md").read_text()


def test_setup_says_what_is_missing_when_there_is_neither_uv_nor_python(tmp_path):
    """A machine with a shell only: a clear message, exit code 1, nothing left behind."""
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("sh", "cat", "dirname", "rm", "printf"):
        (bare / tool).symlink_to(shutil.which(tool))
    checkout = tmp_path / "checkout"
    (checkout / "env").mkdir(parents=True)
    for name in ("env/setup.sh", ".python-version"):
        shutil.copy(ROOT / name, checkout / name)
    run = subprocess.run(
        [str(bare / "sh"), "env/setup.sh"],
        cwd=checkout,
        env={"PATH": str(bare)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "no uv, and no Python" in run.stderr
    assert sorted(p.name for p in checkout.iterdir()) == [".python-version", "env"]


def test_second_make_does_not_set_up_again():
    if not (ROOT / ".venv" / ".ready").exists():
        pytest.skip("the environment was not made by `make setup`")
    dry = subprocess.run(
        ["make", "-n", "setup"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "setup.sh" not in dry.stdout


def test_a_control_task_loads_and_steps():
    """dm-control 1.0.50 breaks with mujoco 4 at suite.load: hence the pin `mujoco<4`."""
    os.environ.setdefault("MUJOCO_GL", "disabled")
    import numpy as np
    from dm_control import suite

    environment = suite.load("cartpole", "swingup", task_kwargs={"random": 0})
    step = environment.reset()
    for _ in range(10):
        step = environment.step(np.ones(environment.action_spec().shape))
    assert 0.0 <= step.reward <= 1.0
    assert all(np.isfinite(value).all() for value in step.observation.values())
