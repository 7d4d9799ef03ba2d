import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("module", ["gpt.train", "flows.cli", "pipelines.training.pretrain"])
def test_spin_count_is_set_unless_the_user_set_it(module: str) -> None:
    script = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': print(os.environ['GOMP_SPINCOUNT']); sys.meta_path.remove(self)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import {module}, torch\n"
    )
    free = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for environment, expected in ((free, "1000"), (free | {"GOMP_SPINCOUNT": "7"}, "7")):
        command = [sys.executable, "-c", script]
        assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip() == expected
