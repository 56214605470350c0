// Checkpoint 4: threads that know their cores. Oracles: for placement what an expert would choose, written in each machine's
// fixture beside the reason; for pinning the kernel's own word on every thread (/proc/self/task); for leaks its count of
// threads and of mapped memory. What needs no system (bands, teams, the simulator) is csrc/test/engine_schedule.c.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ArgumentError, NativeError } from "../src/errors.ts"
import { load } from "../src/index.ts"
import { cpuMask, cpusOfMask, cpusOfRange, readTopology, type TopologyInfo } from "../src/native/cpus.ts"
import { Engine } from "../src/native/handles.ts"
import { machines, parseCpuList, writeMachine } from "./fixtures/machines.ts"
import { MatmulProgram } from "./matmul-program.ts"
import { tinyTokens, writeTinyModel } from "./tiny-model.ts"
import { random as randomNumbers } from "./tokenizer-fixtures.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-checkpoint-4-"))
afterAll(() => rmSync(folder, { recursive: true }))

describe("placement as an expert would choose it", () => {
  const all = machines()

  /** A topology in the words of the fixtures. */
  function words(topology: TopologyInfo, keys: Iterable<string>): Map<string, string> {
    const ids = topology.cores.map(({ id }) => id)
    const facts: Record<string, string> = {
      workers: ids.slice(0, topology.nWorkers).join(" "),
      rest: ids.slice(topology.nWorkers).join(" "),
      teams: topology.teams.join(" "),
      performance: `${topology.nPerformance}`,
      pinned: topology.isPinned ? "yes" : "no",
      quota: `${topology.quotaCores}`,
    }
    return new Map([...keys].map((key) => [key, facts[key]!]))
  }

  for (const machine of all) {
    test(machine.name, () => {
      const root = join(folder, machine.name)
      writeMachine(machine, root)
      const topology = readTopology(root)
      const expected = new Map(
        [...machine.expected].map(([key, text]) => {
          return [key, key === "workers" || key === "rest" ? parseCpuList(text).join(" ") : text]
        }),
      )
      expect(words(topology, expected.keys())).toEqual(expected)
      expect(topology.quotaCores === null || machine.expected.has("quota")).toBe(true)
      expect(topology.cores.length > topology.nWorkers).toBe(machine.expected.has("rest"))
    })
  }

  test("kinds, packages and siblings are those of the files", () => {
    const cores = (name: string) => new Map(readTopology(join(folder, name)).cores.map((core) => [core.id, core]))
    const kinds = (name: string) => [...new Set([...cores(name).values()].map(({ kind }) => kind))].sort()
    expect(cores("alder-lake-8p8e").get(5)).toEqual({ id: 5, physical: 4, package: 0, kind: "performance" })
    expect(cores("alder-lake-8p8e").get(23)).toEqual({ id: 23, physical: 23, package: 0, kind: "efficiency" })
    expect(cores("dual-xeon").get(97)).toEqual({ id: 97, physical: 33, package: 1, kind: "unknown" })
    expect([kinds("laptop-4p8e"), kinds("zen4-16")]).toEqual([["efficiency", "performance"], ["unknown"]])
  })

  test("a folder without a machine is an error that names it", () => {
    expect(() => readTopology(join(folder, "nowhere"))).toThrow(`no CPU in ${join(folder, "nowhere")}/sys/devices`)
    expect(() => readTopology("a\0b")).toThrow(ArgumentError)
  })
})

describe("this machine", () => {
  const isLinux = process.platform === "linux"
  const topology = readTopology()
  const ids = topology.cores.map(({ id }) => id)

  /** The kernel's word on a thread of this process. */
  function allowedOf(thread: string): number[] {
    const status = readFileSync(`/proc/self/task/${thread}/status`, "utf8")
    return parseCpuList(/^Cpus_allowed_list:\s*(\S+)$/m.exec(status)![1]!)
  }

  const threads = () => readdirSync("/proc/self/task")
  const ownMask = () => allowedOf(`${process.pid}`)

  /** Threads that `body` leaves behind. */
  function newThreads(body: () => void): string[] {
    const before = new Set(threads())
    body()
    return threads().filter((thread) => !before.has(thread))
  }

  test("an engine that is not told has the placement's workers", () => {
    using engine = Engine.create()
    expect(engine.info().nThreads).toBe(topology.nWorkers)
    expect(topology.nWorkers).toBeLessThanOrEqual(Math.max(1, Math.floor(topology.quotaCores ?? ids.length)))
  })

  test.skipIf(!isLinux || !topology.isPinned || ids.length < 2)(
    "each worker is on its own core, the kernel says",
    () => {
      for (let n = 2; n <= Math.min(ids.length, 4); n++) {
        const mask = ownMask()
        let engine: Engine | undefined
        const started = newThreads(() => {
          engine = Engine.create({ nThreads: n })
          engine.workers()
        })
        using made = engine!
        const expected = ids.slice(0, n)
        const placed = made.workers().map(({ core, nAllowed, allowed }) => ({ core, nAllowed, allowed }))
        expect(placed).toEqual(expected.map((id) => ({ core: id, nAllowed: 1, allowed: id })))
        const pinned = started.map(allowedOf).filter((cpus) => cpus.length === 1)
        expect(pinned.map(([cpu]) => cpu!).sort((a, b) => a - b)).toEqual(expected.slice(1).sort((a, b) => a - b))
        expect(ownMask()).toEqual(mask)
      }
    },
  )

  test.skipIf(!isLinux || ids.length < 2)(
    "a CPU mask is kept to: pinned, not pinned, and by more workers than it has",
    () => {
      const cpus = [ids[1]!]
      for (const [nThreads, pin] of [
        [0, true],
        [1, true],
        [2, true],
        [2, false],
      ] as const) {
        const mask = ownMask()
        using engine = Engine.create({ nThreads, pin, cpus })
        expect(engine.workers().map(({ nAllowed, allowed }) => [nAllowed, allowed])).toEqual(
          new Array(nThreads || 1).fill([1, cpus[0]]),
        )
        expect(ownMask()).toEqual(mask)
      }
      expect(() => Engine.create({ cpus: [1023] })).toThrow(NativeError)
      expect(() => Engine.create({ cpus: [1023] })).toThrow(/none of the \d+ logical CPUs/)
    },
  )

  test.skipIf(!isLinux)("the JavaScript thread's mask is unchanged after every call", async () => {
    const path = writeTinyModel({ path: join(folder, "mask.gguf"), type: "Q4_K" })
    const before = ownMask()
    using model = await load(path, { nThreads: 2, nThreadsBatch: 3 })
    expect(ownMask()).toEqual(before)
    using session = model.createSession()
    for (const n of [1, 5, 1, 17, 1]) {
      session.extend(tinyTokens(n))
      expect(ownMask()).toEqual(before)
    }
    model.probe("int8")
    expect(ownMask()).toEqual(before)
  })

  test.skipIf(!isLinux)("1,000 engines come and go, and no thread or page stays", () => {
    const cycle = (i: number) => {
      using engine = Engine.create({ nThreads: 1 + (i % 3), spinMicroseconds: i % 2 === 0 ? 0 : 50 })
      if (i % 10 === 0) engine.workers()
    }
    const mapped = () => Number(/^VmData:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))![1])
    for (let i = 0; i < 100; i++) cycle(i)
    Bun.gc(true)
    const [threadsBefore, mappedBefore] = [threads().length, mapped()]
    for (let i = 0; i < 1000; i++) cycle(i)
    Bun.gc(true)
    // 999 workers came and went; Bun starts a few threads of its own when it likes.
    expect(threads().length).toBeLessThan(threadsBefore + 20)
    // A leaked pool is 100 kB, a leaked stack 2 MB; JavaScript's own heap moves by a few MB.
    expect(mapped() - mappedBefore).toBeLessThan(20_000)
  })
})

describe("a slow worker", () => {
  // 537 million products: a millisecond and more for any two cores. Of shorter runs (MIN_RUN_NS of schedule.c) the
  // schedule learns nothing, and one column of these 19 MB is shorter on a machine that reads 60 GB/s.
  const [rows, cols, columns] = [16384, 2048, 16]
  const weights = { type: "Q4_0", rows, cols, bytes: new Uint8Array((rows * cols * 18) / 32) } as const
  const random = randomNumbers(11)
  for (let i = 0; i < weights.bytes.length; i++) {
    weights.bytes[i] = i % 18 === 0 ? 0 : i % 18 === 1 ? 0x24 : Math.floor(256 * random()) // scales of 2^-6
  }
  const x = Float32Array.from({ length: columns * cols }, () => random() - 0.5)
  const bytes = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const run = (engine: Engine, until: (engine: Engine) => boolean) => {
    using program = new MatmulProgram(engine, { operation: "matmul", weights: [weights] }, columns)
    const first = program.run(x, columns)
    for (let i = 0; i < 400 && !until(engine); i++) {
      expect(Buffer.compare(bytes(program.run(x, columns)), bytes(first))).toBe(0) // whoever is dealt what
    }
    return first
  }

  test("is dealt less, in proportion to its speed, and results are the same to the bit", () => {
    using even = Engine.create({ nThreads: 2 })
    const expected = run(even, () => false)
    const isLearned = (engine: Engine) => Math.abs(engine.workers()[1]!.speed.decode / 2 - 0.25) < 0.05 // 1 and 1/3
    // What others do on this machine looks like a slow core too, or hides one: a minute of it may not pass for ever.
    let learned = false
    for (let tries = 0; tries < 8 && !learned; tries++) {
      using uneven = Engine.create({ nThreads: 2, slowPercent: 200 })
      expect(run(uneven, isLearned)).toEqual(expected)
      expect(uneven.workers().map(({ takesPart }) => takesPart.prefill)).toEqual([true, true])
      learned = isLearned(uneven)
    }
    expect(learned).toBe(true)
  })
})

describe("masks and ranges as llama.cpp writes them", () => {
  test("hexadecimal, from the right", () => {
    expect(cpusOfMask("0x3f")).toEqual([0, 1, 2, 3, 4, 5])
    expect(cpusOfMask("8000000000000001")).toEqual([0, 63])
    expect(cpusOfMask(`1${"0".repeat(255)}`)).toEqual([1020])
    for (const wrong of ["", "0x", "0", "0x0000", "xyz", "-1", "1".repeat(257)]) {
      expect(() => cpusOfMask(wrong)).toThrow(ArgumentError)
    }
  })

  test("ranges, both ends in them", () => {
    expect([cpusOfRange("2-4"), cpusOfRange("-1"), cpusOfRange("1022-")]).toEqual([
      [2, 3, 4],
      [0, 1],
      [1022, 1023],
    ])
    expect(cpusOfRange("7")).toEqual([7])
    for (const wrong of ["", "-", "4-3", "1-2-3", "0-1024", "a-b"])
      expect(() => cpusOfRange(wrong)).toThrow(ArgumentError)
  })

  test("words of the mask, bit by bit", () => {
    for (const cpu of [0, 31, 32, 63, 1023]) {
      const words = cpuMask([cpu, 5])
      for (let i = 0; i < 1024; i++) {
        expect((words[Math.floor(i / 32)]! >>> (i % 32)) & 1).toBe(i === cpu || i === 5 ? 1 : 0)
      }
    }
    for (const wrong of [-1, 1024, 0.5, Number.NaN]) expect(() => cpuMask([wrong])).toThrow(ArgumentError)
  })
})
