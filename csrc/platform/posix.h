/* posix.h: what posix.c and the file of its system know of each other. */
#ifndef ASDSL_PLATFORM_POSIX_H
#define ASDSL_PLATFORM_POSIX_H
#include <stdbool.h>

/* posix.c: notes the text of an errno for platform_error(); always false. */
bool posix_refused(int reason);
/* Likewise with a text. */
bool posix_refused_for(const char *why);

/* linux.c, macos.c: the first thing that a thread of the engine does. */
void thread_begins(void);

#endif
