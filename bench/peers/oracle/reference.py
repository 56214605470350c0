"""Float-activation forward pass of a llama-architecture GGUF, in double precision with numpy.

usage: python3 reference.py MODEL FOLDER N_CHUNKS

Reads FOLDER/tokens.i32 (N_CHUNKS x 512 token ids) and writes FOLDER/reference-NN.f32 for each chunk: the
log-probabilities at positions 256 to 510, (255, n_vocab) float32. Weights are dequantised by the package gguf
(pip install gguf numpy); nothing is rounded between layers. This is the oracle: naive on purpose.
"""

import os
import sys

import gguf
import numpy as np

N_CTX = 512
FIRST = N_CTX // 2


def read_model(path):
    reader = gguf.GGUFReader(path)
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
    facts = {key: field.contents() for key, field in reader.fields.items() if key.startswith("llama.")}
    return weights, facts


def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def rope(x, base):
    """x: (tokens, heads, head_dim), pairs of neighbours rotate together (GGUF's llama order)"""
    n_tokens, _, head_dim = x.shape
    frequencies = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.arange(n_tokens, dtype=np.float64)[:, None] * frequencies
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out


def attention(q, k, v):
    """q: (tokens, heads, head_dim), k and v: (tokens, kv_heads, head_dim), causal"""
    n_tokens, n_heads, head_dim = q.shape
    group = n_heads // k.shape[1]
    mask = np.triu(np.full((n_tokens, n_tokens), -np.inf), 1)
    out = np.empty_like(q)
    for head in range(n_heads):
        scores = q[:, head] @ k[:, head // group].T / np.sqrt(head_dim) + mask
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = scores / scores.sum(axis=-1, keepdims=True) @ v[:, head // group]
    return out.reshape(n_tokens, n_heads * head_dim)


def log_probabilities(weights, facts, tokens):
    epsilon = facts["llama.attention.layer_norm_rms_epsilon"]
    n_heads, n_kv_heads = facts["llama.attention.head_count"], facts["llama.attention.head_count_kv"]
    base = facts.get("llama.rope.freq_base", 10000.0)
    n_tokens = len(tokens)
    x = weights["token_embd.weight"][tokens]
    for layer in range(facts["llama.block_count"]):
        w = lambda name: weights[f"blk.{layer}.{name}.weight"]
        h = rms_norm(x, w("attn_norm"), epsilon)
        q = rope((h @ w("attn_q").T).reshape(n_tokens, n_heads, -1), base)
        k = rope((h @ w("attn_k").T).reshape(n_tokens, n_kv_heads, -1), base)
        v = (h @ w("attn_v").T).reshape(n_tokens, n_kv_heads, -1)
        x = x + attention(q, k, v) @ w("attn_output").T
        h = rms_norm(x, w("ffn_norm"), epsilon)
        gate = h @ w("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    h = rms_norm(x[FIRST : N_CTX - 1], weights["output_norm.weight"], epsilon)
    logits = h @ weights.get("output.weight", weights["token_embd.weight"]).T
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def main():
    model, folder, n_chunks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    tokens = np.fromfile(os.path.join(folder, "tokens.i32"), dtype="<i4").reshape(n_chunks, N_CTX)
    weights, facts = read_model(model)
    for chunk in range(n_chunks):
        target = os.path.join(folder, f"reference-{chunk:02d}.f32")
        log_probabilities(weights, facts, tokens[chunk]).astype("<f4").tofile(target + ".partial")
        os.replace(target + ".partial", target)
        print(f"reference: chunk {chunk + 1} of {n_chunks}", flush=True)


main()
