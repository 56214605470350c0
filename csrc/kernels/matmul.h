/* matmul.h: what the matmul kernels of every weight type share: tiles, the loop over them, the epilogues.
 *
 * A tile is one row group times 1 .. TILE_COLS columns, over the whole width: sums stay in registers, weights are
 * unpacked in registers once per tile. The columns of a job are cut into tiles of nearly equal width; the group's
 * records stay in the first or second cache from the first tile to the last, so memory gives each byte once.
 * A row's sum is one chain in block order, whatever tile it falls in: results do not depend on the cut.
 *
 * A kernel writes `NAME_tile(t, n, prefetch)` for constant n and prefetch; MATMUL_SLOTS(NAME, type) makes the tiles of
 * each width in TILES and both slots of it.
 */
#ifndef ASDSL_MATMUL_H
#define ASDSL_MATMUL_H
#include "layout.h"
#include "simd.h"
#if !defined(HAS_LOADS_IN_ORDER)
#define HAS_LOADS_IN_ORDER 0
#define bv_load_in_order bv_load /* where 16 registers hold no run of lines, or nothing was measured */
#endif

/* Widest tile of each family: the largest that measured faster than the next smaller (Zen 4, clang 22, November 2026).
 * More spill; on AVX2 the sign trick of 8-bit weights and the two halves of float weights fill 16 registers at 4.
 * NEON's have the fewest instructions a column, spills included: no such machine was at hand to measure. */
#if defined(__AVX512F__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
enum { TILE_COLS = 8, TILE_HALVES_TO = 8 }; /* 32 registers; one half is the whole group */
#define TILES_NIBBLES TILES_8
#define TILES_BYTES TILES_8
#define TILES_FLOATS TILES_8
#define TILES_BITS TILES_8
#elif defined(__AVXVNNI__) || defined(ASDSL_EVEX_AS_AVXVNNI)
enum { TILE_COLS = 6, TILE_HALVES_TO = 3 }; /* 16 registers: float sums of both halves up to three columns */
#define TILES_NIBBLES TILES_6
#define TILES_BYTES TILES_6
#define TILES_FLOATS TILES_4
#define TILES_BITS TILES_4
#define TILES_PANEL_K TILES_3
#elif defined(__AVX2__)
enum { TILE_COLS = 6, TILE_HALVES_TO = 3 };
#define TILES_NIBBLES TILES_6
#define TILES_BYTES TILES_4
#define TILES_FLOATS TILES_4
#define TILES_BITS TILES_4
/* matmul_panel.h: tiles of both halves. GMAC/s of 512 columns, 2 threads of Zen 4, builds without panels and with
 * those of a half by turns: q4_k 225 246, q6_k 154 203; then 2 threads of Zen 3, of a half and of both: q4_k 101 120
 * and 110 123, q6_k 89 98 and 81 106 (2048x2048, 1536x8960). Levels with integer dots won 3 % and less by those of a
 * half; those of both pay at level avxvnni for blocks of 256 (matmul_panel.h), others have none. (Seen once;
 * bench/gemm.ts --library A --library B compares two builds.) Of blocks of 32, which keep no totals: matmul_32_panel.h.
 */
#define TILES_PANEL_K TILES_3
#define TILES_PANEL_32 TILES_5
#elif defined(SIMD_NEON)
enum { TILE_COLS = 5, TILE_HALVES_TO = 2 }; /* 32 registers of 4 rows: sums and dots of 8 rows take 4 a column */
/* Spilled more with it: 34 vector registers against 2 in q4_0's tile of one column. */
#define FORGET_BETWEEN_HALVES ((void)0)
#define TILES_NIBBLES TILES_5
#define TILES_BYTES TILES_5
#define TILES_FLOATS TILES_5
#define TILES_BITS TILES_5
#else
enum { TILE_COLS = 2, TILE_HALVES_TO = 2 };
#define TILES_NIBBLES TILES_2
#define TILES_BYTES TILES_2
#define TILES_FLOATS TILES_2
#define TILES_BITS TILES_2
#endif
/* zig build -Dtile-columns=N, N of the TILES_ below: that width for every family, as bench/gemm.ts compares them. */
#if defined(ASDSL_TILE_COLUMNS)
#undef TILES_NIBBLES
#undef TILES_BYTES
#undef TILES_FLOATS
#undef TILES_BITS
#undef TILES_PANEL_K
#undef TILES_PANEL_32
#define TILES_PANEL_K TILES_NIBBLES
#define TILES_PANEL_32 TILES_NIBBLES
#define TILE_COLS ASDSL_TILE_COLUMNS
#define TILES_NIBBLES KERNEL_PASTE(TILES, ASDSL_TILE_COLUMNS)
#define TILES_BYTES TILES_NIBBLES
#define TILES_FLOATS TILES_NIBBLES
#define TILES_BITS TILES_NIBBLES
#endif
#if !defined(FORGET_BETWEEN_HALVES)
#define FORGET_BETWEEN_HALVES SIMD_FORGET
#endif
enum {
    HALVES = KERNEL_ROWS / LANES,
    /* How far ahead of the reader tiles that read memory fetch into L2, a few lines at each step (bursts of 36 and more
     * lines lost half the speed). Zen 4 VM, 2 threads, 300 MB of weights, November 2026, avx512, a plain read loop 57
     * GB/s; GB/s without it and at 6 KB with 1, 4 and 8 columns:
     *     q4_k  53 52   27 41   15 22
     *     q6_k  54 41   14 35   14 27
     * With 1 column the hardware's own prefetching may be better, so that is learned (tune.h); a wide tile takes its
     * time, and what the hardware fetches runs only a little ahead. GMAC/s at 1, 2, 4, 6 and 8 KB, 8 columns on avx512
     * and 4 on avx2:
     *     q4_1  181 255 297 281 278    91 106 143 160 161
     *     q4_k  203 292 334 331 330     - 131 198 203 200
     * (bench/gemm.ts --library A --library B compares two builds.) An Emerald Rapids VM liked 4.6 to 9 KB; its NTA lost
     * 40 %. */
    PREFETCH_AHEAD = 6144,
    /* Of two weights, sums of so many tile columns are held: what is read in one go of each is then long enough for the
     * hardware to fetch ahead. GB/s of q4_k's gate and up as above, one group at a time, 8, and a whole share: without
     * fetching 27 36 39 where one stream gives 41, with it 36 36 37 (seen once). */
    HELD = 64,
};

struct tile {
    const uint8_t *group; /* records of the 16 rows */
    const uint8_t *act;   /* first column's activations */
    size_t act_stride;    /* bytes */
    int32_t cols;         /* inputs */
    float *sums;          /* (columns, KERNEL_ROWS), result */
    const uint8_t *next;  /* what it fetches, if not what lies PREFETCH_AHEAD behind: a part of what is read next */
    size_t ahead;         /* bytes from the group to that */
    size_t next_step;     /* of a panel's tile: bytes between two fetches */
};
typedef void tile_fn(const struct tile *t);

/* What a tile that unpacks fetches: nothing, what lies PREFETCH_AHEAD behind, or half as much at t->next: two tiles of
 * the same records fetch half of the next group's each, else memory rests while the second multiplies. How much faster
 * q4_k's tiles of 7, 8, 10 and 12 columns are with halves, 65536x1536, 2 threads of Zen 3: 1.05 1.07 1.04 1.08; every
 * other pair of lines instead of one half and the other: 0.95 0.97 1.02 1.03 (by turns, seen once). */
enum { FETCH_NONE, FETCH_ALL, FETCH_HALF };
/* A family's tiles, of [n] columns, up to widest. half: NULL, or of those that come in twos. */
struct tile_set {
    tile_fn *const *none, *const *all, *const *half;
    int32_t widest;
};

/* The lines of [at, at + bytes). */
SIMD_INLINE void prefetch_lines(const uint8_t *at, int32_t bytes) {
    for (int32_t i = 0; i < bytes; i += LINE) SIMD_PREFETCH(at + i);
}

/* While 4 lines at `at` are read. */
SIMD_INLINE void fetch_four(const uint8_t *at, const uint8_t *next, int prefetch) {
    if (prefetch == FETCH_ALL) prefetch_lines(at + PREFETCH_AHEAD, 4 * LINE);
    if (prefetch == FETCH_HALF) prefetch_lines(next, 2 * LINE);
}

/* Weights are read in the order of memory: the hardware fetches far enough ahead only then. GB/s of 300 MB, 2 threads,
 * one column, Zen 4 VM in its slow state (a plain read loop 33 to 35) and its fast one (53 to 57), without and with
 * fetching ahead. The host moves the VM's cores: in the slow state a line takes 26 ns from one to the other, they share
 * a chiplet and its link to memory; in the fast one 155 ns, each has a link (seen once).
 *
 *                                                 slow state    fast state
 *     avx512  q6_k  52 lines as the compiler liked    25 33         26 41
 *                   in order                          35 35         54 41
 *     avx2    q4_k  first line last                   32 33         41 46
 *                   first                             32 34         49 50
 *     avx2    q4_0  first line last                   30 32         48 46
 *                   first                             33 36         49 47
 * (Seen once; bench/gemm.ts --library A --library B compares two builds.)
 * Loads n lines from `at` on in order, which nothing else keeps the compiler from changing. */
SIMD_INLINE void load_lines(bv *lines, const uint8_t *at, int n) {
    UNROLL
    for (int i = 0; i < n; i++) lines[i] = bv_load_in_order(at + LINE * i);
}

/* The first line of a record holds scales, which are used last: read first nevertheless, into no register. */
SIMD_INLINE void touch_line(const uint8_t *line) { (void)*(const volatile uint8_t *)line; }

/* y: the product of a group's rows, live of them, with one column. */
static inline f32x16 matmul_epilogue(const struct matmul_job *job, f32x16 y, const float *sums2, const float *out,
                                     int32_t live) {
    f32x16 cap = f32x16_set1(job->softcap);
    switch (job->epilogue) {
    case EPILOGUE_STORE: break;
    case EPILOGUE_ADD: return f32x16_add(f32x16_load_n(out, live), y);
    case EPILOGUE_SILU_MUL: return f32x16_mul(f32x16_silu(y), f32x16_load(sums2));
    case EPILOGUE_GELU_MUL: return f32x16_mul(f32x16_gelu(y), f32x16_load(sums2));
    case EPILOGUE_SOFTCAP: return f32x16_mul(cap, f32x16_tanh(f32x16_div(y, cap)));
    }
    return y;
}

/* sums of one or two weights -> out, columns [t0, t0 + n), rows of group g. Rows past the matrix are not written. */
static inline void matmul_finish(const struct matmul_job *job, int32_t g, int32_t t0, int32_t n, const float *sums,
                                 const float *sums2) {
    int32_t row = g * KERNEL_ROWS, live = job->rows - row < KERNEL_ROWS ? job->rows - row : KERNEL_ROWS;
    f32x16 bias = job->bias ? f32x16_load_n(job->bias + row, live) : f32x16_zero();
    for (int32_t c = 0; c < n; c++) {
        float *out = job->out + (size_t)(t0 + c) * job->out_stride + row;
        f32x16 y = f32x16_load(sums + c * KERNEL_ROWS);
        if (job->bias) y = f32x16_add(y, bias);
        y = matmul_epilogue(job, y, sums2 + c * KERNEL_ROWS, out, live);
        if (live == KERNEL_ROWS) {
            f32x16_storeu(out, y);
        } else {
            f32x16_store_n(out, y, live);
        }
    }
}

/* sums of groups [0, n) from `group` on, n_columns of each. */
static inline void matmul_tiles(struct tile *t, tile_fn *tile, const uint8_t *group, size_t stride, int32_t n,
                                int32_t n_columns, float *sums) {
    for (int32_t i = 0; i < n; i++) {
        t->group = group + (size_t)i * stride;
        t->next = t->group + t->ahead;
        t->sums = sums + i * n_columns * KERNEL_ROWS;
        tile(t);
    }
}

/* Row groups [first, last) and all columns of a job. w, w2: the first group of each weight, groups `stride` bytes
 * apart. The first tile to come to a record fetches ahead, or, of two, each its half. Of two weights, as many groups as
 * `sums` has room for are read in turns. */
static inline void matmul_columns(const struct matmul_job *job, int32_t first, int32_t last, const uint8_t *w,
                                  const uint8_t *w2, size_t stride, const struct tile_set *tiles) {
    _Alignas(64) float sums[HELD * KERNEL_ROWS], sums2[HELD * KERNEL_ROWS];
    int32_t n_tiles = (job->n + tiles->widest - 1) / tiles->widest;
    bool halves = n_tiles == 2 && tiles->half;
    struct tile t = {.act_stride = job->act_stride, .cols = job->cols};
    for (int32_t i = 0, t0 = 0, n; i < n_tiles; i++, t0 += n) {
        bool fetches = job->fetch_ahead && (halves || i == 0);
        tile_fn *const *set = !fetches ? tiles->none : halves ? tiles->half : tiles->all;
        n = (job->n - t0 + (n_tiles - i) - 1) / (n_tiles - i);
        t.act = (const uint8_t *)job->act + (size_t)t0 * job->act_stride;
        t.ahead = (size_t)(last - first) * stride + stride / 2 * (size_t)i;
        for (int32_t g = first, at_once; g < last; g += at_once) {
            size_t offset = (size_t)(g - first) * stride;
            at_once = w2 ? HELD / n : 1;
            if (at_once > last - g) at_once = last - g;
            matmul_tiles(&t, set[n], w + offset, stride, at_once, n, sums);
            if (w2) matmul_tiles(&t, set[n], w2 + offset, stride, at_once, n, sums2);
            for (int32_t k = 0; k < at_once; k++) {
                int32_t at = k * n * KERNEL_ROWS;
                matmul_finish(job, g + k, t0, n, sums + at, sums2 + at);
            }
        }
    }
}

/* Row groups are taken in blocks of up to `block`: a tile of columns stays in the first cache while the block's records
 * come out of the second, so the activations, which may not fit there, are read once for each block and not once for
 * each group. */
static inline void matmul_run(const struct matmul_job *job, int32_t begin, int32_t end, int32_t type,
                              const struct tile_set *tiles, int32_t block) {
    size_t stride = (size_t)group_bytes(type, job->cols);
    const uint8_t *w = job->w, *w2 = job->w2;
    for (int32_t first = begin, last; first < end; first = last) {
        last = end - first < block ? end : first + block;
        size_t offset = (size_t)first * stride;
        matmul_columns(job, first, last, w + offset, w2 ? w2 + offset : NULL, stride, tiles);
    }
}

/* Groups of a block for few columns: where they need one tile alone, each record is read once anyway. */
static inline int32_t matmul_few(const struct matmul_job *job, const struct tile_set *tiles) {
    return job->n <= tiles->widest ? INT32_MAX : 1;
}

/* Groups whose records (both weights') take up to 128 KB, a part of any second cache; 8 at most. */
static inline int32_t matmul_block(const struct matmul_job *job, int32_t type) {
    uint64_t bytes = group_bytes(type, job->cols) * (job->w2 ? 2 : 1);
    uint64_t groups = (128 << 10) / (bytes ? bytes : 1);
    return groups < 1 ? 1 : groups > 8 ? 8 : (int32_t)groups;
}

#define MATMUL_TILE(NAME, N, PREFETCH)                                                                                 \
    static void NAME##_tile_##N##_##PREFETCH(const struct tile *t) { NAME##_tile(t, N, PREFETCH); }
#define TILES_2(X, NAME, P) X(NAME, 1, P) X(NAME, 2, P)
#define TILES_3(X, NAME, P) TILES_2(X, NAME, P) X(NAME, 3, P)
#define TILES_4(X, NAME, P) TILES_3(X, NAME, P) X(NAME, 4, P)
#define TILES_5(X, NAME, P) TILES_4(X, NAME, P) X(NAME, 5, P)
#define TILES_6(X, NAME, P) TILES_5(X, NAME, P) X(NAME, 6, P)
#define TILES_8(X, NAME, P) TILES_6(X, NAME, P) X(NAME, 7, P) X(NAME, 8, P)
#define TILES_10(X, NAME, P) TILES_8(X, NAME, P) X(NAME, 9, P) X(NAME, 10, P)
#define TILES_12(X, NAME, P) TILES_10(X, NAME, P) X(NAME, 11, P) X(NAME, 12, P)
#define MATMUL_TILE_NAME(NAME, N, P) NAME##_tile_##N##_##P,
#define TILES_IN(tiles) ((int32_t)(sizeof(tiles) / sizeof *(tiles)) - 1)
#define MATMUL_TILES_OF(NAME, TILES, P)                                                                                \
    TILES(MATMUL_TILE, NAME, P) static tile_fn *const NAME##_tiles_##P[] = {NULL, TILES(MATMUL_TILE_NAME, NAME, P)};
#define MATMUL_TILES(NAME, TILES)                                                                                      \
    MATMUL_TILES_OF(NAME, TILES, 0)                                                                                    \
    MATMUL_TILES_OF(NAME, TILES, 1)                                                                                    \
    static const struct tile_set NAME##_tiles = {NAME##_tiles_0, NAME##_tiles_1, NULL, TILES_IN(NAME##_tiles_0)};
#define MATMUL_TILES_WITH_HALVES(NAME, TILES)                                                                          \
    MATMUL_TILES_OF(NAME, TILES, 0)                                                                                    \
    MATMUL_TILES_OF(NAME, TILES, 1)                                                                                    \
    MATMUL_TILES_OF(NAME, TILES, 2)                                                                                    \
    static const struct tile_set NAME##_tiles = {NAME##_tiles_0, NAME##_tiles_1, NAME##_tiles_2,                       \
                                                 TILES_IN(NAME##_tiles_0)};
#define MATMUL_GEMV(NAME, TYPE)                                                                                        \
    matmul_fn KERNEL(NAME##_gemv);                                                                                     \
    void KERNEL(NAME##_gemv)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        (void)scratch;                                                                                                 \
        matmul_run(job, begin, end, TYPE, &NAME##_tiles, matmul_few(job, &NAME##_tiles));                              \
    }
#define MATMUL_GEMM(NAME, TYPE)                                                                                        \
    matmul_fn KERNEL(NAME##_gemm);                                                                                     \
    void KERNEL(NAME##_gemm)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        (void)scratch;                                                                                                 \
        matmul_run(job, begin, end, TYPE, &NAME##_tiles, matmul_block(job, TYPE));                                     \
    }
#define MATMUL_SLOTS(NAME, TYPE, TILES)                                                                                \
    MATMUL_TILES(NAME, TILES)                                                                                          \
    MATMUL_GEMV(NAME, TYPE)                                                                                            \
    MATMUL_GEMM(NAME, TYPE)

#endif
