/* text_file.h: the small files in which Linux tells of itself (/proc, /sys): a line, a number, a list of CPUs. */
#ifndef ASDSL_TEXT_FILE_H
#define ASDSL_TEXT_FILE_H
#include "platform.h"

enum { TEXT_PATH_BYTES = 1024, TEXT_BYTES = 16384 };

/* The beginning of the file `root` + the formatted path, NUL terminated; false: absent, empty or unreadable. */
bool text_read(char *out, size_t out_bytes, const char *root, const char *path, ...)
    __attribute__((format(printf, 4, 5)));

/* The number that a file begins with; negative: there is none. */
double text_number(const char *root, const char *path);

/* "0-3,8,10-11" -> bits; nothing before the list is skipped. False: not a list, or an empty one. */
bool text_cpu_list(const char *text, struct affinity *out);

#endif
