// Which drafter and which controller a generation gets, and what they go on knowing from one to the next: what passes cost
// and how well a draft model does is learnt once a model and kept for other processes, how well lookups do once a session.

import { ArgumentError } from "../errors.ts"
import type { GenerateOptions } from "../generate.ts"
import type { Model } from "../model.ts"
import { checkInteger } from "../native/handles.ts"
import type { Session } from "../session.ts"
import type { SpeculatorOptions } from "./accept.ts"
import { CombinedDrafter } from "./combined.ts"
import { Controller } from "./controller.ts"
import { ModelDrafter } from "./draft-model.ts"
import type { Drafter } from "./drafter.ts"
import { Learnt } from "./learnt.ts"
import { LookupDrafter } from "./lookup.ts"
import { DEFAULT_MAX_DRAFT, SPECULATIVE_MODES, type SpeculativeMode } from "./options.ts"

const learntOf = new WeakMap<Model, Learnt>()
const controllerOf = new WeakMap<Session, Controller>()
const drafterOf = new WeakMap<Session, ModelDrafter>()

/** What the options ask for; undefined: no drafts. */
export function speculatorOptions(session: Session, options: GenerateOptions): SpeculatorOptions | undefined {
  const { speculative = "auto", maxDraft = DEFAULT_MAX_DRAFT, minDraft = 0 } = options
  if (!SPECULATIVE_MODES.includes(speculative)) {
    throw new ArgumentError(`speculative is ${speculative}, known: ${SPECULATIVE_MODES.join(", ")}`)
  }
  checkInteger("maxDraft", maxDraft, 0, 2 ** 31 - 1)
  checkInteger("minDraft", minDraft, 0, 2 ** 31 - 1)
  if (speculative === "off" || maxDraft === 0) return undefined
  return {
    drafter: options.drafter ?? drafter(session, speculative, options.minDraftConfidence ?? 0),
    controller: speculative === "auto" ? controller(session) : undefined,
    costs: learnt(session.model).costs,
    ...{ maxDraft, minDraft },
  }
}

/** A generation is over: what it taught is kept for other processes. */
export function keepLearnt(model: Model): void {
  learntOf.get(model)?.keep()
}

function drafter(session: Session, mode: SpeculativeMode, minConfidence: number): Drafter {
  if (!(minConfidence >= 0 && minConfidence <= 1)) {
    throw new ArgumentError(`minDraftConfidence is ${minConfidence}, a number from 0 to 1 is needed`)
  }
  if (mode === "lookup" || (mode === "auto" && session.model.draft === undefined)) return new LookupDrafter()
  // Its cache stays with the session: the next turn of a chat finds the text so far in it.
  const model = cached(drafterOf, session, () => session.attach(new ModelDrafter(session.model)))
  model.minConfidence = minConfidence
  return mode === "draft" ? model : new CombinedDrafter(model)
}

function controller(session: Session): Controller {
  const { costs, record } = learnt(session.model)
  return cached(controllerOf, session, () => new Controller(costs, record))
}

function learnt(model: Model): Learnt {
  return cached(learntOf, model, () => new Learnt(model))
}

function cached<K extends WeakKey, V>(values: WeakMap<K, V>, key: K, make: () => V): V {
  const value = values.get(key) ?? make()
  values.set(key, value)
  return value
}
