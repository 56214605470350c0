/* arm_cores.c: the table of cores, and the two lines of /proc/cpuinfo that name one.
 *
 * A core says of itself, in its main ID register (MIDR_EL1), who designed it and the number that it has there. Sources:
 * Arm's Technical Reference Manuals and the kernel's asm/cputype.h.
 */
#include "arm_cores.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARM = 0x41, QUALCOMM = 0x51, APPLE = 0x61, AMPERE = 0xc0 };

static const struct {
    long implementer, part;
    const char *name;
} cores[] = {
    {ARM, 0xd03, "Cortex-A53"},  {ARM, 0xd05, "Cortex-A55"},  {ARM, 0xd07, "Cortex-A57"},  {ARM, 0xd08, "Cortex-A72"},
    {ARM, 0xd09, "Cortex-A73"},  {ARM, 0xd0a, "Cortex-A75"},  {ARM, 0xd0b, "Cortex-A76"},  {ARM, 0xd0c, "Neoverse-N1"},
    {ARM, 0xd0d, "Cortex-A77"},  {ARM, 0xd40, "Neoverse-V1"}, {ARM, 0xd41, "Cortex-A78"},  {ARM, 0xd44, "Cortex-X1"},
    {ARM, 0xd46, "Cortex-A510"}, {ARM, 0xd47, "Cortex-A710"}, {ARM, 0xd48, "Cortex-X2"},   {ARM, 0xd49, "Neoverse-N2"},
    {ARM, 0xd4d, "Cortex-A715"}, {ARM, 0xd4e, "Cortex-X3"},   {ARM, 0xd4f, "Neoverse-V2"}, {ARM, 0xd80, "Cortex-A520"},
    {ARM, 0xd81, "Cortex-A720"}, {ARM, 0xd82, "Cortex-X4"},   {QUALCOMM, 0x001, "Oryon"},  {AMPERE, 0xac3, "AmpereOne"},
    {APPLE, 0x022, "Icestorm"},  {APPLE, 0x023, "Firestorm"},
};

static const char *name_of(long implementer, long part) {
    for (size_t i = 0; i < sizeof cores / sizeof *cores; i++) {
        if (cores[i].implementer == implementer && cores[i].part == part) return cores[i].name;
    }
    return NULL;
}

/* The number behind the next `key`, which *at moves to, if the line is whole; negative: there is none. */
static long next_number(const char **at, const char *key) {
    const char *found = strstr(*at, key), *colon = found ? strchr(found, ':') : NULL;
    if (!colon || !strchr(colon, '\n')) return -1;
    *at = colon;
    return strtol(colon + 1, NULL, 0);
}

bool arm_core_names(const char *cpuinfo, char name[64]) {
    const char *at = cpuinfo, *seen[64];
    size_t used = 0, n_seen = 0;
    for (;;) {
        long implementer = next_number(&at, "CPU implementer"), part = next_number(&at, "CPU part");
        if (implementer < 0 || part < 0) return used > 0;
        const char *core = name_of(implementer, part);
        size_t i = 0;
        while (i < n_seen && seen[i] != core) i++;
        if (!core) return false;
        if (i < n_seen) continue;
        int n = snprintf(name + used, 64 - used, "%s%s", used ? " + " : "", core);
        if (n < 0 || (size_t)n >= 64 - used) return false;
        used += (size_t)n;
        seen[n_seen++] = core;
    }
}
