/* guarded.h: memory that ends (or begins) at a page that may not be touched, for tests of kernels. */
#ifndef ASDSL_TEST_GUARDED_H
#define ASDSL_TEST_GUARDED_H
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

struct guarded {
    uint8_t *map, *data;
    size_t map_bytes, bytes;
};

/* at_start: begins at the page, else ends at it. */
static inline struct guarded guarded_alloc(size_t bytes, int at_start) {
    size_t inner = (bytes + PAGE - 1) / PAGE * PAGE;
    struct guarded g = {.map_bytes = inner + 2 * PAGE, .bytes = bytes};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.map == MAP_FAILED) abort();
    mprotect(g.map, PAGE, PROT_NONE);
    mprotect(g.map + PAGE + inner, PAGE, PROT_NONE);
    g.data = g.map + PAGE + (at_start ? 0 : inner - bytes);
    return g;
}

static inline void guarded_free(struct guarded *g) { munmap(g->map, g->map_bytes); }

#endif
