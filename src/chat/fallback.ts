// Templates for models that came without one, by the tokens that their vocabulary has for the turns of a conversation.

export interface Fallback {
  readonly name: string
  /** Tokens that speak for this one. */
  readonly tokens: readonly string[]
  /** What ends a turn. */
  readonly end: string
  /** Jinja. */
  readonly source: string
}

/** The last one where no other fits. */
const FALLBACKS: readonly Fallback[] = [
  {
    name: "llama3",
    tokens: ["<|start_header_id|>", "<|end_header_id|>"],
    end: "<|eot_id|>",
    source: `{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>

{{ message.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}`,
  },
  {
    name: "gemma",
    tokens: ["<start_of_turn>"],
    end: "<end_of_turn>",
    source: `{{ bos_token }}{% for message in messages %}{% if message.role == "system" %}{{ raise_exception("no system") }}{% endif %}<start_of_turn>{{ "model" if message.role == "assistant" else message.role }}
{{ message.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}`,
  },
  {
    name: "phi3",
    tokens: ["<|user|>", "<|end|>"],
    end: "<|end|>",
    source: `{% for message in messages %}<|{{ message.role }}|>
{{ message.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}`,
  },
  {
    // https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md
    name: "chatml",
    tokens: ["<|im_start|>"],
    end: "<|im_end|>",
    source: `{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`,
  },
]

export const FALLBACK_NAMES = FALLBACKS.map(({ name }) => name)

/** By name, for a person who knows better. */
export function fallbackNamed(name: string): Fallback | undefined {
  return FALLBACKS.find((fallback) => fallback.name === name)
}

export function fallbackWith(source: string): Fallback | undefined {
  return FALLBACKS.find((fallback) => fallback.source === source)
}

/** For a vocabulary. */
export function fallbackFor(hasToken: (text: string) => boolean): Fallback {
  return FALLBACKS.find(({ tokens }) => tokens.every(hasToken)) ?? FALLBACKS.at(-1)!
}
