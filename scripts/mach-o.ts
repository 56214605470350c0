// The parts of a 64-bit Mach-O library that scripts/cross.ts looks at: what it exports and which libraries it needs.
// Source: Apple's <mach-o/loader.h>; the trie of exports as in dyld's documentation of LC_DYLD_EXPORTS_TRIE.

const LC_LOAD_DYLIB = 0xc
const LC_DYLD_INFO = [0x22, 0x80000022]
const LC_DYLD_EXPORTS_TRIE = 0x80000033
const LC_BUILD_VERSION = 0x32

const LINKERS_OWN = ["__mh_dylib_header", "___dso_handle"]

export class MachO {
  /** 0x01000007: x86-64, 0x0100000c: arm64. */
  readonly machine: number
  readonly neededLibraries: string[] = []
  /** The oldest macOS that loads it: "11.0". */
  readonly minimumSystem: string = ""
  private trie: Uint8Array = new Uint8Array()

  constructor(file: Uint8Array) {
    const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
    if (view.getUint32(0, true) !== 0xfeedfacf) throw new Error("not a 64-bit Mach-O file")
    this.machine = view.getUint32(4, true)
    for (let i = 0, at = 32; i < view.getUint32(16, true); i++, at += view.getUint32(at + 4, true)) {
      const command = view.getUint32(at, true)
      if (command === LC_LOAD_DYLIB) this.neededLibraries.push(text(file, at + view.getUint32(at + 8, true)))
      if (command === LC_BUILD_VERSION) {
        const version = view.getUint32(at + 12, true)
        this.minimumSystem = `${version >> 16}.${(version >> 8) & 255}`
      }
      const place = command === LC_DYLD_EXPORTS_TRIE ? at + 8 : LC_DYLD_INFO.includes(command) ? at + 40 : undefined
      if (place === undefined) continue
      const begin = view.getUint32(place, true)
      this.trie = file.subarray(begin, begin + view.getUint32(place + 4, true))
    }
  }

  /** Names as C has them, without the underscore; what zig's linker adds is left out. */
  exported(): string[] {
    const names: string[] = []
    if (this.trie.length > 0) this.walk(0, "", names)
    return names.filter((name) => !LINKERS_OWN.includes(name)).map((name) => name.replace(/^_/, ""))
  }

  /** A node: bytes of what it says of its own name (0: it is none), number of children, then label and place of each. */
  private walk(node: number, prefix: string, names: string[]): void {
    let at = node
    const number = () => {
      let value = 0
      for (let shift = 0; ; shift += 7) {
        const byte = this.trie[at++]!
        value += (byte & 127) * 2 ** shift
        if (byte < 128) return value
      }
    }
    const ownBytes = number()
    if (ownBytes > 0) names.push(prefix)
    at += ownBytes
    for (let children = this.trie[at++]!; children > 0; children--) {
      const label = text(this.trie, at)
      at += label.length + 1
      this.walk(number(), prefix + label, names)
    }
  }
}

function text(bytes: Uint8Array, offset: number): string {
  return Buffer.from(bytes.subarray(offset, bytes.indexOf(0, offset))).toString()
}
