# %% [markdown]
# # Nothing to run
#
# A notebook beside the papers' folders: prose and one sum.

# %% tags=["parameters"]
profile: str = "laptop"  # any

# %%
1 + 1
