"""Checks and measures this machine's GPU; docs/cluster.md says how to read the result.

python tests/gpu_check.py                       # one GPU, under 8 minutes
python tests/gpu_check.py --device cpu --tiny   # the same code in small, as the tests run it
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.gpu.main import main

if __name__ == "__main__":
    sys.exit(main())
