// The child process of bench/depth.ts for llama.cpp and ik_llama.cpp (-DPEER_IK): one model, one context, tests on demand,
// so that a context is filled once and turns of a second alternate between programs. Tokens and passes as llama-bench's.
//
//   c++ -O2 -I PEER/include -I PEER/ggml/include [-DPEER_IK] llama-depth.cpp -L PEER/build/... -lllama -lggml[-base] -o NAME
//   NAME MODEL n_threads n_ctx f16|q8_0 flash(0|1) repack(0|1) fill_threads
//
// stdin: "decode DEPTH N", "prompt N"; stdout: "ready", then nanoseconds for each line. The first decode at a depth fills
// the context up to it, with fill_threads: beside other work one thread gets on, several wait for each other.
#include "llama.h"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static llama_context *context;
static int n_vocab, n_past, n_threads, fill_threads;

static void truncate(int length) {
#ifdef PEER_IK
    llama_kv_cache_seq_rm(context, -1, length, -1);
#else
    llama_memory_seq_rm(llama_get_memory(context), -1, length, -1);
#endif
    n_past = std::min(n_past, length);
}

static void evaluate(int n) {
    std::vector<llama_token> tokens(n);
    for (auto &token : tokens) token = std::rand() % n_vocab;
#ifdef PEER_IK
    llama_batch batch = llama_batch_get_one(tokens.data(), n, n_past, 0);
#else
    llama_batch batch = llama_batch_get_one(tokens.data(), n);
#endif
    if (llama_decode(context, batch) != 0) std::fprintf(stderr, "llama_decode failed\n"), std::exit(1);
    llama_synchronize(context);
    n_past += n;
}

// llama-bench's batches.
static void fill(int length) {
    while (n_past < length) evaluate(std::min(2048, length - n_past));
}

static long long decode(int depth, int n) {
    truncate(depth);
    llama_set_n_threads(context, fill_threads, fill_threads);
    fill(depth);
    llama_set_n_threads(context, n_threads, n_threads);
    auto since = std::chrono::steady_clock::now();
    for (int i = 0; i < n; i++) evaluate(1);
    return (std::chrono::steady_clock::now() - since).count();
}

static long long prompt(int n) {
    truncate(0);
    auto since = std::chrono::steady_clock::now();
    fill(n);
    return (std::chrono::steady_clock::now() - since).count();
}

int main(int argc, char **argv) {
    if (argc != 8) return std::fprintf(stderr, "MODEL n_threads n_ctx TYPE flash repack fill_threads\n"), 2;
    n_threads = std::atoi(argv[2]), fill_threads = std::atoi(argv[7]);
    llama_backend_init();
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_model_params model_params = llama_model_default_params();
#ifdef PEER_IK
    model_params.repack_tensors = std::atoi(argv[6]) != 0;
#endif
    llama_model *model = llama_model_load_from_file(argv[1], model_params);
    if (!model) return std::fprintf(stderr, "%s does not load\n", argv[1]), 1;
    llama_context_params params = llama_context_default_params();
    params.n_threads = params.n_threads_batch = n_threads;
    params.n_ctx = std::atoi(argv[3]);
    params.n_batch = 2048, params.n_ubatch = 512;
    params.type_k = params.type_v = std::strcmp(argv[4], "q8_0") == 0 ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
#ifdef PEER_IK
    params.flash_attn = std::atoi(argv[5]) != 0;
    n_vocab = llama_n_vocab(model);
#else
    params.flash_attn_type = std::atoi(argv[5]) ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
#endif
    context = llama_init_from_model(model, params);
    if (!context) return std::fprintf(stderr, "no context\n"), 1;
    std::puts("ready");
    std::fflush(stdout);
    for (char line[256]; std::fgets(line, sizeof line, stdin);) {
        int depth = 0, n = 0;
        if (std::sscanf(line, "decode %d %d", &depth, &n) == 2) {
            std::printf("%lld\n", decode(depth, n));
        } else if (std::sscanf(line, "prompt %d", &n) == 1) {
            std::printf("%lld\n", prompt(n));
        } else {
            return std::fprintf(stderr, "not understood: %s", line), 2;
        }
        std::fflush(stdout);
    }
    return 0;
}
