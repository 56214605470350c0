// Where each instruction of x86-64 machine code begins, how it is encoded, and which operation it is: enough to say which
// extensions of the CPU a piece of code needs and how much of it waits on the stack. Source: Intel SDM volume 2, chapter 2
// (formats) and appendix A (opcode maps). Of operands it knows whether one lies at the stack pointer. An opcode that
// compilers do not emit is an error.

export interface Instruction {
  readonly offset: number
  readonly length: number
  readonly encoding: "legacy" | "vex" | "evex"
  /** Opcode map: 0 one byte, 1 is 0F, 2 is 0F 38, 3 is 0F 3A, 5 and 6 only EVEX. */
  readonly map: number
  readonly opcode: number
  /** The mandatory prefix: 0 none, 1 is 66, 2 is F3, 3 is F2. */
  readonly prefix: number
  /** Of vector operands; 0 in legacy encoding. */
  readonly bits: 0 | 128 | 256 | 512
  /** An operand's address begins at rsp: what does not fit in registers. */
  readonly isOnStack: boolean
}

interface Head {
  at: number
  encoding: Instruction["encoding"]
  map: number
  prefix: number
  bits: Instruction["bits"]
  wide: boolean
  operand16: boolean
  /** An address begins at r8 to r15. */
  hasHighBase: boolean
}

/** All instructions of `code` from one end to the other. */
export function instructions(code: Uint8Array): Instruction[] {
  const list: Instruction[] = []
  for (let offset = 0; offset < code.length; ) {
    const head = readHead(code, offset)
    const opcode = code[head.at]!
    const end = operandsEnd(code, head, opcode)
    if (end > code.length) throw new Error(`the instruction at ${offset} goes beyond the end`)
    const { encoding, map, prefix, bits } = head
    const isOnStack = hasModRm(head, opcode) && isAtStackPointer(code, head)
    list.push({ offset, length: end - offset, encoding, map, opcode, prefix, bits, isOnStack })
    offset = end
  }
  return list
}

/** Prefixes, up to the opcode byte. */
function readHead(code: Uint8Array, offset: number): Head {
  const head: Head = {
    ...{ at: offset, encoding: "legacy", map: 0, prefix: 0, bits: 0 },
    ...{ wide: false, operand16: false, hasHighBase: false },
  }
  for (; ; head.at++) {
    const byte = code[head.at]!
    if (byte === 0x66) head.operand16 = true
    else if (byte === 0xf3) head.prefix = 2
    else if (byte === 0xf2) head.prefix = 3
    else if (![0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67, 0xf0].includes(byte)) break
  }
  if (head.operand16 && head.prefix === 0) head.prefix = 1
  const [first, second, third, fourth] = code.subarray(head.at) as unknown as [number, number, number, number]
  head.hasHighBase = (second & 32) === 0 // inverted, of both long vector prefixes
  if (first === 0xc5) return vector({ ...head, hasHighBase: false }, "vex", 2, 1, second & 3, (second >> 2) & 1, false)
  if (first === 0xc4) return vector(head, "vex", 3, second & 31, third & 3, (third >> 2) & 1, third >> 7 === 1)
  if (first === 0x62) return vector(head, "evex", 4, second & 7, third & 3, (fourth >> 5) & 3, third >> 7 === 1)
  head.hasHighBase = first >> 4 === 4 && (first & 1) === 1
  if (first >> 4 === 4) {
    head.wide = (first & 8) !== 0
    head.at++
  }
  if (code[head.at] !== 0x0f) return head
  const next = code[head.at + 1]
  head.map = next === 0x38 ? 2 : next === 0x3a ? 3 : 1
  head.at += head.map === 1 ? 1 : 2
  return head
}

function vector(
  head: Head,
  encoding: "vex" | "evex",
  bytes: number,
  map: number,
  prefix: number,
  length: number,
  wide: boolean,
): Head {
  const bits = ([128, 256, 512] as const)[length] ?? 512 // EVEX length 3: rounding in its place, of a zmm operation
  return { ...head, at: head.at + bytes, encoding, map, prefix, bits, wide, operand16: false }
}

function operandsEnd(code: Uint8Array, head: Head, opcode: number): number {
  let at = head.at + 1
  if (hasModRm(head, opcode)) at = modRmEnd(code, at)
  return at + immediateBytes(head, opcode, code[head.at + 1]!)
}

function hasModRm({ map, encoding }: Head, opcode: number): boolean {
  if (map >= 2) return true
  if (map === 1) {
    if (encoding !== "legacy") return opcode !== 0x77
    const plain = [0x05, 0x0b, 0x31, 0x77, 0xa2].includes(opcode)
    return !plain && !within(opcode, 0x80, 0x8f) && !within(opcode, 0xc8, 0xcf)
  }
  if (opcode < 0x40) return (opcode & 7) < 4
  const known = [0x63, 0x69, 0x6b, 0xc0, 0xc1, 0xc6, 0xc7, 0xf6, 0xf7, 0xfe, 0xff].includes(opcode)
  return known || within(opcode, 0x80, 0x8f) || within(opcode, 0xd0, 0xd3) || within(opcode, 0xd8, 0xdf)
}

function isAtStackPointer(code: Uint8Array, { at, hasHighBase }: Head): boolean {
  const [modRm, sib] = code.subarray(at + 1) as unknown as [number, number]
  return modRm >> 6 !== 3 && (modRm & 7) === 4 && (sib & 7) === 4 && !hasHighBase
}

/** ModRM, SIB and displacement. */
function modRmEnd(code: Uint8Array, at: number): number {
  const mode = code[at]! >> 6
  const rm = code[at]! & 7
  if (mode === 3) return at + 1
  const hasSib = rm === 4
  const base = hasSib ? code[at + 1]! & 7 : rm
  const displacement = mode === 1 ? 1 : mode === 2 || base === 5 ? 4 : 0
  return at + 1 + (hasSib ? 1 : 0) + displacement
}

function immediateBytes(head: Head, opcode: number, modRm: number): number {
  const { map, wide, operand16 } = head
  const full = operand16 && !wide ? 2 : 4
  if (map === 3) return 1
  if (map === 1) {
    if (head.encoding === "legacy" && within(opcode, 0x80, 0x8f)) return 4
    return within(opcode, 0x70, 0x73) || [0xa4, 0xac, 0xba, 0xc2, 0xc4, 0xc5, 0xc6].includes(opcode) ? 1 : 0
  }
  if (map !== 0) return 0
  if (opcode < 0x40) return (opcode & 7) === 4 ? 1 : (opcode & 7) === 5 ? full : 0
  if ([0x6a, 0x6b, 0x80, 0x83, 0xa8, 0xc0, 0xc1, 0xc6, 0xcd, 0xeb].includes(opcode)) return 1
  if (within(opcode, 0x70, 0x7f) || within(opcode, 0xb0, 0xb7)) return 1
  if ([0x68, 0x69, 0x81, 0xa9, 0xc7].includes(opcode)) return full
  if (within(opcode, 0xb8, 0xbf)) return wide ? 8 : full
  if (opcode === 0xe8 || opcode === 0xe9) return 4
  if (opcode === 0xc2) return 2
  const testsImmediate = ((modRm >> 3) & 7) < 2
  if (opcode === 0xf6) return testsImmediate ? 1 : 0
  if (opcode === 0xf7) return testsImmediate ? full : 0
  const plain = hasModRm(head, opcode) || within(opcode, 0x50, 0x5f) || within(opcode, 0x90, 0x9f)
  if (plain || [0xa4, 0xa5, 0xaa, 0xab, 0xc3, 0xc9, 0xcc, 0xf4].includes(opcode)) return 0
  throw new Error(`opcode ${opcode.toString(16)} is not one that a compiler emits: the decoder has lost its place`)
}

function within(opcode: number, first: number, last: number): boolean {
  return opcode >= first && opcode <= last
}
