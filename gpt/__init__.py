"""The model: a GPT in PyTorch, its training loop, its weights. Knows nothing of corpora, flows or tracking.

Read `model.py` first, then `loss.py` and `train.py`.
"""
