"""Everything afresh: notebooks x arms x seeds as jobs whose outputs are records, then the pictures.

`make reproduce` calls it for this machine. On a cluster, from the checkout:
    snakemake --workflow-profile env/profiles/slurm --config profile=gpu
`split=false` makes a job of a notebook instead of a run, unless its runs take minutes.
Unusual: a job's log is its executed notebook; `jobs/` holds copies of records under names that
Snakemake can foresee, while the notebooks look records up by key in `records/`.
"""

import json
import re
import shlex
import sys
from pathlib import Path

from matchbook.lab.notebook import all_notebooks
from matchbook.lab.planning import has_long_runs, knobs_of, plan
from matchbook.lab.records import digest

ROOT = Path(workflow.basedir)
PROFILE = config.get("profile", "laptop")
RUNS = config.get("runs", ".")  # elsewhere only where jobs share no other folder
NOTEBOOKS = {notebook.name: notebook for notebook in all_notebooks(ROOT)}
# A job imports and compiles for itself: worth it on many cores, and anywhere for long runs.
SPLIT = str(config.get("split", PROFILE != "smoke")).lower() in ("1", "true", "yes")
JOBS = plan((n for n in NOTEBOOKS.values() if SPLIT or has_long_runs(n, PROFILE, ROOT)), PROFILE)
# Two XLA threads for a job, on any machine: sums are split, and so rounded, as in what is published.
MATCHBOOK = f"NPROC=2 {shlex.quote(sys.executable)} -m matchbook.lab.command_line"
RUN = f"{MATCHBOOK} run {{wildcards.notebook}} --profile {PROFILE} --runs {RUNS} --replay own"
LOGGED = " > {log.text} 2>&1 || {{ cat {log.text} >&2; exit 1; }}"


workdir: str(ROOT / "runs" / "reproduce" / PROFILE)


wildcard_constraints:
    arm="[^/]+",
    seed=r"\d+",
    notebook="|".join(map(re.escape, NOTEBOOKS)),


rule all:
    input:
        expand("drawn/{notebook}", notebook=NOTEBOOKS),


# The params of both rules are not passed on: a job runs again when what it depends on changes.
rule run:
    output:
        "jobs/{notebook}/{arm}-{seed}.json",
    log:
        notebook=f"notebooks/{PROFILE}/{{notebook}}/{{arm}}-{{seed}}.ipynb",
        text="logs/{notebook}/{arm}-{seed}.txt",
    message:
        "{wildcards.notebook}: {wildcards.arm}, seed {wildcards.seed}"
    params:
        knobs=lambda wildcards: json.dumps(knobs_of(NOTEBOOKS[wildcards.notebook], PROFILE)),
    shell:
        RUN + " --arm {wildcards.arm} --seed {wildcards.seed} --output {output}" + LOGGED


rule draw:
    input:
        lambda wildcards: [
            f"jobs/{job.notebook}/{job.arm}-{job.seed}.json"
            for job in JOBS
            if job.notebook == wildcards.notebook
        ],
    output:
        touch("drawn/{notebook}"),
    log:
        notebook=f"notebooks/{PROFILE}/{{notebook}}.ipynb",
        text="logs/{notebook}.txt",
    message:
        "{wildcards.notebook}: pictures"
    params:
        source=lambda wildcards: digest(NOTEBOOKS[wildcards.notebook].path.read_text()),
    priority: 1
    shell:
        f"({RUN} && {MATCHBOOK} gallery --runs {RUNS})" + LOGGED
