"""The model: a GPT in PyTorch, its training loop, its weights. Knows nothing of corpora, flows or tracking.

Read `model.py` first, then `loss.py` and `train.py`.
"""

import os

# PyTorch's threads wait for each other by spinning: up to forty times slower where another program wants their core.
# This short a spin leaves a quiet machine as fast as it is. libgomp reads it as it is loaded, with torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
