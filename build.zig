//! build.zig: how the C sources in csrc/ become one shared library, and the programs that test them.
//!
//! Owns compilers' flags, the instruction-set levels and the sanitizers' variants. It knows nothing of Bun, models or
//! where zig comes from: scripts/setup.mjs and src/native/build.ts call it.
//!
//! Every source of csrc/kernels/ that is not listed in `common_kernels` is compiled once per level. A level is a CPU
//! model of its own module: zig ignores -m flags of a C source without a word (ziglang/zig #9196), so the sources check
//! by ASDSL_NEED_* that their level arrived (csrc/kernels/simd.h).

const std = @import("std");
const builtin = @import("builtin");

/// The build system changes with every version of zig: one is supported at a time.
const zig_version = "0.17.0";

pub const build = if (std.mem.eql(u8, builtin.zig_version_string, zig_version))
    buildAll
else
    @compileError("asdsl is built by zig " ++ zig_version ++ " exactly, and this is zig " ++
        builtin.zig_version_string ++ ". `python3 -m pip install ziglang==" ++ zig_version ++
        "` has it, and `npm run setup` puts it into .tools/.");

const Compile = std.Build.Step.Compile;
const Step = std.Build.Step;
const LazyPath = std.Build.LazyPath;
const x86 = std.Target.x86;
const aarch64 = std.Target.aarch64;
const Features = std.Target.Cpu.Feature.Set;

/// Kernel sources that know no level: tables, layouts, the oracle.
const common_kernels = [_][]const u8{ "table", "layout", "repack", "reference" };

const warnings = [_][]const u8{
    "-Wall",               "-Wextra",              "-Wshadow", "-Wundef", "-Wvla",
    "-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror",
};

/// -ffp-contract=off: levels agree to the bit, so every fused multiply-add is written out.
const language = [_][]const u8{
    "-std=gnu11",        "-fPIC",           "-fvisibility=hidden",
    "-ffp-contract=off", "-fno-math-errno", "-D_GNU_SOURCE",
};

const Level = struct {
    name: []const u8,
    model: ?*const std.Target.Cpu.Model, // null: the target's own
    add: Features = .empty,
    /// What csrc/cpu.c asks the CPU for.
    asks: Features = .empty,
    /// What it does not ask for must not be used.
    remove: Features = .empty,
    /// The same level for gcc (sanitizers).
    gcc: []const []const u8 = &.{},
    macros: []const []const u8,
};

const asks_avx2 = x86.featureSet(&.{ .avx2, .fma, .f16c });
const asks_avxvnni = x86.featureSet(&.{ .avx2, .fma, .f16c, .avxvnni });
const asks_avx512 = x86.featureSet(&.{ .avx2, .fma, .f16c, .avx512f, .avx512bw, .avx512dq, .avx512vl, .avx512vnni });
const beside_avx2 = x86.featureSet(&.{ .bmi, .bmi2, .lzcnt, .movbe });
const beside_avx512 = x86.featureSet(&.{ .bmi, .bmi2, .lzcnt, .movbe, .avx512cd });
const gcc_avx2 = [_][]const u8{ "-mavx2", "-mfma", "-mf16c" };
const gcc_avx512 = gcc_avx2 ++ [_][]const u8{
    "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni",
};

const portable: Level = .{ .name = "portable", .model = null, .macros = &.{"-DASDSL_NEED_PORTABLE"} };
const avx2: Level = .{
    .name = "avx2",
    .model = &x86.cpu.x86_64_v3,
    .asks = asks_avx2,
    .remove = beside_avx2,
    .gcc = &gcc_avx2,
    .macros = &.{"-DASDSL_NEED_AVX2"},
};
const avxvnni: Level = .{
    .name = "avxvnni",
    .model = &x86.cpu.x86_64_v3,
    .add = x86.featureSet(&.{.avxvnni}),
    .asks = asks_avxvnni,
    .remove = beside_avx2,
    .gcc = &(gcc_avx2 ++ [_][]const u8{"-mavxvnni"}),
    .macros = &.{"-DASDSL_NEED_AVXVNNI"},
};
const avx512: Level = .{
    .name = "avx512",
    .model = &x86.cpu.x86_64_v4,
    .add = x86.featureSet(&.{.avx512vnni}),
    .asks = asks_avx512,
    .remove = beside_avx512,
    .gcc = &gcc_avx512,
    .macros = &.{"-DASDSL_NEED_AVX512"},
};
/// Level avxvnni with the EVEX encoding of its instruction, for tests on CPUs that have AVX-512 VNNI and no AVX-VNNI.
const avxvnni_evex: Level = .{
    .name = "avxvnni",
    .model = &x86.cpu.x86_64_v4,
    .add = x86.featureSet(&.{.avx512vnni}),
    .asks = asks_avx512,
    .remove = beside_avx512,
    .gcc = &gcc_avx512,
    .macros = &.{ "-DASDSL_NEED_AVX512", "-DASDSL_EVEX_AS_AVXVNNI" },
};
/// The dot product of ARMv8.2-A on top of what every aarch64 has.
const neon: Level = .{
    .name = "neon",
    .model = &aarch64.cpu.generic,
    .add = aarch64.featureSet(&.{.dotprod}),
    .asks = aarch64.featureSet(&.{.dotprod}),
    .gcc = &.{"-march=armv8.2-a+dotprod"},
    .macros = &.{"-DASDSL_NEED_NEON"},
};

const glibc_version: std.SemanticVersion = .{ .major = 2, .minor = 17, .patch = 0 };

const CrossTarget = struct {
    name: []const u8,
    query: std.Target.Query,

    fn init(name: []const u8, arch: std.Target.Cpu.Arch, os: std.Target.Os.Tag, abi: std.Target.Abi) CrossTarget {
        return .{ .name = name, .query = .{
            .cpu_arch = arch,
            .os_tag = os,
            .abi = abi,
            .glibc_version = if (abi == .gnu and os == .linux) glibc_version else null,
            .os_version_min = if (os == .macos) .{ .semver = .{ .major = 11, .minor = 0, .patch = 0 } } else null,
            .cpu_model = .baseline,
        } };
    }
};
const cross_targets = [_]CrossTarget{
    .init("linux-x64", .x86_64, .linux, .gnu),
    .init("linux-x64-musl", .x86_64, .linux, .musl),
    .init("linux-arm64", .aarch64, .linux, .gnu),
    .init("macos-arm64", .aarch64, .macos, .none),
    .init("macos-x64", .x86_64, .macos, .none),
    .init("windows-x64", .x86_64, .windows, .gnu),
};

const Sanitizer = enum { none, undefined, address, thread };

const Variant = struct {
    optimize: std.builtin.Optimize = .fast,
    sanitizer: Sanitizer = .none,
    evex: bool = false,
    /// For a debugger, where nothing is optimised.
    debug_info: bool = true,
    /// Of matmul tiles (csrc/kernels/matmul.h); null: what was measured best.
    tile_columns: ?u8 = null,

    fn flags(variant: Variant, b: *std.Build) []const []const u8 {
        const own: []const []const u8 = switch (variant.sanitizer) {
            .none => if (variant.optimize == .debug) &.{} else &.{ "-O3", "-fno-sanitize=undefined" },
            // -O0: clang needs a minute a file to optimise the checks of unrolled tiles.
            .undefined => &.{ "-O0", "-g" },
            // Undefined behaviour in the same run: half the time of two. -g1 has the lines that a report names; for the
            // rest of -g gcc needs half as long again.
            .address => &.{
                "-O1",
                "-g1",
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=all",
                "-fno-omit-frame-pointer",
                "-Wno-psabi",
            },
            .thread => &.{ "-O1", "-g1", "-fsanitize=thread", "-Wno-psabi" },
        };
        const tile: []const []const u8 = if (variant.tile_columns) |n| &.{b.fmt("-DASDSL_TILE_COLUMNS={d}", .{n})} else &.{};
        return concat(b, &.{ &language, &warnings, own, tile });
    }

    /// csrc/test/levels.h: level avxvnni is built as its twin.
    fn testFlags(variant: Variant, b: *std.Build) []const []const u8 {
        const evex: []const []const u8 = if (variant.evex) &.{"-DASDSL_EVEX_AS_AVXVNNI"} else &.{};
        return concat(b, &.{ variant.flags(b), evex });
    }

    /// The levels that a target's library has.
    fn levels(variant: Variant, arch: std.Target.Cpu.Arch) []const Level {
        if (arch == .aarch64) return &.{ portable, neon };
        if (arch != .x86_64) return &.{portable};
        return if (variant.evex) &.{ portable, avx2, avxvnni_evex, avx512 } else &.{ portable, avx2, avxvnni, avx512 };
    }
};

fn buildAll(b: *std.Build) void {
    // Never the CPU of the machine that builds. glibc 2.17 is what any Linux of the last ten years has.
    const arch = b.graph.host.result.cpu.arch;
    const os = b.graph.host.result.os.tag;
    // A machine whose C library is musl runs a Bun that is linked to it.
    const abi: ?std.Target.Abi = if (os != .linux) null else if (b.graph.host.result.abi.isMusl()) .musl else .gnu;
    const target = b.standardTargetOptions(.{ .default_target = .{
        .cpu_arch = arch,
        .os_tag = os,
        .abi = abi,
        .glibc_version = if (abi == .gnu) glibc_version else null,
        .cpu_model = .baseline,
    } });
    const optimize = b.option(std.builtin.Optimize, "optimize", "Default: fast") orelse .fast;
    const evex_library = b.option(bool, "evex-vnni", "Build libasdsl_evex: level avxvnni in AVX-512's encoding (tests)") orelse false;

    const tile_columns = b.option(u8, "tile-columns", "Width of matmul tiles, one for all types and levels: 2-6, 8, 10, 12 (bench/gemm.ts)");

    const sources: Sources = .find(b);

    const variant: Variant = .{ .optimize = optimize, .evex = evex_library, .tile_columns = tile_columns };
    const levels = levelObjects(b, sources, target, variant);
    const library_name = if (evex_library) "asdsl_evex" else "asdsl";
    b.installArtifact(sharedLibrary(b, library_name, engineModule(b, sources, target, variant, levels)));

    const cross = b.step("cross", "Install the library of every supported system below cross/");
    const foreign = b.option(std.builtin.Optimize, "foreign", "cross: of libraries that are not for Linux with glibc (default: as -Doptimize)") orelse optimize;
    addCross(b, cross, sources, optimize, foreign);

    const objects = b.step("objects", "Install each level's kernels as an object file (a test looks at their instructions)");
    for (levels) |object| {
        const path = b.fmt("objects/{s}.o", .{object.name});
        objects.dependOn(&b.addInstallFile(object.getEmittedBin(), path).step);
    }

    const programs = b.step("programs", "Install the C tests of any target as programs (scripts/test-arm64.ts runs them)");
    for (testPrograms(b, sources, target, variant)) |program| {
        programs.dependOn(&b.addInstallArtifact(program, .{}).step);
    }

    // Tests and benches run here: level avxvnni in the encoding that this CPU has.
    const host = b.graph.host.result.cpu;
    const evex = arch == .x86_64 and x86.featureSetHas(host.features, .avx512vnni) and
        !x86.featureSetHas(host.features, .avxvnni);

    const bench = b.step("bench", "Install the program of bench/layout.ts (Linux on x86-64)");
    if (target.result.cpu.arch == .x86_64 and target.result.os.tag == .linux) {
        bench.dependOn(&b.addInstallArtifact(layoutBench(b, sources, target, .{ .optimize = optimize, .evex = evex }), .{}).step);
    } else {
        bench.dependOn(&b.addFail("bench/kernels has intrinsics of x86-64 and counts instructions as Linux lets it").step);
    }

    const steps = .{
        .{ "test", "Run the C tests", Sanitizer.none },
        .{ "ubsan", "Run the C tests with UndefinedBehaviorSanitizer", Sanitizer.undefined },
        .{ "asan", "Run the C tests with AddressSanitizer and UndefinedBehaviorSanitizer (system C compiler)", Sanitizer.address },
        .{ "tsan", "Run the C tests of threads with ThreadSanitizer (system C compiler)", Sanitizer.thread },
    };
    inline for (steps) |entry| {
        const name, const description, const sanitizer = entry;
        const step = b.step(name, description);
        const tested: Variant = .{
            .optimize = if (sanitizer == .none) optimize else .debug,
            .sanitizer = sanitizer,
            .evex = evex,
        };
        switch (sanitizer) {
            .none, .undefined => {
                var runs: std.ArrayList(*Step.Run) = .empty;
                for (testPrograms(b, sources, target, tested)) |program| append(b, &runs, b.addRunArtifact(program));
                addTestRuns(step, runs.items);
            },
            .address, .thread => addTestRuns(step, systemTests(b, sources, arch, tested)),
        }
    }
}

/// Paths relative to the build root, in alphabetical order.
const Sources = struct {
    common: []const []const u8,
    kernels: []const []const u8,
    tests: []const []const u8,

    fn find(b: *std.Build) Sources {
        var common: std.ArrayList([]const u8) = .empty;
        var kernels: std.ArrayList([]const u8) = .empty;
        for (list(b, "csrc")) |path| append(b, &common, path);
        for (list(b, "csrc/kernels")) |path| append(b, if (isCommonKernel(path)) &common else &kernels, path);
        return .{ .common = common.items, .kernels = kernels.items, .tests = list(b, "csrc/test") };
    }

    /// What csrc/platform.h is on a system.
    fn platform(os: std.Target.Os.Tag) []const []const u8 {
        return switch (os) {
            .linux => &.{ "csrc/platform/linux.c", "csrc/platform/posix.c", "csrc/platform/posix_files.c" },
            .macos => &.{ "csrc/platform/macos.c", "csrc/platform/posix.c", "csrc/platform/posix_files.c" },
            .windows => &.{"csrc/platform/windows.c"},
            else => std.process.fatal("csrc/platform/ has no file for {t}", .{os}),
        };
    }

    fn isCommonKernel(path: []const u8) bool {
        for (common_kernels) |prefix| {
            if (std.mem.startsWith(u8, std.fs.path.basename(path), prefix)) return true;
        }
        return false;
    }

    fn list(b: *std.Build, folder: []const u8) []const []const u8 {
        const io = b.graph.io;
        b.dependOnDirectoryContents(b.path(folder));
        var dir = b.root.root_dir.handle.openDir(io, b.pathJoin(&.{ b.root.sub_path, folder }), .{ .iterate = true }) catch |err|
            std.process.fatal("{s} cannot be read: {t}", .{ folder, err });
        defer dir.close(io);
        var files: std.ArrayList([]const u8) = .empty;
        var iterator = dir.iterate();
        while (iterator.next(io) catch |err| std.process.fatal("{s} cannot be listed: {t}", .{ folder, err })) |entry| {
            if (entry.kind == .file and std.mem.endsWith(u8, entry.name, ".c")) {
                append(b, &files, b.fmt("{s}/{s}", .{ folder, entry.name }));
            }
        }
        std.mem.sort([]const u8, files.items, {}, struct {
            fn lessThan(_: void, a: []const u8, c: []const u8) bool {
                return std.mem.lessThan(u8, a, c);
            }
        }.lessThan);
        return files.items;
    }
};

/// Kernels that tests and benches compare with and the library has no use for; null where their instructions are foreign.
const oracle_sources = [_][]const u8{"csrc/oracle/matmul_fma.c"};

fn oracleLibrary(b: *std.Build, target: std.Build.ResolvedTarget, variant: Variant) ?*Compile {
    if (target.result.cpu.arch != .x86_64) return null;
    const module = cModule(b, levelTarget(b, target, avx2), variant);
    module.addCSourceFiles(.{ .files = &oracle_sources, .flags = variant.flags(b) });
    return b.addLibrary(.{ .name = "oracle", .linkage = .static, .root_module = module });
}

/// The kernels, once per level: an object each, or a static library where zig cannot make one object of several.
fn levelObjects(b: *std.Build, sources: Sources, target: std.Build.ResolvedTarget, variant: Variant) []const *Compile {
    var objects: std.ArrayList(*Compile) = .empty;
    for (variant.levels(target.result.cpu.arch)) |level| {
        const module = cModule(b, levelTarget(b, target, level), variant);
        module.addCSourceFiles(.{
            .files = sources.kernels,
            .flags = concat(b, &.{
                variant.flags(b), level.macros, &.{b.fmt("-DASDSL_LEVEL_NAME={s}", .{level.name})},
            }),
        });
        const name = b.fmt("kernels_{s}", .{level.name});
        append(b, &objects, if (target.result.ofmt == .elf)
            b.addObject(.{ .name = name, .root_module = module })
        else
            b.addLibrary(.{ .name = name, .linkage = .static, .root_module = module }));
    }
    return objects.items;
}

/// A module with the whole engine in it.
fn engineModule(
    b: *std.Build,
    sources: Sources,
    target: std.Build.ResolvedTarget,
    variant: Variant,
    levels: []const *Compile,
) *std.Build.Module {
    const root = cModule(b, target, variant);
    root.addCSourceFiles(.{
        .files = sources.common,
        .flags = concat(b, &.{ variant.flags(b), &.{levelList(b, variant.levels(target.result.cpu.arch))} }),
    });
    root.addCSourceFiles(.{ .files = Sources.platform(target.result.os.tag), .flags = variant.flags(b) });
    // WaitOnAddress and its like, of which kernel32 knows nothing.
    if (target.result.os.tag == .windows) root.linkSystemLibrary("api-ms-win-core-synch-l1-2-0", .{});
    for (levels) |level| if (level.kind == .obj) root.addObject(level) else root.linkLibrary(level);
    return root;
}

/// csrc/kernels/table.c: the levels of a build beside portable, which every build has.
fn levelList(b: *std.Build, levels: []const Level) []const u8 {
    var list: []const u8 = "-DASDSL_LEVELS(X)=";
    for (levels) |level| {
        if (level.model == null) continue;
        const code = std.ascii.allocUpperString(b.graph.arena, level.name) catch @panic("OOM");
        list = b.fmt("{s}X({s},{s})", .{ list, code, level.name });
    }
    return list;
}

fn sharedLibrary(b: *std.Build, name: []const u8, root: *std.Build.Module) *Compile {
    const library = b.addLibrary(.{ .name = name, .linkage = .dynamic, .root_module = root });
    // Windows probes large stack frames by a function of it; elsewhere nothing needs it, and it is compiled for 20 s.
    library.bundle_compiler_rt = root.resolved_target.?.result.os.tag == .windows;
    library.bundle_ubsan_rt = false;
    library.link_z_defs = true;
    return library;
}

/// Each library as src/native/build.ts expects it on its system: cross/linux-x64/libasdsl.so and so on.
fn addCross(
    b: *std.Build,
    step: *Step,
    sources: Sources,
    optimize: std.builtin.Optimize,
    foreign: std.builtin.Optimize,
) void {
    for (cross_targets) |cross| {
        const target = b.resolveTargetQuery(cross.query);
        const has_glibc = target.result.os.tag == .linux and target.result.abi == .gnu;
        const variant: Variant = .{ .optimize = if (has_glibc) optimize else foreign, .debug_info = false };
        const root = engineModule(b, sources, target, variant, levelObjects(b, sources, target, variant));
        const install = b.addInstallArtifact(sharedLibrary(b, "asdsl", root), .{
            .dest_dir = .{ .override = .{ .custom = b.fmt("cross/{s}", .{cross.name}) } },
            .pdb_dir = .disabled,
            .implib_dir = .disabled,
        });
        step.dependOn(&install.step);
    }
}

fn cModule(b: *std.Build, target: std.Build.ResolvedTarget, variant: Variant) *std.Build.Module {
    return b.createModule(.{
        .target = target,
        .optimize = variant.optimize,
        .link_libc = true,
        .pic = true,
        .strip = variant.sanitizer == .none and (variant.optimize != .debug or !variant.debug_info),
        .sanitize_c = if (variant.sanitizer == .undefined) .full else .off,
    });
}

fn levelTarget(b: *std.Build, target: std.Build.ResolvedTarget, level: Level) std.Build.ResolvedTarget {
    const model = level.model orelse return target;
    var query = target.query;
    query.cpu_model = .{ .explicit = model };
    query.cpu_features_add = level.add;
    query.cpu_features_sub = level.remove;
    return b.resolveTargetQuery(query);
}

fn testPrograms(
    b: *std.Build,
    sources: Sources,
    target: std.Build.ResolvedTarget,
    variant: Variant,
) []const *Compile {
    var programs: std.ArrayList(*Compile) = .empty;
    const engine = b.addLibrary(.{
        .name = b.fmt("asdsl_{t}", .{variant.sanitizer}),
        .linkage = .static,
        .root_module = engineModule(b, sources, target, variant, levelObjects(b, sources, target, variant)),
    });
    const oracle = oracleLibrary(b, target, variant);
    for (sources.tests) |path| {
        const module = cModule(b, target, variant);
        module.addCSourceFile(.{ .file = b.path(path), .flags = variant.testFlags(b) });
        module.linkLibrary(engine);
        if (oracle) |library| module.linkLibrary(library);
        append(b, &programs, b.addExecutable(.{ .name = std.fs.path.stem(path), .root_module = module }));
    }
    return programs.items;
}

/// bench/kernels: prototypes of other layouts, once per vector level and number of rows, beside the engine's kernels.
fn layoutBench(b: *std.Build, sources: Sources, target: std.Build.ResolvedTarget, variant: Variant) *Compile {
    const root = engineModule(b, sources, target, variant, levelObjects(b, sources, target, variant));
    root.addCSourceFiles(.{
        .files = &.{ "bench/kernels/main.c", "bench/kernels/variants.c", "bench/kernels/steps.c", "bench/kernels/rows_pack.c" },
        .flags = variant.testFlags(b),
    });
    root.linkLibrary(oracleLibrary(b, target, variant).?);
    for (variant.levels(target.result.cpu.arch)) |level| {
        if (level.model == null) continue;
        for ([_][]const u8{ "4", "8" }) |rows| {
            const module = cModule(b, levelTarget(b, target, level), variant);
            module.addCSourceFile(.{ .file = b.path("bench/kernels/rows_matmul.c"), .flags = concat(b, &.{
                variant.flags(b), level.macros,
                &.{
                    b.fmt("-DASDSL_LEVEL_NAME={s}", .{level.name}), b.fmt("-DROWS={s}", .{rows}),
                },
            }) });
            root.addObject(b.addObject(.{ .name = b.fmt("rows_{s}_{s}", .{ rows, level.name }), .root_module = module }));
        }
    }
    const program = b.addExecutable(.{ .name = "layout_bench", .root_module = root });
    program.pie = false; // an instruction's address is its place in the file's disassembly
    return program;
}

/// zig has no runtime of AddressSanitizer, and compiles that of ThreadSanitizer from C++ for minutes: both come from the
/// system's C compiler. It needs ten seconds and more for many a kernel: those that this CPU cannot run are left out.
fn systemTests(b: *std.Build, sources: Sources, arch: std.Target.Cpu.Arch, variant: Variant) []const *Step.Run {
    const flags = variant.flags(b);
    var levels: std.ArrayList(Level) = .empty;
    for (variant.levels(arch)) |level| {
        if (b.graph.host.result.cpu.features.isSuperSetOf(level.asks)) append(b, &levels, level);
    }
    const common_flags = concat(b, &.{ flags, &.{levelList(b, levels.items)} });
    var objects: std.ArrayList(LazyPath) = .empty;
    for (sources.common) |path| append(b, &objects, systemObject(b, path, common_flags));
    for (Sources.platform(b.graph.host.result.os.tag)) |path| {
        append(b, &objects, systemObject(b, path, flags));
    }
    if (arch == .x86_64) for (oracle_sources) |path| {
        append(b, &objects, systemObject(b, path, concat(b, &.{ flags, avx2.gcc })));
    };
    for (levels.items) |level| {
        const level_flags = concat(b, &.{
            flags, level.gcc, level.macros, &.{b.fmt("-DASDSL_LEVEL_NAME={s}", .{level.name})},
        });
        for (sources.kernels) |path| append(b, &objects, systemObject(b, path, level_flags));
    }
    var runs: std.ArrayList(*Step.Run) = .empty;
    for (sources.tests) |path| {
        const name = std.fs.path.stem(path);
        // Tests of kernels have one thread: nothing for ThreadSanitizer to find, in minutes.
        if (variant.sanitizer == .thread and std.mem.startsWith(u8, name, "kernels_")) continue;
        const link = b.addSystemCommand(&.{"cc"});
        link.setName(b.fmt("cc {s}", .{name}));
        link.addArg(if (variant.sanitizer == .address) "-fsanitize=address,undefined" else "-fsanitize=thread");
        link.addFileArg(systemObject(b, path, variant.testFlags(b)));
        for (objects.items) |object| link.addFileArg(object);
        link.addArgs(&.{ "-lpthread", "-lm", "-o" });
        const program = link.addOutputFileArg(name);
        const run = b.addRunFile(program);
        run.setName(b.fmt("run {s} ({t})", .{ name, variant.sanitizer }));
        append(b, &runs, run);
    }
    return runs.items;
}

/// Tests of kernels have one thread and run side by side: of programs that write to the terminal themselves zig runs one
/// at a time. If one fails, zig shows what it printed; if it succeeds, it ended as csrc/test/check.h has it. The other
/// tests run before, each alone: beside another program, threads that wait for one another need a minute instead of one
/// second (seen once).
fn addTestRuns(step: *Step, runs: []const *Step.Run) void {
    for (runs) |run| {
        step.dependOn(&run.step);
        if (!isOfKernels(run)) continue;
        run.expectStdOutMatch(", 0 failures\n");
        run.has_side_effects = true; // or it would not run again before it changes
        for (runs) |other| if (!isOfKernels(other)) run.step.dependOn(&other.step);
    }
}

fn isOfKernels(run: *const Step.Run) bool {
    return std.mem.find(u8, run.step.name, "kernels_") != null;
}

fn systemObject(b: *std.Build, path: []const u8, flags: []const []const u8) LazyPath {
    const compile = b.addSystemCommand(&.{"cc"});
    compile.setName(b.fmt("cc {s}", .{path}));
    compile.addArgs(flags);
    compile.addArg("-MMD");
    compile.addArg("-MF");
    _ = compile.addDepFileOutputArg("deps.d");
    compile.addArg("-c");
    compile.addFileArg(b.path(path));
    compile.addArg("-o");
    return compile.addOutputFileArg(b.fmt("{s}.o", .{std.fs.path.stem(path)}));
}

fn concat(b: *std.Build, parts: []const []const []const u8) []const []const u8 {
    return std.mem.concat(b.graph.arena, []const u8, parts) catch @panic("OOM");
}

fn append(b: *std.Build, array_list: anytype, item: anytype) void {
    array_list.append(b.graph.arena, item) catch @panic("OOM");
}
