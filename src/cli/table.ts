// Markdown tables, CSV lines and numbers for people. Knows nothing of what they mean.

export interface Column {
  readonly name: string
  /** Least width in characters; cells may be wider. */
  readonly width: number
  readonly align: "left" | "right"
}

/** The two lines above the rows of a Markdown table. */
export function tableHead(columns: readonly Column[]): string {
  const names = tableRow(
    columns,
    columns.map(({ name }) => name),
  )
  const rules = columns.map(({ name, width, align }) => {
    const dashes = "-".repeat(Math.max(width, name.length, 3) - 1)
    return align === "right" ? `${dashes}:` : `:${dashes}`
  })
  return `${names}| ${rules.join(" | ")} |\n`
}

/** One line of a Markdown table. */
export function tableRow(columns: readonly Column[], cells: readonly string[]): string {
  const padded = columns.map(({ name, width, align }, i) => {
    const cell = (cells[i] ?? "").replaceAll("|", "\\|").replaceAll("\n", " ")
    const wide = Math.max(width, name.length, 3)
    return align === "right" ? cell.padStart(wide) : cell.padEnd(wide)
  })
  return `| ${padded.join(" | ")} |\n`
}

/** A Markdown table of names and values. */
export function factTable(title: string, facts: readonly (readonly [string, string])[]): string {
  const widest = (texts: string[]) => Math.max(...texts.map((text) => text.length))
  const columns: Column[] = [
    { name: title, width: widest(facts.map(([name]) => name)), align: "left" },
    { name: "", width: widest(facts.map(([, value]) => value)), align: "left" },
  ]
  return tableHead(columns) + facts.map((fact) => tableRow(columns, fact)).join("")
}

/** One line of CSV, every field quoted. */
export function csvLine(fields: readonly (string | number)[]): string {
  return `${fields.map((field) => `"${String(field).replaceAll('"', '""')}"`).join(",")}\n`
}

/** "1.10 B", "134.52 M", as in llama-bench. */
export function formatCount(count: number): string {
  return count < 1e9 ? `${(count / 1e6).toFixed(2)} M` : `${(count / 1e9).toFixed(2)} B`
}

/** "93.79 MiB", "4.58 GiB", as in llama-bench. */
export function formatBytes(bytes: number): string {
  if (bytes < 2 ** 20) return `${(bytes / 2 ** 10).toFixed(2)} KiB`
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(2)} MiB` : `${(bytes / 2 ** 30).toFixed(2)} GiB`
}

/** "63.2 %" */
export function formatShare(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}
