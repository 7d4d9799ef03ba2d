"""A GPT in PyTorch: the model, its training loop and its weights on disk.

The package has no code for corpora, flows or tracking. Read `model.py` first, then `loss.py` and `train.py`.
"""

import os

# PyTorch's threads wait for each other by spinning. When another program needs their core, that makes training up to
# forty times slower. A short spin costs nothing on a quiet machine. libgomp reads this variable when torch loads it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
