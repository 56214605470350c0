// Chat templates of a checkpoint folder, from the files that may hold them, in the order in which transformers looks.

import { readdirSync } from "node:fs"
import { join } from "node:path"
import type { Entries } from "./entries.ts"
import { Fields } from "./fields.ts"
import { isFile, isFolder, readText } from "./files.ts"

const MAX_TEMPLATE_BYTES = 2 ** 22

/** Adds the default template and those with names (GGUF's tokenizer.chat_template.NAME). */
export function addChatTemplates(entries: Entries, folder: string, tokenizerConfig: Fields | undefined): void {
  const templates = templatesOf(folder, tokenizerConfig)
  const named = [...templates.keys()].filter((name) => name !== "default").sort()
  for (const name of named) entries.string(`tokenizer.chat_template.${name}`, templates.get(name)!)
  if (named.length > 0) entries.strings("tokenizer.chat_templates", named)
  const main = templates.get("default")
  if (main !== undefined) entries.string("tokenizer.chat_template", main)
}

/** chat_template.jinja and additional_chat_templates/, else chat_template.json, else tokenizer_config.json. */
function templatesOf(folder: string, tokenizerConfig: Fields | undefined): Map<string, string> {
  const templates = new Map<string, string>()
  const add = (name: string, text: string) => templates.set(name.replace(/[^A-Za-z0-9]/g, "_"), text)
  const main = join(folder, "chat_template.jinja")
  if (isFile(main)) add("default", readText(main, MAX_TEMPLATE_BYTES))
  const more = join(folder, "additional_chat_templates")
  for (const file of isFolder(more) ? readdirSync(more).sort() : []) {
    if (file.endsWith(".jinja")) add(file.slice(0, -".jinja".length), readText(join(more, file), MAX_TEMPLATE_BYTES))
  }
  if (templates.size > 0) return templates
  const json = join(folder, "chat_template.json")
  const holder = isFile(json) ? Fields.read(json, MAX_TEMPLATE_BYTES) : tokenizerConfig
  if (!Array.isArray(holder?.get("chat_template"))) {
    const text = holder?.string("chat_template")
    if (text !== undefined) add("default", text)
    return templates
  }
  for (const choice of holder!.objects("chat_template")) {
    const [name, text] = [choice.string("name"), choice.string("template")]
    if (name !== undefined && text !== undefined) add(name, text)
  }
  return templates
}
