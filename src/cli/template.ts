// Flags of chat templates, named as in llama.cpp, and what they ask of a conversation.

import { readFileSync } from "node:fs"
import type { ChatOptions } from "../chat/conversation.ts"
import { FALLBACK_NAMES, fallbackNamed } from "../chat/fallback.ts"
import { group, text, UsageError, type Values } from "./arguments.ts"

export const templateFlags = group("Chat template", {
  template: text("--chat-template", {
    value: "NAME|JINJA",
    help: `instead of the model's own: ${FALLBACK_NAMES.join(", ")}, or the template itself`,
  }),
  templateFile: text("--chat-template-file", { value: "FILE", help: "a file that holds one" }),
  templateVariables: text("--chat-template-kwargs", { value: "JSON", help: 'variables for it, as {"name":"value"}' }),
  reasoning: text("-rea, --reasoning", {
    choices: ["on", "off", "auto"],
    initial: "auto",
    help: "think before the reply, for models that let one choose; auto: as the template has it",
  }),
})

/** What the flags ask for. */
export function templateOptions(
  values: Values<typeof templateFlags>,
): Pick<ChatOptions, "template" | "templateVariables" | "thinking"> {
  const { reasoning, templateVariables } = values
  const template = templateOf(values)
  return {
    ...(template === undefined ? {} : { template }),
    ...(reasoning === "auto" ? {} : { thinking: reasoning === "on" }),
    ...(templateVariables === undefined ? {} : { templateVariables: readVariables(templateVariables) }),
  }
}

function templateOf({ template, templateFile }: Values<typeof templateFlags>): string | undefined {
  if (template !== undefined && templateFile !== undefined) {
    throw new UsageError("--chat-template and --chat-template-file exclude each other")
  }
  if (templateFile !== undefined) return readFileSync(templateFile, "utf8")
  if (template === undefined || /\{[{%#]/.test(template)) return template
  const known = fallbackNamed(template)
  if (known !== undefined) return known.source
  const names = FALLBACK_NAMES.join(", ")
  throw new UsageError(`--chat-template is "${template.slice(0, 60)}", allowed: ${names}, or a Jinja template`)
}

function readVariables(json: string): Record<string, unknown> {
  const wrong = `--chat-template-kwargs is ${json.slice(0, 60)}, a JSON object is needed, as {"name":"value"}`
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch {
    throw new UsageError(wrong)
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new UsageError(wrong)
  return value as Record<string, unknown>
}
