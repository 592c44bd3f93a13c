"""Kills at random moments lose no transition that was acknowledged; the script does a thousand."""

import json
import subprocess
import sys
from pathlib import Path


def test_nothing_acknowledged_is_lost(tmp_path):
    script = Path(__file__).parent / "kill_replay.py"
    command = [sys.executable, str(script), str(tmp_path / "kills"), "0", "12"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == 12
    assert told["acknowledged"] >= 20
