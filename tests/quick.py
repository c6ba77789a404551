"""Start benchmark.py with other constants: python quick.py PROGRAM [MODULE.NAME=NUMBER ...] -- ARGUMENTS. For tests only.

Left out unless they are asked for: two seconds of SGEMM, whose speed varies the more then, waiting for an idle machine, and the
picture, whose library takes a second to load: the word "picture" asks for it.
"""

import importlib
import sys
import types
from pathlib import Path

program = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(program.parent))

from harness import startup

startup.prepare()

QUICK = ["machine.SGEMM_SECONDS=0.1", "results.SPEED_RATIO=9", "machine.IDLE_WAIT=0", "machine.IDLE_SAMPLE=0.05"]

if __name__ == "__main__":
    end = sys.argv.index("--")
    settings = sys.argv[2:end]
    if "picture" in settings:
        settings.remove("picture")
    else:
        sys.modules["harness.picture"] = types.SimpleNamespace(save_picture=lambda *_: None)
    for setting in [*QUICK, *settings]:
        place, _, value = setting.partition("=")
        module, _, name = place.partition(".")
        setattr(importlib.import_module(f"harness.{module}"), name, float(value))
    import benchmark

    benchmark.main(sys.argv[end + 1 :])
