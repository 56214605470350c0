// Which tokens begin, end, pad and stand for the unknown, and what a text gets in front of it and behind it.
// Sources: llama.cpp's gguf-py/gguf/vocab.py (SpecialVocab); a text's frame is what the tokenizer's own files say of it.

import { isEndName } from "../tokenizer/vocabulary.ts"
import type { Entries } from "./entries.ts"
import type { Fields } from "./fields.ts"
import type { TokenTable } from "./vocabulary.ts"

export interface SpecialSources {
  readonly tokenizer: Fields
  readonly tokenizerConfig: Fields | undefined
  readonly config: Fields
  readonly generationConfig: Fields | undefined
}

/** GGUF's name of each, by the name in tokenizer_config.json and config.json. */
const ROLES = { bos: "bos", eos: "eos", unk: "unknown", pad: "padding" } as const

type Role = keyof typeof ROLES

/** Adds the ids, and whether BOS and EOS go with a text: always said, since readers' defaults differ. */
export function addSpecialTokens(
  entries: Entries,
  sources: SpecialSources,
  table: TokenTable,
  warn: (text: string) => void,
): void {
  const [first, last] = templateOf(sources.tokenizer)
  const ids = new Map<Role, number>()
  for (const role of Object.keys(ROLES) as Role[]) {
    const id = specialId(role, sources, table) ?? (role === "bos" ? idOf(first, table) : undefined)
    if (id === undefined) continue
    ids.set(role, id)
    entries.u32(`tokenizer.ggml.${ROLES[role]}_token_id`, id)
  }
  addOtherEnds(entries, sources, table, ids.get("eos"), warn)
  const frames = (role: Role, token: string | undefined) => {
    const isFramed = token !== undefined && idOf(token, table) === ids.get(role)
    if (token !== undefined && !isFramed)
      warn(`the post_processor adds ${token}, which is not the ${role} token: left out`)
    return sources.tokenizerConfig?.boolean(`add_${role}_token`) ?? isFramed
  }
  entries.bool("tokenizer.ggml.add_bos_token", frames("bos", first) && ids.has("bos"))
  entries.bool("tokenizer.ggml.add_eos_token", frames("eos", last) && ids.has("eos"))
}

function idOf(text: string | undefined, { added, ids }: TokenTable): number | undefined {
  if (text === undefined) return undefined
  return added.find(({ content }) => content === text)?.id ?? ids.get(text)
}

/** By text in tokenizer_config.json, else by number in config.json, else in generation_config.json. */
function specialId(role: Role, sources: SpecialSources, table: TokenTable): number | undefined {
  const given = sources.tokenizerConfig?.get(`${role}_token`)
  const text = typeof given === "object" ? (given as { content?: unknown }).content : given
  const byText = typeof text === "string" ? idOf(text, table) : undefined
  if (byText !== undefined) return byText
  const unknown = role === "unk" ? sources.tokenizer.object("model")?.get("unk_token") : undefined
  if (typeof unknown === "string") return idOf(unknown, table)
  const numbers = [sources.config, sources.generationConfig].flatMap((fields) => idsIn(fields, role, table))
  return numbers[0]
}

/** One id or several; those without a token are none. */
function idsIn(fields: Fields | undefined, role: Role, table: TokenTable): number[] {
  const value = fields?.get(`${role}_token_id`)
  const values = Array.isArray(value) ? value : [value]
  return values.filter((id): id is number => Number.isInteger(id) && id >= 0 && id < table.texts.length)
}

/** More ends than one: those that a reader does not know by their names become GGUF's eot and eom. */
function addOtherEnds(
  entries: Entries,
  { config, generationConfig }: SpecialSources,
  table: TokenTable,
  eos: number | undefined,
  warn: (text: string) => void,
): void {
  const listed = [generationConfig, config].flatMap((fields) => idsIn(fields, "eos", table))
  const others = [...new Set(listed)].filter((id) => id !== eos && !isEndName(table.texts[id]!))
  const [eot, eom, ...more] = others
  if (eot !== undefined) entries.u32("tokenizer.ggml.eot_token_id", eot)
  if (eom !== undefined) entries.u32("tokenizer.ggml.eom_token_id", eom)
  if (more.length > 0) warn(`${more.length} of ${others.length + 1} tokens that end a generation have no place in GGUF`)
}

/** What the post_processor puts before and behind a single text. */
function templateOf(tokenizer: Fields): [string | undefined, string | undefined] {
  const processor = tokenizer.object("post_processor")
  if (processor === undefined) return [undefined, undefined]
  const isSequence = processor.string("type") === "Sequence"
  const template = (isSequence ? processor.objects("processors") : [processor]).find(
    (each) => each.string("type") === "TemplateProcessing",
  )
  const single = template?.objects("single") ?? []
  const special = (piece: Fields | undefined) => piece?.object("SpecialToken")?.string("id")
  return single.length < 2 ? [undefined, undefined] : [special(single[0]), special(single.at(-1))]
}
