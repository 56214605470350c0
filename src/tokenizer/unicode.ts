// Categories of code points for the pre-tokenizers, and UTF-8 into code points. Knows no vocabulary.
// Categories come from JavaScript's own \p{...}, asked once a page of 256 code points and kept in a flat table, so that
// the scanners read one byte a character and never run a regular expression over text (a backtracking one is quadratic
// on long runs).

/** Bits of a code point's category; several may be set. Lm and Lo are LETTER alone. */
export const LETTER = 1 // \p{L}
export const NUMBER = 2 // \p{N}
export const SPACE = 4 // \p{White_Space}: JavaScript's \s differs (U+0085, U+FEFF)
export const MARK = 8 // \p{M}
export const PUNCTUATION = 16 // \p{P}
export const SYMBOL = 32 // \p{S}
export const UPPER = 64 // \p{Lu} and \p{Lt}
export const LOWER = 128 // \p{Ll}

const TESTS: readonly (readonly [RegExp, number])[] = [
  [/^\p{L}$/u, LETTER],
  [/^\p{N}$/u, NUMBER],
  [/^\p{White_Space}$/u, SPACE],
  [/^\p{M}$/u, MARK],
  [/^\p{P}$/u, PUNCTUATION],
  [/^\p{S}$/u, SYMBOL],
  [/^[\p{Lu}\p{Lt}]$/u, UPPER],
  [/^\p{Ll}$/u, LOWER],
]

// Most pages of the code space are one category throughout: one test instead of 2,048.
const WHOLE_PAGES: readonly (readonly [RegExp, number])[] = [
  [/^[\p{Lo}\p{Lm}]+$/u, LETTER],
  [/^[\p{Cn}\p{Co}\p{Cs}]+$/u, 0],
]

const N_CODE_POINTS = 0x110000
const CATEGORIES = new Uint8Array(N_CODE_POINTS) // (code point), zero pages until read
const PAGE_READY = new Uint8Array(N_CODE_POINTS >> 8) // (page)

function fillPage(page: number): void {
  PAGE_READY[page] = 1
  const first = page << 8
  let text = ""
  for (let c = first; c < first + 256; c++) text += String.fromCodePoint(c)
  for (const [pattern, bits] of WHOLE_PAGES) {
    if (pattern.test(text)) {
      CATEGORIES.fill(bits, first, first + 256)
      return
    }
  }
  for (let c = first; c < first + 256; c++) {
    const character = String.fromCodePoint(c)
    let bits = 0
    for (const [pattern, bit] of TESTS) if (pattern.test(character)) bits |= bit
    CATEGORIES[c] = bits
  }
}

/** The category bits of one code point, 0 to 0x10FFFF. */
export function category(codePoint: number): number {
  const page = codePoint >> 8
  if (PAGE_READY[page] === 0) fillPage(page)
  return CATEGORIES[codePoint]!
}

/** Text as code points, with each one's category and place in the UTF-8 bytes. Grows and is used again. */
export class CodePoints {
  length = 0
  codes = new Uint32Array(0) // (length)
  categories = new Uint8Array(0) // (length)
  offsets = new Uint32Array(0) // (length + 1), bytes from the start of the buffer given to load()

  /** Reads bytes[begin, end), which must be sound UTF-8 (TextEncoder's output, cut between characters). */
  load(bytes: Uint8Array, begin: number, end: number): void {
    this.#reserve(end - begin + 1)
    const { codes, categories, offsets } = this
    let n = 0
    let i = begin
    while (i < end) {
      const lead = bytes[i]!
      offsets[n] = i
      let code = lead
      if (lead < 0x80) {
        i += 1
      } else if (lead < 0xe0) {
        code = ((lead & 0x1f) << 6) | (bytes[i + 1]! & 0x3f)
        i += 2
      } else if (lead < 0xf0) {
        code = ((lead & 0x0f) << 12) | ((bytes[i + 1]! & 0x3f) << 6) | (bytes[i + 2]! & 0x3f)
        i += 3
      } else {
        code =
          ((lead & 0x07) << 18) |
          ((bytes[i + 1]! & 0x3f) << 12) |
          ((bytes[i + 2]! & 0x3f) << 6) |
          (bytes[i + 3]! & 0x3f)
        i += 4
      }
      codes[n] = code
      if (PAGE_READY[code >> 8] === 0) fillPage(code >> 8)
      categories[n] = CATEGORIES[code]!
      n += 1
    }
    offsets[n] = end
    this.length = n
  }

  #reserve(n: number): void {
    if (this.codes.length >= n) return
    const capacity = Math.max(n, 2 * this.codes.length, 256)
    this.codes = new Uint32Array(capacity)
    this.categories = new Uint8Array(capacity)
    this.offsets = new Uint32Array(capacity)
  }
}
