// The byte alphabet of byte-level BPE (GPT-2): printable Latin-1 characters stand for themselves, each other byte for
// the next free character from U+0100 on.

/** (byte) -> code point, at most U+0143 */
export const CODE_OF_BYTE = new Uint16Array(256)
/** (code point) -> byte, or -1 */
export const BYTE_OF_CODE = new Int16Array(0x144).fill(-1)

let free = 0x100
for (let byte = 0; byte < 256; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  const code = printable ? byte : free++
  CODE_OF_BYTE[byte] = code
  BYTE_OF_CODE[code] = byte
}
