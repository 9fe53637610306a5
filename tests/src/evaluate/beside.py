"""One round's steps of kt-logistic/1 at an institution, in NumPy: what the product is timed beside.

Reads the design matrix from the directory given: dense signals, positions and values of the competency terms
padded to the widest row, outcomes, and for each parameter the curvature and the ridge. For each line on
standard input it makes the steps once and prints the processor seconds and how far the parameters moved.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

place, rows, width, parameters, steps = Path(sys.argv[1]), *map(int, sys.argv[2:])
DENSE = 17


def read(name, kind, *shape):
    return np.fromfile(place / name, dtype=kind).reshape(shape)


dense = read("dense", "<f8", rows, DENSE)
index = read("index", "<i8", rows, width)
value = read("value", "<f8", rows, width)
right = read("right", "<f8", rows)
start = read("start", "<f8", parameters)
curvature = read("curvature", "<f8", parameters)
ridge = read("ridge", "<f8", parameters)


def gradient(weights):
    own, skills = weights[:DENSE], weights[DENSE:]
    logits = dense @ own + (skills[index] * value).sum(axis=1)
    apart = 1.0 / (1.0 + np.exp(-logits)) - right
    by_skill = np.bincount(index.ravel(), (value * apart[:, None]).ravel(), minlength=len(skills))
    return np.concatenate([dense.T @ apart, by_skill])


def move():
    weights = start.copy()
    for _ in range(steps):
        weights -= (gradient(weights) + ridge * weights) / (curvature + ridge)
    return (weights - start) * curvature / (curvature + ridge)


print(np.__version__, flush=True)
for _ in sys.stdin:
    begun = time.process_time()
    moved = move()
    print(json.dumps({"seconds": time.process_time() - begun, "moved": moved.tolist()}), flush=True)
