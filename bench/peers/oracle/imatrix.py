#!/usr/bin/env python3
"""llama-imatrix on SmolLM2, 2 x 512 tokens of WikiText-2 -> test/conformance/expected/imatrix.json

    ASDSL_TEST_DATA=... imatrix.py LLAMA_IMATRIX MODEL.gguf      needs numpy and gguf 0.19.0

Of each tensor's sums of squares: how many rows they are of, their total, and every 61st of them. llama-imatrix sums inputs
before it rounds them to int8.
"""
import hashlib, json, os, pathlib, subprocess, sys, tempfile
import numpy as np
from gguf import GGUFReader

N_CTX, N_CHUNKS, STRIDE = 512, 2, 61
TEXT = "text/wikitext2-valid-tokens.txt"
program, model = sys.argv[1], pathlib.Path(sys.argv[2])
text = pathlib.Path(os.environ["ASDSL_TEST_DATA"]) / TEXT


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / "imatrix.gguf"
    flags = ["-c", str(N_CTX), "--chunks", str(N_CHUNKS), "-t", "2"]
    subprocess.run([program, "-m", model, "-f", text, "-o", out, *flags], check=True, stdout=subprocess.DEVNULL)
    found = {t.name: np.asarray(t.data, np.float64).ravel() for t in GGUFReader(out).tensors}
tensors = {}
for name, values in sorted(found.items()):
    if name.endswith(".in_sum2"):
        tensor = name.removesuffix(".in_sum2")
        digits = lambda x: float(f"{x:.7g}")
        tensors[tensor] = dict(count=int(found[f"{tensor}.counts"][0]), total=digits(values.sum()),
                               some=[digits(x) for x in values[::STRIDE]])
provenance = dict(peer="llama-imatrix", llamaCppRelease="v0.5.0", model=model.name, modelSha256=sha(model),
                  command="bench/peers/oracle/imatrix.py LLAMA_IMATRIX MODEL.gguf")
result = dict(provenance=provenance, text=dict(path=TEXT, sha256=sha(text)), nCtx=N_CTX, nChunks=N_CHUNKS, stride=STRIDE,
              tensors=tensors)
root = pathlib.Path(__file__).parent.parent.parent.parent
(root / "test/conformance/expected/imatrix.json").write_text(json.dumps(result, indent=1) + "\n")
