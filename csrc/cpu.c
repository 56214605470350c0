/* cpu.c: hand-written CPUID and XGETBV, kinds of core, cache sizes.
 *
 * By hand because __builtin_cpu_supports does not link in a shared library built by zig, and because a level counts
 * only when the operating system saves its registers (XCR0). What the system knows better is asked of platform.h.
 */
#include "cpu.h"
#include "platform.h"
#include <stdio.h>
#include <string.h>

/* ---- instruction sets ---- */
#if defined(__x86_64__) || defined(__i386__)
struct cpuid {
    uint32_t a, b, c, d;
};

static struct cpuid cpuid(uint32_t leaf, uint32_t sub) {
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}

static uint64_t xgetbv0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool bits(uint64_t value, uint64_t mask) { return (value & mask) == mask; }

enum {
    LEAF1_C_FMA = 1 << 12,
    LEAF1_C_OSXSAVE = 1 << 27,
    LEAF1_C_AVX = 1 << 28,
    LEAF1_C_F16C = 1 << 29,
    LEAF7_B_AVX2 = 1 << 5,
    LEAF7_C_AVX512_VNNI = 1 << 11,
    LEAF7_D_HYBRID = 1 << 15,
    LEAF7_1_A_AVX_VNNI = 1 << 4,
    XCR0_YMM = 0x6,  /* SSE and AVX state */
    XCR0_ZMM = 0xe6, /* and opmask, upper halves of zmm 0-15, zmm 16-31 */
};
#define LEAF7_B_AVX512 (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F, DQ, BW, VL */

uint32_t cpu_levels(void) {
    uint32_t levels = 1u << ASDSL_LEVEL_PORTABLE | 1u << ASDSL_LEVEL_REFERENCE;
    uint32_t max_leaf = cpuid(0, 0).a;
    if (max_leaf < 7) return levels;
    struct cpuid one = cpuid(1, 0), seven = cpuid(7, 0);
    if (!bits(one.c, LEAF1_C_OSXSAVE | LEAF1_C_AVX | LEAF1_C_FMA | LEAF1_C_F16C)) return levels;
    uint64_t xcr0 = xgetbv0();
    if (!bits(xcr0, XCR0_YMM) || !bits(seven.b, LEAF7_B_AVX2)) return levels;
    levels |= 1u << ASDSL_LEVEL_AVX2;
    if (seven.a >= 1 && bits(cpuid(7, 1).a, LEAF7_1_A_AVX_VNNI)) levels |= 1u << ASDSL_LEVEL_AVXVNNI;
    if (bits(xcr0, XCR0_ZMM) && bits(seven.b, LEAF7_B_AVX512) && bits(seven.c, LEAF7_C_AVX512_VNNI)) {
        levels |= 1u << ASDSL_LEVEL_AVX512;
    }
    return levels;
}

static void read_brand(char brand[64]) {
    uint32_t words[12] = {0};
    if (cpuid(0x80000000u, 0).a >= 0x80000004u) {
        for (uint32_t i = 0; i < 3; i++) {
            struct cpuid r = cpuid(0x80000002u + i, 0);
            memcpy(words + 4 * i, &r, 16);
        }
    }
    char text[49] = {0}, *start = text;
    memcpy(text, words, 48);
    while (*start == ' ') start++;
    snprintf(brand, 64, "%s", *start ? start : "x86-64");
    for (size_t n = strlen(brand); n && brand[n - 1] == ' '; n--) brand[n - 1] = 0;
}

static bool is_hybrid(void) { return cpuid(0, 0).a >= 0x1a && cpuid(7, 0).d & LEAF7_D_HYBRID; }

/* Of the core this thread is running on: leaf 0x1A, type 0x40 Core, 0x20 Atom. */
static bool on_performance_core(void) { return cpuid(0x1a, 0).a >> 24 != 0x20; }

/* Intel's leaf 4 or AMD's 0x8000001D: cache level and type, ways, partitions, line size, sets. */
static void read_caches(int32_t out[3]) {
    uint32_t leaf = 4;
    if (cpuid(0, 0).c == 0x444d4163) leaf = 0x8000001du; /* "cAMD", the end of AuthenticAMD */
    if (leaf == 4 ? cpuid(0, 0).a < 4 : cpuid(0x80000000u, 0).a < leaf) return;
    for (uint32_t i = 0; i < 8; i++) {
        struct cpuid r = cpuid(leaf, i);
        uint32_t type = r.a & 31, level = r.a >> 5 & 7;
        if (type == 0) break;
        if (type == 2 || level < 1 || level > 3) continue; /* instructions */
        double bytes = ((r.b >> 22 & 1023) + 1.0) * ((r.b >> 12 & 1023) + 1.0) * ((r.b & 4095) + 1.0) * (r.c + 1.0);
        out[level - 1] = bytes < INT32_MAX ? (int32_t)bytes : INT32_MAX;
    }
}
#else
uint32_t cpu_levels(void) {
    uint32_t levels = 1u << ASDSL_LEVEL_PORTABLE | 1u << ASDSL_LEVEL_REFERENCE;
#if defined(__aarch64__)
    if (platform_cpu_features() & CPU_DOTPROD) levels |= 1u << ASDSL_LEVEL_NEON;
#endif
    return levels;
}

static void read_brand(char brand[64]) {
#if defined(__aarch64__)
    if (!platform_cpu_name(brand)) snprintf(brand, 64, "aarch64");
#else
    if (!platform_cpu_name(brand)) snprintf(brand, 64, "unknown");
#endif
}

static bool is_hybrid(void) { return false; }
static bool on_performance_core(void) { return true; }
static void read_caches(int32_t out[3]) { platform_caches(out); }
#endif

int32_t cpu_best_level(uint32_t levels) {
    if (levels & 1u << ASDSL_LEVEL_NEON) return ASDSL_LEVEL_NEON;
    if (levels & 1u << ASDSL_LEVEL_AVX512) return ASDSL_LEVEL_AVX512;
    if (levels & 1u << ASDSL_LEVEL_AVXVNNI) return ASDSL_LEVEL_AVXVNNI;
    if (levels & 1u << ASDSL_LEVEL_AVX2) return ASDSL_LEVEL_AVX2;
    return ASDSL_LEVEL_PORTABLE;
}

uint32_t cpu_hidden_levels(uint32_t levels) {
    bool has_avx2 = levels & 1u << ASDSL_LEVEL_AVX2; /* the system saves ymm registers, no other state is needed */
    return has_avx2 ? 1u << ASDSL_LEVEL_AVXVNNI & ~levels : 0;
}

/* ---- cores ---- */
/* Where the system does not say, the cores are asked themselves: the thread goes to each of them for a moment. */
static void ask_cores(struct core *core, int32_t n) {
    struct affinity before;
    if (!is_hybrid() || !affinity_get(&before)) return;
    for (int32_t i = 0; i < n; i++) {
        if (core[i].kind != CORE_UNKNOWN || !thread_pin(core[i].id)) continue;
        core[i].kind = on_performance_core() ? CORE_PERFORMANCE : CORE_EFFICIENCY;
    }
    affinity_set(&before);
}

bool cpu_placement(const struct affinity *mask, struct placement *out) {
    struct core core[MAX_CORES];
    struct affinity affinity;
    bool can_pin = affinity_get(&affinity);
    int32_t n = platform_cores(core);
    ask_cores(core, n);
    placement_choose(core, n, platform_quota_cores(), can_pin, out);
    return !mask || placement_restrict(out, mask, can_pin);
}

void cpu_info(struct asdsl_info *out) {
    struct placement cores;
    memset(out, 0, sizeof *out);
    cpu_placement(NULL, &cores);
    read_brand(out->cpu);
    read_caches(out->cache_bytes);
    out->levels = cpu_levels();
    out->level = cpu_best_level(out->levels);
    out->n_cores = cores.n < cores.n_allowed ? cores.n : cores.n_allowed;
    out->n_physical = cores.n_physical < out->n_cores ? cores.n_physical : out->n_cores;
    out->n_performance = cores.n_performance < out->n_physical ? cores.n_performance : out->n_physical;
    out->hybrid = cores.hybrid;
}
