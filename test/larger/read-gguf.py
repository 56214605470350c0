#!/usr/bin/env python3
"""What the package gguf reads: name, type, shape and the digest of the weights of tensors whose names begin with a PREFIX.

    read-gguf.py FILE.gguf PREFIX...      needs numpy and gguf 0.19.0
"""
import hashlib, json, sys
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

found = []
for tensor in GGUFReader(sys.argv[1]).tensors:
    if not tensor.name.startswith(tuple(sys.argv[2:])):
        continue
    values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    found.append(dict(name=tensor.name, type=int(tensor.tensor_type), shape=[int(size) for size in tensor.shape],
                      sha256=hashlib.sha256(values.tobytes()).hexdigest()))
print(json.dumps(found))
