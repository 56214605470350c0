/* posix.h: what posix.c and the file of its system know of each other. */
#ifndef ASDSL_PLATFORM_POSIX_H
#define ASDSL_PLATFORM_POSIX_H
#include "../platform.h"

/* Of pages that one entry of a page table maps, where a system has such. */
#define HUGE_PAGE ((size_t)2 << 20)

/* posix.c: notes the text of an errno for platform_error(); always false. */
bool posix_refused(int reason);
/* Likewise with a text. */
bool posix_refused_for(const char *why);

/* posix_files.c: file_fetch where the system has no call for it: a byte of every page. */
bool posix_touch(const struct mapped_file *file, uint64_t offset, uint64_t bytes);

/* linux.c, macos.c: the first thing that a thread of the engine does. */
void thread_begins(void);

#endif
