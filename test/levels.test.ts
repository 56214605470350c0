// What build.zig makes: each level's kernels hold the instructions that the level is named for and none of a higher one;
// the library shows exactly the functions of csrc/asdsl.h and runs on a glibc of 2013.
// Oracle: the machine code itself, x86 decoded by x86-instructions.ts (whose places agree with the compiler's symbols, and
// once, by hand, with all 312,329 instructions that GNU objdump finds), and the ELF tables.

import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { declaredFunctions, isInGlibc217 } from "../scripts/cross.ts"
import { Elf } from "../scripts/elf.ts"
import { ensureLibrary } from "../src/native/build.ts"
import { projectFolder } from "../src/setup/project.ts"
import { findZig, zigBuild, zigEnvironment } from "../src/setup/zig.ts"
import { type Instruction, instructions } from "./x86-instructions.ts"

const isHere = process.arch === "x64" && process.platform === "linux"
if (!isHere) console.warn("levels.test.ts reads ELF files of x86-64: skipped on this machine")

const folder = mkdtempSync(join(tmpdir(), "asdsl-levels-"))
afterAll(() => rmSync(folder, { recursive: true }))

type Predicate = (instruction: Instruction) => boolean

const is = (encoding: Instruction["encoding"], map: number, opcode: number, bits: Instruction["bits"]): Predicate => {
  return (i) => i.encoding === encoding && i.map === map && i.opcode === opcode && i.bits === bits
}

const VPDPBUSD = 0x50
const VPMADDUBSW = 0x04
const VCVTPH2PS = 0x13
/** vfmadd, vfmsub, vfnmadd, vfnmsub in all orders and sizes: 96-9F, A6-AF, B6-BF of map 2. */
const isFma: Predicate = (i) =>
  i.map === 2 && i.prefix === 1 && (i.opcode & 15) >= 6 && [9, 10, 11].includes(i.opcode >> 4)
const isVector: Predicate = (i) => i.encoding !== "legacy"
const isEvex: Predicate = (i) => i.encoding === "evex"
/** andn, bzhi, pext, pdep, mulx, bextr, shlx, sarx, shrx; rorx: csrc/cpu.c does not ask for BMI. */
const isBmi: Predicate = (i) =>
  i.encoding === "vex" && ((i.map === 2 && i.opcode >= 0xf2 && i.opcode <= 0xf7) || (i.map === 3 && i.opcode === 0xf0))
/** SSSE3, SSE4 and movbe: beyond the baseline of x86-64. */
const isBeyondSse2: Predicate = (i) => i.encoding === "legacy" && i.map >= 2
const isVnniInVex: Predicate = (i) => i.encoding === "vex" && i.map === 2 && i.opcode >= VPDPBUSD && i.opcode <= 0x53
/** AVX512-FP16 has these maps to itself. */
const isFp16: Predicate = (i) => i.map >= 5

/** Vectors that fetching ahead may keep out of registers: q8_0's tile of 4 columns at level avx2 has 65 more than the 32
 * of the other one; those of a kernel that had gone wrong were 140 and more. */
const MORE_SPILLS = 80

interface LevelRule {
  /** Each of these at least once. */
  needs: Record<string, Predicate>
  /** None of these. */
  never: Record<string, Predicate>
}

const LEVELS: Record<string, LevelRule> = {
  portable: { needs: {}, never: { "VEX or EVEX": isVector, "beyond SSE2": isBeyondSse2 } },
  avx2: {
    needs: {
      "vpmaddubsw ymm": is("vex", 2, VPMADDUBSW, 256),
      "fma ymm": (i) => isFma(i) && i.bits === 256,
      "vcvtph2ps ymm": is("vex", 2, VCVTPH2PS, 256),
    },
    never: { EVEX: isEvex, "vpdpbusd and its like": isVnniInVex, BMI: isBmi },
  },
  avxvnni: {
    needs: {
      "vpdpbusd ymm in VEX": is("vex", 2, VPDPBUSD, 256),
      "fma ymm": (i) => isFma(i) && i.bits === 256,
    },
    never: { EVEX: isEvex, BMI: isBmi },
  },
  avx512: {
    needs: {
      "vpdpbusd zmm": is("evex", 2, VPDPBUSD, 512),
      "fma zmm": (i) => isFma(i) && i.bits === 512,
      "vcvtph2ps zmm": is("evex", 2, VCVTPH2PS, 512),
    },
    never: { "vpdpbusd in VEX": isVnniInVex, BMI: isBmi, "AVX512-FP16": isFp16 },
  },
}

const code = new Map<string, Instruction[]>()
/** By level: where in its code each function begins, in ascending order. */
const places = new Map<string, { name: string; value: number }[]>()
const library = () => new Elf(readFileSync(ensureLibrary()))

function zigBuildObjects(prefix: string, ...options: string[]): void {
  const child = Bun.spawnSync(zigBuild(findZig(), "objects", "--prefix", prefix, ...options), {
    cwd: projectFolder,
    env: zigEnvironment(),
  })
  if (child.exitCode !== 0) throw new Error(child.stderr.toString())
}

function buildObjects(): void {
  zigBuildObjects(folder)
  for (const level of Object.keys(LEVELS)) {
    const elf = new Elf(readFileSync(join(folder, "objects", `kernels_${level}.o`)))
    const text = elf.section(".text")
    const list = instructions(text.bytes)
    const starts = new Set(list.map((i) => i.offset))
    const functions = elf.symbols(".symtab").filter((s) => s.isFunction && elf.sections[s.section] === text)
    expect(functions.length).toBeGreaterThan(20)
    for (const { name, value } of functions) {
      if (!starts.has(value)) throw new Error(`${level}: no instruction begins where ${name} does`)
    }
    code.set(level, list)
    places.set(
      level,
      functions.toSorted((a, b) => a.value - b.value),
    )
  }
}

/** Vectors that a tile of matmul.h stores to the stack and loads from there, by its name: "q6_k_tile_8_1". */
function spillsOfTiles(level: string): Map<string, number> {
  const starts = places.get(level)!
  const spills = new Map<string, number>(
    starts.flatMap(({ name }) => (/_tile_\d+_[012]$/.test(name) ? [[name, 0] as const] : [])),
  )
  let at = 0
  for (const instruction of code.get(level)!) {
    while (at + 1 < starts.length && starts[at + 1]!.value <= instruction.offset) at++
    const { name } = starts[at]!
    if (spills.has(name) && isVector(instruction) && instruction.isOnStack) spills.set(name, spills.get(name)! + 1)
  }
  return spills
}

/** [name, count] of those predicates that have the wrong count. */
function counts(level: string, predicates: Record<string, Predicate>): [string, number][] {
  const list = code.get(level)!
  return Object.entries(predicates).map(([name, predicate]) => [name, list.filter(predicate).length])
}

describe.skipIf(!isHere)("instructions", () => {
  test("build.zig gives an object per level, which decodes from one end to the other", buildObjects, 300_000)

  for (const [level, { needs, never }] of Object.entries(LEVELS)) {
    test(`level ${level}`, () => {
      for (const [name, count] of counts(level, needs)) expect([name, count > 0]).toEqual([name, true])
      for (const [name, count] of counts(level, never)) expect([name, count]).toEqual([name, 0])
    })
  }

  // Tiles of 3 to 8 columns of q6_k that fetch ahead once stored 180 to 610 vectors a record and took three times as long as
  // they had to; what they computed was right.
  test.each(Object.keys(LEVELS))(
    "level %s: a tile that fetches ahead keeps in registers what the other one does",
    (level) => {
      const spills = spillsOfTiles(level)
      expect(spills.size).toBeGreaterThan(50)
      const more = Array.from(spills, ([name, n]) => [name, n - (spills.get(name.replace(/[12]$/, "0")) ?? 0)] as const)
      expect(more.filter(([, n]) => n > MORE_SPILLS)).toEqual([])
    },
  )

  test("outside of the kernels, the library keeps to the baseline", () => {
    const all = instructions(library().section(".text").bytes)
    const inKernels = [...code.values()].flat().filter(isVector).length
    expect(all.filter(isVector).length).toBe(inKernels)
    expect(all.filter(isBeyondSse2)).toEqual([])
  })
})

/** sdot and udot, of vectors and by element: Arm Architecture Reference Manual, C7.2 (instructions are 32 bits each). */
const isDotProduct = (word: number) =>
  (word & 0x9fe0fc00) >>> 0 === 0x0e809400 || (word & 0x9fc0f400) >>> 0 === 0x0f80e000

test.skipIf(!isHere)(
  "aarch64: every kernel compiles for its levels, and neon alone has the dot product",
  () => {
    const prefix = join(folder, "aarch64")
    zigBuildObjects(prefix, "-Dtarget=aarch64-linux-gnu.2.17")
    const found = ["portable", "neon"].map((level) => {
      const text = new Elf(readFileSync(join(prefix, "objects", `kernels_${level}.o`))).section(".text").bytes
      const view = new DataView(text.buffer, text.byteOffset, text.byteLength)
      const words = Array.from({ length: text.length / 4 }, (_, i) => view.getUint32(4 * i, true))
      return words.filter(isDotProduct).length
    })
    expect([found[0], found[1]! > 1000]).toEqual([0, true])
  },
  300_000,
)

describe.skipIf(!isHere)("guards", () => {
  const preprocess = (level: string, cpu: string) => {
    const need = `-DASDSL_NEED_${level.toUpperCase()}`
    const target = `${cpu.startsWith("x86_64") ? "x86_64" : "aarch64"}-linux-gnu`
    const command = [findZig(), "cc", "-target", target, `-mcpu=${cpu}`, need, "-E", "-x", "c"]
    const child = Bun.spawnSync([...command, join("csrc", "kernels", "simd.h")], { cwd: projectFolder })
    return { failed: child.exitCode !== 0, message: child.stderr.toString() }
  }

  test.each([
    ["portable", "x86_64", "x86_64_v3"],
    ["portable", "generic", "generic+dotprod"],
    ["avx2", "x86_64_v3", "x86_64"],
    ["avxvnni", "x86_64_v3+avxvnni", "x86_64_v3"],
    ["avx512", "x86_64_v4+avx512vnni", "x86_64_v4"],
    ["neon", "generic+dotprod", "generic"],
  ])(
    "level %s is built for %s and refuses to be built for %s",
    (level, right, wrong) => {
      const built = preprocess(level, right)
      expect([built.failed, built.message]).toEqual([false, ""])
      const refused = preprocess(level, wrong)
      expect(refused.failed).toBe(true)
      expect(refused.message).toContain(`level ${level}: the compiler`)
    },
    60_000,
  )
})

describe.skipIf(!isHere)("the library", () => {
  test("exports the functions of asdsl.h and nothing else", () => {
    expect(library().exported().sort()).toEqual(declaredFunctions().sort())
  })

  test("needs nothing newer than glibc 2.17", () => {
    const versions = library().neededVersions()
    expect(versions.length).toBeGreaterThan(0)
    expect(versions.filter((version) => !isInGlibc217(version))).toEqual([])
  })
})
