/* describe.c: asdsl_describe(): the ABI as JSON, made from the declarations themselves, so that it cannot drift.
 *
 *   {"version": 1, "no_buffer": 4294967295,
 *    "enums": {"asdsl_status": {"ASDSL_OK": 0, ...}, ...},
 *    "structs": {"asdsl_op": {"bytes": 336, "fields": {"code": {"offset": 0, "bytes": 4, "type": "u32"}, ...}}, ...},
 *    "operations": [{"code": 0, "name": "embed", "operands": ["out", "table"], "ints": [], "floats": []}, ...]}
 *
 * A field's type is that of one element: u8 u32 i32 u64 f32 f64 char, or struct. bytes / element size is the count.
 */
#include "engine.h"
#include "platform.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define ENUMS(ENUM)                                                                                                    \
    ENUM(asdsl_status, V(ASDSL_OK) V(ASDSL_E_ARGUMENT) V(ASDSL_E_HANDLE) V(ASDSL_E_MEMORY) V(ASDSL_E_IO)               \
                           V(ASDSL_E_UNSUPPORTED) V(ASDSL_E_CANCELLED) V(ASDSL_E_STATE))                               \
    ENUM(asdsl_level, V(ASDSL_LEVEL_PORTABLE) V(ASDSL_LEVEL_AVX2) V(ASDSL_LEVEL_AVXVNNI) V(ASDSL_LEVEL_AVX512)         \
                          V(ASDSL_LEVEL_NEON) V(ASDSL_LEVEL_REFERENCE) V(ASDSL_LEVEL_AUTO))                            \
    ENUM(asdsl_type,                                                                                                   \
         V(ASDSL_F32) V(ASDSL_F16) V(ASDSL_Q4_0) V(ASDSL_Q4_1) V(ASDSL_Q5_0) V(ASDSL_Q5_1) V(ASDSL_Q8_0) V(ASDSL_Q2_K) \
             V(ASDSL_Q3_K) V(ASDSL_Q4_K) V(ASDSL_Q5_K) V(ASDSL_Q6_K) V(ASDSL_IQ4_NL) V(ASDSL_IQ4_XS) V(ASDSL_I32)      \
                 V(ASDSL_BF16) V(ASDSL_ACT_F32) V(ASDSL_ACT_Q8_32) V(ASDSL_ACT_Q8_256))                                \
    ENUM(asdsl_layout, V(ASDSL_ROWS) V(ASDSL_INTERLEAVED) V(ASDSL_INTERLEAVED_4))                                      \
    ENUM(asdsl_op_flags, V(ASDSL_ROWS_OUTPUTS))                                                                        \
    ENUM(asdsl_prefill, V(ASDSL_PREFILL_EXACT) V(ASDSL_PREFILL_FAST))                                                  \
    ENUM(asdsl_core_kind, V(ASDSL_CORE_UNKNOWN) V(ASDSL_CORE_PERFORMANCE) V(ASDSL_CORE_EFFICIENCY))                    \
    ENUM(asdsl_exit_code, V(ASDSL_EXIT_TRAPPED))                                                                       \
    ENUM(asdsl_probe_kind, V(ASDSL_PROBE_READ_BANDWIDTH) V(ASDSL_PROBE_INT8_PEAK))                                     \
    ENUM(asdsl_counter, V(ASDSL_COUNT_INSTRUCTIONS) V(ASDSL_COUNT_CYCLES) V(ASDSL_COUNT_L1D_MISSES)                    \
                            V(ASDSL_COUNT_LLC_MISSES) V(ASDSL_COUNT_PAGE_FAULTS))

#define STRUCTS(STRUCT)                                                                                                \
    STRUCT(asdsl_operand, F(buffer) F(type) F(offset) F(rows) F(cols) F(stride) F(layout))                             \
    STRUCT(asdsl_op, F(code) F(flags) F(layer) F(reserved) F(operand) F(i) F(f))                                       \
    STRUCT(asdsl_params, F(n_tokens) F(n_outputs) F(position) F(top_k) F(max_tokens) F(max_outputs) F(max_top_k)       \
                             F(bytes) F(tokens_offset) F(outputs_offset) F(stats_offset) F(candidates_offset))         \
    STRUCT(asdsl_row_stats, F(logsumexp) F(max) F(argmax) F(n_candidates) F(n_not_finite))                             \
    STRUCT(asdsl_candidate, F(token) F(logit))                                                                         \
    STRUCT(asdsl_engine_options,                                                                                       \
           F(n_threads) F(level) F(spin_us) F(pin) F(cpu_mask) F(slow_percent) F(stay_us) F(force))                    \
    STRUCT(asdsl_program_options, F(max_tokens) F(max_outputs) F(max_top_k) F(n_vocab) F(prefill))                     \
    STRUCT(asdsl_kv_options, F(n_layers) F(n_kv_heads) F(head_dim) F(capacity) F(k_type) F(v_type))                    \
    STRUCT(asdsl_kv_state, F(chunk_bytes) F(chunk_tokens) F(version))                                                  \
    STRUCT(asdsl_repack_job, F(src_buffer) F(dst_buffer) F(src_offset) F(dst_offset) F(type) F(rows) F(cols)           \
                                 F(src_layout) F(dst_layout) F(reserved))                                              \
    STRUCT(asdsl_quantize_job, F(src_buffer) F(dst_buffer) F(importance_buffer) F(src_type) F(dst_type) F(rows)        \
                                   F(cols) F(reserved) F(src_offset) F(dst_offset) F(importance_offset))               \
    STRUCT(asdsl_info, F(cpu) F(levels) F(level) F(n_cores) F(n_physical) F(n_performance) F(hybrid) F(n_threads)      \
                           F(cache_bytes) F(n_barriers))                                                               \
    STRUCT(asdsl_pages, F(resident) F(proportional) F(huge) F(locked) F(prefetched))                                   \
    STRUCT(asdsl_core, F(id) F(physical) F(package) F(kind))                                                           \
    STRUCT(asdsl_topology, F(quota_cores) F(n_cores) F(n_physical) F(n_performance) F(n_workers) F(pinned) F(n_teams)  \
                               F(team) F(reserved) F(cores))                                                           \
    STRUCT(asdsl_worker, F(core) F(n_allowed) F(allowed) F(takes_part) F(speed))                                       \
    STRUCT(asdsl_abi, F(version) F(op_bytes) F(operand_bytes) F(params_bytes) F(stats_bytes) F(candidate_bytes)        \
                          F(engine_options_bytes) F(program_options_bytes) F(kv_options_bytes) F(kv_state_bytes)       \
                              F(repack_job_bytes) F(quantize_job_bytes) F(info_bytes) F(core_bytes) F(topology_bytes)  \
                                  F(worker_bytes) F(pages_bytes) F(n_op_codes))

/* The type of a field or, an array, of its elements. */
#define TYPE_NAME(expression)                                                                                          \
    _Generic((expression),                                                                                             \
        uint8_t: "u8",                                                                                                 \
        uint32_t: "u32",                                                                                               \
        int32_t: "i32",                                                                                                \
        uint64_t: "u64",                                                                                               \
        float: "f32",                                                                                                  \
        double: "f64",                                                                                                 \
        char *: "char",                                                                                                \
        uint32_t *: "u32",                                                                                             \
        int32_t *: "i32",                                                                                              \
        float *: "f32",                                                                                                \
        struct asdsl_core *: "struct",                                                                                 \
        struct asdsl_operand *: "struct")

static char text[20480];
static size_t used;

static void put(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void put(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text + used, sizeof text - used, format, arguments);
    va_end(arguments);
    if (n > 0) used += (size_t)n < sizeof text - used ? (size_t)n : sizeof text - used - 1;
}

/* After the last of a list: its comma away, the bracket on. */
static void put_end(char bracket) {
    if (used && text[used - 1] == ',') used--;
    put("%c,", bracket);
}

static void put_words(const char *key, const char *words) {
    put("\"%s\":[", key);
    while (*words) {
        size_t n = strcspn(words, " ");
        put("\"%.*s\",", (int)n, words);
        words += n + (words[n] == ' ');
    }
    put_end(']');
}

static void put_enums(void) {
    put("\"enums\":{");
#define V(name) put("\"%s\":%d,", #name, (int)name);
#define ENUM(name, values)                                                                                             \
    put("\"%s\":{", #name);                                                                                            \
    values put_end('}');
    ENUMS(ENUM)
#undef V
    put("\"asdsl_op_code\":{");
#define X(CODE, name, operands, ints, floats) put("\"ASDSL_OP_%s\":%d,", #CODE, (int)ASDSL_OP_##CODE);
    ASDSL_OPS(X)
#undef X
    put_end('}');
    put_end('}');
}

static void put_structs(void) {
    put("\"structs\":{");
#define F(field)                                                                                                       \
    put("\"%s\":{\"offset\":%zu,\"bytes\":%zu,\"type\":\"%s\"},", #field,                                              \
        (size_t)((const char *)&s.field - (const char *)&s), sizeof s.field, TYPE_NAME(s.field));
#define STRUCT(name, fields)                                                                                           \
    {                                                                                                                  \
        static struct name s;                                                                                          \
        put("\"%s\":{\"bytes\":%zu,\"fields\":{", #name, sizeof s);                                                    \
        fields put_end('}');                                                                                           \
        put_end('}');                                                                                                  \
    }
    STRUCTS(STRUCT)
#undef F
    put_end('}');
}

static void put_operations(void) {
    put("\"operations\":[");
#define X(CODE, name, operands, ints, floats)                                                                          \
    put("{\"code\":%d,\"name\":\"%s\",", (int)ASDSL_OP_##CODE, #name);                                                 \
    put_words("operands", operands);                                                                                   \
    put_words("ints", ints);                                                                                           \
    put_words("floats", floats);                                                                                       \
    put_end('}');
    ASDSL_OPS(X)
#undef X
    put_end(']');
}

static void describe(void) {
    put("{\"version\":%d,\"no_buffer\":%u,", ASDSL_ABI_VERSION, ASDSL_NO_BUFFER);
    put_enums();
    put_structs();
    put_operations();
    put_end('}');
    text[used - 1] = 0;
}

const char *asdsl_describe(void) {
    static struct mutex one;
    mutex_lock(&one);
    if (!used) describe();
    mutex_unlock(&one);
    return text;
}
