/* arm_cores.c: names of cores from texts as kernels write them.
 *
 * Oracle: the layout of c_show() in the kernel's arch/arm64/kernel/cpuinfo.c, and the numbers of asm/cputype.h for the
 * cores of known machines (Raspberry Pi 4; RK3588: four A55, four A76; an Altra server).
 */
#include "../arm_cores.h"
#include "check.h"
#include <string.h>

static char text[1 << 16];

static void put_core(const char *implementer, const char *part) {
    size_t used = strlen(text);
    snprintf(
        text + used, sizeof text - used,
        "processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd evtstrm crc32 cpuid asimddp\nCPU implementer\t: %s\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 3\n\n",
        implementer, part);
}

static void expect(const char *wanted) {
    char name[64] = "";
    bool known = arm_core_names(text, name);
    CHECK(known == (wanted != NULL) && (!known || strcmp(name, wanted) == 0), "%s: \"%s\", not \"%s\"",
          known ? "known" : "unknown", name, wanted ? wanted : "");
    text[0] = 0;
}

int main(void) {
    for (int i = 0; i < 4; i++) put_core("0x41", "0xd08");
    expect("Cortex-A72");
    for (int i = 0; i < 8; i++) put_core("0x41", i < 4 ? "0xd05" : "0xd0b");
    expect("Cortex-A55 + Cortex-A76");
    for (size_t cut = 400; cut < 1000; cut += 7) { /* a text that ends anywhere behind the first of many cores */
        for (int i = 0; i < 80; i++) put_core("0x41", "0xd0c");
        text[cut] = 0;
        expect("Neoverse-N1");
    }
    put_core("0x41", "0xfff");
    expect(NULL);
    put_core("0x41", "0xd08");
    put_core("0x99", "0xd08");
    expect(NULL);
    put_core("0x41", "0xd46"), put_core("0x41", "0xd47"), put_core("0x41", "0xd48"), put_core("0x41", "0xd4d");
    put_core("0x41", "0xd4e"), put_core("0x41", "0xd80");
    expect(NULL); /* more than 63 bytes */
    expect(NULL); /* nothing */
    put_core("0xc0", "0xac3");
    expect("AmpereOne");
    return check_report("arm_cores");
}
