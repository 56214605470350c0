// node-llama-cpp's speculation on prompts of bench/speculative.ts: spawns Node, sends tokens, reads times. Knows nothing of
// asdsl's own settings.

import { join } from "node:path"

/** One reply: tokens behind the first, and their time. */
export interface PeerReply {
  readonly nTokens: number
  readonly milliseconds: number
}

export interface PeerRun {
  readonly version: string
  /** By setting, in the order of the prompts. */
  readonly results: Readonly<Record<string, readonly PeerReply[]>>
}

export interface PeerTask {
  readonly model: string
  readonly draft: string | undefined
  readonly nThreads: number
  readonly nGen: number
  readonly prompts: readonly ArrayLike<number>[]
}

/** Greedy replies of the peer. Throws where its package is missing: npm ci in bench/peers. */
export async function runPeer({ model, draft = "", nThreads, nGen, prompts }: PeerTask): Promise<PeerRun> {
  const nCtx = Math.max(...prompts.map(({ length }) => length)) + nGen + 32
  const program = join(import.meta.dir, "speculative.mjs")
  const child = Bun.spawn(["node", program, model, draft, String(nThreads), String(nGen), String(nCtx)], {
    stdin: new TextEncoder().encode(JSON.stringify(prompts.map((tokens) => Array.from(tokens)))),
    stdout: "pipe",
    stderr: "inherit",
  })
  const out = await new Response(child.stdout).text()
  if ((await child.exited) !== 0) throw new Error(`${program} ended with ${child.exitCode}`)
  return JSON.parse(out)
}
