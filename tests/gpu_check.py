"""Checks and measures this machine's GPU; docs/cluster.md says how to read the result.

python tests/gpu_check.py                       # one GPU, under 8 minutes
python tests/gpu_check.py --device cpu --tiny   # the same code in small, as the tests run it
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.gpu.main import main

if __name__ == "__main__":
    sys.exit(main())
