/* asdsl.h: the contract between TypeScript and the engine.
 *
 * Owns every exported function, struct and enum, and who owns which memory. It knows nothing of files'
 * formats, architectures, tokenizers or sampling: those live in src/.
 *
 * Handles. Everything that outlives a call is a 32-bit handle (slot and generation), never an address: a
 * stale or invented handle is an error (ASDSL_E_HANDLE), not a crash. Objects are reference counted; a
 * program keeps its engine and buffers alive, so handles may be released in any order.
 *
 * Errors. Functions that return a handle return 0 on failure, functions that return int32_t a negative
 * asdsl_status, functions that return double a negative number. asdsl_last_error() has the text with the
 * numbers in it, per calling thread, until that thread's next failing call.
 *
 * Threads. Any thread may call any function. Two asdsl_run on the same engine are serialised by a mutex.
 * asdsl_cancel is wait-free and meant to be called from another thread than the one that runs.
 *
 * Sizes that may pass 2^31 cross the boundary as double (exact to 2^53) or as uint64_t inside a struct.
 */
#ifndef ASDSL_H
#define ASDSL_H
#include <stdint.h>

#if defined(_WIN32)
#define ASDSL_API __declspec(dllexport)
#else
#define ASDSL_API __attribute__((visibility("default")))
#endif

#define ASDSL_ABI_VERSION 1

typedef uint32_t asdsl_handle;

enum asdsl_status {
    ASDSL_OK = 0,
    ASDSL_E_ARGUMENT = -1,    /* a value out of range, a shape that does not fit */
    ASDSL_E_HANDLE = -2,      /* stale handle, or a handle of another kind */
    ASDSL_E_MEMORY = -3,      /* the allocation was refused; the text has the bytes */
    ASDSL_E_IO = -4,          /* the operating system refused a file */
    ASDSL_E_UNSUPPORTED = -5, /* a type, operation or level that this build or CPU does not have */
    ASDSL_E_CANCELLED = -6,   /* asdsl_cancel was called; the KV length did not change */
    ASDSL_E_STATE = -7,       /* position and KV length disagree, the context is full */
};

/* Instruction-set levels, ascending. REFERENCE is the oracle of tests: naive, formula order, slow. */
enum asdsl_level {
    ASDSL_LEVEL_PORTABLE = 0,
    ASDSL_LEVEL_AVX2 = 1,    /* AVX2 + FMA + F16C */
    ASDSL_LEVEL_AVXVNNI = 2, /* AVX2 + AVX-VNNI */
    ASDSL_LEVEL_AVX512 = 3,  /* AVX-512 F BW DQ VL VNNI */
    ASDSL_LEVEL_NEON = 4,    /* aarch64: NEON + the dot product of ARMv8.2-A */
    ASDSL_LEVEL_REFERENCE = 15,
    ASDSL_LEVEL_AUTO = -1,
};

/* Element types. Numbers below 100 are GGUF's own (ggml_type); above are the engine's. */
enum asdsl_type {
    ASDSL_F32 = 0,
    ASDSL_F16 = 1,
    ASDSL_Q4_0 = 2,
    ASDSL_Q4_1 = 3,
    ASDSL_Q5_0 = 6,
    ASDSL_Q5_1 = 7,
    ASDSL_Q8_0 = 8,
    ASDSL_Q2_K = 10,
    ASDSL_Q3_K = 11,
    ASDSL_Q4_K = 12,
    ASDSL_Q5_K = 13,
    ASDSL_Q6_K = 14,
    ASDSL_IQ4_NL = 20,
    ASDSL_IQ4_XS = 23,
    ASDSL_I32 = 26, /* ids of experts */
    ASDSL_BF16 = 30,
    /* Activations: what a matmul reads. The format is a function of the weight type alone. */
    ASDSL_ACT_F32 = 100,    /* float weights: float rows */
    ASDSL_ACT_Q8_32 = 101,  /* 32-weight blocks: int8 and one scale per 32 inputs */
    ASDSL_ACT_Q8_256 = 102, /* K-quants: int8 and one scale per 256 inputs */
};

/* How the rows of a matrix lie in memory. */
enum asdsl_layout {
    ASDSL_ROWS = 0,        /* as in a GGUF file: row after row */
    ASDSL_INTERLEAVED = 1, /* records of 16 rows, see kernels/layout.h */
    ASDSL_INTERLEAVED_4 = 2, /* records of 4 rows, see regroup.c: for asdsl_repack, no kernel reads them */
};

/* An operand of an operation: a matrix inside a buffer of the program's buffer table. */
struct asdsl_operand {
    uint32_t buffer; /* index into the program's buffer table; ASDSL_NO_BUFFER: operand absent */
    uint32_t type;   /* asdsl_type */
    uint64_t offset; /* bytes from the buffer's start; 64-byte aligned for weights and activations */
    uint32_t rows;   /* weights: outputs, of one expert where there are several. activations: capacity in rows */
    uint32_t cols;   /* weights: inputs. activations: width of one row */
    uint32_t stride; /* activations of type F32, I32: elements between rows (>= cols); weights: 0 */
    uint32_t layout; /* asdsl_layout; weights: INTERLEAVED, embed's also ROWS; everything else ROWS */
};
#define ASDSL_NO_BUFFER 0xffffffffu

/* One operation. kernels never see it: program.c resolves operands to addresses once. */
struct asdsl_op {
    uint32_t code;                    /* asdsl_op_code, see ops.h */
    uint32_t flags;                   /* asdsl_op_flags */
    uint32_t layer;                   /* model layer, for the KV cache and for messages */
    uint32_t reserved;                /* 0 */
    struct asdsl_operand operand[8];  /* roles per operation: ops.h */
    int32_t i[8];                     /* integers per operation: ops.h */
    float f[8];                       /* floats per operation: ops.h */
};

enum asdsl_op_flags {
    ASDSL_ROWS_OUTPUTS = 1, /* runs over the n_outputs gathered rows instead of the n_tokens rows */
};

/* What one pass runs on. C-owned, one per program, 64-byte aligned; TypeScript writes the first part before
 * asdsl_run and reads results after. Arrays lie at the offsets (bytes from the start of this struct). */
struct asdsl_params {
    int32_t n_tokens;           /* 1 .. max_tokens */
    int32_t n_outputs;          /* 0 .. max_outputs: rows that need logits */
    int32_t position;           /* KV position of the first token; must equal the KV length */
    int32_t top_k;              /* candidates wanted per output row, 0 .. max_top_k */
    int32_t max_tokens;         /* set by C and read only from here on */
    int32_t max_outputs;
    int32_t max_top_k;
    uint32_t bytes;             /* of the whole block */
    uint32_t tokens_offset;     /* int32 tokens[max_tokens] */
    uint32_t outputs_offset;    /* int32 outputs[max_outputs]: ascending indices into tokens */
    uint32_t stats_offset;      /* struct asdsl_row_stats stats[max_outputs], result */
    uint32_t candidates_offset; /* struct asdsl_candidate [max_outputs][max_top_k], result */
};

/* Result of top_k for one output row. Candidates are sorted by logit descending, ties by token ascending. */
struct asdsl_row_stats {
    double logsumexp; /* natural log of the sum of exp(logit) over the whole row */
    float max;        /* largest logit */
    int32_t argmax;   /* its token, the smallest id on a tie */
    int32_t n_candidates;
    int32_t n_not_finite; /* NaN or infinite logits seen in the row; 0 on any sound model */
};
struct asdsl_candidate {
    int32_t token;
    float logit;
};

struct asdsl_engine_options {
    int32_t n_threads; /* 0: one per physical core that this process may use, within its quota */
    int32_t level;     /* asdsl_level; AUTO: best of this CPU */
    int32_t spin_us;   /* how long workers spin between runs before they sleep; < 0: default */
    int32_t pin;       /* 1: pin workers where asdsl_topology says so (default), 0: leave placement to the system */
    uint32_t cpu_mask[32]; /* bit per logical CPU that workers keep to; all zero: any that this process may use */
    int32_t
        slow_percent; /* tests: the last worker takes so much longer for its share, as a slower core would; else 0 */
    int32_t stay_us; /* tests: passes of a few tokens are run as beside a busy process whatever else goes on here:
                        threads join and leave them, and stay so long (1 to 1000000); else 0 */
    int32_t force;     /* 1: `level` may be one that CPUID hides and asdsl_try_level has seen executing; else 0 */
};

/* How matrices are multiplied in passes of many tokens: EXACT to the bit as in passes of one, FAST with weights rounded
 * once more, to int8 per row and 256 inputs, where a pass has 128 tokens or more that do not all want logits; experts'
 * and those of rows of logits stay exact. FAST results depend on the level and on how tokens are dealt out to passes,
 * not on threads. */
enum asdsl_prefill {
    ASDSL_PREFILL_EXACT = 0,
    ASDSL_PREFILL_FAST = 1,
};

struct asdsl_program_options {
    int32_t max_tokens;  /* of one pass (micro-batch) */
    int32_t max_outputs; /* rows with logits of one pass */
    int32_t max_top_k;
    int32_t n_vocab; /* token ids are checked against this */
    int32_t prefill; /* asdsl_prefill */
};

struct asdsl_kv_options {
    int32_t n_layers;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t capacity; /* tokens */
    int32_t k_type;   /* ASDSL_F16, ASDSL_F32 or ASDSL_Q8_0: int8 with one scale for a token's head */
    int32_t v_type;
};

/* What a cache's content looks like from outside: chunks of chunk_tokens tokens and chunk_bytes bytes, as many as its
 * tokens need. Bytes of a cache with the same options but for the capacity, the same chunk_tokens and the same version
 * mean the same, in any process and on any machine of this byte order. */
struct asdsl_kv_state {
    uint64_t chunk_bytes;
    int32_t chunk_tokens; /* fewer than in other caches where the whole capacity is smaller */
    int32_t version;      /* of what the bytes mean */
};

struct asdsl_repack_job {
    uint32_t src_buffer, dst_buffer; /* handles */
    uint64_t src_offset, dst_offset; /* bytes */
    uint32_t type, rows, cols;
    uint32_t src_layout, dst_layout; /* one INTERLEAVED, the other ROWS or INTERLEAVED_4 */
    uint32_t reserved;               /* 0 */
};

/* Rows of one type to rows of another, by the quantisers of kernels/encode.h. */
struct asdsl_quantize_job {
    uint32_t src_buffer, dst_buffer; /* handles */
    uint32_t importance_buffer;      /* 0: every column counts the same */
    uint32_t src_type, dst_type;     /* any; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K */
    uint32_t rows, cols;
    uint32_t reserved; /* 0 */
    uint64_t src_offset, dst_offset, importance_offset; /* bytes; importance: F32 (cols), the square of a column's error
                                                           counts so many times. Not negative */
};

/* asdsl_engine_info: facts of this CPU and this engine. */
struct asdsl_info {
    char cpu[64]; /* brand string, NUL terminated */
    uint32_t levels; /* bit per asdsl_level usable here */
    int32_t level; /* chosen (asdsl_engine_info) or best (asdsl_cpu_info) */
    int32_t n_cores; /* logical CPUs this process may run on (affinity and quota) */
    int32_t n_physical; /* physical cores among them */
    int32_t n_performance; /* P-cores among them; all when the CPU is not hybrid */
    int32_t hybrid; /* 1: P- and E-cores */
    int32_t n_threads; /* of this engine, 0 from asdsl_cpu_info */
    int32_t cache_bytes[3]; /* L1d, L2, L3 of the first core */
    uint32_t n_barriers; /* at which this engine's threads have waited for each other, modulo 2^32; one thread: 0 */
};

enum asdsl_core_kind {
    ASDSL_CORE_UNKNOWN = 0, /* the system does not say: all alike */
    ASDSL_CORE_PERFORMANCE = 1,
    ASDSL_CORE_EFFICIENCY = 2,
};

/* A logical CPU. */
struct asdsl_core {
    int32_t id; /* the system's number */
    int32_t physical; /* the same for hardware threads of one core */
    int32_t package; /* socket */
    int32_t kind; /* asdsl_core_kind */
};

/* asdsl_topology: the logical CPUs that a process may use and where an engine's workers belong on them. */
struct asdsl_topology {
    double quota_cores; /* CPU time that the process gets, in cores; 0: no limit */
    int32_t n_cores; /* logical CPUs by affinity mask and cpuset */
    int32_t n_physical; /* physical cores among them */
    int32_t n_performance; /* P-cores among those; all when the CPU is not hybrid */
    int32_t n_workers; /* of an engine that is not told: one per physical core, within the quota */
    int32_t pinned; /* 1: each to its core; 0: the system places them, as others are placed on the same cores */
    int32_t n_teams; /* numbers of workers that are compared while running, ascending, n_workers the last: */
    int32_t team[4]; /* up to the end of a package's P-cores, of all P-cores, of all cores */
    int32_t reserved; /* 0 */
    struct asdsl_core cores[1024]; /* n_cores, in the order in which workers take them */
};

/* asdsl_engine_workers: one thread of an engine. */
struct asdsl_worker {
    int32_t core; /* that it is pinned to while it runs; -1: to none */
    /* Read back on the worker's own thread: logical CPUs that it may run on, and the first of them; 0 and -1 where the
     * system does not say. */
    int32_t n_allowed;
    int32_t allowed;
    int32_t takes_part[2]; /* 1: in the next run, of few tokens (decode) and of many (prefill) */
    float speed[2]; /* likewise, as measured; 1: the mean of all workers */
};

/* Exit code of a process whose asdsl_try_level met an instruction that its CPU does not have. */
enum asdsl_exit_code {
    ASDSL_EXIT_TRAPPED = 132, /* what a shell makes of SIGILL */
};

enum asdsl_probe_kind {
    ASDSL_PROBE_READ_BANDWIDTH = 0, /* bytes/s, all threads of the engine, plain streaming read of a 256 MiB buffer */
    ASDSL_PROBE_INT8_PEAK = 1, /* int8 multiply-accumulates/s, all threads, register operands, the engine's level */
};

/* What asdsl_count counts, in user mode. Virtual machines often have none of the hardware's. */
enum asdsl_counter {
    ASDSL_COUNT_INSTRUCTIONS = 0,
    ASDSL_COUNT_CYCLES = 1,
    ASDSL_COUNT_L1D_MISSES = 2, /* reads */
    ASDSL_COUNT_LLC_MISSES = 3, /* of the last cache */
    ASDSL_COUNT_PAGE_FAULTS = 4, /* the kernel's own count */
};

/* asdsl_buffer_pages: how a buffer's memory is kept now, in bytes; negative: the system does not say. */
struct asdsl_pages {
    double resident; /* in this process' page tables */
    double proportional; /* the same, each page divided by the number of processes that have it */
    double huge; /* of the resident ones, in pages of 2 MiB */
    double locked;
    double prefetched; /* by asdsl_buffer_prefetch, so far */
};

struct asdsl_abi {
    uint32_t version;
    uint32_t op_bytes, operand_bytes, params_bytes, stats_bytes, candidate_bytes;
    uint32_t engine_options_bytes, program_options_bytes, kv_options_bytes, kv_state_bytes, repack_job_bytes;
    uint32_t quantize_job_bytes;
    uint32_t info_bytes, core_bytes, topology_bytes, worker_bytes, pages_bytes;
    uint32_t n_op_codes;
};

/* ---- library ---- */
ASDSL_API void asdsl_abi(struct asdsl_abi *out);
/* JSON text, static: enums with names and numbers, structs with field offsets and sizes, operations with their
 * operand roles. A test compares it with src/native/abi.ts field by field. */
ASDSL_API const char *asdsl_describe(void);
ASDSL_API const char *asdsl_last_error(void); /* "" when nothing failed on this thread; never NULL */
ASDSL_API int32_t asdsl_last_status(void); /* its asdsl_status; what a constructor that returned 0 failed with */
ASDSL_API int32_t asdsl_cpu_info(struct asdsl_info *out);
/* root "": of this machine and the calling thread's affinity mask. Else of a Linux machine whose /proc and /sys are
 * copied below that folder; ASDSL_E_IO where no core is found in them. */
ASDSL_API int32_t asdsl_topology(const char *root, struct asdsl_topology *out);
/* Executes the dot product of a level that CPUID does not offer: AVXVNNI where the rest of it, AVX2, is there (virtual
 * machines hide AVX-VNNI on CPUs that have it). Returns ASDSL_OK if it ran. If it traps, the process ENDS with
 * ASDSL_EXIT_TRAPPED: call this in a child process made for it and nowhere else. Any other level: E_UNSUPPORTED. */
ASDSL_API int32_t asdsl_try_level(int32_t level);

/* ---- any handle ---- */
ASDSL_API int32_t asdsl_release(asdsl_handle handle); /* gives back the caller's reference; 0 is ignored */

/* ---- engine: a thread pool and a kernel table ---- */
ASDSL_API asdsl_handle asdsl_engine_create(const struct asdsl_engine_options *options);
ASDSL_API int32_t asdsl_engine_info(asdsl_handle engine, struct asdsl_info *out);
/* out[n_threads of the engine]. */
ASDSL_API int32_t asdsl_engine_workers(asdsl_handle engine, struct asdsl_worker *out);
ASDSL_API double asdsl_probe(asdsl_handle engine, int32_t kind);
/* Events on the engine's threads since the first call for this counter, which starts it and returns 0; worker 0 is the
 * thread of that call. ASDSL_E_UNSUPPORTED where the system does not count them; the text says why. */
ASDSL_API double asdsl_count(asdsl_handle engine, int32_t counter);

/* ---- buffers ---- */
ASDSL_API asdsl_handle asdsl_buffer_create(double bytes); /* zeroed, page aligned, huge pages where free */
/* Read-only map of a whole regular file. Where the file is cut short or cannot be read any more, the map reads as zeros
 * and every call that reads from it fails with ASDSL_E_IO. */
ASDSL_API asdsl_handle asdsl_buffer_map(const char *path);
/* Another handle of the same buffer, with a reference of its own: for another thread to use and to release. */
ASDSL_API asdsl_handle asdsl_buffer_share(asdsl_handle buffer);
ASDSL_API int32_t asdsl_buffer_check(asdsl_handle buffer); /* ASDSL_E_IO: what was read from this map may be zeros */
/* Begins to bring bytes of a map in, front to back, on threads of its own; once for a map. An operation of asdsl_run
 * waits until they have come to the end of its weights. */
ASDSL_API int32_t asdsl_buffer_prefetch(asdsl_handle buffer, double offset, double bytes);
ASDSL_API int32_t asdsl_buffer_lock(asdsl_handle buffer); /* keeps all of it in memory; ASDSL_E_MEMORY: refused */
ASDSL_API int32_t asdsl_buffer_pages(asdsl_handle buffer, struct asdsl_pages *out);
ASDSL_API void *asdsl_buffer_data(asdsl_handle buffer); /* valid until the last reference is gone */
ASDSL_API double asdsl_buffer_bytes(asdsl_handle buffer);

/* ---- weights ---- */
/* Bytes of a (rows, cols) matrix; negative with an error where type and shape do not go together. Activation
 * types: bytes of `rows` rows as quantize writes them. */
ASDSL_API double asdsl_tensor_bytes(int32_t type, int32_t layout, int32_t rows, int32_t cols);
ASDSL_API int32_t asdsl_activation_type(int32_t weight_type); /* the ACT type that goes with a weight type */
/* Lossless, both ways, all threads. */
ASDSL_API int32_t asdsl_repack(asdsl_handle engine, const struct asdsl_repack_job *job);

/* The least error in the weighted sum of squares that a bounded search finds, all threads; the same bytes at every
 * level and with any number of threads. Returns how many weights were not finite: they count as 0. */
ASDSL_API double asdsl_quantize(asdsl_handle engine, const struct asdsl_quantize_job *job);

/* ---- KV cache ---- */
ASDSL_API asdsl_handle asdsl_kv_create(const struct asdsl_kv_options *options);
ASDSL_API int32_t asdsl_kv_length(asdsl_handle kv);
ASDSL_API int32_t asdsl_kv_truncate(asdsl_handle kv, int32_t length); /* 0 .. length; longer is an error */
ASDSL_API asdsl_handle asdsl_kv_fork(asdsl_handle kv); /* an independent copy */
ASDSL_API double asdsl_kv_bytes(asdsl_handle kv); /* memory in use now */
ASDSL_API int32_t asdsl_kv_state(asdsl_handle kv, struct asdsl_kv_state *out);
/* Copies bytes [offset, offset + bytes) of the chunks that hold tokens, one behind the other, into `out`. */
ASDSL_API int32_t asdsl_kv_read(asdsl_handle kv, double offset, uint8_t *out, int32_t bytes);
/* The reverse, into a cache without tokens (ASDSL_E_STATE otherwise): memory comes as it is needed. Any bytes are safe,
 * those of another layout give nonsense. */
ASDSL_API int32_t asdsl_kv_write(asdsl_handle kv, double offset, const uint8_t *in, int32_t bytes);
/* A cache without tokens comes to hold the `length` tokens whose chunks were written. */
ASDSL_API int32_t asdsl_kv_restore(asdsl_handle kv, int32_t length);

/* ---- programs ---- */
/* Copies and validates ops and the buffer table once. NULL-free: any bad record is an error that names it:
 * "op 17 matmul: weights have 2048 inputs, activations 1536". */
ASDSL_API asdsl_handle asdsl_program_create(asdsl_handle engine, const struct asdsl_op *ops, int32_t n_ops,
                                            const asdsl_handle *buffers, int32_t n_buffers,
                                            const struct asdsl_program_options *options);
/* Valid until the program's last reference is gone. */
ASDSL_API struct asdsl_params *asdsl_program_params(asdsl_handle program);
/* Runs ops [first, first + count) on all threads. kv may be 0 for a range without KV operations. The KV length
 * becomes position + n_tokens when the append of the cache's last layer was in the range and nothing failed. */
ASDSL_API int32_t asdsl_run(asdsl_handle program, asdsl_handle kv, int32_t first, int32_t count);
ASDSL_API int32_t asdsl_cancel(asdsl_handle program); /* the running or next asdsl_run ends with ASDSL_E_CANCELLED */
/* The kernel slot that op `index` last ran in, as "q4_1.gemv.avx2"; "" if it has not run. Static text. */
ASDSL_API const char *asdsl_op_slot(asdsl_handle program, int32_t index);
/* Nanoseconds that worker 0 spent in op `index`, barriers included, summed over all runs since create. */
ASDSL_API double asdsl_op_time(asdsl_handle program, int32_t index);

#endif
