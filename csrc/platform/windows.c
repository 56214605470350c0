/* windows.c: platform.h on 64-bit Windows 10 and later.
 *
 * A core's number is 64 x its processor group + its number in the group; a thread is in one group at a time.
 */
#define WIN32_LEAN_AND_MEAN
#include "../platform.h"
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACK_BYTES ((size_t)2 << 20) /* of the engine's threads */
#define GRANULE ((uint64_t)65536)     /* addresses are given out in multiples of it */

/* ---- errors ---- */
static _Thread_local char error_text[512];

const char *platform_error(void) { return error_text; }

static bool refused_for(const char *why) {
    snprintf(error_text, sizeof error_text, "%s", why);
    return false;
}

/* In the user's language, as UTF-8. */
static bool refused(const char *what, DWORD reason) {
    wchar_t wide[200];
    char text[400];
    DWORD flags = FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS | FORMAT_MESSAGE_MAX_WIDTH_MASK;
    DWORD n = FormatMessageW(flags, NULL, reason, 0, wide, 200, NULL);
    while (n && (wide[n - 1] == L' ' || wide[n - 1] == L'.')) n--;
    int bytes = n ? WideCharToMultiByte(CP_UTF8, 0, wide, (int)n, text, sizeof text - 1, NULL, NULL) : 0;
    text[bytes] = 0;
    snprintf(error_text, sizeof error_text, "%s%s (error %lu)", what, bytes ? text : "refused", (unsigned long)reason);
    return false;
}

/* ---- memory ---- */
void *pages_allocate(size_t bytes) {
    if (bytes == 0 || bytes > SIZE_MAX / 4) return NULL;
    return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void pages_free(void *pages, size_t bytes) {
    (void)bytes;
    if (pages) VirtualFree(pages, 0, MEM_RELEASE);
}

void pages_sparse(void *pages, size_t bytes) { /* there are no huge pages */
    (void)pages;
    (void)bytes;
}

double platform_memory_bytes(void) {
    MEMORYSTATUSEX memory = {.dwLength = sizeof memory};
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION job;
    double bytes = GlobalMemoryStatusEx(&memory) ? (double)memory.ullTotalPhys : 0;
    if (!QueryInformationJobObject(NULL, JobObjectExtendedLimitInformation, &job, sizeof job, NULL)) return bytes;
    bool limited = job.BasicLimitInformation.LimitFlags & JOB_OBJECT_LIMIT_JOB_MEMORY && job.JobMemoryLimit > 0;
    return limited && (double)job.JobMemoryLimit < bytes ? (double)job.JobMemoryLimit : bytes;
}

/* ---- files ---- */
static HANDLE open_wide(const wchar_t *path, uint64_t *bytes) {
    LARGE_INTEGER size = {0};
    DWORD attributes = GetFileAttributesW(path);
    if (attributes != INVALID_FILE_ATTRIBUTES && attributes & FILE_ATTRIBUTE_DIRECTORY) {
        refused_for("is a folder, not a file");
        return INVALID_HANDLE_VALUE;
    }
    HANDLE file = CreateFileW(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                              FILE_ATTRIBUTE_NORMAL, NULL);
    if (file == INVALID_HANDLE_VALUE) {
        refused("", GetLastError());
        return file;
    }
    const char *wrong = GetFileType(file) != FILE_TYPE_DISK ? "is not a regular file"
                        : !GetFileSizeEx(file, &size)       ? "has no size"
                        : size.QuadPart == 0                ? "is empty"
                                                            : NULL;
    if (wrong) {
        refused_for(wrong);
        CloseHandle(file);
        return INVALID_HANDLE_VALUE;
    }
    *bytes = (uint64_t)size.QuadPart;
    return file;
}

/* A regular file of at least one byte; INVALID_HANDLE_VALUE: refused. */
static HANDLE open_regular(const char *path, uint64_t *bytes) {
    HANDLE file = INVALID_HANDLE_VALUE;
    int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    wchar_t *wide = n > 0 ? malloc((size_t)n * sizeof *wide) : NULL;
    if (wide && MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, n) == n) {
        file = open_wide(wide, bytes);
    } else {
        refused_for("is no path in UTF-8");
    }
    free(wide);
    return file;
}

/* Bytes of a file that are a view of it. A view ends with its last page, and nothing else can begin before the next
 * granule: the rest, less than a granule, is read into ordinary pages behind the view, which have FILE_PADDING to
 * spare. */
static uint64_t viewed_bytes(uint64_t bytes) { return bytes / GRANULE * GRANULE; }

static bool read_rest(HANDLE file, uint8_t *rest, uint64_t offset, uint64_t bytes) {
    LARGE_INTEGER from = {.QuadPart = (LONGLONG)offset};
    DWORD done = 0, before;
    if (!SetFilePointerEx(file, from, NULL, FILE_BEGIN)) return false;
    if (bytes && (!ReadFile(file, rest, (DWORD)bytes, &done, NULL) || done != bytes)) return false;
    return VirtualProtect(rest, 2 * GRANULE, PAGE_READONLY, &before);
}

/* View and rest beside each other: a free range is found by reserving it, and taken in two steps. Another thread may be
 * faster in between: then the next range. */
static uint8_t *map_beside(HANDLE file, HANDLE section, uint64_t bytes) {
    uint64_t viewed = viewed_bytes(bytes);
    for (int attempt = 0; attempt < 64; attempt++) {
        uint8_t *at = VirtualAlloc(NULL, (size_t)(viewed + 2 * GRANULE), MEM_RESERVE, PAGE_NOACCESS);
        if (!at) return NULL;
        VirtualFree(at, 0, MEM_RELEASE);
        if (viewed && !MapViewOfFileEx(section, FILE_MAP_READ, 0, 0, (size_t)viewed, at)) continue;
        uint8_t *rest = VirtualAlloc(at + viewed, 2 * GRANULE, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
        if (rest && read_rest(file, rest, viewed, bytes - viewed)) return at;
        DWORD reason = GetLastError();
        if (rest) VirtualFree(rest, 0, MEM_RELEASE);
        if (viewed) UnmapViewOfFile(at);
        SetLastError(reason);
        if (rest) return NULL;
    }
    return NULL;
}

bool file_map(const char *path, struct mapped_file *out) {
    uint64_t bytes = 0;
    HANDLE file = open_regular(path, &bytes);
    if (file == INVALID_HANDLE_VALUE) return false;
    HANDLE section = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
    uint8_t *data = section && bytes <= SIZE_MAX / 2 ? map_beside(file, section, bytes) : NULL;
    DWORD reason = GetLastError();
    if (section) CloseHandle(section);
    CloseHandle(file);
    if (!data) {
        char what[80];
        snprintf(what, sizeof what, "the system refused to map %llu bytes: ", (unsigned long long)bytes);
        return refused(what, reason);
    }
    *out = (struct mapped_file){.data = data, .bytes = bytes};
    return true;
}

void file_unmap(const struct mapped_file *file) {
    uint64_t viewed = viewed_bytes(file->bytes);
    if (viewed) UnmapViewOfFile(file->data);
    VirtualFree((uint8_t *)file->data + viewed, 0, MEM_RELEASE);
}

size_t file_read_text(const char *path, char *out, size_t out_bytes) {
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(out, 1, out_bytes - 1, file) : 0;
    if (file) fclose(file);
    out[n] = 0;
    return n;
}

void file_fetch_begins(const struct mapped_file *file, uint64_t offset, uint64_t bytes) { /* no huge pages of files */
    (void)file;
    (void)offset;
    (void)bytes;
}

void file_fetch_ends(const struct mapped_file *file) { (void)file; }

/* Reads it in one go: faults would read 32 KB at a time. Pages read so are in the process' working set. */
bool file_fetch(const struct mapped_file *file, uint64_t offset, uint64_t bytes) {
    WIN32_MEMORY_RANGE_ENTRY range = {(uint8_t *)file->data + offset, (SIZE_T)bytes};
    const volatile uint8_t *data = file->data;
    PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0); /* advice */
    for (uint64_t at = offset; at < offset + bytes; at += 4096) (void)data[at];
    return true;
}

bool file_is_lost(const struct mapped_file *file) {
    (void)file;
    return false;
}

bool pages_lock(const void *pages, uint64_t bytes) {
    SIZE_T least, most; /* of the working set: what is locked has to fit into the least */
    HANDLE process = GetCurrentProcess();
    if (VirtualLock((void *)(uintptr_t)pages, (SIZE_T)bytes)) return true;
    if (!GetProcessWorkingSetSize(process, &least, &most) ||
        !SetProcessWorkingSetSize(process, least + (SIZE_T)bytes, most + (SIZE_T)bytes)) {
        return refused("", GetLastError());
    }
    return VirtualLock((void *)(uintptr_t)pages, (SIZE_T)bytes) ? true : refused("", GetLastError());
}

void pages_count(const void *pages, uint64_t bytes, struct page_counts *out) {
    (void)pages;
    (void)bytes;
    *out = (struct page_counts){-1, -1, -1, -1};
}

/* ---- clock ---- */
double clock_ns(void) {
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return 1e9 / (double)per_second.QuadPart * (double)ticks.QuadPart;
}

/* ---- event counters: none that a program may use without rights of its own ---- */
int64_t event_begin(enum event_kind kind) {
    (void)kind;
    refused_for("Windows gives programs no event counters");
    return -1;
}

double event_count(int64_t event) { return (double)event; }

void event_end(int64_t event) { (void)event; }

/* ---- threads ---- */
static DWORD WINAPI thread_main(void *argument) {
    struct thread *thread = argument;
    /* Not one to save energy on, which is how threads of a window in the background end up on efficiency cores. */
    THREAD_POWER_THROTTLING_STATE full_speed = {.Version = THREAD_POWER_THROTTLING_CURRENT_VERSION,
                                                .ControlMask = THREAD_POWER_THROTTLING_EXECUTION_SPEED};
    SetThreadInformation(GetCurrentThread(), ThreadPowerThrottling, &full_speed, sizeof full_speed);
    thread->main(thread->argument);
    return 0;
}

bool thread_start(struct thread *thread, void (*main)(void *argument), void *argument) {
    *thread = (struct thread){.main = main, .argument = argument};
    HANDLE handle = CreateThread(NULL, STACK_BYTES, thread_main, thread, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    thread->id = (uintptr_t)handle;
    return handle ? true : refused("", GetLastError());
}

void thread_join(struct thread *thread) {
    WaitForSingleObject((HANDLE)thread->id, INFINITE);
    CloseHandle((HANDLE)thread->id);
}

void thread_yield(void) { SwitchToThread(); }

double thread_cpu_ns(void) { return -1; } /* GetThreadTimes counts in steps of 16 ms */

void word_wait(atomic_uint *word, unsigned seen) { WaitOnAddress((volatile void *)word, &seen, sizeof seen, INFINITE); }

void word_wake_all(atomic_uint *word) { WakeByAddressAll(word); }

_Static_assert(sizeof(SRWLOCK) <= sizeof(struct mutex), "struct mutex");

void mutex_lock(struct mutex *mutex) { AcquireSRWLockExclusive((SRWLOCK *)(void *)mutex); }
void mutex_unlock(struct mutex *mutex) { ReleaseSRWLockExclusive((SRWLOCK *)(void *)mutex); }

/* ---- cores ---- */
double platform_quota_cores(void) {
    JOBOBJECT_CPU_RATE_CONTROL_INFORMATION job;
    DWORD capped = JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP;
    if (!QueryInformationJobObject(NULL, JobObjectCpuRateControlInformation, &job, sizeof job, NULL)) return 0;
    if ((job.ControlFlags & capped) != capped) return 0;
    return (double)job.CpuRate / 10000 * (double)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
}

/* What the system says of its cores or caches: records of different lengths one after another; free() it. NULL:
 * nothing. */
static uint8_t *processor_records(LOGICAL_PROCESSOR_RELATIONSHIP kind, DWORD *bytes) {
    *bytes = 0;
    GetLogicalProcessorInformationEx(kind, NULL, bytes);
    uint8_t *records = *bytes ? malloc(*bytes) : NULL;
    if (records && GetLogicalProcessorInformationEx(kind, (void *)records, bytes)) return records;
    free(records);
    return NULL;
}

/* The calling thread's own mask for its group; in other groups every core, unless the process is restricted in its own.
 */
static KAFFINITY allowed_in(WORD group) {
    GROUP_AFFINITY own;
    DWORD_PTR process = 0, all = 0;
    if (!GetThreadGroupAffinity(GetCurrentThread(), &own)) return ~(KAFFINITY)0;
    if (own.Group == group) return own.Mask;
    return GetProcessAffinityMask(GetCurrentProcess(), &process, &all) && process != all ? 0 : ~(KAFFINITY)0;
}

/* One physical core: its logical ones into table[], which is indexed by id. */
static void note_core(const PROCESSOR_RELATIONSHIP *processor, int32_t physical, BYTE fastest, struct core *table) {
    const GROUP_AFFINITY *group = processor->GroupMask;
    KAFFINITY mask = group->Mask & allowed_in(group->Group);
    for (int32_t bit = 0; bit < 64; bit++) {
        int32_t id = 64 * group->Group + bit;
        if (!(mask >> bit & 1) || id >= MAX_CORES || physical >= MAX_CORES) continue;
        table[id] =
            (struct core){id, physical, 0, processor->EfficiencyClass == fastest ? CORE_PERFORMANCE : CORE_EFFICIENCY};
    }
}

int32_t platform_cores(struct core out[MAX_CORES]) {
    DWORD bytes;
    uint8_t *records = processor_records(RelationProcessorCore, &bytes);
    int32_t n = 0, physical = 0;
    BYTE fastest = 0;
    for (int32_t i = 0; i < MAX_CORES; i++) out[i].id = -1;
    for (int pass = 0; records && pass < 2; pass++) {
        for (DWORD at = 0; at < bytes;) {
            const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *record = (const void *)(records + at);
            const PROCESSOR_RELATIONSHIP *processor = &record->Processor;
            if (pass == 0 && processor->EfficiencyClass > fastest) fastest = processor->EfficiencyClass;
            if (pass == 1) note_core(processor, physical++, fastest, out);
            at += record->Size;
        }
    }
    free(records);
    for (int32_t i = 0; i < MAX_CORES; i++)
        if (out[i].id >= 0) out[n++] = out[i];
    if (n == 0) out[n++] = (struct core){0, 0, 0, CORE_UNKNOWN};
    return n;
}

bool affinity_get(struct affinity *out) {
    GROUP_AFFINITY own;
    memset(out, 0, sizeof *out);
    if (!GetThreadGroupAffinity(GetCurrentThread(), &own) || own.Group >= MAX_CORES / 64) return false;
    out->bits[own.Group] = own.Mask;
    return out->known = true;
}

bool affinity_set(const struct affinity *affinity) {
    for (WORD group = 0; affinity->known && group < MAX_CORES / 64; group++) {
        GROUP_AFFINITY wanted = {.Mask = (KAFFINITY)affinity->bits[group], .Group = group};
        if (wanted.Mask) return SetThreadGroupAffinity(GetCurrentThread(), &wanted, NULL);
    }
    return false;
}

bool thread_pin(int32_t core) {
    struct affinity one = {.known = true};
    if (core < 0 || core >= MAX_CORES) return false;
    one.bits[core / 64] = UINT64_C(1) << core % 64;
    return affinity_set(&one);
}

/* ---- the CPU ---- */
uint32_t platform_cpu_features(void) {
    uint32_t features = 0;
#if defined(__aarch64__)
    if (IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE)) features |= CPU_DOTPROD;
    if (IsProcessorFeaturePresent(PF_ARM_V82_FP16_INSTRUCTIONS_AVAILABLE)) features |= CPU_FP16;
    if (IsProcessorFeaturePresent(PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE)) features |= CPU_I8MM;
#endif
    return features;
}

bool platform_cpu_name(char name[64]) {
    (void)name;
    return false;
}

void platform_caches(int32_t bytes[3]) {
    DWORD all;
    uint8_t *records = processor_records(RelationCache, &all);
    for (DWORD at = 0; records && at < all;) {
        const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *record = (const void *)(records + at);
        const CACHE_RELATIONSHIP *cache = &record->Cache;
        bool of_first = cache->GroupMask.Group == 0 && cache->GroupMask.Mask & 1;
        if (of_first && cache->Type != CacheInstruction && cache->Level >= 1 && cache->Level <= 3) {
            bytes[cache->Level - 1] = cache->CacheSize <= INT32_MAX ? (int32_t)cache->CacheSize : INT32_MAX;
        }
        at += record->Size;
    }
    free(records);
}
