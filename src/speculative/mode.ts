// Which drafter and which controller a generation gets, and what they go on knowing from one to the next: what passes cost
// is learnt once a model, how well drafts do once a session.

import { ArgumentError } from "../errors.ts"
import type { GenerateOptions } from "../generate.ts"
import type { Model } from "../model.ts"
import { checkInteger } from "../native/handles.ts"
import type { Session } from "../session.ts"
import type { SpeculatorOptions } from "./accept.ts"
import { Controller } from "./controller.ts"
import { PassCosts } from "./costs.ts"
import { LookupDrafter } from "./lookup.ts"

export const SPECULATIVE_MODES = ["auto", "off", "lookup"] as const

/** auto: drafts as far as that pays by what is measured, down to none. off: a pass for each token. lookup: always drafts
 * where the text so far has a continuation, up to maxDraft. */
export type SpeculativeMode = (typeof SPECULATIVE_MODES)[number]

export const DEFAULT_MAX_DRAFT = 16

const costsOf = new WeakMap<Model, PassCosts>()
const controllerOf = new WeakMap<Session, Controller>()

/** What the options ask for; undefined: no drafts. */
export function speculatorOptions(
  session: Session,
  { speculative = "auto", maxDraft = DEFAULT_MAX_DRAFT, drafter }: GenerateOptions,
): SpeculatorOptions | undefined {
  if (!SPECULATIVE_MODES.includes(speculative)) {
    throw new ArgumentError(`speculative is ${speculative}, known: ${SPECULATIVE_MODES.join(", ")}`)
  }
  checkInteger("maxDraft", maxDraft, 0, 2 ** 31 - 1)
  if (speculative === "off" || maxDraft === 0) return undefined
  return {
    drafter: drafter ?? new LookupDrafter(),
    controller: speculative === "auto" ? controller(session) : undefined,
    maxDraft,
  }
}

function controller(session: Session): Controller {
  return cached(controllerOf, session, () => new Controller(cached(costsOf, session.model, () => new PassCosts())))
}

function cached<K extends WeakKey, V>(values: WeakMap<K, V>, key: K, make: () => V): V {
  const value = values.get(key) ?? make()
  values.set(key, value)
  return value
}
