// Reads the report that `bun test --reporter=junit` writes about one test file.

/** Names of tests, by what became of them. */
export interface FileReport {
  passed: string[]
  failed: string[]
  skipped: string[]
}

const TEST_CASE = /<testcase name="([^"]*)"[^>]*?(?:\/>|>([\s\S]*?)<\/testcase>)/g
const ENTITIES: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" }

/** undefined: the text is not a whole report, because the process that wrote it ended early. */
export function readJunit(text: string): FileReport | undefined {
  if (!text.trimEnd().endsWith("</testsuites>")) return undefined
  const report: FileReport = { passed: [], failed: [], skipped: [] }
  for (const [, escaped = "", body = ""] of text.matchAll(TEST_CASE)) {
    const outcome = body.includes("<failure") ? "failed" : body.includes("<skipped") ? "skipped" : "passed"
    report[outcome].push(escaped.replace(/&(\w+);/g, (whole, name) => ENTITIES[name] ?? whole))
  }
  return report
}
