/* error.c: the last error of each thread. A text stays until the same thread's next failing call. */
#include "engine.h"
#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[512];
static _Thread_local int32_t last_status;

int32_t asdsl_fail(int32_t status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    last_status = status;
    return status;
}

const char *asdsl_last_error(void) { return last_error; }

int32_t asdsl_last_status(void) { return last_status; }
