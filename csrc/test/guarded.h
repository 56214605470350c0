/* guarded.h: memory that ends (or begins) at a page that may not be touched, for tests of kernels. */
#ifndef ASDSL_TEST_GUARDED_H
#define ASDSL_TEST_GUARDED_H
#include <stdint.h>
#include <stdlib.h>
#if defined(_WIN32)
#include <windows.h>
#else
#include <sys/mman.h>
#endif

enum { PAGE = 4096 };

struct guarded {
    uint8_t *map, *data;
    size_t map_bytes, bytes;
};

#if defined(_WIN32)
static inline void *guarded_pages(size_t bytes) {
    return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}
static inline void guarded_forbid(void *page) { VirtualProtect(page, PAGE, PAGE_NOACCESS, &(DWORD){0}); }
static inline void guarded_free(struct guarded *g) { VirtualFree(g->map, 0, MEM_RELEASE); }
#else
static inline void *guarded_pages(size_t bytes) {
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}
static inline void guarded_forbid(void *page) { mprotect(page, PAGE, PROT_NONE); }
static inline void guarded_free(struct guarded *g) { munmap(g->map, g->map_bytes); }
#endif

/* at_start: begins at the page, else ends at it. */
static inline struct guarded guarded_alloc(size_t bytes, int at_start) {
    size_t inner = (bytes + PAGE - 1) / PAGE * PAGE;
    struct guarded g = {.map_bytes = inner + 2 * PAGE, .bytes = bytes};
    g.map = guarded_pages(g.map_bytes);
    if (!g.map) abort();
    guarded_forbid(g.map);
    guarded_forbid(g.map + PAGE + inner);
    g.data = g.map + PAGE + (at_start ? 0 : inner - bytes);
    return g;
}

#endif
