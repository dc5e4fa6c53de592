"""The gate's parts for captures, forks, threads, parsers, the C API and numerics."""

from parts import Part, catch

PARSERS = ("entry", "bundle", "shapes", "tune", "tuned")


def fuzz(parser, small_s, full_s, executions):
    """libFuzzer for so long and, at full scale, until so many executions."""
    script = ('if [ "$KILN_GATE_SCALE" = full ]; then exec "$0" "$1" "$2" %d %d; else exec "$0" "$1" "$2" %d; fi'
              % (full_s, executions, small_s))
    return Part("C13", f"fuzzing of the parser of {parser} files",
                ("bash", "-c", script, "{source}/tests/fuzz/run_fuzzer", "{build}", parser),
                small_s, full_s + executions // 30_000, tree="fuzz")


def python(case):
    return ("python3", "{source}/tests/repo/abi_test.py", case)


def sanitize(promise, tool, spec, small_s, full_s):
    return Part(promise, f"{spec} under compute-sanitizer {tool}",
                ("{source}/tests/gate/sanitize", "{build}/tests/runtime/gpu_test", tool, spec), small_s, full_s,
                needs=("gpu",))


API = {"KILN_LIBRARY": "{build}/runtime/libkiln.so"}
TSAN = {"TSAN_OPTIONS": "halt_on_error=1"}

PARTS = [
    Part("C8", "hits are compiled again and compared", catch("runtime/runtime_test", "[verify]"), 1, 1),
    Part("C8", "launches on four streams of each GPU", catch("runtime/gpu_test", "[bits]"), 10, 30, needs=("gpu",)),
    Part("C9", "captures on the fake driver", catch("runtime/runtime_test", "[capture]"), 2, 2),
    Part("C9", "captures in all modes, prepared or not", catch("runtime/gpu_test", "[capture]"), 30, 300, needs=("gpu",)),
    Part("C10", "forks during compiles, loads and launches", catch("runtime/fork_test", "[fork]"), 10, 120),
    Part("C11", "64 threads on two devices under the thread sanitizer", catch("runtime/stress_test", "[stress]"),
         30, 640, tree="tsan", environment=TSAN),
    Part("C11", "64 threads on two devices, as users run it", catch("runtime/stress_test", "[stress]"), 6, 605),
    Part("C11", "8 threads that alternate between two GPUs", catch("runtime/gpu_test", "[devices]"), 20, 120,
         needs=("gpu",)),
    Part("C13", "every parser under mutations, memory metered", catch("fuzz/mutation_test", "[fuzz]"), 12, 320),
    *(fuzz(parser, 10, 3600, 100_000_000 if parser == "entry" else 0) for parser in PARSERS),
    Part("C14", "hostile tuned tables against the rules of tiles", catch("runtime/runtime_test", "[hostile]"), 6, 60),
    Part("C14", "tiles that hostile tables got accepted, on a GPU", catch("runtime/gpu_test", "[hostile]"), 20, 300,
         needs=("gpu",)),
    sanitize("C14", "memcheck", "[hostile]", 60, 600),
    Part("C15", "exported symbols", python("Exports"), 2, 2, environment=API),
    Part("C15", "the header under compilers and standards", python("Header"), 4, 4),
    Part("C15", "layouts, values and prototypes of version 0.1", python("Layouts"), 4, 4),
    Part("C15", "a program of version 0.1 with this library", python("OldPrograms"), 2, 2, environment=API),
    Part("C15", "the last tag's library against this one", python("AgainstTheLastTag"), 60, 120, environment=API),
    Part("C16", "NaN, infinities, tails and padding", catch("runtime/gpu_test", "[numerics]"), 60, 120, needs=("gpu",)),
    *(sanitize("C16", tool, spec, 30, 60) for tool in ("memcheck", "initcheck", "synccheck")
      for spec in ("[numerics]", "[bits]", "[capture]")),
]
