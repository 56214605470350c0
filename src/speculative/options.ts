// The names that options of drafting take, and what they are where nobody says. Imports nothing: command lines are checked
// by it before there is an engine.

export const SPECULATIVE_MODES = ["auto", "off", "lookup", "draft"] as const

/** auto: drafts by lookups and by the draft model, where there is one, as far as that pays by what is measured, down to
 * none. off: a pass for each token. lookup: always drafts where the text so far has a continuation, up to maxDraft. draft:
 * always drafts maxDraft tokens by the draft model. */
export type SpeculativeMode = (typeof SPECULATIVE_MODES)[number]

export const DEFAULT_MAX_DRAFT = 16
