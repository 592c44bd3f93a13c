# %% [markdown]
# # What exactly is the best of N answers?
#
# Ask a language model $N$ times, let a reward model pick the winner: *Best-of-N* is the simplest
# way to better answers, and it costs $N$ generations every time.
# [BOND](https://arxiv.org/abs/2407.14622) trains a model to give such winners at the first try.
# That takes a target: the distribution of the winner. This notebook computes it, exactly, on answer
# spaces small enough to list, and holds each of the paper's statements against brute force. No
# model is trained here, and no sample is drawn.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: a column of the table below
arms: list[str] = ["exact"]  # one computation: there is nothing to repeat
cases: int | None = None  # random answer spaces that each statement is tried on
answers: int | None = None  # equally likely answers of the simulated anchor
sizes = {
    "smoke": {"cases": 40, "answers": 2000},
    "laptop": {"cases": 500, "answers": 20000},
    "gpu": {"cases": 500, "answers": 20000},
    "paper": {"cases": 500, "answers": 20000},
}

# %%
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from matchbook import lab
from matchbook.bond import best_of_n, checks, continuous
from matchbook.lab import style

# %% [markdown]
# ## What the paper says
#
# **Theorem 1.** Let $p_<(y)$ be the probability that a sample of the reference $\pi_{ref}$ is worse
# than $y$, and $p_\le(y)$ that it is not better. Then
#
# $$\pi_{BoN}(y)=\pi_{ref}(y)\;\underbrace{p_\le(y)^{N-1}}_{(A)}\;
# \underbrace{\sum_{i=1}^{N}\Big[\frac{p_<(y)}{p_\le(y)}\Big]^{i-1}}_{(B)}.$$
#
# (A) punishes bad answers, exponentially in $N$. (B) corrects for drawing $y$ more than once. The
# paper assumes that no two answers have the same reward; we allow ties, and the winner is then any
# one of the tied samples. In the library it is one call, in log space. Here for three answers, from
# bad to good, and the best of two:

# %%
reference = jnp.log(jnp.array([0.5, 0.3, 0.2]))
best = jnp.exp(best_of_n.log_pmf(reference, jnp.array([1, 2, 3]), n=2))
[round(float(p), 4) for p in best]

# %% [markdown]
# By hand: the worst answer wins only against itself, $.5 \times .5 = .25$; the best loses only if
# both draws miss it, $1 - .8^2 = .36$; the rest is $.39$.
#
# ## What we measure
#
# Each function in `checks` puts one statement to the test and returns numbers and curves: most on
# random answer spaces, some on closed forms, the last by simulating a moving anchor. Identities
# have to hold to the rounding of double precision, about $10^{-16}$, so everything runs inside
# `jax.enable_x64`; the library by itself computes in single precision.


# %%
def measure(arm, seed, cases, answers):
    with jax.enable_x64(True):
        found = [check(seed, cases) for check in checks.ON_RANDOM_SPACES]
        found += [check() for check in checks.CLOSED_FORMS]
        return lab.Measured(*checks.join([*found, checks.ema_speed(answers)]))


# %%
knobs = lab.knobs(profile, sizes, cases=cases, answers=answers)
experiment = lab.Experiment("bond/01_best_of_n", version=1, profile=profile)
runs = experiment.run(measure, arms=arms, seeds=1, cases=knobs.cases, answers=knobs.answers)
numbers = runs.table().drop(columns=["arm", "seed"]).iloc[0]


def curve(name):
    x, y = runs.curve(name)[arms[0]]
    return x, y[0]


# %% [markdown]
# ## Theorem 1 against brute force
#
# On the left ten answers, from bad to good; brackets join those with equal reward. Grey is the
# reference, green the formula at $N = 4$. The circles come from going through all $10^4$ ways to
# draw four answers and counting the winners, without any formula. On the right the same comparison
# on random spaces of five answers, most of them with ties: each dot is the *largest* difference
# found in one space, whether the first, the last or a random one of the tied samples wins. (Where
# there is no difference at all, the dot sits at the bottom.)

# %%
place, rewards = curve("demo.rewards")
grey, green = style.ROLES["reference"], style.ROLES["best_of_n"]
reference, best = curve("demo.N1")[1], curve("demo.N4")[1]

# %%
fig, (ax, errors) = lab.subplots(1, 2, height=3.5, width=9.6)
ax.bar(place - 0.2, reference, width=0.4, color=grey, label="reference")
ax.bar(place + 0.2, best, width=0.4, color=green, label="best of 4: Theorem 1")
circles = {"mfc": "white", "mec": style.INK, "ms": 5, "label": "best of 4: counted"}
ax.plot(place + 0.2, curve("demo.brute_force.N4")[1], "o", **circles)
for tied in (place[rewards == r] for r in np.unique(rewards) if sum(rewards == r) > 1):
    ax.plot(tied[[0, -1]] + [-0.4, 0.4], [-0.008] * 2, color=style.INK, lw=1.4)
    ax.text(tied.mean(), -0.013, "equal reward", ha="center", va="top")
ax.set(xticks=[], ylim=(-0.035, 0.27), yticks=[0, 0.1, 0.2], ylabel="probability")
ax.set(xlabel="ten answers, from bad to good", title="Formula and count agree")
ax.spines["bottom"].set_visible(False)
ax.legend(loc="upper left")
for n, color in zip((2, 3, 4), style.shades("234").values()):
    space, error = curve(f"theorem.error.N{n}")
    errors.plot(space, error + 1e-17, ".", ms=7, color=color, label=f"N = {n}")
lab.paper_line(errors, np.finfo(float).eps, "double\nprecision")
errors.set(yscale="log", ylim=(6e-18, 1e-13), ylabel="largest difference")
errors.set(xlabel="random space", title="... in every space, to rounding")
lab.label_lines(errors)
alt = "Left: ten answers; the formula's bars end where brute force counts. Right: differences of "
alt += "about 1e-16 in every random space."
drawn = pd.DataFrame({"reward": rewards, "reference": reference, "best_of_4": best})
experiment.figure(fig, "theorem_1", numbers=drawn, alt=alt)

# %% [markdown]
# ## Try another $N$
#
# In JupyterLab, this is a slider. At $N = 2$ the worst answers fade; by $N = 64$ only the last one
# or two are left. Watch how long the last answer takes to win, for it is rarely drawn at all.


# %%
def explore(n):
    log_pmf = best_of_n.log_pmf(jnp.log(jnp.asarray(reference)), jnp.asarray(rewards), n)
    fig, ax = lab.subplots(height=3)
    ax.bar(place - 0.2, reference, width=0.4, color=grey)
    ax.bar(place + 0.2, np.exp(log_pmf), width=0.4, color=green)
    ax.set(xticks=[], ylim=(0, 1), ylabel="probability", title=f"Best of {n}")
    return fig


lab.interactive(explore, n=(1, 64))

# %% [markdown]
# ## The correction (B) lies between 1 and $N$
#
# For the worst answer (B) is 1: nothing below it could have filled the other places. For an answer
# so rare that it never comes twice, (B) is $N$. Between those ends it depends on how finely the
# reference is divided. Here $K$ answers are equally likely and $N = 8$. With four answers (B)
# matters; with thousands, as in language, it is almost the constant $N$, and a constant does not
# change a distribution. This is why the paper may drop (B) in practice.

# %%
fig, ax = lab.subplots(height=3.3)
sizes_drawn = [4, 16, 64, 4096]
for count, color in zip(sizes_drawn, style.shades(map(str, sizes_drawn)).values()):
    marker = "o-" if count < 64 else "-"
    ax.plot(*curve(f"collision.K{count}"), marker, ms=4, color=color, label=f"K = {count}")
lab.paper_line(ax, 8, "N = 8")
lab.paper_line(ax, 1, "1")
ax.set(xlabel=r"share of samples that are not better, $p_\leq$", ylabel="collision sum (B)")
lab.label_lines(ax)
alt = "The collision sum rises from 1 at the worst answer towards 8, sooner for more answers."
drawn = pd.concat({k: pd.DataFrame(dict(zip("xy", curve(f"collision.K{k}")))) for k in sizes_drawn})
experiment.figure(fig, "collision_sum", numbers=drawn.reset_index(names=["K", "i"]), alt=alt)

# %% [markdown]
# ## How far does it move, how often does it win?
#
# $$\mathrm{KL}(\pi_{BoN}\,\|\,\pi_{ref})\;\le\;\log N-\frac{N-1}{N},\qquad
# P(\text{win})\;\le\;\frac{N}{N+1}.$$
#
# Dots are random spaces with ties, at six values of $N$; the lines are $K$ equally likely answers.
# No dot passes the bounds (black), and many equally likely answers reach them: there, nothing comes
# twice. So a bound that is often quoted as *the* KL of Best-of-N is its largest possible value.

# %%
ns = np.array([2, 4, 8, 16, 32, 64])
bounds = pd.DataFrame(
    {"kl": continuous.kl_to_reference(ns), "win": continuous.mean_quantile(ns)}, ns
)
bounds.rename_axis("N").T.round(4)

# %%
fig, axes = lab.subplots(1, 2, height=3.4, width=9.6)
for ax, (name, bound) in zip(axes, bounds.items()):
    for n in ns:
        values = curve(f"{name}.N{n}")[1]
        spread = n * 2 ** np.linspace(-0.18, 0.18, values.size)
        ax.plot(spread, values, ".", ms=4, color="#b5b5b5", zorder=1)
    for count, color in zip((4, 16), style.shades("ab").values()):
        ax.plot(ns, curve(f"{name}.even.K{count}")[1], color=color, label=f"K = {count}")
    ax.plot(ns, bound, color=style.INK, lw=1.2, label="bound; K = 4096")
    ax.plot(ns, curve(f"{name}.even.K4096")[1], "o", color=style.INK, mfc="white")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="N", xticks=ns, xticklabels=ns)
    lab.label_lines(ax)
axes[0].set_ylabel("KL to the reference, nats")
axes[1].set_ylabel("win rate against the reference")
alt = "KL and win rate of Best-of-N rise with N; all random spaces lie below the two bounds."
experiment.figure(fig, "bounds", numbers=bounds.rename_axis("N"), alt=alt)

# %%
values = ["kl_to_reference", "kl_from_reference", "mean_log_quantile", "mean_quantile"]
limit = {v: [numbers[f"continuous.{v}.N{n}"] for n in (2, 4, 8, 16)] for v in values}
pd.DataFrame(limit, index=pd.Index([2, 4, 8, 16], name="N")).round(4)

# %% [markdown]
# The table holds the same limit in numbers, integrated over the density $N u^{N-1}$ of the
# winner's quantile $u$. It is where the curves of Figure 2 must begin: at $N = 8$, forward KL 1.20,
# backward KL 4.92, and a log-quantile of $-1$ for the untrained model.
#
# ## Choosing $N$ is choosing a KL penalty
#
# RLHF maximises $E[r] - \beta\,\mathrm{KL}(\pi\|\pi_{ref})$. Equation 8: take as reward the
# log-quantile, plus (B)'s small share, and as strength $1/(N-1)$,
#
# $$r_{BOND}(y) = \log p_\le(y) + \frac{\log (B)}{N-1},\qquad \beta_{BOND}=\frac1{N-1},$$
#
# and the optimum *is* Best-of-N, already normalised. We sweep $\beta$ on the ten answers: the
# distance to Best-of-N is zero at $1/(N-1)$ (circles) and nowhere else.
#
# This reward sees only ranks. Pass the rewards through $e^r$, $\sqrt[3]{r}$, $\tanh r$ or any other
# increasing function, and $r_{BOND}$ does not change by a single bit. Nobody has to find a scale on
# which reward and KL can be compared.

# %%
fig, ax = lab.subplots(height=3.4)
for n, color in zip((2, 4, 8, 16), style.shades("abcd").values()):
    beta, kl = curve(f"rlhf.N{n}")
    ax.plot(beta, np.where(kl < 1.2, kl, np.nan), color=color, label=f"N = {n}")
    ax.plot(1 / (n - 1), kl[beta == 1 / (n - 1)], "o", color=color, mfc="white", zorder=3)
penalties = {"1/15": 1 / 15, "1/7": 1 / 7, "1/3": 1 / 3, "1": 1}
ax.set(xscale="log", ylim=(-0.05, 1.25), xlabel=r"KL penalty $\beta$")
ax.set_xticks(list(penalties.values()), penalties.keys())
ax.minorticks_off()
ax.set_ylabel("KL(RLHF optimum, Best-of-N), nats")
lab.label_lines(ax)
alt = "Four valleys, one for each N: each touches zero where the KL penalty is 1/(N-1)."
drawn = pd.concat({n: pd.DataFrame(dict(zip("xy", curve(f"rlhf.N{n}")))) for n in (2, 4, 8, 16)})
experiment.figure(fig, "rlhf", numbers=drawn.reset_index(names=["N", "i"]), alt=alt)

# %%
numbers.filter(regex="^(rlhf|invariance)").to_frame("largest difference")

# %% [markdown]
# ## Rounds multiply
#
# Best-of-$n$ of Best-of-$m$ is Best-of-$nm$ (Equation 16). The paper calls this informal; it is
# exact, with ties too. So a policy that has become Best-of-2 of its anchor can be made the next
# anchor, and $M$ rounds give $N = 2^M$ at the price of two samples each. KL then climbs by nearly
# $\log 2$ a round. Left: how winners spread over the reference's quantiles. Right: their KL.

# %%
fig, (ax, climb) = lab.subplots(1, 2, height=3.3, width=9.6)
for rounds, color in zip(range(1, 5), style.shades("1234").values()):
    label = f"N = {2**rounds}"
    ax.plot(*curve(f"iterated.density.round{rounds}"), color=color, label=label)
ax.set(xlabel="quantile of the reference", ylabel="density of the winner", ylim=(0, 16.5))
lab.label_lines(ax)
done, law = curve("iterated.law")
climb.plot(done, law, color=style.INK, lw=1.2, label=r"$M\,\log 2-1+2^{-M}$")
climb.plot(done, curve("iterated.kl")[1], "o", color=green, mfc="white", mew=1.6)
climb.set(xlabel="rounds M of Best-of-2", ylabel="KL to the reference, nats", xticks=done)
lab.label_lines(climb)
alt = "Left: densities pile up at the top quantile, more with each round. Right: KL climbs evenly."
drawn = pd.DataFrame({"rounds": done, "law": law, "kl": curve("iterated.kl")[1]})
experiment.figure(fig, "rounds", numbers=drawn, alt=alt)

# %% [markdown]
# ## Two ways to be near: Jeffreys divergence
#
# $$J_\beta = (1-\beta)\,\underbrace{\mathrm{KL}(\pi_{BoN}\|\pi)}_{\text{forward}}
# +\beta\,\underbrace{\mathrm{KL}(\pi\|\pi_{BoN})}_{\text{backward}}$$
#
# is what BOND minimises (Equation 11). Take $\pi$ = Best-of-$m$ and walk through $m$ towards a
# target with $N = 8$. On the left, where $\pi$ still says things that the target would not,
# backward KL is the stricter; on the right, where $\pi$ has given up answers that the target keeps,
# forward KL is. All end at the same place. If the policy can be anything, the minimiser is
# Best-of-N itself whatever $\beta$ is, and BFGS, started at the reference, finds it. $\beta$
# matters only where the policy cannot reach its target, so a table of probabilities, which can be
# anything, cannot show Figure 2.

# %%
fig, ax = lab.subplots(height=3.3)
roles = {0.0: "forward_kl", 0.5: "jeffreys", 1.0: "backward_kl"}
names = ["forward KL, β = 0", "Jeffreys, β = ½", "backward KL, β = 1"]
for (beta, role), name in zip(roles.items(), names):
    m, divergence = curve(f"jeffreys.beta{beta}")
    shown = np.where(divergence < 3, divergence, np.nan)
    ax.plot(m, shown, color=style.ROLES[role], label=name)
ax.plot(8, 0, "o", color=style.INK, mfc="white", zorder=3)
ax.set_xscale("log", base=2)
ax.set(xlabel="m of the policy, Best-of-m", ylabel="divergence from Best-of-8, nats")
ax.set(xticks=2 ** np.arange(7), xticklabels=2 ** np.arange(7), ylim=(-0.1, 3.1))
lab.label_lines(ax)
alt = "Forward KL, Jeffreys and backward KL fall to zero at m = 8 and rise beyond it."
drawn = pd.DataFrame({"m": m} | {r: curve(f"jeffreys.beta{b}")[1] for b, r in roles.items()})
experiment.figure(fig, "jeffreys", numbers=drawn, alt=alt)

# %%
numbers.filter(like="jeffreys").to_frame("largest difference")

# %% [markdown]
# ## Gradients, and a sign
#
# How a trainer goes down each term: forward KL by supervised fine-tuning on Best-of-N samples
# (Equation 13), backward KL by a policy gradient with $r_{BOND}$ (Equation 15). J-BOND adds a pull
# towards its moving anchor, $\gamma\,\mathrm{KL}(\pi\|\pi_{anchor})$ in Equation 19, by a term
# $G_{Reg}$ in Algorithm 2. Across: the slope of the divergence itself, by finite differences. Up:
# the paper's formula, for random log-linear policies. On the rising diagonal the formula is right.
# $G_{Reg}$ **as printed** runs along the falling one: its sign is wrong, and descending it drives
# the policy *away* from its anchor.

# %%
fig, axes = lab.subplots(1, 3, height=3.4, width=10.2)
panels = {"forward": "Forward KL, Eq. 13", "backward": "Backward KL, Eq. 15"}
panels |= {"regularisation": "Pull to the anchor, Eq. 19"}
for ax, (term, title) in zip(axes, panels.items()):
    slope, formula = curve(f"gradient.{term}")
    ax.plot(slope, slope, color=style.GREY, lw=0.9)
    ax.plot(slope, formula, "o", ms=4, color=style.PALETTE["blue"], alpha=0.6)
    ax.set(title=title, xlabel="slope of the divergence")
slope, printed = curve("gradient.printed")
ax.plot(slope, printed, "x", ms=4.5, mew=1.3, color=style.PALETTE["vermillion"])
ax.text(slope[0], printed[0], "  as printed", color=style.ink(style.PALETTE["vermillion"]))
ax.text(slope[-1], slope[-1], "right sign  ", color=style.PALETTE["blue"], ha="right")
axes[0].set_ylabel("the paper's formula")
alt = (
    "Three scatters on the diagonal; crosses of the printed regularisation lie on the opposite one."
)
drawn = pd.DataFrame({"slope": slope, "right": formula, "printed": printed})
experiment.figure(fig, "gradients", numbers=drawn, alt=alt)

# %%
numbers.filter(like="gradient.").to_frame("largest difference")

# %% [markdown]
# ## J-BOND's shortcut (Figure 8)
#
# J-BOND never estimates a quantile. It draws *two* anchor samples, and an answer worse than both
# pays a penalty of $\log 16$. The mean penalty is $-\log 16\,(1-p_\le)^2$, and the 16 makes it
# meet $\log p_\le$ at the median, where $-\log 16 / 4 = \log\frac12$. Left: Figure 8. The two
# curves meet once more, further down, which the paper does not mention; below that point the
# penalty is too mild. Right: what the policy then aims at. It is not quite Best-of-2, but near.

# %%
fig, (ax, aims) = lab.subplots(1, 2, height=3.4, width=9.6)
ax.plot(*curve("figure8.log_p"), color=style.INK, label=r"$\log p$")
ax.plot(*curve("figure8.expected"), color=style.PALETTE["blue"], label="mean penalty")
for meeting in numbers[["figure8.crossing", "figure8.lower_crossing"]]:
    ax.plot(meeting, np.log(meeting), "o", color=style.INK, mfc="white", zorder=3)
    ax.annotate(
        f"p = {meeting:.3f}", (meeting, np.log(meeting)), (8, -12), textcoords="offset points"
    )
ax.set(xlabel=r"quantile $p_\leq$ of the answer", ylabel="reward, nats", ylim=(-4, 0.1))
ax.legend(loc="lower right")
looks = {
    "best_of_2": (green, "Best-of-2"),
    "fixed_point": (style.ROLES["jeffreys"], "J-BOND, β = .5"),
}
looks["target"] = (style.PALETTE["blue"], "the penalty alone")
for name, (color, label) in looks.items():
    aims.plot(*curve(f"jbond.{name}"), color=color, label=label)
aims.set(xlabel="quantile of the anchor", ylabel="density")
aims.legend(loc="upper left")
alt = "Left: the mean penalty follows log p, meets it at .5. Right: densities close to Best-of-2."
drawn = pd.DataFrame(dict(zip(("p", "mean_penalty"), curve("figure8.expected"))))
experiment.figure(fig, "figure_8", numbers=drawn.assign(log_p=np.log(drawn["p"])), alt=alt)

# %%
numbers.filter(regex="jbond.(Z|start|target|fixed)").to_frame("value").round(4)

# %% [markdown]
# ## Why not count?
#
# BOND's first recipe counts: of $k$ samples, which share is not better? Its logarithm is what
# Equation 8 wants, but the logarithm of a count is biased, and a count of zero has none. The paper
# does not say what it does then; two habits are drawn: count half a sample, or add one to every
# count. With 16 samples they lose sight of the worst few percent of answers. With 2, which is all
# that J-BOND has, they hardly tell a bad answer from a middling one.

# %%
fig, ax = lab.subplots(height=3.4, width=7.2)
looks = {2: style.PALETTE["vermillion"], 16: style.PALETTE["blue"]}
for k, color in looks.items():
    for rule, line, words in (("floor", "-", "zero as ½"), ("plus-one", ":", "count + 1")):
        p, mean = curve(f"quantile.{rule}.k{k}")
        ax.plot(p[::-1], mean[::-1], line, color=color, label=f"k = {k}, {words}")
ax.plot(p[::-1], np.log(p[::-1]), color=style.INK, lw=1.3, label="truth: log p")
ax.set(xscale="log", xlim=(1, 0.01), ylabel=r"mean of $\log\hat p$, nats")
ax.set_xticks([1, 0.1, 0.01], ["1", ".1", ".01"])
ax.set_xlabel(r"true quantile $p$, bad answers on the right")
lab.label_lines(ax)
alt = "Towards small quantiles log p falls on, while means of its estimates level off."
drawn = pd.DataFrame({"p": p} | {f"k{k}_floor": curve(f"quantile.floor.k{k}")[1] for k in looks})
experiment.figure(fig, "quantile_bias", numbers=drawn, alt=alt)

# %% [markdown]
# ## How fast the anchor runs
#
# J-BOND's anchor follows the policy as a moving average with rate $\eta$. Suppose the policy always
# *is* Best-of-2 of its anchor. In logits, an average of Best-of-$N$ and Best-of-$2N$ is
# Best-of-$(1+\eta)N$: $N$ grows like compound interest, and KL becomes a straight line with slope
# $\log(1+\eta)$ a step. That explains the steady line of Figure 7. A hard anchor, replaced every
# $P$ steps, gains $\log 2$ a period. The paper sets $\eta = .02$ against $P = 50$, but a fair race
# takes $P = \log 2/\log(1+\eta)$.

# %%
fig, ax = lab.subplots(height=3.4, width=7.2)
for period, color in ((35, style.PALETTE["orange"]), (50, style.PALETTE["vermillion"])):
    steps, stairs = curve(f"speed.hard{period}")
    label = f"replaced every {period}"
    ax.step(steps[:-1], stairs[:-1], where="post", lw=1.3, color=color, label=label)
simulated, law = curve("speed.simulated")[1], curve("speed.law")[1]
ax.plot(
    steps,
    simulated,
    color=style.PALETTE["blue"],
    lw=3,
    alpha=0.5,
    label="moving average, simulated",
)
ax.plot(steps, law, color=style.INK, lw=1, ls="--", label="the law")
ax.set(xlabel="steps", ylabel="KL to the reference, nats")
lab.label_lines(ax)
alt = "KL of a moving-average anchor is a straight line, on the law; stairs of period 35 keep up."
drawn = pd.DataFrame({"step": steps, "simulated": simulated, "law": law})
experiment.figure(fig, "anchor_speed", numbers=drawn, alt=alt)

# %%
show = "{:.1e}".format
found = f"""## What we found

- Theorem 1 equals brute force to {show(numbers["theorem.error"])} in all {knobs.cases} spaces, of
  which {numbers["theorem.tied_spaces"]:.0%} have ties.
- No space passes a bound: the nearest stays {numbers["kl.smallest_gap"]:.4f} nats below the KL
  bound and {numbers["win.smallest_gap"]:.4f} below N/(N+1).
- RLHF's optimum is Best-of-N to {show(numbers["rlhf.error"])}, rounds multiply to
  {show(numbers["composition.error"])}, and another scale of rewards changes
  {numbers["invariance.largest_change"]:g}.
- Both gradients are right; $G_{{Reg}}$ as printed is the negative of the right one, to
  {show(numbers["gradient.printed.plus_grad_kl"])}.
- J-BOND ends {numbers["jbond.fixed_point.kl_bo2"]:.4f} nats from Best-of-2, at a mean quantile of
  {numbers["jbond.fixed_point.mean_u"]:.3f} instead of {2 / 3:.3f}. Its reward meets the
  log-quantile at {numbers["figure8.crossing"]:.3f} and at {numbers["figure8.lower_crossing"]:.3f}.
- KL grows {numbers["speed.slope"]:.4f} a step at the end, and the law says
  {numbers["speed.log_1_plus_eta"]:.4f} in the long run; the hard period to match is
  {numbers["speed.hard_period"]:.1f}.
"""
display(Markdown(found))

# %%
experiment.report(numbers.to_dict())

# %% [markdown]
# These are identities and closed forms: there is no interval to give. Their limit: nothing was
# *trained*. A real policy cannot be anything, its quantiles are estimated, and it lags behind its
# anchor; how much of the theory survives that is for the other notebooks of this paper. The speed
# law also must fail once the best of finitely many answers is reached.
#
# ## What to try next
#
# - `-p cases=5000`: look longer for a space that breaks a bound.
# - `-p answers=100`: where does the straight line of the anchor bend?
# - In `explore`, make all rewards but one equal. What is left of Best-of-N to learn from?
