"""A GPT in PyTorch: the model, its training loop and its weights on disk.

The package has no code for corpora, flows or tracking. Read `model.py` first, then `loss.py` and `train.py`.
"""

import os

from gpt.cores import cores

# PyTorch's threads wait for each other by spinning. When another program needs their core, that makes training up to
# forty times slower. A short spin costs nothing on a quiet machine. libgomp reads this variable when torch loads it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if cores() < (os.cpu_count() or 1):  # torch, Arrow and NumPy would start a thread for each core of the machine
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
