/* matmul_k.c: products of q4_k and q6_k (blocks of 256 with sub-blocks) with ACT_Q8_256 activations.
 *
 * Inside a block everything is an exact integer: sub-block dots times their 6- or 8-bit scales, summed (below 2^31:
 * 8 * 63 * 32 * 15 * 127 = 30.7 M for q4_k, 16 * 128 * 16 * 32 * 127 = 133 M for q6_k); between blocks a row's sum is
 *   q4_k   sum = fma(minima, dmin_w * d_a, fma(total, d_w * d_a, sum))      minima = sum of minimum * -sum(q)
 *   q6_k   sum = fma(total, d_w * d_a, sum)
 * in block order. Compiled once per level.
 */
#include "matmul_k_panel.h"

/* One column takes both halves of a record at once where a vector holds half of the rows: activations are broadcast for
 * both, and memory is read all the time, not in one half's turn. GB/s of 300 MB, 2 threads, alone then together (zig
 * cc, Zen 4): q4_k avx2 30.5 31.7, avxvnni's twin 27.3 29.6; q6_k avx2 31.6 32.3, avxvnni's twin 28.5 29.7. With 2 to 5
 * columns it lost (avx2, q4_k: 182 to 220 GMAC/s against 222). NEON was not measured.
 * (Seen once; bench/gemm.ts --library A --library B compares two builds.) */
#if defined(__AVX2__)
enum { K_HALVES_TO = 1 };
#else
enum { K_HALVES_TO = 0 };
#endif
/* Up to so many columns q6_k holds 12 lines at once, loaded in order (load_lines): 32.6 -> 35.1 GB/s of 34.8 with 2
 * columns; 4 leave too few registers, 32.7 -> 31.2 (VM's slow state, best of with and without fetching ahead). */
#if HAS_LOADS_IN_ORDER
enum { Q6_K_IN_ORDER_TO = 2 };
#else
enum { Q6_K_IN_ORDER_TO = 0 };
#endif

/* Both halves of a record of q6_k one after the other: what is read of a column's activations lies at constant
 * distances from one pointer then, and those of 8 columns stay in registers (SIMD_HOLD). */
#if defined(__AVX512F__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
#define Q6_K_HALVES UNROLL
#else
#define Q6_K_HALVES ROLLED
#endif

/* Sub-blocks whose scales are the bytes j of `scales`: one of 32 inputs, 4 lines, `halves` vectors of LANES rows. */
SIMD_INLINE void q4_k_sub_block(iv (*totals)[TILE_COLS], const iv *scale, const uint8_t *lines, const uint8_t *act,
                                size_t stride, int n, int halves) {
    dot4k dots[HALVES][TILE_COLS];
    const uint8_t *column[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) {
        column[c] = act + (size_t)c * stride;
        SIMD_HOLD(column[c]);
    }
    UNROLL
    for (int s = 0; s < halves; s++) UNROLL for (int c = 0; c < n; c++) dots[s][c] = dot4k_zero();
    UNROLL
    for (int l = 0; l < 4; l++) {
        UNROLL
        for (int s = 0; s < halves; s++) {
            bv x = bv_load(lines + LINE * l + 4 * LANES * s), low = dot4k_low(x), high = dot4k_high(x);
            UNROLL
            for (int c = 0; c < n; c++)
                dots[s][c] = dot4k_add_low(dots[s][c], low, av_load(column[c] + 4 * l));
            UNROLL
            for (int c = 0; c < n; c++)
                dots[s][c] = dot4k_add_high(dots[s][c], high, av_load(column[c] + 16 + 4 * l));
        }
    }
    UNROLL
    for (int s = 0; s < halves; s++)
        UNROLL for (int c = 0; c < n; c++) totals[s][c] = dot4k_scaled(totals[s][c], dots[s][c], scale[s]);
}

/* One record, `halves` vectors of LANES rows from half h on. */
SIMD_INLINE void q4_k_record(float *sums, const uint8_t *record, int h, const uint8_t *act, size_t stride, int n,
                             int halves, const uint8_t *next, int prefetch) {
    const uint8_t *lines = record + 4 * LINE + 4 * LANES * h;
    struct scales_6bit scales[HALVES];
    iv totals[HALVES][TILE_COLS];
    fetch_four(record, next, prefetch);
    UNROLL
    for (int s = 0; s < halves; s++) {
        scales[s] = scales_6bit_load(record + LINE + 4 * LANES * (h + s));
        zero_totals(totals[s], n);
    }
    UNROLL
    for (int four = 0; four < 2; four++) {
        ROLLED
        for (int j = 0; j < 4; j++, lines += 4 * LINE) {
            iv scale[HALVES];
            fetch_four(lines, next += 2 * LINE, prefetch);
            UNROLL
            for (int s = 0; s < halves; s++) scale[s] = iv_pick_pairs(scales[s].scale[four], j, j);
            q4_k_sub_block(totals, scale, lines, act + 128 * four + 32 * j, stride, n, halves);
        }
    }
    UNROLL
    for (int s = 0; s < halves; s++) {
        float *of_half = sums + LANES * s;
        add_scaled(of_half, totals[s], fv_load_f16(record + 2 * LANES * (h + s)), act, stride, n);
        add_minima(of_half, fv_load_f16(record + 32 + 2 * LANES * (h + s)), scales[s].minimum, act, stride, n);
    }
}

/* Lines of a record, in memory or already in registers. */
struct q6_k_lines {
    const uint8_t *memory;
    const bv *held;
};
SIMD_INLINE bv q6_k_vector(struct q6_k_lines lines, int i, int s) {
    return lines.held ? lines.held[i] : bv_load(lines.memory + LINE * i + 4 * LANES * s);
}

/* 4 inputs out of a line of ql and one of qh. quarter: of the 128 inputs, which says where their bits are. */
SIMD_INLINE bv q6_k_inputs(bv ql, bv qh, int quarter) {
    bv x = bv_and(quarter < 2 ? ql : bv_shr(ql, 4), bv_set1(15)), top = qh;
    if (quarter < 2) top = quarter == 0 ? bv_shl(top, 4) : bv_shl(top, 2);
    if (quarter == 3) top = bv_shr(top, 2);
    return bv_or(x, bv_and(top, bv_set1(0x30)));
}

/* What the i-th read sub-block of a half record is: the quarter of the 128 inputs, its number among the half's eight,
 * and where its lines of ql begin in its run of lines, one of the half's two: 4 of qh, then 8 of ql. */
enum { Q6_K_RUN = 12 };
struct q6_k_step {
    int quarter, sub, ql;
};
SIMD_INLINE struct q6_k_step q6_k_step(int i) {
    int pair = i % 4 / 2, quarter = i % 2 * 2 + pair;
    return (struct q6_k_step){quarter, 2 * quarter + i / 4, 4 + 4 * pair};
}
SIMD_INLINE int q6_k_run(int i) { return i / 4 * Q6_K_RUN * LINE; }

/* A sub-block of 16 inputs: 4 lines of ql and of qh. sub: its number in the record. */
SIMD_INLINE void q6_k_sub_block(iv (*totals)[TILE_COLS], struct q6_k_lines run, struct q6_k_step at, const iv *scale,
                                const struct act_q8_256 *const *columns, int sub, int n, int halves) {
    UNROLL
    for (int first = 0; first < 4; first += DOT6_STEPS) {
        dot6 dots[HALVES][TILE_COLS];
        UNROLL
        for (int s = 0; s < halves; s++) UNROLL for (int c = 0; c < n; c++)
            dots[s][c] = dot6_start(columns[c]->minus32 + 2 * sub + first / 2, columns[c]->minus32_pairs[sub]);
        UNROLL
        for (int l = first; l < first + DOT6_STEPS; l++) {
            UNROLL
            for (int s = 0; s < halves; s++) {
                bv w = q6_k_inputs(q6_k_vector(run, at.ql + l, s), q6_k_vector(run, l, s), at.quarter);
                UNROLL
                for (int c = 0; c < n; c++)
                    dots[s][c] = dot6_add(dots[s][c], w, av_load(columns[c]->q + 16 * sub + 4 * l));
            }
        }
        UNROLL
        for (int s = 0; s < halves; s++) UNROLL for (int c = 0; c < n; c++)
            totals[s][c] = dot6_scaled(totals[s][c], dots[s][c], scale[s]);
        /* Else what comes next begins before this is in the totals, and registers run out (clang 22, vectors on the stack:
         * a tile of 2 columns of level avx2 240, of 5 of avxvnni 239, of 8 of avx512 513, seen once). */
        UNROLL
        for (int s = 0; s < halves; s++)
            UNROLL for (int c = 0; c < n; c++) if (LANES == 8 || DOT6_STEPS == 2) SIMD_OPAQUE(totals[s][c]);
        if (DOT6_STEPS == 2) SIMD_FORGET;
    }
}

/* Where a half record's lines are, two of scales and two runs, and the number of its first sub-block. */
struct q6_k_half {
    const uint8_t *scales, *runs;
    int sub;
};
SIMD_INLINE void q6_k_next(struct q6_k_half *half) {
    half->scales += 2 * LINE;
    half->runs += 2 * Q6_K_RUN * LINE;
    half->sub += 8;
}

/* The i-th read sub-block of a half record. */
SIMD_INLINE void q6_k_turn(iv (*totals)[TILE_COLS], int i, struct q6_k_half half, struct q6_k_lines scales,
                           struct q6_k_lines run, const struct act_q8_256 *const *columns, int n, int halves,
                           int prefetch) {
    const struct q6_k_step at = q6_k_step(i);
    iv scale[HALVES];
    if (prefetch) { /* 16 times 3 of the 52 lines; the scales' 4 with the first of each half */
        prefetch_lines(half.runs + PREFETCH_AHEAD + 3 * LINE * i, 3 * LINE);
        if (i == 0) prefetch_lines(half.scales + PREFETCH_AHEAD, 2 * LINE);
    }
    UNROLL
    for (int s = 0; s < halves; s++) scale[s] = dot6_scale(q6_k_vector(scales, at.sub / 4, s), at.sub % 4);
    q6_k_sub_block(totals, run, at, scale, columns, half.sub + at.sub, n, halves);
}

/* Lines wait in registers. */
SIMD_INLINE void q6_k_in_order(iv (*totals)[TILE_COLS], struct q6_k_half half,
                               const struct act_q8_256 *const *columns, int n, int halves, int prefetch) {
    bv scales[4], run[Q6_K_RUN];
    load_lines(scales, half.scales, 4);
    UNROLL
    for (int k = 0; k < 2; k++, q6_k_next(&half)) {
        const struct q6_k_lines held_scales = {NULL, scales + 2 * k}, held = {NULL, run};
        UNROLL
        for (int i = 0; i < 8; i++) {
            if (i % 4 == 0) load_lines(run, half.runs + q6_k_run(i), Q6_K_RUN);
            q6_k_turn(totals, i, half, held_scales, held, columns, n, halves, prefetch);
        }
    }
}

/* Lines are loaded again for each of the two or four sub-blocks they serve, dearer in loads, but no weight waits. */
SIMD_INLINE void q6_k_again(iv (*totals)[TILE_COLS], struct q6_k_half half, const struct act_q8_256 *const *columns,
                            int n, int halves, int prefetch) {
    Q6_K_HALVES
    for (int k = 0; k < 2; k++, q6_k_next(&half)) {
        UNROLL
        for (int i = 0; i < 8; i++) {
            const struct q6_k_lines scales = {half.scales, NULL}, run = {half.runs + q6_k_run(i), NULL};
            SIMD_FORGET; /* else a line loaded for one sub-block may wait for the next */
            q6_k_turn(totals, i, half, scales, run, columns, n, halves, prefetch);
        }
    }
}

/* One record, `halves` vectors of LANES rows from half h on; d: their scales. */
SIMD_INLINE void q6_k_record(float *sums, const uint8_t *record, const uint8_t *d, int h, const uint8_t *act,
                             size_t stride, int n, int halves, int prefetch) {
    const uint8_t *lines = record + 4 * LANES * h;
    const struct q6_k_half first = {lines, lines + 4 * LINE, 0};
    const struct act_q8_256 *columns[TILE_COLS];
    iv totals[HALVES][TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) {
        columns[c] = act_at(act, stride, c);
        SIMD_HOLD(columns[c]);
    }
    UNROLL
    for (int s = 0; s < halves; s++) zero_totals(totals[s], n);
    if (n <= Q6_K_IN_ORDER_TO) {
        q6_k_in_order(totals, first, columns, n, halves, prefetch);
    } else {
        q6_k_again(totals, first, columns, n, halves, prefetch);
    }
    UNROLL
    for (int s = 0; s < halves; s++)
        add_scaled(sums + LANES * s, totals[s], fv_load_f16(d + 2 * LANES * (h + s)), act, stride, n);
}

SIMD_INLINE void q4_k_tile(const struct tile *t, const int n, const int prefetch) {
    const int halves = n <= K_HALVES_TO ? HALVES : 1;
    const uint8_t *record = t->group, *act = t->act;
    zero_sums(t, n);
    const uint8_t *next = t->next;
    ROLLED
    for (int32_t b = t->cols / BLOCK; b > 0; b--, record += Q4_K_RECORD, act += ACT, next += Q4_K_RECORD / 2) {
        touch_line(record);
        q4_k_record(t->sums, record, 0, act, t->act_stride, n, halves, next, prefetch);
        if (halves < HALVES) q4_k_record(t->sums + LANES, record, 1, act, t->act_stride, n, 1, next, FETCH_NONE);
    }
}

/* Its code serves both halves in turns, and fetches ahead for both in the first: a copy for each made 10 KB of a tile of 5
 * columns. GMAC/s of 16384x1536, 2 threads of Zen 3, builds with two copies and with one by turns: 3 columns 56 64, 4
 * columns 72 83, 5 columns 78 94 (seen once; bench/gemm.ts --library A --library B compares two builds). q4_k, whose
 * loops are short, gained nothing. */
SIMD_INLINE void q6_k_tile(const struct tile *t, const int n, const int prefetch) {
    const int halves = n <= K_HALVES_TO ? HALVES : 1;
    const uint8_t *d = t->group, *record = d + header_bytes(t->cols), *act = t->act;
    zero_sums(t, n);
    ROLLED
    for (int32_t b = t->cols / BLOCK; b > 0; b--, record += Q6_K_RECORD, act += ACT, d += 32) {
        ROLLED
        for (int h = 0; h < HALVES; h += halves) {
            q6_k_record(t->sums + LANES * h, record, d, h, act, t->act_stride, n, halves, prefetch && h == 0);
        }
    }
}

/* Later than other types: its tiles have little to unpack. Panels of 11 and 12 columns, two tiles that unpack, were even
 * when measured longer, 16 gained 5 % (PANELS_FROM). */
enum { Q4_K_PANELS_FROM = 13 };

#if HAS_K_PANELS
SIMD_INLINE void q6_k_unpack(const uint8_t *record, const uint8_t *d, int h, struct k_panel *panel) {
    const uint8_t *scales = record + 4 * LANES * h, *lines = scales + 4 * LINE;
    fv_store(panel->d + LANES * h, fv_load_f16(d + 2 * LANES * h));
    ROLLED
    for (int half = 0; half < 2; half++, lines += 24 * LINE, scales += 2 * LINE) {
        UNROLL
        for (int i = 0; i < 8; i++) {
            const struct q6_k_step at = q6_k_step(i);
            const struct q6_k_lines run = {lines + q6_k_run(i), NULL};
            const int sub = 8 * half + at.sub;
            *panel_line(panel->scales[sub], h) = dot6_scale(bv_load(scales + LINE * (at.sub / 4)), at.sub % 4);
            for (int l = 0; l < 4; l++) {
                bv w = q6_k_inputs(q6_k_vector(run, at.ql + l, 0), q6_k_vector(run, l, 0), at.quarter);
                *panel_line(panel->weights[4 * sub + l], h) = w;
            }
        }
    }
}
MATMUL_TILES(q6_k, TILES_NIBBLES)
K_PANELS(q6_k, ASDSL_Q6_K, Q6_K_RECORD, true, PANELS_FROM, DOT6_STEPS, 32, false)
#else
MATMUL_SLOTS(q6_k, ASDSL_Q6_K, TILES_NIBBLES)
#endif

#if HAS_K_PANELS
SIMD_INLINE void q4_k_unpack(const uint8_t *record, const uint8_t *d, int h, struct k_panel *panel) {
    const uint8_t *lines = record + 4 * LINE + 4 * LANES * h;
    k_panel_6bit(panel, record, d, h);
    ROLLED
    for (int j = 0; j < 8; j++)
        for (int l = 0; l < 4; l++) {
            bv x = bv_load(lines + LINE * (4 * j + l)), low = bv_set1(15);
            *panel_line(panel->weights[8 * j + l], h) = bv_and(x, low);
            *panel_line(panel->weights[8 * j + 4 + l], h) = bv_and(bv_shr(x, 4), low);
        }
}
MATMUL_TILES_WITH_HALVES(q4_k, TILES_NIBBLES)
K_PANELS(q4_k, ASDSL_Q4_K, Q4_K_RECORD, false, Q4_K_PANELS_FROM, 2 * DOT6_STEPS, 0, true)
#else
MATMUL_SLOTS(q4_k, ASDSL_Q4_K, TILES_NIBBLES) /* halves were measured where there are panels, nowhere else */
#endif
