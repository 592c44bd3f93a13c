# %% [markdown]
# # What can go wrong?

# %% tags=["parameters"]
profile: str = "laptop"  # smoke or laptop
how: str = "not"  # not, raise, sleep, or die
sizes = {"laptop": {}}

# %%
import os
import sys
import time

print("python:", sys.executable, flush=True)
print("process:", os.getpid(), flush=True)
print("folder:", os.getcwd(), flush=True)
print("session:", os.environ["MATCHBOOK_SESSION"], flush=True)

# %%
if how == "raise":
    raise ValueError("raised as asked")
if how == "sleep":
    time.sleep(600)
if how == "die":
    os._exit(9)
