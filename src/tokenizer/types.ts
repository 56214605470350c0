// What the rest of asdsl knows of a tokenizer.

export interface EncodeOptions {
  /** Add BOS/EOS as the model's metadata says. Default false. */
  addSpecial?: boolean
  /** Recognise special tokens written in the text (<|im_end|> ...). Default false: user text cannot inject them. */
  parseSpecial?: boolean
  /** With parseSpecial: indices into the text, ascending, of characters that are plain text, part of no special token. */
  literal?: readonly number[]
}

export interface DecodeOptions {
  /** Render special (control) tokens, or those of a set, as their text instead of leaving them out. Default false. */
  special?: boolean | ReadonlySet<number>
  /** The tokens continue a text, so the blank before their first word belongs to it. Default false: they begin one, and
   * the blank that SPM puts in front of every text is taken away again. */
  continuation?: boolean
}

/** Turns a stream of tokens into text and never emits half a UTF-8 character. */
export interface StreamDecoder {
  /** Text that became complete with this token; "" while a character is still open. */
  push(token: number): string
  /** What is left at the end: incomplete bytes as U+FFFD. Resets the decoder. */
  end(): string
}

export interface Tokenizer {
  /** "spm" or "bpe" */
  readonly kind: string
  readonly nVocab: number
  /** undefined where the model has none. */
  readonly bos: number | undefined
  readonly eos: number | undefined
  readonly addBos: boolean
  readonly addEos: boolean
  encode(text: string, options?: EncodeOptions): Int32Array
  decode(tokens: ArrayLike<number>, options?: DecodeOptions): string
  decoder(options?: DecodeOptions): StreamDecoder
  /** The raw bytes a token stands for (special tokens: their text). */
  tokenBytes(token: number): Uint8Array
  /** The token's text as stored in the vocabulary. */
  tokenText(token: number): string
  /** The id of a token by its stored text, for special tokens; undefined if there is none. */
  find(text: string): number | undefined
  isSpecial(token: number): boolean
  /** EOS, EOT, EOM and the end markers known by name. */
  isEndOfGeneration(token: number): boolean
}
