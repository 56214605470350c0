// Files that are whole or not there (src/output-file.ts). The oracle is the folder itself, read back after each step.

import { afterAll, expect, test } from "bun:test"
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AsdslError } from "../src/errors.ts"
import { OutputFile, TEMPORARY_NAME, writeWhole } from "../src/output-file.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-output-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const path = join(folder, "file")
const names = () => readdirSync(folder).sort()
const text = (file: string) => readFileSync(file, "utf8")
const bytes = (words: string) => new TextEncoder().encode(words)

test("has its name when it is finished, and what was there stays until then", () => {
  writeFileSync(path, "before")
  using file = new OutputFile(path)
  file.write(bytes("....one, "))
  file.writeAt(0, bytes("two "))
  file.write(bytes("three"))
  file.sync()
  expect(text(path)).toBe("before")
  expect(names().filter((name) => TEMPORARY_NAME.test(name))).toHaveLength(1)
  file.finish()
  expect(text(path)).toBe("two one, three")
  expect(names()).toEqual(["file"])
})

test("is not there when it was given up", () => {
  {
    using file = new OutputFile(path)
    file.write(bytes("never seen"))
  }
  expect([names(), text(path)]).toEqual([["file"], "two one, three"])
})

test("a link stays, and what it leads to is replaced", () => {
  const link = join(folder, "link")
  symlinkSync("file", link)
  writeWhole(link, bytes("through the link"))
  expect([readlinkSync(link), text(path)]).toEqual(["file", "through the link"])
  rmSync(link)
})

test("what a dead process left is cleared away, a living one's is not, nor what has another name", () => {
  const dead = Bun.spawnSync([process.execPath, "-e", "0"]).pid
  const others = [`file.${process.pid}-01234567.tmp`, "file.backup.tmp", `files.${dead}-01234567.tmp`]
  for (const name of [`file.${dead}-01234567.tmp`, ...others]) writeFileSync(join(folder, name), "")
  writeWhole(path, bytes("new"))
  expect(names()).toEqual(["file", ...others].sort())
  for (const name of others) rmSync(join(folder, name))
})

test("what the system refuses is an AsdslError that says why, and leaves nothing", () => {
  const refused = (body: () => void, reason: string) => {
    expect(body).toThrow(new AsdslError("io", reason))
    expect(names()).toEqual(["file", "folder"])
  }
  const isFolder = join(folder, "folder")
  mkdirSync(isFolder)
  const [none, below] = [join(folder, "none", "file"), join(path, "below")]
  refused(() => new OutputFile(none), `${none} cannot be written (ENOENT)`)
  refused(() => new OutputFile(below), `${below} cannot be written (ENOTDIR)`)
  const file = new OutputFile(isFolder)
  file.write(bytes("a file cannot have a folder's name"))
  refused(() => file.finish(), `${isFolder} cannot be written (EISDIR)`)
})
