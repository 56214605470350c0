// The parts of a 64-bit PE library (a DLL) that scripts/cross.ts looks at: what it exports and which libraries it needs.
// Source: Microsoft's "PE Format".

export class Pe {
  /** 0x8664: x86-64, 0xaa64: ARM64. */
  readonly machine: number
  private readonly view: DataView
  private readonly optionalHeader: number

  constructor(private readonly file: Uint8Array) {
    this.view = new DataView(file.buffer, file.byteOffset, file.byteLength)
    const header = this.view.getUint32(0x3c, true)
    this.optionalHeader = header + 24
    if (this.view.getUint32(header, true) !== 0x4550 || this.view.getUint16(this.optionalHeader, true) !== 0x20b) {
      throw new Error("not a 64-bit PE file")
    }
    this.machine = this.view.getUint16(header + 4, true)
  }

  exported(): string[] {
    const table = this.place(this.directory(0))
    const names = this.place(this.view.getUint32(table + 32, true))
    return Array.from({ length: this.view.getUint32(table + 24, true) }, (_, i) =>
      this.text(this.place(this.view.getUint32(names + 4 * i, true))),
    )
  }

  /** In lower case, for case means nothing there. */
  neededLibraries(): string[] {
    const libraries: string[] = []
    for (let at = this.place(this.directory(1)); this.view.getUint32(at + 12, true) !== 0; at += 20) {
      libraries.push(this.text(this.place(this.view.getUint32(at + 12, true))).toLowerCase())
    }
    return libraries
  }

  /** The address of a data directory, relative to where the file is loaded. */
  private directory(index: number): number {
    return this.view.getUint32(this.optionalHeader + 112 + 8 * index, true)
  }

  /** Where in the file an address is. */
  private place(address: number): number {
    const header = this.optionalHeader - 20
    const sections = this.optionalHeader + this.view.getUint16(header + 16, true)
    for (let i = 0; i < this.view.getUint16(header + 2, true); i++) {
      const at = sections + 40 * i
      const offset = address - this.view.getUint32(at + 12, true)
      if (offset >= 0 && offset < this.view.getUint32(at + 16, true)) return offset + this.view.getUint32(at + 20, true)
    }
    throw new Error(`address ${address} is in no section`)
  }

  private text(offset: number): string {
    return Buffer.from(this.file.subarray(offset, this.file.indexOf(0, offset))).toString()
  }
}
