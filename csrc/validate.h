/* validate.h: what the checks of operands (validate.c) and of operations (validate_ops.c) share. */
#ifndef ASDSL_VALIDATE_H
#define ASDSL_VALIDATE_H
#include "program.h"

/* Formats the reason; false. */
bool refuse(char *why, size_t why_bytes, const char *format, ...) __attribute__((format(printf, 3, 4)));
#define REFUSE(...) return refuse(why, why_bytes, __VA_ARGS__)

/* Bytes of a sound record's operand, from its first to its last. */
uint64_t operand_extent(const struct asdsl_op *op, int32_t index);

static inline bool is_present(const struct asdsl_operand *o) { return o->buffer != ASDSL_NO_BUFFER; }

#endif
