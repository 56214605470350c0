/* engine_state.c: a cache's content as bytes: read, written, restored through the ABI.
 *
 * Oracles: the contract in asdsl.h, and the bytes that were written.
 */
#include "../asdsl.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CAPACITY = 700, N_CHUNKS = 3 };

static int says(const char *text) { return strstr(asdsl_last_error(), text) != NULL; }
#define SAYS(condition, text)                                                                                          \
    CHECK((condition) && says(text), "\"%s\" was expected, not \"%s\"", text, asdsl_last_error())

static asdsl_handle make_kv(int32_t capacity) {
    struct asdsl_kv_options options = {
        .n_layers = 2, .n_kv_heads = 3, .head_dim = 40, .capacity = capacity, .k_type = ASDSL_F16, .v_type = ASDSL_F32};
    asdsl_handle kv = asdsl_kv_create(&options);
    CHECK(kv, "%s", asdsl_last_error());
    return kv;
}

static struct asdsl_kv_state state_of(asdsl_handle kv) {
    struct asdsl_kv_state state = {0};
    CHECK(asdsl_kv_state(kv, &state) == ASDSL_OK, "%s", asdsl_last_error());
    return state;
}

/* Bytes in parts of any size, so that parts cross the edges of chunks. */
static void test_round_trip(uint8_t *bytes, uint8_t *back, size_t n) {
    uint64_t random = 7;
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)random_u32(&random);
    for (int32_t length = 513; length <= CAPACITY; length += 62) {
        asdsl_handle kv = make_kv(CAPACITY);
        for (size_t at = 0, part; at < n; at += part) {
            part = random_u32(&random) % (n / 2);
            if (part > n - at) part = n - at;
            CHECK(asdsl_kv_write(kv, (double)at, bytes + at, (int32_t)part) == ASDSL_OK, "%s", asdsl_last_error());
        }
        CHECK(asdsl_kv_length(kv) == 0, "length %d before it is restored", asdsl_kv_length(kv));
        CHECK(asdsl_kv_restore(kv, length) == ASDSL_OK, "%s", asdsl_last_error());
        CHECK(asdsl_kv_length(kv) == length, "length %d, not %d", asdsl_kv_length(kv), length);
        memset(back, 0, n);
        for (size_t at = 0, part; at < n; at += part) {
            part = random_u32(&random) % (n / 2);
            if (part > n - at) part = n - at;
            CHECK(asdsl_kv_read(kv, (double)at, back + at, (int32_t)part) == ASDSL_OK, "%s", asdsl_last_error());
        }
        CHECK(memcmp(bytes, back, n) == 0, "other bytes than were written, length %d", length);
        asdsl_release(kv);
    }
}

static void test_refusals(uint8_t *bytes, double chunk) {
    asdsl_handle kv = make_kv(CAPACITY);
    SAYS(asdsl_kv_read(kv, 0, bytes, 1) == ASDSL_E_ARGUMENT, "1 bytes from byte 0, the state has 0 bytes");
    CHECK(asdsl_kv_read(kv, 0, bytes, 0) == ASDSL_OK, "%s", asdsl_last_error());
    static const double wrong[] = {-1, 0.5, 1e300, -1e300, 0x1p63, NAN, INFINITY};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        SAYS(asdsl_kv_write(kv, wrong[i], bytes, 1) == ASDSL_E_ARGUMENT, "asdsl_kv_write: 1 bytes from byte");
    }
    SAYS(asdsl_kv_write(kv, 0, bytes, -1) == ASDSL_E_ARGUMENT, "-1 bytes");
    SAYS(asdsl_kv_write(kv, N_CHUNKS * chunk, bytes, 1) == ASDSL_E_ARGUMENT, "1 bytes from byte");
    SAYS(asdsl_kv_write(kv, 0, NULL, 1) == ASDSL_E_ARGUMENT, "in is NULL");
    SAYS(asdsl_kv_read(kv, 0, NULL, 1) == ASDSL_E_ARGUMENT, "out is NULL");
    SAYS(asdsl_kv_state(kv, NULL) == ASDSL_E_ARGUMENT, "out is NULL");
    SAYS(asdsl_kv_restore(kv, -1) == ASDSL_E_ARGUMENT, "length -1, 0 to 700 are possible");
    SAYS(asdsl_kv_restore(kv, CAPACITY + 1) == ASDSL_E_ARGUMENT, "length 701, 0 to 700 are possible");
    CHECK(asdsl_kv_bytes(kv) == 0, "%g bytes after nothing but refusals", asdsl_kv_bytes(kv));
    CHECK(asdsl_kv_write(kv, chunk - 1, bytes, 2) == ASDSL_OK, "%s", asdsl_last_error());
    CHECK(asdsl_kv_bytes(kv) == 2 * chunk, "%g bytes, two chunks were written to", asdsl_kv_bytes(kv));
    CHECK(asdsl_kv_restore(kv, 257) == ASDSL_OK, "%s", asdsl_last_error());
    SAYS(asdsl_kv_write(kv, 0, bytes, 1) == ASDSL_E_STATE, "the cache holds 257 tokens, it has to be empty");
    SAYS(asdsl_kv_restore(kv, 5) == ASDSL_E_STATE, "the cache holds 257 tokens, it has to be empty");
    SAYS(asdsl_kv_read(kv, 2 * chunk - 1, bytes, 2) == ASDSL_E_ARGUMENT, "2 bytes from byte");
    CHECK(asdsl_kv_truncate(kv, 0) == ASDSL_OK && asdsl_kv_write(kv, 0, bytes, 1) == ASDSL_OK, "%s",
          asdsl_last_error());
    asdsl_release(kv);
    SAYS(asdsl_kv_read(kv, 0, bytes, 1) == ASDSL_E_HANDLE, "asdsl_kv_read: handle");
    SAYS(asdsl_kv_write(kv, 0, bytes, 1) == ASDSL_E_HANDLE, "asdsl_kv_write: handle");
    SAYS(asdsl_kv_restore(kv, 1) == ASDSL_E_HANDLE, "asdsl_kv_restore: handle");
}

/* What was never written is there and zero. */
static void test_unwritten(uint8_t *back, size_t n) {
    asdsl_handle kv = make_kv(CAPACITY);
    CHECK(asdsl_kv_restore(kv, CAPACITY) == ASDSL_OK, "%s", asdsl_last_error());
    memset(back, 1, n);
    CHECK(asdsl_kv_read(kv, 0, back, (int32_t)n) == ASDSL_OK, "%s", asdsl_last_error());
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++) sum |= back[i];
    CHECK(sum == 0, "memory that was not written to is not zero");
    asdsl_release(kv);
}

int main(void) {
    asdsl_handle kv = make_kv(CAPACITY), small = make_kv(100);
    struct asdsl_kv_state state = state_of(kv);
    CHECK(state.chunk_tokens == 256, "chunks of %d tokens", state.chunk_tokens);
    CHECK(state_of(small).chunk_tokens == 112, "a cache of 100 has chunks of %d tokens", state_of(small).chunk_tokens);
    size_t n = N_CHUNKS * (size_t)state.chunk_bytes;
    uint8_t *bytes = malloc(n), *back = malloc(n);
    CHECK(bytes && back, "no memory for %zu bytes", n);
    test_round_trip(bytes, back, n);
    test_refusals(bytes, (double)state.chunk_bytes);
    test_unwritten(back, n);
    free(bytes), free(back);
    asdsl_release(kv), asdsl_release(small);
    return check_report("engine_state");
}
