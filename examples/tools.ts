// Give a model a tool: bun examples/tools.ts MODEL "What is 127 times 31?", with a model that knows tools (Qwen2.5, Qwen3 ...)
import { ArgumentError, type Chat, load, type Message, type Tool, type ToolCall } from "asdsl"

export const tools: Tool[] = [
  {
    name: "multiply",
    description: "The product of two numbers",
    parameters: {
      type: "object",
      properties: { a: { type: "number" }, b: { type: "number" } },
      required: ["a", "b"],
    },
  },
]

function run({ name, arguments: args }: ToolCall): Message {
  if (name !== "multiply") return { role: "tool", content: `there is no tool ${name}` }
  return { role: "tool", content: String(Number(args.a) * Number(args.b)) }
}

/** Asks, and does what the model calls for until it answers in words. */
export async function ask(chat: Chat, question: string): Promise<string> {
  let reply = await chat.say(question).finish()
  for (let round = 0; round < 5 && reply.toolCalls.length > 0; round++) {
    for (const call of reply.toolCalls) console.log(`[${call.name} ${JSON.stringify(call.arguments)}]`)
    reply = await chat.say(reply.toolCalls.map(run)).finish()
  }
  return reply.text
}

if (import.meta.main) {
  const [path, question = "What is 127 times 31?"] = process.argv.slice(2)
  if (path === undefined) throw new ArgumentError("which model? a path to a GGUF file, or the name of a known one")
  using model = await load(path)
  using chat = model.chat({ tools, temperature: 0, maxTokens: 256 })
  console.log(await ask(chat, question))
}
