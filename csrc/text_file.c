/* text_file.c: reading /proc and /sys. A root in front of every path lets tests put a machine of their own there. */
#include "text_file.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool text_read(char *out, size_t out_bytes, const char *root, const char *path, ...) {
    char whole[TEXT_PATH_BYTES];
    va_list arguments;
    size_t root_bytes = strlen(root);
    out[0] = 0;
    if (root_bytes >= sizeof whole) return false;
    memcpy(whole, root, root_bytes);
    va_start(arguments, path);
    int n = vsnprintf(whole + root_bytes, sizeof whole - root_bytes, path, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= sizeof whole - root_bytes) return false;
    return file_read_text(whole, out, out_bytes) > 0;
}

double text_number(const char *root, const char *path) {
    char line[64], *end;
    if (!text_read(line, sizeof line, root, "%s", path)) return -1;
    double x = strtod(line, &end);
    return end == line ? -1 : x;
}

bool text_cpu_list(const char *text, struct affinity *out) {
    *out = (struct affinity){.known = false};
    for (const char *at = text; *at >= '0' && *at <= '9'; at++) {
        char *end;
        long first = strtol(at, &end, 10), last = first;
        if (*end == '-') last = strtol(end + 1, &end, 10);
        for (long i = first; i <= last && i < MAX_CORES; i++) out->bits[i / 64] |= UINT64_C(1) << i % 64;
        out->known = true;
        at = end;
        if (*at != ',') break;
    }
    return out->known;
}
