#!/usr/bin/env bash
# Whole processes beside each other by hyperfine, from start to the last token of a greedy text: `asdsl run`, node-llama-cpp,
# and llama.cpp's own programs where they lie beside the llama-bench that $ASDSL_PEER_LLAMA_CPP or $ASDSL_PEER_IK names.
# Each is run for 1 token and for N: start, loading and prompt are in both, so between them lie N - 1 decoded tokens.
#
#   bench/hyperfine.sh MODEL.gguf [N=128] [THREADS=2] [RUNS=10] [PROMPT]
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -lt 1 || $1 == -* ]]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
if ! command -v hyperfine >/dev/null; then
    echo "hyperfine is not on PATH: apt-get install hyperfine, cargo install hyperfine or brew install hyperfine" >&2
    exit 1
fi
model=$(realpath "$1") n=${2:-128} threads=${3:-2} runs=${4:-10}
prompt=${5:-Once upon a time, in a small village by the sea, there lived}
bun=$PWD/node_modules/.bin/bun
arguments=()

# program NAME COMMAND...: its two runs; @N@ stands for the number of tokens.
program() {
    local name=$1 word command=""
    shift
    for word in "$@"; do command+=" $(printf '%q' "$word")"; done
    arguments+=(--command-name "$name n=1" "${command//@N@/1}" --command-name "$name n=$n" "${command//@N@/$n}")
}

# beside LLAMA_BENCH NAME...: the first of these programs in its folder, if any.
beside() {
    local folder name
    folder=$(dirname "$1")
    shift
    for name in "$@"; do [[ -x $folder/$name ]] && { echo "$folder/$name"; return; }; done
    true
}

# llama NAME LLAMA_BENCH: the completion program of a llama.cpp tree. A warm-up would be time for nothing.
llama() {
    local path
    [[ -n $2 ]] || return 0
    path=$(beside "$2" llama-completion llama-cli)
    [[ -n $path ]] || return 0
    program "$1" "$path" -m "$model" -t "$threads" -n @N@ -p "$prompt" --temp 0 --ignore-eos --no-warmup "${@:3}"
}

program asdsl "$bun" src/cli/main.ts run -m "$model" -t "$threads" -n @N@ --temp 0 --ignore-eos --spec off -p "$prompt"
if [[ -d bench/peers/node_modules/node-llama-cpp ]]; then
    program node-llama-cpp node bench/peers/generate.mjs "$model" "$threads" @N@ "$prompt"
fi
llama llama.cpp "${ASDSL_PEER_LLAMA_CPP:-}" -no-cnv
llama ik_llama.cpp "${ASDSL_PEER_IK:-}" --log-disable # a log file in this folder
llama "ik_llama.cpp -rtr" "${ASDSL_PEER_IK:-}" --log-disable -rtr

results=$(mktemp)
trap 'rm -f "$results"' EXIT
hyperfine --shell=none --warmup=1 --runs="$runs" --export-csv "$results" "${arguments[@]}" >&2
# command,mean,stddev,median,...: a program's two lines follow each other.
awk -F, -v n="$n" '
    NR == 1 { printf "| %-18s | %12s | %12s | %10s |\n| :----------------- | -----------: | -----------: | ---------: |\n",
                     "program", "1 token, s", n " tokens, s", "decode t/s"; next }
    NR % 2 == 0 { one = $4; next }
    { name = $1; sub(/ n=[0-9]+$/, "", name)
      printf "| %-18s | %12.3f | %12.3f | %10.1f |\n", name, one, $4, (n - 1) / ($4 - one) }' "$results"
