// The peers' own speculation on prompts of bench/speculative.ts, a process for each of their settings: node-llama-cpp, which
// Node runs; llama.cpp's llama-speculative-simple where $ASDSL_PEER_LLAMA_SPECULATIVE names one; ik_llama.cpp's
// llama-spec-bench where $ASDSL_PEER_IK_SPECULATIVE does. Knows nothing of asdsl's own settings.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** One reply: tokens behind the first, and their time. */
export interface PeerReply {
  readonly nTokens: number
  readonly milliseconds: number
}

export interface PeerPrompt {
  /** What was said. */
  readonly said: string
  /** In the model's template, special tokens as text. */
  readonly text: string
  readonly tokens: ArrayLike<number>
}

export interface PeerTask {
  readonly model: string
  readonly draft: string | undefined
  readonly nThreads: number
  readonly nGen: number
  readonly prompts: readonly PeerPrompt[]
  /** For loading and all prompts; a peer that takes longer is ended, and that is an error. */
  readonly seconds: number
}

export interface PeerSetting {
  readonly name: string
  /** Greedy replies in the order of the prompts. Throws where the peer fails or takes too long. */
  run(task: PeerTask): Promise<PeerReply[]>
}

/** Their defaults, and short drafts: on a CPU a pass over many tokens costs more than their acceptance brings. */
const NODE = { settings: ["plain", "lookup"], draftSettings: ["draft 4", "draft"] }
const LLAMA_DRAFTS: Record<string, readonly string[]> = {
  "draft 4": ["--spec-type", "draft-simple", "--spec-draft-n-max", "4"],
  draft: ["--spec-type", "draft-simple"],
}
const IK: Record<string, readonly string[]> = {
  plain: [],
  lookup: ["--spec-type", "ngram-simple"],
  suffix: ["--spec-type", "suffix:n_max=16,n_min=2,suffix_min_match_len=3"],
}
const IK_DRAFTS: Record<string, readonly string[]> = {
  "draft 4": ["--spec-type", "draft:n_max=4"],
  draft: ["--spec-type", "draft"],
}

/** Those of the peers that are there. node-llama-cpp has to be: npm install in bench/peers. */
export function peerSettings(hasDraftModel: boolean): PeerSetting[] {
  const { ASDSL_PEER_LLAMA_SPECULATIVE: llama, ASDSL_PEER_IK_SPECULATIVE: ik } = process.env
  const node = [...NODE.settings, ...(hasDraftModel ? NODE.draftSettings : [])]
  const iks = Object.entries({ ...IK, ...(hasDraftModel ? IK_DRAFTS : {}) })
  const llamas = hasDraftModel ? Object.entries(LLAMA_DRAFTS) : []
  return [
    ...node.map((name) => ({ name: `node-llama-cpp ${name}`, run: (task: PeerTask) => runNode(name, task) })),
    ...(llama === undefined ? [] : llamas).map(([name, flags]) => ({
      name: `llama.cpp ${name}`,
      run: (task: PeerTask) => runLlama(llama!, flags, task),
    })),
    ...(ik === undefined ? [] : iks).map(([name, flags]) => ({
      name: `ik_llama.cpp ${name}`,
      run: (task: PeerTask) => runIk(ik!, name.startsWith("draft") ? ["-md", task.draft!, ...flags] : flags, task),
    })),
  ]
}

const contextOf = ({ prompts, nGen }: PeerTask) => Math.max(...prompts.map(({ tokens }) => tokens.length)) + nGen + 64

async function runNode(setting: string, task: PeerTask): Promise<PeerReply[]> {
  const { model, draft = "", nThreads, nGen, prompts } = task
  const program = join(import.meta.dir, "speculative.mjs")
  const numbers = [nThreads, nGen, contextOf(task)].map(String)
  const input = JSON.stringify(prompts.map(({ tokens }) => Array.from(tokens)))
  const { out } = await outputOf(["node", program, setting, model, draft, ...numbers], task.seconds, input)
  const { replies }: { replies: PeerReply[] } = JSON.parse(out)
  return replies
}

/** A process for each prompt. Its time has the first token and reading the prompt by the draft model in it. */
async function runLlama(path: string, flags: readonly string[], task: PeerTask): Promise<PeerReply[]> {
  const { model, draft, nThreads, nGen, prompts, seconds } = task
  const replies: PeerReply[] = []
  for (const { text } of prompts) {
    const numbers = ["-n", String(nGen), "-t", String(nThreads), "-c", String(contextOf(task)), "--temp", "0"]
    const { out, log } = await outputOf([path, "-m", model, "-md", draft!, "-p", text, ...numbers, ...flags], seconds)
    const [, nTokens, time] = /decoded +(\d+) tokens in +([\d.]+) seconds/.exec(out + log) ?? []
    if (time === undefined) throw new Error(`no time in the output of ${path}: ${log.slice(-300)}`)
    replies.push({ nTokens: Number(nTokens), milliseconds: 1000 * Number(time) })
  }
  return replies
}

/** It puts the text into the model's template itself. Its time has the first token in it as well. */
async function runIk(path: string, flags: readonly string[], task: PeerTask): Promise<PeerReply[]> {
  const { model, nThreads, nGen, prompts, seconds } = task
  const folder = mkdtempSync(join(tmpdir(), "asdsl-speculation-"))
  try {
    const file = join(folder, "prompts.jsonl")
    writeFileSync(file, prompts.map(({ said }, i) => `${JSON.stringify({ id: `${i}`, prompt: said })}\n`).join(""))
    const threads = [String(nThreads), "-tb", String(nThreads), "-c", String(contextOf(task))]
    const common = ["-m", model, "--prompts", file, "-n", String(nGen), "--temp", "0", "-rtr", "-t", ...threads]
    const { out } = await outputOf([path, ...common, ...flags, "--output-format", "jsonl"], seconds)
    return attempts(out)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function attempts(out: string): PeerReply[] {
  const rows = out.split("\n").filter((line) => line.startsWith("{"))
  return rows
    .map((line): { row_type: string; generated: number; decode_s: number } => JSON.parse(line))
    .filter((row) => row.row_type === "attempt")
    .map(({ generated, decode_s }) => ({ nTokens: generated, milliseconds: 1000 * decode_s }))
}

async function outputOf(
  command: readonly string[],
  seconds: number,
  input = "",
): Promise<{ out: string; log: string }> {
  const child = Bun.spawn([...command], {
    cwd: tmpdir(), // some write a log where they are
    stdin: new TextEncoder().encode(input),
    stdout: "pipe",
    stderr: "pipe",
    timeout: 1000 * seconds,
    killSignal: "SIGKILL",
  })
  const [out, log] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  const code = await child.exited
  if (child.signalCode === "SIGKILL") throw new Error(`not done within ${seconds} s: ${command.join(" ")}`)
  if (code !== 0) throw new Error(`${command[0]} ended with ${code}: ${command.join(" ")}\n${log.slice(-300)}`)
  return { out, log }
}
