/* validate_ops.c: what each operation needs of its operands together. Each operand by itself has passed validate.c. */
#include "validate.h"

typedef const struct asdsl_program_options program_limits;

bool validate_embed(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *out = &op->operand[0], *table = &op->operand[1];
    if (out->cols != table->cols) REFUSE("out has %u columns, the table %u", out->cols, table->cols);
    if (table->rows < (uint32_t)options->n_vocab) {
        REFUSE("the table has %u rows, the vocabulary %d tokens", table->rows, options->n_vocab);
    }
    if (!(op->f[0] > 0)) REFUSE("scale is %g", (double)op->f[0]);
    return true;
}

bool validate_rms_norm(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *in = &op->operand[0], *weight = &op->operand[1];
    int32_t heads = op->i[0] ? op->i[0] : 1;
    bool any = false;
    (void)options;
    if (heads < 1 || heads > MAX_HEADS || in->cols % (uint32_t)heads) {
        REFUSE("%d heads do not divide %u columns", heads, in->cols);
    }
    if (weight->cols != in->cols / (uint32_t)heads) {
        REFUSE("weight has %u values, a row of %u columns in %d heads needs %u", weight->cols, in->cols, heads,
               in->cols / (uint32_t)heads);
    }
    if (!(op->f[0] >= 0)) REFUSE("eps is %g", (double)op->f[0]);
    for (int32_t i = 2; i < 5; i++) {
        if (!is_present(&op->operand[i])) continue;
        any = true;
        if (op->operand[i].cols != in->cols) REFUSE("in has %u columns, out %u", in->cols, op->operand[i].cols);
    }
    if (!any) REFUSE("has no output");
    return true;
}

bool validate_rms_norm_add(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *out = &op->operand[0], *in = &op->operand[1], *weight = &op->operand[2];
    (void)options;
    if (out->cols != in->cols) REFUSE("in has %u columns, out %u", in->cols, out->cols);
    if (weight->cols != in->cols)
        REFUSE("weight has %u values, a row of %u columns needs %u", weight->cols, in->cols, in->cols);
    if (!(op->f[0] >= 0)) REFUSE("eps is %g", (double)op->f[0]);
    return true;
}

bool validate_quantize(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *in = &op->operand[0];
    bool any = false;
    (void)options;
    if (op->i[0] < 0 || op->i[0] > MAX_EXPERTS) REFUSE("%d slots, 0 to %d are possible", op->i[0], MAX_EXPERTS);
    for (int32_t i = 1; i < 3; i++) {
        if (!is_present(&op->operand[i])) continue;
        any = true;
        if (op->operand[i].cols != in->cols) REFUSE("in has %u columns, out %u", in->cols, op->operand[i].cols);
    }
    if (!any) REFUSE("has no output");
    return true;
}

/* Inputs and activation type of one weight against `in`. ACT_F32 and F32 rows are the same thing to a kernel. */
static bool check_product(const struct asdsl_operand *in, const struct asdsl_operand *w, char *why, size_t why_bytes) {
    const struct type_facts *t = type_facts((int32_t)w->type);
    uint32_t type = in->type == ASDSL_F32 ? ASDSL_ACT_F32 : in->type;
    if (w->cols != in->cols) REFUSE("weights have %u inputs, activations %u", w->cols, in->cols);
    if (type != (uint32_t)t->activation) {
        REFUSE("%s weights take activations of type %d, not %u", t->name, t->activation, in->type);
    }
    return true;
}

static bool check_bias(const struct asdsl_operand *bias, const struct asdsl_operand *w, char *why, size_t why_bytes) {
    if (!is_present(bias)) return true;
    if (!is_present(w)) REFUSE("a bias without its weights");
    if (bias->cols != w->rows) REFUSE("weights have %u outputs, their bias %u", w->rows, bias->cols);
    return true;
}

bool validate_matmul(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *out = &op->operand[0], *in = &op->operand[1];
    uint64_t outputs = 0;
    (void)options;
    for (int32_t i = 2; i < 5; i++) {
        const struct asdsl_operand *w = &op->operand[i];
        if (!check_bias(&op->operand[i + 3], w, why, why_bytes)) return false;
        if (!is_present(w)) continue;
        if (!check_product(in, w, why, why_bytes)) return false;
        outputs += w->rows;
    }
    if (!is_present(&op->operand[3]) && is_present(&op->operand[4])) REFUSE("w2 without w1");
    if (out->cols != outputs) {
        REFUSE("weights have %llu outputs, out %u columns", (unsigned long long)outputs, out->cols);
    }
    if (!(op->f[0] >= 0)) REFUSE("softcap is %g", (double)op->f[0]); /* matmul_add has none: 0 */
    return true;
}

bool validate_matmul_add(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    return validate_matmul(op, options, why, why_bytes);
}

static bool check_gate_up(const struct asdsl_op *op, int32_t gate_index, char *why, size_t why_bytes) {
    const struct asdsl_operand *out = &op->operand[0], *in = &op->operand[1];
    const struct asdsl_operand *gate = &op->operand[gate_index], *up = &op->operand[gate_index + 1];
    if (!check_product(in, gate, why, why_bytes) || !check_product(in, up, why, why_bytes)) return false;
    if (gate->type != up->type) REFUSE("gate is of type %u, up of type %u", gate->type, up->type);
    if (gate->rows != up->rows) REFUSE("gate has %u outputs, up %u", gate->rows, up->rows);
    if (out->cols != gate->rows) REFUSE("weights have %u outputs, out %u columns", gate->rows, out->cols);
    return true;
}

bool validate_gate_up(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    (void)options;
    if (op->i[0] < 0 || op->i[0] > 1) REFUSE("activation %d is not known, 0 and 1 are", op->i[0]);
    return check_gate_up(op, 2, why, why_bytes);
}

/* ---- mixtures of experts ---- */
static bool check_experts(int64_t n_experts, int64_t n_used, char *why, size_t why_bytes) {
    if (n_experts < 1 || n_experts > MAX_EXPERTS) {
        REFUSE("%lld experts, 1 to %d are possible", (long long)n_experts, MAX_EXPERTS);
    }
    if (n_used > n_experts) REFUSE("%lld of %lld experts for a row", (long long)n_used, (long long)n_experts);
    return true;
}

/* Units of work, a row group for a slot, are counted in 32 bits. */
static bool check_units(const struct asdsl_op *op, const struct asdsl_operand *w, program_limits *options, char *why,
                        size_t why_bytes) {
    int64_t groups = ((int64_t)w->rows + KERNEL_ROWS - 1) / KERNEL_ROWS;
    int64_t slots = (int64_t)options->max_tokens * op->operand[2].cols;
    if (groups * slots > INT32_MAX) {
        REFUSE("%lld slots of a pass through %u outputs, %d groups of %d for one slot are possible", (long long)slots,
               w->rows, INT32_MAX, KERNEL_ROWS);
    }
    return true;
}

bool validate_moe_route(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *in = &op->operand[0], *experts = &op->operand[1], *weights = &op->operand[2];
    (void)options;
    if (experts->cols != weights->cols) REFUSE("%u ids, %u weights", experts->cols, weights->cols);
    if (op->i[0] < 0 || op->i[0] > 1) REFUSE("normalise is %d, 0 and 1 are known", op->i[0]);
    if (!(op->f[0] > 0)) REFUSE("scale is %g", (double)op->f[0]);
    return check_experts(in->cols, experts->cols, why, why_bytes);
}

bool validate_moe_gate_up(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    return check_experts(op->i[0], op->operand[2].cols, why, why_bytes) && check_gate_up(op, 3, why, why_bytes) &&
           check_units(op, &op->operand[3], options, why, why_bytes);
}

bool validate_moe_down(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *out = &op->operand[0], *down = &op->operand[3];
    if (!check_experts(op->i[0], op->operand[2].cols, why, why_bytes)) return false;
    if (!check_product(&op->operand[1], down, why, why_bytes)) return false;
    if (out->cols != down->rows) REFUSE("weights have %u outputs, out %u columns", down->rows, out->cols);
    return check_units(op, down, options, why, why_bytes);
}

bool validate_moe_combine(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *x = &op->operand[0], *in = &op->operand[1];
    const struct asdsl_operand *experts = &op->operand[2], *weights = &op->operand[3];
    (void)options;
    if (x->cols != in->cols) REFUSE("in has %u columns, x %u", in->cols, x->cols);
    if (experts->cols != weights->cols) REFUSE("%u ids, %u weights", experts->cols, weights->cols);
    return check_experts(op->i[0], experts->cols, why, why_bytes);
}

bool validate_rope_table(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *out = &op->operand[0], *inv_freq = &op->operand[1];
    (void)options;
    if (out->cols != 2 * inv_freq->cols) {
        REFUSE("out has %u columns, %u frequencies need %u", out->cols, inv_freq->cols, 2 * inv_freq->cols);
    }
    if (out->cols > MAX_HEAD_DIM) REFUSE("%u columns, %d are possible", out->cols, MAX_HEAD_DIM);
    return true;
}

bool validate_rope(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    const struct asdsl_operand *x = &op->operand[0], *table = &op->operand[1];
    int64_t offset = op->i[0], heads = op->i[1], head_dim = op->i[2], n_rot = op->i[3];
    (void)options;
    if (head_dim < 2 || head_dim > MAX_HEAD_DIM || head_dim % 2) {
        REFUSE("head_dim is %lld, even and at most %d is possible", (long long)head_dim, MAX_HEAD_DIM);
    }
    if (heads < 1 || heads > MAX_HEADS || offset < 0 || offset + heads * head_dim > x->cols) {
        REFUSE("%lld heads of %lld from column %lld do not fit rows of %u", (long long)heads, (long long)head_dim,
               (long long)offset, x->cols);
    }
    if (n_rot < 2 || n_rot > head_dim || n_rot % 2) {
        REFUSE("n_rot is %lld, even and at most head_dim = %lld is possible", (long long)n_rot, (long long)head_dim);
    }
    if (table->cols != (uint64_t)n_rot)
        REFUSE("the table has %u columns, n_rot is %lld", table->cols, (long long)n_rot);
    if (op->i[4] < 0 || op->i[4] > 1) REFUSE("mode %d is not known, 0 and 1 are", op->i[4]);
    return true;
}

static bool check_heads(int32_t n, int32_t head_dim, const char *what, uint32_t cols, char *why, size_t why_bytes) {
    if (head_dim < 1 || head_dim > MAX_HEAD_DIM) REFUSE("head_dim is %d, 1 to %d are possible", head_dim, MAX_HEAD_DIM);
    if (n < 1 || n > MAX_HEADS) REFUSE("%d heads, 1 to %d are possible", n, MAX_HEADS);
    if ((int64_t)n * head_dim != cols)
        REFUSE("%s has %u columns, %d heads of %d need %lld", what, cols, n, head_dim, (long long)n * head_dim);
    return true;
}

bool validate_kv_append(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    (void)options;
    return check_heads(op->i[0], op->i[1], "k", op->operand[0].cols, why, why_bytes) &&
           check_heads(op->i[0], op->i[1], "v", op->operand[1].cols, why, why_bytes);
}

bool validate_attention(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    (void)options;
    if (!check_heads(op->i[0], op->i[2], "q", op->operand[0].cols, why, why_bytes) ||
        !check_heads(op->i[0], op->i[2], "out", op->operand[1].cols, why, why_bytes)) {
        return false;
    }
    if (op->i[1] < 1 || op->i[0] % op->i[1]) REFUSE("%d query heads over %d key heads", op->i[0], op->i[1]);
    if (op->i[3] < 0) REFUSE("window is %d", op->i[3]);
    if (!(op->f[1] >= 0)) REFUSE("softcap is %g", (double)op->f[1]);
    return true;
}

bool validate_gather_outputs(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    (void)options;
    if (op->operand[0].cols != op->operand[1].cols) {
        REFUSE("in has %u columns, out %u", op->operand[1].cols, op->operand[0].cols);
    }
    return true;
}

/* Fewer columns than tokens: a draft model has logits for some of them. */
bool validate_top_k(const struct asdsl_op *op, program_limits *options, char *why, size_t why_bytes) {
    if (op->operand[0].cols > (uint32_t)options->n_vocab) {
        REFUSE("logits have %u columns, the vocabulary %d tokens", op->operand[0].cols, options->n_vocab);
    }
    return true;
}
