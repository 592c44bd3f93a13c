#!/bin/sh
# Sets up .venv from uv.lock: finds uv (or fetches it into .tools with pip), finds or downloads Python 3.12.
# Everything stays inside the checkout, nothing needs root. `make` calls this only when the lock has changed.
set -eu
cd "$(dirname "$0")/.."
wanted=$(cat .python-version)

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf '\nsetup: %s\n' "$*" >&2; exit 1; }

find_uv() {
    for candidate in "${UV:-}" .tools/bin/uv "$(command -v uv || true)"; do
        if [ -n "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
            printf '%s' "$candidate"
            return
        fi
    done
}

uv=$(find_uv)
if [ -z "$uv" ]; then
    say "uv not found; fetching it into .tools/ (this checkout only)"
    for python in python3 python "python$wanted" python3.13; do
        command -v "$python" >/dev/null 2>&1 || continue
        "$python" -m venv .tools >/dev/null 2>&1 && .tools/bin/python -m pip install -q uv && break
        rm -rf .tools
        # A Python without ensurepip (Debian's bare python3) may still have pip.
        "$python" -m pip install -q --target .tools/site uv 2>/dev/null &&
            mkdir -p .tools/bin && ln -sf ../site/bin/uv .tools/bin/uv && break
        rm -rf .tools
    done
    uv=$(find_uv)
    [ -n "$uv" ] || fail "no uv, and no Python with pip or venv that could fetch it.
       Install one of them (for instance 'apt install python3-venv', or uv from https://docs.astral.sh/uv) and run make again."
fi

say "uv: $("$uv" --version)"
if ! "$uv" python find "$wanted" >/dev/null 2>&1 && ! "$uv" python install "$wanted" >/dev/null 2>&1; then
    say "uv could not find or download Python $wanted; trying pyenv"
    if command -v pyenv >/dev/null 2>&1 && pyenv install --skip-existing "$wanted"; then
        UV_PYTHON=$(PYENV_VERSION=$(pyenv latest "$wanted") pyenv which python)
        export UV_PYTHON
    else
        fail "Python $wanted is needed, and neither uv nor pyenv could provide it on this machine.
       Install Python $wanted by any means (it only has to be on PATH) and run make again."
    fi
fi

say "installing the locked environment into .venv (extras: ${EXTRAS:-none})"
extras=""
for extra in ${EXTRAS:-}; do extras="$extras --extra $extra"; done
# Bytecode now, not at each import: containers that forbid writing it would compile 2,000 files a process.
# shellcheck disable=SC2086  # one word per extra is the point
"$uv" sync --locked --quiet --compile-bytecode $extras || fail "uv sync failed; the message above says why."
printf '%s\n' "$uv" > .venv/.ready
say "done"
