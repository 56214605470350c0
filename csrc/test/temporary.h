/* temporary.h: a file for a test, by a name that is not ASCII. */
#ifndef ASDSL_TEST_TEMPORARY_H
#define ASDSL_TEST_TEMPORARY_H
#include "../platform.h"
#include <stdio.h>
#include <stdlib.h>
#if defined(_WIN32)
#include <windows.h>
#endif

/* "wb" or "rb"; NULL: refused. C's own functions do not take UTF-8 on every system. */
static inline FILE *temporary_open(const char *path, const char *mode) {
#if defined(_WIN32)
    wchar_t wide[600];
    if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, 600)) return NULL;
    return _wfopen(wide, mode[0] == 'w' ? L"wb" : L"rb");
#else
    return fopen(path, mode);
#endif
}

static inline void temporary_remove(const char *path) {
#if defined(_WIN32)
    wchar_t wide[600];
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, 600)) _wremove(wide);
#else
    remove(path);
#endif
}

/* A path in the folder for such files that nobody else uses. */
static inline void temporary_path(char path[600]) {
    const char *folder = getenv("TMPDIR");
    if (!folder) folder = getenv("TEMP");
    if (!folder) folder = "/tmp";
    snprintf(path, 600,
             "%s/asdsl-gr\xc3\xb6\xc3\x9f"
             "e-\xe7\x8c\xab-%.0f-%p",
             folder, clock_ns(), (void *)path);
}

#endif
