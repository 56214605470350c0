// Whether two models mean the same by a token's number. A draft model has to: its tokens are the target's tokens.
//
// Compared is what the files say, byte by byte, over the tokens that both have: stored text, kind, special tokens. Rows that
// a matrix has beyond the tokens are padding and count as little as tokens that one of the two has more.

import { UnsupportedError } from "../errors.ts"
import type { GgufHeader } from "../gguf/types.ts"
import { Vocabulary } from "../tokenizer/vocabulary.ts"

const SPECIAL = ["bos", "eos"] as const

/** Throws UnsupportedError with the first difference. */
export function checkSharedVocabulary(target: GgufHeader, draft: GgufHeader): void {
  const refuse = (what: string): never => {
    throw new UnsupportedError(`${draft.path} cannot draft for ${target.path}: ${what}`)
  }
  const [ours, theirs] = [target.metadata.get("tokenizer.ggml.model"), draft.metadata.get("tokenizer.ggml.model")]
  if (ours !== theirs) refuse(`its tokenizer is ${theirs}, the model's ${ours}`)
  const [a, b] = [new Vocabulary(target.metadata), new Vocabulary(draft.metadata)]
  const n = Math.min(a.nTokens, b.nTokens)
  for (let token = 0; token < n; token++) {
    const bytes = b.stored(token)
    if (!a.isStoredAs(token, bytes, bytes.length)) {
      refuse(`token ${token} is ${JSON.stringify(b.text(token))}, the model's ${JSON.stringify(a.text(token))}`)
    }
    if (a.kinds[token] !== b.kinds[token]) {
      const text = JSON.stringify(a.text(token))
      refuse(`token ${token}, ${text}, is of kind ${b.kinds[token]}, the model's of kind ${a.kinds[token]}`)
    }
  }
  for (const name of SPECIAL) {
    const [own, other] = [a.idFrom(target.metadata, name), b.idFrom(draft.metadata, name)]
    if (own !== other) refuse(`its ${name} token is ${other ?? "none"}, the model's ${own ?? "none"}`)
  }
}
