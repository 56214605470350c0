// The hub's cache on disk, laid out as Python's huggingface_hub and llama.cpp do it, so that each finds what another fetched:
// models--user--repo/blobs/<etag>, /snapshots/<commit>/<path> as relative symbolic links to blobs, /refs/main with a commit
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache). Makes no request and holds no lock.

import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { basename, dirname, join, relative, sep } from "node:path"
import { isOn } from "./settings.ts"

const COMMIT = /^[0-9a-f]{40}$/

/** A file of a snapshot. */
export interface CachedFile {
  /** In the repository, with slashes. */
  readonly path: string
  /** On this machine. */
  readonly local: string
  readonly bytes: number
}

/** A download that is not finished. */
export interface PartialFile {
  readonly local: string
  readonly bytes: number
  /** That of the blob it will be. */
  readonly etag: string
}

/** One repository in the cache folder. */
export class CachedRepo {
  readonly repo: string
  /** <cache>/models--user--repo */
  readonly folder: string
  readonly #root: string

  /** @param root the cache folder; @param repo "user/repo" */
  constructor(root: string, repo: string) {
    this.#root = root
    this.repo = repo
    this.folder = join(root, folderName(repo))
  }

  blob(etag: string): string {
    return join(this.folder, "blobs", etag)
  }

  /** What is there of a blob that is being fetched. */
  partial(etag: string): string {
    return `${this.blob(etag)}.incomplete`
  }

  lock(etag: string): string {
    return join(this.locks, `${etag}.lock`)
  }

  get locks(): string {
    return join(this.#root, ".locks", folderName(this.repo))
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit)
  }

  /** Where a file of the repository is, or will be. */
  pointer(commit: string, path: string): string {
    return join(this.snapshot(commit), ...path.split("/"))
  }

  /** Commits that have files here: the newest known state of main first, then the last changed ones. */
  commits(): string[] {
    const main = this.#main()
    const age = (commit: string) => statSync(this.snapshot(commit), { throwIfNoEntry: false })?.mtimeMs ?? 0
    const others = namesIn(join(this.folder, "snapshots"))
      .filter((name) => COMMIT.test(name) && name !== main)
      .sort((a, b) => age(b) - age(a))
    return main === undefined ? others : [main, ...others]
  }

  #main(): string | undefined {
    try {
      const text = readFileSync(join(this.folder, "refs", "main"), "utf8").trim()
      return COMMIT.test(text) ? text : undefined
    } catch {
      return undefined
    }
  }

  /** The files of a snapshot that are whole; a link to a blob that is gone is none. */
  files(commit: string): CachedFile[] {
    const folder = this.snapshot(commit)
    return filesBelow(folder).flatMap((local) => {
      const stats = statSync(local, { throwIfNoEntry: false })
      const path = relative(folder, local).split(sep).join("/")
      return stats?.isFile() ? [{ path, local, bytes: stats.size }] : []
    })
  }

  partials(): PartialFile[] {
    const folder = join(this.folder, "blobs")
    return namesIn(folder).flatMap((name) => {
      const etag = /^(.+)\.incomplete$/.exec(name)?.[1]
      const stats = etag === undefined ? undefined : statSync(join(folder, name), { throwIfNoEntry: false })
      return stats?.isFile() ? [{ local: join(folder, name), bytes: stats.size, etag: etag! }] : []
    })
  }

  /** Makes the folders that a file of a snapshot and its blob go to, and tags the cache for backup programs. */
  prepare(commit: string, path: string): void {
    mkdirSync(join(this.folder, "blobs"), { recursive: true })
    mkdirSync(dirname(this.pointer(commit, path)), { recursive: true })
    const tag = join(this.#root, "CACHEDIR.TAG")
    if (existsSync(tag)) return
    const about = "# This file marks a cache folder: https://bford.info/cachedir/"
    writeFileSync(tag, `Signature: 8a477f597d28d172789f06886806bc55\n${about}\n`)
  }

  /** Puts a blob that is whole into a snapshot. Without symbolic links (Windows, some disks) the file itself goes there. */
  link(commit: string, path: string, etag: string): void {
    const pointer = this.pointer(commit, path)
    const fresh = `${pointer}.${process.pid}.tmp`
    rmSync(fresh, { force: true })
    if (!tryToLink(relative(dirname(pointer), this.blob(etag)), fresh)) {
      if (this.#links(etag) === 0) {
        renameSync(this.blob(etag), pointer)
        return
      }
      copyFileSync(this.blob(etag), fresh)
    }
    renameSync(fresh, pointer)
  }

  /** Links in any snapshot to a blob. */
  #links(etag: string): number {
    return filesBelow(join(this.folder, "snapshots")).filter((local) => blobOf(local) === etag).length
  }

  /** Says that main is at this commit. */
  writeMain(commit: string): void {
    if (this.#main() === commit) return
    const path = join(this.folder, "refs", "main")
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(`${path}.${process.pid}.tmp`, commit)
    renameSync(`${path}.${process.pid}.tmp`, path)
  }

  /** Removes files from every snapshot, and blobs that no snapshot needs any more. Returns the bytes that this set free. */
  removeFiles(paths: ReadonlySet<string>): number {
    let freed = 0
    for (const commit of this.commits()) {
      for (const path of paths) {
        const pointer = this.pointer(commit, path)
        const stats = lstatSync(pointer, { throwIfNoEntry: false })
        if (stats === undefined) continue
        const etag = blobOf(pointer)
        rmSync(pointer)
        if (etag === undefined) freed += stats.size
        else if (this.#links(etag) === 0) freed += removeFile(this.blob(etag))
      }
    }
    this.#tidy()
    return freed
  }

  /** Removes a download that is not finished; returns its bytes. */
  removePartial({ local }: PartialFile): number {
    const freed = removeFile(local)
    this.#tidy()
    return freed
  }

  /** Empty folders of snapshots go; a repository without any file goes as a whole. */
  #tidy(): void {
    const snapshots = join(this.folder, "snapshots")
    for (const commit of namesIn(snapshots)) {
      const folder = join(snapshots, commit)
      if (filesBelow(folder).length === 0) rmSync(folder, { recursive: true, force: true })
    }
    if (namesIn(snapshots).length > 0 || namesIn(join(this.folder, "blobs")).length > 0) return
    rmSync(this.folder, { recursive: true, force: true })
    rmSync(this.locks, { recursive: true, force: true })
  }
}

/** Every repository of models in a cache folder, by name. */
export function cachedRepos(root: string): CachedRepo[] {
  return namesIn(root)
    .filter((name) => /^models--.+--.+$/.test(name))
    .sort()
    .map((name) => new CachedRepo(root, name.slice("models--".length).replaceAll("--", "/")))
}

function tryToLink(target: string, path: string): boolean {
  if (isOn(process.env.HF_HUB_DISABLE_SYMLINKS)) return false
  try {
    symlinkSync(target, path)
    return true
  } catch {
    return false // what else is wrong with the folder, moving the file there will say
  }
}

function folderName(repo: string): string {
  return `models--${repo.replaceAll("/", "--")}`
}

/** The blob's etag that a snapshot's link leads to; undefined for a file that is none. */
function blobOf(pointer: string): string | undefined {
  return lstatSync(pointer).isSymbolicLink() ? basename(readlinkSync(pointer)) : undefined
}

function removeFile(path: string): number {
  const bytes = statSync(path, { throwIfNoEntry: false })?.size ?? 0
  rmSync(path, { force: true })
  return bytes
}

/** Of a folder that may not be there, or be none. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

/** Files and links, not followed; temporary ones of a process that writes are left out. */
function filesBelow(folder: string): string[] {
  let entries: ReturnType<typeof readFolder>
  try {
    entries = readFolder(folder)
  } catch {
    return []
  }
  return entries
    .filter((entry) => !entry.isDirectory() && !entry.name.endsWith(".tmp"))
    .map((entry) => join(entry.parentPath, entry.name))
}

function readFolder(folder: string) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
}
