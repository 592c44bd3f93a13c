"""`matchbook.gemma` exports what it says, and starts without JAX."""

import subprocess
import sys

import pytest

from matchbook import gemma


def test_every_export_is_there():
    assert set(gemma.__all__) <= set(dir(gemma))
    for name in gemma.__all__:
        assert getattr(gemma, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        gemma.generat  # noqa: B018


def test_a_tokenizer_does_not_wait_for_jax():
    program = "import sys\nfrom matchbook.gemma import Tokenizer\nassert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
