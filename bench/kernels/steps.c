/* steps.c: instructions counted one by one: a child process makes the call and this one steps through it (ptrace).
 * Exact where hardware counters are hidden, as on most virtual machines. Linux on x86-64.
 */
#include "variants.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static void count_at(struct steps *out, uintptr_t address) {
    int32_t low = 0, high = out->n;
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (out->at[middle].address < address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < out->n && out->at[low].address == address) {
        out->at[low].count++;
        return;
    }
    if (out->n == MAX_STEPS) abort();
    for (int32_t i = out->n++; i > low; i--) out->at[i] = out->at[i - 1];
    out->at[low].address = address;
    out->at[low].count = 1;
}

/* The child stops itself before the call and after it. */
static void child(counted_fn *run, void *context, int32_t which) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(1);
    raise(SIGSTOP);
    run(context, which);
    raise(SIGUSR1);
    _exit(0);
}

bool count_steps(counted_fn *run, void *context, int32_t which, struct steps *out) {
    int status = 0;
    struct user_regs_struct registers;
    out->n = 0;
    pid_t pid = fork();
    if (pid == 0) child(run, context, which);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) return false;
    for (;;) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0 || waitpid(pid, &status, 0) != pid) return false;
        if (!WIFSTOPPED(status)) return false;
        if (WSTOPSIG(status) == SIGUSR1) break;
        if (WSTOPSIG(status) != SIGTRAP || ptrace(PTRACE_GETREGS, pid, NULL, &registers) != 0) return false;
        count_at(out, (uintptr_t)registers.rip);
    }
    kill(pid, SIGKILL);
    return waitpid(pid, &status, 0) == pid;
}
