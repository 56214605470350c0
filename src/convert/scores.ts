// Scores for GGUF's "llama" tokenizer out of a tokenizer.json's merges. Both merge the best pair first; a tokenizer.json
// ranks pairs, GGUF the tokens that they become. Where all pairs that make a token stand together, as in what
// transformers makes of SentencePiece models (SentencePieceExtractor), the order is the same.

import { FormatError } from "../errors.ts"
import { KIND } from "../tokenizer/vocabulary.ts"
import type { TokenTable } from "./vocabulary.ts"

/** SentencePiece's own numbering for tokens of merges: 0, -1, -2 and on in the order of merging, then tokens that no merge
 * makes. What is added or not there at all: llama.cpp's values, which no merge reaches. */
export function scoresOf(
  table: TokenTable,
  merges: readonly (readonly [string, string])[],
  warn: (text: string) => void,
): Float32Array {
  const { texts, kinds, ids } = table
  const scores = Float32Array.from(kinds, scoreOfKind)
  const isRanked = new Uint8Array(texts.length)
  let rank = 0
  let last = -1
  let nApart = 0
  for (const [left, right] of merges) {
    const id = ids.get(left + right)
    if (id === undefined) throw new FormatError(`${left + right} is not in the vocabulary`)
    if (id !== last && isRanked[id] === 1) nApart++
    last = id
    if (isRanked[id] === 1) continue
    isRanked[id] = 1
    scores[id] = -rank++
  }
  for (let id = 0; id < texts.length; id++) {
    if (kinds[id] === KIND.normal && isRanked[id] === 0) scores[id] = -rank++
  }
  const nUnmerged = countUnmerged(table, merges)
  if (nApart > 0 || nUnmerged > 0) {
    warn(
      `tokenizer.json: ${nApart} of ${merges.length} merges are out of their tokens' order, and ${nUnmerged} pairs of ` +
        "tokens make another one without a merge; GGUF cannot say so, and some text will be cut otherwise",
    )
  }
  return scores
}

function scoreOfKind(kind: number): number {
  if (kind === KIND.control || kind === KIND.userDefined) return -1000
  return kind === KIND.unused ? -10000 : 0
}

/** Pairs that GGUF's tokenizer would merge and tokenizer.json does not. */
function countUnmerged({ kinds, ids }: TokenTable, merges: readonly (readonly [string, string])[]): number {
  const known = new Set(merges.map(([left, right]) => `${left} ${right}`))
  const isNormal = (text: string) => kinds[ids.get(text) ?? -1] === KIND.normal
  let n = 0
  for (const text of ids.keys()) {
    if (!isNormal(text)) continue
    for (let at = 1; at < text.length; at++) {
      const [left, right] = [text.slice(0, at), text.slice(at)]
      if (isNormal(left) && isNormal(right) && !known.has(`${left} ${right}`)) n++
    }
  }
  return n
}
