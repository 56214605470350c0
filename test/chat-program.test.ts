// The programs as a person meets them: chat.ts and `asdsl run` as processes, in pipes and on a terminal. Oracles: what
// issue and help promise, and the library's reply to the same words.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { join } from "node:path"
import { DEFAULT_SYSTEM } from "../src/cli/chat.ts"
import { load, type Model } from "../src/index.ts"
import { projectFolder } from "../src/setup/project.ts"
import { defaultModelPath, hasDefaultModel } from "./tokenizer-fixtures.ts"

setDefaultTimeout(120_000)

const CHAT = [process.execPath, join(projectFolder, "chat.ts")]
const ASDSL = [process.execPath, join(projectFolder, "src/cli/main.ts")]
const PARIS = "What is the capital of France?"

interface Outcome {
  readonly stdout: string
  readonly stderr: string
  readonly exitCode: number
}

async function run(command: readonly string[], input = ""): Promise<Outcome> {
  const child = Bun.spawn([...command], { stdin: new Blob([input]), stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  return { stdout, stderr, exitCode: await child.exited }
}

let model: Model
beforeAll(async () => {
  if (hasDefaultModel) model = await load(defaultModelPath)
})
afterAll(() => model?.[Symbol.dispose]())

const FOOTER =
  /^\[ prompt \d+ tokens.*, [\d.]+ tok\/s · reply \d+ tokens, [\d.]+ tok\/s · first token \d+ ms · \d+ % of the roofline \([\d.]+ of [\d.]+ GB\/s\)(.*) \]$/m

describe.skipIf(!hasDefaultModel)("in a pipe", () => {
  test("-p with -st answers once: the reply on stdout, the footer on stderr", async () => {
    const { stdout, stderr, exitCode } = await run([...CHAT, "-p", PARIS, "-n", "32", "--temp", "0", "-st"])
    expect(stdout).toMatch(/^[^\n]*Paris[^\n]*\n$/)
    expect(stderr).toMatch(FOOTER)
    expect([stderr.split("\n").length, exitCode]).toEqual([2, 0])
  })

  test("one turn a line; a line that does not fit is refused and the chat goes on; exit code 0 at the end", async () => {
    const long = "word ".repeat(300)
    const lines = `${PARIS}\r\n\n${long}\nThank you.` // the last line lacks its end
    const { stdout, stderr, exitCode } = await run([...CHAT, "-c", "200", "-n", "16", "--temp", "0"], lines)
    using chat = model.chat({ system: DEFAULT_SYSTEM, nCtx: 200, maxTokens: 16, temperature: 0 })
    const replies = [await chat.say(PARIS).finish(), await chat.say("Thank you.").finish()]
    expect(stdout).toBe(replies.map(({ text }) => `${text}\n`).join(""))
    expect(stderr).toMatch(/^the prompt has 3\d\d tokens, the context holds 200\n$/)
    expect(exitCode).toBe(0)
  })

  test("-st with a prompt that does not fit: both numbers, exit code 1", async () => {
    const { stdout, stderr, exitCode } = await run([...CHAT, "-c", "20", "-p", PARIS, "-st"])
    expect(stderr).toMatch(/^asdsl chat: the prompt has \d+ tokens, the context holds 20\n$/)
    expect([stdout, exitCode]).toEqual(["", 1])
  })

  test("Ctrl-C stops the reply and not the program", async () => {
    const command = [...CHAT, "-n", "400", "--ignore-eos", "-v", "-s", "1"]
    const child = Bun.spawn(command, { stdin: "pipe", stdout: "pipe", stderr: "pipe" })
    const stderr = child.stderr.text()
    const reader = child.stdout.getReader()
    for (let turn = 0; turn < 2; turn++) {
      child.stdin.write("Tell me a very long story.\n")
      await child.stdin.flush()
      await reader.read()
      child.kill("SIGINT")
      // The reply ends in a line break of its own.
      for (let text = ""; !text.endsWith("\n"); ) text = new TextDecoder().decode((await reader.read()).value)
    }
    await child.stdin.end()
    expect(await child.exited).toBe(0)
    const footers = (await stderr).split("\n").filter((line) => line.startsWith("[ prompt"))
    expect(footers.map((line) => line.endsWith("· stopped ]"))).toEqual([true, true])
  })

  test("a second Ctrl-C leaves", async () => {
    const command = [...CHAT, "-p", "Tell me a very long story.", "--ignore-eos"]
    const child = Bun.spawn(command, { stdin: "pipe", stdout: "pipe", stderr: "ignore" })
    await child.stdout.getReader().read()
    child.kill("SIGINT")
    await Bun.sleep(20)
    child.kill("SIGINT")
    expect(await child.exited).toBe(130)
  })

  test("a template and its variables by flags; thinking is not on stdout", async () => {
    const base = ["-p", PARIS, "-n", "8", "--temp", "0", "-st"]
    const template = `<|im_start|>user
{{ messages[-1].content }}{{ more }}<|im_end|>
<|im_start|>assistant
{{ '<think>' if enable_thinking }}`
    const said = await run([
      ...CHAT,
      ...base,
      "--chat-template",
      template,
      "--chat-template-kwargs",
      '{"more":" Say it."}',
    ])
    using chat = model.chat({ template, templateVariables: { more: " Say it." }, temperature: 0, maxTokens: 8 })
    const expected = await chat.say(PARIS).finish()
    expect([said.stdout, expected.reasoning]).toEqual([`${expected.text}\n`, ""])
    const thought = await run([...CHAT, ...base, "--chat-template", template, "--reasoning", "on"])
    expect([thought.stdout, thought.exitCode]).toEqual(["\n", 0])
    expect(thought.stderr).toMatch(FOOTER)
    expect(thought.stderr.split("\n").length).toBe(2)
    const named = await run([...CHAT, ...base, "--chat-template", "chatml"])
    using chatml = model.chat({ system: DEFAULT_SYSTEM, temperature: 0, maxTokens: 8 })
    expect(named.stdout).toBe(`${(await chatml.say(PARIS).finish()).text}\n`)
  })

  test("-o json: a line a reply, the library's result", async () => {
    const args = ["-n", "8", "--temp", "0", "-o", "json", "-s", "5"]
    const { stdout, exitCode } = await run([...CHAT, ...args], `${PARIS}\nThank you.\n`)
    const lines = stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line))
    using chat = model.chat({ system: DEFAULT_SYSTEM, temperature: 0, maxTokens: 8, seed: 5 })
    for (const [i, said] of [PARIS, "Thank you."].entries()) {
      const { tokens: _, promptMs, firstTokenMs, generationMs, speculation, ...rest } = await chat.say(said).finish()
      expect(lines[i]).toMatchObject(rest)
      expect(Object.keys(lines[i]).sort()).toEqual(
        [...Object.keys(rest), "firstTokenMs", "generationMs", "promptMs", "speculation"].sort(),
      )
    }
    expect([lines.length, exitCode]).toEqual([2, 0])
  })

  test("asdsl run continues a text as the library does", async () => {
    const prompt = "The Roman Empire reached its greatest extent under"
    const command = [...ASDSL, "run", "-p", prompt, "-n", "12", "--temp", "0"]
    const { stdout, stderr, exitCode } = await run(command)
    using session = model.createSession()
    const { text } = await session.generate(prompt, { temperature: 0, maxTokens: 12 }).finish()
    expect([stdout, exitCode]).toEqual([`${text}\n`, 0])
    expect(stderr).toMatch(FOOTER)
    const echoed = await run([...ASDSL, "run", "--echo", "-n", "12", "--temp", "0"], prompt)
    expect(echoed.stdout).toBe(`${prompt}${text}\n`)
  })

  test("--spec and --draft-max change the footer and not the text", async () => {
    const spec = [
      ...ASDSL,
      "run",
      "-p",
      "one two three one two three one",
      "-n",
      "60",
      "--temp",
      "0",
      "--ignore-eos",
      "--spec",
    ]
    const [off, lookup] = [
      await run([...spec, "off"]),
      await run([...spec, "lookup", "--draft-max", "3", "-o", "json"]),
    ]
    expect(off.stderr).not.toContain("drafted")
    const result = JSON.parse(lookup.stdout)
    expect(result.text.trimEnd()).toBe(off.stdout.trimEnd())
    const { nDrafted, nAccepted, nPasses, acceptanceRate, tokensPerPass, byPosition } = result.speculation
    expect([nDrafted > 0, nPasses + nAccepted, byPosition.length <= 3]).toEqual([true, 59, true])
    expect(lookup.stderr).toContain(
      ` · ${nAccepted} of ${nDrafted} drafted accepted (${Math.round(100 * acceptanceRate)} %), ${tokensPerPass.toFixed(2)} tokens a pass`,
    )
  })
})

describe("command lines", () => {
  test.each([
    [["--tmep", "0"], 'asdsl chat: unknown flag "--tmep", did you mean --temp?\n'],
    [["--temp", "hot"], 'asdsl chat: --temp is "hot", a number of 0 or more is needed\n'],
    [["-p", "a", "-f", "b"], "asdsl chat: -p and -f exclude each other\n"],
    [["-p", " "], "asdsl chat: the prompt is empty\n"],
    [["-l", "15043*2"], 'asdsl chat: --logit-bias is "15043*2", TOKEN+BIAS or TOKEN-BIAS is needed, as 15043+1\n'],
    [
      ["--chat-template", "vicuna"],
      'asdsl chat: --chat-template is "vicuna", allowed: llama3, gemma, phi3, chatml, or a Jinja template\n',
    ],
    [
      ["--chat-template-kwargs", "[1]"],
      'asdsl chat: --chat-template-kwargs is [1], a JSON object is needed, as {"name":"value"}\n',
    ],
    [["-rea", "maybe"], 'asdsl chat: -rea is "maybe", allowed: on, off, auto\n'],
  ])("%j ends with 2 and says why", async (args, message) => {
    expect(await run([...CHAT, ...args])).toEqual({ stdout: "", stderr: message, exitCode: 2 })
  })

  test("--help lists the flags", async () => {
    const { stdout, exitCode } = await run([...CHAT, "--help"])
    for (const flag of ["-sys", "-st", "--temp", "--top-k", "--min-p", "-ctk", "--logit-bias", "-n, --predict"]) {
      expect(stdout).toContain(flag)
    }
    expect(exitCode).toBe(0)
  })
})

type Step = ["expect" | "send", string] | ["end"]

/** Runs chat.ts on a pseudo-terminal. */
async function atTerminal(steps: Step[], args: string[] = []) {
  const script = join(import.meta.dir, "fixtures/terminal.py")
  const { stdout, stderr, exitCode } = await run(["python3", script, JSON.stringify(steps), ...CHAT, ...args])
  if (exitCode !== 0) throw new Error(stderr)
  return JSON.parse(stdout) as { screen: string; exitCode: number; readsLines: boolean }
}

describe.skipIf(!hasDefaultModel || process.platform === "win32")("at a terminal", () => {
  test("a conversation: reply, Ctrl-C in a reply, commands, Ctrl-D", async () => {
    const steps: Step[] = [
      ["expect", "> "],
      ["send", `${PARIS}\r`],
      ["expect", "Paris"],
      ["expect", "% of the roofline"],
      ["expect", "> "],
      ["send", "/help\r"],
      ["expect", "/clear"],
      ["expect", "> "],
      ["send", "Count from one to one thousand, in words.\r"],
      ["expect", "\r\n"],
      ["expect", " "],
      ["send", "\u0003"],
      ["expect", "reused"],
      ["expect", "> "],
      ["send", "/clear\r"],
      ["expect", "a new conversation"],
      ["expect", "> "],
      ["send", "/nonsense\r"],
      ["expect", "unknown command /nonsense"],
      ["expect", "> "],
      ["send", "one line \\\rand "],
      ["send", "another\r"],
      ["expect", "roofline"],
      ["expect", "> "],
      ["send", "\u0004"],
      ["end"],
    ]
    const { screen, exitCode, readsLines } = await atTerminal(steps, ["--temp", "0", "-n", "200"])
    expect([exitCode, readsLines]).toEqual([0, true])
    expect(screen).toContain("SmolLM2-135M-Instruct.Q4_1: 135 M parameters, context 8192")
    expect(screen.match(/roofline/g)!.length).toBe(3) // one footer a reply
  })

  test("thinking is dim, and above the reply", async () => {
    const template = "<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n<|im_start|>assistant\n<think>"
    const args = ["--temp", "0", "-n", "8", "--chat-template", template]
    const steps: Step[] = [
      ["expect", "> "],
      ["send", `${PARIS}\r`],
      ["expect", "roofline"],
      ["expect", "> "],
      ["send", "\u0004"],
      ["end"],
    ]
    const { screen, exitCode } = await atTerminal(steps, args)
    using chat = model.chat({ template, temperature: 0, maxTokens: 8 })
    const { reasoning } = await chat.say(PARIS).finish()
    const esc = String.fromCharCode(27)
    const [before, dim] = screen.split(PARIS).at(-1)!.split(`${esc}[2m`)
    expect([exitCode, before!.includes(reasoning.slice(0, 3))]).toEqual([0, false])
    expect(reasoning.startsWith(dim!.split(esc)[0]!)).toBe(true)
  })

  test("Ctrl-C at the prompt leaves", async () => {
    const { exitCode, readsLines } = await atTerminal([["expect", "> "], ["send", "half a mess\u0003"], ["end"]])
    expect([exitCode, readsLines]).toEqual([0, true])
  })
})
