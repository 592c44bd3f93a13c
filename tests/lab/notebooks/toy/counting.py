# %% [markdown]
# # Counting?
#
# A toy experiment of two arms, for the tests of the runner.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke or laptop
arms: list[str] = ["up", "down"]  # which way is counted
seeds: int | None = None  # independent repetitions
steps: int | None = None  # how far is counted
scale: float = 1e-3  # what one step is worth
broken: str = ""  # the arm that fails, if any
sizes = {
    "smoke": {"seeds": 1, "steps": 3},
    "laptop": {"seeds": 1, "steps": 5},
}

# %%
import pandas as pd

from matchbook import lab

knobs = lab.knobs(profile, sizes, seeds=seeds, steps=steps)
experiment = lab.Experiment("toy/counting", version=1, profile=profile)


# %% [markdown]
# Each arm counts, and says how far it came.


# %%
def measure(arm: str, seed: int, *, steps: int, scale: float) -> lab.Measured:
    if arm == broken:
        raise ValueError(f"{arm} is broken")
    sign = 1 if arm == "up" else -1
    return lab.Measured({"end": sign * steps * scale + seed})


# %%
runs = experiment.run(measure, arms=arms, seeds=knobs.seeds, steps=knobs.steps, scale=scale)

# %%
fig, ax = lab.subplots(height=2.0)
ends = pd.DataFrame(runs.numbers("end"))
ax.plot(ends.to_numpy(), "o")
experiment.figure(fig, "ends", numbers=ends, alt="Where each arm ends, one dot for each seed.")

# %%
experiment.report({f"end.{arm}": float(values[0]) for arm, values in runs.numbers("end").items()})
