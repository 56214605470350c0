// Kernel measurements kept in bench/results/: NAME.json, and NAME.md for people.

import { renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { machineFacts, writeJson } from "./machine.ts"

/** `measured` under the machine it was measured on, the date and the commit. */
export function reportOf<T extends object>(measured: T) {
  return { machine: machineFacts(), ...measured }
}

/** Writes bench/results/NAME.json and, with a table under its machine and date, NAME.md; returns the latter's path. */
export function saveReport(name: string, report: ReturnType<typeof reportOf>, command: string, table: string): string {
  const path = join(import.meta.dir, "results", `${name}.md`)
  const { cpu, nPhysical, date, commit } = report.machine
  writeJson(path.replace(/md$/, "json"), report)
  const facts = `${cpu}, ${nPhysical} cores, ${date.slice(0, 10)}, commit ${commit}. Written by \`${command}\`; samples in ${name}.json.`
  writeFileSync(`${path}.${process.pid}`, `${facts}\n\n${table}`)
  renameSync(`${path}.${process.pid}`, path)
  return path
}
