// The parts of a 64-bit little-endian ELF file that tests and scripts/cross.ts look at: sections, symbols, what it needs of
// other libraries.
// Source: the System V ABI, chapter 4, and the Linux Standard Base, "Symbol Versioning".

export interface Section {
  readonly name: string
  readonly type: number
  readonly link: number
  readonly info: number
  readonly entryBytes: number
  readonly bytes: Uint8Array
}

export interface Symbol {
  readonly name: string
  /** Offset in its section (object files) or address. */
  readonly value: number
  readonly isFunction: boolean
  readonly isLocal: boolean
  readonly isHidden: boolean
  /** 0: undefined here. */
  readonly section: number
}

const SYMBOL_BYTES = 24

export class Elf {
  readonly sections: Section[] = []
  /** 62: x86-64, 183: AArch64. */
  readonly machine: number

  constructor(file: Uint8Array) {
    const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
    if (view.getUint32(0) !== 0x7f454c46 || file[4] !== 2 || file[5] !== 1) throw new Error("not a 64-bit ELF file")
    this.machine = view.getUint16(18, true)
    const offset = Number(view.getBigUint64(0x28, true))
    const entryBytes = view.getUint16(0x3a, true)
    const names: number[] = []
    for (let i = 0; i < view.getUint16(0x3c, true); i++) {
      const at = offset + i * entryBytes
      const type = view.getUint32(at + 4, true)
      const begin = Number(view.getBigUint64(at + 24, true))
      const size = type === 8 ? 0 : Number(view.getBigUint64(at + 32, true)) // SHT_NOBITS has no bytes in the file
      names.push(view.getUint32(at, true))
      this.sections.push({
        name: "",
        type,
        link: view.getUint32(at + 40, true),
        info: view.getUint32(at + 44, true),
        entryBytes: Number(view.getBigUint64(at + 56, true)),
        bytes: file.subarray(begin, begin + size),
      })
    }
    const strings = this.sections[view.getUint16(0x3e, true)]!.bytes
    this.sections = this.sections.map((section, i) => ({ ...section, name: text(strings, names[i]!) }))
  }

  section(name: string): Section {
    const found = this.sections.find((section) => section.name === name)
    if (!found) throw new Error(`no section ${name}`)
    return found
  }

  /** Of .symtab (object files) or .dynsym (shared libraries). */
  symbols(table: ".symtab" | ".dynsym"): Symbol[] {
    const { bytes, link } = this.section(table)
    const strings = this.sections[link]!.bytes
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    return Array.from({ length: bytes.length / SYMBOL_BYTES }, (_, i) => {
      const at = i * SYMBOL_BYTES
      return {
        name: text(strings, view.getUint32(at, true)),
        isFunction: (bytes[at + 4]! & 15) === 2,
        isLocal: bytes[at + 4]! >> 4 === 0,
        isHidden: (bytes[at + 5]! & 3) !== 0,
        section: view.getUint16(at + 6, true),
        value: Number(view.getBigUint64(at + 8, true)),
      }
    })
  }

  /** Names of the functions that the library shows to others. */
  exported(): string[] {
    const shown = this.symbols(".dynsym").filter((s) => s.section !== 0 && !s.isLocal && !s.isHidden)
    return shown.map((symbol) => symbol.name)
  }

  /** The libraries that it needs. */
  neededLibraries(): string[] {
    const { bytes, link } = this.section(".dynamic")
    const strings = this.sections[link]!.bytes
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const libraries: string[] = []
    for (let at = 0; at < bytes.length; at += 16) {
      const isNeeded = view.getBigInt64(at, true) === 1n // DT_NEEDED
      if (isNeeded) libraries.push(text(strings, Number(view.getBigUint64(at + 8, true))))
    }
    return libraries
  }

  /** Names of the symbol versions that the library needs of others: "GLIBC_2.17". musl knows no versions. */
  neededVersions(): string[] {
    const section = this.sections.find((each) => each.name === ".gnu.version_r")
    if (!section) return []
    const { bytes, link, info } = section
    const strings = this.sections[link]!.bytes
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const versions: string[] = []
    for (let need = 0, i = 0; i < info; i++) {
      let aux = need + view.getUint32(need + 8, true)
      for (let j = 0; j < view.getUint16(need + 2, true); j++) {
        versions.push(text(strings, view.getUint32(aux + 8, true)))
        aux += view.getUint32(aux + 12, true)
      }
      need += view.getUint32(need + 12, true)
    }
    return versions
  }
}

function text(strings: Uint8Array, offset: number): string {
  return Buffer.from(strings.subarray(offset, strings.indexOf(0, offset))).toString()
}
