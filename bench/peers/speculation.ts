// The peers' own speculation on prompts of bench/speculative.ts: node-llama-cpp, which Node runs, and ik_llama.cpp's
// llama-spec-bench where $ASDSL_PEER_IK_SPECULATIVE names one. Knows nothing of asdsl's own settings.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** One reply: tokens behind the first, and their time. */
export interface PeerReply {
  readonly nTokens: number
  readonly milliseconds: number
}

/** By setting, in the order of the prompts. */
type PeerRuns = Record<string, readonly PeerReply[]>

export interface PeerTask {
  readonly model: string
  readonly draft: string | undefined
  readonly nThreads: number
  readonly nGen: number
  readonly prompts: readonly { readonly text: string; readonly tokens: ArrayLike<number> }[]
}

/** Greedy replies of the peers that are there. Throws where node-llama-cpp is missing: npm ci in bench/peers. */
export async function runPeers(task: PeerTask): Promise<PeerRuns> {
  const ik = process.env.ASDSL_PEER_IK_SPECULATIVE
  return { ...(await runNode(task)), ...(ik === undefined ? {} : await runIk(ik, task)) }
}

const contextOf = ({ prompts, nGen }: PeerTask) => Math.max(...prompts.map(({ tokens }) => tokens.length)) + nGen + 64

async function runNode(task: PeerTask): Promise<PeerRuns> {
  const { model, draft = "", nThreads, nGen, prompts } = task
  const program = join(import.meta.dir, "speculative.mjs")
  const numbers = [nThreads, nGen, contextOf(task)].map(String)
  const out = await outputOf(
    ["node", program, model, draft, ...numbers],
    JSON.stringify(prompts.map(({ tokens }) => Array.from(tokens))),
  )
  const { results }: { results: PeerRuns } = JSON.parse(out)
  return Object.fromEntries(Object.entries(results).map(([name, replies]) => [`node-llama-cpp ${name}`, replies]))
}

/** Its defaults, and short drafts. */
const IK_SETTINGS: Record<string, readonly string[]> = {
  plain: [],
  lookup: ["--spec-type", "ngram-simple"],
  suffix: ["--spec-type", "suffix:n_max=16,n_min=2,suffix_min_match_len=3"],
}
const IK_DRAFT_SETTINGS: Record<string, readonly string[]> = {
  "draft 4": ["--spec-type", "draft:n_max=4"],
  draft: ["--spec-type", "draft"],
}

/** It puts the text into the model's template itself. Its time has the first token in it as well. */
async function runIk(path: string, task: PeerTask): Promise<PeerRuns> {
  const { model, draft, nThreads, nGen, prompts } = task
  const folder = mkdtempSync(join(tmpdir(), "asdsl-speculation-"))
  try {
    const file = join(folder, "prompts.jsonl")
    writeFileSync(file, prompts.map(({ text }, i) => `${JSON.stringify({ id: `${i}`, prompt: text })}\n`).join(""))
    const threads = [String(nThreads), "-tb", String(nThreads), "-c", String(contextOf(task))]
    const common = ["-m", model, "--prompts", file, "-n", String(nGen), "--temp", "0", "-rtr", "-t", ...threads]
    const settings = { ...IK_SETTINGS, ...(draft === undefined ? {} : IK_DRAFT_SETTINGS) }
    const runs: PeerRuns = {}
    for (const [name, flags] of Object.entries(settings)) {
      const models = name.startsWith("draft") ? ["-md", draft!] : []
      const out = await outputOf([path, ...common, ...models, ...flags, "--output-format", "jsonl"], "")
      runs[`ik_llama.cpp ${name}`] = attempts(out)
    }
    return runs
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

async function outputOf(command: readonly string[], input: string): Promise<string> {
  const child = Bun.spawn([...command], {
    cwd: tmpdir(), // some write a log where they are
    stdin: new TextEncoder().encode(input),
    stdout: "pipe",
    stderr: "ignore",
  })
  const out = await new Response(child.stdout).text()
  if ((await child.exited) !== 0) throw new Error(`${command[0]} ended with ${child.exitCode}: ${command.join(" ")}`)
  return out
}
